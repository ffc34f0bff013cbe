//! The words of the command line, as typed: [`crate::request`] turns them into what the engine is asked for.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use engine::device::AdapterChoice;
use engine::samplers::{Method, Schedule, Spacing};

use crate::failure::{Code, Failure, one_line};
use crate::sampler_names::{parse_sampler, parse_schedule, parse_spacing};

/// Text to image on any GPU.
///
/// photogram turns words into pictures with WGSL compute shaders on any GPU, or on the CPU through a software driver.
#[derive(Debug, Parser)]
#[command(name = "photogram", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  photogram generate -p \"3D glossy emoji of a red apple\" -o apple.png
  photogram generate -m path/to/sd15 -p \"a lighthouse at dusk\" -n \"blurry\" --steps 25 -o out.png
  photogram devices

Exit codes:
  0 done                     5 out of memory
  1 a check failed           6 no GPU, or GPU lost
  2 wrong flag or path       7 numbers not finite
  3 malformed file           8 cannot write the result
  4 not supported           70 a bug      130 interrupted")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw a picture from a prompt.
    Generate(Box<GenerateArgs>),
    /// List adapters (GPUs and software drivers) and say which one `auto` takes.
    ///
    /// `auto` prefers a discrete GPU to an integrated one, and any GPU to a software driver.
    Devices(DevicesArgs),
    /// Say what a checkpoint is and whether photogram can run it.
    ///
    /// Lists its family, parts, tensors, dtypes and bytes, and what is missing. Only headers are read, so that a file of many
    /// gigabytes takes no longer than a small one.
    Inspect(InspectArgs),
    /// Say where the time goes: milliseconds, GFLOP/s and GB/s of every kernel and layer.
    ///
    /// Runs each part of a picture's making and times every dispatch on the adapter: text encoders, what is computed once for a
    /// prompt, one step of the denoiser, the decoder. Speeds are compared with what a large matrix product and a large sum
    /// reach on the same adapter.
    Profile(ProfileArgs),
    /// Find the fastest variant of each kernel on this adapter; later runs use what was found.
    ///
    /// Times every variant of the products, convolutions and norms that a picture of this size takes, and compares each with
    /// its reference: one that is wrong is never chosen. What was chosen is kept in the folder of caches (PHOTOGRAM_CACHE names
    /// another one), for this adapter, driver and version of the kernels. Exits with 1 if a variant is wrong.
    Tune(TuneArgs),
    /// Check this adapter's results against references.
    ///
    /// Compares every variant of every kernel with its reference on the CPU, or a recorded PyTorch run with ours stage by
    /// stage. Exits with 1 if a result is wrong. Kernels take half a minute on a software driver.
    Validate(ValidateArgs),
}

/// Words of `generate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  The built-in model draws 128x128 emoji; its prompts are a style and a thing:
    photogram generate -p \"blob emoji of a cat face\" -o cat.png
  Stable Diffusion 1.x, 2.x or XL, from a diffusers folder or a single file:
    photogram generate -m path/to/sd15 -p \"a lighthouse at dusk\" -n \"blurry\" -W 512 -H 512 \\
        --steps 25 --cfg-scale 7 -s 42 --sampler dpm++2m --schedule karras -o out.png
  SDXL with its refiner:
    photogram generate -m sd_xl_base.safetensors --refiner sd_xl_refiner.safetensors -p \"a lighthouse\"
  From another picture:
    photogram generate -m v1-5.safetensors -p \"an oil painting\" --init-img photo.png --strength 0.6
  Ten pictures, seeds 42 to 51, out_0.png to out_9.png:
    photogram generate -p \"3D glossy emoji of a rocket\" -b 10 -o out.png

The same seed, model, adapter and driver give the same file. A PNG holds its settings in the text
`parameters`, as the A1111 web UI writes them.")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) source: ModelArgs,

    /// Model that does the last steps, such as SDXL's refiner
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub(crate) refiner: Option<PathBuf>,

    /// Part of the noise schedule after which --refiner takes over, between 0 and 1 [default: 0.8]
    #[arg(long, value_name = "NUMBER", help_heading = "Model", value_parser = parse_number)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) refiner_start: Option<f64>,

    /// What the model predicts: eps (the noise) or v (the velocity) [default: what its scheduler says]
    #[arg(long, value_enum, help_heading = "Model", hide_possible_values = true)]
    pub(crate) prediction: Option<PredictionArg>,

    /// What the picture shows
    #[arg(short, long, value_name = "TEXT", help_heading = "Picture", allow_hyphen_values = true)]
    pub(crate) prompt: String,

    /// What the picture shall not show; needs --cfg-scale above 1
    #[arg(short, long, value_name = "TEXT", help_heading = "Picture", allow_hyphen_values = true)]
    pub(crate) negative_prompt: Option<String>,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    /// Picture to start from (PNG, JPEG or WebP), stretched to --width x --height where these are given
    #[arg(short, long, value_name = "FILE", help_heading = "Picture")]
    pub(crate) init_img: Option<PathBuf>,

    /// How far to go from --init-img: above 0 (hardly) to 1 (it hardly matters) [default: 0.75]
    #[arg(long, value_name = "NUMBER", help_heading = "Picture", value_parser = parse_number)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) strength: Option<f64>,

    /// Denoising steps: more take longer and change less and less [default: 20; 25 for the built-in model]
    #[arg(long, value_name = "COUNT", help_heading = "Sampling", value_parser = parse_count)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) steps: Option<usize>,

    /// Take back a part of the contrast that guidance adds: 0 (nothing) to 1; about 0.7 for zero-terminal-SNR models
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, help_heading = "Sampling")]
    #[arg(value_parser = parse_number, allow_negative_numbers = true, hide_default_value = true)]
    pub(crate) guidance_rescale: f64,

    /// Seed of the noise; a negative one is replaced by a random one, which is printed
    #[arg(short, long, value_name = "NUMBER", default_value_t = 42, help_heading = "Sampling")]
    #[arg(value_parser = parse_seed, allow_negative_numbers = true)]
    pub(crate) seed: i64,

    /// Sampler: ddim, euler, euler_a, dpm++2m or pndm [default: the model's own]
    #[arg(long, alias = "sampling-method", value_name = "NAME", help_heading = "Sampling")]
    #[arg(value_parser = parse_sampler)]
    pub(crate) sampler: Option<&'static Method>,

    /// Spacing of the noise levels: discrete or karras; not for ddim and pndm [default: the model's own]
    #[arg(long, alias = "scheduler", value_name = "NAME", help_heading = "Sampling")]
    #[arg(value_parser = parse_schedule)]
    pub(crate) schedule: Option<Schedule>,

    /// Timesteps that are visited: leading, trailing or linspace; trailing for Turbo models [default: the model's own]
    #[arg(long, value_name = "NAME", help_heading = "Sampling")]
    #[arg(value_parser = parse_spacing)]
    pub(crate) timestep_spacing: Option<Spacing>,

    /// Whose noise: cpu as diffusers and ComfyUI draw it, or cuda as the A1111 web UI does
    #[arg(long, value_enum, default_value_t, help_heading = "Sampling", hide_possible_values = true)]
    pub(crate) rng: RngArg,

    /// Initial noise from a safetensors file: one f32 tensor [1, C, h, w], or the one named noise or latents
    #[arg(long, value_name = "FILE", help_heading = "Sampling")]
    pub(crate) latents: Option<PathBuf>,

    /// Size of the photograph the picture pretends to come from [default: the picture's]
    #[arg(long, value_name = "WxH", help_heading = "SDXL", value_parser = parse_pair)]
    pub(crate) original_size: Option<[usize; 2]>,

    /// Size that photograph was brought to [default: the picture's]
    #[arg(long, value_name = "WxH", help_heading = "SDXL", value_parser = parse_pair)]
    pub(crate) target_size: Option<[usize; 2]>,

    /// What was cut off it at the left and at the top [default: 0x0]
    #[arg(long, value_name = "LEFTxTOP", help_heading = "SDXL", value_parser = parse_pair)]
    pub(crate) crop: Option<[usize; 2]>,

    /// How beautiful the picture is, 1 to 10, to a refiner [default: 6]
    #[arg(long, value_name = "NUMBER", help_heading = "SDXL", value_parser = parse_number)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) aesthetic_score: Option<f64>,

    /// The same for the negative prompt [default: 2.5]
    #[arg(long, value_name = "NUMBER", help_heading = "SDXL", value_parser = parse_number)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) negative_aesthetic_score: Option<f64>,

    /// Number of pictures; picture i has the seed --seed + i
    #[arg(short, long, value_name = "COUNT", default_value_t = 1, help_heading = "Output")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    pub(crate) batch_count: usize,

    /// PNG file to write. Several pictures: out.png becomes out_0.png ..., or give the place of the number as %d or %03d
    #[arg(short, long, value_name = "FILE", default_value = "output.png", help_heading = "Output")]
    pub(crate) output: PathBuf,

    /// Leave the settings out of the PNG
    #[arg(long, help_heading = "Output")]
    pub(crate) no_metadata: bool,

    /// Write what the run took to a JSON file: seconds of each stage, dispatches, pipelines, bytes, adapter
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) stats: Option<PathBuf>,

    /// Write the intermediate tensors into a folder, as reference.safetensors: context, noise, latent.i, image
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) dump: Option<PathBuf>,

    /// Say what is used: adapter, sampler, precision
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Print errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Words that say what to run, and on what.
#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// Model: a diffusers folder or a .safetensors file of Stable Diffusion 1.x, 2.x or XL [default: the built-in one]
    #[arg(short, long, value_name = "PATH", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,

    /// Autoencoder in place of the model's: a diffusers folder or a .safetensors file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub(crate) vae: Option<PathBuf>,

    /// Storage of weights and activations: auto, f32 or f16; auto takes f16 where the model has it, on a GPU
    #[arg(long, value_enum, default_value_t, help_heading = "Model", hide_possible_values = true)]
    pub(crate) precision: PrecisionArg,

    /// Adapter: auto, a number from `photogram devices`, or a part of its name
    #[arg(long, value_name = "ADAPTER", default_value = "auto")]
    #[arg(help_heading = "Model", value_parser = parse_adapter)]
    pub(crate) adapter: AdapterChoice,
}

/// Words that say how large the work of one step is.
#[derive(Args, Debug)]
pub(crate) struct ShapeArgs {
    /// Width in pixels, a multiple of 8 for most models [default: the model's own]
    #[arg(short = 'W', long, value_name = "PIXELS", help_heading = "Picture", value_parser = parse_count)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) width: Option<usize>,

    /// Height in pixels [default: the model's own]
    #[arg(short = 'H', long, value_name = "PIXELS", help_heading = "Picture", value_parser = parse_count)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) height: Option<usize>,

    /// Guidance: how hard to push towards the prompt; 1 is none [default: 7; 3 for the built-in model]
    #[arg(long, value_name = "NUMBER", help_heading = "Sampling", value_parser = parse_number)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) cfg_scale: Option<f64>,
}

/// Words of `devices`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram devices
  photogram generate --adapter llvmpipe -p \"blob emoji of a dog\"")]
pub(crate) struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Words of `inspect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram inspect path/to/sd15
  photogram inspect v1-5.safetensors --json")]
pub(crate) struct InspectArgs {
    /// A diffusers folder or a .safetensors file
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Words of `profile`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram profile
  photogram profile -m path/to/sd15 -W 512 -H 512 --trace out.json
  photogram profile -m path/to/sd15 --cfg-scale 1 --precision f16 --depth 4 --top 50

ms, GFLOP/s and GB/s are those of kernels on the adapter. GB/s counts operands and results once. The
peak of an operation is the smaller of the peak GFLOP/s and its FLOP per byte times the peak GB/s.
Above 100% it was faster than what the peaks were measured by: its operands came from caches, say.
A refiner and an initial picture's encoder are not measured.")]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    pub(crate) source: ModelArgs,

    /// What is encoded; kernels take as long whatever it says
    #[arg(short, long, value_name = "TEXT", default_value = "", help_heading = "Picture")]
    #[arg(allow_hyphen_values = true, hide_default_value = true)]
    pub(crate) prompt: String,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    /// Runs of which each figure is the median, after one to warm up
    #[arg(long, value_name = "COUNT", default_value_t = 3, help_heading = "Measuring")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    pub(crate) repeat: usize,

    /// Time dispatches by repeating each until the host's clock can tell, as on an adapter without timestamps
    #[arg(long, help_heading = "Measuring")]
    pub(crate) wall: bool,

    /// Names of a module path that make a layer; a number belongs to the name before it
    #[arg(long, value_name = "COUNT", default_value_t = 3, help_heading = "Output")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    pub(crate) depth: usize,

    /// Rows of each table; those after them are added up
    #[arg(long, value_name = "COUNT", default_value_t = 12, help_heading = "Output")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    pub(crate) top: usize,

    /// Write every dispatch to a JSON file for ui.perfetto.dev or chrome://tracing, one after the other without gaps
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) trace: Option<PathBuf>,

    /// Print JSON: all rows, and every dispatch
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    /// Print no progress
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// Words of `tune`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram tune -m path/to/sd15 -W 512 -H 512
  photogram tune -m sd_xl_base.safetensors --precision f16 --json

Each variant's time is the shortest of five, by the adapter's timestamps where it has them. Choices
for other models and sizes stay. Software drivers are not tuned, nor is anything where CI is set.
A refiner and an initial picture's encoder are not looked at.")]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    pub(crate) source: ModelArgs,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    /// No progress bar
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// Words of `validate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram validate
  photogram validate --reference path/to/recorded --precision f32

A recorded run is a folder with reference.json (model, prompt, width, height, steps, ...) and
reference.safetensors (context, noise, latent.0 ..., image).")]
pub(crate) struct ValidateArgs {
    /// A recorded PyTorch run to compare with, instead of kernels
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: Option<PathBuf>,

    /// Storage of weights and activations for --reference: auto, f32 or f16
    #[arg(long, value_enum, default_value_t = PrecisionArg::F32, requires = "reference")]
    #[arg(hide_possible_values = true)]
    pub(crate) precision: PrecisionArg,

    /// Adapter: auto, a number from `photogram devices`, or a part of its name
    #[arg(long, value_name = "ADAPTER", default_value = "auto", value_parser = parse_adapter)]
    pub(crate) adapter: AdapterChoice,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// No progress bar
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// How weights and activations are stored.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// As the model and the adapter suggest.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, with sums in 32.
    F16,
}

/// What a model predicts.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PredictionArg {
    /// The noise.
    #[value(alias = "epsilon")]
    Eps,
    /// The velocity.
    #[value(alias = "v_prediction")]
    V,
}

/// Whose noise is drawn.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum RngArg {
    /// As PyTorch draws it on the CPU.
    #[default]
    Cpu,
    /// As PyTorch draws it on an NVIDIA GPU.
    Cuda,
}

/// The command that was typed; `None` if it was a question that is answered by now: --help, --version.
pub(crate) fn parse() -> Result<Option<Command>, Failure> {
    match Cli::try_parse() {
        Ok(cli) => Ok(Some(cli.command)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let answer = error.render();
                crate::report::print(&answer.ansi().to_string(), &answer.to_string())?;
                Ok(None)
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
            _ => Err(failure(&error)),
        },
    }
}

/// clap's error as one line and a hint.
fn failure(error: &clap::Error) -> Failure {
    let rendered = error.render().to_string();
    let message = rendered.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let mut failure = Failure::new(Code::Usage, cut(message));
    let suggested =
        [ContextKind::SuggestedArg, ContextKind::SuggestedValue, ContextKind::SuggestedSubcommand];
    let suggestion = suggested.into_iter().find_map(|kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    });
    failure.hint = Some(match suggestion {
        Some(suggestion) => one_line(&format!("did you mean '{suggestion}'?")),
        None => format!("`photogram {}--help` lists what there is", typed_command()),
    });
    failure
}

/// The command that was typed, with a space after it, if it is one.
fn typed_command() -> String {
    let typed = std::env::args_os().nth(1).unwrap_or_default();
    let command = Cli::command();
    let known = command.get_subcommands().find(|known| typed == known.get_name());
    known.map_or_else(String::new, |known| format!("{} ", known.get_name()))
}

/// `text` without the middle of a value of thousands of characters.
fn cut(text: &str) -> String {
    const SHOWN: usize = 300;
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= 2 * SHOWN {
        return text.to_owned();
    }
    let part = |chars: &[char]| chars.iter().collect::<String>();
    format!("{}\u{2026}{}", part(&chars[..SHOWN]), part(&chars[chars.len() - SHOWN..]))
}

fn parse_count(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "expected a whole number, not negative")
}

/// Two numbers such as `1024x768`.
fn parse_pair(text: &str) -> Result<[usize; 2], &'static str> {
    const LARGEST: usize = 65_536;
    let pair = text.split_once(['x', 'X']).and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
    pair.filter(|pair| pair.iter().all(|n| *n <= LARGEST))
        .ok_or("expected two whole numbers up to 65536, such as 1024x768")
}

fn parse_seed(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "expected a whole number below 2^63")
}

fn parse_number(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "expected a number")
}

fn parse_adapter(text: &str) -> Result<AdapterChoice, std::convert::Infallible> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    fn generate(words: &[&str]) -> GenerateArgs {
        let words = ["photogram", "generate", "-p", "x"].iter().chain(words);
        match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Command::Generate(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_that_users_of_other_programs_know_are_accepted() {
        let args =
            generate(&["--sampling-method", "DPM++ 2M", "--scheduler", "Karras", "--prediction", "epsilon"]);
        assert_eq!(args.sampler.map(|method| method.name), Some("dpm++2m"));
        assert_eq!(args.schedule, Some(Schedule::Karras));
        assert!(matches!(args.prediction, Some(PredictionArg::Eps)));
        assert!(matches!(generate(&["--prediction", "v_prediction"]).prediction, Some(PredictionArg::V)));
    }

    #[test]
    fn upper_case_letters_are_the_sides_of_the_picture() {
        let args = generate(&["-W", "64", "-H", "72", "-s", "-1"]);
        assert_eq!((args.shape.width, args.shape.height, args.seed), (Some(64), Some(72), -1));
    }

    #[test]
    fn an_error_is_one_line_however_long_the_value() {
        let long = "9".repeat(10_000);
        for words in [
            vec!["photogram", "generate"],
            vec!["photogram", "generate", "-p", "x", "--steps", &long],
            vec!["photogram", "generate", "-p", "x", "--steps", "\u{1b}[2J\n"],
            vec!["photogram", "generate", "-p", "x", "--stesp", "4"],
            vec!["photogram", "draw"],
        ] {
            let failure = failure(&Cli::try_parse_from(words).unwrap_err());
            assert_eq!(failure.code, Code::Usage);
            assert!(
                failure.message.len() < 1_000 && !failure.message.contains(char::is_control),
                "{failure:?}"
            );
        }
    }
}

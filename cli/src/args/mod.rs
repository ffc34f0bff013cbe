//! The words of the command line, as typed: [`crate::request`] turns them into what the engine is asked for.

mod check;
mod generate;
mod measure;

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use engine::device::AdapterChoice;
use engine::samplers::Method;

use crate::failure::{Code, Failure, one_line};
use crate::sampler_names::parse_sampler;

pub(crate) use check::{CompareArgs, DevicesArgs, InspectArgs, ReproduceArgs, ValidateArgs};
pub(crate) use generate::GenerateArgs;
pub(crate) use measure::{PlanArgs, ProfileArgs, TuneArgs};

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
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
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
    /// Times every variant of the products, convolutions, attentions and norms that a picture of this size takes, and compares each with
    /// its reference: one that is wrong is never chosen. What was chosen is kept in the folder of caches (PHOTOGRAM_CACHE names
    /// another one), for this adapter, driver and version of the kernels. Exits with 1 if a variant is wrong.
    Tune(TuneArgs),
    /// Check this adapter's results against references.
    ///
    /// Compares every variant of every kernel with its reference on the CPU, or the variants that a model takes at its own
    /// shapes, or a recorded PyTorch run with ours stage by stage. Exits with 1 if a result is wrong; later runs pass over
    /// variants that were. Kernels take half a minute on a software driver.
    Validate(ValidateArgs),
    /// Say whether a picture can be drawn on this adapter, before anything is uploaded: bytes, dispatches, arithmetic.
    ///
    /// Reads headers only, also of a folder that is not complete yet, and foretells what `generate` does: which networks stay
    /// on the device, whether pictures are decoded in tiles, and how many bytes that takes at most. Exits with 5 if it does
    /// not fit --max-vram or the adapter.
    Plan(PlanArgs),
    /// Draw a picture again from the settings in its file, and say whether it is the same.
    ///
    /// The same model, adapter, driver and version give the same bytes; others the same picture, within 40 dB PSNR. Exits with
    /// 1 if it is another one.
    Reproduce(ReproduceArgs),
    /// Say how alike two pictures are: PSNR, SSIM, largest difference.
    Compare(CompareArgs),
}

/// Words that say what to run, and on what.
#[derive(Args, Clone, Debug)]
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

/// Words that say how much memory of the device there is.
#[derive(Args, Debug, Default)]
pub(crate) struct MemoryArgs {
    /// Most memory to take on the device, such as 4G or 900M: less stays there, and pictures may be encoded and decoded in tiles
    #[arg(long, value_name = "SIZE", help_heading = "Memory", value_parser = parse_bytes)]
    pub(crate) max_vram: Option<u64>,

    /// Encode and decode in tiles of 64 latent pixels (512 of the picture for most models): the same picture with less memory
    #[arg(long, help_heading = "Memory")]
    pub(crate) vae_tiling: bool,
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

/// What a picture starts from besides noise.
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// Picture to start from (PNG, JPEG or WebP), stretched to --width x --height where these are given
    #[arg(short, long, value_name = "FILE", help_heading = "Picture")]
    pub(crate) init_img: Option<PathBuf>,

    /// How far to go from --init-img: above 0 (hardly) to 1 (it hardly matters) [default: 0.75]
    #[arg(long, value_name = "NUMBER", help_heading = "Picture", value_parser = parse_number)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) strength: Option<f64>,
}

/// How noise becomes a picture.
#[derive(Args, Debug)]
pub(crate) struct SamplingArgs {
    /// Denoising steps: more take longer and change less and less [default: 20; 25 for the built-in model]
    #[arg(long, value_name = "COUNT", help_heading = "Sampling", value_parser = parse_count)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) steps: Option<usize>,

    /// Sampler: ddim, euler, euler_a, dpm++2m or pndm [default: the model's own]
    #[arg(long, alias = "sampling-method", value_name = "NAME", help_heading = "Sampling")]
    #[arg(value_parser = parse_sampler)]
    pub(crate) sampler: Option<&'static Method>,
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

/// The words of a `generate` command that was put together from a picture's settings.
///
/// # Errors    [`Code::Usage`]
pub(crate) fn parse_generate(words: impl IntoIterator<Item = String>) -> Result<GenerateArgs, Failure> {
    let words = ["photogram".to_owned(), "generate".to_owned()].into_iter().chain(words);
    match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Generate(args)) => Ok(*args),
        Ok(_) => unreachable!("the second word is generate"),
        Err(error) => Err(failure(&error)),
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
    text.parse().map_err(|_| "expected a whole number from 0 on, of 64 bits")
}

/// Two numbers such as `1024x768`.
fn parse_pair(text: &str) -> Result<[usize; 2], &'static str> {
    const LARGEST: usize = 65_536;
    let pair = text.split_once(['x', 'X']).and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
    pair.filter(|pair| pair.iter().all(|n| *n <= LARGEST))
        .ok_or("expected two whole numbers up to 65536, such as 1024x768")
}

/// Bytes with a unit of 1024, 1024^2 or 1024^3, or without.
fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    const SAYS: &str = "expected a size such as 4G, 900M or 2.5GiB";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| SAYS)?;
    let unit = match text[digits..].trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        _ => return Err(SAYS),
    };
    let bytes = number * 1024f64.powi(unit);
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(SAYS) }
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
    use engine::samplers::Schedule;

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
        assert_eq!(args.sampling.sampler.map(|method| method.name), Some("dpm++2m"));
        assert_eq!(args.schedule, Some(Schedule::Karras));
        assert!(matches!(args.prediction, Some(PredictionArg::Eps)));
        assert!(matches!(generate(&["--prediction", "v_prediction"]).prediction, Some(PredictionArg::V)));
    }

    #[test]
    fn sizes_have_units() {
        let sizes = [("4G", 4 << 30), ("900M", 900 << 20), ("2.5GiB", 5 << 29), ("1 kb", 1024), ("77", 77)];
        for (text, bytes) in sizes {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "G", "-1G", "1T", "4GG", "1e9", "nan", "99999999999G"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
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

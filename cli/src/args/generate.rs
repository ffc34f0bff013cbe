//! Words of `generate`.

use std::path::PathBuf;

use clap::Args;
use engine::samplers::{Schedule, Spacing};

use super::{
    MemoryArgs, ModelArgs, PredictionArg, RngArg, SamplingArgs, ShapeArgs, StartArgs, parse_count,
    parse_number, parse_pair, parse_seed,
};
use crate::sampler_names::{parse_schedule, parse_spacing};

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

    #[command(flatten)]
    pub(crate) memory: MemoryArgs,

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

    #[command(flatten)]
    pub(crate) start: StartArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Take back a part of the contrast that guidance adds: 0 (nothing) to 1; about 0.7 for zero-terminal-SNR models
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, help_heading = "Sampling")]
    #[arg(value_parser = parse_number, allow_negative_numbers = true, hide_default_value = true)]
    pub(crate) guidance_rescale: f64,

    /// Seed of the noise; a negative one is replaced by a random one, which is printed
    #[arg(short, long, value_name = "NUMBER", default_value_t = 42, help_heading = "Sampling")]
    #[arg(value_parser = parse_seed, allow_negative_numbers = true)]
    pub(crate) seed: i64,

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

    /// Write what every operation's results lie within to a JSON file: least, greatest, how many not finite; slow
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) trace_ranges: Option<PathBuf>,

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

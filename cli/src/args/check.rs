//! Words of the commands that look and compare.

use std::path::PathBuf;

use clap::Args;
use engine::device::AdapterChoice;

use super::{PrecisionArg, ShapeArgs, parse_adapter, parse_number};

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

/// Words of `validate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram validate
  photogram validate -m path/to/sd15 -W 768 -H 512
  photogram validate --reference path/to/recorded --precision f32

At a model's shapes, the variants that its pictures take are compared with a sample of each reference;
one that is wrong is passed over in later runs, and the next one is tried.

A case is {\"name\", \"op\", \"attributes\", \"inputs\", \"outputs\"} with a function of torch.nn.functional, its
arguments, and names of tensors; what photogram does not express is skipped, with the reason.
A recorded run is a folder with reference.json (model, prompt, width, height, steps, ...) and
reference.safetensors (context, noise, latent.0 ..., image).")]
pub(crate) struct ValidateArgs {
    /// A recorded PyTorch run to compare with, instead of kernels
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: Option<PathBuf>,

    /// Single operations recorded elsewhere: a JSON list, with a safetensors file of the same stem beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "model"])]
    pub(crate) cases: Option<PathBuf>,

    /// A model at whose shapes kernels are checked: a diffusers folder or a .safetensors file
    #[arg(short, long, value_name = "PATH", conflicts_with = "reference")]
    pub(crate) model: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    /// Storage of weights and activations: auto, f32 or f16 [default: f32 for --reference, else auto]
    #[arg(long, value_enum, hide_possible_values = true)]
    pub(crate) precision: Option<PrecisionArg>,

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

/// Words of `reproduce`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram reproduce out.png
  photogram reproduce out.png -m path/to/sd15 -o again.png
  photogram reproduce out.png -m path/to/sd15 --init-img photo.png --adapter llvmpipe

Files that went into the picture have to be given again: their names stand in its settings, not what
was in them.")]
pub(crate) struct ReproduceArgs {
    /// PNG file that photogram wrote
    #[arg(value_name = "FILE")]
    pub(crate) picture: PathBuf,

    /// Model that drew it: a diffusers folder or a .safetensors file [default: the built-in one]
    #[arg(short, long, value_name = "PATH", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,

    /// Autoencoder that took the place of the model's
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub(crate) vae: Option<PathBuf>,

    /// Model that did the last steps
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub(crate) refiner: Option<PathBuf>,

    /// Adapter: auto, a number from `photogram devices`, or a part of its name
    #[arg(long, value_name = "ADAPTER", default_value = "auto", help_heading = "Model")]
    pub(crate) adapter: String,

    /// Picture that it began with
    #[arg(short, long, value_name = "FILE", help_heading = "Picture")]
    pub(crate) init_img: Option<PathBuf>,

    /// File with the noise that it began with
    #[arg(long, value_name = "FILE", help_heading = "Picture")]
    pub(crate) latents: Option<PathBuf>,

    /// PNG file for the new picture, which is thrown away otherwise
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,

    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    /// Print no progress
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// Words of `compare`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram compare a.png b.png
  photogram compare a.png b.png --difference where.png
  photogram compare a.png b.png --min-psnr 40 --json

PSNR is of 255, over all channels. SSIM has a Gaussian window of 11x11 pixels and is the mean over
channels, as scikit-image computes it with gaussian_weights.")]
pub(crate) struct CompareArgs {
    /// A picture: PNG, JPEG or WebP
    #[arg(value_name = "FILE")]
    pub(crate) first: PathBuf,

    /// Another one of its size
    #[arg(value_name = "FILE")]
    pub(crate) second: PathBuf,

    /// PNG file for the differences, scaled so that the largest is white
    #[arg(long, value_name = "FILE")]
    pub(crate) difference: Option<PathBuf>,

    /// Exit with 1 if the PSNR is lower
    #[arg(long, value_name = "DB", value_parser = parse_decibels, allow_negative_numbers = true)]
    pub(crate) min_psnr: Option<f64>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Decibels; equal pictures have infinitely many.
fn parse_decibels(text: &str) -> Result<f64, &'static str> {
    parse_number(text).and_then(|number| if number.is_nan() { Err("expected a number") } else { Ok(number) })
}

//! Words of the commands that measure, and of the one that foretells.

use std::path::PathBuf;

use clap::Args;

use super::{MemoryArgs, ModelArgs, SamplingArgs, ShapeArgs, StartArgs, parse_count};

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

/// Words of `plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  photogram plan -m path/to/sd15 -W 1024 -H 1024
  photogram plan -m sd_xl_base.safetensors --max-vram 6G --json
  photogram plan -m path/to/sdxl --refiner path/to/refiner --init-img photo.png

Bytes are those of buffers on the device; the driver takes some more. Of a folder that is still being
downloaded, configurations say what the weights that are not there will be: of f16, or as --precision
says.")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) source: ModelArgs,

    #[command(flatten)]
    pub(crate) memory: MemoryArgs,

    /// Model that does the last steps, such as SDXL's refiner
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub(crate) refiner: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    #[command(flatten)]
    pub(crate) start: StartArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

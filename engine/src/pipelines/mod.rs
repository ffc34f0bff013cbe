//! From a request to a picture: the parts of a model put to work one after the other.
//!
//! [`Model`] holds what was read from files, [`Pipeline`] a model on a device with its compiled programs, [`Run`] one picture
//! in the making, which the caller pulls step by step.

mod absent;
mod autoencoder;
mod check;
mod conditioning;
mod denoiser;
mod inspect;
mod memory;
mod model;
mod numbers;
mod picture;
mod piecewise;
mod pipeline;
mod presets;
mod profile;
mod request;
mod run;
mod single_file;
mod stack;
mod stats;
mod terms;
mod tiles;
mod tuning;

pub use absent::Absent;
pub use check::Planned;
pub use conditioning::{Conditioning, TextEncoder};
pub use denoiser::{DenoiserShape, build_denoiser};
pub use inspect::{Inspection, Layout, PartReport, inspect};
pub use memory::{Budget, Phase, Residency, Room};
pub use model::{Family, Model, Precision};
pub use picture::{Image, PixelSize};
pub use pipeline::Pipeline;
pub use request::{GuidanceScale, InitImage, PredictionType, Request, Told};
pub use run::{NoiseSource, Progress, Run};
pub use single_file::Training;
pub use stats::Stats;

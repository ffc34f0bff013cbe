//! The model inside the program.

use std::path::Path;

use engine::Error;
use engine::pipelines::{Model, Precision};

use crate::failure::Failure;

/// The model's name in metadata.
pub(crate) const NAME: &str = "photogram-builtin";

/// Steps that its card recommends.
pub(crate) const STEPS: usize = 25;

/// Guidance that its card recommends.
pub(crate) const CFG_SCALE: f64 = 3.0;

/// The built-in model.
///
/// # Errors    [`crate::failure::Code::Usage`] if this build has none
pub(crate) async fn open(vae: Option<&Path>, precision: Precision) -> Result<Model, Failure> {
    let Some(files) = files() else {
        let missing = Failure::usage("--model", "a path: this build has no built-in model", "none");
        return Err(missing.with_hint("build with the default feature `builtin`, or give -m PATH"));
    };
    let folder = loaders::Folder::embedded("the built-in model", files);
    Model::from_folder(folder, NAME.to_owned(), vae, precision).await.map_err(|error: Error| error.into())
}

type Files = &'static [(&'static str, &'static [u8])];

#[cfg(not(feature = "builtin"))]
fn files() -> Option<Files> {
    None
}

#[cfg(feature = "builtin")]
fn files() -> Option<Files> {
    macro_rules! embedded {
        ($($path:literal),* $(,)?) => {
            &[$(($path, include_bytes!(concat!("../builtin/model/", $path)).as_slice())),*]
        };
    }
    const FILES: Files = embedded![
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    Some(FILES)
}

//! What a file says about how its model was trained.

use loaders::{Checkpoint, Encoding, Error};

use super::{Family, UNET_PREFIX};
use crate::pipelines::request::PredictionType;
use crate::weights::values;

/// What decides how a model's predictions are read, where no scheduler_config.json says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// What the denoiser's output means.
    pub prediction: PredictionType,
    /// Whether the last timestep is pure noise: the betas are rescaled to a terminal signal-to-noise ratio of zero.
    pub zero_terminal_snr: bool,
}

/// Tensors whose presence alone says something: velocities are predicted; the last timestep is pure noise.
pub(in crate::pipelines) const FLAGS: [&str; 2] = ["v_pred", "ztsnr"];

/// A norm of the denoiser's last transformer, below [`UNET_PREFIX`].
const NORM: &str = "output_blocks.11.1.transformer_blocks.0.norm1.bias";

/// Standard deviation of [`NORM`] above which a model of Stable Diffusion 2.x predicts velocities.
const V_SPREAD: f64 = 0.09;

/// An entry of a header: `v` or `epsilon`.
const METADATA: &str = "modelspec.prediction_type";

/// Features that a norm may have.
const MOST_FEATURES: usize = 1 << 16;

/// Looks at `file`, of `family`.
///
/// The tensors `v_pred` and `ztsnr` are flags: it counts that they are there. Where `v_pred` is not, the header may have
/// [`METADATA`]. Stable Diffusion 2.x came without either: its models for 768 pixels predict velocities, those for 512 noise,
/// and the same tensors have the same shapes in both.
///
/// # Errors
/// [`Error`] if the tensor that tells them apart is missing, no vector of floats or cannot be read.
///
/// # Source    Stability AI's ModelSpec 1.0 for the header; for the rest observed practice: tools that write SDXL checkpoints
///   set the flags, tools that read SD 2.x go by the spread of this bias, which is wide in the velocity models alone. diffusers
///   goes by `global_step`, which few safetensors files have.
pub(in crate::pipelines) async fn training(file: &Checkpoint, family: Family) -> Result<Training, Error> {
    let [is_v, is_zero_snr] = FLAGS.map(|flag| file.get(flag).is_some());
    let predicts_v = match (family, file.metadata().get(METADATA).map(String::as_str)) {
        _ if is_v => true,
        (_, Some("v" | "v_prediction")) => true,
        (_, Some("epsilon")) => false,
        (Family::StableDiffusion2, _) => spread(file, &format!("{UNET_PREFIX}{NORM}")).await? > V_SPREAD,
        _ => false,
    };
    Ok(Training {
        prediction: if predicts_v { PredictionType::V } else { PredictionType::Epsilon },
        zero_terminal_snr: is_zero_snr,
    })
}

/// Standard deviation of a vector's values, normalised by their number.
async fn spread(file: &Checkpoint, name: &str) -> Result<f64, Error> {
    let entry = file.require(name)?;
    let is_float = matches!(entry.encoding, Encoding::F32 | Encoding::F16 | Encoding::Bf16);
    if !is_float || !matches!(entry.shape[..], [1..=MOST_FEATURES]) {
        return Err(entry.unexpected(format!("a vector of 1 to {MOST_FEATURES} floats")));
    }
    let values: Vec<f64> = values(&file.read(entry).await?, entry.encoding).map(f64::from).collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    Ok((values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
}

//! What a model's output means.

use super::{Config, SamplerError};

/// What the model predicts about a variance-preserving latent `x = alpha * x0 + sigma * noise`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prediction {
    /// The noise.
    Epsilon,
    /// `alpha * noise - sigma * x0`, Salimans & Ho 2022.
    Velocity,
}

/// `x * latent + output * model output`
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine {
    pub(super) x: f64,
    pub(super) output: f64,
}

impl Prediction {
    pub(super) fn read(config: &Config) -> Result<Self, SamplerError> {
        let words = [("epsilon", Self::Epsilon), ("v_prediction", Self::Velocity)];
        config.choice("prediction_type", Self::Epsilon, &words)
    }

    /// The clean latent `x0`.
    pub(super) fn original(self, alpha: f64, sigma: f64) -> Affine {
        match self {
            Self::Epsilon => Affine { x: 1.0 / alpha, output: -sigma / alpha },
            Self::Velocity => Affine { x: alpha, output: -sigma },
        }
    }

    /// The noise.
    pub(super) fn noise(self, alpha: f64, sigma: f64) -> Affine {
        match self {
            Self::Epsilon => Affine { x: 0.0, output: 1.0 },
            Self::Velocity => Affine { x: sigma, output: alpha },
        }
    }
}

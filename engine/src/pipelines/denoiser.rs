//! The denoiser with guidance around it: one graph from a latent to a prediction.

use kernels::ops::{Concat, LinearCombination, MatchDeviation, Slice};
use kernels::{DType, TensorType};

use crate::error::Error;
use crate::graph::{Graph, Rate};
use crate::models::UNet;

/// What a denoiser's program is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DenoiserShape {
    /// Rows of the latent.
    pub height: usize,
    /// Columns of the latent.
    pub width: usize,
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Whether the negative prompt takes part.
    pub guided: bool,
    /// Whether the guided prediction is brought to the contrast of the prompt's.
    pub rescaled: bool,
    /// How activations are stored.
    pub dtype: DType,
}

impl DenoiserShape {
    /// Evaluations in one batch.
    pub(super) fn batch(&self) -> usize {
        if self.guided { 2 } else { 1 }
    }

    /// Type of the context that the program takes.
    pub(super) fn context(&self, unet: &UNet) -> TensorType {
        TensorType::new(self.dtype, [self.batch(), self.tokens, unet.config.cross_attention_dim])
    }
}

/// The graph of one evaluation.
///
/// Inputs in order: `x: [1, h, w, C]` f32, `input_scale: [8]`, `guidance: [8]` if guided (the factors of the negative
/// prompt's prediction and of the prompt's), `rescale: [8]` if rescaled (how far), `context: [B, S, D]`,
/// `time: [B, features]`, `added: [B, features]` if the UNet embeds more than the time. Result: the guided prediction,
/// `[1, h, w, C]` f32.
///
/// # Errors
/// [`Error::Load`] naming a missing tensor or an unexpected shape.
pub fn build_denoiser(unet: &UNet, shape: DenoiserShape) -> Result<Graph, Error> {
    let mut net = unet.net();
    let coefficients = TensorType::f32([LinearCombination::COEFFICIENTS]);
    let latent = TensorType::f32([1, shape.height, shape.width, unet.config.in_channels]);
    let x = net.input("x", latent, Rate::Step);
    let input_scale = net.input("input_scale", coefficients.clone(), Rate::Step);
    let guidance = shape.guided.then(|| net.input("guidance", coefficients.clone(), Rate::Prompt));
    let rescale = shape.rescaled.then(|| net.input("rescale", coefficients, Rate::Prompt));
    let context = net.input("context", shape.context(unet), Rate::Prompt);

    let scaled = net.apply(LinearCombination { terms: 1 }, &[x, input_scale])?;
    let batch = match shape.guided {
        true => net.apply(Concat { axis: 0 }, &[scaled, scaled])?,
        false => scaled,
    };
    let predicted = unet.forward(&mut net, batch, context)?;
    let mut prediction = net.cast(predicted, DType::F32)?;
    if let Some(guidance) = guidance {
        let negative = net.apply(Slice { axis: 0, start: 0, length: 1 }, &[prediction])?;
        let positive = net.apply(Slice { axis: 0, start: 1, length: 1 }, &[prediction])?;
        prediction = net.apply(LinearCombination { terms: 2 }, &[negative, positive, guidance])?;
        if let Some(rescale) = rescale {
            prediction = net.apply(MatchDeviation, &[prediction, positive, rescale])?;
        }
    }
    let mut graph = net.graph;
    graph.output(prediction);
    Ok(graph)
}

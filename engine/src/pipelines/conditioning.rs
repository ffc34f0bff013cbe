//! What a denoiser is told besides latent and timestep, put together in host memory.

use kernels::{HostTensor, TensorType};
use loaders::Tokenizer;

use super::picture::PixelSize;
use super::request::Request;
use crate::models::{ClipText, TextOutputs};

/// A text encoder of a model with its tokenizer, and what is taken from it.
pub struct TextEncoder {
    pub(super) tokenizer: Tokenizer,
    /// The network.
    pub network: ClipText,
    /// What is computed from a prompt.
    pub outputs: TextOutputs,
}

impl TextEncoder {
    /// Tokens of a prompt, padding included.
    pub(super) fn prompt_tokens(&self) -> usize {
        let positions = self.network.config.positions;
        self.tokenizer.max_length().map_or(positions, |length| length.clamp(2, positions))
    }

    /// The ids of a prompt, padded.
    pub(super) fn tokens(&self, prompt: &str) -> Vec<u32> {
        self.tokenizer.encode_padded(prompt, self.prompt_tokens())
    }
}

/// Which numbers a denoiser embeds besides the pooled prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddedNumbers {
    /// Original height and width, crop from top and left, target height and width.
    Sizes,
    /// Original height and width, crop from top and left, aesthetic score.
    Score,
}

impl AddedNumbers {
    /// How many they are.
    pub(super) fn count(self) -> usize {
        match self {
            AddedNumbers::Sizes => 6,
            AddedNumbers::Score => 5,
        }
    }

    /// The numbers for one row of a batch.
    ///
    /// # Source    `_get_add_time_ids` of diffusers' StableDiffusionXL pipelines
    pub(super) fn of(self, request: &Request, is_negative: bool) -> Vec<f64> {
        let told = &request.told;
        let original = told.original.unwrap_or(request.size);
        let edges = |size: PixelSize| [size.height as f64, size.width as f64];
        let crop = [told.crop_top as f64, told.crop_left as f64];
        let mut numbers = [edges(original), crop].concat();
        match self {
            AddedNumbers::Sizes => numbers.extend(edges(told.target.unwrap_or(request.size))),
            AddedNumbers::Score if is_negative => numbers.push(told.negative_aesthetic_score),
            AddedNumbers::Score => numbers.push(told.aesthetic_score),
        }
        numbers
    }
}

/// Prompts as a denoiser sees them, the negative one first where it takes part.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditioning {
    /// What the denoiser attends to, `[B, S, D]`.
    pub context: HostTensor,
    /// The whole prompt in one vector, `[B, P]`, if the denoiser embeds it.
    pub pooled: Option<HostTensor>,
    /// The numbers that it embeds besides, `[B, n]`.
    pub numbers: Option<HostTensor>,
}

impl Conditioning {
    /// Its tensors, under their names in a recorded run.
    pub fn tensors(&self) -> impl Iterator<Item = (&'static str, &HostTensor)> {
        let tensors = [
            ("context", Some(&self.context)),
            ("pooled", self.pooled.as_ref()),
            ("time_ids", self.numbers.as_ref()),
        ];
        tensors.into_iter().filter_map(|(name, tensor)| Some((name, tensor?)))
    }
}

/// What the text encoders make of prompts.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub(super) context: HostTensor,
    pub(super) pooled: Option<HostTensor>,
}

impl Encoded {
    /// Zeros in the first row of everything: a negative prompt that nobody gave, to models trained so.
    pub(super) fn without_negative(self) -> Self {
        let zeroed = |tensor: HostTensor| {
            let row = tensor.shape().elements() / tensor.shape()[0];
            HostTensor::from_fn(tensor.ty().clone(), |i| if i < row { 0.0 } else { tensor.at(i) })
        };
        Encoded { context: zeroed(self.context), pooled: self.pooled.map(zeroed) }
    }
}

/// Tensors `[B, S, *]` side by side along the features.
///
/// # Panics
/// If they differ in another dimension: a programming error.
pub(super) fn side_by_side(tensors: &[HostTensor]) -> HostTensor {
    let [first, ..] = tensors else { panic!("at least one tensor") };
    let rows = first.shape().rows();
    assert!(tensors.iter().all(|t| t.shape().rows() == rows), "contexts of equal length");
    let width: usize = tensors.iter().map(|t| t.shape().channels()).sum();
    let mut data = Vec::with_capacity(rows * width);
    for row in 0..rows {
        for tensor in tensors {
            let channels = tensor.shape().channels();
            data.extend_from_slice(&tensor.data()[row * channels..][..channels]);
        }
    }
    let mut shape: Vec<usize> = first.shape().to_vec();
    if let Some(channels) = shape.last_mut() {
        *channels = width;
    }
    HostTensor::new(TensorType::new(first.ty().dtype, shape), data)
}

/// Of each prompt's features `[B, S, P]` those at its position, `[B, P]`.
pub(super) fn picked(features: &HostTensor, positions: &[usize]) -> HostTensor {
    let (tokens, width) = (features.shape()[1], features.shape().channels());
    let rows = positions.iter().enumerate().map(|(prompt, position)| prompt * tokens + position);
    let data: Vec<f32> =
        rows.flat_map(|row| features.data()[row * width..][..width].iter().copied()).collect();
    HostTensor::f32([positions.len(), width], data)
}

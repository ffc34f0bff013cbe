//! CLIP's text encoder, which turns a prompt's tokens into the context of a diffusion model.
//!
//! Source: transformers.models.clip.CLIPTextModel and CLIPTextModelWithProjection.

use kernels::ops::{Activate, Activation, Attention};
use kernels::{DType, TensorType};
use loaders::{Checkpoint, Config};

use super::{SANE_CHANNELS, SANE_LAYERS, no_unknown_keys};
use crate::error::Error;
use crate::graph::{Rate, ValueId};
use crate::nn::Net;
use crate::weights::Weights;

/// The encoder's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Features of a token.
    pub width: usize,
    /// Features between the two layers of a feed-forward.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Tokens of a prompt, padding included.
    pub positions: usize,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Between the two layers of a feed-forward.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Features of the pooled output, where the encoder has one.
    pub projection: usize,
    /// The token whose features are pooled; `2` stands for the one with the highest id.
    pub end: u32,
}

/// The end token of configurations that transformers wrote before 2023, whatever the tokenizer's is: there the token with the
/// highest id is pooled.
///
/// Source: transformers' CLIPTextTransformer.
const LEGACY_END: u32 = 2;

/// Which of the encoder's states is the context of a diffusion model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HiddenState {
    /// That after the last layer and the final norm.
    Last,
    /// That before the last layer, without a norm.
    Penultimate,
}

/// What is computed from a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TextOutputs {
    /// The state that is the context.
    pub context: HiddenState,
    /// Whether the pooled output is wanted too.
    pub pooled: bool,
}

impl ClipTextConfig {
    /// SD 1.x's encoder, which single files do not describe: openai/clip-vit-large-patch14.
    pub fn clip_vit_large() -> Self {
        ClipTextConfig {
            width: 768,
            intermediate: 3072,
            layers: 12,
            heads: 12,
            positions: 77,
            vocabulary: 49_408,
            activation: Activation::QuickGelu,
            eps: 1e-5,
            projection: 768,
            end: 49_407,
        }
    }

    /// SD 2.x's encoder, OpenCLIP's ViT-H/14 without its last layer.
    pub fn open_clip_vit_h() -> Self {
        ClipTextConfig {
            width: 1024,
            intermediate: 4096,
            layers: 23,
            heads: 16,
            activation: Activation::Gelu,
            projection: 512,
            ..Self::clip_vit_large()
        }
    }

    /// Where in a prompt the token is whose features are pooled.
    ///
    /// # Source    transformers.models.clip.CLIPTextTransformer
    pub fn pooled_position(&self, tokens: &[u32]) -> usize {
        let end = match self.end {
            LEGACY_END => tokens.iter().copied().max().unwrap_or_default(),
            end => end,
        };
        tokens.iter().position(|token| *token == end).unwrap_or_default()
    }

    /// SDXL's second encoder, OpenCLIP's ViT-bigG/14.
    pub fn open_clip_vit_big_g() -> Self {
        ClipTextConfig {
            width: 1280,
            intermediate: 5120,
            layers: 32,
            heads: 20,
            activation: Activation::Gelu,
            projection: 1280,
            ..Self::clip_vit_large()
        }
    }

    /// Reads `text_encoder/config.json`.
    ///
    /// # Errors
    /// [`loaders::Error`] naming file and key.
    pub fn read(config: &Config) -> Result<Self, Error> {
        let activation = match config.or("hidden_act", "quick_gelu".to_owned())?.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            _ => return Err(config.unsupported("hidden_act", "").into()),
        };
        let read = ClipTextConfig {
            width: config.count("hidden_size", SANE_CHANNELS)?.unwrap_or(512),
            intermediate: config.count("intermediate_size", SANE_CHANNELS)?.unwrap_or(2048),
            layers: config.count("num_hidden_layers", SANE_LAYERS)?.unwrap_or(12),
            heads: config.count("num_attention_heads", SANE_CHANNELS)?.unwrap_or(8),
            positions: config.count("max_position_embeddings", 3..=4096)?.unwrap_or(77),
            vocabulary: config.count("vocab_size", 1..=1 << 24)?.unwrap_or(49_408),
            activation,
            eps: config.or("layer_norm_eps", 1e-5)?,
            projection: config.count("projection_dim", SANE_CHANNELS)?.unwrap_or(512),
            end: config.count("eos_token_id", 0..=1 << 24)?.unwrap_or(49_407) as u32,
        };
        if !read.width.is_multiple_of(read.heads) {
            return Err(config
                .unexpected("num_attention_heads", format!("a divisor of {}", read.width))
                .into());
        }
        no_unknown_keys(config, &REMARKS)?;
        Ok(read)
    }
}

/// Keys that do not change what the encoder computes.
const REMARKS: [&str; 11] = [
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
];

/// The text encoder with its weights.
pub struct ClipText {
    /// Its shape.
    pub config: ClipTextConfig,
    /// Its weights.
    pub weights: Weights,
    /// The part of the pipeline it is, with which its values' names begin: `text_encoder`.
    part: &'static str,
}

impl ClipText {
    /// Embeddings of tokens and of positions, which stay in the file.
    pub const TABLES: [&str; 2] =
        ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight"];

    /// The encoder in `checkpoint`, whose names may have transformers' `text_model.` in front or not.
    ///
    /// # Errors
    /// [`loaders::Error`] if a tensor is there under both names.
    pub fn new(
        part: &'static str,
        config: ClipTextConfig,
        checkpoint: &Checkpoint,
        f16: bool,
    ) -> Result<Self, Error> {
        let checkpoint = checkpoint
            .renamed_with(|name| Some(name.strip_prefix("text_model.").unwrap_or(name).to_owned()))?;
        Ok(ClipText { config, weights: Weights::new(checkpoint, f16), part })
    }

    /// The part of a pipeline that it is: `text_encoder`, `text_encoder_2`.
    pub fn part(&self) -> &'static str {
        self.part
    }

    /// Token and position embeddings of prompts of equal length, one after the other: `[B * S * width]`.
    ///
    /// # Errors
    /// [`loaders::Error`] if a token is not in the table.
    pub async fn embed(&self, prompts: &[Vec<u32>]) -> Result<Vec<f32>, Error> {
        let width = self.config.width;
        let mut embedded = Vec::new();
        for tokens in prompts {
            let rows: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
            let positions: Vec<usize> = (0..tokens.len()).collect();
            let words = self.weights.rows(Self::TABLES[0], &rows, width).await?;
            let places = self.weights.rows(Self::TABLES[1], &positions, width).await?;
            embedded.extend(words.iter().zip(&places).map(|(word, place)| word + place));
        }
        Ok(embedded)
    }

    /// The network on embedded prompts: input `embeddings: [B, S, width]` f32; results the context `[B, S, width]` of
    /// `dtype`, and if the pooled output is wanted every token's projection, `[B, S, projection]`, of which that at
    /// [`ClipTextConfig::pooled_position`] is the pooled output.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn build(
        &self,
        batch: usize,
        tokens: usize,
        dtype: DType,
        outputs: TextOutputs,
    ) -> Result<(Net<'_>, Vec<ValueId>), Error> {
        let config = &self.config;
        let mut net = Net::new(self.part, &self.weights);
        let ty = TensorType::f32([batch, tokens, config.width]);
        let embeddings = net.input("embeddings", ty, Rate::Step);
        let mut x = net.cast(embeddings, dtype)?;
        for layer in 0..config.layers - 1 {
            x = net.module(&format!("encoder.layers.{layer}"), |net| self.layer(net, x))?;
        }
        let penultimate = x;
        if outputs == (TextOutputs { context: HiddenState::Penultimate, pooled: false }) {
            return Ok((net, vec![penultimate]));
        }
        let last = format!("encoder.layers.{}", config.layers - 1);
        x = net.module(&last, |net| self.layer(net, x))?;
        let normed = net.layer_norm("final_layer_norm", x, config.eps)?;
        let mut results = vec![match outputs.context {
            HiddenState::Last => normed,
            HiddenState::Penultimate => penultimate,
        }];
        if outputs.pooled {
            results.push(net.text_projection("text_projection", normed, config.projection)?);
        }
        Ok((net, results))
    }

    fn layer(&self, net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Error> {
        let config = &self.config;
        let normed = net.layer_norm("layer_norm1", x, config.eps)?;
        let mixed = net.module("self_attn", |net| {
            let q = net.linear("q_proj", normed, config.width, true)?;
            let k = net.linear("k_proj", normed, config.width, true)?;
            let v = net.linear("v_proj", normed, config.width, true)?;
            let op = Attention { causal: true, ..Attention::new(config.heads) };
            let mixed = net.apply(op, &[q, k, v])?;
            net.linear("out_proj", mixed, config.width, true)
        })?;
        let x = net.add(x, mixed)?;
        let normed = net.layer_norm("layer_norm2", x, config.eps)?;
        let fed = net.module("mlp", |net| {
            let hidden = net.linear("fc1", normed, config.intermediate, true)?;
            let hidden = net.apply(Activate(config.activation), &[hidden])?;
            net.linear("fc2", hidden, config.width, true)
        })?;
        net.add(x, fed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_of_a_prompt_is_pooled() {
        // Where the end pads, too; a legacy configuration means the highest token.
        let tokens = [49_406, 320, 49_407, 49_407];
        for end in [49_407, LEGACY_END] {
            let config = ClipTextConfig { end, ..ClipTextConfig::clip_vit_large() };
            assert_eq!(config.pooled_position(&tokens), 2, "{end}");
        }
        let other = ClipTextConfig { end: 320, ..ClipTextConfig::clip_vit_large() };
        assert_eq!(other.pooled_position(&tokens), 1);
    }
}

//! CLIP's text encoder, which turns a prompt's tokens into the context of a diffusion model.
//!
//! Source: transformers.models.clip.CLIPTextModel.

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
const REMARKS: [&str; 13] = [
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "eos_token_id",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "projection_dim",
    "torch_dtype",
    "transformers_version",
];

/// The text encoder with its weights.
pub struct ClipText {
    /// Its shape.
    pub config: ClipTextConfig,
    /// Its weights.
    pub weights: Weights,
}

impl ClipText {
    /// The encoder in `checkpoint`, whose names may have transformers' `text_model.` in front or not.
    pub fn new(config: ClipTextConfig, checkpoint: &Checkpoint, f16: bool) -> Self {
        let prefixed = checkpoint.get("text_model.final_layer_norm.weight").is_some();
        let checkpoint = if prefixed { checkpoint.scoped("text_model.") } else { checkpoint.clone() };
        ClipText { config, weights: Weights::new(checkpoint, f16) }
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
            let words = self.weights.rows("embeddings.token_embedding.weight", &rows, width).await?;
            let places = self.weights.rows("embeddings.position_embedding.weight", &positions, width).await?;
            embedded.extend(words.iter().zip(&places).map(|(word, place)| word + place));
        }
        Ok(embedded)
    }

    /// The network on embedded prompts: input `embeddings: [B, S, width]` f32, result `[B, S, width]` of `dtype` after
    /// the final norm.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn build(&self, batch: usize, tokens: usize, dtype: DType) -> Result<(Net<'_>, ValueId), Error> {
        let config = &self.config;
        let mut net = Net::new("text_encoder", &self.weights);
        let ty = TensorType::f32([batch, tokens, config.width]);
        let embeddings = net.input("embeddings", ty, Rate::Step);
        let mut x = net.cast(embeddings, dtype)?;
        for layer in 0..config.layers {
            x = net.module(&format!("encoder.layers.{layer}"), |net| self.layer(net, x))?;
        }
        let context = net.layer_norm("final_layer_norm", x, config.eps)?;
        Ok((net, context))
    }

    fn layer(&self, net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Error> {
        let config = &self.config;
        let normed = net.layer_norm("layer_norm1", x, config.eps)?;
        let mixed = net.module("self_attn", |net| {
            let q = net.linear("q_proj", normed, config.width, true)?;
            let k = net.linear("k_proj", normed, config.width, true)?;
            let v = net.linear("v_proj", normed, config.width, true)?;
            let op = Attention { heads: config.heads, kv_heads: config.heads, causal: true, scale: None };
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

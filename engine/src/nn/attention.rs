//! Attention and the transformer blocks around it.

use kernels::ops::Attention;

use super::{Kernel, Net};
use crate::error::Error;
use crate::graph::ValueId;

/// What distinguishes attention layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Heads.
    pub heads: usize,
    /// Whether queries, keys and values have a bias.
    pub bias: bool,
}

/// A transformer over the pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Heads of each attention.
    pub heads: usize,
    /// Blocks one after the other.
    pub layers: usize,
    /// Groups of the norm before.
    pub groups: usize,
    /// Whether the projections around the blocks are linear layers or 1x1 convolutions.
    pub linear_projection: bool,
}

impl Net<'_> {
    /// diffusers' Attention on token sequences: keys and values come from `context`, or from `x` itself.
    ///
    /// # Shapes    `x: [B, S, C]`, `context: [B, T, D]` -> `[B, S, C]`
    /// # Errors    [`Error::Load`] naming a missing tensor or an unexpected shape
    /// # Source    diffusers.models.attention_processor.Attention
    pub fn attention(
        &mut self,
        name: &str,
        x: ValueId,
        context: Option<ValueId>,
        config: AttentionConfig,
    ) -> Result<ValueId, Error> {
        let AttentionConfig { heads, bias } = config;
        self.module(name, |net| {
            let channels = net.channels(x);
            let memory = context.unwrap_or(x);
            let q = net.linear("to_q", x, channels, bias)?;
            let k = net.linear("to_k", memory, channels, bias)?;
            let v = net.linear("to_v", memory, channels, bias)?;
            let op = Attention::new(heads);
            let mixed = net.apply(op, &[q, k, v])?;
            net.linear("to_out.0", mixed, channels, true)
        })
    }

    /// diffusers' Transformer2DModel: norm, projection, blocks of self-attention, cross-attention and GEGLU feed-forward,
    /// projection, and a shortcut around it all.
    ///
    /// # Shapes    `x: [B, H, W, C]`, `context: [B, T, D]` -> `[B, H, W, C]`
    /// # Errors    [`Error::Load`] naming a missing tensor or an unexpected shape
    /// # Source    diffusers.models.transformers.transformer_2d
    pub fn transformer_2d(
        &mut self,
        name: &str,
        x: ValueId,
        context: ValueId,
        config: TransformerConfig,
    ) -> Result<ValueId, Error> {
        self.module(name, |net| {
            let [batch, height, width, channels] = [0, 1, 2, 3].map(|d| net.extent(x, d));
            let normed = net.group_norm("norm", x, config.groups, 1e-6)?;
            let projected = net.projection("proj_in", normed, config.linear_projection)?;
            let mut tokens = net.reshape(projected, &[batch, height * width, channels])?;
            for layer in 0..config.layers {
                let block = format!("transformer_blocks.{layer}");
                tokens = net.transformer_block(&block, tokens, context, config.heads)?;
            }
            let image = net.reshape(tokens, &[batch, height, width, channels])?;
            let projected = net.projection("proj_out", image, config.linear_projection)?;
            net.add(x, projected)
        })
    }

    /// A linear layer or a 1x1 convolution: the same product, stored in different shapes.
    fn projection(&mut self, name: &str, x: ValueId, linear: bool) -> Result<ValueId, Error> {
        let channels = self.channels(x);
        if linear {
            self.linear(name, x, channels, true)
        } else {
            self.conv2d(name, x, channels, Kernel::ONE)
        }
    }

    fn transformer_block(
        &mut self,
        name: &str,
        x: ValueId,
        context: ValueId,
        heads: usize,
    ) -> Result<ValueId, Error> {
        let attention = AttentionConfig { heads, bias: false };
        self.module(name, |net| {
            let channels = net.channels(x);
            let normed = net.layer_norm("norm1", x, 1e-5)?;
            let mixed = net.attention("attn1", normed, None, attention)?;
            let x = net.add(x, mixed)?;
            let normed = net.layer_norm("norm2", x, 1e-5)?;
            let mixed = net.attention("attn2", normed, Some(context), attention)?;
            let x = net.add(x, mixed)?;
            let normed = net.layer_norm("norm3", x, 1e-5)?;
            let fed = net.module("ff", |net| {
                let gated = net.geglu("net.0", normed, 4 * channels)?;
                net.linear("net.2", gated, channels, true)
            })?;
            net.add(x, fed)
        })
    }
}

//! The autoencoder between pictures and latents.
//!
//! Source: diffusers.models.autoencoders.AutoencoderKL.

use kernels::ops::{Scale, Slice, ToRgb, Upsample};
use kernels::{DType, TensorType};
use loaders::{Checkpoint, Config};

use super::{SANE_CHANNELS, SANE_LAYERS, divides_all, no_unknown_keys, only, only_null, only_silu};
use crate::error::Error;
use crate::graph::{Graph, Rate, Source, ValueId};
use crate::nn::{AttentionConfig, Kernel, Net, ResnetConfig};
use crate::weights::Weights;

/// Epsilon of every norm.
const EPS: f64 = 1e-6;

/// The autoencoder's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeKlConfig {
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of each level, from the largest image to the smallest.
    pub channels: Vec<usize>,
    /// Residual blocks of a level on the way to the latent; one more on the way back.
    pub layers: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// What latents are multiplied by for the denoiser.
    pub scaling_factor: f64,
    /// Whether the smallest level has an attention.
    pub mid_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub post_quant_conv: bool,
    /// Whether f16 activations overflow in it.
    pub force_upcast: bool,
}

impl VaeKlConfig {
    /// SD 1.x's autoencoder, which single files do not describe.
    pub fn stable_diffusion_1() -> Self {
        VaeKlConfig {
            latent_channels: 4,
            channels: vec![128, 256, 512, 512],
            layers: 2,
            groups: 32,
            scaling_factor: 0.18215,
            mid_attention: true,
            quant_conv: true,
            post_quant_conv: true,
            force_upcast: true,
        }
    }

    /// SDXL's autoencoder.
    pub fn stable_diffusion_xl() -> Self {
        VaeKlConfig { scaling_factor: 0.13025, ..Self::stable_diffusion_1() }
    }

    /// Reads `vae/config.json`.
    ///
    /// # Errors
    /// [`loaders::Error`] naming file and key.
    pub fn read(config: &Config) -> Result<Self, Error> {
        only_silu(config)?;
        only(config, "_class_name", "AutoencoderKL".to_owned())?;
        only(config, "in_channels", 3usize)?;
        only(config, "out_channels", 3usize)?;
        only_null(config, &["latents_mean", "latents_std", "shift_factor"])?;
        let channels: Vec<usize> = config.or("block_out_channels", vec![64])?;
        if channels.is_empty() || channels.len() > 8 || channels.iter().any(|c| !SANE_CHANNELS.contains(c)) {
            return Err(config.unexpected("block_out_channels", "1 to 8 counts of channels").into());
        }
        for (key, block) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            let blocks: Vec<String> = config.or(key, vec![block.to_owned(); channels.len()])?;
            if blocks.len() != channels.len() {
                return Err(config.unexpected(key, format!("{} block types", channels.len())).into());
            }
            if blocks.iter().any(|b| b != block) {
                return Err(config.unsupported(key, format!("photogram knows {block}")).into());
            }
        }
        let scaling_factor: f64 = config.or("scaling_factor", 0.18215)?;
        if !(scaling_factor.is_finite() && scaling_factor > 0.0) {
            return Err(config.unexpected("scaling_factor", "a positive number").into());
        }
        let read = VaeKlConfig {
            latent_channels: config.count("latent_channels", SANE_CHANNELS)?.unwrap_or(4),
            channels,
            layers: config.count("layers_per_block", SANE_LAYERS)?.unwrap_or(1),
            groups: config.count("norm_num_groups", SANE_CHANNELS)?.unwrap_or(32),
            scaling_factor,
            mid_attention: config.or("mid_block_add_attention", true)?,
            quant_conv: config.or("use_quant_conv", true)?,
            post_quant_conv: config.or("use_post_quant_conv", true)?,
            force_upcast: config.or("force_upcast", true)?,
        };
        divides_all(config, "norm_num_groups", read.groups, read.channels.iter().copied())?;
        no_unknown_keys(config, &["sample_size"])?;
        Ok(read)
    }

    /// Pixels along an edge of the picture for each of the latent.
    pub fn downscale(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

/// The autoencoder with its weights.
pub struct VaeKl {
    /// Its shape.
    pub config: VaeKlConfig,
    /// Its weights.
    pub weights: Weights,
}

impl VaeKl {
    /// The autoencoder in `checkpoint`, whose attention may carry the names diffusers gave it until 2023.
    ///
    /// # Errors
    /// [`loaders::Error`] if a tensor is there under both names.
    pub fn new(config: VaeKlConfig, checkpoint: &Checkpoint, f16: bool) -> Result<Self, Error> {
        let checkpoint = checkpoint.renamed_with(|name| Some(VaeKl::present_name(name)))?;
        Ok(VaeKl { config, weights: Weights::new(checkpoint, f16) })
    }

    /// A tensor's name, or that of today in place of an older one.
    pub(crate) fn present_name(name: &str) -> String {
        let renamed = OLD_ATTENTION.iter().find_map(|(old, new)| {
            let (head, tail) = name.split_once(&format!(".attentions.0.{old}."))?;
            Some(format!("{head}.attentions.0.{new}.{tail}"))
        });
        renamed.unwrap_or_else(|| name.to_owned())
    }

    /// The decoder: input `latent: [B, h, w, C]` f32 in the denoiser's scale, result `[B, H, W, 3]` in 0..1, f32.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn build_decoder(&self, latent: TensorType, dtype: DType) -> Result<(Net<'_>, ValueId), Error> {
        let config = &self.config;
        let mut net = Net::new("vae", &self.weights);
        let latent = net.input("latent", latent, Rate::Step);
        let mut h = net.apply(Scale { factor: 1.0 / config.scaling_factor }, &[latent])?;
        if config.post_quant_conv {
            h = net.conv2d("post_quant_conv", h, config.latent_channels, Kernel::ONE)?;
        }
        let smallest = config.channels[config.channels.len() - 1];
        h = net.conv2d("decoder.conv_in", h, smallest, Kernel::THREE)?;
        h = net.cast(h, dtype)?;
        h = self.middle(&mut net, "decoder.mid_block", h)?;
        for (i, channels) in config.channels.iter().rev().enumerate() {
            let block = format!("decoder.up_blocks.{i}");
            for layer in 0..=config.layers {
                h = self.resnet(&mut net, &format!("{block}.resnets.{layer}"), h, *channels)?;
            }
            if i + 1 < config.channels.len() {
                let (height, width) = (2 * net.extent(h, 1), 2 * net.extent(h, 2));
                h = net.module(&format!("{block}.upsamplers.0"), |net| {
                    let larger = net.apply(Upsample { height, width }, &[h])?;
                    net.conv2d("conv", larger, *channels, Kernel::THREE)
                })?;
            }
        }
        let normed = net.group_norm("decoder.conv_norm_out", h, config.groups, EPS)?;
        let active = net.silu(normed)?;
        let pixels = net.conv2d("decoder.conv_out", active, 3, Kernel::THREE)?;
        let rgb = net.apply(ToRgb, &[pixels])?;
        Ok((net, rgb))
    }

    /// The encoder: input `pixels: [B, H, W, 3]` f32 in -1..1, result the mean latent in the denoiser's scale, `[B, h, w, C]`
    /// f32.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn build_encoder(&self, pixels: TensorType, dtype: DType) -> Result<(Net<'_>, ValueId), Error> {
        let config = &self.config;
        let mut net = Net::new("vae", &self.weights);
        let pixels = net.input("pixels", pixels, Rate::Step);
        let h = net.conv2d("encoder.conv_in", pixels, config.channels[0], Kernel::THREE)?;
        let mut h = net.cast(h, dtype)?;
        for (i, channels) in config.channels.iter().enumerate() {
            let block = format!("encoder.down_blocks.{i}");
            for layer in 0..config.layers {
                h = self.resnet(&mut net, &format!("{block}.resnets.{layer}"), h, *channels)?;
            }
            if i + 1 < config.channels.len() {
                let halving = Kernel { size: 3, stride: 2, padding: [0, 1, 0, 1] };
                h = net.module(&format!("{block}.downsamplers.0"), |net| {
                    net.conv2d("conv", h, *channels, halving)
                })?;
            }
        }
        h = self.middle(&mut net, "encoder.mid_block", h)?;
        let normed = net.group_norm("encoder.conv_norm_out", h, config.groups, EPS)?;
        let active = net.silu(normed)?;
        let moments = 2 * config.latent_channels;
        h = net.conv2d("encoder.conv_out", active, moments, Kernel::THREE)?;
        if config.quant_conv {
            h = net.conv2d("quant_conv", h, moments, Kernel::ONE)?;
        }
        let mean = net.apply(Slice { axis: 3, start: 0, length: config.latent_channels }, &[h])?;
        let scaled = net.apply(Scale { factor: config.scaling_factor }, &[mean])?;
        let scaled = net.cast(scaled, DType::F32)?;
        Ok((net, scaled))
    }

    /// In a decoder's graph the smallest image, once attention has looked at all of it: what follows looks at few pixels around
    /// each, but for its norms.
    pub fn decoder_waist(graph: &Graph) -> ValueId {
        graph.find("vae.decoder.mid_block.resnets.1").expect("every decoder has one")
    }

    /// In an encoder's graph the smallest image, before attention looks at all of it.
    pub fn encoder_waist(graph: &Graph) -> ValueId {
        let norm = graph.find("vae.encoder.mid_block.resnets.0.norm1").expect("every encoder has one");
        match &graph.value(norm).source {
            Source::Node { inputs, .. } => inputs[0],
            _ => unreachable!("a norm is an operation"),
        }
    }

    fn middle(&self, net: &mut Net<'_>, name: &str, x: ValueId) -> Result<ValueId, Error> {
        let channels = net.channels(x);
        let mut h = self.resnet(net, &format!("{name}.resnets.0"), x, channels)?;
        if self.config.mid_attention {
            h = self.attention(net, &format!("{name}.attentions.0"), h)?;
        }
        self.resnet(net, &format!("{name}.resnets.1"), h, channels)
    }

    fn attention(&self, net: &mut Net<'_>, name: &str, x: ValueId) -> Result<ValueId, Error> {
        let [batch, height, width, channels] = [0, 1, 2, 3].map(|d| net.extent(x, d));
        let mixed = net.module(name, |net| {
            let normed = net.group_norm("group_norm", x, self.config.groups, EPS)?;
            let tokens = net.reshape(normed, &[batch, height * width, channels])?;
            net.attention("", tokens, None, AttentionConfig { heads: 1, bias: true })
        })?;
        let mixed = net.reshape(mixed, &[batch, height, width, channels])?;
        net.module(name, |net| net.add(x, mixed))
    }

    fn resnet(&self, net: &mut Net<'_>, name: &str, x: ValueId, outputs: usize) -> Result<ValueId, Error> {
        net.resnet(name, x, None, ResnetConfig { outputs, groups: self.config.groups, eps: EPS })
    }
}

/// An attention's layers by their old and new names.
const OLD_ATTENTION: [(&str, &str); 4] =
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

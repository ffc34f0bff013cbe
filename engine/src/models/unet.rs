//! The denoiser of Stable Diffusion 1.x, 2.x and XL.
//!
//! Source: diffusers.models.unets.UNet2DConditionModel.

use kernels::host::time_embedding;
use kernels::ops::{Concat, Upsample};
use kernels::{DType, HostTensor, TensorType};
use loaders::{Checkpoint, Config, OneOrMany};

use super::{SANE_CHANNELS, SANE_LAYERS, divides_all, no_unknown_keys, only, only_null, only_silu};
use crate::error::Error;
use crate::graph::{Rate, ValueId};
use crate::nn::{Kernel, Net, ResnetConfig, TransformerConfig};
use crate::weights::Weights;

/// One level of the UNet: a down block, and the up block of the same size.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetLevel {
    /// Channels.
    pub channels: usize,
    /// Residual blocks on the way down; one more on the way up.
    pub layers: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Blocks of each transformer.
    pub transformer_layers: usize,
    /// Whether the down block has transformers.
    pub attention_down: bool,
    /// Whether the up block has transformers.
    pub attention_up: bool,
}

/// Features of a head in SD 2.x and XL.
const HEAD: usize = 64;

impl UNetLevel {
    /// A level of two residual blocks; `transformer_layers` 0: without transformers.
    fn uniform(channels: usize, heads: usize, transformer_layers: usize) -> Self {
        let attention = transformer_layers > 0;
        let transformer_layers = transformer_layers.max(1);
        UNetLevel {
            channels,
            layers: 2,
            heads,
            transformer_layers,
            attention_down: attention,
            attention_up: attention,
        }
    }

    /// A smallest level whose only transformer is in the middle block.
    fn last(channels: usize, heads: usize, transformer_layers: usize) -> Self {
        let level = UNetLevel::uniform(channels, heads, transformer_layers);
        UNetLevel { attention_down: false, attention_up: false, ..level }
    }
}

/// The UNet's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of a latent.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Latent rows and columns the model was trained at, `0` if the file does not say.
    pub sample_size: usize,
    /// From the largest image to the smallest.
    pub levels: Vec<UNetLevel>,
    /// Features of a token of the context.
    pub cross_attention_dim: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// Epsilon of the norms in residual blocks.
    pub eps: f64,
    /// Whether transformers' projections are linear layers.
    pub linear_projection: bool,
    /// Whether latents are mapped from 0..1 to -1..1 first.
    pub center_input_sample: bool,
    /// Whether the time embedding has cosines first.
    pub flip_sin_to_cos: bool,
    /// Shift of the time embedding's frequencies.
    pub freq_shift: f64,
    /// Side of the first convolution.
    pub conv_in_kernel: usize,
    /// Side of the last convolution.
    pub conv_out_kernel: usize,
    /// Zeros around an image before it is halved.
    pub downsample_padding: usize,
    /// What is embedded besides the timestep.
    pub added: Option<AddedConfig>,
}

/// An embedding that is added to the timestep's: diffusers' `text_time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedConfig {
    /// Features of what is embedded: a pooled prompt and sinusoids of several numbers, one after the other.
    pub features: usize,
    /// Sinusoids of each number.
    pub time_features: usize,
}

impl UNetConfig {
    /// SD 1.x's UNet, which single files do not describe.
    pub fn stable_diffusion_1() -> Self {
        let level = |channels, transformer_layers| UNetLevel::uniform(channels, 8, transformer_layers);
        UNetConfig {
            in_channels: 4,
            out_channels: 4,
            sample_size: 64,
            levels: vec![level(320, 1), level(640, 1), level(1280, 1), UNetLevel::last(1280, 8, 1)],
            cross_attention_dim: 768,
            groups: 32,
            eps: 1e-5,
            linear_projection: false,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            downsample_padding: 1,
            added: None,
        }
    }

    /// SD 2.x's UNet.
    pub fn stable_diffusion_2() -> Self {
        let level = |channels| UNetLevel::uniform(channels, channels / HEAD, 1);
        UNetConfig {
            sample_size: 96,
            levels: vec![level(320), level(640), level(1280), UNetLevel::last(1280, 1280 / HEAD, 1)],
            cross_attention_dim: 1024,
            linear_projection: true,
            ..Self::stable_diffusion_1()
        }
    }

    /// SDXL's UNet.
    pub fn stable_diffusion_xl() -> Self {
        let level = |channels, layers| UNetLevel::uniform(channels, channels / HEAD, layers);
        UNetConfig {
            sample_size: 128,
            levels: vec![level(320, 0), level(640, 2), level(1280, 10)],
            cross_attention_dim: 2048,
            linear_projection: true,
            added: Some(AddedConfig { features: 1280 + 6 * 256, time_features: 256 }),
            ..Self::stable_diffusion_1()
        }
    }

    /// The UNet of SDXL's refiner.
    pub fn stable_diffusion_xl_refiner() -> Self {
        let level = |channels, layers| UNetLevel::uniform(channels, channels / HEAD, layers);
        UNetConfig {
            levels: vec![level(384, 0), level(768, 4), level(1536, 4), UNetLevel::last(1536, 1536 / HEAD, 4)],
            cross_attention_dim: 1280,
            added: Some(AddedConfig { features: 1280 + 5 * 256, time_features: 256 }),
            ..Self::stable_diffusion_xl()
        }
    }

    /// Reads `unet/config.json`.
    ///
    /// # Errors
    /// [`loaders::Error`] naming file and key.
    pub fn read(config: &Config) -> Result<Self, Error> {
        refuse_other_networks(config)?;
        let read = UNetConfig {
            in_channels: config.count("in_channels", SANE_CHANNELS)?.unwrap_or(4),
            out_channels: config.count("out_channels", SANE_CHANNELS)?.unwrap_or(4),
            sample_size: config.count("sample_size", 1..=8192)?.unwrap_or(0),
            levels: read_levels(config)?,
            cross_attention_dim: config.count("cross_attention_dim", SANE_CHANNELS)?.unwrap_or(1280),
            groups: config.count("norm_num_groups", SANE_CHANNELS)?.unwrap_or(32),
            eps: config.or("norm_eps", 1e-5)?,
            linear_projection: config.or("use_linear_projection", false)?,
            center_input_sample: config.or("center_input_sample", false)?,
            flip_sin_to_cos: config.or("flip_sin_to_cos", true)?,
            freq_shift: config.or("freq_shift", 0.0)?,
            conv_in_kernel: odd(config, "conv_in_kernel")?,
            conv_out_kernel: odd(config, "conv_out_kernel")?,
            downsample_padding: config.count("downsample_padding", 0..=1)?.unwrap_or(1),
            added: read_added(config)?,
        };
        if read.center_input_sample {
            return Err(config.unsupported("center_input_sample", "").into());
        }
        let channels = read.levels.iter().map(|level| level.channels);
        divides_all(config, "norm_num_groups", read.groups, channels)?;
        no_unknown_keys(config, &["dropout", "attention_type"])?;
        Ok(read)
    }

    /// The smallest edge of a latent. Every level but the deepest halves it: with padding on one side, nothing is left of a
    /// single row; with padding on both, one row stays one row.
    pub fn least_latent_edge(&self) -> usize {
        match (self.levels.len(), self.downsample_padding) {
            (0 | 1, _) | (_, 1..) => 1,
            (levels, 0) => 1 << (levels - 1),
        }
    }

    /// Features of the time embedding's input.
    fn time_features(&self) -> usize {
        self.levels[0].channels
    }

    /// The input `time: [B, features]` of `dtype` for a timestep.
    pub fn time_input(&self, timestep: f64, batch: usize, dtype: DType) -> HostTensor {
        let features = self.time_features();
        let row = self.sinusoids(timestep, features);
        HostTensor::new(TensorType::new(dtype, [batch, features]), row.repeat(batch))
    }

    /// The input `added: [B, features]` of `dtype`: `pooled: [B, P]` and the sinusoids of `numbers: [B, n]`; `None` if the
    /// configuration has no such embedding.
    ///
    /// # Panics
    /// If they do not make up its features: a programming error.
    pub fn added_input(&self, pooled: &HostTensor, numbers: &HostTensor, dtype: DType) -> Option<HostTensor> {
        let added = self.added?;
        let rows = pooled.data().chunks(pooled.shape().channels());
        let values =
            rows.zip(numbers.data().chunks(numbers.shape().channels())).flat_map(|(pooled, numbers)| {
                let sinusoids = numbers.iter().map(|n| self.sinusoids(f64::from(*n), added.time_features));
                [pooled.to_vec()].into_iter().chain(sinusoids).flatten()
            });
        let ty = TensorType::new(dtype, [pooled.shape()[0], added.features]);
        Some(HostTensor::new(ty, values.collect()))
    }

    fn sinusoids(&self, number: f64, features: usize) -> Vec<f32> {
        time_embedding(number, features, self.flip_sin_to_cos, self.freq_shift)
    }
}

fn read_added(config: &Config) -> Result<Option<AddedConfig>, Error> {
    let features = config.count("projection_class_embeddings_input_dim", SANE_CHANNELS)?;
    let time_features = config.count("addition_time_embed_dim", SANE_CHANNELS)?;
    match config.get::<String>("addition_embed_type")?.as_deref() {
        None => Ok(None),
        Some("text_time") => {
            let Some(features) = features else {
                let what = "the features that 'text_time' embeds";
                return Err(config.unexpected("projection_class_embeddings_input_dim", what).into());
            };
            let Some(time_features) = time_features else {
                return Err(config.unexpected("addition_time_embed_dim", "the sinusoids of a number").into());
            };
            Ok(Some(AddedConfig { features, time_features }))
        }
        Some(_) => Err(config.unsupported("addition_embed_type", "photogram knows text_time").into()),
    }
}

fn odd(config: &Config, key: &str) -> Result<usize, Error> {
    let size = config.count(key, 1..=15)?.unwrap_or(3);
    if size % 2 == 1 { Ok(size) } else { Err(config.unexpected(key, "an odd number").into()) }
}

fn read_levels(config: &Config) -> Result<Vec<UNetLevel>, Error> {
    let default_channels = vec![320, 640, 1280, 1280];
    let channels: Vec<usize> = config.or("block_out_channels", default_channels)?;
    let n = channels.len();
    if n == 0 || n > 8 || channels.iter().any(|c| !SANE_CHANNELS.contains(c)) {
        return Err(config.unexpected("block_out_channels", "1 to 8 counts of channels").into());
    }
    let layers = per_level(config, "layers_per_block", 2, n)?;
    let transformer_layers = per_level(config, "transformer_layers_per_block", 1, n)?;
    // Diffusers' `attention_head_dim` is the number of heads in these networks: diffusers issue 2011.
    let heads = per_level(config, "attention_head_dim", 8, n)?;
    let down = attention_of(config, "down_block_types", n, ["DownBlock2D", "CrossAttnDownBlock2D"])?;
    let mut up = attention_of(config, "up_block_types", n, ["UpBlock2D", "CrossAttnUpBlock2D"])?;
    up.reverse();
    let levels: Vec<UNetLevel> = (0..n)
        .map(|i| UNetLevel {
            channels: channels[i],
            layers: layers[i],
            heads: heads[i],
            transformer_layers: transformer_layers[i],
            attention_down: down[i],
            attention_up: up[i],
        })
        .collect();
    match levels.iter().find(|level| level.channels % level.heads != 0) {
        Some(level) => {
            Err(config.unexpected("attention_head_dim", format!("divisors of {}", level.channels)).into())
        }
        None => Ok(levels),
    }
}

fn per_level(config: &Config, key: &str, default: usize, n: usize) -> Result<Vec<usize>, Error> {
    let values = config.or(key, OneOrMany::One(default))?.per_block(n);
    match values {
        Some(values) if values.iter().all(|v| SANE_LAYERS.contains(v)) => Ok(values),
        _ => Err(config.unexpected(key, format!("a number from 1 to 256, or {n} of them")).into()),
    }
}

/// For each block, whether its type is the second of `types`, the one with attention, or the first.
fn attention_of(config: &Config, key: &str, n: usize, types: [&str; 2]) -> Result<Vec<bool>, Error> {
    let plain_last = |i| if types[0].starts_with("Down") { i == n - 1 } else { i == 0 };
    let default = (0..n).map(|i| types[usize::from(!plain_last(i))].to_owned()).collect();
    let blocks: Vec<String> = config.or(key, default)?;
    if blocks.len() != n {
        return Err(config.unexpected(key, format!("{n} block types")).into());
    }
    match blocks.iter().find(|block| !types.contains(&block.as_str())) {
        Some(_) => {
            Err(config.unsupported(key, format!("photogram knows {} and {}", types[0], types[1])).into())
        }
        None => Ok(blocks.iter().map(|block| block == types[1]).collect()),
    }
}

/// Refuses the options that make other networks of this class: upscalers, instruct models, unCLIP.
fn refuse_other_networks(config: &Config) -> Result<(), Error> {
    only_silu(config)?;
    only(config, "_class_name", "UNet2DConditionModel".to_owned())?;
    only(config, "mid_block_type", "UNetMidBlock2DCrossAttn".to_owned())?;
    only(config, "time_embedding_type", "positional".to_owned())?;
    only(config, "resnet_time_scale_shift", "default".to_owned())?;
    only(config, "mid_block_scale_factor", 1.0)?;
    only(config, "resnet_out_scale_factor", 1.0)?;
    for key in ["resnet_skip_time_act", "dual_cross_attention", "class_embeddings_concat"] {
        only(config, key, false)?;
    }
    only(config, "only_cross_attention", OneOrMany::One(false))?;
    only(config, "mid_block_only_cross_attention", false)?;
    only(config, "attention_type", "default".to_owned())?;
    // Sums and softmax are f32 here whatever the weights are: nothing is left to cast up.
    config.get::<bool>("upcast_attention")?;
    config.value("addition_embed_type_num_heads");
    only_null(
        config,
        &[
            "class_embed_type",
            "cross_attention_norm",
            "encoder_hid_dim",
            "encoder_hid_dim_type",
            "num_attention_heads",
            "num_class_embeds",
            "reverse_transformer_layers_per_block",
            "time_cond_proj_dim",
            "time_embedding_act_fn",
            "time_embedding_dim",
            "timestep_post_act",
        ],
    )
}

/// The UNet with its weights.
pub struct UNet {
    /// Its shape.
    pub config: UNetConfig,
    /// Its weights.
    pub weights: Weights,
}

impl UNet {
    /// The UNet in `checkpoint`.
    pub fn new(config: UNetConfig, checkpoint: &Checkpoint, f16: bool) -> Self {
        UNet { config, weights: Weights::new(checkpoint.clone(), f16) }
    }

    /// A network without anything in it, to put the UNet and what surrounds it into.
    pub fn net(&self) -> Net<'_> {
        Net::new("unet", &self.weights)
    }

    /// The embedding of the timestep, and of what is added to it, after its SiLU: input `time: [B, features]`, sinusoids made on
    /// the host, and `added: [B, features]` if the configuration has such an embedding.
    fn time(&self, net: &mut Net<'_>, batch: usize, dtype: DType) -> Result<ValueId, Error> {
        let features = self.config.time_features();
        let time = net.input("time", TensorType::new(dtype, [batch, features]), Rate::Step);
        let width = 4 * features;
        let mut embedded = embedding(net, "time_embedding", time, width)?;
        if let Some(config) = &self.config.added {
            let added = net.input("added", TensorType::new(dtype, [batch, config.features]), Rate::Prompt);
            let added = embedding(net, "add_embedding", added, width)?;
            embedded = net.add(embedded, added)?;
        }
        net.silu(embedded)
    }

    /// The prediction for latents `x: [B, H, W, C]` under `context: [B, S, D]`, whose type the activations have; adds the input `time: [B, features]`, and
    /// `added: [B, features]` if the configuration has it.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn forward(&self, net: &mut Net<'_>, x: ValueId, context: ValueId) -> Result<ValueId, Error> {
        let config = &self.config;
        let n = config.levels.len();
        let (batch, dtype) = (net.extent(x, 0), net.dtype(context));
        let time = self.time(net, batch, dtype)?;

        let h = net.conv2d("conv_in", x, config.levels[0].channels, Kernel::same(config.conv_in_kernel))?;
        let mut h = net.cast(h, dtype)?;
        let mut skips = vec![h];
        for (i, level) in config.levels.iter().enumerate() {
            for layer in 0..level.layers {
                h = self.resnet(net, &format!("down_blocks.{i}.resnets.{layer}"), h, time, level.channels)?;
                if level.attention_down {
                    h = self.transformer(
                        net,
                        &format!("down_blocks.{i}.attentions.{layer}"),
                        h,
                        context,
                        level,
                    )?;
                }
                skips.push(h);
            }
            if i + 1 < n {
                let padding = if config.downsample_padding == 0 { [0, 1, 0, 1] } else { [1; 4] };
                let halving = Kernel { size: 3, stride: 2, padding };
                h = net.module(&format!("down_blocks.{i}.downsamplers.0"), |net| {
                    net.conv2d("conv", h, level.channels, halving)
                })?;
                skips.push(h);
            }
        }

        let smallest = &config.levels[n - 1];
        h = self.resnet(net, "mid_block.resnets.0", h, time, smallest.channels)?;
        h = self.transformer(net, "mid_block.attentions.0", h, context, smallest)?;
        h = self.resnet(net, "mid_block.resnets.1", h, time, smallest.channels)?;

        for (i, level) in config.levels.iter().rev().enumerate() {
            for layer in 0..=level.layers {
                let skip = skips.pop().expect("one skip for every block on the way up");
                h = net.apply(Concat { axis: 3 }, &[h, skip])?;
                h = self.resnet(net, &format!("up_blocks.{i}.resnets.{layer}"), h, time, level.channels)?;
                if level.attention_up {
                    h = self.transformer(
                        net,
                        &format!("up_blocks.{i}.attentions.{layer}"),
                        h,
                        context,
                        level,
                    )?;
                }
            }
            if let Some(next) = skips.last().copied() {
                let (height, width) = (net.extent(next, 1), net.extent(next, 2));
                h = net.module(&format!("up_blocks.{i}.upsamplers.0"), |net| {
                    let larger = net.apply(Upsample { height, width }, &[h])?;
                    net.conv2d("conv", larger, level.channels, Kernel::THREE)
                })?;
            }
        }
        let normed = net.group_norm("conv_norm_out", h, config.groups, config.eps)?;
        let active = net.silu(normed)?;
        net.conv2d("conv_out", active, config.out_channels, Kernel::same(config.conv_out_kernel))
    }

    fn resnet(
        &self,
        net: &mut Net<'_>,
        name: &str,
        x: ValueId,
        time: ValueId,
        outputs: usize,
    ) -> Result<ValueId, Error> {
        let config = ResnetConfig { outputs, groups: self.config.groups, eps: self.config.eps };
        net.resnet(name, x, Some(time), config)
    }

    fn transformer(
        &self,
        net: &mut Net<'_>,
        name: &str,
        x: ValueId,
        context: ValueId,
        level: &UNetLevel,
    ) -> Result<ValueId, Error> {
        let config = TransformerConfig {
            heads: level.heads,
            layers: level.transformer_layers,
            groups: self.config.groups,
            linear_projection: self.config.linear_projection,
        };
        net.transformer_2d(name, x, context, config)
    }
}

/// diffusers' TimestepEmbedding: two linear layers with a SiLU between them.
fn embedding(net: &mut Net<'_>, name: &str, x: ValueId, width: usize) -> Result<ValueId, Error> {
    net.module(name, |net| {
        let hidden = net.linear("linear_1", x, width, true)?;
        let active = net.silu(hidden)?;
        net.linear("linear_2", active, width, true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_numbers_are_embedded_as_timesteps_are() {
        let config = UNetConfig {
            flip_sin_to_cos: false,
            freq_shift: 1.0,
            added: Some(AddedConfig { features: 642, time_features: 320 }),
            ..UNetConfig::stable_diffusion_1()
        };
        let pooled = HostTensor::f32([1, 2], vec![7.0, 8.0]);
        let numbers = HostTensor::f32([1, 2], vec![512.0, 3.0]);
        let added = config.added_input(&pooled, &numbers, DType::F32).expect("it has such an embedding");
        let expected =
            [512.0, 3.0].map(|number| config.time_input(number, 1, DType::F32).into_data()).concat();
        assert_eq!(added.data()[..2], [7.0, 8.0]);
        assert_eq!(added.data()[2..], expected);
    }
}

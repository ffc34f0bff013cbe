//! Stable Diffusion 1.x at its real size without its weights: headers that say what the published files say, over zeros.
//!
//! Source: the module trees of diffusers' UNet2DConditionModel and AutoencoderKL and transformers' CLIPTextModel.

use std::sync::Arc;

use loaders::safetensors::Limits;
use loaders::{Checkpoint, Reading, Source};
use pollster::block_on;

/// Names and shapes of tensors.
#[derive(Default)]
pub struct Tensors(pub Vec<(String, Vec<usize>)>);

/// Channels of the UNet's levels.
const UNET: [usize; 4] = [320, 640, 1280, 1280];
/// Features of the time embedding.
const TIME: usize = 1280;
/// Features of a token.
const CONTEXT: usize = 768;
/// Channels of the autoencoder's levels.
const VAE: [usize; 4] = [128, 256, 512, 512];

/// The UNet's tensors.
pub fn unet() -> Tensors {
    let mut t = Tensors::default();
    t.layer("conv_in", &[UNET[0], 4, 3, 3]);
    t.layer("time_embedding.linear_1", &[TIME, UNET[0]]);
    t.layer("time_embedding.linear_2", &[TIME, TIME]);
    let mut skips = vec![UNET[0]];
    let mut inputs = UNET[0];
    for (level, channels) in UNET.into_iter().enumerate() {
        let block = format!("down_blocks.{level}");
        for layer in 0..2 {
            t.resnet(&format!("{block}.resnets.{layer}"), inputs, channels, Some(TIME));
            if level < 3 {
                t.transformer(&format!("{block}.attentions.{layer}"), channels);
            }
            inputs = channels;
            skips.push(channels);
        }
        if level < 3 {
            t.layer(&format!("{block}.downsamplers.0.conv"), &[channels, channels, 3, 3]);
            skips.push(channels);
        }
    }
    t.resnet("mid_block.resnets.0", inputs, inputs, Some(TIME));
    t.transformer("mid_block.attentions.0", inputs);
    t.resnet("mid_block.resnets.1", inputs, inputs, Some(TIME));
    for (level, channels) in UNET.into_iter().rev().enumerate() {
        let block = format!("up_blocks.{level}");
        for layer in 0..3 {
            let skip = skips.pop().expect("one skip for every block on the way up");
            t.resnet(&format!("{block}.resnets.{layer}"), inputs + skip, channels, Some(TIME));
            if level > 0 {
                t.transformer(&format!("{block}.attentions.{layer}"), channels);
            }
            inputs = channels;
        }
        if level < 3 {
            t.layer(&format!("{block}.upsamplers.0.conv"), &[channels, channels, 3, 3]);
        }
    }
    t.norm("conv_norm_out", UNET[0]);
    t.layer("conv_out", &[4, UNET[0], 3, 3]);
    t
}

/// The autoencoder's tensors.
pub fn vae() -> Tensors {
    let mut t = Tensors::default();
    t.layer("encoder.conv_in", &[VAE[0], 3, 3, 3]);
    let mut inputs = VAE[0];
    for (level, channels) in VAE.into_iter().enumerate() {
        for layer in 0..2 {
            t.resnet(&format!("encoder.down_blocks.{level}.resnets.{layer}"), inputs, channels, None);
            inputs = channels;
        }
        if level < 3 {
            let halving = format!("encoder.down_blocks.{level}.downsamplers.0.conv");
            t.layer(&halving, &[channels, channels, 3, 3]);
        }
    }
    t.vae_middle("encoder.mid_block", inputs);
    t.norm("encoder.conv_norm_out", inputs);
    t.layer("encoder.conv_out", &[8, inputs, 3, 3]);
    t.layer("quant_conv", &[8, 8, 1, 1]);
    t.layer("post_quant_conv", &[4, 4, 1, 1]);
    t.layer("decoder.conv_in", &[inputs, 4, 3, 3]);
    t.vae_middle("decoder.mid_block", inputs);
    for (level, channels) in VAE.into_iter().rev().enumerate() {
        for layer in 0..3 {
            t.resnet(&format!("decoder.up_blocks.{level}.resnets.{layer}"), inputs, channels, None);
            inputs = channels;
        }
        if level < 3 {
            let doubling = format!("decoder.up_blocks.{level}.upsamplers.0.conv");
            t.layer(&doubling, &[channels, channels, 3, 3]);
        }
    }
    t.norm("decoder.conv_norm_out", inputs);
    t.layer("decoder.conv_out", &[3, inputs, 3, 3]);
    t
}

/// The text encoder's tensors.
pub fn text_encoder() -> Tensors {
    let mut t = Tensors::default();
    t.0.push(("text_model.embeddings.token_embedding.weight".to_owned(), vec![49_408, CONTEXT]));
    t.0.push(("text_model.embeddings.position_embedding.weight".to_owned(), vec![77, CONTEXT]));
    for layer in 0..12 {
        let layer = format!("text_model.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            t.layer(&format!("{layer}.self_attn.{projection}"), &[CONTEXT, CONTEXT]);
        }
        t.norm(&format!("{layer}.layer_norm1"), CONTEXT);
        t.layer(&format!("{layer}.mlp.fc1"), &[4 * CONTEXT, CONTEXT]);
        t.layer(&format!("{layer}.mlp.fc2"), &[CONTEXT, 4 * CONTEXT]);
        t.norm(&format!("{layer}.layer_norm2"), CONTEXT);
    }
    t.norm("text_model.final_layer_norm", CONTEXT);
    t
}

impl Tensors {
    /// Number of values in all tensors.
    pub fn n_values(&self) -> usize {
        self.0.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// A checkpoint in f16 that holds these tensors.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, shape) in &self.0 {
            let begin = end;
            end += 2 * shape.iter().product::<usize>();
            let entry = serde_json::json!({ "dtype": "F16", "shape": shape, "data_offsets": [begin, end] });
            header.insert(name.clone(), entry);
        }
        let json = serde_json::Value::Object(header).to_string();
        let mut head = (json.len() as u64).to_le_bytes().to_vec();
        head.extend(json.bytes());
        let source = Zeros { len: (head.len() + end) as u64, head };
        block_on(Checkpoint::from_source(Arc::new(source), &Limits::default())).expect("a sound header")
    }

    fn layer(&mut self, name: &str, weight: &[usize]) {
        self.0.push((format!("{name}.weight"), weight.to_vec()));
        self.0.push((format!("{name}.bias"), vec![weight[0]]));
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.layer(name, &[channels]);
    }

    fn resnet(&mut self, name: &str, inputs: usize, outputs: usize, time: Option<usize>) {
        self.norm(&format!("{name}.norm1"), inputs);
        self.layer(&format!("{name}.conv1"), &[outputs, inputs, 3, 3]);
        if let Some(features) = time {
            self.layer(&format!("{name}.time_emb_proj"), &[outputs, features]);
        }
        self.norm(&format!("{name}.norm2"), outputs);
        self.layer(&format!("{name}.conv2"), &[outputs, outputs, 3, 3]);
        if inputs != outputs {
            self.layer(&format!("{name}.conv_shortcut"), &[outputs, inputs, 1, 1]);
        }
    }

    fn transformer(&mut self, name: &str, channels: usize) {
        self.norm(&format!("{name}.norm"), channels);
        self.layer(&format!("{name}.proj_in"), &[channels, channels, 1, 1]);
        let block = format!("{name}.transformer_blocks.0");
        for (attention, memory) in [("attn1", channels), ("attn2", CONTEXT)] {
            for (projection, inputs) in [("to_q", channels), ("to_k", memory), ("to_v", memory)] {
                self.0.push((format!("{block}.{attention}.{projection}.weight"), vec![channels, inputs]));
            }
            self.layer(&format!("{block}.{attention}.to_out.0"), &[channels, channels]);
        }
        for norm in ["norm1", "norm2", "norm3"] {
            self.norm(&format!("{block}.{norm}"), channels);
        }
        self.layer(&format!("{block}.ff.net.0.proj"), &[8 * channels, channels]);
        self.layer(&format!("{block}.ff.net.2"), &[channels, 4 * channels]);
        self.layer(&format!("{name}.proj_out"), &[channels, channels, 1, 1]);
    }

    fn vae_middle(&mut self, name: &str, channels: usize) {
        self.resnet(&format!("{name}.resnets.0"), channels, channels, None);
        self.norm(&format!("{name}.attentions.0.group_norm"), channels);
        for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
            self.layer(&format!("{name}.attentions.0.{projection}"), &[channels, channels]);
        }
        self.resnet(&format!("{name}.resnets.1"), channels, channels, None);
    }
}

/// A header, and zeros for every tensor.
struct Zeros {
    head: Vec<u8>,
    len: u64,
}

impl Source for Zeros {
    fn label(&self) -> &str {
        "zeros.safetensors"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at<'a>(&'a self, offset: u64, into: &'a mut [u8]) -> Reading<'a> {
        into.fill(0);
        let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(self.head.len());
        let end = begin.saturating_add(into.len()).min(self.head.len());
        into[..end - begin].copy_from_slice(&self.head[begin..end]);
        Box::pin(std::future::ready(Ok(())))
    }
}

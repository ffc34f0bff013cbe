//! What single files leave out: configurations, tokenizers and schedulers of the families they belong to.
//!
//! Source: the configuration files of the models that Stability AI and Runway published as diffusers folders.

use loaders::Tokenizer;
use serde_json::{Map, Value, json};

use super::conditioning::AddedNumbers;
use super::model::Family;
use super::request::PredictionType;
use super::single_file::{Family as FileFamily, Training};
use crate::error::Error;
use crate::models::{ClipTextConfig, UNetConfig, VaeKlConfig};

/// A family's configuration.
pub(super) struct Preset {
    pub(super) family: Family,
    /// One for each text encoder of the family, in its order.
    pub(super) text: Vec<TextPreset>,
    pub(super) unet: UNetConfig,
    pub(super) vae: VaeKlConfig,
    pub(super) added: Option<AddedNumbers>,
    pub(super) zeros_for_no_prompt: bool,
}

/// A text encoder's configuration.
pub(super) struct TextPreset {
    pub(super) config: ClipTextConfig,
    /// Whether prompts are padded with `!`, as OpenCLIP does with its token 0.
    pads_with_zero: bool,
}

impl TextPreset {
    fn clip(config: ClipTextConfig) -> Self {
        TextPreset { config, pads_with_zero: false }
    }

    fn open_clip(config: ClipTextConfig) -> Self {
        TextPreset { config, pads_with_zero: true }
    }

    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Error> {
        Ok(if self.pads_with_zero { Tokenizer::open_clip()? } else { Tokenizer::clip()? })
    }
}

impl Preset {
    pub(super) fn of(file: FileFamily) -> Preset {
        let (vit_l, vit_h) = (ClipTextConfig::clip_vit_large(), ClipTextConfig::open_clip_vit_h());
        let vit_big_g = ClipTextConfig::open_clip_vit_big_g();
        match file {
            FileFamily::StableDiffusion1 => Preset {
                family: Family::StableDiffusion,
                text: vec![TextPreset::clip(vit_l)],
                unet: UNetConfig::stable_diffusion_1(),
                vae: vae(Family::StableDiffusion),
                added: None,
                zeros_for_no_prompt: false,
            },
            FileFamily::StableDiffusion2 => Preset {
                text: vec![TextPreset::open_clip(vit_h)],
                unet: UNetConfig::stable_diffusion_2(),
                ..Preset::of(FileFamily::StableDiffusion1)
            },
            FileFamily::StableDiffusionXl => Preset {
                family: Family::StableDiffusionXl,
                text: vec![TextPreset::clip(vit_l), TextPreset::open_clip(vit_big_g)],
                unet: UNetConfig::stable_diffusion_xl(),
                vae: vae(Family::StableDiffusionXl),
                added: Some(AddedNumbers::Sizes),
                zeros_for_no_prompt: true,
            },
            FileFamily::StableDiffusionXlRefiner => Preset {
                family: Family::StableDiffusionXlRefiner,
                text: vec![TextPreset::open_clip(vit_big_g)],
                unet: UNetConfig::stable_diffusion_xl_refiner(),
                added: Some(AddedNumbers::Score),
                zeros_for_no_prompt: false,
                ..Preset::of(FileFamily::StableDiffusionXl)
            },
        }
    }
}

impl Preset {
    /// The preset of a model of the family that was trained so.
    pub(super) fn trained(file: FileFamily, training: Training) -> Self {
        let mut preset = Preset::of(file);
        if file == FileFamily::StableDiffusion2 && training.prediction == PredictionType::Epsilon {
            // Those that predict noise were trained on 512x512, those that predict velocity on 768x768.
            preset.unet.sample_size = 64;
        }
        preset
    }
}

/// The autoencoder that models of a family ship with.
pub(super) fn vae(family: Family) -> VaeKlConfig {
    match family {
        Family::StableDiffusion => VaeKlConfig::stable_diffusion_1(),
        Family::StableDiffusionXl | Family::StableDiffusionXlRefiner => VaeKlConfig::stable_diffusion_xl(),
    }
}

/// The scheduler that models of a family ship with.
pub(super) fn scheduler(file: FileFamily, training: Training) -> Map<String, Value> {
    let own = match file {
        FileFamily::StableDiffusion1 => json!({
            "_class_name": "PNDMScheduler",
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "clip_sample": false,
        }),
        FileFamily::StableDiffusion2 => json!({
            "_class_name": "DDIMScheduler",
            "set_alpha_to_one": false,
            "clip_sample": false,
        }),
        FileFamily::StableDiffusionXl | FileFamily::StableDiffusionXlRefiner => json!({
            "_class_name": "EulerDiscreteScheduler",
            // The last timestep, all noise, is the one that rescaling is about: leading spacing never visits it.
            "timestep_spacing": if training.zero_terminal_snr { "trailing" } else { "leading" },
            "rescale_betas_zero_snr": training.zero_terminal_snr,
        }),
    };
    let shared = json!({
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "steps_offset": 1,
        "prediction_type": training.prediction.name(),
    });
    [shared, own].into_iter().filter_map(|keys| keys.as_object().cloned()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samplers::{Method, Request};

    const FAMILIES: [FileFamily; 4] = [
        FileFamily::StableDiffusion1,
        FileFamily::StableDiffusion2,
        FileFamily::StableDiffusionXl,
        FileFamily::StableDiffusionXlRefiner,
    ];

    fn config(values: Value) -> loaders::Config {
        let source = loaders::BytesSource::new("config.json", values.to_string().into_bytes());
        pollster::block_on(loaders::Config::read(&source)).expect("an object")
    }

    /// As the published folders have it, without what only says what the class's default is, and with 1 for the depth of a level
    /// without attention; their `eos_token_id` of 2 means
    /// the token with the highest number.
    #[test]
    fn presets_are_the_published_configurations() {
        let (down, up) = (["DownBlock2D", "CrossAttnDownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]);
        let levels = |types: [&str; 2], attention: &[usize]| -> Value {
            attention.iter().map(|i| types[*i]).collect::<Vec<_>>().into()
        };
        let sd1 = json!({
            "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": levels(down, &[1, 1, 1, 0]), "up_block_types": levels(up, &[0, 1, 1, 1]),
        });
        let sd2 = json!({
            "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
            "block_out_channels": [320, 640, 1280, 1280], "use_linear_projection": true, "upcast_attention": true,
            "down_block_types": levels(down, &[1, 1, 1, 0]), "up_block_types": levels(up, &[0, 1, 1, 1]),
        });
        let xl = json!({
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": true, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "down_block_types": levels(down, &[0, 1, 1]), "up_block_types": levels(up, &[1, 1, 0]),
        });
        let refiner = json!({
            "sample_size": 128, "cross_attention_dim": 1280, "attention_head_dim": [6, 12, 24, 24],
            "block_out_channels": [384, 768, 1536, 1536], "transformer_layers_per_block": [1, 4, 4, 4],
            "use_linear_projection": true, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2560,
            "down_block_types": levels(down, &[0, 1, 1, 0]), "up_block_types": levels(up, &[0, 1, 1, 0]),
        });
        let text = |width: usize, heads: usize, layers: usize, projection: usize, activation: &str| {
            json!({
                "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads,
                "num_hidden_layers": layers, "projection_dim": projection, "hidden_act": activation,
                "vocab_size": 49408, "max_position_embeddings": 77, "layer_norm_eps": 1e-5, "eos_token_id": 49407,
            })
        };
        let vit_l = || text(768, 12, 12, 768, "quick_gelu");
        let (vit_h, big_g) = (text(1024, 16, 23, 512, "gelu"), || text(1280, 20, 32, 1280, "gelu"));
        let vae = |scaling: f64| {
            let blocks = |word: &str| vec![format!("{word}EncoderBlock2D"); 4];
            json!({
                "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
                "norm_num_groups": 32, "scaling_factor": scaling, "force_upcast": true,
                "down_block_types": blocks("Down"),
                "up_block_types": blocks("Up").iter().map(|t| t.replace("Encoder", "Decoder")).collect::<Vec<_>>(),
            })
        };
        // UNet, VAE, text encoders with whether `!` pads, whether zeros stand for no prompt, numbers.
        let published = [
            (sd1, vae(0.18215), vec![(vit_l(), false)], false, None),
            (sd2, vae(0.18215), vec![(vit_h, true)], false, None),
            (xl, vae(0.13025), vec![(vit_l(), false), (big_g(), true)], true, Some(AddedNumbers::Sizes)),
            (refiner, vae(0.13025), vec![(big_g(), true)], false, Some(AddedNumbers::Score)),
        ];
        for (file, (unet, vae, text, zeros, added)) in FAMILIES.into_iter().zip(published) {
            let preset = Preset::of(file);
            assert_eq!(UNetConfig::read(&config(unet)).expect("sound"), preset.unet, "{file:?}");
            assert_eq!(VaeKlConfig::read(&config(vae)).expect("sound"), preset.vae, "{file:?}");
            assert_eq!(preset.text.len(), text.len(), "{file:?}");
            for ((text, pads), preset) in text.into_iter().zip(preset.text) {
                assert_eq!(ClipTextConfig::read(&config(text)).expect("sound"), preset.config, "{file:?}");
                assert_eq!(pads, preset.pads_with_zero, "{file:?}");
            }
            assert_eq!((preset.zeros_for_no_prompt, preset.added), (zeros, added), "{file:?}");
        }
    }

    #[test]
    fn schedulers_are_the_published_ones() {
        let published = [
            json!({"_class_name": "PNDMScheduler", "set_alpha_to_one": false, "skip_prk_steps": true,
                "clip_sample": false, "steps_offset": 1, "prediction_type": "epsilon"}),
            json!({"_class_name": "DDIMScheduler", "set_alpha_to_one": false, "clip_sample": false,
                "steps_offset": 1, "prediction_type": "v_prediction"}),
            json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1,
                "rescale_betas_zero_snr": false, "prediction_type": "epsilon"}),
            json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1,
                "rescale_betas_zero_snr": false, "prediction_type": "epsilon"}),
        ];
        let betas = json!({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000});
        for (file, published) in FAMILIES.into_iter().zip(published) {
            let prediction = match file {
                FileFamily::StableDiffusion2 => PredictionType::V,
                _ => PredictionType::Epsilon,
            };
            let found = scheduler(file, Training { prediction, zero_terminal_snr: false });
            let keys = [&published, &betas].into_iter().filter_map(Value::as_object).flatten();
            let expected: Map<String, Value> =
                keys.map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(found, expected, "{file:?}");
        }
    }

    #[test]
    fn models_of_noise_and_of_velocity_were_trained_on_different_sizes() {
        let edge = |prediction| {
            let training = Training { prediction, zero_terminal_snr: false };
            Preset::trained(FileFamily::StableDiffusion2, training).unet.sample_size
        };
        assert_eq!((edge(PredictionType::Epsilon), edge(PredictionType::V)), (64, 96));
    }

    #[test]
    fn the_parts_of_a_preset_fit_together() {
        for file in FAMILIES {
            let preset = Preset::of(file);
            let parts = preset.family.text_parts();
            assert_eq!(preset.text.len(), parts.len(), "{file:?}");
            let width: usize = preset.text.iter().map(|text| text.config.width).sum();
            assert_eq!(width, preset.unet.cross_attention_dim, "{file:?}");
            assert_eq!(preset.vae.latent_channels, preset.unet.in_channels, "{file:?}");
            let pooled = preset.text.iter().zip(parts).find(|(_, part)| part.outputs.pooled);
            let added =
                pooled.zip(preset.added).zip(preset.unet.added).map(|(((text, _), numbers), unet)| {
                    (text.config.projection + numbers.count() * unet.time_features, unet.features)
                });
            assert_eq!(added.is_some(), preset.unet.added.is_some(), "{file:?}");
            assert!(added.is_none_or(|(expected, found)| expected == found), "{file:?}: {added:?}");
        }
    }

    #[test]
    fn every_scheduler_of_a_preset_plans_a_run() {
        for file in FAMILIES {
            for prediction in [PredictionType::Epsilon, PredictionType::V] {
                for zero_terminal_snr in [false, true] {
                    let keys = scheduler(file, Training { prediction, zero_terminal_snr });
                    let method = Method::from_config("preset", &keys).expect("a sampler of ours");
                    let planned = method.plan("preset", &keys, &Request::whole(4));
                    let first = planned.expect("it can be followed").steps[0].timestep.0;
                    let is_xl = Preset::of(file).added.is_some();
                    // Where the last timestep is pure noise, a run begins there.
                    assert_eq!(first == 999.0, is_xl && zero_terminal_snr, "{file:?}: {first}");
                }
            }
        }
    }
}

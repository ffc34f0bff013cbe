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
    pub(super) fn trained(mut self, training: Training) -> Self {
        let is_sd2 = self.unet == UNetConfig::stable_diffusion_2();
        if is_sd2 && training.prediction == PredictionType::Epsilon {
            // Those that predict noise were trained on 512x512, those that predict velocity on 768x768.
            self.unet.sample_size = 64;
        }
        self
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

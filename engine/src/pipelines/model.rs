//! A model as its files give it: networks with their configurations, tokenizer and scheduler.

use std::path::Path;

use loaders::safetensors::Limits;
use loaders::{Checkpoint, Config, DiffusersFolder, Folder, Prefer, Tokenizer, part_checkpoint, part_config};
use serde_json::{Map, Value};

use super::absent::{Absent, PartWeights, text_shapes, unet_shapes, vae_shapes};
use super::conditioning::{AddedNumbers, TextEncoder};
use super::presets::{self, Preset};
use super::single_file;
use crate::error::Error;
use crate::models::{
    ClipText, ClipTextConfig, HiddenState, TextOutputs, UNet, UNetConfig, VaeKl, VaeKlConfig,
};

/// How activations, and weights stored as f32, are held on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f16 where the denoiser's weights have 16 bits and the adapter is a GPU, f32 otherwise.
    #[default]
    Auto,
    /// f32.
    F32,
    /// f16 storage, f32 sums; the autoencoder stays f32 where its configuration says that f16 overflows in it.
    F16,
}

impl Precision {
    pub(super) fn preferred_files(self) -> Prefer {
        if self == Precision::F32 { Prefer::Full } else { Prefer::Fp16 }
    }
}

/// Which network family a model belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x, 2.x and models of their shape.
    StableDiffusion,
    /// Stable Diffusion XL.
    StableDiffusionXl,
    /// The refiner of Stable Diffusion XL, which has one of its text encoders.
    StableDiffusionXlRefiner,
}

/// A text encoder of a family: its folder, its tokenizer's, and what is computed from a prompt.
pub(super) struct TextPart {
    pub(super) encoder: &'static str,
    pub(super) tokenizer: &'static str,
    pub(super) outputs: TextOutputs,
}

impl Family {
    /// The family of a diffusers folder.
    ///
    /// # Errors
    /// [`loaders::Error::Unsupported`] for other pipelines.
    pub(super) fn of_folder(folder: &DiffusersFolder) -> Result<Family, loaders::Error> {
        match folder.class() {
            "StableDiffusionPipeline" | "StableDiffusionImg2ImgPipeline" => Ok(Family::StableDiffusion),
            "StableDiffusionXLPipeline" | "StableDiffusionXLImg2ImgPipeline" => {
                let names_first = folder.part("text_encoder").is_some();
                Ok(if names_first { Family::StableDiffusionXl } else { Family::StableDiffusionXlRefiner })
            }
            _ => {
                let hint = "photogram runs StableDiffusionPipeline and StableDiffusionXLPipeline";
                Err(folder.index().unsupported("_class_name", hint))
            }
        }
    }

    /// Its name, as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Family::StableDiffusion => "Stable Diffusion",
            Family::StableDiffusionXl => "Stable Diffusion XL",
            Family::StableDiffusionXlRefiner => "a refiner of Stable Diffusion XL",
        }
    }

    /// The text encoders, in the order in which their contexts stand side by side.
    pub(super) fn text_parts(self) -> &'static [TextPart] {
        const ONLY: TextPart = TextPart {
            encoder: "text_encoder",
            tokenizer: "tokenizer",
            outputs: TextOutputs { context: HiddenState::Last, pooled: false },
        };
        const FIRST: TextPart =
            TextPart { outputs: TextOutputs { context: HiddenState::Penultimate, pooled: false }, ..ONLY };
        const SECOND: TextPart = TextPart {
            encoder: "text_encoder_2",
            tokenizer: "tokenizer_2",
            outputs: TextOutputs { context: HiddenState::Penultimate, pooled: true },
        };
        match self {
            Family::StableDiffusion => &[ONLY],
            Family::StableDiffusionXl => &[FIRST, SECOND],
            Family::StableDiffusionXlRefiner => &[SECOND],
        }
    }
}

/// A scheduler's configuration, as its file has it.
pub(super) struct SchedulerConfig {
    pub(super) file: String,
    pub(super) keys: Map<String, Value>,
}

/// A model, read as far as headers: weights stay in their files until a device wants them.
pub struct Model {
    /// What metadata and messages call it: the folder's or the file's name.
    pub name: String,
    /// Its family.
    pub family: Family,
    /// The text encoders, whose contexts stand side by side.
    pub text: Vec<TextEncoder>,
    /// The denoiser.
    pub unet: UNet,
    /// The autoencoder.
    pub vae: VaeKl,
    /// Another model that does the last steps.
    pub refiner: Option<Box<Model>>,
    pub(super) scheduler: SchedulerConfig,
    pub(super) precision: Precision,
    /// Which numbers the denoiser embeds besides the pooled prompt.
    pub(super) added: Option<AddedNumbers>,
    /// Whether zeros stand for a negative prompt that nobody gave.
    pub(super) zeros_for_no_prompt: bool,
}

impl Model {
    /// Opens the diffusers folder or the single file at `path`; its autoencoder is `vae`'s if that is given, and may then be
    /// missing.
    ///
    /// `vae` is an autoencoder's folder, that of a whole pipeline, or a file with one, under diffusers' names or ldm's.
    ///
    /// # Errors
    /// [`Error::Load`] naming file, tensor or key, what was expected and what was found.
    pub async fn open(path: &Path, vae: Option<&Path>, precision: Precision) -> Result<Model, Error> {
        // A folder may have a dot in its name that begins no extension: sd-v1.5.
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let name = stem.map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned());
        if path.is_dir() {
            return Model::from_folder(Folder::on_disk(path)?, name, vae, precision).await;
        }
        let file = Checkpoint::open(path, &Limits::default()).await?;
        Model::from_single_file(&file, name, vae, precision).await
    }

    /// The model in a diffusers folder, on disk or in memory; `vae` as in [`Model::open`].
    ///
    /// # Errors
    /// As [`Model::open`].
    pub async fn from_folder(
        folder: Folder,
        name: String,
        vae: Option<&Path>,
        precision: Precision,
    ) -> Result<Model, Error> {
        Model::from_parts(folder, name, vae, precision, None).await
    }

    async fn from_parts(
        folder: Folder,
        name: String,
        vae: Option<&Path>,
        precision: Precision,
        absent: Option<&mut Vec<Absent>>,
    ) -> Result<Model, Error> {
        let folder = DiffusersFolder::open(folder).await?;
        let family = Family::of_folder(&folder)?;
        let f16 = precision == Precision::F16;
        let mut weights = PartWeights { folder: &folder, precision, absent };
        let mut text = Vec::new();
        for part in family.text_parts() {
            let config = ClipTextConfig::read(&folder.config(part.encoder).await?)?;
            let checkpoint = weights.of(part.encoder, || text_shapes(part, &config)).await?;
            text.push(TextEncoder {
                tokenizer: Tokenizer::open(&folder.part_folder(part.tokenizer)?).await?,
                network: ClipText::new(part.encoder, config, &checkpoint, f16)?,
                outputs: part.outputs,
            });
        }
        let unet = UNetConfig::read(&folder.config("unet").await?)?;
        let vae = match vae {
            Some(path) => {
                // Only what a file leaves out is taken from a folder that may not be there.
                let own = match folder.folder().folder("vae")? {
                    Some(own) => Some(VaeKlConfig::read(&part_config(&own).await?)?),
                    None => None,
                };
                let own = own.unwrap_or_else(|| presets::vae(family));
                open_vae(path, &own, unet.in_channels, precision).await?
            }
            None => {
                let config = VaeKlConfig::read(&folder.config("vae").await?)?;
                let checkpoint = weights.of("vae", || vae_shapes(&config)).await?;
                VaeKl::new(config, &checkpoint, f16)?
            }
        };
        let checkpoint = weights.of("unet", || unet_shapes(&unet)).await?;
        let index = folder.index();
        let has_score = index.or("requires_aesthetics_score", false)?;
        let numbers = if has_score { AddedNumbers::Score } else { AddedNumbers::Sizes };
        let model = Model {
            name,
            family,
            text,
            unet: UNet::new(unet, &checkpoint, f16),
            vae,
            refiner: None,
            scheduler: scheduler_config(&folder.config("scheduler").await?),
            precision,
            added: (family != Family::StableDiffusion).then_some(numbers),
            zeros_for_no_prompt: family != Family::StableDiffusion
                && index.or("force_zeros_for_empty_prompt", true)?,
        };
        model.check_parts_fit(index.file())?;
        Ok(model)
    }

    /// The model in the diffusers folder at `path`, of which weights may be missing: those that are not there are assumed to be
    /// what their configurations say, of f16 unless `precision` is f32. It can be planned with, not drawn with.
    ///
    /// # Errors
    /// As [`Model::open`], for what is not a folder, and for configurations, tokenizers and schedulers that are missing.
    pub async fn open_incomplete(
        path: &Path,
        vae: Option<&Path>,
        precision: Precision,
    ) -> Result<(Model, Vec<Absent>), Error> {
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned());
        let mut absent = Vec::new();
        let folder = Folder::on_disk(path)?;
        let model = Model::from_parts(folder, name, vae, precision, Some(&mut absent)).await?;
        Ok((model, absent))
    }

    async fn from_single_file(
        file: &Checkpoint,
        name: String,
        vae: Option<&Path>,
        precision: Precision,
    ) -> Result<Model, Error> {
        let kind = single_file::require_family(file)?;
        let text_encoders: Vec<Checkpoint> =
            kind.text_encoders().iter().map(|part| part.of(file)).collect::<Result<_, _>>()?;
        let denoiser = single_file::UNET.of(file)?;
        let training = single_file::training(file, kind).await?;
        let Preset { family, text: presets, unet, vae: vae_config, added, zeros_for_no_prompt } =
            Preset::trained(kind, training);
        let f16 = precision == Precision::F16;
        let vae = match vae {
            Some(path) => open_vae(path, &vae_config, unet.in_channels, precision).await?,
            None => VaeKl::new(vae_config, &single_file::VAE.of(file)?, f16)?,
        };
        let mut text = Vec::new();
        let encoders = text_encoders.iter().zip(presets).zip(family.text_parts());
        for ((checkpoint, preset), part) in encoders {
            text.push(TextEncoder {
                tokenizer: preset.tokenizer()?,
                network: ClipText::new(part.encoder, preset.config, checkpoint, f16)?,
                outputs: part.outputs,
            });
        }
        let model = Model {
            name,
            family,
            text,
            unet: UNet::new(unet, &denoiser, f16),
            vae,
            refiner: None,
            scheduler: SchedulerConfig {
                file: file.label().to_owned(),
                keys: presets::scheduler(kind, training),
            },
            precision,
            added,
            zeros_for_no_prompt,
        };
        model.check_parts_fit(file.label())?;
        Ok(model)
    }

    /// The model with another one that does the last steps.
    ///
    /// # Errors
    /// [`Error::Usage`] if their latents are not of one kind.
    pub fn with_refiner(self, refiner: Model) -> Result<Model, Error> {
        let (base, other) = (&self.vae.config, &refiner.vae.config);
        if (base.latent_channels, base.channels.len()) != (other.latent_channels, other.channels.len()) {
            let expected = format!("{} latent channels at 1/{}", base.latent_channels, base.downscale());
            let found = format!("{} at 1/{}", other.latent_channels, other.downscale());
            return Err(Error::usage("--refiner", format!("a model with {expected}"), found));
        }
        if (self.family == Family::StableDiffusion) != (refiner.family == Family::StableDiffusion) {
            let (expected, found) = (self.family.name(), refiner.family.name());
            return Err(Error::usage("--refiner", format!("a model beside {expected}"), found));
        }
        if self.family == Family::StableDiffusionXlRefiner {
            return Err(Error::usage("--model", "the base model of --refiner", "a refiner"));
        }
        Ok(Model { refiner: Some(Box::new(refiner)), ..self })
    }

    /// Pixels of the picture the model was trained on, or 512 if its files do not say.
    pub fn native_edge(&self) -> usize {
        match self.unet.config.sample_size {
            0 => 512,
            latent => latent * self.vae.config.downscale(),
        }
    }

    /// What the edges of a picture must be multiples of.
    pub fn edge_multiple(&self) -> usize {
        self.vae.config.downscale()
    }

    /// The smallest edge of a picture, as the depth of the denoisers allows.
    pub fn least_edge(&self) -> usize {
        let denoisers = [Some(&self.unet), self.refiner.as_ref().map(|refiner| &refiner.unet)];
        let latent = denoisers.into_iter().flatten().map(|unet| unet.config.least_latent_edge()).max();
        latent.unwrap_or(1) * self.edge_multiple()
    }

    /// Tokens of a prompt, padding included.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.text.first().map_or(0, TextEncoder::prompt_tokens)
    }

    /// Bytes of the text encoders' weights in their files.
    pub(super) fn text_bytes(&self) -> u64 {
        let encodings = self.text.iter().flat_map(|text| text.network.weights.checkpoint().encodings());
        encodings.map(|total| total.bytes).fold(0, u64::saturating_add)
    }

    /// Checks that parts fit together; `file` describes the whole.
    pub(super) fn check_parts_fit(&self, file: &str) -> Result<(), Error> {
        let (unet, vae) = (&self.unet.config, &self.vae.config);
        let width = self.text.iter().map(|text| text.network.config.width).sum::<usize>();
        let tokens = self.prompt_tokens();
        let malformed = |what: &str, expected: String, found: usize| {
            Err(loaders::Error::malformed(file, what, expected, found.to_string()).into())
        };
        for (what, expected, found) in [
            ("cross_attention_dim of unet/config.json", width, unet.cross_attention_dim),
            ("in_channels of unet/config.json", vae.latent_channels, unet.in_channels),
            ("out_channels of unet/config.json", unet.in_channels, unet.out_channels),
        ] {
            if expected != found {
                return malformed(what, expected.to_string(), found);
            }
        }
        for (text, part) in self.text.iter().zip(self.family.text_parts()) {
            let (vocabulary, known) = (text.network.config.vocabulary, text.tokenizer.n_tokens());
            if known > vocabulary {
                let what = format!("vocab_size of {}/config.json", part.encoder);
                return malformed(&what, format!("at least the tokenizer's {known}"), vocabulary);
            }
            if text.prompt_tokens() != tokens {
                let what = format!("tokens of a prompt to {}", part.encoder);
                return malformed(&what, tokens.to_string(), text.prompt_tokens());
            }
        }
        let pooled = self.text.iter().find(|text| text.outputs.pooled);
        let pooled = pooled.map_or(0, |text| text.network.config.projection);
        match (unet.added, self.added) {
            (None, None) => Ok(()),
            (Some(embedded), Some(numbers)) => {
                let expected = pooled + numbers.count() * embedded.time_features;
                if expected == embedded.features {
                    return Ok(());
                }
                let what = "projection_class_embeddings_input_dim of unet/config.json";
                malformed(what, expected.to_string(), embedded.features)
            }
            (embedded, _) => {
                let word = |there: bool| if there { "text_time" } else { "null" };
                let what = "addition_embed_type of unet/config.json";
                let (expected, found) = (word(embedded.is_none()), word(embedded.is_some()));
                Err(loaders::Error::malformed(file, what, expected, found).into())
            }
        }
    }
}

/// The autoencoder at `path` beside a denoiser of latents with `channels`, in place of `own`.
async fn open_vae(
    path: &Path,
    own: &VaeKlConfig,
    channels: usize,
    precision: Precision,
) -> Result<VaeKl, Error> {
    let f16 = precision == Precision::F16;
    let limits = Limits::default();
    let vae = if path.is_dir() {
        let folder = Folder::on_disk(path)?;
        let folder = folder.folder("vae")?.unwrap_or(folder);
        let config = VaeKlConfig::read(&part_config(&folder).await?)?;
        VaeKl::new(config, &part_checkpoint(&folder, precision.preferred_files(), &limits).await?, f16)?
    } else {
        let checkpoint = single_file::vae_from(&Checkpoint::open(path, &limits).await?)?;
        VaeKl::new(config_beside(own), &checkpoint, f16)?
    };
    if vae.config.latent_channels == channels {
        return Ok(vae);
    }
    let expected = format!("{channels}, as the model's denoiser has");
    let found = vae.config.latent_channels.to_string();
    Err(loaders::Error::malformed(path.display().to_string(), "latent channels", expected, found).into())
}

/// The configuration of an autoencoder in a file, which has none, in place of `own`.
fn config_beside(own: &VaeKlConfig) -> VaeKlConfig {
    // A file does not say how latents are scaled: as in the model it is used with.
    VaeKlConfig { scaling_factor: own.scaling_factor, ..VaeKlConfig::stable_diffusion_1() }
}

fn scheduler_config(config: &Config) -> SchedulerConfig {
    let keys = config.entries().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    SchedulerConfig { file: config.file().to_owned(), keys }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoencoder_in_a_file_scales_as_the_model_does() {
        let own = VaeKlConfig { latent_channels: 9, ..VaeKlConfig::stable_diffusion_xl() };
        let beside = config_beside(&own);
        assert_eq!((beside.scaling_factor, beside.latent_channels), (own.scaling_factor, 4));
        assert_ne!(beside.scaling_factor, VaeKlConfig::stable_diffusion_1().scaling_factor);
    }
}

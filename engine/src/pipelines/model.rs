//! A model as its files give it: networks with their configurations, tokenizer and scheduler.

use std::path::Path;

use loaders::safetensors::Limits;
use loaders::{Checkpoint, Config, DiffusersFolder, Folder, Prefer, Tokenizer};
use serde_json::{Map, Value, json};

use super::single_file;
use crate::error::Error;
use crate::models::{ClipText, ClipTextConfig, UNet, UNetConfig, VaeKl, VaeKlConfig};

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

/// Which network family a model belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x and models of its shape.
    StableDiffusion,
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
    pub(super) tokenizer: Tokenizer,
    /// The text encoder.
    pub text: ClipText,
    /// The denoiser.
    pub unet: UNet,
    /// The autoencoder.
    pub vae: VaeKl,
    pub(super) scheduler: SchedulerConfig,
    pub(super) precision: Precision,
}

impl Model {
    /// Opens the diffusers folder or the single file at `path`.
    ///
    /// # Errors
    /// [`Error::Load`] naming file, tensor or key, what was expected and what was found.
    pub async fn open(path: &Path, precision: Precision) -> Result<Model, Error> {
        // A folder may have a dot in its name that begins no extension: sd-v1.5.
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let name = stem.map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned());
        if path.is_dir() {
            return Model::from_folder(Folder::on_disk(path)?, name, precision).await;
        }
        let file = Checkpoint::open(path, &Limits::default()).await?;
        Model::from_single_file(&file, name, precision)
    }

    /// The model in a diffusers folder, on disk or in memory.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub async fn from_folder(folder: Folder, name: String, precision: Precision) -> Result<Model, Error> {
        let folder = DiffusersFolder::open(folder).await?;
        check_class(&folder)?;
        let limits = Limits::default();
        let prefer = if precision == Precision::F32 { Prefer::Full } else { Prefer::Fp16 };
        let text_config = ClipTextConfig::read(&folder.config("text_encoder").await?)?;
        let unet_config = UNetConfig::read(&folder.config("unet").await?)?;
        let vae_config = VaeKlConfig::read(&folder.config("vae").await?)?;
        let scheduler = folder.config("scheduler").await?;
        let f16 = precision == Precision::F16;
        let model = Model {
            name,
            family: Family::StableDiffusion,
            tokenizer: Tokenizer::open(&folder.part_folder("tokenizer")?).await?,
            text: ClipText::new(text_config, &folder.checkpoint("text_encoder", prefer, &limits).await?, f16),
            unet: UNet::new(unet_config, &folder.checkpoint("unet", prefer, &limits).await?, f16),
            vae: VaeKl::new(vae_config, &folder.checkpoint("vae", prefer, &limits).await?, f16)?,
            scheduler: scheduler_config(&scheduler),
            precision,
        };
        model.check_parts_fit(folder.index())?;
        Ok(model)
    }

    fn from_single_file(file: &Checkpoint, name: String, precision: Precision) -> Result<Model, Error> {
        let parts = single_file::split(file)?;
        let f16 = precision == Precision::F16;
        let Value::Object(keys) = stable_diffusion_1_scheduler() else {
            unreachable!("an object is written below")
        };
        Ok(Model {
            name,
            family: Family::StableDiffusion,
            tokenizer: Tokenizer::clip()?,
            text: ClipText::new(ClipTextConfig::clip_vit_large(), &parts.text_encoder, f16),
            unet: UNet::new(UNetConfig::stable_diffusion_1(), &parts.unet, f16),
            vae: VaeKl::new(VaeKlConfig::stable_diffusion_1(), &parts.vae, f16)?,
            scheduler: SchedulerConfig { file: file.label().to_owned(), keys },
            precision,
        })
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

    /// Tokens of a prompt, padding included.
    pub(super) fn prompt_tokens(&self) -> usize {
        let positions = self.text.config.positions;
        self.tokenizer.max_length().map_or(positions, |length| length.clamp(2, positions))
    }

    fn check_parts_fit(&self, index: &Config) -> Result<(), Error> {
        let (text, unet, vae) = (&self.text.config, &self.unet.config, &self.vae.config);
        for (what, expected, found) in [
            ("cross_attention_dim of unet/config.json", text.width, unet.cross_attention_dim),
            ("in_channels of unet/config.json", vae.latent_channels, unet.in_channels),
            ("out_channels of unet/config.json", unet.in_channels, unet.out_channels),
        ] {
            if expected != found {
                let error =
                    loaders::Error::malformed(index.file(), what, expected.to_string(), found.to_string());
                return Err(error.into());
            }
        }
        let tokens = self.tokenizer.n_tokens();
        if tokens > text.vocabulary {
            return Err(loaders::Error::malformed(
                index.file(),
                "vocab_size of text_encoder/config.json",
                format!("at least the tokenizer's {tokens}"),
                text.vocabulary.to_string(),
            )
            .into());
        }
        Ok(())
    }
}

/// Refuses folders of other pipelines.
pub(super) fn check_class(folder: &DiffusersFolder) -> Result<(), loaders::Error> {
    match folder.class() {
        "StableDiffusionPipeline" | "StableDiffusionImg2ImgPipeline" => Ok(()),
        _ => Err(folder.index().unsupported("_class_name", "photogram runs StableDiffusionPipeline")),
    }
}

fn scheduler_config(config: &Config) -> SchedulerConfig {
    let keys = config.entries().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    SchedulerConfig { file: config.file().to_owned(), keys }
}

/// The scheduler that Stable Diffusion 1.x ships with.
fn stable_diffusion_1_scheduler() -> Value {
    json!({
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "clip_sample": false,
    })
}

//! A folder as diffusers and transformers write it: `model_index.json` and one folder for each part.
//!
//! Source: diffusers' `pipelines/pipeline_loading_utils.py` and `utils/constants.py`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::safetensors::Limits;
use crate::{Checkpoint, Config, Error, Folder};

/// File stems of weights: diffusers' models, then transformers'.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// File names of configurations.
const CONFIGS: [&str; 2] = ["config.json", "scheduler_config.json"];

/// Endings of weights that are pickles.
const PICKLES: [&str; 4] = [".bin", ".ckpt", ".pt", ".pth"];

/// Which weights to take where a folder has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefer {
    /// The ones without a variant, usually f32.
    Full,
    /// The `.fp16.` variant.
    Fp16,
}

/// A model in diffusers' layout.
#[derive(Debug, Clone)]
pub struct DiffusersFolder {
    folder: Folder,
    index: Config,
    class: String,
    /// Classes of the parts.
    parts: BTreeMap<String, String>,
}

impl DiffusersFolder {
    /// The file that makes a folder a diffusers model.
    pub const INDEX: &str = "model_index.json";

    /// Reads the index of the model in `folder`.
    ///
    /// # Errors  [`Error::Malformed`] if it is missing or no index; [`Error::Io`]
    pub async fn open(folder: Folder) -> Result<Self, Error> {
        let index = Config::read(&*folder.require(Self::INDEX)?).await?;
        let class = index.require("_class_name")?;
        let mut parts = BTreeMap::new();
        for (name, value) in index.entries() {
            // `[null, null]` is a part that is left out; anything but a pair is an option.
            if let Some([Value::String(_), Value::String(class)]) = value.as_array().map(Vec::as_slice) {
                parts.insert(name.to_owned(), class.clone());
            }
        }
        Ok(Self { folder, index, class, parts })
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The pipeline's class, such as `StableDiffusionPipeline`.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The index itself, for the pipeline's options.
    pub fn index(&self) -> &Config {
        &self.index
    }

    /// Names and classes of the parts, sorted; a part given as null is none.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.iter().map(|(name, class)| (name.as_str(), class.as_str()))
    }

    /// The class of the part `name`, if there is such a part.
    pub fn part(&self, name: &str) -> Option<&str> {
        self.parts.get(name).map(String::as_str)
    }

    /// The folder of the part `name`.
    ///
    /// # Errors  [`Error::Malformed`] if it is missing
    pub fn part_folder(&self, name: &str) -> Result<Folder, Error> {
        self.folder.folder(name)?.ok_or_else(|| self.folder.missing(&format!("{name}/")))
    }

    /// The configuration of the part `name`: `config.json` or `scheduler_config.json`.
    ///
    /// # Errors  [`Error::Malformed`] if it is missing or no JSON object; [`Error::Io`]
    pub async fn config(&self, name: &str) -> Result<Config, Error> {
        part_config(&self.part_folder(name)?).await
    }

    /// The weights of the part `name`, in one file or in shards.
    ///
    /// # Errors  as [`part_checkpoint`]
    pub async fn checkpoint(&self, name: &str, prefer: Prefer, limits: &Limits) -> Result<Checkpoint, Error> {
        part_checkpoint(&self.part_folder(name)?, prefer, limits).await
    }
}

/// The configuration in a part's folder: `config.json` or `scheduler_config.json`.
///
/// # Errors  [`Error::Malformed`] if it is missing or no JSON object; [`Error::Io`]
pub async fn part_config(folder: &Folder) -> Result<Config, Error> {
    for file in CONFIGS {
        if let Some(source) = folder.open(file)? {
            return Config::read(&*source).await;
        }
    }
    Err(folder.missing(&CONFIGS.join(" or ")))
}

/// The weights in a part's folder, in one file or in shards.
///
/// # Errors  [`Error::Malformed`] if there are none; [`Error::Unsupported`] if there are only pickles; as
///   [`Checkpoint::from_source`] and [`Checkpoint::from_index`]
pub async fn part_checkpoint(folder: &Folder, prefer: Prefer, limits: &Limits) -> Result<Checkpoint, Error> {
    for file in weight_files(prefer) {
        if file.ends_with(".json") && folder.exists(&file) {
            return Checkpoint::from_index(folder, &file, limits).await;
        }
        if let Some(source) = folder.open(&file)? {
            return Checkpoint::from_source(source, limits).await;
        }
    }
    let is_pickle = |name: &String| PICKLES.iter().any(|ending| name.ends_with(ending));
    if let Some(pickle) = folder.list()?.into_iter().find(is_pickle) {
        return Err(Error::unsupported(
            folder.label_of(&pickle),
            "a pickle, which can run code when it is loaded,",
            "convert it: load the pipeline with diffusers and write it with \
             save_pretrained(folder, safe_serialization=True)",
        ));
    }
    let wanted: Vec<String> = STEMS.iter().map(|stem| format!("{stem}.safetensors")).collect();
    Err(folder.missing(&wanted.join(" or ")))
}

/// Names of weight files in a part's folder, the preferred first: safetensors files, and indices of shards.
pub fn weight_files(prefer: Prefer) -> impl Iterator<Item = String> {
    let full = ["safetensors", "safetensors.index.json"];
    let fp16 = ["fp16.safetensors", "safetensors.index.fp16.json", "fp16.safetensors.index.json"];
    let endings: Vec<&str> = match prefer {
        Prefer::Full => full.into_iter().chain(fp16).collect(),
        Prefer::Fp16 => fp16.into_iter().chain(full).collect(),
    };
    endings.into_iter().flat_map(|ending| STEMS.map(|stem| format!("{stem}.{ending}")))
}

//! What a checkpoint is, from its headers alone.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use kernels::DType;
use loaders::safetensors::Limits;
use loaders::{Checkpoint, DiffusersFolder, EncodingTotal, Folder, Prefer, Tokenizer};

use super::absent::{any_denoiser, build_vae};
use super::denoiser::build_denoiser;
use super::model::{Family, Model, Precision, TextPart};
use super::presets::Preset;
use super::single_file::{self, Training};
use crate::error::Error;
use crate::models::{ClipText, ClipTextConfig, UNet, UNetConfig, VaeKl, VaeKlConfig};
use crate::samplers::Method;

/// How a checkpoint is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder with `model_index.json`.
    DiffusersFolder,
    /// One safetensors file, or an index of shards.
    SingleFile,
}

/// What a checkpoint is.
#[derive(Debug)]
pub struct Inspection {
    /// How it is laid out.
    pub layout: Layout,
    /// Its family, if its tensors or its index give one away.
    pub family: Option<String>,
    /// How a single file's model was trained, as far as its tensors and its header tell; a folder's scheduler says it.
    pub training: Option<Training>,
    /// Its parts.
    pub parts: Vec<PartReport>,
    /// Why it cannot be run although all that its parts need is there: another family, parts that do not belong together.
    pub problem: Option<Error>,
}

impl Inspection {
    /// Whether it can be run as far as headers tell.
    pub fn is_runnable(&self) -> bool {
        self.problem.is_none() && self.parts.iter().all(|part| part.problem.is_none())
    }
}

/// One part of a checkpoint.
#[derive(Debug)]
pub struct PartReport {
    /// Its folder's name, or its role.
    pub name: String,
    /// Its class in diffusers or transformers, where an index gives one.
    pub class: Option<String>,
    /// Its tensors by encoding; empty for a part without weights.
    pub encodings: Vec<EncodingTotal>,
    /// Whether pictures are made with it.
    pub is_used: bool,
    /// Whether it is known what it takes, its weights there or not: from its configuration.
    pub is_described: bool,
    /// The first thing that is missing or wrong.
    pub problem: Option<Error>,
}

impl PartReport {
    fn new(name: &str) -> Self {
        PartReport {
            name: name.to_owned(),
            class: None,
            encodings: Vec::new(),
            is_used: true,
            is_described: true,
            problem: None,
        }
    }

    fn unused(name: &str, encodings: Vec<EncodingTotal>) -> Self {
        PartReport { encodings, is_used: false, ..PartReport::new(name) }
    }

    /// Number of tensors.
    pub fn n_tensors(&self) -> usize {
        self.encodings.iter().map(|total| total.n_tensors).sum()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.encodings.iter().map(|total| total.bytes).fold(0, u64::saturating_add)
    }

    fn checked(mut self, checkpoint: &Checkpoint, check: Result<(), Error>) -> Self {
        self.encodings = checkpoint.encodings();
        self.problem = check.err();
        self
    }
}

/// Looks at the diffusers folder or the single file at `path`.
///
/// What is missing in a part is in its report.
///
/// # Errors
/// [`Error::Load`] if there is nothing at `path` that can be looked at.
pub async fn inspect(path: &Path) -> Result<Inspection, Error> {
    let mut inspection = if path.is_dir() {
        inspect_folder(Folder::on_disk(path)?).await?
    } else {
        inspect_file(&Checkpoint::open(path, &Limits::default()).await?).await?
    };
    if inspection.is_runnable() {
        // Whole parts may still not belong together.
        inspection.problem = Model::open(path, None, Precision::Auto).await.err();
    }
    Ok(inspection)
}

async fn inspect_folder(folder: Folder) -> Result<Inspection, Error> {
    let folder = DiffusersFolder::open(folder).await?;
    let (needed, problem) = match Family::of_folder(&folder) {
        Ok(family) => (needed_parts(family), None),
        Err(error) => (Vec::new(), Some(error.into())),
    };
    let mut names: BTreeSet<&str> = folder.parts().map(|(name, _)| name).collect();
    let mut parts = Vec::new();
    for (name, kind) in needed {
        names.remove(name);
        parts.push(inspect_part(&folder, name, kind).await);
    }
    for name in names {
        let checkpoint = folder.checkpoint(name, Prefer::Full, &Limits::default()).await;
        let encodings = checkpoint.map(|checkpoint| checkpoint.encodings()).unwrap_or_default();
        parts.push(PartReport::unused(name, encodings));
    }
    for part in &mut parts {
        part.class = folder.part(&part.name).map(str::to_owned);
    }
    Ok(Inspection {
        layout: Layout::DiffusersFolder,
        family: Some(folder.class().to_owned()),
        training: None,
        parts,
        problem,
    })
}

/// What a part of a pipeline is.
#[derive(Clone, Copy)]
enum PartKind {
    Tokenizer,
    TextEncoder(&'static TextPart),
    UNet,
    Vae,
    Scheduler,
}

/// The parts that a pipeline of `family` has to have.
fn needed_parts(family: Family) -> Vec<(&'static str, PartKind)> {
    let text = family.text_parts().iter();
    let text = text.flat_map(|part| {
        [(part.tokenizer, PartKind::Tokenizer), (part.encoder, PartKind::TextEncoder(part))]
    });
    let others = [("unet", PartKind::UNet), ("vae", PartKind::Vae), ("scheduler", PartKind::Scheduler)];
    text.chain(others).collect()
}

async fn inspect_part(folder: &DiffusersFolder, name: &str, kind: PartKind) -> PartReport {
    let is_described = match kind {
        PartKind::Tokenizer => check_tokenizer(folder, name).await.is_ok(),
        _ => folder.config(name).await.is_ok(),
    };
    let part = PartReport { is_described, ..PartReport::new(name) };
    match kind {
        PartKind::Tokenizer => PartReport { problem: check_tokenizer(folder, name).await.err(), ..part },
        PartKind::Scheduler => PartReport { problem: check_scheduler(folder, name).await.err(), ..part },
        PartKind::TextEncoder(_) | PartKind::UNet | PartKind::Vae => {
            match folder.checkpoint(name, Prefer::Full, &Limits::default()).await {
                Ok(checkpoint) => {
                    let check = check_network(folder, name, kind, &checkpoint).await;
                    part.checked(&checkpoint, check)
                }
                Err(error) => PartReport { problem: Some(error.into()), ..part },
            }
        }
    }
}

async fn check_tokenizer(folder: &DiffusersFolder, name: &str) -> Result<(), Error> {
    Tokenizer::open(&folder.part_folder(name)?).await?;
    Ok(())
}

async fn check_scheduler(folder: &DiffusersFolder, name: &str) -> Result<(), Error> {
    let config = folder.config(name).await?;
    let keys = config.entries().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    Method::from_config(config.file(), &keys)?;
    Ok(())
}

async fn check_network(
    folder: &DiffusersFolder,
    name: &str,
    kind: PartKind,
    checkpoint: &Checkpoint,
) -> Result<(), Error> {
    let config = folder.config(name).await?;
    match kind {
        PartKind::TextEncoder(part) => check_text_encoder(part, ClipTextConfig::read(&config)?, checkpoint),
        PartKind::UNet => check_unet(UNetConfig::read(&config)?, checkpoint),
        PartKind::Vae => check_vae(VaeKlConfig::read(&config)?, checkpoint),
        PartKind::Tokenizer | PartKind::Scheduler => Ok(()),
    }
}

async fn inspect_file(file: &Checkpoint) -> Result<Inspection, Error> {
    let kind = single_file::family(file);
    let family = kind.map(|kind| kind.name().to_owned());
    let known = match single_file::require_family(file) {
        Ok(known) => known,
        Err(error) => {
            let parts = vec![PartReport::unused("all", file.encodings())];
            let problem = Some(error.into());
            return Ok(Inspection { layout: Layout::SingleFile, family, training: None, parts, problem });
        }
    };
    let preset = Preset::of(known);
    let mut parts = Vec::new();
    let mut taken: HashSet<String> = single_file::FLAGS.map(str::to_owned).into();
    let mut report = |name: &str, found: Result<Checkpoint, loaders::Error>, check: &CheckPart<'_>| {
        let part = PartReport::new(name);
        parts.push(match found {
            Ok(checkpoint) => {
                taken.extend(checkpoint.tensors().map(|(_, entry)| entry.name.clone()));
                part.checked(&checkpoint, check(&checkpoint))
            }
            Err(error) => PartReport { problem: Some(error.into()), ..part },
        });
    };
    let text = known.text_encoders().iter().zip(&preset.text).zip(preset.family.text_parts());
    for ((part, text), network) in text {
        report(part.folder, part.of(file), &|found| check_text_encoder(network, text.config.clone(), found));
    }
    report("unet", single_file::UNET.of(file), &|found| check_unet(preset.unet.clone(), found));
    report("vae", single_file::VAE.of(file), &|found| check_vae(preset.vae.clone(), found));
    let others = file.renamed_with(|name| (!taken.contains(name)).then(|| name.to_owned()));
    match others.map(|others| others.encodings()) {
        Ok(encodings) if !encodings.is_empty() => parts.push(PartReport::unused("other tensors", encodings)),
        _ => (),
    }
    // Without the tensor that it is told from, the UNet has a problem of its own.
    let training = single_file::training(file, known).await.ok();
    Ok(Inspection { layout: Layout::SingleFile, family, training, parts, problem: None })
}

/// Whether a part has what its network needs.
type CheckPart<'a> = dyn Fn(&Checkpoint) -> Result<(), Error> + 'a;

fn check_text_encoder(part: &TextPart, config: ClipTextConfig, checkpoint: &Checkpoint) -> Result<(), Error> {
    let positions = config.positions;
    let text = ClipText::new(part.encoder, config, checkpoint, false)?;
    for table in ClipText::TABLES {
        text.weights.checkpoint().require(table)?;
    }
    text.build(1, positions, DType::F32, part.outputs).map(drop)
}

fn check_unet(config: UNetConfig, checkpoint: &Checkpoint) -> Result<(), Error> {
    build_denoiser(&UNet::new(config, checkpoint, false), any_denoiser()).map(drop)
}

fn check_vae(config: VaeKlConfig, checkpoint: &Checkpoint) -> Result<(), Error> {
    build_vae(&VaeKl::new(config, checkpoint, false)?)
}

//! Parts whose weights are not all there yet: what their configurations say that there will be.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::{DType, TensorType};
use loaders::safetensors::{Limits, read_header_of_part};
use loaders::{Checkpoint, DiffusersFolder, Encoding, Folder, Prefer, Source};

use super::denoiser::{DenoiserShape, build_denoiser};
use super::model::{Precision, TextPart};
use crate::error::Error;
use crate::models::{ClipText, ClipTextConfig, UNet, UNetConfig, VaeKl, VaeKlConfig};
use crate::weights::Weights;

/// Edge of the latent on which networks are built to see what they need: no tensor depends on it.
pub(super) const LATENT_EDGE: usize = 64;

/// A part of a model whose weights are not all there, in whose place others were assumed.
#[derive(Debug)]
pub struct Absent {
    /// Its folder's name.
    pub part: String,
    /// What is missing.
    pub problem: loaders::Error,
    /// How its weights are assumed to be stored.
    pub encoding: Encoding,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Bytes of those files of them that are there, whole or not.
    pub bytes_there: u64,
}

impl Absent {
    /// Bytes that are still to come.
    pub fn bytes_to_come(&self) -> u64 {
        self.bytes.saturating_sub(self.bytes_there)
    }
}

/// Shapes of the tensors that a network needs, by name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// The weights of a folder's parts. Where they are not all there, and `absent` is given, as they will be.
pub(super) struct PartWeights<'a> {
    pub(super) folder: &'a DiffusersFolder,
    pub(super) precision: Precision,
    pub(super) absent: Option<&'a mut Vec<Absent>>,
}

impl PartWeights<'_> {
    /// Those of the part `name`, which needs tensors of `shapes`.
    ///
    /// # Errors
    /// [`Error::Load`] where nothing is assumed: without `absent`, and for what is there and cannot be read.
    pub(super) async fn of(
        &mut self,
        name: &str,
        shapes: impl FnOnce() -> Result<Shapes, Error>,
    ) -> Result<Checkpoint, Error> {
        let prefer = self.precision.preferred_files();
        let problem = match self.folder.checkpoint(name, prefer, &Limits::default()).await {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(problem) => problem,
        };
        let Some(absent) = self.absent.as_mut().filter(|_| problem.is_incomplete()) else {
            return Err(problem.into());
        };
        let folder = self.folder.part_folder(name)?;
        let there = weights_there(&folder, prefer);
        let encoding = match encoding_of(&there).await {
            Some(encoding) => encoding,
            None if self.precision == Precision::F32 => Encoding::F32,
            None => Encoding::F16,
        };
        let checkpoint = Checkpoint::foretold(folder.label(), encoding, shapes()?);
        absent.push(Absent {
            part: name.to_owned(),
            problem,
            encoding,
            bytes: checkpoint.encodings().iter().map(|total| total.bytes).fold(0, u64::saturating_add),
            bytes_there: there.iter().map(|file| file.len()).fold(0, u64::saturating_add),
        });
        Ok(checkpoint)
    }
}

/// The files with weights in a part's folder, also those under the names that downloads have until they are whole: those of the
/// preferred kind, or of the other if there are none.
fn weights_there(folder: &Folder, prefer: Prefer) -> Vec<Arc<dyn Source>> {
    let names = folder.list().unwrap_or_default();
    let names = names.iter().filter(|name| name.contains(".safetensors") && !name.contains(".json"));
    let (fp16, full): (Vec<&String>, Vec<&String>) = names.partition(|name| name.contains(".fp16."));
    let kinds = if prefer == Prefer::Fp16 { [fp16, full] } else { [full, fp16] };
    let there = kinds.map(|names| -> Vec<Arc<dyn Source>> {
        names.into_iter().filter_map(|name| folder.open(name).ok()?).collect()
    });
    there.into_iter().find(|files| !files.is_empty()).unwrap_or_default()
}

/// How the largest tensor is stored of the first file whose header is there.
async fn encoding_of(files: &[Arc<dyn Source>]) -> Option<Encoding> {
    for file in files {
        if let Ok(header) = read_header_of_part(&**file, &Limits::default()).await {
            return header.tensors.iter().max_by_key(|tensor| tensor.bytes).map(|tensor| tensor.encoding);
        }
    }
    None
}

pub(super) fn text_shapes(part: &TextPart, config: &ClipTextConfig) -> Result<Shapes, Error> {
    let mut text = ClipText::new(part.encoder, config.clone(), &nothing(), false)?;
    text.weights = Weights::recording();
    text.build(1, config.positions, DType::F32, part.outputs)?;
    let mut shapes = text.weights.recorded();
    shapes.extend(
        ClipText::TABLES
            .map(str::to_owned)
            .into_iter()
            .zip([vec![config.vocabulary, config.width], vec![config.positions, config.width]]),
    );
    Ok(shapes)
}

pub(super) fn unet_shapes(config: &UNetConfig) -> Result<Shapes, Error> {
    let mut unet = UNet::new(config.clone(), &nothing(), false);
    unet.weights = Weights::recording();
    build_denoiser(&unet, any_denoiser())?;
    Ok(unet.weights.recorded())
}

pub(super) fn vae_shapes(config: &VaeKlConfig) -> Result<Shapes, Error> {
    let mut vae = VaeKl::new(config.clone(), &nothing(), false)?;
    vae.weights = Weights::recording();
    build_vae(&vae)?;
    Ok(vae.weights.recorded())
}

/// A denoiser of which only the weights matter.
pub(super) fn any_denoiser() -> DenoiserShape {
    DenoiserShape {
        height: LATENT_EDGE,
        width: LATENT_EDGE,
        tokens: 1,
        guided: false,
        rescaled: false,
        dtype: DType::F32,
    }
}

/// Both halves of an autoencoder, for their weights' sake.
pub(super) fn build_vae(vae: &VaeKl) -> Result<(), Error> {
    let latent = TensorType::f32([1, LATENT_EDGE, LATENT_EDGE, vae.config.latent_channels]);
    vae.build_decoder(latent, DType::F32)?;
    let edge = LATENT_EDGE * vae.config.downscale();
    vae.build_encoder(TensorType::f32([1, edge, edge, 3]), DType::F32).map(drop)
}

fn nothing() -> Checkpoint {
    Checkpoint::foretold("", Encoding::F32, Shapes::new())
}

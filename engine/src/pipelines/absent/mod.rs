//! Parts whose weights are not all there yet: what their configurations say that there will be.

mod there;

use std::collections::BTreeMap;

use kernels::{DType, TensorType};
use loaders::safetensors::Limits;
use loaders::{Checkpoint, DiffusersFolder, Encoding};

use super::denoiser::{DenoiserShape, build_denoiser};
use super::model::{Precision, TextPart};
use crate::error::Error;
use crate::models::{ClipText, ClipTextConfig, UNet, UNetConfig, VaeKl, VaeKlConfig};
use crate::weights::Weights;
use there::There;

/// Edge of the latent on which networks are built to see what they need: no tensor depends on it.
pub(super) const LATENT_EDGE: usize = 64;

/// A part of a model whose weights are not all there, in whose place others were assumed.
#[derive(Debug)]
pub struct Absent {
    /// Its folder's name.
    pub part: String,
    /// What is missing.
    pub problem: loaders::Error,
    /// How its weights are assumed to be stored, or most of them.
    pub encoding: Encoding,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Bytes that are still to come: of files, as far as headers that are there say how long these will be.
    pub bytes_to_come: u64,
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
        let usual = if self.precision == Precision::F32 { Encoding::F32 } else { Encoding::F16 };
        let there = There::of(name, &folder, prefer).await?;
        let encoding = there.encoding().unwrap_or(usual);
        let mut unnamed = shapes()?;
        unnamed.retain(|name, _| !there.is_all && !there.tensors.contains_key(name));
        let unnamed = unnamed.into_iter().map(|(name, shape)| (name, encoding, shape));
        let unnamed = Checkpoint::foretold(&there.label, unnamed);
        let bytes_to_come =
            there.bytes_to_come.saturating_add(unnamed.bytes().saturating_sub(there.bytes_without_header));
        let checkpoint = unnamed.with_tensors(there.tensors);
        absent.push(Absent {
            part: name.to_owned(),
            problem,
            encoding,
            bytes: checkpoint.bytes(),
            bytes_to_come,
        });
        Ok(checkpoint)
    }
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
    Checkpoint::foretold("", [])
}

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
    /// How its weights are assumed to be stored, or most of them.
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
        let usual = if self.precision == Precision::F32 { Encoding::F32 } else { Encoding::F16 };
        let stored = Stored::of(&there, usual).await;
        let label = if let [file] = there.as_slice() { file.label() } else { folder.label() };
        let tensors = shapes()?.into_iter().map(|(name, shape)| {
            let encoding = stored.encoding(&name);
            (name, encoding, shape)
        });
        let checkpoint = Checkpoint::foretold(label, tensors);
        absent.push(Absent {
            part: name.to_owned(),
            problem,
            encoding: stored.usual,
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

/// How weights are stored, as far as headers that are there say.
struct Stored {
    known: BTreeMap<String, Encoding>,
    /// How those are stored that no header names.
    usual: Encoding,
}

impl Stored {
    /// In `files`: what no header names as most of what they name, or as `usual` where they name nothing.
    async fn of(files: &[Arc<dyn Source>], usual: Encoding) -> Self {
        let (mut known, mut bytes) = (BTreeMap::new(), BTreeMap::<Encoding, u64>::new());
        for file in files {
            let Ok(header) = read_header_of_part(&**file, &Limits::default()).await else { continue };
            for tensor in header.tensors {
                // Checkpoints have indices beside their weights.
                if matches!(tensor.encoding, Encoding::F16 | Encoding::Bf16 | Encoding::F32) {
                    let sum = bytes.entry(tensor.encoding).or_default();
                    *sum = sum.saturating_add(tensor.bytes);
                }
                // A text encoder's names may have it in front or not; an autoencoder's may be older.
                let name = tensor.name.strip_prefix("text_model.").unwrap_or(&tensor.name);
                known.insert(VaeKl::present_name(name), tensor.encoding);
            }
        }
        let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(encoding, _)| encoding);
        Stored { known, usual: most.unwrap_or(usual) }
    }

    fn encoding(&self, name: &str) -> Encoding {
        self.known.get(name).copied().unwrap_or(self.usual)
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

#[cfg(test)]
mod tests {
    use loaders::BytesSource;

    use super::*;

    /// A file that ends with its header.
    fn part(header: &str) -> Arc<dyn Source> {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        Arc::new(BytesSource::new("part", bytes))
    }

    #[test]
    fn what_no_header_names_is_stored_as_most_of_what_they_name() {
        let stored = |headers: &[&str]| {
            let files: Vec<Arc<dyn Source>> = headers.iter().map(|header| part(header)).collect();
            pollster::block_on(Stored::of(&files, Encoding::F32))
        };
        assert_eq!(stored(&[]).usual, Encoding::F32);
        let bf16 = r#"{"a": {"dtype": "BF16", "shape": [9], "data_offsets": [0, 18]}}"#;
        assert_eq!(stored(&[bf16]).usual, Encoding::Bf16);
        // Three tensors of 6 bytes, one of 12, and indices of 32.
        let mixed = r#"{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
            "b": {"dtype": "F16", "shape": [1], "data_offsets": [12, 14]},
            "text_model.c": {"dtype": "F16", "shape": [1], "data_offsets": [14, 16]},
            "mid_block.attentions.0.query.bias": {"dtype": "F16", "shape": [1], "data_offsets": [16, 18]},
            "position_ids": {"dtype": "I64", "shape": [4], "data_offsets": [18, 50]}}"#;
        let found = stored(&["{", mixed]);
        assert_eq!(found.encoding("mid_block.attentions.0.to_q.bias"), Encoding::F16);
        assert_eq!(
            ["a", "b", "c", "e"].map(|name| found.encoding(name)),
            [Encoding::F32, Encoding::F16, Encoding::F16, Encoding::F32]
        );
        let f16 = r#"{"f": {"dtype": "F16", "shape": [9], "data_offsets": [0, 18]}}"#;
        assert_eq!(stored(&[mixed, f16]).usual, Encoding::F16);
    }
}

//! Parts whose weights are not all there yet: what their configurations say that there will be.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::{DType, TensorType};
use loaders::safetensors::Limits;
use loaders::{Checkpoint, DiffusersFolder, Encoding, Folder, Prefer, Source, TensorEntry};

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
        let there = weights_there(&folder, prefer);
        let usual = if self.precision == Precision::F32 { Encoding::F32 } else { Encoding::F16 };
        let there = There::of(&there).await;
        let encoding = there.encoding().unwrap_or(usual);
        let unnamed = shapes()?.into_iter().filter(|(name, _)| !there.tensors.contains_key(name));
        let unnamed = unnamed.map(|(name, shape)| (name, encoding, shape));
        let unnamed = Checkpoint::foretold(folder.label(), unnamed);
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

/// What headers that are there say.
#[derive(Default)]
struct There {
    /// The tensors that they name, by the names that networks ask for.
    tensors: BTreeMap<String, TensorEntry>,
    /// Bytes that their files lack.
    bytes_to_come: u64,
    /// Bytes of files without a header that can be read.
    bytes_without_header: u64,
}

impl There {
    async fn of(files: &[Arc<dyn Source>]) -> Self {
        let mut there = There::default();
        for file in files {
            let Ok(part) = Checkpoint::from_part(Arc::clone(file), &Limits::default()).await else {
                there.bytes_without_header = there.bytes_without_header.saturating_add(file.len());
                continue;
            };
            let ends = part.tensors().map(|(_, tensor)| tensor.offset.saturating_add(tensor.bytes));
            let lacking = ends.max().unwrap_or(0).saturating_sub(file.len());
            there.bytes_to_come = there.bytes_to_come.saturating_add(lacking);
            there.tensors.extend(part.tensors().map(|(name, tensor)| {
                // A text encoder's names may have it in front or not; an autoencoder's may be older.
                let name = name.strip_prefix("text_model.").unwrap_or(name);
                (VaeKl::present_name(name), tensor.clone())
            }));
        }
        there
    }

    /// How most of the bytes are stored, but for such as are no weights: checkpoints have indices beside theirs.
    fn encoding(&self) -> Option<Encoding> {
        let mut bytes = BTreeMap::<Encoding, u64>::new();
        for tensor in self.tensors.values() {
            if matches!(tensor.encoding, Encoding::F16 | Encoding::Bf16 | Encoding::F32) {
                let sum = bytes.entry(tensor.encoding).or_default();
                *sum = sum.saturating_add(tensor.bytes);
            }
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(encoding, _)| encoding)
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

    fn there(headers: &[&str]) -> There {
        let files: Vec<Arc<dyn Source>> = headers.iter().map(|header| part(header)).collect();
        pollster::block_on(There::of(&files))
    }

    const BF16: &str = r#"{"a": {"dtype": "BF16", "shape": [9], "data_offsets": [0, 18]}}"#;
    /// Three tensors of 2 bytes, one of 12, and indices of 32.
    const MIXED: &str = r#"{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "b": {"dtype": "F16", "shape": [1], "data_offsets": [12, 14]},
        "text_model.c": {"dtype": "F16", "shape": [1], "data_offsets": [14, 16]},
        "mid_block.attentions.0.query.bias": {"dtype": "F16", "shape": [1], "data_offsets": [16, 18]},
        "position_ids": {"dtype": "I64", "shape": [4], "data_offsets": [18, 50]}}"#;

    #[test]
    fn most_of_what_headers_name_is_how_the_rest_is_stored() {
        assert_eq!(there(&[]).encoding(), None);
        assert_eq!(there(&["{"]).encoding(), None);
        assert_eq!(there(&[BF16]).encoding(), Some(Encoding::Bf16));
        assert_eq!(there(&["{", MIXED]).encoding(), Some(Encoding::F32));
        let f16 = r#"{"f": {"dtype": "F16", "shape": [9], "data_offsets": [0, 18]}}"#;
        assert_eq!(there(&[MIXED, f16]).encoding(), Some(Encoding::F16));
    }

    #[test]
    fn tensors_have_the_names_that_networks_ask_for_and_tell_their_own() {
        let found = there(&[MIXED]).tensors;
        let names: Vec<(&str, &str)> =
            found.iter().map(|(name, tensor)| (name.as_str(), tensor.name.as_str())).collect();
        let expected = [
            ("a", "a"),
            ("b", "b"),
            ("c", "text_model.c"),
            ("mid_block.attentions.0.to_q.bias", "mid_block.attentions.0.query.bias"),
            ("position_ids", "position_ids"),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_files_lack_is_to_come() {
        let found = there(&["{", MIXED, BF16]);
        assert_eq!((found.bytes_to_come, found.bytes_without_header), (50 + 18, 9));
        let whole = [&(BF16.len() as u64).to_le_bytes(), BF16.as_bytes(), &[0; 18]].concat();
        let found =
            pollster::block_on(There::of(&[Arc::new(BytesSource::new("whole", whole)) as Arc<dyn Source>]));
        assert_eq!((found.bytes_to_come, found.bytes_without_header), (0, 0));
    }
}

//! Parts whose weights are not all there yet: what their configurations say that there will be.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::{DType, TensorType};
use loaders::safetensors::Limits;
use loaders::{Checkpoint, DiffusersFolder, Encoding, Folder, Prefer, TensorEntry, weight_files};

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
        let usual = if self.precision == Precision::F32 { Encoding::F32 } else { Encoding::F16 };
        let there = There::of(&folder, prefer).await?;
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

/// The files with weights in a part's folder, also those under the names that downloads have until they are whole: those of the
/// preferred kind, or of the other if there are none. Of a kind, the one file that would be read; without it, all of them.
fn weights_there(folder: &Folder, prefer: Prefer) -> Vec<String> {
    let names = folder.list().unwrap_or_default();
    let kinds = if prefer == Prefer::Fp16 { [true, false] } else { [false, true] };
    let there = kinds.map(|kind| -> Vec<String> {
        names.iter().filter(|name| is_fp16(name) == Some(kind)).cloned().collect()
    });
    let of_kind = there.into_iter().find(|names| !names.is_empty()).unwrap_or_default();
    let whole = of_kind.iter().filter(|name| is_whole(name)).min_by_key(|name| name.len());
    whole.map_or(of_kind.clone(), |whole| vec![whole.clone()])
}

/// Whether a file has, or will have, all of a part's weights.
fn is_whole(name: &str) -> bool {
    let front = name.split_once(".safetensors").map(|(front, _)| front);
    weight_files(Prefer::Full).any(|file| file.strip_suffix(".safetensors") == front)
}

/// Whether weights are those marked as fp16, or those without a mark, as in `model.fp16-00001-of-00002.safetensors` and
/// `model-00001-of-00002.fp16.safetensors`. Others, such as `model.non_ema.safetensors`, are not read.
fn is_fp16(name: &str) -> Option<bool> {
    let (front, _) = name.split_once(".safetensors").filter(|_| !name.contains(".json"))?;
    let mut marks = front.split('.').skip(1).filter_map(|mark| mark.split('-').next());
    match (marks.next(), marks.next()) {
        (None, _) => Some(false),
        (Some("fp16"), None) => Some(true),
        _ => None,
    }
}

/// What headers that are there say.
#[derive(Default)]
struct There {
    /// What messages call the files.
    label: String,
    /// Whether they name all tensors that there will be.
    is_all: bool,
    /// The tensors that they name, by the names that networks ask for.
    tensors: BTreeMap<String, TensorEntry>,
    /// Bytes that their files lack.
    bytes_to_come: u64,
    /// Bytes of files without a header that can be read.
    bytes_without_header: u64,
}

impl There {
    /// In `folder`.
    ///
    /// # Errors
    /// [`Error::Load`] for a header with two names of one tensor.
    async fn of(folder: &Folder, prefer: Prefer) -> Result<Self, Error> {
        let mut there = There { label: folder.label().to_owned(), ..There::default() };
        for name in weights_there(folder, prefer) {
            let Ok(Some(file)) = folder.open(&name) else { continue };
            let Ok(part) = Checkpoint::from_part(Arc::clone(&file), &Limits::default()).await else {
                there.bytes_without_header = there.bytes_without_header.saturating_add(file.len());
                continue;
            };
            let ends = part.tensors().map(|(_, tensor)| tensor.offset.saturating_add(tensor.bytes));
            let lacking = ends.max().unwrap_or(0).saturating_sub(file.len());
            there.bytes_to_come = there.bytes_to_come.saturating_add(lacking);
            // A text encoder's names may have it in front or not; an autoencoder's may be older.
            let present = |name: &str| VaeKl::present_name(name.strip_prefix("text_model.").unwrap_or(name));
            let part = part.renamed_with(|name| Some(present(name)))?;
            there.tensors.extend(part.tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())));
            if is_whole(&name) {
                there.label = file.label().to_owned();
                there.is_all = true;
            }
        }
        Ok(there)
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
    use super::*;

    /// What is there of files that end with their headers.
    fn there(files: &[(&str, &str)]) -> Result<There, Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, header) in files {
            let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
            std::fs::write(folder.path().join(name), bytes).expect("written");
        }
        let folder = Folder::on_disk(folder.path()).expect("a folder");
        pollster::block_on(There::of(&folder, Prefer::Fp16))
    }

    fn shards(headers: &[&str]) -> There {
        let names = [
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors.incomplete",
            "b.safetensors",
        ];
        there(&names.into_iter().zip(headers.iter().copied()).collect::<Vec<_>>()).expect("sound")
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
        assert_eq!(shards(&[]).encoding(), None);
        assert_eq!(shards(&["{"]).encoding(), None);
        assert_eq!(shards(&[BF16]).encoding(), Some(Encoding::Bf16));
        assert_eq!(shards(&["{", MIXED]).encoding(), Some(Encoding::F32));
        let f16 = r#"{"f": {"dtype": "F16", "shape": [9], "data_offsets": [0, 18]}}"#;
        assert_eq!(shards(&[MIXED, f16]).encoding(), Some(Encoding::F16));
    }

    #[test]
    fn tensors_have_the_names_that_networks_ask_for_and_tell_their_own() {
        let found = shards(&[MIXED]).tensors;
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
        let both = r#"{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
            "text_model.a": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]}}"#;
        let error = there(&[("model.safetensors", both)]).err().expect("two names of one tensor").to_string();
        assert!(error.ends_with("tensor 'a': expected one tensor, found 'a' and 'text_model.a'"), "{error}");
    }

    #[test]
    fn what_files_lack_is_to_come() {
        let found = shards(&["{", MIXED, BF16]);
        assert_eq!((found.bytes_to_come, found.bytes_without_header), (50 + 18, 9));
    }

    #[test]
    fn the_file_that_would_be_read_stands_for_the_part() {
        let of = |names: &[&str]| {
            let found = there(&names.iter().map(|name| (*name, BF16)).collect::<Vec<_>>()).expect("sound");
            let label = found.label.rsplit('/').next().unwrap_or_default().to_owned();
            (found.is_all.then_some(label), found.bytes_to_come / 18)
        };
        let whole = |name: &str| (Some(name.to_owned()), 1);
        for other in ["model.non_ema.safetensors", "model.fp16.ema.safetensors"] {
            assert_eq!(of(&[other]), (None, 0));
        }
        assert_eq!(of(&["model.safetensors.index.json", "model-00001-of-00002.safetensors"]), (None, 1));
        assert_eq!(
            of(&["model.safetensors.incomplete", "a.safetensors"]),
            whole("model.safetensors.incomplete")
        );
        assert_eq!(of(&["model.safetensors", "model.safetensors.part"]), whole("model.safetensors"));
        assert_eq!(
            of(&["model.safetensors", "model.fp16.safetensors.part"]),
            whole("model.fp16.safetensors.part")
        );
        assert_eq!(of(&["a.safetensors", "b.safetensors", "model.ema.safetensors"]), (None, 2));
        for fp16 in ["model.fp16-00001-of-00002.safetensors", "model-00001-of-00002.fp16.safetensors"] {
            assert_eq!(of(&["model.safetensors", fp16]), (None, 1));
        }
        // Of a header that is not there nothing is known.
        let found = there(&[("model.safetensors", "{")]).expect("to come");
        assert!(!found.is_all);
    }
}

//! What there is of a part's weights: files under the names that they will have, or that downloads have, and what their headers say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use loaders::safetensors::Limits;
use loaders::{Checkpoint, Encoding, Folder, Prefer, TensorEntry, shards_of, weight_files};

use crate::error::Error;
use crate::models::VaeKl;

/// Files in a part's folder that have its weights together, or one that has all of them.
struct Candidates {
    /// The names under which each is there: its own first, then those that downloads have until they are whole.
    files: Vec<Vec<String>>,
    /// Whether it is one file with all of the weights.
    is_all: bool,
    /// Whether reading would go no further, whatever is there of them.
    would_be_read: bool,
}

impl Candidates {
    /// Those that stand for `file`, one of [`weight_files`]: for an index that is there, what it names.
    ///
    /// # Errors
    /// [`Error::Load`] for an index that is none.
    async fn of(file: &str, folder: &Folder, names: &[String]) -> Result<Self, Error> {
        if let Some(front) = file.strip_suffix(".safetensors") {
            let files = vec![standing_for(front, names)];
            let would_be_read = names.iter().any(|name| name == file);
            return Ok(Candidates { files, is_all: true, would_be_read });
        }
        let would_be_read = folder.exists(file);
        let shards = match would_be_read {
            true => shards_of(folder, file).await,
            false => Ok(BTreeSet::new()),
        };
        let shards = match shards {
            Ok(shards) => shards,
            // What it will name, its shards' names tell.
            Err(error) if error.is_incomplete() => {
                let stem = file.split('.').next().unwrap_or_default();
                let whole = if file.contains("fp16") { format!("{stem}.fp16") } else { stem.to_owned() };
                return Ok(Candidates { would_be_read, ..Candidates::shards(&whole, names) });
            }
            Err(error) => return Err(error.into()),
        };
        // What has another's name in front is that one's, whatever mark it looks like.
        let files = shards.iter().filter_map(|shard| {
            let mut files = standing_for(shard.strip_suffix(".safetensors")?, names);
            files.retain(|name| !shards.iter().any(|other| other != shard && name.starts_with(other)));
            Some(files)
        });
        let files = files.collect();
        Ok(Candidates { files, is_all: false, would_be_read })
    }

    /// Shards of `whole`, by their names.
    fn shards(whole: &str, names: &[String]) -> Self {
        let is_shard = |front: &&str| shard_of(front).as_deref() == Some(whole);
        let fronts = names.iter().filter_map(|name| name.split_once(".safetensors"));
        let fronts =
            fronts.flat_map(|(front, _)| [Some(front), front.rsplit_once('.').map(|(front, _)| front)]);
        let fronts: BTreeSet<&str> = fronts.flatten().filter(is_shard).collect();
        let files = fronts.into_iter().map(|front| standing_for(front, names)).collect();
        Candidates { files, is_all: false, would_be_read: false }
    }

    /// Downloads whose names tell nothing: not what they are of, and of no file that is there.
    fn others(names: &[String]) -> Self {
        let tells_nothing = |front: &&str| {
            let before_mark = front.rsplit_once('.').map_or(*front, |(before, _)| before);
            let is_there =
                |front: &str| names.iter().any(|name| name.strip_suffix(".safetensors") == Some(front));
            let is_kind = |mark: &str| KINDS.contains(&mark.split('-').next().unwrap_or_default());
            !is_there(front) && !is_there(before_mark) && !front.split('.').skip(1).any(is_kind)
        };
        let fronts = names.iter().filter_map(|name| name.split_once(".safetensors")).map(|(front, _)| front);
        let fronts: BTreeSet<&str> = fronts.filter(tells_nothing).collect();
        let of_front = |front: &str| {
            let is_of =
                |name: &&String| name.split_once(".safetensors").is_some_and(|(found, _)| found == front);
            names.iter().filter(is_of).cloned().collect()
        };
        let files = fronts.into_iter().map(of_front).collect();
        Candidates { files, is_all: false, would_be_read: false }
    }
}

/// Marks that tell kinds of weights apart: of the second on, that are not read.
const KINDS: [&str; 5] = ["fp16", "non_ema", "ema", "bf16", "fp32"];

/// Those of `names` under which the file may be there whose name is `front` and `.safetensors`: a download has more behind it, and
/// some browsers' a mark of their own before the ending.
fn standing_for(front: &str, names: &[String]) -> Vec<String> {
    let stands = |name: &&String| {
        let Some((mark, end)) = name.strip_prefix(front).and_then(|rest| rest.split_once(".safetensors"))
        else {
            return false;
        };
        let is_browsers =
            |mark: &str| !end.is_empty() && !mark.contains(['.', '-']) && !KINDS.contains(&mark);
        mark.is_empty() || mark.strip_prefix('.').is_some_and(is_browsers)
    };
    let mut found: Vec<String> = names.iter().filter(stands).cloned().collect();
    found.sort_by_key(|name| !name.ends_with(".safetensors"));
    found
}

/// What a shard is one of, if it is one: `model.fp16` of `model.fp16-00001-of-00002` and of `model-00001-of-00002.fp16`.
fn shard_of(front: &str) -> Option<String> {
    let (before, after) = front.split_once("-of-")?;
    let (stem, number) = before.rsplit_once('-')?;
    let (count, mark) =
        after.split_once('.').map_or((after, ""), |(count, _)| (count, &after[count.len()..]));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(count)).then(|| format!("{stem}{mark}"))
}

/// The name by which a network of the part asks for a tensor: a text encoder's names may have more in front, an autoencoder's may be
/// older.
fn present_name(part: &str, name: &str) -> String {
    match part {
        "vae" => VaeKl::present_name(name),
        "unet" => name.to_owned(),
        _ => name.strip_prefix("text_model.").unwrap_or(name).to_owned(),
    }
}

/// What headers that are there say.
#[derive(Default)]
pub(super) struct There {
    /// What messages call the files.
    pub(super) label: String,
    /// Whether they name all tensors that there will be.
    pub(super) is_all: bool,
    /// The tensors that they name, by the names that networks ask for.
    pub(super) tensors: BTreeMap<String, TensorEntry>,
    /// Bytes that their files lack.
    pub(super) bytes_to_come: u64,
    /// Bytes of files without a header that can be read.
    pub(super) bytes_without_header: u64,
}

impl There {
    /// Of the part `part`, in `folder`.
    ///
    /// # Errors
    /// [`Error::Load`] for a header with two names of one tensor, and an index that is none.
    pub(super) async fn of(part: &str, folder: &Folder, prefer: Prefer) -> Result<Self, Error> {
        let mut begun = There { label: folder.label().to_owned(), ..There::default() };
        let mut names = folder.list().unwrap_or_default();
        let is_index =
            |name: &str| name.split_once(".safetensors").is_some_and(|(_, end)| end.contains(".json"));
        names.retain(|name| !is_index(name));
        let files: Vec<String> = weight_files(prefer).collect();
        // In the order in which files are read, and no further. Shards without their index are the last of a kind.
        for kind in files.chunk_by(|a, b| a.contains("fp16") == b.contains("fp16")) {
            for file in kind {
                let candidates = Candidates::of(file, folder, &names).await?;
                if let Some(there) = begun.decided_by(&candidates, part, folder).await? {
                    return Ok(there);
                }
            }
            for whole in kind.iter().filter_map(|file| file.strip_suffix(".safetensors")) {
                let candidates = Candidates::shards(whole, &names);
                if let Some(there) = begun.decided_by(&candidates, part, folder).await? {
                    return Ok(there);
                }
            }
        }
        let decided = begun.decided_by(&Candidates::others(&names), part, folder).await?;
        Ok(decided.unwrap_or(begun))
    }

    /// What there is of `candidates`, if they have a header or nothing else would be read; else what has begun is noted, the first of it.
    async fn decided_by(
        &mut self,
        candidates: &Candidates,
        part: &str,
        folder: &Folder,
    ) -> Result<Option<Self>, Error> {
        let there = There::of_candidates(part, folder, candidates).await?;
        if !there.tensors.is_empty() || candidates.would_be_read {
            return Ok(Some(there));
        }
        if self.bytes_without_header == 0 {
            self.bytes_without_header = there.bytes_without_header;
        }
        Ok(None)
    }

    async fn of_candidates(part: &str, folder: &Folder, candidates: &Candidates) -> Result<Self, Error> {
        let mut there = There { label: folder.label().to_owned(), ..There::default() };
        for names in &candidates.files {
            let mut bytes_without_header = 0;
            for name in names {
                let Ok(Some(file)) = folder.open(name) else { continue };
                let Ok(header) = Checkpoint::from_part(Arc::clone(&file), &Limits::default()).await else {
                    bytes_without_header = file.len().max(bytes_without_header);
                    continue;
                };
                bytes_without_header = 0;
                let ends = header.tensors().map(|(_, tensor)| tensor.offset.saturating_add(tensor.bytes));
                let lacking = ends.max().unwrap_or(0).saturating_sub(file.len());
                there.bytes_to_come = there.bytes_to_come.saturating_add(lacking);
                let tensors = header.renamed_with(|name| Some(present_name(part, name)))?;
                there
                    .tensors
                    .extend(tensors.tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())));
                if candidates.is_all {
                    there.label = file.label().to_owned();
                    there.is_all = true;
                }
                break;
            }
            there.bytes_without_header = there.bytes_without_header.saturating_add(bytes_without_header);
        }
        Ok(there)
    }

    /// How most of the bytes are stored, but for such as are no weights: checkpoints have indices beside theirs.
    pub(super) fn encoding(&self) -> Option<Encoding> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is there of a folder with these files.
    fn read(part: &str, prefer: Prefer, files: &[(String, Vec<u8>)]) -> Result<There, Error> {
        let leaked = files.iter().map(|(name, bytes)| (&*name.clone().leak(), &*bytes.clone().leak()));
        let leaked: Vec<(&'static str, &'static [u8])> = leaked.collect();
        let folder = Folder::embedded("unet", leaked.leak());
        pollster::block_on(There::of(part, &folder, prefer))
    }

    /// A file that ends with its header; of an empty one there is nothing.
    fn file(name: &str, header: &str) -> (String, Vec<u8>) {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        (name.to_owned(), if header.is_empty() { vec![] } else { bytes })
    }

    fn there(part: &str, files: &[(&str, &str)]) -> Result<There, Error> {
        let files: Vec<_> = files.iter().map(|(name, header)| file(name, header)).collect();
        read(part, Prefer::Fp16, &files)
    }

    fn shards(headers: &[&str]) -> There {
        let name = |number: usize| format!("model-0000{number}-of-00003.safetensors.incomplete");
        let names: Vec<String> = (1..=headers.len()).map(name).collect();
        let files: Vec<(&str, &str)> =
            names.iter().zip(headers).map(|(name, header)| (name.as_str(), *header)).collect();
        there("unet", &files).expect("sound")
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
        let both = shards(&[MIXED, f16]);
        assert_eq!((both.encoding(), both.tensors.len()), (Some(Encoding::F16), 6));
    }

    #[test]
    fn tensors_have_the_names_that_networks_ask_for_and_tell_their_own() {
        let names = |part: &str| {
            let found = there(part, &[("model.safetensors", MIXED)]).expect("sound").tensors;
            let names = found.iter().map(|(name, tensor)| (name.clone(), tensor.name.clone()));
            names.filter(|(name, own)| name != own).collect::<Vec<_>>()
        };
        let pair = |name: &str, own: &str| (name.to_owned(), own.to_owned());
        assert_eq!(names("unet"), []);
        assert_eq!(names("text_encoder_2"), [pair("c", "text_model.c")]);
        let [new, old] = ["to_q", "query"].map(|name| format!("mid_block.attentions.0.{name}.bias"));
        assert_eq!(names("vae"), [pair(&new, &old)]);
        let both = r#"{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
            "text_model.a": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]}}"#;
        let read =
            |part: &str| there(part, &[("model.safetensors", both)]).err().map(|error| error.to_string());
        assert_eq!(read("unet"), None);
        let error = read("text_encoder").expect("two names of one tensor");
        assert!(error.ends_with("tensor 'a': expected one tensor, found 'a' and 'text_model.a'"), "{error}");
    }

    #[test]
    fn what_files_lack_is_to_come() {
        let found = shards(&["{", MIXED, BF16]);
        assert_eq!((found.bytes_to_come, found.bytes_without_header), (50 + 18, 9));
        let found = shards(&["{", "{ ", ""]);
        assert_eq!((found.bytes_to_come, found.bytes_without_header), (0, 9 + 10));
        let twice = ["model-00001-of-00002.safetensors", "model-00001-of-00002.safetensors.part"];
        let found = there("unet", &[(twice[0], "{"), (twice[1], BF16)]).expect("to come");
        assert_eq!((found.bytes_to_come, found.bytes_without_header), (18, 0));
        // Of one file under several names there is one.
        let begun = [("model.safetensors.part", "{"), ("model.safetensors.incomplete", "{ ")];
        let found = there("unet", &begun).expect("to come");
        assert_eq!((found.is_all, found.bytes_without_header), (false, 10));
    }

    #[test]
    fn the_file_that_would_be_read_stands_for_the_part() {
        // `*` stands for a name that is read, and a file whose name ends in `!` has no header yet.
        const READ: &str = "model";
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.replace('*', READ)).collect();
            let header = |name: &str| {
                name.strip_suffix('!').map_or((name.to_owned(), BF16), |name| (name.to_owned(), ""))
            };
            let files: Vec<(String, &str)> = names.iter().map(|name| header(name)).collect();
            let files: Vec<(&str, &str)> =
                files.iter().map(|(name, header)| (name.as_str(), *header)).collect();
            let found = there("unet", &files).expect("sound");
            let label = found.label.rsplit('/').next().unwrap_or_default().replace(READ, "*");
            (found.is_all.then_some(label), found.bytes_to_come / 18)
        };
        let whole = |name: &str| (Some(name.to_owned()), 1);
        // Whole and under names of downloads, also beside what has no header.
        assert_eq!(of(&["*.safetensors.incomplete", "a.safetensors"]), whole("*.safetensors.incomplete"));
        assert_eq!(of(&["*.safetensors", "*.safetensors.part"]), whole("*.safetensors"));
        assert_eq!(of(&["*.safetensors!", "*.safetensors.part"]), whole("*.safetensors.part"));
        assert_eq!(
            of(&["*.safetensors.lock!", "*.safetensors.incomplete"]),
            whole("*.safetensors.incomplete")
        );
        // Marked as fp16, which is preferred here; then the one that is read first.
        assert_eq!(of(&["*.safetensors", "*.fp16.safetensors.part"]), whole("*.fp16.safetensors.part"));
        assert_eq!(of(&["*.safetensors.part", "*.fp16.safetensors.lock!"]), whole("*.safetensors.part"));
        let first =
            there("unet", &[("model.safetensors", MIXED), ("diffusion_pytorch_model.safetensors", BF16)]);
        assert_eq!(first.expect("sound").encoding(), Some(Encoding::Bf16));
        // What would be read tells nothing yet, whatever another tells.
        let first =
            there("unet", &[("model.safetensors", MIXED), ("diffusion_pytorch_model.safetensors", "{")]);
        assert_eq!(first.expect("sound").encoding(), None);
        // Shards in both spellings, of which one is there whole and in part; then what is read after them.
        for fp16 in ["*.fp16-00001-of-00002.safetensors", "*-00001-of-00002.fp16.safetensors"] {
            assert_eq!(of(&["*.safetensors", fp16]), (None, 1));
            assert_eq!(of(&["*.safetensors", fp16, &format!("{fp16}.part")]), (None, 1));
            assert_eq!(of(&["*.safetensors", &format!("{fp16}!")]), whole("*.safetensors"));
            let names = ["*-00001-of-00002.safetensors", fp16, "*.fp16.safetensors.part"];
            assert_eq!(of(&names), whole("*.fp16.safetensors.part"));
        }
        for other in ["*-1-of-a.safetensors", "*-a-of-1.safetensors"] {
            assert_eq!(of(&[other]), (None, 0));
        }
        // Downloads: a mark before the ending is the browser's, unless it is one of weights that are not read.
        assert_eq!(of(&["*.safetensors!", "*.Ab1cDE.safetensors.part"]), whole("*.Ab1cDE.safetensors.part"));
        assert_eq!(of(&["*.fp16.Ab1cDE.safetensors.part"]), whole("*.fp16.Ab1cDE.safetensors.part"));
        for unread in ["a.safetensors", "*.Ab1cDE.safetensors"] {
            assert_eq!(of(&[unread]), (None, 0));
        }
        assert_eq!(of(&["a.safetensors.part", "b.safetensors"]), (None, 1));
        for download in ["a.safetensors.part", "a.Ab1cDE.safetensors.part"] {
            assert_eq!(of(&[download, "a.safetensors"]), (None, 0));
        }
        assert_eq!(of(&["a.safetensors.part", "a.safetensors.incomplete", "b.safetensors.part"]), (None, 2));
        assert_eq!(of(&["a.safetensors.part!", "ab.safetensors.part"]), (None, 1));
        assert_eq!(of(&["a.b.Ab1cDE.safetensors.part", "a.b.safetensors"]), (None, 0));
        assert_eq!(of(&["ema.safetensors.part"]), (None, 1));
        assert_eq!(of(&["a.b.ema.safetensors.part"]), (None, 0));
        assert_eq!(of(&["model.safetensors.index.json.part"]), (None, 0));
        let index = there("unet", &[("model.safetensors.index.json.part", "{")]).expect("to come");
        assert_eq!(index.bytes_without_header, 0);
        let cut = [("model.Ab1cDE.safetensors.part", MIXED), ("model.safetensors", BF16)];
        assert_eq!(there("unet", &cut).expect("sound").encoding(), Some(Encoding::Bf16));
        for kind in ["non_ema", "ema", "bf16", "fp32", "fp16.ema", "ema-00001-of-00002"] {
            for end in ["", ".part"] {
                assert_eq!(of(&[&format!("*.{kind}.safetensors{end}")]), (None, 0), "{kind}");
            }
            assert_eq!(of(&[&format!("*.{kind}.Ab1cDE.safetensors.part")]), (None, 0), "{kind}");
        }
    }

    #[test]
    fn an_index_decides_which_files_are_read() {
        let index = |name: &str, json: &str| (name.to_owned(), json.as_bytes().to_vec());
        let of = |name: &str, prefer: Prefer, files: &[&str]| {
            let json = r#"{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}"#;
            let files = files.iter().map(|name| file(name, BF16)).chain([index(name, json)]);
            let there = read("unet", prefer, &files.collect::<Vec<_>>()).expect("sound");
            (there.is_all, there.bytes_to_come / 18)
        };
        let [full, fp16, old_fp16] =
            ["safetensors.index.json", "fp16.safetensors.index.json", "safetensors.index.fp16.json"]
                .map(|end| format!("model.{end}"));
        // Its shards alone, also where none is there, and beside others that are none of them.
        let names =
            ["x.safetensors", "y.safetensors.part", "z.safetensors", "model-00001-of-00002.safetensors"];
        assert_eq!(of(&full, Prefer::Full, &names), (false, 2));
        for index in [&fp16, &old_fp16] {
            assert_eq!(of(index, Prefer::Fp16, &names), (false, 2));
            for other in ["model.safetensors", "model-00001-of-00002.fp16.safetensors"] {
                assert_eq!(of(index, Prefer::Fp16, &[other]), (false, 0));
            }
            assert_eq!(of(index, Prefer::Full, &["model.safetensors", "x.safetensors"]), (true, 1));
        }
        assert_eq!(of(&full, Prefer::Full, &["model.fp16.safetensors"]), (false, 0));
        // Before those of another kind, shards of one; neither of which stands for a whole file.
        let names = ["model-00001-of-00002.safetensors", "model.fp16.safetensors.part"];
        assert_eq!(of(&fp16, Prefer::Full, &names), (false, 1));
        assert_eq!(of("none", Prefer::Full, &["model.fp16-00001-of-00002.safetensors.part"]), (false, 1));
        let names = ["model-00001-of-00002.fp16.Ab1cDE.safetensors.part", "model.safetensors"];
        assert_eq!(of("none", Prefer::Fp16, &names), (false, 1));
        assert_eq!(of(&full, Prefer::Full, &["model.safetensors.part", "x.safetensors"]), (true, 1));
        assert_eq!(of(&full, Prefer::Fp16, &["model.fp16.safetensors.part"]), (true, 1));
        // Whatever it calls them.
        for shard in ["u.v2", "flux1.5-00001-of-00002", "model-00001-of-00002.bf16", "a.fp32"] {
            let json = format!(r#"{{"weight_map": {{"a": "{shard}.safetensors"}}}}"#);
            for name in ["safetensors", "safetensors.part", "Ab1cDE.safetensors.part"] {
                let files = [index(&full, &json), file(&format!("{shard}.{name}"), BF16)];
                let found = read("unet", Prefer::Full, &files).expect("sound");
                assert_eq!(found.bytes_to_come, 18, "{shard}.{name}");
            }
        }
        // One whose name is another's and what could be a mark.
        let json =
            r#"{"weight_map": {"a": "m.safetensors", "b": "m.v2.safetensors", "c": "a.json.safetensors"}}"#;
        let [v2, dotted] = ["m.v2.safetensors.part", "a.json.safetensors"].map(|name| file(name, BF16));
        let found = read("unet", Prefer::Full, &[index(&full, json), v2, dotted]).expect("sound");
        assert_eq!(found.bytes_to_come, 2 * 18);
        // Shards that have begun, with either index.
        for name in [&fp16, &old_fp16] {
            let shard = "model-00001-of-00002.fp16.safetensors";
            let json = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
            let files = [index(name, &json), (shard.to_owned(), b"123".to_vec())];
            let found = read("unet", Prefer::Fp16, &files).expect("sound");
            assert_eq!(found.bytes_without_header, 3, "{name}");
        }
        // Which itself may be there in part.
        let cut = [(&*full, ""), ("model-00001-of-00002.safetensors", BF16)];
        assert_eq!(there("unet", &cut).expect("sound").encoding(), Some(Encoding::Bf16));
        for index in [&fp16, &old_fp16] {
            let cut = [(index.as_str(), ""), ("model.safetensors", MIXED)];
            assert_eq!(there("unet", &cut).expect("sound").encoding(), None);
            let shards = ["model-00001-of-00002.fp16.safetensors", "model-00001-of-00002.safetensors"];
            let cut = [(index.as_str(), ""), (shards[0], BF16), (shards[1], MIXED)];
            assert_eq!(there("unet", &cut).expect("sound").encoding(), Some(Encoding::Bf16));
        }
        let none = |name: &str| read("unet", Prefer::Fp16, &[index(&full, "[]"), file(name, BF16)]);
        let error = none("a.safetensors").err().expect("no index");
        assert!(error.to_string().contains("weight_map"), "{error}");
        assert!(none("model.safetensors.part").is_ok_and(|there| there.is_all), "it would not be read");
    }
}

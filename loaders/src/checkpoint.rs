//! Named tensors over one file or many.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::folder::is_inside;
use crate::safetensors::{Header, Limits, read_header, read_header_of_part, string_map};
use crate::terminal::escaped;
use crate::{BytesSource, Encoding, Error, FileSource, Folder, Source, read_range, read_whole};

/// Bytes of an index of shards.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Files that an index may name.
const MAX_SHARDS: usize = 1_024;

/// A model's weights: tensors by name, read only when they are asked for.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    label: String,
    tensors: BTreeMap<String, TensorEntry>,
    metadata: BTreeMap<String, String>,
}

/// One tensor of a checkpoint and where its bytes are.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Its name in the file, whatever name it is looked up by.
    pub name: String,
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The file.
    pub source: Arc<dyn Source>,
    /// Where its bytes begin in `source`.
    pub offset: u64,
    /// How many they are: the product of `shape` times the encoding's bytes.
    pub bytes: u64,
    /// Which rows of the file's tensor it is, if it is a part: see [`Checkpoint::split_with`].
    pub rows: Option<Range<usize>>,
}

impl TensorEntry {
    /// Number of values.
    pub fn n_values(&self) -> u64 {
        self.bytes.checked_div(self.encoding.bytes()).unwrap_or_default()
    }

    /// `n` tensors of equally many of its rows.
    ///
    /// # Errors  [`Error::Malformed`] if they are not a multiple of `n`, or it has no outermost dimension
    fn split_rows(&self, n: usize) -> Result<Vec<Self>, Error> {
        let refused = || self.unexpected(format!("a number of rows that is a multiple of {n}"));
        let (n_rows, inner) = self.shape.split_first().ok_or_else(refused)?;
        let part_rows = n_rows.checked_div(n).filter(|part| part.checked_mul(n) == Some(*n_rows));
        let part_rows = part_rows.ok_or_else(refused)?;
        let part_bytes = self.bytes.checked_div(n as u64).unwrap_or_default();
        let shape: Vec<usize> = [part_rows].into_iter().chain(inner.iter().copied()).collect();
        // What a part begins with lies within the tensor, whose end lies within the file.
        let parts = (0..n).map(|idx| {
            let before = self.rows.as_ref().map_or(0, |rows| rows.start);
            let first = before.saturating_add(idx.saturating_mul(part_rows));
            Self {
                shape: shape.clone(),
                offset: self.offset.saturating_add((idx as u64).saturating_mul(part_bytes)),
                bytes: part_bytes,
                rows: Some(first..first.saturating_add(part_rows)),
                ..self.clone()
            }
        });
        Ok(parts.collect())
    }

    /// The error that says what a model expected of this tensor: a dtype, a shape.
    pub fn unexpected(&self, expected: impl fmt::Display) -> Error {
        Error::malformed(
            self.source.label(),
            format!("tensor '{}'", escaped(&self.name)),
            expected.to_string(),
            self.to_string(),
        )
    }
}

/// Its dtype and shape, as `F32[2, 3]`, and for a part its rows, as `F32[2, 3] (rows 4..6)`.
impl fmt::Display for TensorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.encoding, self.shape)?;
        match &self.rows {
            Some(rows) => write!(f, " (rows {}..{})", rows.start, rows.end),
            None => Ok(()),
        }
    }
}

/// How much of a checkpoint is stored in one encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodingTotal {
    /// The encoding.
    pub encoding: Encoding,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Checkpoint {
    /// The checkpoint at `path`: a `.safetensors` file or a `.safetensors.index.json` of shards.
    ///
    /// # Errors  as [`Checkpoint::from_source`] and [`Checkpoint::from_index`]
    pub async fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, Error> {
        let path = path.as_ref();
        let source = FileSource::open(path)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.ends_with(".json") {
            return Self::from_source(Arc::new(source), limits).await;
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::from_index(&Folder::on_disk(parent)?, name, limits).await
    }

    /// Tensors of which only encodings and shapes are known: nothing can be read of them.
    pub fn foretold(label: &str, tensors: impl IntoIterator<Item = (String, Encoding, Vec<usize>)>) -> Self {
        let source: Arc<dyn Source> = Arc::new(BytesSource::new(label, Vec::new()));
        let tensors = tensors.into_iter().map(|(name, encoding, shape)| {
            let values = shape.iter().fold(1_u64, |values, extent| values.saturating_mul(*extent as u64));
            let entry = TensorEntry {
                name: name.clone(),
                encoding,
                bytes: values.saturating_mul(encoding.bytes()),
                shape,
                source: Arc::clone(&source),
                offset: 0,
                rows: None,
            };
            (name, entry)
        });
        Self { label: label.to_owned(), tensors: tensors.collect(), metadata: BTreeMap::new() }
    }

    /// The tensors of one safetensors file.
    ///
    /// # Errors  [`Error::Malformed`]; [`Error::Unsupported`] for a pickle, another format, an unknown dtype or
    ///   one of `limits`; [`Error::Io`]
    pub async fn from_source(source: Arc<dyn Source>, limits: &Limits) -> Result<Self, Error> {
        let header = read_header(&*source, limits).await?;
        Ok(Self::of_header(source, header))
    }

    /// The tensors of one safetensors file that may end anywhere after its header, as one does that is still being downloaded.
    ///
    /// # Errors  as [`Checkpoint::from_source`]
    pub async fn from_part(source: Arc<dyn Source>, limits: &Limits) -> Result<Self, Error> {
        let header = read_header_of_part(&*source, limits).await?;
        Ok(Self::of_header(source, header))
    }

    fn of_header(source: Arc<dyn Source>, header: Header) -> Self {
        let tensors = header.tensors.into_iter().map(|tensor| {
            let entry = TensorEntry {
                name: tensor.name.clone(),
                encoding: tensor.encoding,
                shape: tensor.shape,
                source: Arc::clone(&source),
                offset: tensor.offset,
                bytes: tensor.bytes,
                rows: None,
            };
            (tensor.name, entry)
        });
        Self { tensors: tensors.collect(), label: source.label().to_owned(), metadata: header.metadata }
    }

    /// The same with more tensors by their names, each in the place of one that has its name.
    pub fn with_tensors(mut self, tensors: impl IntoIterator<Item = (String, TensorEntry)>) -> Self {
        self.tensors.extend(tensors);
        self
    }

    /// The tensors of the shards that the index file `name` in `folder` lists.
    ///
    /// The index and the shards have to agree: each tensor stands in the shard that `weight_map` gives for it
    /// and in no other.
    ///
    /// # Errors  as [`Checkpoint::from_source`]; [`Error::Malformed`] for a shard that is missing or outside the
    ///   folder; [`Error::Unsupported`] for shards that together pass one of `limits`
    /// # Source  `sharded_checkpoints` of huggingface_hub: `{"metadata": {..}, "weight_map": {tensor: file}}`
    pub async fn from_index(folder: &Folder, name: &str, limits: &Limits) -> Result<Self, Error> {
        let source = folder.require(name)?;
        let (label, index) = (source.label(), Index::read(&*source).await?);
        let too_many = |what: String| Error::unsupported(label, what, "");
        if index.weight_map.len() > limits.n_tensors {
            return Err(too_many(format!("an index of over {} tensors", limits.n_tensors)));
        }
        let mut shards: BTreeMap<&str, Option<Self>> = BTreeMap::new();
        // What is wrong with a shard that is there comes before what is not.
        let mut incomplete = None;
        let (mut n_tensors, mut metadata_bytes) = (0_usize, 0_usize);
        for shard in index.weight_map.values() {
            if shards.contains_key(shard.as_str()) {
                continue;
            }
            if shards.len() >= MAX_SHARDS {
                return Err(too_many(format!("an index of over {MAX_SHARDS} shards")));
            }
            if !is_inside(shard) {
                let found = format!("'{}'", escaped(shard));
                return Err(Error::malformed(
                    label,
                    "weight_map",
                    "a relative path inside the folder",
                    found,
                ));
            }
            let Some(source) = folder.open(shard)? else {
                let wanted = format!("shard '{}'", escaped(shard));
                incomplete
                    .get_or_insert_with(|| Error::incomplete(label, "weight_map", wanted, folder.found()));
                shards.insert(shard, None);
                continue;
            };
            let opened = match Self::from_source(source, limits).await {
                Ok(opened) => opened,
                Err(error) if error.is_incomplete() => {
                    incomplete.get_or_insert(error);
                    shards.insert(shard, None);
                    continue;
                }
                Err(error) => return Err(error),
            };
            n_tensors = n_tensors.saturating_add(opened.tensors.len());
            if n_tensors > limits.n_tensors {
                return Err(too_many(format!("shards with over {} tensors", limits.n_tensors)));
            }
            let texts = opened.metadata.iter().map(|(key, value)| key.len().saturating_add(value.len()));
            metadata_bytes = texts.fold(metadata_bytes, usize::saturating_add);
            if metadata_bytes > limits.metadata_bytes {
                return Err(too_many(format!(
                    "shards with over {} bytes of metadata",
                    limits.metadata_bytes
                )));
            }
            shards.insert(shard, Some(opened));
        }
        if let Some(incomplete) = incomplete {
            return Err(incomplete);
        }
        let mut shards: BTreeMap<&str, Self> =
            shards.into_iter().filter_map(|(shard, opened)| Some((shard, opened?))).collect();

        let mut checkpoint =
            Self { label: label.to_owned(), tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        for (tensor, shard) in &index.weight_map {
            let found = shards.get_mut(shard.as_str()).and_then(|shard| shard.tensors.remove(tensor));
            let entry = found.ok_or_else(|| {
                let (tensor, shard) = (escaped(tensor), escaped(shard));
                Error::malformed(
                    label,
                    "weight_map",
                    format!("tensor '{tensor}' in shard '{shard}'"),
                    "none there",
                )
            })?;
            checkpoint.tensors.insert(tensor.clone(), entry);
        }
        for (shard, rest) in shards {
            if let Some(tensor) = rest.tensors.keys().next() {
                let found = format!("tensor '{}' in shard '{}'", escaped(tensor), escaped(shard));
                return Err(Error::malformed(label, "weight_map", "every tensor of its shards", found));
            }
            checkpoint.metadata.extend(rest.metadata);
        }
        Ok(checkpoint)
    }

    /// What messages call it: its file, or its index.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The free text of its files' headers.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The names by which tensors are looked up, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names and tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorEntry)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The tensor `name`.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// The tensor `name`.
    ///
    /// # Errors  [`Error::Malformed`] if there is none
    pub fn require(&self, name: &str) -> Result<&TensorEntry, Error> {
        self.get(name).ok_or_else(|| {
            let what = format!("tensor '{}'", escaped(name));
            Error::malformed(
                &self.label,
                what,
                "a tensor",
                format!("none of that name among {}", self.tensors.len()),
            )
        })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|entry| entry.bytes).fold(0, u64::saturating_add)
    }

    /// What its tensors are stored in, by encoding.
    pub fn encodings(&self) -> Vec<EncodingTotal> {
        let mut totals: BTreeMap<Encoding, EncodingTotal> = BTreeMap::new();
        for entry in self.tensors.values() {
            let encoding = entry.encoding;
            let total = totals.entry(encoding).or_insert(EncodingTotal { encoding, n_tensors: 0, bytes: 0 });
            total.n_tensors = total.n_tensors.saturating_add(1);
            total.bytes = total.bytes.saturating_add(entry.bytes);
        }
        totals.into_values().collect()
    }

    /// The bytes of `entry` as the file holds them: little-endian, row-major.
    ///
    /// # Errors  [`Error::Malformed`] if the file was truncated since; [`Error::Io`]
    pub async fn read(&self, entry: &TensorEntry) -> Result<Vec<u8>, Error> {
        read_range(&*entry.source, entry.offset, entry.bytes).await
    }

    /// Fills `into` with the bytes `range` of `entry`, counted from the tensor's first.
    ///
    /// # Errors  [`Error::Malformed`] if `range` passes the tensor's end, is not as long as `into`, or the file
    ///   was truncated since; [`Error::Io`]
    pub async fn read_into(
        &self,
        entry: &TensorEntry,
        range: Range<u64>,
        into: &mut [u8],
    ) -> Result<(), Error> {
        let asked = range.end.checked_sub(range.start);
        if range.end > entry.bytes || asked != Some(into.len() as u64) {
            let what = format!("bytes {range:?} of tensor '{}' into {}", escaped(&entry.name), into.len());
            return Err(Error::malformed(
                entry.source.label(),
                what,
                "a range inside it",
                format!("{} bytes", entry.bytes),
            ));
        }
        // Its end is inside the file.
        entry.source.read_at(entry.offset.saturating_add(range.start), into).await
    }

    /// The tensors below `prefix`, which ends in a dot, by the rest of their names.
    pub fn scoped(&self, prefix: &str) -> Self {
        let below = self.tensors.iter().filter_map(|(name, entry)| Some((name.strip_prefix(prefix)?, entry)));
        Self {
            label: self.label.clone(),
            tensors: below.map(|(name, entry)| (name.to_owned(), entry.clone())).collect(),
            metadata: self.metadata.clone(),
        }
    }

    /// The same tensors of what messages call `label`.
    pub fn labelled(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// The same tensors by other names; `rename` gives `None` for a tensor to leave out.
    ///
    /// # Errors  [`Error::Malformed`] if two tensors get one name
    pub fn renamed_with(&self, rename: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        self.split_with(|name| rename(name).into_iter().collect())
    }

    /// The same tensors by other names: a tensor for which `names` gives several is cut, in this order, into as
    /// many tensors of equally many rows; one with a single name stays whole, one without is left out.
    ///
    /// A row is all but the outermost dimension. Nothing is read: parts are ranges of the file.
    ///
    /// # Errors  [`Error::Malformed`] if the rows of a tensor cannot be shared out equally; if two tensors get
    ///   one name
    pub fn split_with(&self, names: impl Fn(&str) -> Vec<String>) -> Result<Self, Error> {
        let mut tensors: BTreeMap<String, TensorEntry> = BTreeMap::new();
        for (name, entry) in &self.tensors {
            let names = names(name);
            let parts = if names.len() > 1 { entry.split_rows(names.len())? } else { vec![entry.clone()] };
            for (name, part) in names.into_iter().zip(parts) {
                let what = format!("tensor '{}'", escaped(&name));
                if let Some(other) = tensors.insert(name, part) {
                    let found = format!("'{}' and '{}'", escaped(&other.name), escaped(&entry.name));
                    return Err(Error::malformed(&self.label, what, "one tensor", found));
                }
            }
        }
        Ok(Self { label: self.label.clone(), tensors, metadata: self.metadata.clone() })
    }
}

/// The files that an index in `folder` names, each once.
///
/// # Errors  [`Error::Malformed`] for what is no index, or ends before it is one; [`Error::Io`]
pub async fn shards_of(folder: &Folder, index: &str) -> Result<BTreeSet<String>, Error> {
    let source = folder.require(index)?;
    Ok(Index::read(&*source).await?.weight_map.into_values().collect())
}

#[derive(serde::Deserialize)]
struct Index {
    #[serde(deserialize_with = "string_map")]
    weight_map: BTreeMap<String, String>,
}

impl Index {
    async fn read(source: &dyn Source) -> Result<Self, Error> {
        let json = read_whole(source, MAX_INDEX_BYTES).await?;
        serde_json::from_slice(&json).map_err(|error| {
            let (expected, found) = ("an object from tensors to files", escaped(&error.to_string()));
            match error.is_eof() {
                true => Error::incomplete(source.label(), "weight_map", expected, found),
                false => Error::malformed(source.label(), "weight_map", expected, found),
            }
        })
    }
}

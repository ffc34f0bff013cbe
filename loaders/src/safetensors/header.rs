//! Reads and checks a header: after this, every tensor's bytes lie inside the file and nowhere else.

use std::collections::BTreeMap;

use super::json::{RawHeader, RawTensor, parse_header};
use super::{Encoding, Limits};
use crate::terminal::escaped;
use crate::{Error, Source, read_range};

/// Bytes before the JSON: its length.
const PREFIX_BYTES: u64 = 8;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Free text of whoever wrote the file.
    pub metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// How many they are: the product of `shape` times the encoding's bytes.
    pub bytes: u64,
}

/// Reads the header of `source` and checks it against the file's size.
///
/// # Errors  [`Error::Malformed`]; [`Error::Unsupported`] for another format, an unknown dtype or one of
///   `limits`; [`Error::Io`]
/// # Source  format section of the safetensors README
pub async fn read_header(source: &dyn Source, limits: &Limits) -> Result<Header, Error> {
    let (raw, data_start) = read_raw(source, limits).await?;
    // Both are at most the file's size.
    let data_bytes = source.len().saturating_sub(data_start);
    let tensors = place_tensors(source.label(), raw.tensors, data_start, Some(data_bytes))?;
    Ok(Header { tensors, metadata: raw.metadata })
}

/// [`read_header`] of a file that may end anywhere after its header, as one does that is still being downloaded.
///
/// # Errors  as [`read_header`]
pub async fn read_header_of_part(source: &dyn Source, limits: &Limits) -> Result<Header, Error> {
    let (raw, data_start) = read_raw(source, limits).await?;
    let tensors = place_tensors(source.label(), raw.tensors, data_start, None)?;
    Ok(Header { tensors, metadata: raw.metadata })
}

/// What a header says, and where the data behind it begins.
async fn read_raw(source: &dyn Source, limits: &Limits) -> Result<(RawHeader, u64), Error> {
    let file = source.label();
    let start = read_range(source, 0, source.len().min(PREFIX_BYTES.saturating_add(1))).await?;
    if start.get(8) != Some(&b'{') {
        refuse_other_formats(file, &start)?;
    }
    let Some(prefix) = start.first_chunk() else {
        return Err(Error::incomplete(file, "header", "at least 8 bytes", format!("{} bytes", source.len())));
    };
    let header_bytes = u64::from_le_bytes(*prefix);
    let after_prefix = source.len().saturating_sub(PREFIX_BYTES);
    if header_bytes > after_prefix {
        let expected = format!("{header_bytes} bytes of JSON");
        let found = format!("a file of {} bytes", source.len());
        return Err(match header_bytes > limits.header_bytes {
            true => Error::malformed(file, "header", expected, found),
            false => Error::incomplete(file, "header", expected, found),
        });
    }
    if header_bytes > limits.header_bytes {
        return Err(Error::unsupported(
            file,
            format!("a header of {header_bytes} bytes"),
            format!("at most {} bytes are read", limits.header_bytes),
        ));
    }
    let json = read_range(source, PREFIX_BYTES, header_bytes).await?;
    let json = str::from_utf8(&json).map_err(|error| {
        Error::malformed(file, "header", "UTF-8", format!("another byte at {}", error.valid_up_to()))
    })?;
    if !json.starts_with('{') {
        let found = json
            .chars()
            .next()
            .map_or("nothing".into(), |c| format!("'{}'", escaped(c.encode_utf8(&mut [0; 4]))));
        return Err(Error::malformed(file, "header", "'{' first", found));
    }
    Ok((parse_header(file, json, limits)?, PREFIX_BYTES.saturating_add(header_bytes)))
}

/// Names the formats that are mistaken for safetensors, by the first bytes of a file that has no '{' at 8.
fn refuse_other_formats(file: &str, start: &[u8]) -> Result<(), Error> {
    let hint = "convert it: load it with torch.load(path, weights_only=True) and write it with \
                safetensors.torch.save_file";
    let (what, hint) = match start {
        [0x80, 2..=5, ..] => ("a pickle, which can run code when it is loaded,", hint),
        [b'P', b'K', 3, 4, ..] => {
            ("a zip archive (a PyTorch checkpoint is one and can run code when loaded)", hint)
        }
        [b'G', b'G', b'U', b'F', ..] => ("the GGUF format", "use the model's safetensors files"),
        _ => return Ok(()),
    };
    Err(Error::unsupported(file, what, hint))
}

/// Checks that the tensors fill `data_bytes`, if they are known, without a hole or an overlap, each as its shape says.
fn place_tensors(
    file: &str,
    raw: BTreeMap<String, RawTensor>,
    data_start: u64,
    data_bytes: Option<u64>,
) -> Result<Vec<TensorInfo>, Error> {
    let mut raw: Vec<_> = raw.into_iter().collect();
    raw.sort_by_key(|(_, tensor)| tensor.offsets);
    let mut tensors = Vec::with_capacity(raw.len());
    let mut reached = 0;
    for (name, RawTensor { encoding, shape, offsets: [begin, end] }) in raw {
        let malformed = |expected: String, found: String| {
            Error::malformed(file, format!("tensor '{}'", escaped(&name)), expected, found)
        };
        if begin != reached {
            return Err(malformed(format!("bytes from {reached} on"), format!("bytes {begin}..{end}")));
        }
        let bytes = byte_size(encoding, &shape)
            .ok_or_else(|| malformed("a size below 2^63 bytes".into(), format!("{encoding}{shape:?}")))?;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(malformed(
                format!("{bytes} bytes for {encoding}{shape:?}"),
                format!("bytes {begin}..{end}"),
            ));
        }
        if let Some(data_bytes) = data_bytes.filter(|data_bytes| end > *data_bytes) {
            return Err(Error::incomplete(
                file,
                format!("tensor '{}'", escaped(&name)),
                format!("bytes {begin}..{end} after the header"),
                format!("a file that ends at {data_bytes}"),
            ));
        }
        let shape =
            shape.iter().map(|dim| usize::try_from(*dim)).collect::<Result<_, _>>().map_err(|_| {
                Error::unsupported(
                    file,
                    format!("tensor '{}' of shape {shape:?} on this machine", escaped(&name)),
                    "",
                )
            })?;
        tensors.push(TensorInfo { name, encoding, shape, offset: data_start.saturating_add(begin), bytes });
        reached = end;
    }
    if let Some(data_bytes) = data_bytes.filter(|data_bytes| reached != *data_bytes) {
        return Err(Error::malformed(
            file,
            "end",
            format!("{reached} bytes of tensors after the header"),
            format!("{data_bytes} bytes"),
        ));
    }
    Ok(tensors)
}

/// Bytes of a tensor; `None` if they, or its dimensions other than zero, pass 2^63.
fn byte_size(encoding: Encoding, shape: &[u64]) -> Option<u64> {
    const TOO_MANY: u64 = 1 << 63;
    let nonzero =
        shape.iter().filter(|dim| **dim != 0).try_fold(encoding.bytes(), |n, dim| n.checked_mul(*dim))?;
    let bytes = if shape.contains(&0) { 0 } else { nonzero };
    (nonzero < TOO_MANY).then_some(bytes)
}

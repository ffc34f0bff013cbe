//! Writes safetensors files: recorded tensors, and the files of tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::Encoding;
use crate::{Error, write_with};

/// A tensor to write.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dimensions, outermost first; their product is the number of values.
    pub shape: &'a [usize],
    /// Its values in row-major order.
    pub data: Data<'a>,
}

/// A tensor's values.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// The bits of IEEE half floats.
    F16Bits(&'a [u16]),
}

impl Data<'_> {
    fn encoding(&self) -> Encoding {
        match self {
            Self::F32(_) => Encoding::F32,
            Self::F16Bits(_) => Encoding::F16,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16Bits(values) => values.len(),
        }
    }

    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::F32(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
            Self::F16Bits(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
        }
    }
}

#[derive(Serialize)]
struct Field<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [u64; 2],
}

/// Writes `tensors` and `metadata` to `path`: the whole file or nothing.
///
/// Tensors stand in the order given, f32 before f16 so that all are aligned.
///
/// # Errors  [`Error::Output`], also if a name stands twice or a shape does not fit its values
pub fn write(path: &Path, tensors: &[Tensor<'_>], metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    write_with(path, |out| write_to(out, tensors, metadata))
}

/// The bytes of the file that [`write()`] would write.
///
/// # Errors  [`io::ErrorKind::InvalidInput`] if a name stands twice or a shape does not fit its values
pub fn to_bytes(tensors: &[Tensor<'_>], metadata: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors, metadata)?;
    Ok(bytes)
}

fn write_to(
    out: &mut dyn Write,
    tensors: &[Tensor<'_>],
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by_key(|tensor| matches!(tensor.data, Data::F16Bits(_)));

    let mut names = BTreeSet::from(["__metadata__"]);
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::to_value(metadata)?);
    }
    let mut end = 0_u64;
    for tensor in &ordered {
        if !names.insert(tensor.name) {
            return Err(invalid(format!("tensor '{}' given twice", tensor.name)));
        }
        let n_values = tensor.shape.iter().try_fold(1_usize, |n, dim| n.checked_mul(*dim));
        if n_values != Some(tensor.data.len()) {
            let message = format!(
                "tensor '{}': shape {:?} for {} values",
                tensor.name,
                tensor.shape,
                tensor.data.len()
            );
            return Err(invalid(message));
        }
        let encoding = tensor.data.encoding();
        let begin = end;
        // The values are in memory, so their bytes fit.
        end = begin.saturating_add(encoding.bytes().saturating_mul(tensor.data.len() as u64));
        let field = Field { dtype: encoding.name(), shape: tensor.shape, data_offsets: [begin, end] };
        header.insert(tensor.name.to_owned(), serde_json::to_value(field)?);
    }
    let mut json = serde_json::to_vec(&header)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    out.write_all(&(json.len() as u64).to_le_bytes())?;
    out.write_all(&json)?;
    ordered.iter().try_for_each(|tensor| tensor.data.write_to(out))
}

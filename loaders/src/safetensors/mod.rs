//! The safetensors format: a length, a JSON header, and the tensors' bytes without gaps.
//!
//! Stricter than the reference reader where that one lets an ambiguity pass: duplicate names and fields,
//! shapes whose size overflows behind a zero, fields nobody defined, headers that cost seconds to parse.
//!
//! Source: the format's README, <https://github.com/safetensors/safetensors>.

mod encoding;
mod header;
mod json;
mod writer;

pub use encoding::Encoding;
pub use header::{Header, TensorInfo, read_header, read_header_of_part};
pub use writer::{Data, Tensor, to_bytes, write};

pub(crate) use json::string_map;

/// What a header may cost; a file that asks for more is unsupported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of JSON.
    pub header_bytes: u64,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Dimensions of a tensor.
    pub rank: usize,
    /// Bytes of a tensor's name.
    pub name_bytes: usize,
    /// Bytes of all metadata keys and values.
    pub metadata_bytes: usize,
}

impl Default for Limits {
    /// Far above any known checkpoint; the largest header allowed parses in well under a second.
    fn default() -> Self {
        Self {
            header_bytes: 16 << 20,
            n_tensors: 65_536,
            rank: 8,
            name_bytes: 1_024,
            metadata_bytes: 8 << 20,
        }
    }
}

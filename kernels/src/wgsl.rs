//! Shader assembly: a prelude, then a plain WGSL file.
//!
//! A file under `wgsl/` is ordinary WGSL but for `#import NAME` (a file of `wgsl/shared/`) and `#ifdef FLAG`, `#else`,
//! `#endif`. The prelude gives it the constants of a specialisation and, for each storage operand `x`, `alias X4`,
//! `decode_x(X4) -> vec4<f32>` and `encode_x(vec4<f32>) -> X4`, so that one file serves every element type. 16-bit elements
//! travel packed, two to a word: no file needs `enable f16` but those with the flag `COOPERATIVE`, whose matrix units take f16.

use crate::types::{self, DType};

#[allow(unreachable_pub, reason = "shared with the build script, where it is the root")]
mod assembly;

pub(crate) use assembly::COOPERATIVE;
pub use assembly::Target;
use assembly::{Specialisation, assemble};

/// A WGSL file with its specialisation: the identity of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// Stem of the file under `wgsl/`.
    pub file: &'static str,
    /// `const NAME: u32 = value;`
    pub constants: Vec<(&'static str, u32)>,
    /// Names for `#ifdef`. Every encoding adds one, such as `W_F16` for an operand `w` stored as f16.
    pub flags: Vec<&'static str>,
    /// Storage operands by the names the file uses, and how their elements are stored.
    pub encodings: Vec<(&'static str, DType)>,
    /// Whether it uses subgroup operations.
    pub subgroups: bool,
}

impl Shader {
    /// The file with nothing specialised.
    pub fn new(file: &'static str) -> Self {
        Shader { file, constants: Vec::new(), flags: Vec::new(), encodings: Vec::new(), subgroups: false }
    }

    /// With a constant.
    pub fn constant(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// With a flag, if `on`.
    pub fn flag(mut self, name: &'static str, on: bool) -> Self {
        if on {
            self.flags.push(name);
        }
        self
    }

    /// With the storage of an operand.
    pub fn encoding(mut self, operand: &'static str, dtype: DType) -> Self {
        self.encodings.push((operand, dtype));
        self
    }

    /// Using subgroup operations.
    pub fn with_subgroups(mut self) -> Self {
        self.subgroups = true;
        self
    }

    /// The WGSL to compile.
    ///
    /// # Panics
    /// If the file, an import or an `#ifdef` is wrong: the build script assembles every file first.
    pub fn wgsl(&self, target: Target) -> String {
        let lines = Specialisation {
            constants: self.constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            flags: self.flags.iter().map(|f| (*f).to_owned()).collect(),
            encodings: self.encodings.iter().map(|(name, dtype)| ((*name).to_owned(), *dtype)).collect(),
            subgroups: self.subgroups,
        };
        match assemble(self.file, &lines, target, &|name| {
            FILES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
        }) {
            Ok(text) => text,
            Err(message) => panic!("{}.wgsl: {message}", self.file),
        }
    }
}

/// A number that differs between versions of this crate and of its shaders.
pub fn shaders_hash() -> u64 {
    hash_of(env!("CARGO_PKG_VERSION"), FILES)
}

fn hash_of(version: &str, files: &[(&str, &str)]) -> u64 {
    let texts = files.iter().flat_map(|(name, text)| [*name, *text]);
    fnv1a([version].into_iter().chain(texts))
}

/// A hash that is the same everywhere and in every version of Rust: Fowler, Noll and Vo's FNV-1a of 64 bits, with a byte that is
/// in no UTF-8 after each text.
pub fn fnv1a<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> u64 {
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    texts.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, text| {
        let hash = text.as_ref().iter().fold(hash, |hash, byte| add(hash, *byte));
        add(hash, 0xff)
    })
}

include!(concat!(env!("OUT_DIR"), "/wgsl_files.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_names_and_texts_of_shaders_count() {
        let all = [
            hash_of("1", &[("a", "x"), ("b", "y")]),
            hash_of("2", &[("a", "x"), ("b", "y")]),
            hash_of("1", &[("a", "x"), ("c", "y")]),
            hash_of("1", &[("a", "x"), ("b", "z")]),
            hash_of("1", &[("a", "x")]),
        ];
        assert_eq!(std::collections::BTreeSet::from(all).len(), all.len(), "{all:?}");
        assert_eq!(shaders_hash(), hash_of(env!("CARGO_PKG_VERSION"), FILES));
    }

    /// draft-eastlake-fnv, appendix C, with the byte that ends a text.
    #[test]
    fn a_hash_is_that_of_its_definition() {
        assert_eq!(fnv1a::<&str>([]), 0xcbf2_9ce4_8422_2325);
        let a = 0xaf63_dc4c_8601_ec8cu64;
        assert_eq!(fnv1a(["a"]), (a ^ 0xff).wrapping_mul(0x0000_0100_0000_01b3));
        assert_ne!(fnv1a(["a", "b"]), fnv1a(["ab"]));
        assert_ne!(fnv1a(["a", "b"]), fnv1a(["b", "a"]));
    }
}

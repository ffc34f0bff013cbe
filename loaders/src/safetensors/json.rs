//! JSON without ambiguity: objects whose keys stand once, and errors that say where.
//!
//! serde's derived readers keep the last of two equal keys, or drop a field they do not know; a header read
//! in two ways is how one file shows different tensors to different programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};

use super::{Encoding, Limits};
use crate::Error;
use crate::terminal::escaped;

/// A header's tensors and metadata, before their places in the file are checked.
#[derive(Debug, Default)]
pub(super) struct RawHeader {
    pub(super) tensors: BTreeMap<String, RawTensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One tensor as the header declares it.
#[derive(Debug)]
pub(super) struct RawTensor {
    pub(super) encoding: Encoding,
    pub(super) shape: Vec<u64>,
    /// Bytes after the header: begin and end.
    pub(super) offsets: [u64; 2],
}

/// Reads a header's JSON.
///
/// # Errors  [`Error::Malformed`], [`Error::Unsupported`]: an encoding, or one of `limits`
pub(super) fn parse_header(file: &str, json: &str, limits: &Limits) -> Result<RawHeader, Error> {
    let mut context = Context { file, limits, failure: None };
    let mut json = serde_json::Deserializer::from_str(json);
    let parsed =
        HeaderSeed(&mut context).deserialize(&mut json).and_then(|header| json.end().map(|()| header));
    parsed.map_err(|error| context.failure.unwrap_or_else(|| syntax(file, "header", "a JSON object", &error)))
}

/// Reads a JSON object of strings whose keys stand once.
///
/// # Errors  [`serde_json::Error`], which says where
pub(crate) fn string_map<'de, D: Deserializer<'de>>(json: D) -> Result<BTreeMap<String, String>, D::Error> {
    StringMapSeed { max_bytes: usize::MAX, is_over: &mut false }.deserialize(json)
}

fn syntax(file: &str, what: impl Into<String>, expected: &str, error: &serde_json::Error) -> Error {
    Error::malformed(file, what, expected, escaped(&error.to_string()))
}

/// Carries the structured error past serde, whose errors are text.
struct Context<'a> {
    file: &'a str,
    limits: &'a Limits,
    failure: Option<Error>,
}

impl Context<'_> {
    fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.failure.get_or_insert(error);
        E::custom("refused")
    }

    fn malformed<E: serde::de::Error>(
        &mut self,
        what: String,
        expected: &str,
        found: impl Into<String>,
    ) -> E {
        let error = Error::malformed(self.file, what, expected, found);
        self.fail(error)
    }

    fn over_limit<E: serde::de::Error>(&mut self, what: String, hint: String) -> E {
        let error = Error::unsupported(self.file, what, hint);
        self.fail(error)
    }

    /// Names the place of an error that serde found; an own error, which came first, stands.
    fn place<E: serde::de::Error>(&mut self, what: String, expected: &str, error: E) -> E {
        let found = escaped(&error.to_string());
        if self.failure.is_none() {
            self.failure = Some(Error::malformed(self.file, what, expected, found));
        }
        error
    }
}

struct HeaderSeed<'c, 'a>(&'c mut Context<'a>);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_, '_> {
    type Value = RawHeader;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<RawHeader, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_, '_> {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let context = self.0;
        let mut header = RawHeader::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if has_metadata {
                    return Err(context.malformed("__metadata__".into(), "one entry", "two"));
                }
                has_metadata = true;
                let most = context.limits.metadata_bytes;
                let mut is_over = false;
                let seed = StringMapSeed { max_bytes: most, is_over: &mut is_over };
                let read = map.next_value_seed(seed);
                if is_over {
                    return Err(context.over_limit(format!("metadata of over {most} bytes"), String::new()));
                }
                header.metadata = read
                    .map_err(|error| context.place("__metadata__".into(), "an object of strings", error))?;
                continue;
            }
            if name.is_empty() {
                return Err(context.malformed("a tensor's name".into(), "at least one character", "none"));
            }
            if name.len() > context.limits.name_bytes {
                let hint = format!("at most {} bytes are read", context.limits.name_bytes);
                return Err(context.over_limit(format!("a tensor name of {} bytes", name.len()), hint));
            }
            if header.tensors.contains_key(&name) {
                return Err(context.malformed(format!("tensor '{}'", escaped(&name)), "one entry", "two"));
            }
            if header.tensors.len() >= context.limits.n_tensors {
                let most = context.limits.n_tensors;
                return Err(context.over_limit(format!("a header of over {most} tensors"), String::new()));
            }
            let tensor = map.next_value_seed(TensorSeed { context: &mut *context, name: &name })?;
            header.tensors.insert(name, tensor);
        }
        Ok(header)
    }
}

struct TensorSeed<'c, 'a, 'n> {
    context: &'c mut Context<'a>,
    name: &'n str,
}

const FIELDS: &str = "the fields dtype, shape and data_offsets";

impl TensorSeed<'_, '_, '_> {
    fn what(&self) -> String {
        format!("tensor '{}'", escaped(self.name))
    }
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_, '_, '_> {
    type Value = RawTensor;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<RawTensor, D::Error> {
        let Self { context, name } = self;
        let read = json.deserialize_map(TensorSeed { context: &mut *context, name });
        read.map_err(|error| {
            let what = TensorSeed { context: &mut *context, name }.what();
            context.place(what, FIELDS, error)
        })
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_, '_, '_> {
    type Value = RawTensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None::<String>, None::<Vec<u64>>, None::<[u64; 2]>);
        while let Some(field) = map.next_key::<String>()? {
            let is_new = match field.as_str() {
                "dtype" => dtype.replace(map.next_value()?).is_none(),
                "shape" => {
                    let seed = ShapeSeed { context: &mut *self.context, name: self.name };
                    shape.replace(map.next_value_seed(seed)?).is_none()
                }
                "data_offsets" => offsets.replace(map.next_value()?).is_none(),
                _ => return Err(A::Error::custom(format!("field '{field}'"))),
            };
            if !is_new {
                return Err(A::Error::custom(format!("field '{field}' twice")));
            }
        }
        let (Some(dtype), Some(shape), Some(offsets)) = (dtype, shape, offsets) else {
            return Err(A::Error::custom("not all of them"));
        };
        let Some(encoding) = Encoding::from_name(&dtype) else {
            let what = format!("dtype '{}' of tensor '{}'", escaped(&dtype), escaped(self.name));
            return Err(self.context.over_limit(what, "re-save the tensor as F32, F16 or BF16".into()));
        };
        Ok(RawTensor { encoding, shape, offsets })
    }
}

/// Stops at the rank that is allowed instead of reading a million dimensions.
struct ShapeSeed<'c, 'a, 'n> {
    context: &'c mut Context<'a>,
    name: &'n str,
}

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_, '_, '_> {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<u64>, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed<'_, '_, '_> {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of dimensions")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut dims: A) -> Result<Vec<u64>, A::Error> {
        let most = self.context.limits.rank;
        let mut shape = Vec::new();
        while let Some(dim) = dims.next_element()? {
            if shape.len() >= most {
                let what = format!("tensor '{}' of over {most} dimensions", escaped(self.name));
                return Err(self.context.over_limit(what, String::new()));
            }
            shape.push(dim);
        }
        Ok(shape)
    }
}

struct StringMapSeed<'f> {
    max_bytes: usize,
    /// Set where `max_bytes` was the reason to stop.
    is_over: &'f mut bool,
}

impl<'de> DeserializeSeed<'de> for StringMapSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StringMapSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut strings = BTreeMap::new();
        let mut bytes = 0_usize;
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
            if bytes > self.max_bytes {
                *self.is_over = true;
                return Err(A::Error::custom(format!("over {} bytes", self.max_bytes)));
            }
            if strings.contains_key(&key) {
                return Err(A::Error::custom(format!("key '{}' twice", escaped(&key))));
            }
            strings.insert(key, value);
        }
        Ok(strings)
    }
}

//! Typed access to a diffusers `scheduler_config.json`.
//!
//! Keys that a method does not read are ignored, as diffusers' `Scheduler.from_config` ignores
//! the keys of other schedulers. A key that is absent takes the default which the method names.

use serde_json::{Map, Value};

use super::SamplerError;

/// The keys of one configuration file, with the file's name for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config<'a> {
    pub(super) file: &'a str,
    keys: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    pub(super) fn new(file: &'a str, keys: &'a Map<String, Value>) -> Self {
        Self { file, keys }
    }

    /// A value that is present and not null.
    fn given(&self, key: &str) -> Option<&'a Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// A truth value; null is false, as it is in Python.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, SamplerError> {
        match self.keys.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(self.malformed(key, "true or false", value)),
        }
    }

    /// An integer from 0 to `max`.
    pub(super) fn count(&self, key: &str, default: usize, max: usize) -> Result<usize, SamplerError> {
        let Some(value) = self.keys.get(key) else {
            return Ok(default);
        };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count
            .filter(|&count| count <= max)
            .ok_or_else(|| self.malformed(key, &format!("an integer from 0 to {max}"), value))
    }

    /// A number strictly between 0 and `bound`; `None` if the key is absent or null.
    pub(super) fn positive(&self, key: &str, bound: f64) -> Result<Option<f64>, SamplerError> {
        let Some(value) = self.given(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number > 0.0 && number < bound => Ok(Some(number)),
            _ => Err(self.malformed(key, &between_zero_and(bound), value)),
        }
    }

    /// Numbers strictly between 0 and `bound`; `None` if the key is absent or null.
    pub(super) fn positives(&self, key: &str, bound: f64) -> Result<Option<Vec<f64>>, SamplerError> {
        let Some(value) = self.given(key) else {
            return Ok(None);
        };
        let Some(elements) = value.as_array() else {
            return Err(self.malformed(key, "a list of numbers or null", value));
        };
        let valid = |element: &Value| element.as_f64().filter(|&number| number > 0.0 && number < bound);
        elements
            .iter()
            .map(|element| {
                valid(element).ok_or_else(|| self.malformed(key, &between_zero_and(bound), element))
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A number, where minus infinity is meant by an absent key, by null and by the strings
    /// that stand for Python's bare `-Infinity`, which JSON lacks.
    pub(super) fn number_or_minus_infinity(&self, key: &str) -> Result<f64, SamplerError> {
        match self.given(key) {
            None => Ok(f64::NEG_INFINITY),
            Some(Value::String(text)) if matches!(text.as_str(), "-Infinity" | "-inf") => {
                Ok(f64::NEG_INFINITY)
            }
            Some(value) => {
                value.as_f64().ok_or_else(|| self.malformed(key, "a number or \"-Infinity\"", value))
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        default: T,
        words: &[(&str, T)],
    ) -> Result<T, SamplerError> {
        let Some(value) = self.keys.get(key) else {
            return Ok(default);
        };
        let Some(text) = value.as_str() else {
            return Err(self.malformed(key, "a string", value));
        };
        let chosen = words.iter().find(|(word, _)| *word == text);
        chosen.map(|&(_, choice)| choice).ok_or_else(|| {
            let supported: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.unsupported(key, &supported.join(", "), value)
        })
    }

    /// Refuses features that default to off.
    pub(super) fn refuse_flags(&self, keys: &[&str]) -> Result<(), SamplerError> {
        for key in keys {
            if self.flag(key, false)? {
                return Err(self.unsupported(key, "false", &Value::Bool(true)));
            }
        }
        Ok(())
    }

    /// Refuses a feature that defaults to null.
    pub(super) fn refuse_given(&self, key: &str) -> Result<(), SamplerError> {
        self.given(key).map_or(Ok(()), |value| Err(self.unsupported(key, "null", value)))
    }

    pub(super) fn unsupported(&self, key: &str, supported: &str, found: &Value) -> SamplerError {
        SamplerError::Unsupported {
            file: self.file.to_owned(),
            key: key.to_owned(),
            supported: supported.to_owned(),
            found: excerpt(found),
        }
    }

    pub(super) fn malformed(&self, key: &str, expected: &str, found: &Value) -> SamplerError {
        SamplerError::Malformed {
            file: self.file.to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: excerpt(found),
        }
    }
}

fn between_zero_and(bound: f64) -> String {
    if bound.is_finite() { format!("a number between 0 and {bound}") } else { "a positive number".to_owned() }
}

/// A value as JSON on one line, cut where it would no longer be read.
fn excerpt(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

//! A model's configuration: a JSON object that says what was asked of it and what was not.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::json::{self, Refusal};
use crate::terminal::escaped;
use crate::{Error, Source, read_whole};

/// Bytes of a configuration file.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A JSON object with typed getters whose errors name file, key, what was expected and what was found.
///
/// It remembers which keys were asked for: a key nobody read may change what the model computes
/// ([`Config::unread_keys`]). A key that is `null` counts as absent, as in diffusers.
#[derive(Debug, Clone)]
pub struct Config {
    file: String,
    /// The keys that lead to this object, with a final dot; empty for the file's own.
    path: String,
    values: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Config {
    /// The object that `source` holds.
    ///
    /// # Errors  [`Error::Malformed`] if it is no JSON object (deeper than 127 levels, or a key twice, included);
    ///   [`Error::Unsupported`] above 1 MiB; [`Error::Io`]
    pub async fn read(source: &dyn Source) -> Result<Self, Error> {
        Self::parse(source.label(), &read_whole(source, MAX_CONFIG_BYTES).await?)
    }

    /// The object in `json`; messages call its file `file`.
    ///
    /// # Errors  [`Error::Malformed`] if it is no JSON object (deeper than 127 levels, or a key twice, included);
    ///   [`Error::Unsupported`] above 1,048,575 values
    pub fn parse(file: impl Into<String>, json: &[u8]) -> Result<Self, Error> {
        let file = file.into();
        let malformed = |expected, found| Error::malformed(&file, "JSON", expected, found);
        match json::parse(&without_bare_infinities(json)) {
            Ok(Value::Object(values)) => {
                Ok(Self { values, file, path: String::new(), read: RefCell::default() })
            }
            Ok(other) => Err(malformed("an object", shown(&other))),
            Err(Refusal::Syntax(error)) => Err(malformed("an object", error.to_string())),
            Err(Refusal::KeyTwice(error)) => Err(malformed("each key once", error.to_string())),
            Err(Refusal::TooMany(most)) => {
                Err(Error::unsupported(&file, format!("JSON of {most} values or more"), ""))
            }
        }
    }

    /// What messages call its file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The value of `key` as it stands, `null` included.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let value = self.values.get(key)?;
        self.read.borrow_mut().insert(key.to_owned());
        Some(value)
    }

    /// The value of `key`; `None` if it is absent or `null`.
    ///
    /// # Errors  [`Error::Malformed`] if it has another type
    pub fn get<T: FromJson>(&self, key: &str) -> Result<Option<T>, Error> {
        match self.value(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::from_json(value).map(Some).ok_or_else(|| self.unexpected(key, T::EXPECTED)),
        }
    }

    /// The value of `key`.
    ///
    /// # Errors  [`Error::Malformed`] if it is absent, `null` or has another type
    pub fn require<T: FromJson>(&self, key: &str) -> Result<T, Error> {
        self.get(key)?.ok_or_else(|| self.unexpected(key, T::EXPECTED))
    }

    /// The value of `key`, or `default` if it is absent or `null`.
    ///
    /// # Errors  [`Error::Malformed`] if it has another type
    pub fn or<T: FromJson>(&self, key: &str, default: T) -> Result<T, Error> {
        Ok(self.get(key)?.unwrap_or(default))
    }

    /// The value of `key`, a whole number in `range`; `None` if it is absent or `null`.
    ///
    /// # Errors  [`Error::Malformed`] if it is no number in `range`
    pub fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Error> {
        match self.get(key)? {
            Some(count) if !range.contains(&count) => {
                Err(self.unexpected(key, format!("{} to {}", range.start(), range.end())))
            }
            count => Ok(count),
        }
    }

    /// The value of `key`, a whole number in `range`.
    ///
    /// # Errors  [`Error::Malformed`] if it is absent, `null` or no number in `range`
    pub fn require_count(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize, Error> {
        let expected = format!("{} to {}", range.start(), range.end());
        self.count(key, range)?.ok_or_else(|| self.unexpected(key, expected))
    }

    /// The object under `key`; `None` if it is absent or `null`.
    ///
    /// # Errors  [`Error::Malformed`] if it is no object
    pub fn object(&self, key: &str) -> Result<Option<Self>, Error> {
        match self.value(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                file: self.file.clone(),
                path: format!("{}{key}.", self.path),
                values: values.clone(),
                read: RefCell::default(),
            })),
            Some(_) => Err(self.unexpected(key, "an object")),
        }
    }

    /// The keys and values as they stand, sorted by key; none counts as asked for.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The keys that no getter was asked for, sorted.
    pub fn unread_keys(&self) -> Vec<&str> {
        let read = self.read.borrow();
        self.entries().map(|(key, _)| key).filter(|key| !read.contains(*key)).collect()
    }

    /// The error that says what was expected under `key`.
    pub fn unexpected(&self, key: &str, expected: impl Into<String>) -> Error {
        let found = self.values.get(key).map_or_else(|| "nothing".to_owned(), shown);
        Error::malformed(&self.file, self.what(key), expected, found)
    }

    /// The error that says that the value of `key` is understood and not implemented.
    pub fn unsupported(&self, key: &str, hint: impl Into<String>) -> Error {
        let found = self.values.get(key).map_or_else(|| "nothing".to_owned(), shown);
        Error::unsupported(&self.file, format!("{} = {found}", self.what(key)), hint)
    }

    fn what(&self, key: &str) -> String {
        format!("key '{}{}'", escaped(&self.path), escaped(key))
    }
}

/// The same JSON with `null` for a bare `-Infinity`, which JSON does not know.
///
/// diffusers saves `"lambda_min_clipped": -Infinity`, which is that key's default.
fn without_bare_infinities(json: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(json.len());
    let (mut rest, mut in_string, mut is_escaped) = (json, false, false);
    while let Some((first, tail)) = rest.split_first() {
        if !in_string && let Some(after) = rest.strip_prefix(b"-Infinity") {
            kept.extend_from_slice(b"null");
            rest = after;
            continue;
        }
        in_string ^= *first == b'"' && !is_escaped;
        is_escaped = in_string && *first == b'\\' && !is_escaped;
        kept.push(*first);
        rest = tail;
    }
    kept
}

/// A value for a message.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) if items.len() > 16 => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        value => escaped(&value.to_string()),
    }
}

/// A type that a configuration's value can have.
pub trait FromJson: Sized {
    /// What a message calls the type.
    const EXPECTED: &'static str;

    /// What a message calls several.
    const EXPECTED_ITEMS: &'static str = "an array";

    /// The value, if `json` has this type.
    fn from_json(json: &Value) -> Option<Self>;
}

impl FromJson for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_json(json: &Value) -> Option<Self> {
        json.as_bool()
    }
}

impl FromJson for String {
    const EXPECTED: &'static str = "a string";

    fn from_json(json: &Value) -> Option<Self> {
        json.as_str().map(str::to_owned)
    }
}

impl FromJson for f64 {
    const EXPECTED: &'static str = "a finite number";

    fn from_json(json: &Value) -> Option<Self> {
        json.as_f64().filter(|number| number.is_finite())
    }
}

impl FromJson for i64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_json(json: &Value) -> Option<Self> {
        json.as_i64()
    }
}

impl FromJson for usize {
    const EXPECTED: &'static str = "a whole number, not negative";
    const EXPECTED_ITEMS: &'static str = "an array of whole numbers, not negative";

    fn from_json(json: &Value) -> Option<Self> {
        json.as_u64().and_then(|number| Self::try_from(number).ok())
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED_ITEMS;

    fn from_json(json: &Value) -> Option<Self> {
        json.as_array()?.iter().map(T::from_json).collect()
    }
}

/// A key that holds one value for all blocks or an array with one for each.
#[derive(Debug, Clone, PartialEq)]
pub enum OneOrMany<T> {
    /// The same for all.
    One(T),
    /// One for each.
    Many(Vec<T>),
}

impl<T: Clone> OneOrMany<T> {
    /// The values for `n` blocks; `None` if there are not `n`.
    pub fn per_block(&self, n: usize) -> Option<Vec<T>> {
        match self {
            Self::One(value) => Some(vec![value.clone(); n]),
            Self::Many(values) => (values.len() == n).then(|| values.clone()),
        }
    }
}

impl<T: FromJson> FromJson for OneOrMany<T> {
    const EXPECTED: &'static str = "one value or an array of them";

    fn from_json(json: &Value) -> Option<Self> {
        match json {
            Value::Array(_) => Vec::from_json(json).map(Self::Many),
            value => T::from_json(value).map(Self::One),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_infinity_as_python_writes_it_counts_as_absent_and_strings_keep_theirs() {
        let json = br#"{"a": -Infinity, "b": [-Infinity], "c": "\\\"-Infinity", "d": 1}"#;
        let config = Config::parse("scheduler_config.json", json).unwrap();
        assert_eq!(config.get::<f64>("a").unwrap(), None);
        assert_eq!(config.value("b"), Some(&serde_json::json!([null])));
        assert_eq!(config.get::<String>("c").unwrap().as_deref(), Some("\\\"-Infinity"));
        assert_eq!(config.get::<f64>("d").unwrap(), Some(1.0));
        assert!(Config::parse("x", br#"{"a": -Infinit}"#).is_err());
    }

    fn config(json: &str) -> Config {
        Config::parse("unet/config.json", json.as_bytes()).unwrap()
    }

    #[test]
    fn values_have_the_types_asked_for() {
        let config = config(
            r#"{"b": true, "s": "silu", "f": 0.5, "i": -1, "n": 320, "l": [320, 640], "o": {"k": 1}, "none": null}"#,
        );
        assert!(config.require::<bool>("b").unwrap());
        assert_eq!(config.require::<String>("s").unwrap(), "silu");
        assert_eq!(config.require::<f64>("f").unwrap(), 0.5);
        assert_eq!(config.require::<f64>("n").unwrap(), 320.0);
        assert_eq!(config.require::<i64>("i").unwrap(), -1);
        assert_eq!(config.require::<usize>("n").unwrap(), 320);
        assert_eq!(config.require::<Vec<usize>>("l").unwrap(), [320, 640]);
        assert_eq!(config.require::<OneOrMany<usize>>("l").unwrap().per_block(2), Some(vec![320, 640]));
        assert_eq!(config.require::<OneOrMany<usize>>("l").unwrap().per_block(3), None);
        assert_eq!(config.require::<OneOrMany<usize>>("n").unwrap().per_block(3), Some(vec![320; 3]));
        assert_eq!(config.get::<bool>("none").unwrap(), None);
        assert_eq!(config.or("absent", 7_usize).unwrap(), 7);
        assert_eq!(config.count("n", 1..=320).unwrap(), Some(320));
        assert_eq!(config.count("absent", 1..=2).unwrap(), None);
        assert_eq!(config.object("o").unwrap().unwrap().require::<usize>("k").unwrap(), 1);
        assert!(config.object("none").unwrap().is_none());
    }

    #[test]
    fn a_wrong_value_names_file_key_expected_and_found() {
        let config = config(
            r#"{"n": -3, "f": 1.5, "s": "x\u001b", "o": {"k": []}, "big": 1000000000, "l": [1, "a"]}"#,
        );
        let text = |error: Error| error.to_string();
        assert_eq!(
            text(config.get::<usize>("n").unwrap_err()),
            "unet/config.json: key 'n': expected a whole number, not negative, found -3"
        );
        assert_eq!(
            text(config.require::<bool>("absent").unwrap_err()),
            "unet/config.json: key 'absent': expected true or false, found nothing"
        );
        assert_eq!(
            text(config.object("o").unwrap().unwrap().require::<f64>("k").unwrap_err()),
            "unet/config.json: key 'o.k': expected a finite number, found []"
        );
        assert_eq!(
            text(config.count("big", 1..=64).unwrap_err()),
            "unet/config.json: key 'big': expected 1 to 64, found 1000000000"
        );
        assert!(
            text(config.require_count("absent", 1..=64).unwrap_err())
                .contains("expected 1 to 64, found nothing")
        );
        assert!(text(config.get::<i64>("s").unwrap_err()).ends_with(r#"found "x\u001b""#));
        assert!(config.get::<usize>("f").is_err() && config.get::<i64>("f").is_err());
        assert!(config.get::<Vec<usize>>("l").is_err() && config.get::<OneOrMany<usize>>("l").is_err());
        assert!(config.object("n").is_err());
    }

    #[test]
    fn what_is_no_sane_json_object_is_malformed() {
        let deep = "[".repeat(129) + &"]".repeat(129);
        let deep = format!("{{\"a\": {deep}}}");
        for json in ["", "[]", "1", "{", "{\"a\": NaN}", "{\"a\": 1e999}", "{} x", "\u{feff}{}", &deep] {
            assert!(matches!(Config::parse("c", json.as_bytes()), Err(Error::Malformed { .. })), "{json}");
        }
        assert!(Config::parse("c", b"{\"a\xff\": 1}").is_err());
        let huge = crate::BytesSource::new("c", vec![b' '; (1 << 20) + 1]);
        assert!(matches!(pollster::block_on(Config::read(&huge)), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn a_whole_number_beyond_its_type_is_refused() {
        let config = config(r#"{"a": 18446744073709551616, "b": 9223372036854775808}"#);
        assert!(config.get::<usize>("a").is_err());
        assert!(config.get::<i64>("b").is_err());
    }

    #[test]
    fn keys_that_nobody_asked_for_are_listed() {
        let config = config(r#"{"c": 1, "b": null, "a": 2}"#);
        assert_eq!(config.unread_keys(), ["a", "b", "c"]);
        config.get::<bool>("b").unwrap();
        config.get::<bool>("c").unwrap_err();
        config.get::<bool>("absent").unwrap();
        assert_eq!(config.unread_keys(), ["a"]);
    }
}

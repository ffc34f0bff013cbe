//! JSON values without ambiguity and within a limit.
//!
//! serde_json keeps the last of two equal keys, where another reader keeps the first, and a value in memory is
//! up to sixteen times its text.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::terminal::escaped;

/// Values in one text; CLIP's `tokenizer.json` has 200,000.
const MAX_VALUES: usize = 1 << 20;

/// Why a text is not read.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is no JSON.
    Syntax(serde_json::Error),
    /// A key stands twice in an object; the text says which and where.
    KeyTwice(serde_json::Error),
    /// More than this many values.
    TooMany(usize),
}

/// The value that `json` is.
///
/// # Errors  [`Refusal`], also for a value deeper than 127 levels
pub(crate) fn parse(json: &[u8]) -> Result<Value, Refusal> {
    let mut state = State { left: MAX_VALUES, is_key_twice: false };
    let mut json = serde_json::Deserializer::from_slice(json);
    let parsed = ValueSeed(&mut state).deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    parsed.map_err(|error| match state {
        State { left: 0, .. } => Refusal::TooMany(MAX_VALUES),
        State { is_key_twice: true, .. } => Refusal::KeyTwice(error),
        _ => Refusal::Syntax(error),
    })
}

struct State {
    /// How many values may follow; 0 only where that was the reason to stop.
    left: usize,
    is_key_twice: bool,
}

struct ValueSeed<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        self.0.left = self.0.left.saturating_sub(1);
        if self.0.left == 0 {
            return Err(D::Error::custom("too many values"));
        }
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(ValueSeed(&mut *self.0))? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                self.0.is_key_twice = true;
                return Err(A::Error::custom(format!("key '{}' twice", escaped(&key))));
            }
            let value = map.next_value_seed(ValueSeed(&mut *self.0))?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_key_twice_is_what_serde_json_reads() {
        for json in [
            r#"{"a": [1, -1, 0.5, 1e3, null, true, "x\u001b", {}], "b": {"a": {"a": []}}}"#,
            "0",
            "[]",
            "null",
        ] {
            assert_eq!(parse(json.as_bytes()).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        }
    }

    #[test]
    fn the_reason_to_stop_is_told() {
        assert!(matches!(parse(b"{} {}"), Err(Refusal::Syntax(_))));
        assert!(matches!(parse(br#"[{"a": 1, "\u0061": 1}]"#), Err(Refusal::KeyTwice(_))));
        let values = |n: usize| format!("[{}0]", "0,".repeat(n));
        assert!(parse(values(MAX_VALUES - 3).as_bytes()).is_ok());
        assert!(matches!(parse(values(MAX_VALUES - 2).as_bytes()), Err(Refusal::TooMany(MAX_VALUES))));
    }
}

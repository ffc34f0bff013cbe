//! What a recorded call was given.

use serde_json::Value;

use super::{Recorded, RecordedCase};

/// Why a case is not computed.
pub(super) type Skip = String;

/// The inputs and attributes of a case, and which were asked for.
pub(super) struct Arguments<'c> {
    case: &'c RecordedCase,
    used: Vec<&'static str>,
}

impl<'c> Arguments<'c> {
    pub(super) fn of(case: &'c RecordedCase) -> Self {
        Arguments { case, used: Vec::new() }
    }

    pub(super) fn tensor(&mut self, name: &'static str) -> Result<&Recorded, Skip> {
        self.optional(name)?.ok_or_else(|| format!("it has no input '{name}'"))
    }

    pub(super) fn optional(&mut self, name: &'static str) -> Result<Option<&Recorded>, Skip> {
        self.used.push(name);
        match self.case.inputs.get(name).map(Vec::as_slice) {
            None => Ok(None),
            Some([one]) => Ok(Some(one)),
            Some(_) => Err(format!("input '{name}' is a list")),
        }
    }

    pub(super) fn tensors(&mut self, name: &'static str) -> Result<&[Recorded], Skip> {
        self.used.push(name);
        self.case.inputs.get(name).map(Vec::as_slice).ok_or_else(|| format!("it has no input '{name}'"))
    }

    pub(super) fn attribute(&mut self, name: &'static str) -> Option<&Value> {
        self.used.push(name);
        self.case.attributes.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn number(&mut self, name: &'static str, usual: Option<f64>) -> Result<f64, Skip> {
        match self.attribute(name) {
            None => usual.ok_or_else(|| format!("it has no attribute '{name}'")),
            Some(value) => value.as_f64().ok_or_else(|| format!("attribute '{name}' = {value} is no number")),
        }
    }

    pub(super) fn optional_number(&mut self, name: &'static str) -> Result<Option<f64>, Skip> {
        if self.attribute(name).is_none() { Ok(None) } else { self.number(name, None).map(Some) }
    }

    /// One of a few words.
    pub(super) fn word(&mut self, name: &'static str, usual: &str) -> Result<String, Skip> {
        match self.attribute(name) {
            None => Ok(usual.to_owned()),
            Some(Value::String(word)) => Ok(word.clone()),
            Some(value) => Err(format!("attribute '{name}' = {value} is no word")),
        }
    }

    pub(super) fn count(&mut self, name: &'static str, usual: Option<usize>) -> Result<usize, Skip> {
        let number = self.number(name, usual.map(|usual| usual as f64))?;
        let is_count = number >= 0.0 && number.fract() == 0.0 && number < 1e9;
        if is_count { Ok(number as usize) } else { Err(format!("attribute '{name}' = {number} is no count")) }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Skip> {
        match self.attribute(name) {
            None => Ok(false),
            Some(value) => {
                value.as_bool().ok_or_else(|| format!("attribute '{name}' = {value} is no switch"))
            }
        }
    }

    /// A dimension of the input `of`, which may be counted from the last.
    pub(super) fn dimension(
        &mut self,
        name: &'static str,
        usual: Option<f64>,
        of: &'static str,
    ) -> Result<usize, Skip> {
        let dim = self.number(name, usual)?;
        let rank = self.tensors(of)?.first().map_or(0, |tensor| tensor.shape.len().max(1)) as f64;
        let axis = if dim < 0.0 { dim + rank } else { dim };
        if !(0.0..rank).contains(&axis) || axis.fract() != 0.0 {
            return Err(format!("dimension {dim} of {rank}"));
        }
        Ok(axis as usize)
    }

    /// A list of whole numbers.
    pub(super) fn integers(&mut self, name: &'static str) -> Result<Vec<i64>, Skip> {
        let value = self.attribute(name).ok_or_else(|| format!("it has no attribute '{name}'"))?;
        let small = |value: &Value| value.as_i64().filter(|n| n.unsigned_abs() < 1 << 16);
        let integers = value.as_array().map(|list| list.iter().map(small).collect::<Option<Vec<_>>>());
        integers.flatten().ok_or_else(|| format!("attribute '{name}' = {value} is no list of whole numbers"))
    }

    /// A number for both axes, or one for each.
    pub(super) fn pair(&mut self, name: &'static str, usual: usize) -> Result<[usize; 2], Skip> {
        let Some(value) = self.attribute(name) else { return Ok([usual; 2]) };
        let count = |value: &Value| value.as_u64().filter(|n| *n < 1 << 16).map(|n| n as usize);
        let pair = match value {
            Value::Array(axes) if axes.len() == 2 => {
                count(&axes[0]).zip(count(&axes[1])).map(|(a, b)| [a, b])
            }
            Value::Array(axes) if axes.len() == 1 => count(&axes[0]).map(|n| [n; 2]),
            one => count(one).map(|n| [n; 2]),
        };
        pair.ok_or_else(|| format!("attribute '{name}' = {value} is not understood"))
    }

    pub(super) fn all_used(&self) -> Result<(), Skip> {
        let given = self.case.inputs.keys().chain(self.case.attributes.keys());
        match given.into_iter().find(|name| !self.used.contains(&name.as_str())) {
            Some(name) => Err(format!("'{name}' is not understood")),
            None => Ok(()),
        }
    }
}

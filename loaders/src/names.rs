//! A checkpoint seen through another family's names.
//!
//! The same network is stored under different names: `model.diffusion_model.input_blocks.0.0.weight` in a
//! single file is `conv_in.weight` in a diffusers folder. Which names those are is the engine's knowledge; how
//! a name is replaced is here.

use std::collections::HashMap;

use crate::{Checkpoint, Error};

/// A rule for the name of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rename {
    /// The tensor `from` is called `to`.
    Tensor {
        /// The whole name in the file.
        from: String,
        /// The name to look it up by.
        to: String,
    },
    /// What begins with `from` begins with `to` instead.
    Prefix {
        /// The beginning of names in the file, with its dot.
        from: String,
        /// What takes its place; may be empty.
        to: String,
    },
}

impl Rename {
    /// A [`Rename::Tensor`].
    pub fn tensor(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self::Tensor { from: from.into(), to: to.into() }
    }

    /// A [`Rename::Prefix`].
    pub fn prefix(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self::Prefix { from: from.into(), to: to.into() }
    }
}

impl Checkpoint {
    /// The tensors that a rule names, by the names the rules give them; the others are left out.
    ///
    /// The rule for a whole name wins over one for a prefix, a longer prefix over a shorter one, and of two
    /// rules for the same name the first.
    ///
    /// # Errors  [`Error::Malformed`] if two tensors get one name
    pub fn renamed(&self, rules: &[Rename]) -> Result<Self, Error> {
        let mut whole = HashMap::new();
        let mut prefixes = Vec::new();
        for rule in rules {
            match rule {
                Rename::Tensor { from, to } => {
                    whole.entry(from.as_str()).or_insert(to);
                }
                Rename::Prefix { from, to } => prefixes.push((from.as_str(), to)),
            }
        }
        prefixes.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
        self.renamed_with(|name| {
            let by_prefix =
                || prefixes.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
            whole.get(name).map(|to| (*to).clone()).or_else(by_prefix)
        })
    }
}

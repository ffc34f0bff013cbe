//! CLIP's tokenizer: a prompt in, token ids out.
//!
//! Text is cut at the special tokens written in it, normalised, split into words, written as bytes and merged
//! into tokens. Ids are those of transformers' `CLIPTokenizer`.

mod added;
mod bpe;
mod clip;
mod files;
mod special;
mod tokenizer_json;
mod words;

use added::{AddedToken, AddedTokens, Piece};
use bpe::Bpe;
use words::{Split, normalised, push_bytes};

use crate::Error;

/// A byte-pair tokenizer of CLIP's kind.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    bpe: Bpe,
    split: Split,
    /// Looked for in the text as it is written.
    added: AddedTokens,
    /// Looked for in the normalised text.
    added_normalised: AddedTokens,
    roles: Roles,
    n_tokens: usize,
    max_length: Option<usize>,
}

/// The tokens with a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Roles {
    begin: u32,
    end: u32,
    pad: u32,
}

impl Tokenizer {
    /// # Errors  [`Error::Unsupported`] if the added tokens are too many
    fn new(
        file: &str,
        bpe: Bpe,
        split: Split,
        added: Vec<AddedToken>,
        roles: Roles,
        max_length: Option<usize>,
    ) -> Result<Self, Error> {
        let largest = bpe
            .tokens()
            .map(|(_, id)| id)
            .chain(added.iter().map(|token| token.id))
            .max()
            .unwrap_or_default();
        let n_tokens = usize::try_from(largest).unwrap_or(usize::MAX).saturating_add(1);
        let (in_normalised, as_written): (Vec<_>, Vec<_>) =
            added.into_iter().partition(|token| token.is_normalised);
        let in_normalised = in_normalised
            .into_iter()
            .map(|token| AddedToken { content: normalised(&token.content), ..token });
        Ok(Self {
            bpe,
            split,
            added: AddedTokens::new(file, as_written)?,
            added_normalised: AddedTokens::new(file, in_normalised)?,
            roles,
            n_tokens,
            max_length,
        })
    }

    /// The token ids of `text` between the begin and the end token, however many they are.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.roles.begin];
        self.encode_into(text, &mut ids);
        ids.push(self.roles.end);
        ids
    }

    /// `length` ids: begin, at most `length - 2` of the text's tokens, end, padding.
    ///
    /// A `length` below 2 leaves no room for the text and cuts off the end token.
    pub fn encode_padded(&self, text: &str, length: usize) -> Vec<u32> {
        let mut ids = vec![self.roles.begin];
        self.encode_into(text, &mut ids);
        ids.truncate(length.saturating_sub(1).max(1));
        ids.push(self.roles.end);
        ids.resize(length, self.roles.pad);
        ids
    }

    fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        let mut bytes = String::new();
        for piece in self.added.split(text) {
            let text = match piece {
                Piece::Text(text) => normalised(text),
                Piece::Token(id) => {
                    ids.push(id);
                    continue;
                }
            };
            for piece in self.added_normalised.split(&text) {
                match piece {
                    Piece::Token(id) => ids.push(id),
                    Piece::Text(text) => {
                        for word in self.split.words(text) {
                            bytes.clear();
                            push_bytes(word, &mut bytes);
                            self.bpe.encode_word(&bytes, ids);
                        }
                    }
                }
            }
        }
    }

    /// The token before a text.
    pub fn begin(&self) -> u32 {
        self.roles.begin
    }

    /// The token after a text, from which CLIP's pooled output is taken.
    pub fn end(&self) -> u32 {
        self.roles.end
    }

    /// The token that fills up a text: the end token, or `!` in Stable Diffusion 2.
    pub fn pad(&self) -> u32 {
        self.roles.pad
    }

    /// One more than the largest id: a network needs as many embeddings.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Ids in a padded text, if the tokenizer's files say so.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }
}

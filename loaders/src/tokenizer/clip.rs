//! The tokenizer of OpenAI's CLIP, for checkpoints that come without one.

use std::collections::HashMap;

use super::bpe::{Bpe, END_OF_WORD};
use super::files::parse_merges;
use super::words::{Split, alphabet};
use super::{AddedToken, Roles, Tokenizer};
use crate::Error;

/// The merges that CLIP uses of `bpe_simple_vocab_16e6.txt`; NOTICE names their licence.
const MERGES: &str = include_str!("../../data/clip_merges.txt");

/// Ids in a padded text.
const MAX_LENGTH: usize = 77;

pub(super) const BEGIN: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";

impl Tokenizer {
    /// The tokenizer of CLIP ViT-L/14, which Stable Diffusion 1 uses; it pads with the end token.
    ///
    /// # Errors  none of its own: the built-in merges are sound
    /// # Source  openai/CLIP, `simple_tokenizer.py`: bytes, bytes that end a word, merges, special tokens
    pub fn clip() -> Result<Self, Error> {
        const FILE: &str = "built-in CLIP merges";
        let merges = parse_merges(FILE, MERGES).collect::<Result<Vec<_>, _>>()?;
        let letters = alphabet().map(String::from);
        let endings = alphabet().map(|letter| format!("{letter}{END_OF_WORD}"));
        let merged = merges.iter().map(|merge| format!("{}{}", merge.left, merge.right));
        let special = [BEGIN, END].map(str::to_owned);
        let ids: HashMap<_, _> = letters.chain(endings).chain(merged).chain(special).zip(0..).collect();
        let bpe = Bpe::new(FILE, ids, FILE, merges.into_iter().map(Ok))?;
        let id = |token: &str| {
            bpe.id(token).ok_or_else(|| Error::malformed(FILE, format!("token '{token}'"), "an id", "none"))
        };
        let (begin, end) = (id(BEGIN)?, id(END)?);
        let added = [(BEGIN, begin), (END, end)].map(|(content, id)| AddedToken {
            id,
            content: content.to_owned(),
            is_normalised: false,
            is_single_word: false,
        });
        let bpe = bpe.with_unknown(Some(end));
        Self::new(FILE, bpe, Split::CLIP, added.into(), Roles { begin, end, pad: end }, Some(MAX_LENGTH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_clip() {
        let clip = Tokenizer::clip().unwrap();
        assert_eq!((clip.n_tokens(), clip.begin(), clip.end(), clip.pad()), (49_408, 49_406, 49_407, 49_407));
        assert_eq!(clip.encode("a photo of a cat"), [49_406, 320, 1_125, 539, 320, 2_368, 49_407]);
        assert_eq!(clip.encode_padded("a cat", 6), [49_406, 320, 2_368, 49_407, 49_407, 49_407]);
        assert_eq!(clip.encode_padded("a photo of a cat", 4), [49_406, 320, 1_125, 49_407]);
    }
}

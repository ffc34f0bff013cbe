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

/// The token with id 0.
const FIRST: &str = "!";

impl Tokenizer {
    /// The tokenizer of CLIP ViT-L/14, which Stable Diffusion 1 uses; it pads with the end token.
    ///
    /// # Errors  none of its own: the built-in merges are sound
    /// # Source  openai/CLIP, `simple_tokenizer.py`: bytes, bytes that end a word, merges, special tokens
    pub fn clip() -> Result<Self, Error> {
        Self::clip_padded_with(END)
    }

    /// The same tokenizer as OpenCLIP's text encoders have it: padded with token 0, `!`, which is a special token then.
    ///
    /// # Errors  none of its own: the built-in merges are sound
    /// # Source  open_clip, `tokenizer.py`; `tokenizer_2` of stabilityai/stable-diffusion-xl-base-1.0
    pub fn open_clip() -> Result<Self, Error> {
        Self::clip_padded_with(FIRST)
    }

    fn clip_padded_with(padding: &str) -> Result<Self, Error> {
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
        let (begin, end, pad) = (id(BEGIN)?, id(END)?, id(padding)?);
        let padding = (padding != END).then_some((padding, pad));
        let special = [(BEGIN, begin), (END, end)].into_iter().chain(padding);
        let added = special.map(|(content, id)| AddedToken {
            id,
            content: content.to_owned(),
            is_normalised: false,
            is_single_word: false,
        });
        let bpe = bpe.with_unknown(Some(end));
        Self::new(FILE, bpe, Split::CLIP, added.collect(), Roles { begin, end, pad }, Some(MAX_LENGTH))
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

    #[test]
    fn open_clip_pads_with_its_first_token() {
        let clip = Tokenizer::open_clip().unwrap();
        assert_eq!((clip.n_tokens(), clip.begin(), clip.end(), clip.pad()), (49_408, 49_406, 49_407, 0));
        assert_eq!(clip.encode_padded("a cat", 6), [49_406, 320, 2_368, 49_407, 0, 0]);
        // `!` ends no word here: it is cut out of the text wherever it stands.
        assert_eq!(clip.encode("a cat!"), [49_406, 320, 2_368, 0, 49_407]);
    }
}

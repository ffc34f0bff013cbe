//! From a prompt to words in the byte alphabet.
//!
//! Source: transformers' `CLIPTokenizer`: NFC, lower case, its split pattern, GPT-2's byte alphabet.

use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

/// CLIP's pattern; white space between matches is dropped.
pub(super) const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The same with the special tokens, which reach it when they are not cut out before: written in capitals.
pub(super) const PATTERN_WITH_SPECIAL: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

// The standard library tells letters by the property Alphabetic, which is wider than \p{L}.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| compiled(PATTERN));
static WITH_SPECIAL: LazyLock<Regex> = LazyLock::new(|| compiled(PATTERN_WITH_SPECIAL));

#[allow(clippy::expect_used, reason = "both patterns are constants")]
fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("CLIP's pattern compiles")
}

/// How text is split into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// The pattern is [`PATTERN_WITH_SPECIAL`].
    pub(super) keeps_special: bool,
    /// Words are split once more by GPT-2's pattern, which takes a special token's brackets off.
    pub(super) splits_again: bool,
}

impl Split {
    /// What transformers builds for a `CLIPTokenizer`.
    pub(super) const CLIP: Self = Self { keeps_special: true, splits_again: true };

    /// The words of normalised text.
    pub(super) fn words(self, text: &str) -> impl Iterator<Item = &str> {
        let pattern = if self.keeps_special { &WITH_SPECIAL } else { &PLAIN };
        pattern
            .find_iter(text)
            .flat_map(move |word| self.again(word.as_str()))
            .filter(|word| !word.is_empty())
    }

    /// Only a special token's text has letters beside other characters.
    fn again(self, word: &str) -> [&str; 3] {
        let inner = word.strip_prefix("<|").and_then(|rest| rest.strip_suffix("|>"));
        match inner {
            Some(inner) if self.splits_again && inner.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                ["<|", inner, "|>"]
            }
            _ => [word, "", ""],
        }
    }
}

/// NFC, then the lower case of each character by itself: a final sigma becomes σ.
pub(super) fn normalised(text: &str) -> String {
    text.nfc().flat_map(char::to_lowercase).collect()
}

/// Appends the bytes of `word` in GPT-2's alphabet, which gives each byte a printable character.
pub(super) fn push_bytes(word: &str, out: &mut String) {
    out.extend(word.bytes().map(byte_char));
}

/// Whether a byte stands for itself in the alphabet.
const fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes that are no printable Latin-1 character follow each other from U+0100 on.
fn byte_char(byte: u8) -> char {
    let code = u32::from(byte);
    let code = match byte {
        0..=0x20 => code.saturating_add(0x100),
        0x7f..=0xa0 => code.saturating_add(0x121 - 0x7f),
        0xad => 0x143,
        _ => code,
    };
    char::from_u32(code).unwrap_or_default()
}

/// The alphabet in the order of CLIP's vocabulary: bytes that stand for themselves, then the others.
pub(super) fn alphabet() -> impl Iterator<Item = char> {
    let by_itself = |wanted| (0..=u8::MAX).filter(move |byte| is_itself(*byte) == wanted).map(byte_char);
    by_itself(true).chain(by_itself(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        Split::CLIP.words(text).collect()
    }

    #[test]
    fn letters_digits_and_the_rest_are_apart() {
        assert_eq!(
            words("a cat, 12x! don't we'll"),
            ["a", "cat", ",", "1", "2", "x", "!", "don", "'t", "we", "'ll"]
        );
        assert_eq!(words(" \u{3000}\u{85}\u{2028}"), Vec::<&str>::new());
        assert_eq!(words("猫ⅷ½\u{200b}\u{301}"), ["猫", "ⅷ", "½", "\u{200b}\u{301}"]);
    }

    #[test]
    fn a_special_token_that_was_written_in_capitals_loses_its_brackets() {
        assert_eq!(words("<|endoftext|>!"), ["<|", "endoftext", "|>", "!"]);
        assert_eq!(words("!<|endoftext|>"), ["!<|", "endoftext", "|>"]);
        let once = Split { splits_again: false, ..Split::CLIP };
        assert_eq!(once.words("<|endoftext|>!").collect::<Vec<_>>(), ["<|endoftext|>", "!"]);
        let plain = Split { keeps_special: false, ..Split::CLIP };
        assert_eq!(plain.words("<|endoftext|>!").collect::<Vec<_>>(), ["<|", "endoftext", "|>!"]);
        assert_eq!(words("<||>"), ["<||>"]);
    }

    #[test]
    fn text_is_composed_and_lowered_character_by_character() {
        assert_eq!(normalised("E\u{301}ΑΣ"), "\u{e9}ασ");
        assert_eq!(normalised("\u{130}\u{212b}ﬁ"), "i\u{307}\u{e5}ﬁ");
    }

    #[test]
    fn the_alphabet_has_256_distinct_printable_characters() {
        let alphabet: Vec<char> = alphabet().collect();
        assert_eq!(alphabet.iter().collect::<std::collections::HashSet<_>>().len(), 256);
        assert_eq!((alphabet[0], alphabet[188], alphabet[255]), ('!', '\u{100}', '\u{143}'));
        assert_eq!(byte_char(b' '), '\u{120}');
        assert!(alphabet.iter().all(|c| !c.is_whitespace() && !c.is_control()));
    }
}

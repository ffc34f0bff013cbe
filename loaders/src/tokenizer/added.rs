//! Tokens that are cut out of a text before it is split into words.
//!
//! Source: huggingface/tokenizers, `added_vocabulary`.

use regex::Regex;

use crate::Error;

/// Bytes of all added tokens of a kind: the pattern that looks for them takes a few hundred times as many.
const MAX_BYTES: usize = 64 << 10;

/// A token written out in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    /// Looked for in the normalised text: `<|ENDOFTEXT|>` is one, too.
    pub(super) is_normalised: bool,
    /// Counts only where no letter, digit or underscore touches it.
    pub(super) is_single_word: bool,
}

/// A stretch of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    Token(u32),
}

/// Added tokens of one kind; of two that match at one place the longer wins.
#[derive(Debug, Clone)]
pub(super) struct AddedTokens {
    /// The longest first, as the alternatives of `pattern` are.
    tokens: Vec<AddedToken>,
    pattern: Option<Regex>,
}

impl AddedTokens {
    /// # Errors  [`Error::Unsupported`] above 64 KiB
    pub(super) fn new(file: &str, tokens: impl IntoIterator<Item = AddedToken>) -> Result<Self, Error> {
        let mut tokens: Vec<_> = tokens.into_iter().filter(|token| !token.content.is_empty()).collect();
        let bytes = tokens.iter().map(|token| token.content.len()).fold(0, usize::saturating_add);
        if bytes > MAX_BYTES {
            let hint = format!("at most {MAX_BYTES} bytes are read");
            return Err(Error::unsupported(file, format!("a set of added tokens of {bytes} bytes"), hint));
        }
        tokens.sort_by_key(|token| std::cmp::Reverse(token.content.len()));
        let alternatives: Vec<_> = tokens.iter().map(|token| regex::escape(&token.content)).collect();
        let pattern = Regex::new(&alternatives.join("|"))
            .map_err(|_| Error::unsupported(file, format!("a set of {} added tokens", tokens.len()), ""))?;
        Ok(Self { pattern: (!tokens.is_empty()).then_some(pattern), tokens })
    }

    /// `text` cut at its added tokens.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let mut rest = 0;
        for found in self.pattern.iter().flat_map(|pattern| pattern.find_iter(text)) {
            let Some(token) = self.tokens.iter().find(|token| token.content == found.as_str()) else {
                continue;
            };
            let before = text.get(..found.start()).and_then(|text| text.chars().next_back());
            let after = text.get(found.end()..).and_then(|text| text.chars().next());
            if token.is_single_word && (before.is_some_and(is_word) || after.is_some_and(is_word)) {
                continue;
            }
            pieces.extend(text.get(rest..found.start()).map(Piece::Text));
            pieces.push(Piece::Token(token.id));
            rest = found.end();
        }
        pieces.extend(text.get(rest..).map(Piece::Text));
        pieces.retain(|piece| *piece != Piece::Text(""));
        pieces
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str, is_single_word: bool) -> AddedToken {
        AddedToken { id, content: content.into(), is_normalised: false, is_single_word }
    }

    #[test]
    fn the_longer_token_wins_and_the_rest_is_text() {
        let tokens =
            AddedTokens::new("t", [token(1, "<a>", false), token(2, "<a><b>", false), token(3, "", false)]);
        let tokens = tokens.unwrap();
        let pieces = tokens.split("x<a><b><a>y<a");
        assert_eq!(pieces, [Piece::Text("x"), Piece::Token(2), Piece::Token(1), Piece::Text("y<a")]);
        assert_eq!(tokens.split(""), []);
    }

    #[test]
    fn a_single_word_touches_no_letter() {
        let tokens = AddedTokens::new("t", [token(1, "cat", true)]).unwrap();
        assert_eq!(tokens.split("cat cats _cat"), [Piece::Token(1), Piece::Text(" cats _cat")]);
    }

    #[test]
    fn no_tokens_cut_nothing() {
        assert_eq!(AddedTokens::new("t", []).unwrap().split("abc"), [Piece::Text("abc")]);
    }
}

//! Byte-pair encoding of one word.
//!
//! Source: Sennrich et al. 2016, algorithm 1; the order of merges is that of GPT-2's and CLIP's tokenizers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::Error;
use crate::terminal::escaped;

/// What marks the end of a word.
pub(super) const END_OF_WORD: &str = "</w>";

/// How far ids may run beyond the number of tokens.
const ID_SLACK: usize = 1_024;

/// Tokens and the pairs of them that are merged.
#[derive(Debug, Clone)]
pub(super) struct Bpe {
    ids: HashMap<String, u32>,
    /// A pair's rank, the smallest merged first, and the token it becomes.
    merges: HashMap<(u32, u32), (usize, u32)>,
    unknown: Option<u32>,
}

/// A pair of tokens to merge, and where its file says so.
pub(super) struct Merge {
    pub(super) place: String,
    pub(super) left: String,
    pub(super) right: String,
}

impl Bpe {
    /// Checks that ids are sane and that merges speak of tokens that exist.
    ///
    /// # Errors  [`Error::Malformed`] naming the token, or the merge's place in `merges_file`
    pub(super) fn new(
        vocabulary_file: &str,
        ids: HashMap<String, u32>,
        merges_file: &str,
        merges: impl IntoIterator<Item = Result<Merge, Error>>,
    ) -> Result<Self, Error> {
        let most = ids.len().saturating_mul(2).saturating_add(ID_SLACK);
        let mut seen = HashSet::with_capacity(ids.len());
        for (token, id) in &ids {
            let malformed = |expected: String, found: String| {
                Error::malformed(vocabulary_file, format!("token '{}'", escaped(token)), expected, found)
            };
            if usize::try_from(*id).unwrap_or(usize::MAX) >= most {
                return Err(malformed(
                    format!("an id below {most} for {} tokens", ids.len()),
                    id.to_string(),
                ));
            }
            if !seen.insert(*id) {
                return Err(malformed("an id of its own".into(), format!("{id}, which another token has")));
            }
        }

        let mut ranked = HashMap::new();
        for merge in merges {
            let Merge { place, left, right } = merge?;
            let id = |token: &str| {
                ids.get(token).copied().ok_or_else(|| {
                    let expected = format!("token '{}' in the vocabulary", escaped(token));
                    Error::malformed(merges_file, &place, expected, "no such token")
                })
            };
            let pair = (id(&left)?, id(&right)?);
            let merged = id(&format!("{left}{right}"))?;
            let rank = ranked.len();
            if ranked.insert(pair, (rank, merged)).is_some() {
                let found = format!("'{} {}' again", escaped(&left), escaped(&right));
                return Err(Error::malformed(merges_file, place, "each pair once", found));
            }
        }
        Ok(Self { ids, merges: ranked, unknown: None })
    }

    /// What a symbol that is no token becomes; without it such symbols are dropped.
    pub(super) fn with_unknown(self, unknown: Option<u32>) -> Self {
        Self { unknown, ..self }
    }

    /// The id of `token`.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Tokens and their ids, in no order.
    pub(super) fn tokens(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.ids.iter().map(|(token, id)| (token.as_str(), *id))
    }

    /// Appends the tokens of `word`, which stands in the byte alphabet and is not empty.
    ///
    /// Time is O(n log n) in the word's length, so that a prompt of one endless word is no trap.
    pub(super) fn encode_word(&self, word: &str, out: &mut Vec<u32>) {
        let mut symbols = Symbols::default();
        let mut chars = word.chars().peekable();
        let mut token = String::new();
        while let Some(c) = chars.next() {
            token.clear();
            token.push(c);
            if chars.peek().is_none() {
                token.push_str(END_OF_WORD);
            }
            if let Some(id) = self.id(&token).or(self.unknown) {
                symbols.push(id);
            }
        }

        let mut queue = BinaryHeap::new();
        let candidate = |symbols: &Symbols, left: usize| {
            let (rank, merged) = *self.merges.get(&symbols.pair(left)?)?;
            Some(Reverse((rank, left, merged)))
        };
        queue.extend((0..symbols.list.len()).filter_map(|left| candidate(&symbols, left)));
        while let Some(Reverse((rank, left, merged))) = queue.pop() {
            // A neighbour may have been merged away since the pair was queued.
            if candidate(&symbols, left) != Some(Reverse((rank, left, merged))) {
                continue;
            }
            symbols.merge(left, merged);
            queue.extend(candidate(&symbols, left));
            queue.extend(symbols.before(left).and_then(|left| candidate(&symbols, left)));
        }
        out.extend(symbols.list.iter().filter(|symbol| symbol.is_alive).map(|symbol| symbol.id));
    }
}

/// The symbols of a word, in a list from which a merged one drops out.
#[derive(Default)]
struct Symbols {
    list: Vec<Symbol>,
}

struct Symbol {
    id: u32,
    is_alive: bool,
    before: Option<usize>,
    after: Option<usize>,
}

impl Symbols {
    fn push(&mut self, id: u32) {
        let idx = self.list.len();
        let before = idx.checked_sub(1);
        if let Some(last) = self.list.last_mut() {
            last.after = Some(idx);
        }
        self.list.push(Symbol { id, is_alive: true, before, after: None });
    }

    fn alive(&self, idx: usize) -> Option<&Symbol> {
        self.list.get(idx).filter(|symbol| symbol.is_alive)
    }

    fn before(&self, idx: usize) -> Option<usize> {
        self.alive(idx)?.before
    }

    /// The ids at `left` and behind it.
    fn pair(&self, left: usize) -> Option<(u32, u32)> {
        let symbol = self.alive(left)?;
        Some((symbol.id, self.alive(symbol.after?)?.id))
    }

    /// Turns the symbol at `left` and the one behind it into `merged`.
    fn merge(&mut self, left: usize, merged: u32) {
        let Some(right) = self.alive(left).and_then(|symbol| symbol.after) else { return };
        let after = self.list.get_mut(right).and_then(|symbol| {
            symbol.is_alive = false;
            symbol.after
        });
        if let Some(symbol) = self.list.get_mut(left) {
            symbol.id = merged;
            symbol.after = after;
        }
        if let Some(symbol) = after.and_then(|after| self.list.get_mut(after)) {
            symbol.before = Some(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bpe(tokens: &[&str], merges: &[(&str, &str)]) -> Result<Bpe, Error> {
        let ids = tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), id)).collect();
        let merges = merges.iter().zip(1..).map(|((left, right), line)| {
            Ok(Merge { place: format!("line {line}"), left: (*left).into(), right: (*right).into() })
        });
        Bpe::new("vocab.json", ids, "merges.txt", merges)
    }

    fn encode(bpe: &Bpe, word: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        bpe.encode_word(word, &mut ids);
        ids
    }

    #[test]
    fn the_earlier_merge_wins_and_then_the_leftmost() {
        let tokens = ["a", "b", "a</w>", "ab", "ba</w>", "aba</w>"];
        let ab_first = bpe(&tokens, &[("a", "b"), ("b", "a</w>"), ("ab", "a</w>")]).unwrap();
        let ba_first = bpe(&tokens, &[("b", "a</w>"), ("a", "b"), ("ab", "a</w>")]).unwrap();
        assert_eq!(encode(&ab_first, "aba"), [5]);
        assert_eq!(encode(&ba_first, "aba"), [0, 4]);
        let pairs = bpe(&["a", "a</w>", "aa"], &[("a", "a")]).unwrap();
        assert_eq!(encode(&pairs, "aaaa"), [2, 0, 1]);
        assert_eq!(encode(&pairs, "aaaaa"), [2, 2, 1]);
        assert_eq!(encode(&pairs, "a"), [1]);
    }

    #[test]
    fn what_is_no_token_is_unknown_or_dropped() {
        let bpe = bpe(&["a", "b</w>", "?"], &[]).unwrap();
        assert_eq!(encode(&bpe, "axb"), [0, 1]);
        assert_eq!(encode(&bpe.with_unknown(Some(2)), "axxb"), [0, 2, 2, 1]);
    }

    #[test]
    fn a_merge_of_tokens_that_do_not_exist_is_malformed() {
        for (merge, missing) in [(("x", "a"), "x"), (("a", "x"), "x"), (("b", "a"), "ba")] {
            let error = bpe(&["a", "b", "ab"], &[("a", "b"), merge]).unwrap_err().to_string();
            let expected = format!("merges.txt: line 2: expected token '{missing}' in the vocabulary");
            assert!(error.starts_with(&expected), "{error}");
        }
        assert!(bpe(&["a", "b", "ab"], &[("a", "b"), ("a", "b")]).is_err());
    }

    #[test]
    fn ids_far_beyond_the_vocabulary_or_shared_are_malformed() {
        let with = |id| {
            let ids = HashMap::from([("a".to_owned(), 0), ("b".to_owned(), id)]);
            Bpe::new("vocab.json", ids, "merges.txt", [])
        };
        assert!(with(1).is_ok() && with(1_027).is_ok());
        for id in [0, 1_028, u32::MAX] {
            assert!(matches!(with(id), Err(Error::Malformed { .. })), "{id}");
        }
    }

    #[test]
    fn a_word_of_a_million_letters_takes_no_quadratic_time() {
        let bpe =
            bpe(&["a", "a</w>", "aa", "aaaa", "aaaaaaaa"], &[("a", "a"), ("aa", "aa"), ("aaaa", "aaaa")])
                .unwrap();
        let started = std::time::Instant::now();
        assert_eq!(encode(&bpe, &"a".repeat(1 << 20)).len(), (1 << 17) + 3);
        assert!(started.elapsed().as_secs() < 10);
    }
}

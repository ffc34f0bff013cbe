//! The `tokenizers` library's `tokenizer.json`: CLIP's settings are read, any other is refused.

use serde_json::{Value, json};

use super::bpe::{Bpe, END_OF_WORD, Merge};
use super::files::{Model, ids, merge};
use super::special::{added_token, malformed_token};
use super::words::{PATTERN, PATTERN_WITH_SPECIAL, Split};
use crate::terminal::escaped;
use crate::{Config, Error};

/// # Errors  [`Error::Malformed`]; [`Error::Unsupported`] for a setting that is not CLIP's
pub(super) fn from_tokenizer_json(config: &Config) -> Result<Model, Error> {
    let file = config.file();
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ]});
    require_default(config, "normalizer", &[normalizer])?;
    let split = split_of(config)?;

    let model = config.object("model")?.ok_or_else(|| config.unexpected("model", "an object"))?;
    require_default(&model, "type", &[json!("BPE")])?;
    require_default(&model, "end_of_word_suffix", &[json!(END_OF_WORD)])?;
    let off = [json!(null), json!(false), json!("")];
    for key in ["continuing_subword_prefix", "fuse_unk", "byte_fallback", "ignore_merges"] {
        if model.value(key).is_some() {
            require_default(&model, key, &off)?;
        }
    }
    if model.get::<f64>("dropout")?.is_some_and(|dropout| dropout != 0.0) {
        return Err(model.unsupported("dropout", ""));
    }

    let vocabulary = model.value("vocab").and_then(Value::as_object);
    let vocabulary = vocabulary.ok_or_else(|| model.unexpected("vocab", "an object from tokens to ids"))?;
    let ids = ids(file, vocabulary.iter().map(|(token, id)| (token.as_str(), id)))?;
    let merges = model.value("merges").and_then(Value::as_array);
    let merges = merges.ok_or_else(|| model.unexpected("merges", "an array of pairs"))?;
    let merges = merges.iter().zip(1..).map(|(pair, number)| {
        let place = format!("merge {number}");
        match (pair, pair.as_array().map(Vec::as_slice)) {
            (Value::String(pair), _) => merge(file, place, pair),
            (_, Some([Value::String(left), Value::String(right)])) => {
                Ok(Merge { place, left: left.clone(), right: right.clone() })
            }
            _ => Err(Error::malformed(file, place, "two tokens", escaped(&pair.to_string()))),
        }
    });
    let bpe = Bpe::new(file, ids, file, merges)?;

    let added = match config.value("added_tokens") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tokens)) => tokens
            .iter()
            .map(|token| {
                let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
                id.and_then(|id| added_token(id, token.as_object()?))
                    .ok_or_else(|| malformed_token(file, "added_tokens", token))
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(config.unexpected("added_tokens", "an array")),
    };
    Ok(Model { file: file.to_owned(), bpe, split, added: Some(added) })
}

fn require_default(config: &Config, key: &str, allowed: &[Value]) -> Result<(), Error> {
    match config.value(key) {
        None => Err(config.unexpected(key, "CLIP's")),
        Some(value) if allowed.contains(value) => Ok(()),
        Some(_) => Err(config.unsupported(key, "only CLIP's tokenizer is implemented")),
    }
}

/// Which of the known patterns splits the text.
fn split_of(config: &Config) -> Result<Split, Error> {
    let refused = || config.unsupported("pre_tokenizer", "only CLIP's tokenizer is implemented");
    let steps = config.value("pre_tokenizer").and_then(|sequence| sequence.get("pretokenizers"));
    let Some([split, bytes]) = steps.and_then(Value::as_array).map(Vec::as_slice) else {
        return Err(refused());
    };
    let pattern = |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": true});
    let keeps_special = *split == pattern(PATTERN_WITH_SPECIAL);
    let is_known = keeps_special || *split == pattern(PATTERN);
    if !is_known
        || bytes.get("type") != Some(&json!("ByteLevel"))
        || bytes.get("add_prefix_space") != Some(&json!(false))
    {
        return Err(refused());
    }
    let splits_again = bytes.get("use_regex").is_none_or(|again| *again == json!(true));
    Ok(Split { keeps_special, splits_again })
}

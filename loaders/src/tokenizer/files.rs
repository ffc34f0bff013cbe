//! A tokenizer's folder: `tokenizer.json`, or `vocab.json` and `merges.txt`; and what says which token pads.
//!
//! Source: transformers 5, `CLIPTokenizer`.

use std::collections::HashMap;

use serde_json::Value;

use super::bpe::{Bpe, Merge};
use super::special::{RoleToken, RoleTokens, check_ids, declared_tokens, find};
use super::tokenizer_json::from_tokenizer_json;
use super::words::Split;
use super::{AddedToken, Roles, Tokenizer};
use crate::terminal::escaped;
use crate::{Config, Error, Folder, read_whole};

/// Bytes of one of the files; CLIP's `tokenizer.json` has 2.2 MB.
const MAX_BYTES: u64 = 32 << 20;

const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The vocabulary and what goes with it.
pub(super) struct Model {
    pub(super) file: String,
    pub(super) bpe: Bpe,
    pub(super) split: Split,
    /// Those of `tokenizer.json`, if there is one.
    pub(super) added: Option<Vec<AddedToken>>,
}

impl Tokenizer {
    /// The tokenizer in `folder`.
    ///
    /// # Errors  [`Error::Malformed`] for files that are missing or contradict each other;
    ///   [`Error::Unsupported`] for a tokenizer that is not CLIP's kind; [`Error::Io`]
    pub async fn open(folder: &Folder) -> Result<Self, Error> {
        let model = match read_json(folder, TOKENIZER).await? {
            Some(config) => from_tokenizer_json(&config)?,
            None => from_vocabulary(folder).await?,
        };
        let config = read_json(folder, CONFIG).await?;
        let special = read_json(folder, SPECIAL).await?;
        if let Some(added) = read_json(folder, ADDED).await?
            && let Some((token, _)) = added.entries().find(|(token, _)| model.bpe.id(token).is_none())
        {
            let what = format!("the token '{}', which the vocabulary lacks,", escaped(token));
            return Err(Error::unsupported(added.file(), what, ""));
        }

        let declared = config.as_ref().map(declared_tokens).transpose()?.flatten();
        // A file that declares its added tokens is newer than the map of special tokens.
        let special = special.as_ref().filter(|_| declared.is_none());
        let roles = RoleTokens::read(config.as_ref(), special)?;
        let added_file = match &config {
            Some(config) if declared.is_some() => config.file(),
            _ => &model.file,
        };
        let mut added = declared.or(model.added).unwrap_or_default();
        for token in roles.as_added(&model.file, &model.bpe, &added)? {
            added.push(token);
        }
        check_ids(added_file, &model.bpe, &added)?;

        let id = |role: &RoleToken| {
            find(&model.bpe, &added, &role.content).ok_or_else(|| role.missing(&model.file))
        };
        let ids = Roles { begin: id(&roles.begin)?, end: id(&roles.end)?, pad: id(&roles.pad)? };
        let unknown = Some(id(&roles.unknown)?);
        let max_length = config.as_ref().map(max_length).transpose()?.flatten();
        Self::new(added_file, model.bpe.with_unknown(unknown), model.split, added, ids, max_length)
    }
}

/// Ids in a padded text; transformers writes 1e30, whole or not, for a tokenizer without a limit.
fn max_length(config: &Config) -> Result<Option<usize>, Error> {
    const KEY: &str = "model_max_length";
    let unlimited = |length: f64| length >= 1e18;
    match config.value(KEY) {
        None | Some(Value::Null) => Ok(None),
        Some(length) => match length.as_u64() {
            Some(length) => Ok(usize::try_from(length).ok()),
            None if length.as_f64().is_some_and(unlimited) => Ok(None),
            None => Err(config.unexpected(KEY, "a number of tokens")),
        },
    }
}

async fn read_json(folder: &Folder, name: &str) -> Result<Option<Config>, Error> {
    let Some(source) = folder.open(name)? else { return Ok(None) };
    Config::parse(source.label(), &read_whole(&*source, MAX_BYTES).await?).map(Some)
}

async fn from_vocabulary(folder: &Folder) -> Result<Model, Error> {
    let wanted = || folder.missing(&format!("{TOKENIZER}, or {VOCABULARY} and {MERGES}"));
    let vocabulary = read_json(folder, VOCABULARY).await?.ok_or_else(wanted)?;
    let merges = folder.open(MERGES)?.ok_or_else(wanted)?;
    let text = read_whole(&*merges, MAX_BYTES).await?;
    let text = str::from_utf8(&text).map_err(|error| {
        let valid = text.get(..error.valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
        Error::malformed(merges.label(), format!("line {line}"), "UTF-8", "another byte")
    })?;
    let ids = ids(vocabulary.file(), vocabulary.entries())?;
    let bpe = Bpe::new(vocabulary.file(), ids, merges.label(), parse_merges(merges.label(), text))?;
    Ok(Model { file: vocabulary.file().to_owned(), bpe, split: Split::CLIP, added: None })
}

/// The pairs of a `merges.txt`, one a line.
pub(super) fn parse_merges<'t>(file: &'t str, text: &'t str) -> impl Iterator<Item = Result<Merge, Error>> {
    text.lines()
        .zip(1..)
        .filter(|(line, number)| *number > 1 || !line.starts_with("#version"))
        .filter(|(line, _)| !line.trim().is_empty())
        .map(move |(line, number)| merge(file, format!("line {number}"), line))
}

pub(super) fn merge(file: &str, place: String, pair: &str) -> Result<Merge, Error> {
    match pair.split(' ').collect::<Vec<_>>().as_slice() {
        [left, right] if !left.is_empty() && !right.is_empty() => {
            Ok(Merge { place, left: (*left).to_owned(), right: (*right).to_owned() })
        }
        _ => Err(Error::malformed(
            file,
            place,
            "two tokens and a space between",
            format!("'{}'", escaped(pair)),
        )),
    }
}

pub(super) fn ids<'v>(
    file: &str,
    entries: impl Iterator<Item = (&'v str, &'v Value)>,
) -> Result<HashMap<String, u32>, Error> {
    let id = |(token, value): (&str, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let what = format!("token '{}'", escaped(token));
            Error::malformed(file, what, "an id from 0 to 4294967295", escaped(&value.to_string()))
        })?;
        Ok((token.to_owned(), id))
    };
    entries.map(id).collect()
}

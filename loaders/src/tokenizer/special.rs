//! Which tokens have a role, and which are cut out of a text wherever they stand.
//!
//! Source: transformers 5, `tokenization_utils_base.py` (which file's word counts).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::AddedToken;
use super::bpe::Bpe;
use super::clip::{BEGIN, END};
use crate::terminal::escaped;
use crate::{Config, Error};

/// The tokens that a `tokenizer_config.json` declares under their ids.
pub(super) fn declared_tokens(config: &Config) -> Result<Option<Vec<AddedToken>>, Error> {
    const KEY: &str = "added_tokens_decoder";
    let tokens = match config.value(KEY) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(tokens)) => tokens,
        Some(_) => return Err(config.unexpected(KEY, "an object from ids to tokens")),
    };
    let token = |(id, token): (&String, &Value)| {
        let parsed = id.parse().ok().and_then(|id| added_token(id, token.as_object()?));
        parsed.ok_or_else(|| malformed_token(config.file(), KEY, token))
    };
    tokens.iter().map(token).collect::<Result<_, _>>().map(Some)
}

pub(super) fn malformed_token(file: &str, key: &str, found: &Value) -> Error {
    Error::malformed(
        file,
        format!("key '{key}'"),
        "tokens with an id and content",
        escaped(&found.to_string()),
    )
}

pub(super) fn added_token(id: u32, token: &Map<String, Value>) -> Option<AddedToken> {
    let flag = |key: &str| match token.get(key) {
        None => Some(false),
        Some(value) => value.as_bool(),
    };
    Some(AddedToken {
        id,
        content: token.get("content")?.as_str()?.to_owned(),
        is_normalised: flag("normalized")?,
        is_single_word: flag("single_word")?,
    })
}

pub(super) fn find(bpe: &Bpe, added: &[AddedToken], content: &str) -> Option<u32> {
    let added = || added.iter().find(|token| token.content == content).map(|token| token.id);
    bpe.id(content).or_else(added)
}

/// An added token has the vocabulary's id, or one of its own that follows it.
pub(super) fn check_ids(file: &str, bpe: &Bpe, added: &[AddedToken]) -> Result<(), Error> {
    let mut by_id: HashMap<u32, &str> = HashMap::new();
    let n_tokens = bpe.tokens().len().saturating_add(added.len());
    for token in added {
        let what = || format!("added token '{}'", escaped(&token.content));
        let known = bpe.id(&token.content);
        if known.is_some_and(|id| id != token.id) {
            let expected = format!("id {}, as in the vocabulary", known.unwrap_or_default());
            return Err(Error::malformed(file, what(), expected, token.id.to_string()));
        }
        if known.is_none() && usize::try_from(token.id).unwrap_or(usize::MAX) >= n_tokens {
            let expected = format!("an id below {n_tokens}, the number of tokens");
            return Err(Error::malformed(file, what(), expected, token.id.to_string()));
        }
        if by_id.insert(token.id, &token.content).is_some_and(|other| other != token.content) {
            return Err(Error::malformed(file, what(), "an id of its own", format!("{} twice", token.id)));
        }
    }
    let shared = bpe.tokens().find(|(token, id)| by_id.get(id).is_some_and(|other| other != token));
    match shared {
        None => Ok(()),
        Some((token, id)) => {
            let what = format!("token '{}'", escaped(token));
            Err(Error::malformed(file, what, "an id of its own", format!("{id}, which an added token has")))
        }
    }
}

/// The text of the tokens with a role, and whether they are looked for in normalised text.
pub(super) struct RoleTokens {
    pub(super) begin: RoleToken,
    pub(super) end: RoleToken,
    pub(super) unknown: RoleToken,
    pub(super) pad: RoleToken,
}

pub(super) struct RoleToken {
    key: &'static str,
    /// The file that gives it; none for CLIP's own.
    file: Option<String>,
    pub(super) content: String,
    is_normalised: bool,
}

impl RoleToken {
    /// The error that says that neither `vocabulary` nor an added token has it.
    pub(super) fn missing(&self, vocabulary: &str) -> Error {
        let file = self.file.as_deref().unwrap_or(vocabulary);
        let what = format!("{} '{}'", self.key, escaped(&self.content));
        Error::malformed(file, what, "a token of the vocabulary", "none")
    }
}

impl RoleTokens {
    /// Reads the roles; `special` overrides `config`, and CLIP's own tokens stand in for absent ones.
    pub(super) fn read(config: Option<&Config>, special: Option<&Config>) -> Result<Self, Error> {
        let role = |key: &'static str, default: &str| {
            for file in [special, config].into_iter().flatten() {
                match file.value(key) {
                    None | Some(Value::Null) => {}
                    Some(Value::String(content)) => {
                        let (file, content) = (Some(file.file().to_owned()), content.clone());
                        return Ok(RoleToken { key, file, content, is_normalised: false });
                    }
                    Some(Value::Object(token)) => {
                        let token = added_token(0, token).ok_or_else(|| file.unexpected(key, "a token"))?;
                        return Ok(RoleToken {
                            key,
                            file: Some(file.file().to_owned()),
                            content: token.content,
                            is_normalised: token.is_normalised,
                        });
                    }
                    Some(_) => return Err(file.unexpected(key, "a token")),
                }
            }
            Ok(RoleToken { key, file: None, content: default.to_owned(), is_normalised: false })
        };
        Ok(Self {
            begin: role("bos_token", BEGIN)?,
            end: role("eos_token", END)?,
            unknown: role("unk_token", END)?,
            pad: role("pad_token", END)?,
        })
    }

    /// The roles' tokens that `added` lacks: each is cut out of the text wherever it stands, `!` included when
    /// it pads.
    ///
    /// Where roles disagree whether one token is normalised, the opinion first heard last counts, as in
    /// transformers.
    pub(super) fn as_added(
        &self,
        file: &str,
        bpe: &Bpe,
        added: &[AddedToken],
    ) -> Result<Vec<AddedToken>, Error> {
        let roles = [&self.begin, &self.end, &self.unknown, &self.pad];
        let mut tokens: Vec<AddedToken> = Vec::new();
        for role in roles {
            if added.iter().any(|token| token.content == role.content)
                || tokens.iter().any(|token| token.content == role.content)
            {
                continue;
            }
            let id = bpe.id(&role.content).ok_or_else(|| role.missing(file))?;
            let mut opinions = Vec::new();
            for other in roles.iter().filter(|other| other.content == role.content) {
                if !opinions.contains(&other.is_normalised) {
                    opinions.push(other.is_normalised);
                }
            }
            let is_normalised = opinions.last().copied().unwrap_or_default();
            tokens.push(AddedToken {
                id,
                content: role.content.clone(),
                is_normalised,
                is_single_word: false,
            });
        }
        Ok(tokens)
    }
}

//! The one error of this crate; its text is one line, safe to print on a terminal.

use std::fmt;
use std::io;

use crate::terminal::escaped_within;

/// Bytes of a message's fields; with the words between them it stays below a kilobyte.
const MAX_LINE_BYTES: usize = 960;

/// Characters of a field that are looked at: more than a path has.
const MAX_PATH_CHARS: usize = 8_192;

/// Why a file could not be read or written.
///
/// Fields hold text as it was found; only `Display` escapes and cuts it. The command line turns the variants into exit
/// codes: `NotFound` and `Io` 2, `Malformed` 3, `Unsupported` 4, `Output` 8.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path that the user gave does not exist.
    #[error(fmt = not_found)]
    NotFound {
        /// The path as given.
        path: String,
    },

    /// The operating system refused to read.
    #[error(fmt = io_failure)]
    Io {
        /// The file or folder.
        path: String,
        /// A verb: what was tried.
        doing: &'static str,
        /// What the system answered.
        source: io::Error,
    },

    /// The bytes are not what their format, or the model that needs them, asks for. Truncation included.
    #[error(fmt = malformed)]
    Malformed {
        /// The file's label.
        file: String,
        /// The part of it: a tensor, a key, a line.
        what: String,
        /// What was expected there.
        expected: String,
        /// What stands there; boxed, for results to stay small.
        found: Box<str>,
        /// Whether a file is missing or ends early, as where it is still being downloaded, and nothing else is known to be wrong.
        is_incomplete: bool,
    },

    /// The file may be sound, but holds something photogram does not implement.
    #[error(fmt = unsupported)]
    Unsupported {
        /// The file's label.
        file: String,
        /// What is not supported.
        what: String,
        /// What can be done about it; may be empty.
        hint: String,
    },

    /// A result could not be written.
    #[error(fmt = output_failure)]
    Output {
        /// The path as given.
        path: String,
        /// What the system answered.
        source: io::Error,
    },
}

impl Error {
    /// A [`Error::Malformed`] from its four fields.
    pub fn malformed(
        file: impl Into<String>,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Malformed {
            file: file.into(),
            what: what.into(),
            expected: expected.into(),
            found: found.into().into_boxed_str(),
            is_incomplete: false,
        }
    }

    /// A [`Error::Malformed`] from its four fields, where a file is missing or ends early.
    pub fn incomplete(
        file: impl Into<String>,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let mut error = Self::malformed(file, what, expected, found);
        if let Self::Malformed { is_incomplete, .. } = &mut error {
            *is_incomplete = true;
        }
        error
    }

    /// Whether files or bytes that are not there are all that is known to be wrong.
    pub fn is_incomplete(&self) -> bool {
        matches!(self, Self::Malformed { is_incomplete: true, .. })
    }

    /// A [`Error::Unsupported`] from its three fields.
    pub fn unsupported(file: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported { file: file.into(), what: what.into(), hint: hint.into() }
    }

    /// [`Error::NotFound`] or [`Error::Io`], by what the system answered.
    pub(crate) fn reading(path: impl Into<String>, doing: &'static str, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Io { path, doing, source },
        }
    }
}

fn not_found(path: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [path] = fitted([path]);
    write!(f, "{path}: no such file or folder")
}

fn io_failure(path: &str, doing: &&str, source: &io::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [path, source] = fitted([path, &source.to_string()]);
    write!(f, "{path}: cannot {doing}: {source}")
}

fn malformed(
    file: &str,
    what: &str,
    expected: &str,
    found: &str,
    _is_incomplete: &bool,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let [file, what, expected, found] = fitted([file, what, expected, found]);
    write!(f, "{file}: {what}: expected {expected}, found {found}")
}

fn unsupported(file: &str, what: &str, hint: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [file, what, hint] = fitted([file, what, hint]);
    write!(f, "{file}: {what} is not supported")?;
    if hint.is_empty() { Ok(()) } else { write!(f, " (hint: {hint})") }
}

fn output_failure(path: &str, source: &io::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [path, source] = fitted([path, &source.to_string()]);
    write!(f, "{path}: cannot write: {source}")
}

/// The fields of a message, escaped and cut so that together they fit into a line.
///
/// Room that a short field leaves is a longer one's. The first is a path: its end, which names the file, is kept.
fn fitted<const N: usize>(fields: [&str; N]) -> [String; N] {
    let mut fields = fields.map(|field| escaped_within(field, MAX_PATH_CHARS));
    let mut lengths = fields.each_ref().map(String::len);
    lengths.sort_unstable();
    let mut room = MAX_LINE_BYTES;
    let mut share = room;
    for (idx, length) in lengths.into_iter().enumerate() {
        share = room.checked_div(N.saturating_sub(idx)).unwrap_or_default();
        room = room.saturating_sub(length.min(share));
    }
    for (idx, field) in fields.iter_mut().enumerate() {
        if field.len() > share {
            // The ellipsis takes three bytes.
            let kept = share.saturating_sub(3);
            *field = if idx == 0 {
                format!("\u{2026}{}", ending(field, kept))
            } else {
                format!("{}\u{2026}", beginning(field, kept))
            };
        }
    }
    fields
}

/// As much of `text` from its beginning as fits into `bytes`.
fn beginning(text: &str, bytes: usize) -> &str {
    (0..=bytes).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

/// As much of `text` up to its end as fits into `bytes`.
fn ending(text: &str, bytes: usize) -> &str {
    (text.len().saturating_sub(bytes)..=text.len()).find_map(|start| text.get(start..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_escapes_what_it_shows() {
        let hostile = || "a\u{1b}[2J\n\u{202e}".to_owned();
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let errors = [
            Error::NotFound { path: hostile() },
            Error::Io { path: hostile(), doing: "read", source: refused() },
            Error::malformed(hostile(), hostile(), hostile(), hostile()),
            Error::unsupported(hostile(), hostile(), hostile()),
            Error::Output { path: hostile(), source: refused() },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains("a\\u{1b}[2J\\u{a}\\u{202e}"), "{text}");
            assert!(!text.contains(['\u{1b}', '\n', '\u{202e}']), "{text}");
        }
    }

    #[test]
    fn a_message_is_cut_below_a_kilobyte_and_still_names_the_file() {
        let path = format!("{}/x.png", "\u{1b}".repeat(4_000));
        let refused = || io::Error::other("\u{732b}\n".repeat(4_000));
        for long in ["\u{202e}", "\u{732b}", "a"].map(|c| c.repeat(5_000)) {
            let errors = [
                Error::NotFound { path: path.clone() },
                Error::Io { path: path.clone(), doing: "read", source: refused() },
                Error::malformed(&path, &long, &long, &long),
                Error::malformed(&path, "tensor 'w'", &long, "nothing"),
                Error::unsupported(&path, &long, &long),
                Error::Output { path: path.clone(), source: refused() },
            ];
            for error in errors {
                let text = error.to_string();
                assert!(text.len() > 900 && text.len() < 1_024, "{} bytes: {text}", text.len());
                assert!(text.contains("/x.png: ") && !text.contains(char::is_control), "{text}");
            }
        }
        let error = Error::malformed("x", "w", "y".repeat(940), "z").to_string();
        assert!(error.contains(&"y".repeat(940)), "{error}");
    }

    #[test]
    fn the_message_names_file_part_expectation_and_finding() {
        let error = Error::malformed("unet.safetensors", "tensor 'w'", "F32[2, 3]", "F32[3, 2]");
        assert_eq!(error.to_string(), "unet.safetensors: tensor 'w': expected F32[2, 3], found F32[3, 2]");
    }
}

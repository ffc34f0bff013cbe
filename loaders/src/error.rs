//! The one error of this crate; its text is one line, safe to print on a terminal.

use std::io;

use crate::terminal::escaped_within;

/// Why a file could not be read or written.
///
/// Fields hold text as it was found; only `Display` escapes it. The command line turns the variants into exit
/// codes: `NotFound` and `Io` 2, `Malformed` 3, `Unsupported` 4, `Output` 8.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path that the user gave does not exist.
    #[error("{}: no such file or folder", line(path))]
    NotFound {
        /// The path as given.
        path: String,
    },

    /// The operating system refused to read.
    #[error("{}: cannot {doing}: {source}", line(path))]
    Io {
        /// The file or folder.
        path: String,
        /// A verb: what was tried.
        doing: &'static str,
        /// What the system answered.
        source: io::Error,
    },

    /// The bytes are not what their format, or the model that needs them, asks for. Truncation included.
    #[error("{}: {}: expected {}, found {}", line(file), line(what), line(expected), line(found))]
    Malformed {
        /// The file's label.
        file: String,
        /// The part of it: a tensor, a key, a line.
        what: String,
        /// What was expected there.
        expected: String,
        /// What stands there.
        found: String,
    },

    /// The file may be sound, but holds something photogram does not implement.
    #[error("{}: {} is not supported{}", line(file), line(what), hinted(hint))]
    Unsupported {
        /// The file's label.
        file: String,
        /// What is not supported.
        what: String,
        /// What can be done about it; may be empty.
        hint: String,
    },

    /// A result could not be written.
    #[error("{}: cannot write: {source}", line(path))]
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
            found: found.into(),
        }
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

/// A field may hold a sentence around a name that is itself cut at 200 characters.
fn line(text: &str) -> String {
    escaped_within(text, 600)
}

fn hinted(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!(" (hint: {})", line(hint)) }
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
    fn the_message_names_file_part_expectation_and_finding() {
        let error = Error::malformed("unet.safetensors", "tensor 'w'", "F32[2, 3]", "F32[3, 2]");
        assert_eq!(error.to_string(), "unet.safetensors: tensor 'w': expected F32[2, 3], found F32[3, 2]");
    }
}

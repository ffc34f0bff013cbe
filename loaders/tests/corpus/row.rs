//! A file or a folder, and what has to come of reading it.

use std::path::Path;

use photogram_loaders::Error;

/// What comes of reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Malformed,
    Unsupported,
    Io,
    NotFound,
    Accepted,
}

impl Outcome {
    /// What a result is.
    pub(crate) fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::Accepted,
            Err(Error::Malformed { .. }) => Self::Malformed,
            Err(Error::Unsupported { .. }) => Self::Unsupported,
            Err(Error::Io { .. }) => Self::Io,
            Err(Error::NotFound { .. }) => Self::NotFound,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Files and what comes of reading them.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Paths inside the folder, and bytes.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) outcome: Outcome,
    /// The file that the message names, inside the folder; empty for the folder itself.
    pub(crate) at: String,
    /// What the message says, or what is read if the file is accepted.
    pub(crate) text: String,
}

impl Row {
    /// A row of one file, which the message names.
    pub(crate) fn file(
        name: &'static str,
        outcome: Outcome,
        file: &str,
        bytes: impl Into<Vec<u8>>,
        text: &str,
    ) -> Self {
        Self { name, files: vec![(file.into(), bytes.into())], outcome, at: file.into(), text: text.into() }
    }

    /// The same row with another file beside.
    pub(crate) fn beside(mut self, file: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((file.into(), bytes.into()));
        self
    }

    /// Writes the files into a folder, which is made.
    pub(crate) fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// The same row whose message names `at`.
    pub(crate) fn at(self, at: &str) -> Self {
        Self { at: at.into(), ..self }
    }
}

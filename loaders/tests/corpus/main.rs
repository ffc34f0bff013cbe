//! Files made by hand, each with a precedent in some reader's bug list: what comes of each, and what is said.
//!
//! A row is one file, or one folder, and what has to come of reading it. Whatever that is, a message is one
//! line that names the file. `--nocapture` shows how many there are of each format.

mod config;
mod index;
mod picture;
#[path = "../made/png.rs"]
mod png_file;
mod safetensors;
mod tokenizer;
#[path = "../made/tokenizer.rs"]
mod tokenizer_files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use photogram_loaders::Error;

/// How long a file may be read; a debug build on a busy machine included.
const MAX_TIME: Duration = Duration::from_secs(5);

/// What comes of reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Malformed,
    Unsupported,
    Io,
    NotFound,
    Accepted,
}

impl Outcome {
    fn of<T>(result: &Result<T, Error>) -> Self {
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
struct Row {
    name: &'static str,
    /// Paths inside the folder, and bytes.
    files: Vec<(String, Vec<u8>)>,
    outcome: Outcome,
    /// The file that the message names, inside the folder; empty for the folder itself.
    at: String,
    /// What the message says, or what is read if the file is accepted.
    text: String,
}

impl Row {
    /// A row of one file, which the message names.
    fn file(name: &'static str, outcome: Outcome, file: &str, bytes: impl Into<Vec<u8>>, text: &str) -> Self {
        Self { name, files: vec![(file.into(), bytes.into())], outcome, at: file.into(), text: text.into() }
    }

    /// The same row with another file beside.
    fn beside(mut self, file: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((file.into(), bytes.into()));
        self
    }

    /// The same row whose message names `at`.
    fn at(self, at: &str) -> Self {
        Self { at: at.into(), ..self }
    }
}

/// Reads each row's folder with `read`, which says what it found there.
fn check(format: &str, at_least: usize, rows: &[Row], read: impl Fn(&Path) -> Result<String, Error>) {
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "{format}: two rows of one name");
    let mut totals: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for row in rows {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        for (name, bytes) in &row.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let started = Instant::now();
        let result = read(&folder);
        let elapsed = started.elapsed();
        if elapsed > MAX_TIME {
            wrong.push(format!("{}: takes {elapsed:?}", row.name));
        }
        let outcome = Outcome::of(&result);
        *totals.entry(outcome).or_default() += 1;
        let said = match &result {
            Ok(found) => found.clone(),
            Err(error) => error.to_string(),
        };
        if outcome != row.outcome {
            wrong.push(format!("{}: expected {:?}, found {outcome:?}: {said}", row.name, row.outcome));
            continue;
        }
        if !said.contains(&row.text) {
            wrong.push(format!("{}: {said}\n    lacks {}", row.name, row.text));
        }
        if result.is_err() {
            let file = folder.join(&row.at).display().to_string();
            if !said.starts_with(&format!("{}: ", file.trim_end_matches('/'))) {
                wrong.push(format!("{}: {said}\n    does not name '{}'", row.name, row.at));
            }
            if said.len() >= 1_024 || said.contains(char::is_control) {
                wrong.push(format!("{}: {} bytes: {said:?}", row.name, said.len()));
            }
        }
    }
    let totals: Vec<_> =
        totals.iter().map(|(outcome, n)| format!("{n} {}", format!("{outcome:?}").to_lowercase())).collect();
    println!("{format}: {} files, {}", rows.len(), totals.join(", "));
    assert!(wrong.is_empty(), "{format}:\n{}", wrong.join("\n"));
    assert!(rows.len() >= at_least, "{format}: {} files", rows.len());
}

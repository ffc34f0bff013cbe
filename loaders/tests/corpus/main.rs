//! Files made by hand, each with a precedent in some reader's bug list: what comes of each, and what is said.
//!
//! A row is one file, or one folder, and what has to come of reading it. Whatever that is, a message is one
//! line that names the file. `--nocapture` shows how many there are of each format.
//!
//! `tests/corpus/` of the workspace has the program read the same rows, a process for each.

mod config;
mod index;
mod picture;
#[path = "../made/png.rs"]
mod png_file;
mod row;
mod safetensors;
mod tokenizer;
#[path = "../made/tokenizer.rs"]
mod tokenizer_files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use photogram_loaders::Error;

use row::{Outcome, Row};

/// How long a file may be read; a debug build on a busy machine included.
const MAX_TIME: Duration = Duration::from_secs(5);

/// Reads each row's folder with `read`, which says what it found there.
fn check(format: &str, at_least: usize, rows: &[Row], read: impl Fn(&Path) -> Result<String, Error>) {
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "{format}: two rows of one name");
    let mut totals: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for row in rows {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("model");
        row.write(&folder);
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

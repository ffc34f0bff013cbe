//! The readers' bad files as a user meets them: read by the program, one process for each row.
//!
//! The rows are those of `loaders/tests/corpus`, which says what the readers themselves make of them.

extern crate loaders as photogram_loaders;

#[path = "../../loaders/tests/corpus/config.rs"]
mod config;
#[path = "../../loaders/tests/corpus/index.rs"]
mod index;
#[path = "../../loaders/tests/corpus/picture.rs"]
mod picture;
#[path = "../../loaders/tests/made/png.rs"]
mod png_file;
#[path = "../../loaders/tests/corpus/row.rs"]
mod row;
#[path = "../../loaders/tests/corpus/safetensors.rs"]
mod safetensors;
#[path = "../../loaders/tests/corpus/tokenizer.rs"]
mod tokenizer;
#[path = "../../loaders/tests/made/tokenizer.rs"]
mod tokenizer_files;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use photogram_loaders::Error;

use row::{Outcome, Row};

/// How long a process may take, among others on a busy machine: pictures of 4,096 by 4,096 are compared, in 5 s.
const MAX_TIME: Duration = Duration::from_secs(60);

/// Where a format's files stand in a model, and what reads them.
enum Use {
    /// `inspect` of the file that the row is about.
    Checkpoint,
    /// `compare` of the file that the row is about with itself.
    Picture,
    /// `reproduce` of the file that the row is about.
    Settings,
    /// `inspect` of a sound model whose folder of this name the row's files replace, all but its `config.json`.
    Part(&'static str),
    /// The same, but what has the names of the row's files is replaced alone.
    Files(&'static str),
    /// `inspect` of the row's files.
    Model,
}

impl Use {
    fn of(format: &str) -> Self {
        match format {
            "safetensors" => Use::Checkpoint,
            "pictures" => Use::Picture,
            "texts in PNG" => Use::Settings,
            "*.index.json" => Use::Part("text_encoder"),
            "tokenizer.json" | "vocab.json and merges.txt" | "tokenizer_config.json and others" => {
                Use::Part("tokenizer")
            }
            "config.json" => Use::Files("unet"),
            "scheduler_config.json" => Use::Files("scheduler"),
            "model_index.json" => Use::Model,
            other => panic!("nothing reads '{other}'"),
        }
    }

    /// The files in place, and the words after the program's name.
    fn words(&self, row: &Row, place: &Path) -> Vec<String> {
        let root = place.join("model");
        let word = |path: PathBuf| path.display().to_string();
        let folder = match self {
            Use::Part(part) | Use::Files(part) => {
                copy(&sound_model(), &root);
                root.join(part)
            }
            _ => root.clone(),
        };
        if let Use::Part(_) = self {
            let config = fs::read(folder.join("config.json"));
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            config.into_iter().for_each(|bytes| fs::write(folder.join("config.json"), bytes).unwrap());
        }
        if let Use::Files(_) = self {
            // A row's folder may have a sound file's name.
            row.files
                .iter()
                .for_each(|(name, _)| drop(fs::remove_file(folder.join(name.split('/').next().unwrap()))));
        }
        row.write(&folder);
        let file = || word(folder.join(&row.at));
        match self {
            Use::Checkpoint => vec!["inspect".to_owned(), file()],
            Use::Picture => vec!["compare".to_owned(), file(), file()],
            Use::Settings => vec!["reproduce".to_owned(), file()],
            Use::Part(_) | Use::Files(_) | Use::Model => vec!["inspect".to_owned(), word(root)],
        }
    }

    /// Whether the program refuses what the reader refuses, for the same reason: networks and schedulers ask for other keys of
    /// their configuration than the reader's test does, and a settings' text says more than one thing.
    fn is_strict(&self) -> bool {
        matches!(self, Use::Checkpoint | Use::Picture | Use::Part(_) | Use::Model)
    }
}

/// Has the program read each row's files; what readers find there is theirs to test.
fn check(format: &str, at_least: usize, rows: &[Row], _: impl Fn(&Path) -> Result<String, Error>) {
    let how = Use::of(format);
    let mut refused = 0;
    let mut wrong = Vec::new();
    for row in rows {
        let place = tempfile::tempdir().unwrap();
        let words = how.words(row, place.path());
        let started = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_photogram"))
            .args(&words)
            .current_dir(place.path())
            .env("XDG_CACHE_HOME", place.path())
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap();
        if started.elapsed() > MAX_TIME {
            wrong.push(format!("{}: takes {:?}", row.name, started.elapsed()));
        }
        refused += usize::from(!output.status.success() || text(&output.stdout).contains("not usable"));
        if let Some(problem) = problem(&how, row, &output) {
            wrong.push(format!("{}: {problem}\n    {}", row.name, text(&output.stderr)));
        }
    }
    println!("{format}: {} processes, {refused} refusals", rows.len());
    assert!(wrong.is_empty(), "{format}:\n{}", wrong.join("\n"));
    assert!(rows.len() >= at_least, "{format}: {} files", rows.len());
}

fn problem(how: &Use, row: &Row, output: &Output) -> Option<String> {
    let (said, printed) = (text(&output.stderr), text(&output.stdout));
    // 2 to 4: paths, broken and unsupported files.
    if !matches!(output.status.code(), Some(0 | 2..=4)) {
        return Some(format!("ends with {}", output.status));
    }
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("hint: ")).collect();
    let is_line = |line: &str| line.starts_with("error: ") && !line.contains(char::is_control);
    match (output.status.success(), &lines[..]) {
        (true, []) => {}
        (false, [line]) if is_line(line) => {}
        _ => return Some(format!("says {} lines", lines.len())),
    }
    // `inspect` prints what is wrong with a part of a model, and that is no failure of its own.
    let refuses = !output.status.success() || printed.contains("not usable");
    // `inspect` takes folders for what they may be.
    let is_folder = row.files.iter().any(|(file, _)| file.starts_with(&format!("{}/", row.at)));
    if how.is_strict() && row.outcome != Outcome::Accepted && !is_folder {
        if !refuses {
            return Some("is accepted".to_owned());
        }
        // The program's hint stands in a line of its own.
        let reason = row.text.split(" (hint").next().unwrap_or_default();
        if !format!("{said}{printed}").contains(reason) {
            return Some(format!("lacks '{}'\n{printed}", row.text));
        }
    }
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A model of the workspace's fixtures.
fn sound_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pipelines/sd1_layout/model")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

//! A folder of files, on disk or embedded in the program, that no name can leave.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::terminal::escaped;
use crate::{BytesSource, Error, FileSource, Source};

/// The longest path inside a folder.
const MAX_NAME_BYTES: usize = 1024;

/// The longest name of one file, on Linux as on Windows.
const MAX_PART_BYTES: usize = 255;

/// Names that Windows gives to devices, whatever their extension.
const DEVICE_NAMES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// A folder of files.
///
/// Names inside it use `/` on every system. A name out of an untrusted file (a shard in an index, a part in
/// `model_index.json`) is checked by one rule for Unix and Windows. Symbolic links are followed: the Hugging
/// Face cache is made of them.
#[derive(Debug, Clone)]
pub struct Folder {
    label: String,
    files: Files,
}

#[derive(Debug, Clone)]
enum Files {
    Disk(PathBuf),
    Embedded { files: &'static [(&'static str, &'static [u8])], prefix: String },
}

impl Folder {
    /// The folder at `path`.
    ///
    /// # Errors  [`Error::NotFound`]; [`Error::Io`] if it is no folder
    pub fn on_disk(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let label = path.display().to_string();
        let metadata = std::fs::metadata(path).map_err(|source| Error::reading(&label, "open", source))?;
        if !metadata.is_dir() {
            let source = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(Error::Io { path: label, doing: "open", source });
        }
        Ok(Self { label, files: Files::Disk(path.to_owned()) })
    }

    /// A folder embedded in the program: pairs of a path inside it, with `/`, and the file's bytes.
    pub fn embedded(label: impl Into<String>, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self { label: label.into(), files: Files::Embedded { files, prefix: String::new() } }
    }

    /// What messages call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What messages call the file `name` in it.
    pub fn label_of(&self, name: &str) -> String {
        format!("{}/{name}", self.label.trim_end_matches('/'))
    }

    /// The file `name`, or `None` if there is none.
    ///
    /// # Errors  [`Error::Malformed`] if the name leaves the folder; [`Error::Io`]
    pub fn open(&self, name: &str) -> Result<Option<Arc<dyn Source>>, Error> {
        self.check_name(name)?;
        match &self.files {
            Files::Disk(path) => match FileSource::open(path.join(name)) {
                Ok(file) => Ok(Some(Arc::new(file))),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(Error::Io { source, .. })
                    if matches!(
                        source.kind(),
                        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
                    ) =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            },
            Files::Embedded { files, prefix } => {
                let wanted = format!("{prefix}{name}");
                Ok(files.iter().find(|(path, _)| *path == wanted).map(|(_, bytes)| {
                    let source: Arc<dyn Source> = Arc::new(BytesSource::new(self.label_of(name), *bytes));
                    source
                }))
            }
        }
    }

    /// The file `name`.
    ///
    /// # Errors  as [`Folder::open`]; [`Error::Malformed`] with the names that are there if it is missing
    pub fn require(&self, name: &str) -> Result<Arc<dyn Source>, Error> {
        self.open(name)?.ok_or_else(|| self.missing(name))
    }

    /// The error that says that `wanted` is missing and what is there instead.
    pub(crate) fn missing(&self, wanted: &str) -> Error {
        Error::incomplete(&self.label, "files", wanted, self.found())
    }

    /// Whether it has the file `name`; a name that leaves the folder is not in it.
    pub fn exists(&self, name: &str) -> bool {
        self.check_name(name).is_ok()
            && match &self.files {
                Files::Disk(path) => path.join(name).is_file(),
                Files::Embedded { files, prefix } => {
                    files.iter().any(|(path, _)| path.strip_prefix(prefix.as_str()) == Some(name))
                }
            }
    }

    /// The folder `name` inside it, or `None` if there is none.
    ///
    /// # Errors  [`Error::Malformed`] if the name leaves the folder
    pub fn folder(&self, name: &str) -> Result<Option<Self>, Error> {
        self.check_name(name)?;
        let label = self.label_of(name);
        Ok(match &self.files {
            Files::Disk(path) => {
                let path = path.join(name);
                path.is_dir().then_some(Self { label, files: Files::Disk(path) })
            }
            Files::Embedded { files, prefix } => {
                let prefix = format!("{prefix}{name}/");
                files
                    .iter()
                    .any(|(path, _)| path.starts_with(&prefix))
                    .then_some(Self { label, files: Files::Embedded { files, prefix } })
            }
        })
    }

    /// The names of its files and folders, sorted; a folder's name ends in `/`.
    ///
    /// # Errors  [`Error::Io`] if it cannot be listed
    pub fn list(&self) -> Result<Vec<String>, Error> {
        let names: BTreeSet<String> = match &self.files {
            Files::Disk(path) => std::fs::read_dir(path)
                .and_then(|entries| {
                    entries
                        .map(|entry| {
                            let entry = entry?;
                            let name = entry.file_name().to_string_lossy().into_owned();
                            Ok(if entry.path().is_dir() { format!("{name}/") } else { name })
                        })
                        .collect()
                })
                .map_err(|source| Error::reading(&self.label, "list", source))?,
            Files::Embedded { files, prefix } => files
                .iter()
                .filter_map(|(path, _)| path.strip_prefix(prefix.as_str()))
                .map(|path| path.split_inclusive('/').next().unwrap_or_default().to_owned())
                .collect(),
        };
        Ok(names.into_iter().collect())
    }

    /// Its names in one line, for a message, which escapes them.
    pub(crate) fn found(&self) -> String {
        const SHOWN: usize = 12;
        match self.list() {
            Err(_) => "a folder that cannot be listed".to_owned(),
            Ok(names) if names.is_empty() => "an empty folder".to_owned(),
            Ok(names) => {
                let mut shown: Vec<String> = names.iter().take(SHOWN).cloned().collect();
                if names.len() > SHOWN {
                    shown.push(format!("and {} more", names.len().saturating_sub(SHOWN)));
                }
                shown.join(", ")
            }
        }
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        if is_inside(name) {
            return Ok(());
        }
        Err(Error::malformed(
            &self.label,
            "a file's name",
            "a relative path inside the folder",
            format!("'{}'", escaped(name)),
        ))
    }
}

/// Whether `name` stays inside a folder, on Unix and on Windows.
pub(crate) fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
        && name.split('/').all(|part| {
            // Windows drops a final dot or space, so that "..." and ".. " may climb.
            let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
            let is_port = stem.len() == 4
                && (stem.starts_with("com") || stem.starts_with("lpt"))
                && stem.ends_with(|c: char| c.is_ascii_digit());
            !part.is_empty()
                && part.len() <= MAX_PART_BYTES
                && !part.ends_with(['.', ' '])
                && !DEVICE_NAMES.contains(&stem.as_str())
                && !is_port
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMBEDDED: &[(&str, &[u8])] = &[("a.json", b"{}"), ("unet/config.json", b"[]"), ("unet/w", b"w")];

    fn on_disk() -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("model");
        std::fs::create_dir_all(root.join("unet")).unwrap();
        std::fs::write(place.path().join("secret"), b"s").unwrap();
        for (name, bytes) in EMBEDDED {
            std::fs::write(root.join(name), bytes).unwrap();
        }
        let folder = Folder::on_disk(&root).unwrap();
        (place, folder)
    }

    #[test]
    fn disk_and_memory_answer_alike() {
        let (_place, disk) = on_disk();
        for folder in [disk, Folder::embedded("built in", EMBEDDED)] {
            assert_eq!(folder.list().unwrap(), ["a.json", "unet/"]);
            assert!(folder.exists("unet/config.json") && !folder.exists("unet") && !folder.exists("b"));
            let source = folder.open("unet/config.json").unwrap().unwrap();
            assert_eq!(pollster::block_on(crate::read_whole(&*source, 9)).unwrap(), b"[]");
            assert!(source.label().ends_with("/unet/config.json"));
            assert!(folder.open("vae/config.json").unwrap().is_none());
            assert!(folder.open("a.json/b").unwrap().is_none());
            assert!(folder.open("unet").unwrap().is_none());
            let unet = folder.folder("unet").unwrap().unwrap();
            assert_eq!(unet.list().unwrap(), ["config.json", "w"]);
            assert!(unet.exists("w") && unet.label().ends_with("/unet"));
            assert!(folder.folder("vae").unwrap().is_none());
            let error = unet.require("x.safetensors").unwrap_err().to_string();
            assert!(error.ends_with("/unet: files: expected x.safetensors, found config.json, w"), "{error}");
        }
    }

    #[test]
    fn no_name_leaves_the_folder() {
        let (_place, disk) = on_disk();
        let hostile = [
            "",
            "/",
            "../secret",
            "unet/../../secret",
            "./a.json",
            "unet//w",
            "/etc/passwd",
            "..",
            ".",
            "unet/",
            "..\\secret",
            "C:\\x",
            "C:x",
            "a.json:stream",
            "\\\\host\\share",
            "a\0b",
            "a\nb",
            "con",
            "NUL.txt",
            "unet/aux",
            "COM1",
            "lpt9.safetensors",
            "... ",
            "a.",
            "a ",
            ". .",
            "\u{1b}[2J",
        ];
        for folder in [disk, Folder::embedded("built in", EMBEDDED)] {
            for name in hostile {
                assert!(matches!(folder.open(name), Err(Error::Malformed { .. })), "{name:?}");
                assert!(matches!(folder.folder(name), Err(Error::Malformed { .. })), "{name:?}");
                assert!(!folder.exists(name), "{name:?}");
            }
            for long in ["n".repeat(256), "n/".repeat(512) + "n"] {
                assert!(matches!(folder.open(&long), Err(Error::Malformed { .. })));
            }
            assert!(folder.open(&"n".repeat(255)).unwrap().is_none());
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_in_messages_are_escaped() {
        let (_place, disk) = on_disk();
        for name in ["\u{1b}[2J", "a\nb", "\u{202e}txt"] {
            std::fs::write(Path::new(disk.label()).join("unet").join(name), b"").unwrap();
        }
        let unet = disk.folder("unet").unwrap().unwrap();
        let error = unet.require("x.safetensors").unwrap_err().to_string();
        assert!(error.contains("config.json, w") && error.contains("a\\u{a}b"), "{error}");
        assert!(!error.contains(|c: char| c.is_control() || c == '\u{202e}'), "{error:?}");
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let (place, _) = on_disk();
        assert!(matches!(Folder::on_disk(place.path().join("x")), Err(Error::NotFound { .. })));
        assert!(matches!(Folder::on_disk(place.path().join("secret")), Err(Error::Io { .. })));
    }
}

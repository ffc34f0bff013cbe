//! Writes a file whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::Error;

/// How names of temporary files begin and end.
const TEMPORARY: (&str, &str) = (".photogram-", ".tmp");
/// How long ago a temporary file was last written to that nobody writes to any more. Clocks of other machines may be hours off.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a process that is about to end waits for its temporary files to be removed.
const PATIENCE: Duration = Duration::from_millis(300);

/// The temporary files that this process writes to. Nobody who holds it waits for a disk.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Writes what `fill` writes to a temporary file beside `path`, which then takes its place.
///
/// An existing file stays as it was until the new one is complete and on disk. A symbolic link keeps pointing
/// where it did. A device or a pipe is written to directly.
///
/// # Errors  [`Error::Output`]
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    try_write(path, fill).map_err(|source| Error::Output { path: path.display().to_string(), source })
}

/// Writes `bytes` to `path`: all of them or nothing.
///
/// # Errors  [`Error::Output`]
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_with(path, |out| out.write_all(bytes))
}

/// Makes a folder and those that it lies in, where they are missing.
///
/// # Errors  [`Error::Output`]
pub fn create_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Output { path: path.display().to_string(), source })
}

/// Removes what processes left beside `path` that were killed while they wrote: temporary files to which nothing was written for
/// a day. One that cannot be removed stays.
pub fn remove_abandoned(path: &Path) {
    let names = folder_of(path).read_dir().into_iter().flatten().flatten();
    for entry in names {
        let name = entry.file_name();
        let is_ours =
            name.to_str().is_some_and(|name| name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1));
        if !is_ours {
            continue;
        }
        let written =
            entry.metadata().ok().filter(fs::Metadata::is_file).and_then(|file| file.modified().ok());
        let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
        if age.is_some_and(|age| age >= ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// While it lives, no file that was being written takes its place, and none is begun.
#[must_use = "files are written again once it is dropped"]
pub struct Abandoned {
    _unfinished: MutexGuard<'static, BTreeSet<PathBuf>>,
}

/// Gives up the files that this process is writing and removes what is there of them, without waiting long for a slow disk, or for
/// a pipe that nobody reads; what a disk is too slow for stays for [`remove_abandoned`]. For a process that is about to end.
pub fn abandon_writes() -> Abandoned {
    let mut unfinished = unfinished();
    let paths = std::mem::take(&mut *unfinished);
    let (told, removed) = mpsc::channel();
    let remove = move || {
        paths.iter().for_each(|path| drop(fs::remove_file(path)));
        let _ = told.send(());
    };
    if thread::Builder::new().spawn(remove).is_ok() {
        let _ = removed.recv_timeout(PATIENCE);
    }
    Abandoned { _unfinished: unfinished }
}

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path among [`UNFINISHED`] until it is dropped: not before an [`Abandoned`], so that nobody hears of a write that it failed.
struct Listed(PathBuf);

impl Listed {
    fn new(path: &Path) -> Self {
        unfinished().insert(path.to_owned());
        Listed(path.to_owned())
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

/// The folder that `path` lies in.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn try_write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(target) if target.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(target) if !target.is_file() => {
            let mut out = BufWriter::new(File::options().write(true).open(path)?);
            fill(&mut out)?;
            out.flush()
        }
        Ok(target) if target.permissions().readonly() => Err(io::ErrorKind::PermissionDenied.into()),
        Ok(_) => replace(&fs::canonicalize(path)?, fill),
        Err(error) if error.kind() == io::ErrorKind::NotFound => replace(path, fill),
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if path.file_name().is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
    // Outlives the file, which removes itself when it is dropped, on any error below.
    let mut _listed = None;
    let temporary = builder.make_in(folder_of(path), |path| {
        // Before it is there: a disk may take its time to make it.
        _listed = Some(Listed::new(path));
        File::options().write(true).create_new(true).open(path)
    })?;
    let mut out = BufWriter::new(temporary);
    fill(&mut out)?;
    let temporary = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_new_file_has_the_usual_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, usual) = (folder.path().join("ours"), folder.path().join("usual"));
        write_bytes(&ours, b"new").unwrap();
        fs::write(&usual, b"new").unwrap();
        assert_eq!(fs::read(&ours).unwrap(), b"new");
        assert_eq!(fs::metadata(&ours).unwrap().permissions(), fs::metadata(&usual).unwrap().permissions());
    }

    #[test]
    fn a_folder_is_made_with_those_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        create_folder(&path).unwrap();
        create_folder(&path).unwrap();
        write_bytes(&path.join("file"), b"new").unwrap();
        assert!(matches!(create_folder(&path.join("file/c")), Err(Error::Output { .. })));
    }

    #[test]
    fn a_failure_midway_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        for existed in [false, true] {
            let result = write_with(&path, |out| {
                out.write_all(&[1; 100_000])?;
                Err(io::ErrorKind::StorageFull.into())
            });
            assert!(matches!(result, Err(Error::Output { .. })));
            assert_eq!(names_in(folder.path()).len(), usize::from(existed));
            fs::write(&path, b"old").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names_in(folder.path()), ["picture.png"]);
    }

    #[test]
    fn what_the_killed_left_is_removed_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (name, hours) in [
            (".photogram-old.tmp", 25),
            (".photogram-fresh.tmp", 23),
            (".photogram-old.png", 25),
            ("photogram-old.tmp", 25),
        ] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(hours * 60 * 60)).unwrap();
        }
        fs::create_dir(folder.path().join(".photogram-folder.tmp")).unwrap();
        remove_abandoned(&folder.path().join("picture.png"));
        remove_abandoned(&folder.path().join("absent/picture.png"));
        let mut left = names_in(folder.path());
        left.sort();
        assert_eq!(
            left,
            [".photogram-folder.tmp", ".photogram-fresh.tmp", ".photogram-old.png", "photogram-old.tmp"]
        );
    }

    #[test]
    fn what_cannot_be_written_is_an_output_error() {
        let folder = tempfile::tempdir().unwrap();
        let read_only = folder.path().join("read-only");
        fs::write(&read_only, b"old").unwrap();
        let mut permissions = fs::metadata(&read_only).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&read_only, permissions).unwrap();
        let targets =
            [folder.path().to_owned(), folder.path().join("absent/x"), read_only.clone(), PathBuf::new()];
        for target in targets {
            assert!(matches!(write_bytes(&target, b"new"), Err(Error::Output { .. })), "{target:?}");
        }
        assert_eq!(fs::read(&read_only).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["read-only"]);
    }

    /// Only for a user who could not replace the device, should the code ever try.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_output_error() {
        if tempfile::tempfile_in("/dev").is_ok() {
            println!("skipped: this user may write to /dev");
            return;
        }
        for size in [10, 100_000] {
            assert!(matches!(write_bytes(Path::new("/dev/full"), &vec![0; size]), Err(Error::Output { .. })));
        }
    }

    /// A pipe whose reader takes ten bytes and closes.
    #[cfg(unix)]
    #[test]
    fn a_pipe_is_written_to_and_stays_a_pipe() {
        use std::io::Read;
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for (size, is_written) in [(10, true), (1 << 20, false)] {
            let path = pipe.clone();
            let reader = std::thread::spawn(move || {
                let mut bytes = [0; 10];
                File::open(path).unwrap().read_exact(&mut bytes).map(|()| bytes)
            });
            let result = write_bytes(&pipe, &vec![7; size]);
            assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
            assert_eq!(reader.join().unwrap().unwrap(), [7; 10]);
            assert_eq!(result.is_ok(), is_written, "{result:?}");
        }
        assert_eq!(names_in(folder.path()), ["pipe"]);
    }

    /// Even root may create no file in /proc.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_takes_no_file_is_an_output_error() {
        assert!(matches!(write_bytes(Path::new("/proc/photogram.png"), b"x"), Err(Error::Output { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_bytes(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }
}

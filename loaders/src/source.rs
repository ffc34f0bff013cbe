//! Where bytes come from: a file, or memory; later an HTTP range.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::future::{Future, ready};
use std::io;
use std::path::Path;
use std::pin::Pin;

use crate::Error;
use crate::terminal::escaped;

/// A read under way.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// Bytes that can be read at any position.
///
/// Positioned reads instead of a memory map: a mapped file that another process truncates kills the reader.
pub trait Source: Send + Sync {
    /// What messages call it: the path as the user knows it.
    fn label(&self) -> &str;

    /// Its size in bytes when it was opened.
    fn len(&self) -> u64;

    /// Whether it holds no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `into` with the bytes from `offset` on.
    ///
    /// # Errors  [`Error::Malformed`] if it ends before; [`Error::Io`]
    fn read_at<'a>(&'a self, offset: u64, into: &'a mut [u8]) -> Reading<'a>;
}

impl fmt::Debug for dyn Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({}, {} bytes)", escaped(self.label()), self.len())
    }
}

/// A regular file on disk.
#[derive(Debug)]
pub struct FileSource {
    label: String,
    file: File,
    len: u64,
}

impl FileSource {
    /// Opens `path` for reading.
    ///
    /// # Errors  [`Error::NotFound`]; [`Error::Io`] if it is no regular file or may not be read
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let label = path.display().to_string();
        // Opening a FIFO would wait for a writer, so the kind is looked at first.
        let kind = std::fs::metadata(path).map_err(|source| Error::reading(&label, "open", source))?;
        if !kind.is_file() {
            let source = if kind.is_dir() {
                io::Error::from(io::ErrorKind::IsADirectory)
            } else {
                io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
            };
            return Err(Error::Io { path: label, doing: "read", source });
        }
        let file = File::open(path).map_err(|source| Error::reading(&label, "open", source))?;
        let len = file.metadata().map_err(|source| Error::reading(&label, "open", source))?.len();
        Ok(Self { label, file, len })
    }

    /// Its label, and the file for a decoder that reads from the beginning.
    pub(crate) fn into_parts(self) -> (String, File) {
        (self.label, self.file)
    }
}

impl Source for FileSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at<'a>(&'a self, offset: u64, into: &'a mut [u8]) -> Reading<'a> {
        let wanted = into.len();
        Box::pin(ready(read_exact_at(&self.file, offset, into).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                let now = self.file.metadata().map_or(self.len, |metadata| metadata.len());
                too_short(&self.label, offset, wanted, now)
            }
            _ => Error::Io { path: self.label.clone(), doing: "read", source },
        })))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !into.is_empty() {
        match file.seek_read(into, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                into = into.get_mut(n..).unwrap_or_default();
                offset = offset.saturating_add(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn read_exact_at(mut file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(into)
}

/// Bytes in memory: embedded in the program, or made by a test.
pub struct BytesSource {
    label: String,
    bytes: Cow<'static, [u8]>,
}

impl BytesSource {
    /// A source that messages call `label`.
    pub fn new(label: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { label: label.into(), bytes: bytes.into() }
    }
}

impl Source for BytesSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at<'a>(&'a self, offset: u64, into: &'a mut [u8]) -> Reading<'a> {
        let wanted = into.len();
        let found =
            usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..start.checked_add(wanted)?));
        Box::pin(ready(match found {
            Some(found) => {
                into.copy_from_slice(found);
                Ok(())
            }
            None => Err(too_short(&self.label, offset, wanted, self.len())),
        }))
    }
}

fn too_short(label: &str, offset: u64, wanted: usize, len: u64) -> Error {
    let end = offset.saturating_add(wanted as u64);
    Error::malformed(
        label,
        format!("bytes {offset}..{end}"),
        format!("at least {end} bytes"),
        format!("{len} bytes"),
    )
}

/// The `len` bytes of `source` from `offset` on.
///
/// # Errors  [`Error::Malformed`] if it ends before, checked before memory is taken; [`Error::Io`]
pub async fn read_range(source: &dyn Source, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
    let within = offset.checked_add(len).is_some_and(|end| end <= source.len());
    let wanted = usize::try_from(len).unwrap_or(usize::MAX);
    if !within || wanted == usize::MAX {
        return Err(too_short(source.label(), offset, wanted, source.len()));
    }
    let mut bytes = vec![0; wanted];
    source.read_at(offset, &mut bytes).await?;
    Ok(bytes)
}

/// All bytes of `source`, if they are at most `max_bytes`.
///
/// # Errors  [`Error::Unsupported`] if they are more; [`Error::Io`]
pub async fn read_whole(source: &dyn Source, max_bytes: u64) -> Result<Vec<u8>, Error> {
    if source.len() > max_bytes {
        return Err(Error::unsupported(
            source.label(),
            format!("a file of {} bytes", source.len()),
            format!("at most {max_bytes} bytes are read here"),
        ));
    }
    read_range(source, 0, source.len()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;

    #[test]
    fn a_file_and_memory_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let sources: [Box<dyn Source>; 2] =
            [Box::new(FileSource::open(&path).unwrap()), Box::new(BytesSource::new("x", &b"0123456789"[..]))];
        for source in &sources {
            assert_eq!(source.len(), 10);
            assert_eq!(block_on(read_range(&**source, 3, 4)).unwrap(), b"3456");
            assert_eq!(block_on(read_range(&**source, 10, 0)).unwrap(), b"");
            assert_eq!(block_on(read_whole(&**source, 10)).unwrap(), b"0123456789");
            assert!(matches!(block_on(read_whole(&**source, 9)), Err(Error::Unsupported { .. })));
            for (offset, len) in [(7, 4), (11, 0), (u64::MAX, 2), (0, u64::MAX)] {
                assert!(matches!(block_on(read_range(&**source, offset, len)), Err(Error::Malformed { .. })));
            }
            assert!(matches!(block_on(source.read_at(8, &mut [0; 3])), Err(Error::Malformed { .. })));
        }
    }

    #[test]
    fn a_file_truncated_after_it_was_opened_is_malformed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 100]).unwrap();
        let source = FileSource::open(file.path()).unwrap();
        std::fs::write(file.path(), [7; 10]).unwrap();
        let error = block_on(read_range(&source, 0, 100)).unwrap_err().to_string();
        assert!(error.ends_with("bytes 0..100: expected at least 100 bytes, found 10 bytes"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(FileSource::open(folder.path().join("absent")), Err(Error::NotFound { .. })));
        assert!(matches!(FileSource::open(folder.path()), Err(Error::Io { .. })));
        #[cfg(unix)]
        assert!(matches!(FileSource::open("/dev/null"), Err(Error::Io { .. })));
    }
}

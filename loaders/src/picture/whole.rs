//! What is checked of a picture's file before a decoder sees it.
//!
//! The JPEG decoder paints grey what a file lacks, the WebP decoder takes as much memory as a chunk claims to
//! have, and the PNG decoder trusts a palette's length.
//!
//! Source: ITU-T T.81, annex B; WebP container specification, RIFF file format; PNG specification, third edition,
//! 5.3 and 11.2.2.

use crate::Error;
use crate::terminal::escaped;

/// Checks that a PNG's palette has 1 to 256 colours; the decoder looks at everything else.
///
/// # Errors  [`Error::Malformed`]
pub(super) fn check_png(label: &str, bytes: &[u8]) -> Result<(), Error> {
    // What follows the signature: length, kind, data and checksum of each chunk.
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (rest.first_chunk(), rest.get(4..8)) {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if kind == b"PLTE" && !(length.is_multiple_of(3) && (3..=768).contains(&length)) {
            let expected = "3 bytes for each of 1 to 256 colours";
            return Err(Error::malformed(label, "chunk 'PLTE'", expected, format!("{length} bytes")));
        }
        rest = rest.get(length.saturating_add(12)..).unwrap_or_default();
    }
    Ok(())
}

/// Checks that a JPEG's segments lie in the file up to its end marker.
///
/// # Errors  [`Error::Malformed`]
pub(super) fn check_jpeg(label: &str, bytes: &[u8]) -> Result<(), Error> {
    const END: u8 = 0xd9;
    let cut = || {
        let found = format!("the file's end after {} bytes", bytes.len());
        Error::malformed(label, "picture", "a whole PNG, JPEG or WebP file", found)
    };
    // What follows the start marker.
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // Data of a scan and bytes between segments: up to 0xff and what is neither stuffing nor fill.
        let at = rest.windows(2).position(|pair| matches!(pair, [0xff, 1..=0xfe])).ok_or_else(cut)?;
        let marker = rest.get(at.saturating_add(1)).copied().unwrap_or_default();
        rest = rest.get(at.saturating_add(2)..).unwrap_or_default();
        match marker {
            END => return Ok(()),
            // Restarts, a start, and the marker for private use in arithmetic coding have no length.
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let length = rest.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)));
                rest = length.and_then(|length| rest.get(length..)).ok_or_else(cut)?;
            }
        }
    }
}

/// Checks that a WebP's chunks lie in the file; -> how many of its bytes they are.
///
/// # Errors  [`Error::Malformed`]
pub(super) fn check_webp(label: &str, bytes: &[u8]) -> Result<usize, Error> {
    let claimed = bytes.get(4..).and_then(length).and_then(|length| length.checked_add(8));
    let riff = claimed.and_then(|end| bytes.get(12..end)).ok_or_else(|| {
        let expected = format!("{} bytes", claimed.unwrap_or_default());
        Error::malformed(label, "picture", expected, format!("{} bytes", bytes.len()))
    })?;
    check_chunks(label, riff, Within::File)?;
    Ok(claimed.unwrap_or_default())
}

/// What chunks are in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    File,
    /// A frame of an animation, in which no frame is.
    Frame,
}

/// Checks that each chunk in `bytes` lies there, and those of an animation's frame in the frame.
fn check_chunks(label: &str, mut bytes: &[u8], within: Within) -> Result<(), Error> {
    const FRAME_HEADER_BYTES: usize = 16;
    while let (Some(kind), Some(claimed)) = (bytes.get(..4), bytes.get(4..).and_then(length)) {
        let after = bytes.get(8..).unwrap_or_default();
        let Some(chunk) = after.get(..claimed) else {
            let what = format!("chunk '{}'", escaped(&String::from_utf8_lossy(kind)));
            let expected = format!("at most {} bytes", after.len());
            return Err(Error::malformed(label, what, expected, format!("{claimed} bytes")));
        };
        if kind == b"ANMF" && within == Within::File {
            check_chunks(label, chunk.get(FRAME_HEADER_BYTES..).unwrap_or_default(), Within::Frame)?;
        }
        // Chunks begin at even places.
        bytes = after.get(claimed.saturating_add(claimed % 2)..).unwrap_or_default();
    }
    Ok(())
}

/// The length in the first four bytes.
fn length(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()
}

//! PNG files and the text in them.
//!
//! Source: PNG specification, third edition, 11.3.3 (tEXt, zTXt, iTXt).

use std::io::{self, BufReader, Write};
use std::path::Path;

use super::RgbPicture;
use crate::terminal::escaped;
use crate::{Error, FileSource, write_with};

/// Bytes of one text after it is decompressed: a kilobyte of zTXt can hold a megabyte.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Bytes that the decoder may keep: the compressed texts among them.
const MAX_KEPT_BYTES: usize = 8 << 20;

/// Writes `picture` to `path`, the whole file or nothing, with `text` as pairs of a keyword and its value.
///
/// A value in printable Latin-1 becomes a tEXt chunk, which every reader of `parameters` knows; another becomes
/// an iTXt chunk in UTF-8.
///
/// # Errors  [`Error::Output`], also for a keyword that is not 1 to 79 characters of Latin-1
pub fn write_png(path: impl AsRef<Path>, picture: &RgbPicture, text: &[(&str, &str)]) -> Result<(), Error> {
    write_with(path.as_ref(), |out| encode(out, picture, text))
}

/// The bytes that [`write_png`] writes.
///
/// # Errors  [`Error::Output`] as there
pub fn encode_png(picture: &RgbPicture, text: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let encoded = encode(&mut bytes, picture, text);
    encoded.map_err(|source| Error::Output { path: "a PNG in memory".to_owned(), source })?;
    Ok(bytes)
}

fn encode(out: impl Write, picture: &RgbPicture, text: &[(&str, &str)]) -> io::Result<()> {
    let mut encoder = png::Encoder::new(out, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, value) in text {
        if value.chars().all(is_plain) {
            encoder.add_text_chunk((*keyword).to_owned(), (*value).to_owned())?;
        } else {
            encoder.add_itxt_chunk((*keyword).to_owned(), (*value).to_owned())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.pixels())?;
    writer.finish()?;
    Ok(())
}

/// Whether a tEXt chunk may hold `c`.
fn is_plain(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{ff}')
}

/// The texts in the PNG file at `path`, as pairs of a keyword and its value: tEXt, zTXt, then iTXt.
///
/// # Errors  [`Error::NotFound`]; [`Error::Io`]; [`Error::Malformed`]; [`Error::Unsupported`] for a text of more
///   than 64 KiB
pub fn read_png_text(path: impl AsRef<Path>) -> Result<Vec<(String, String)>, Error> {
    let (label, file) = FileSource::open(path)?.into_parts();
    let refused = |error| refused(&label, error);

    let limits = png::Limits { bytes: MAX_KEPT_BYTES };
    let mut decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    decoder.ignore_checksums(false);
    let mut reader = decoder.read_info().map_err(refused)?;
    reader.finish().map_err(refused)?;

    let info = reader.info();
    let mut texts = Vec::new();
    for text in &info.uncompressed_latin1_text {
        texts.push((text.keyword.clone(), text.text.clone()));
    }
    for text in &info.compressed_latin1_text {
        let mut text = text.clone();
        text.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(refused)?;
        texts.push((text.keyword.clone(), text.get_text().map_err(refused)?));
    }
    for text in &info.utf8_text {
        let mut text = text.clone();
        text.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(refused)?;
        texts.push((text.keyword.clone(), text.get_text().map_err(refused)?));
    }
    match texts.iter().find(|(_, text)| text.chars().count() > MAX_TEXT_BYTES) {
        Some((keyword, _)) => Err(too_long(&label, &format!("the text '{}'", escaped(keyword)))),
        None => Ok(texts),
    }
}

fn too_long(label: &str, what: &str) -> Error {
    Error::unsupported(label, what, format!("at most {} KiB of a text are read", MAX_TEXT_BYTES >> 10))
}

fn refused(label: &str, error: png::DecodingError) -> Error {
    let found = escaped(&error.to_string());
    match error {
        png::DecodingError::IoError(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            Error::Io { path: label.to_owned(), doing: "read", source }
        }
        png::DecodingError::LimitsExceeded => too_long(label, "the size of its texts"),
        _ => Error::malformed(label, "PNG", "a whole PNG file", found),
    }
}

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

/// Bytes of all texts: each of 80,000 may hold a text of the largest size in a hundred bytes.
const MAX_TEXTS_BYTES: usize = 1 << 20;

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
/// A text that cannot be decoded is left out, as the format asks for of a chunk that a picture does not need.
///
/// # Errors  [`Error::NotFound`]; [`Error::Io`]; [`Error::Malformed`]; [`Error::Unsupported`] for a text of more
///   than 64 KiB, or of more than 1 MiB together
pub fn read_png_text(path: impl AsRef<Path>) -> Result<Vec<(String, String)>, Error> {
    let (label, file) = FileSource::open(path)?.into_parts();
    let refused = |error| refused(&label, error);

    let mut options = png::DecodeOptions::default();
    options.set_ignore_checksums(false);
    // A text with a wrong sum is another text, and a file without it would be one without settings.
    options.set_skip_ancillary_crc_failures(false);
    let mut decoder = png::Decoder::new_with_options(BufReader::new(file), options);
    decoder.set_limits(png::Limits { bytes: MAX_KEPT_BYTES });
    let mut reader = decoder.read_info().map_err(refused)?;
    reader.finish().map_err(refused)?;

    let info = reader.info();
    let mut texts = Texts { label: &label, texts: Vec::new(), bytes: 0 };
    for text in &info.uncompressed_latin1_text {
        texts.push(&text.keyword, text.text.clone())?;
    }
    for text in &info.compressed_latin1_text {
        let mut text = text.clone();
        text.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(refused)?;
        texts.push(&text.keyword, text.get_text().map_err(refused)?)?;
    }
    for text in &info.utf8_text {
        let mut text = text.clone();
        text.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(refused)?;
        texts.push(&text.keyword, text.get_text().map_err(refused)?)?;
    }
    Ok(texts.texts)
}

/// The texts read so far.
struct Texts<'l> {
    label: &'l str,
    texts: Vec<(String, String)>,
    bytes: usize,
}

impl Texts<'_> {
    fn push(&mut self, keyword: &str, text: String) -> Result<(), Error> {
        if text.chars().count() > MAX_TEXT_BYTES {
            return Err(too_long(self.label, &format!("the text '{}'", escaped(keyword))));
        }
        self.bytes = self.bytes.saturating_add(keyword.len()).saturating_add(text.len());
        if self.bytes > MAX_TEXTS_BYTES {
            return Err(too_long(self.label, "the size of its texts"));
        }
        self.texts.push((keyword.to_owned(), text));
        Ok(())
    }
}

fn too_long(label: &str, what: &str) -> Error {
    let (one, all) = (MAX_TEXT_BYTES >> 10, MAX_TEXTS_BYTES >> 10);
    let hint = format!("at most {one} KiB of a text and {all} KiB of all are read");
    Error::unsupported(label, what, hint)
}

fn refused(label: &str, error: png::DecodingError) -> Error {
    let found = escaped(&error.to_string());
    match error {
        png::DecodingError::IoError(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            Error::Io { path: label.to_owned(), doing: "read", source }
        }
        // The decoder tells a text that exceeds its limit by these words alone.
        png::DecodingError::Format(_) if found.starts_with("Out of decompression space") => {
            too_long(label, "the size of a text")
        }
        png::DecodingError::LimitsExceeded => too_long(label, "the size of its texts"),
        _ => Error::malformed(label, "PNG", "a whole PNG file", found),
    }
}

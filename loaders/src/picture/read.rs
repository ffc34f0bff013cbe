//! Reads a picture as RGB, upright and without transparency.

use std::io::BufReader;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::RgbPicture;
use crate::terminal::escaped;
use crate::{Error, FileSource};

/// The longest side that is read.
const MAX_SIDE: u32 = 16_384;

/// Bytes that a decoder may take.
const MAX_BYTES: u64 = 1 << 30;

/// Reads the PNG, JPEG or WebP file at `path`, whatever its extension.
///
/// Transparent pixels are laid over white, deeper channels are rounded to 8 bits, and an EXIF orientation is
/// applied. Colour profiles are not.
///
/// # Errors  [`Error::NotFound`]; [`Error::Io`]; [`Error::Malformed`]; [`Error::Unsupported`] for another format,
///   a colour type the decoders lack, or a picture of more than 16,384 pixels a side
pub fn read_rgb(path: impl AsRef<Path>) -> Result<RgbPicture, Error> {
    let (label, file) = FileSource::open(path)?.into_parts();
    let mut reader = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(|source| Error::Io { path: label.clone(), doing: "read", source })?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) {
        return Err(Error::unsupported(label, "a picture other than PNG, JPEG or WebP", ""));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);

    let refused = |error| refused(&label, error);
    let mut decoder = reader.into_decoder().map_err(refused)?;
    let orientation = decoder.orientation().map_err(refused)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
    picture.apply_orientation(orientation);

    let rgba = picture.into_rgba8();
    let (width, height) = rgba.dimensions();
    let pixels = rgba.pixels().flat_map(|pixel| {
        let [red, green, blue, alpha] = pixel.0;
        [red, green, blue].map(|value| over_white(value, alpha))
    });
    RgbPicture::new(width, height, pixels.collect())
        .ok_or_else(|| Error::malformed(&label, "picture", "at least one pixel", format!("{width}x{height}")))
}

/// `value * alpha + 255 * (1 - alpha)`, rounded.
fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    let scaled =
        value.saturating_mul(alpha).saturating_add(255_u32.saturating_mul(255_u32.saturating_sub(alpha)));
    u8::try_from(scaled.saturating_add(127) / 255).unwrap_or(u8::MAX)
}

fn refused(label: &str, error: ImageError) -> Error {
    let found = escaped(&error.to_string());
    match error {
        ImageError::Unsupported(_) => Error::unsupported(label, format!("this picture ({found})"), ""),
        ImageError::Limits(_) => {
            let hint = format!("at most {MAX_SIDE} pixels a side are read");
            Error::unsupported(label, "a picture of this size", hint)
        }
        ImageError::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::Io { path: label.to_owned(), doing: "read", source }
        }
        _ => Error::malformed(label, "picture", "a whole PNG, JPEG or WebP file", found),
    }
}

#[cfg(test)]
mod tests {
    use super::over_white;

    #[test]
    fn transparency_shows_white() {
        assert_eq!([over_white(0, 0), over_white(200, 0), over_white(7, 255)], [255, 255, 7]);
        assert_eq!([over_white(0, 128), over_white(255, 128), over_white(100, 51)], [127, 255, 224]);
    }
}

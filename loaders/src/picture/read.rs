//! Reads a picture as RGB, upright and without transparency.

use std::io::{Cursor, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::{RgbPicture, whole};
use crate::terminal::escaped;
use crate::{Error, FileSource, Source};

/// The longest side that is read.
const MAX_SIDE: u32 = 16_384;

/// Bytes of a file, and of the pixels that it decodes to: 89 million of 8 bits.
const MAX_BYTES: u64 = 256 << 20;

/// Bytes that a decoder may take beside the pixels: a kilobyte of a colour profile can hold a megabyte.
const MAX_DECODER_BYTES: u64 = 16 << 20;

/// Reads the PNG, JPEG or WebP file at `path`, whatever its extension.
///
/// Transparent pixels are laid over white, deeper channels are rounded to 8 bits, and an EXIF orientation is
/// applied. Colour profiles are not.
///
/// # Errors  [`Error::NotFound`]; [`Error::Io`]; [`Error::Malformed`]; [`Error::Unsupported`] for another format,
///   a colour type the decoders lack, a picture of more than 16,384 pixels a side, or more than 256 MiB
pub fn read_rgb(path: impl AsRef<Path>) -> Result<RgbPicture, Error> {
    let source = FileSource::open(path)?;
    if source.len() > MAX_BYTES {
        return Err(too_large(source.label()));
    }
    let (label, file) = source.into_parts();
    let mut bytes = Vec::new();
    // A file that grows meanwhile ends where it was allowed to.
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|source| Error::Io {
        path: label.clone(),
        doing: "read",
        source,
    })?;
    decode(&label, bytes)
}

fn decode(label: &str, mut bytes: Vec<u8>) -> Result<RgbPicture, Error> {
    let format = image::guess_format(&bytes).ok();
    let Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) = format else {
        return Err(Error::unsupported(label, "a picture other than PNG, JPEG or WebP", ""));
    };
    match format {
        ImageFormat::Png => whole::check_png(label, &bytes)?,
        ImageFormat::Jpeg => whole::check_jpeg(label, &bytes)?,
        ImageFormat::WebP => bytes.truncate(whole::check_webp(label, &bytes)?),
        _ => {}
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);

    let refused = |error| refused(label, error);
    let mut decoder = reader.into_decoder().map_err(refused)?;
    if decoder.total_bytes() > MAX_BYTES {
        return Err(too_large(label));
    }
    let orientation = decoder.orientation().map_err(refused)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
    picture.apply_orientation(orientation);

    let (width, height) = (picture.width(), picture.height());
    let pixels = match picture {
        DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
        other => {
            let rgba = other.into_rgba8();
            let mut pixels = Vec::with_capacity((rgba.len() / 4).saturating_mul(3));
            for pixel in rgba.pixels() {
                let [red, green, blue, alpha] = pixel.0;
                pixels.extend([red, green, blue].map(|value| over_white(value, alpha)));
            }
            pixels
        }
    };
    RgbPicture::new(width, height, pixels)
        .ok_or_else(|| Error::malformed(label, "picture", "at least one pixel", format!("{width}x{height}")))
}

fn too_large(label: &str) -> Error {
    let hint = format!("at most {MAX_SIDE} pixels a side and {} MiB are read", MAX_BYTES >> 20);
    Error::unsupported(label, "a picture of this size", hint)
}

/// `value * alpha + 255 * (1 - alpha)`, rounded.
fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    let scaled =
        value.saturating_mul(alpha).saturating_add(255_u32.saturating_mul(255_u32.saturating_sub(alpha)));
    u8::try_from(scaled.saturating_add(127) / 255).unwrap_or(u8::MAX)
}

fn refused(label: &str, error: ImageError) -> Error {
    // The bytes are in memory: what the decoders call a failure to read is the file's.
    let found = escaped(&error.to_string());
    match error {
        ImageError::Unsupported(_) => Error::unsupported(label, format!("this picture ({found})"), ""),
        ImageError::Limits(_) => too_large(label),
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

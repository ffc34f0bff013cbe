//! Pictures in and out: PNG, JPEG and WebP are read, PNG is written.

use image::RgbImage;
use image::imageops::{self, FilterType};

mod png_file;
mod read;
mod whole;

pub use png_file::{encode_png, read_png_text, write_png};
pub use read::read_rgb;

/// A picture of 8-bit sRGB pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbPicture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbPicture {
    /// A picture from its rows, top first; `None` unless both sides are at least 1 and `pixels` fits them.
    ///
    /// # Shapes  `pixels: [height, width, 3]`
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Option<Self> {
        (pixels.len() == Self::bytes(width, height)?).then_some(Self { width, height, pixels })
    }

    fn bytes(width: u32, height: u32) -> Option<usize> {
        let bytes =
            usize::try_from(width).ok()?.checked_mul(usize::try_from(height).ok()?)?.checked_mul(3)?;
        (bytes > 0).then_some(bytes)
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The picture stretched to another size with a Lanczos filter, as diffusers does it; `None` if a side is 0 or the
    /// picture would not fit into memory.
    pub fn resized(&self, width: u32, height: u32) -> Option<Self> {
        Self::bytes(width, height)?;
        let picture = RgbImage::from_raw(self.width, self.height, self.pixels.clone())?;
        Self::new(width, height, imageops::resize(&picture, width, height, FilterType::Lanczos3).into_raw())
    }

    /// The rows, top first: `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

impl std::fmt::Debug for RgbPicture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbPicture({}x{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching_keeps_colours_where_they_are() {
        let (red, blue) = ([255, 0, 0], [0, 0, 255]);
        let row = [[red; 8], [blue; 8]].concat().concat();
        let picture = RgbPicture::new(16, 4, row.repeat(4)).unwrap();
        for (width, height) in [(8, 8), (40, 2), (16, 4)] {
            let resized = picture.resized(width, height).unwrap();
            assert_eq!((resized.width(), resized.height()), (width, height));
            let pixels = resized.pixels();
            assert_eq!([&pixels[..3], &pixels[pixels.len() - 3..]], [&red, &blue], "{width}x{height}");
        }
        assert_eq!(picture.resized(16, 4), Some(picture.clone()));
    }

    #[test]
    fn a_picture_has_pixels() {
        let picture = RgbPicture::new(1, 1, vec![7; 3]).unwrap();
        assert_eq!(
            [picture.resized(0, 5), picture.resized(5, 0), RgbPicture::new(0, 1, Vec::new())],
            [None, None, None]
        );
        assert_eq!(RgbPicture::new(1, 2, vec![0; 5]), None);
    }
}

//! Pictures in and out: PNG, JPEG and WebP are read, PNG is written.

mod png_file;
mod read;

pub use png_file::{read_png_text, write_png};
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
        let bytes =
            usize::try_from(width).ok()?.checked_mul(usize::try_from(height).ok()?)?.checked_mul(3)?;
        (bytes > 0 && pixels.len() == bytes).then_some(Self { width, height, pixels })
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
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

//! A picture as numbers.

use kernels::HostTensor;

/// Width and height of a picture in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelSize {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl std::fmt::Display for PixelSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// An RGB picture, row by row from the top, each value in 0 (black) ..= 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    size: PixelSize,
    /// `[H, W, 3]`
    values: Vec<f32>,
}

impl Image {
    /// A picture from its values, `[H, W, 3]`.
    ///
    /// # Panics
    /// If there are not three values for each pixel: a programming error.
    pub fn new(size: PixelSize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), size.width * size.height * 3, "values of a picture of {size}");
        Image { size, values }
    }

    /// A picture from bytes, `[H, W, 3]`.
    pub fn from_rgb8(size: PixelSize, bytes: &[u8]) -> Self {
        Image::new(size, bytes.iter().map(|b| f32::from(*b) / 255.0).collect())
    }

    /// Width and height.
    pub fn size(&self) -> PixelSize {
        self.size
    }

    /// Values, `[H, W, 3]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Values in PyTorch's layout, `[3, H, W]`.
    pub fn to_channels_first(&self) -> Vec<f32> {
        (0..3).flat_map(|channel| self.values.iter().skip(channel).step_by(3)).copied().collect()
    }

    /// The nearest bytes, `[H, W, 3]`; halves go to the even neighbour, as in numpy.
    pub fn to_rgb8(&self) -> Vec<u8> {
        self.values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect()
    }

    /// The picture as an autoencoder's input: `[1, H, W, 3]` in -1..1.
    pub(super) fn to_pixels(&self) -> HostTensor {
        let shape = [1, self.size.height, self.size.width, 3];
        HostTensor::f32(shape, self.values.iter().map(|v| 2.0 * v - 1.0).collect())
    }
}

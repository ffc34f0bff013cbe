//! A latent in overlapping tiles, and the picture that is put together from what they decode to.

use kernels::{HostTensor, TensorType};

use super::picture::{Image, PixelSize};

/// The part of a tile's edge that it shares with its neighbour.
const OVERLAP: f64 = 0.25;

/// How a latent is cut.
pub(super) struct Tiles {
    extent: [usize; 2],
    tile: [usize; 2],
    /// Pixels of the picture along a latent pixel's edge.
    upscale: usize,
}

impl Tiles {
    /// Tiles of `tile` rows and columns, at most as many as the latent's `extent` has.
    pub(super) fn new(extent: [usize; 2], tile: [usize; 2], upscale: usize) -> Self {
        Tiles { extent, tile, upscale }
    }

    /// The first row and column of each, in rows: neighbours share a quarter, the last ones as much as is left.
    pub(super) fn corners(&self) -> Vec<[usize; 2]> {
        let starts = |axis: usize| -> Vec<usize> {
            let (extent, tile) = (self.extent[axis], self.tile[axis]);
            let step = ((tile as f64 * (1.0 - OVERLAP)) as usize).max(1);
            let last = extent - tile;
            (0..last).step_by(step).chain([last]).collect()
        };
        let columns = starts(1);
        starts(0).into_iter().flat_map(|row| columns.iter().map(move |column| [row, *column])).collect()
    }

    /// The tile of a latent `[1, h, w, C]` at a corner.
    pub(super) fn part(&self, latent: &HostTensor, [top, left]: [usize; 2]) -> HostTensor {
        let channels = latent.ty().channels();
        let [height, width] = self.tile;
        HostTensor::from_fn(TensorType::f32([1, height, width, channels]), |i| {
            let (pixel, channel) = (i / channels, i % channels);
            let (row, column) = (top + pixel / width, left + pixel % width);
            latent.at((row * self.extent[1] + column) * channels + channel)
        })
    }

    /// An empty picture.
    pub(super) fn mosaic(&self) -> Mosaic<'_> {
        let pixels = self.extent[0] * self.extent[1] * self.upscale * self.upscale;
        Mosaic { tiles: self, sums: vec![0.0; 3 * pixels], weights: vec![0.0; pixels] }
    }
}

/// A picture of weighted means over the tiles that cover each pixel.
pub(super) struct Mosaic<'t> {
    tiles: &'t Tiles,
    sums: Vec<f32>,
    weights: Vec<f32>,
}

impl Mosaic<'_> {
    /// Adds the pixels `[h, w, 3]` of the tile at a corner.
    pub(super) fn add(&mut self, corner: [usize; 2], pixels: &[f32]) {
        let Tiles { extent, tile, upscale } = self.tiles;
        let [height, width] = tile.map(|edge| edge * upscale);
        let [top, left] = corner.map(|edge| edge * upscale);
        let ramps = [0, 1].map(|axis| {
            ramp(tile[axis] * upscale, corner[axis] == 0, corner[axis] + tile[axis] == extent[axis])
        });
        let columns = extent[1] * upscale;
        for row in 0..height {
            for column in 0..width {
                let weight = ramps[0][row] * ramps[1][column];
                let to = (top + row) * columns + left + column;
                let from = (row * width + column) * 3;
                self.weights[to] += weight;
                for channel in 0..3 {
                    self.sums[3 * to + channel] += weight * pixels[from + channel];
                }
            }
        }
    }

    /// The picture, once every tile was added.
    pub(super) fn into_image(self) -> Image {
        let Tiles { extent, upscale, .. } = self.tiles;
        let size = PixelSize { width: extent[1] * upscale, height: extent[0] * upscale };
        let values = self.sums.iter().enumerate().map(|(i, sum)| sum / self.weights[i / 3]).collect();
        Image::new(size, values)
    }
}

/// Weights along an edge of `length` pixels: they rise over what is shared with a neighbour, and stay 1 at the picture's border.
fn ramp(length: usize, is_first: bool, is_last: bool) -> Vec<f32> {
    let shared = (length as f64 * OVERLAP).max(1.0);
    let rise = |distance: usize, is_border: bool| {
        if is_border { 1.0 } else { ((distance as f64 + 0.5) / shared).min(1.0) }
    };
    (0..length).map(|i| rise(i, is_first).min(rise(length - 1 - i, is_last)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_and_share_a_quarter() {
        let tiles = Tiles::new([50, 16], [16, 16], 2);
        let rows: Vec<usize> = tiles.corners().iter().map(|[row, _]| *row).collect();
        assert_eq!(rows, [0, 12, 24, 34]);
        assert_eq!(Tiles::new([16, 16], [16, 16], 8).corners(), [[0, 0]]);
        assert_eq!(Tiles::new([17, 16], [16, 16], 8).corners(), [[0, 0], [1, 0]]);
    }

    #[test]
    fn what_tiles_agree_on_is_put_together_without_a_seam() {
        let (extent, upscale) = ([9usize, 11usize], 2);
        let latent = HostTensor::from_fn(TensorType::f32([1, 9, 11, 4]), |i| i as f64);
        for tile in [[4, 4], [9, 5], [1, 1], [9, 11]] {
            let tiles = Tiles::new(extent, tile, upscale);
            let mut mosaic = tiles.mosaic();
            for corner in tiles.corners() {
                // A decoder that repeats the first three channels.
                let part = tiles.part(&latent, corner);
                let width = tile[1] * upscale;
                let pixels: Vec<f32> = (0..tile[0] * upscale * width * 3)
                    .map(|i| {
                        let (row, column) = (i / 3 / width / upscale, i / 3 % width / upscale);
                        part.at((row * tile[1] + column) * 4 + i % 3) as f32
                    })
                    .collect();
                mosaic.add(corner, &pixels);
            }
            let image = mosaic.into_image();
            assert_eq!(image.size(), PixelSize { width: 22, height: 18 });
            for (i, value) in image.values().iter().enumerate() {
                let (row, column) = (i / 3 / 22 / upscale, i / 3 % 22 / upscale);
                let expected = ((row * 11 + column) * 4 + i % 3) as f32;
                assert!((value - expected).abs() < 1e-3, "{tile:?} {i}: {value} {expected}");
            }
        }
    }
}

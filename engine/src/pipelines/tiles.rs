//! Images in overlapping tiles: cut out of a whole, and put together again from what lies inside of each.

use std::thread;

use kernels::{HostTensor, TensorType};

use crate::graph::Norm;

/// Latent pixels around a tile's inside: what the layers between two group norms look at lies in them. Two 3x3 convolutions
/// look two pixels far at most, and none of their images is smaller than the latent.
const HALO: usize = 2;

/// How images of one picture are cut, in latent pixels; larger images are cut at the same places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    extent: [usize; 2],
    tile: [usize; 2],
}

impl Tiles {
    /// Tiles of at most `edge` latent pixels, halo included, of images with `extent` rows and columns of them: as few as can be,
    /// and those as small as they can be.
    ///
    /// # Panics
    /// If nothing is left inside of a tile: a programming error.
    pub(super) fn new(extent: [usize; 2], edge: usize) -> Self {
        assert!(edge > 2 * HALO, "a tile has an inside");
        let tile = extent.map(|extent| {
            if extent <= edge {
                return extent;
            }
            let tiles = (extent - 2 * HALO).div_ceil(edge - 2 * HALO);
            (extent - 2 * HALO).div_ceil(tiles) + 2 * HALO
        });
        Tiles { extent, tile }
    }

    /// Rows and columns of a tile.
    pub(super) fn tile(&self) -> [usize; 2] {
        self.tile
    }

    /// The first row and column of each tile, in rows.
    pub(super) fn corners(&self) -> Vec<[usize; 2]> {
        let starts = |axis: usize| -> Vec<usize> {
            let last = self.extent[axis] - self.tile[axis];
            let step = self.tile[axis].saturating_sub(2 * HALO).max(1);
            (0..last).step_by(step).chain([last]).collect()
        };
        let columns = starts(1);
        starts(0).into_iter().flat_map(|row| columns.iter().map(move |column| [row, *column])).collect()
    }

    /// First index and length along `axis` of what is inside of the tile that starts at `start`: at a border of the image there
    /// is no halo.
    fn inside(&self, axis: usize, start: usize) -> (usize, usize) {
        let (extent, tile) = (self.extent[axis], self.tile[axis]);
        let first = if start == 0 { 0 } else { start + HALO };
        let end = if start + tile == extent { extent } else { start + tile - HALO };
        (first, end - first)
    }
}

/// An image `[1, H, W, C]` in host memory, as a buffer holds it.
pub(super) struct Whole {
    ty: TensorType,
    bytes: Vec<u8>,
}

impl Whole {
    /// An image and its bytes.
    pub(super) fn new(ty: TensorType, bytes: Vec<u8>) -> Self {
        assert_eq!(ty.bytes() as usize, bytes.len(), "bytes of {ty}");
        Whole { ty, bytes }
    }

    /// An empty image whose tiles are of type `tile`.
    pub(super) fn of_tiles(tiles: &Tiles, tile: &TensorType) -> Self {
        let extent = |axis: usize| tiles.extent[axis] * (tile.shape[1 + axis] / tiles.tile[axis]);
        let ty = TensorType::new(tile.dtype, [1, extent(0), extent(1), tile.channels()]);
        let bytes = vec![0; ty.bytes() as usize];
        Whole { ty, bytes }
    }

    /// The image as a tensor.
    pub(super) fn into_tensor(self) -> HostTensor {
        HostTensor::from_bytes(self.ty, &self.bytes).0
    }

    /// Pixels along the edge of a latent pixel.
    fn upscale(&self, tiles: &Tiles) -> usize {
        self.ty.shape[1] / tiles.extent[0]
    }

    /// Bytes of `columns` pixels.
    fn row(&self, columns: usize) -> usize {
        columns * self.ty.row_bytes() as usize
    }

    /// The bytes of the tile at a corner, as a buffer holds them.
    pub(super) fn cut(&self, tiles: &Tiles, corner: [usize; 2]) -> Vec<u8> {
        let upscale = self.upscale(tiles);
        let ([top, left], [height, width]) = (corner.map(|at| at * upscale), tiles.tile.map(|n| n * upscale));
        let length = self.row(width);
        let mut bytes = Vec::with_capacity(height * length);
        for row in top..top + height {
            let from = self.row(row * self.ty.shape[2] + left);
            bytes.extend_from_slice(&self.bytes[from..from + length]);
        }
        bytes
    }

    /// Puts the inside of the tile at a corner, of which `tile` are the bytes, in its place.
    pub(super) fn paste(&mut self, tiles: &Tiles, corner: [usize; 2], tile: &[u8]) {
        let upscale = self.upscale(tiles);
        let [rows, columns] = [0, 1].map(|axis| {
            let (first, length) = tiles.inside(axis, corner[axis]);
            (first * upscale, length * upscale)
        });
        let ([top, left], width) = (corner.map(|at| at * upscale), tiles.tile[1] * upscale);
        let length = self.row(columns.1);
        for row in rows.0..rows.0 + rows.1 {
            let to = self.row(row * self.ty.shape[2] + columns.0);
            let from = self.row((row - top) * width + columns.0 - left);
            self.bytes[to..to + length].copy_from_slice(&tile[from..from + length]);
        }
    }

    /// Mean and deviation of each of a norm's groups, `[1, groups, 2]`.
    pub(super) fn statistics(&self, norm: &Norm) -> HostTensor {
        let channels = self.ty.channels();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let rows = self.ty.rows().div_ceil(threads).max(1);
        let sums: Vec<[Vec<f64>; 2]> = thread::scope(|scope| {
            let parts = self.bytes.chunks(self.row(rows));
            let sums: Vec<_> = parts.map(|part| scope.spawn(|| self.sums(part))).collect();
            sums.into_iter().map(|sum| sum.join().expect("sums do not panic")).collect()
        });
        let width = channels / norm.groups;
        let count = (self.ty.rows() * width) as f64;
        HostTensor::from_fn(TensorType::f32([1, norm.groups, 2]), |i| {
            let of_group = |power: usize| -> f64 {
                let group = i / 2 * width..(i / 2 + 1) * width;
                sums.iter().flat_map(|part| &part[power][group.clone()]).sum::<f64>() / count
            };
            let mean = of_group(0);
            if i % 2 == 0 { mean } else { ((of_group(1) - mean * mean).max(0.0) + norm.eps).sqrt() }
        })
    }

    /// For each channel the sum of its values in `pixels`, and of their squares.
    fn sums(&self, pixels: &[u8]) -> [Vec<f64>; 2] {
        let channels = self.ty.channels();
        let (mut sums, mut squares) = (vec![0.0f64; channels], vec![0.0f64; channels]);
        let size = self.ty.dtype.size();
        for pixel in pixels.chunks_exact(self.row(1)) {
            let values = pixel.chunks_exact(size).map(|bytes| f64::from(self.ty.dtype.decode(bytes)));
            for ((sum, square), value) in sums.iter_mut().zip(&mut squares).zip(values) {
                *sum += value;
                *square += value * value;
            }
        }
        [sums, squares]
    }
}

#[cfg(test)]
mod tests {
    use kernels::DType;

    use super::*;

    #[test]
    fn insides_cover_everything() {
        for (extent, edge) in [([50, 16], 16), ([16, 16], 16), ([17, 16], 16), ([9, 31], 5), ([7, 40], 24)] {
            let tiles = Tiles::new(extent, edge);
            let mut covered = vec![0; extent[0] * extent[1]];
            for [row, column] in tiles.corners() {
                let ((top, height), (left, width)) = (tiles.inside(0, row), tiles.inside(1, column));
                for at in (top..top + height).flat_map(|r| (left..left + width).map(move |c| (r, c))) {
                    covered[at.0 * extent[1] + at.1] += 1;
                    // What is not at a border of the image has its halo in the tile.
                    for (axis, at) in [at.0, at.1].into_iter().enumerate() {
                        let start = [row, column][axis];
                        assert!(at >= (start + HALO).min(if start == 0 { 0 } else { usize::MAX }));
                        let end = start + tiles.tile[axis];
                        assert!(at + HALO < end || end == extent[axis]);
                    }
                }
            }
            assert!(covered.iter().all(|times| *times > 0), "{extent:?} {edge}");
        }
        let rows: Vec<usize> = Tiles::new([50, 16], 16).corners().iter().map(|[row, _]| *row).collect();
        assert_eq!(rows, [0, 12, 24, 34]);
        let tiles = Tiles::new([72, 100], 64);
        assert_eq!((tiles.tile(), tiles.corners().len()), ([38, 52], 4));
    }

    #[test]
    fn what_is_cut_is_pasted_back() {
        for dtype in [DType::F32, DType::F16] {
            let ty = TensorType::new(dtype, [1, 18, 22, 3]);
            let image = HostTensor::from_fn(ty.clone(), |i| i as f64 % 1000.0);
            let whole = Whole::new(ty, image.to_bytes());
            for edge in [5, 7, 11] {
                let tiles = Tiles::new([9, 11], edge);
                let [height, width] = tiles.tile();
                let mut found =
                    Whole::of_tiles(&tiles, &TensorType::new(dtype, [1, 2 * height, 2 * width, 3]));
                for corner in tiles.corners() {
                    found.paste(&tiles, corner, &whole.cut(&tiles, corner));
                }
                assert_eq!(found.into_tensor(), image, "{edge}");
            }
        }
    }

    #[test]
    fn statistics_are_the_groups() {
        for dtype in [DType::F32, DType::F16] {
            let ty = TensorType::new(dtype, [1, 5, 7, 6]);
            let image = HostTensor::from_fn(ty.clone(), |i| 3.0 + libm::sin(i as f64));
            let norm = Norm { over: crate::graph::ValueId(0), groups: 2, eps: 0.5 };
            let found = Whole::new(ty, image.to_bytes()).statistics(&norm);
            for group in 0..2 {
                let values: Vec<f64> =
                    (0..5 * 7 * 6).filter(|i| i % 6 / 3 == group).map(|i| image.at(i)).collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
                assert!((found.at(2 * group) - mean).abs() < 1e-6);
                assert!((found.at(2 * group + 1) - (variance + norm.eps).sqrt()).abs() < 1e-6);
            }
        }
    }
}

//! Element types, shapes and how a tensor lies in a buffer.
//!
//! The dimension alphabet of the whole project: `B` batch, `H W` rows and columns of an image, `C` channels (innermost),
//! `S` tokens, `D` features of a token or of a head, `M K N` rows, contraction and columns of a matrix product.

use std::fmt;
use std::ops::Deref;

/// Elements that a kernel loads and stores at once; rows of a tensor start at multiples of it.
pub const LANES: usize = 4;

/// How one element is stored. Arithmetic is always `f32` on the GPU and `f64` in the references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, two to a `u32` word.
    F16,
    /// The upper half of a binary32, two to a `u32` word. Weights only.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        })
    }
}

/// The extent of every dimension, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// Extent of the innermost dimension; 1 for a scalar.
    pub fn channels(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.0.iter().rev().skip(1).product()
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape(dims.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape(dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape(dims.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

/// Element type and shape of a tensor; it fixes the bytes the tensor takes in a buffer.
///
/// Rows (everything but the innermost dimension) follow each other with a pitch of [`LANES`] elements' multiple. The
/// elements between a row's end and the next row are **zero**: every kernel may load them and must store them so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// How an element is stored.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Shape,
    /// Whether the columns of each of its matrices lie in strips of [`STRIP`], one strip after the other: a kernel that works
    /// on some columns then reads on from row to row, where whole rows would be pages apart. For weights only.
    pub strips: bool,
}

/// Columns of a strip.
pub const STRIP: usize = 64;

impl TensorType {
    /// A tensor of `dtype` elements.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        TensorType { dtype, shape: shape.into(), strips: false }
    }

    /// The same with its columns in strips, if it has more than one.
    ///
    /// Matrices are all of it, or in three dimensions each element of the outermost.
    pub fn in_strips(mut self) -> Self {
        self.strips = self.channels() > STRIP;
        self
    }

    /// Quads of a strip; of a row if there are no strips.
    pub fn strip_quads(&self) -> usize {
        if self.strips { STRIP / LANES } else { self.quads().max(1) }
    }

    /// Rows of a matrix.
    fn matrix_rows(&self) -> usize {
        if self.shape.len() == 3 { self.shape[1] } else { self.rows() }
    }

    /// The bytes of whole rows in the order of strips, or as they are if there are none.
    pub fn to_strips(&self, bytes: Vec<u8>) -> Vec<u8> {
        if self.strips { self.reordered(&bytes, |to, from| (to, from)) } else { bytes }
    }

    /// The bytes of strips in the order of whole rows.
    pub fn to_rows(&self, bytes: &[u8]) -> Vec<u8> {
        if self.strips { self.reordered(bytes, |to, from| (from, to)) } else { bytes.to_vec() }
    }

    /// `bytes` with each row's part of a strip moved; `pick` gets its place among strips and among rows, and says to where it
    /// goes and from where.
    fn reordered(&self, bytes: &[u8], pick: fn(usize, usize) -> (usize, usize)) -> Vec<u8> {
        let row_bytes = self.row_bytes() as usize;
        let strip_bytes = STRIP * self.dtype.size();
        let rows = self.matrix_rows();
        let mut moved = vec![0; bytes.len()];
        for matrix in (0..bytes.len()).step_by((rows * row_bytes).max(1)) {
            for start in (0..row_bytes).step_by(strip_bytes) {
                let width = strip_bytes.min(row_bytes - start);
                for row in 0..rows {
                    let (to, from) =
                        pick(matrix + start * rows + row * width, matrix + row * row_bytes + start);
                    moved[to..to + width].copy_from_slice(&bytes[from..from + width]);
                }
            }
        }
        moved
    }

    /// An `f32` tensor.
    pub fn f32(shape: impl Into<Shape>) -> Self {
        TensorType::new(DType::F32, shape)
    }

    /// Extent of the innermost dimension.
    pub fn channels(&self) -> usize {
        self.shape.channels()
    }

    /// Product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// Elements from one row's start to the next.
    pub fn pitch(&self) -> usize {
        self.channels().next_multiple_of(LANES)
    }

    /// [`LANES`]-wide groups in one row.
    pub fn quads(&self) -> usize {
        self.channels().div_ceil(LANES)
    }

    /// Bytes of one row, padding included.
    pub fn row_bytes(&self) -> u64 {
        self.pitch() as u64 * self.dtype.size() as u64
    }

    /// Bytes in a buffer, padding included.
    pub fn bytes(&self) -> u64 {
        self.rows() as u64 * self.row_bytes()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.dtype, self.shape, if self.strips { " in strips" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_hold_64_columns_of_every_row() {
        let ty = TensorType::f32([2, 3, 70]).in_strips(); // a pitch of 72: strips of 64 and of 8
        let rows: Vec<u8> = (0..2 * 3 * 72u32).flat_map(u32::to_le_bytes).collect();
        let strips = ty.to_strips(rows.clone());
        let at = |element: usize| u32::from_le_bytes(strips[4 * element..][..4].try_into().expect("4 bytes"));
        assert_eq!([0, 63, 64, 3 * 64, 3 * 64 + 8].map(at), [0, 63, 72, 64, 72 + 64]);
        assert_eq!([3 * 72, 3 * 72 + 64].map(at), [3 * 72, 4 * 72]);
        assert_eq!(ty.to_rows(&strips), rows);
        assert!(!TensorType::f32([9, 64]).in_strips().strips, "one strip is rows");
    }
}

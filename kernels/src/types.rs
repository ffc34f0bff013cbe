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
}

impl TensorType {
    /// A tensor of `dtype` elements.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        TensorType { dtype, shape: shape.into() }
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
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

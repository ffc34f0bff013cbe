//! Tensors in host memory: what references read and write, and what crosses to and from a buffer.

use crate::types::{DType, Shape, TensorType};

impl DType {
    /// The value nearest to `x` that this type can hold.
    pub fn round(self, x: f32) -> f32 {
        match self {
            DType::F32 => x,
            DType::F16 => half::f16::from_f32(x).to_f32(),
            DType::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    /// The value whose bytes in a buffer are `bytes`.
    ///
    /// # Panics
    /// If there are fewer than [`DType::size`] bytes: a programming error.
    pub fn decode(self, bytes: &[u8]) -> f32 {
        match self {
            DType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            DType::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            DType::Bf16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        }
    }
}

/// A tensor on the host, row-major and without padding; every value is one that `ty.dtype` can hold.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    ty: TensorType,
    data: Vec<f32>,
}

impl HostTensor {
    /// A tensor of `ty` whose values are `data` rounded to `ty.dtype`.
    ///
    /// # Panics
    /// If `data` has not one value per element: a programming error, never a matter of input.
    pub fn new(ty: TensorType, mut data: Vec<f32>) -> Self {
        assert_eq!(ty.shape.elements(), data.len(), "values for {ty}");
        if ty.dtype != DType::F32 {
            data.iter_mut().for_each(|x| *x = ty.dtype.round(*x));
        }
        HostTensor { ty, data }
    }

    /// An `f32` tensor.
    pub fn f32(shape: impl Into<Shape>, data: Vec<f32>) -> Self {
        HostTensor::new(TensorType::f32(shape), data)
    }

    /// A tensor computed element by element, in row-major order.
    pub fn from_fn(ty: TensorType, mut value: impl FnMut(usize) -> f64) -> Self {
        let data = (0..ty.shape.elements()).map(|i| value(i) as f32).collect();
        HostTensor::new(ty, data)
    }

    /// Element type and shape.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        &self.ty.shape
    }

    /// Values in row-major order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, given away.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// One value, by its row-major position.
    pub fn at(&self, index: usize) -> f64 {
        f64::from(self.data[index])
    }

    /// The same values seen in another shape.
    ///
    /// # Panics
    /// If the shapes differ in their number of elements.
    pub fn reshaped(mut self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(self.ty.shape.elements(), shape.elements(), "{} as {shape}", self.ty);
        self.ty.shape = shape;
        self
    }

    /// The bytes of the tensor in a buffer: rows at their pitch, padding zero.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (channels, size) = (self.ty.channels(), self.ty.dtype.size());
        let row_bytes = self.ty.pitch() * size;
        let mut bytes = vec![0u8; self.ty.rows() * row_bytes];
        if channels == 0 {
            return bytes;
        }
        for (row, out) in self.data.chunks_exact(channels).zip(bytes.chunks_exact_mut(row_bytes)) {
            for (x, slot) in row.iter().zip(out.chunks_exact_mut(size)) {
                match self.ty.dtype {
                    DType::F32 => slot.copy_from_slice(&x.to_le_bytes()),
                    DType::F16 => slot.copy_from_slice(&half::f16::from_f32(*x).to_le_bytes()),
                    DType::Bf16 => slot.copy_from_slice(&half::bf16::from_f32(*x).to_le_bytes()),
                }
            }
        }
        self.ty.to_strips(bytes)
    }

    /// The tensor whose buffer holds `bytes`, and whether all padding in them is zero.
    ///
    /// # Panics
    /// If `bytes` is not exactly `ty.bytes()` long.
    pub fn from_bytes(ty: TensorType, bytes: &[u8]) -> (Self, bool) {
        assert_eq!(ty.bytes(), bytes.len() as u64, "bytes for {ty}");
        let (channels, size) = (ty.channels(), ty.dtype.size());
        let mut data = Vec::with_capacity(ty.shape.elements());
        let mut padding_is_zero = true;
        let bytes = ty.to_rows(bytes);
        for row in bytes.chunks_exact((ty.pitch() * size).max(1)) {
            for (i, slot) in row.chunks_exact(size).enumerate() {
                if i >= channels {
                    padding_is_zero &= slot.iter().all(|b| *b == 0);
                    continue;
                }
                data.push(ty.dtype.decode(slot));
            }
        }
        (HostTensor { ty, data }, padding_is_zero)
    }
}

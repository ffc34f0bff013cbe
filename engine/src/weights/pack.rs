//! From a checkpoint's layout to the kernels': PyTorch's `[O, I, ..]`, or a matrix `[I, O]`, becomes `[.., I', O]`, rows at
//! their pitch.

use std::borrow::Cow;

use half::{bf16, f16};
use kernels::{DType, LANES, TensorType};
use loaders::Encoding;

use crate::graph::Packing;

/// Rows and columns of the blocks a transpose goes through, so that both sides stay in cache.
const BLOCK: usize = 32;

/// The bytes on the device of a tensor of `shape` that is stored as `bytes`; `ty` is its packed type.
///
/// 16-bit matrices are moved bit by bit, never through another encoding.
pub(super) fn pack(
    bytes: &[u8],
    encoding: Encoding,
    shape: &[usize],
    packing: Packing,
    ty: &TensorType,
) -> Vec<u8> {
    let (bytes, packing) = match packing {
        Packing::GatedVector => (alternating(bytes, shape[0]), Packing::Vector),
        Packing::GatedLinear => (alternating(bytes, shape[0]), Packing::Linear),
        other => (Cow::Borrowed(bytes), other),
    };
    let bytes = &*bytes;
    let second = shape.get(1).copied().unwrap_or(1);
    let (outputs, inputs) =
        if packing == Packing::Transposed { (second, shape[0]) } else { (shape[0], second) };
    let to = Destination {
        outputs,
        inputs,
        inner: shape.iter().skip(2).product(),
        is_transposed: packing == Packing::Transposed,
        pitch: ty.pitch(),
        padded_inputs: padded_inputs(ty),
    };
    match (packing, encoding, ty.dtype) {
        (Packing::Vector, ..) => {
            let mut values: Vec<f32> = values(bytes, encoding).collect();
            values.resize(ty.rows() * ty.pitch(), 0.0);
            bytemuck::cast_slice(&values).to_vec()
        }
        (_, Encoding::F32, DType::F16) => {
            let words: Vec<u16> = values(bytes, encoding).map(|v| f16::from_f32(v).to_bits()).collect();
            bytemuck::cast_slice(&to.place(&words)).to_vec()
        }
        (_, Encoding::F32, _) => {
            let words: Vec<u32> =
                bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            bytemuck::cast_slice(&to.place(&words)).to_vec()
        }
        _ => {
            let words: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            bytemuck::cast_slice(&to.place(&words)).to_vec()
        }
    }
}

/// `rows` rows, an even number of quads of them, with quads of the first half and of the second alternating.
fn alternating(bytes: &[u8], rows: usize) -> Cow<'_, [u8]> {
    let quad = bytes.len() / rows * LANES;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let quads = first.chunks_exact(quad).zip(second.chunks_exact(quad));
    Cow::Owned(quads.flat_map(|(first, second)| [first, second]).flatten().copied().collect())
}

/// The values of a checkpoint's F32, F16 or BF16 bytes.
pub(crate) fn values(bytes: &[u8], encoding: Encoding) -> impl Iterator<Item = f32> + '_ {
    let size = encoding.bytes() as usize;
    bytes.chunks_exact(size).map(move |b| match encoding {
        Encoding::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        Encoding::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
    })
}

fn padded_inputs(ty: &TensorType) -> usize {
    ty.shape.iter().rev().nth(1).copied().unwrap_or(1)
}

/// `[outputs, inputs, inner]`, or `[inputs, outputs]` if `is_transposed`, -> `[inner, padded_inputs, pitch]`.
struct Destination {
    outputs: usize,
    inputs: usize,
    inner: usize,
    is_transposed: bool,
    padded_inputs: usize,
    pitch: usize,
}

impl Destination {
    fn place<T: Copy + Default>(&self, from: &[T]) -> Vec<T> {
        let mut to = vec![T::default(); self.inner * self.padded_inputs * self.pitch];
        if self.is_transposed {
            for (row, from) in
                to.chunks_exact_mut(self.pitch.max(1)).zip(from.chunks_exact(self.outputs.max(1)))
            {
                row[..self.outputs].copy_from_slice(from);
            }
            return to;
        }
        for o0 in (0..self.outputs).step_by(BLOCK) {
            for i0 in (0..self.inputs).step_by(BLOCK) {
                for o in o0..(o0 + BLOCK).min(self.outputs) {
                    for i in i0..(i0 + BLOCK).min(self.inputs) {
                        for k in 0..self.inner {
                            let source = (o * self.inputs + i) * self.inner + k;
                            to[(k * self.padded_inputs + i) * self.pitch + o] = from[source];
                        }
                    }
                }
            }
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_becomes_taps_of_padded_inputs_by_outputs() {
        let shape = [2usize, 3, 1, 2]; // [O, I, KH, KW]
        let values: Vec<f32> = (0..12u8).map(f32::from).collect();
        let ty = TensorType::f32([1, 2, 4, 2]);
        let packed = pack(bytemuck::cast_slice(&values), Encoding::F32, &shape, Packing::Conv, &ty);
        let packed: Vec<f32> = bytemuck::cast_slice(&packed).to_vec();
        let at = |tap: usize, i: usize, o: usize| packed[(tap * 4 + i) * 4 + o];
        for (o, i, tap) in [(0, 0, 0), (1, 2, 1), (0, 1, 1), (1, 0, 0)] {
            assert_eq!(at(tap, i, o), values[(o * 3 + i) * 2 + tap], "o {o} i {i} tap {tap}");
        }
        assert!((0..2).all(|tap| (0..4).all(|o| at(tap, 3, o) == 0.0)), "padded inputs are zero");
    }

    #[test]
    fn a_transposed_matrix_is_packed_as_the_linear_layer_it_stands_for() {
        let (inputs, outputs) = (5usize, 6usize);
        // Values that f16 has to round, and one that it cannot hold.
        let at = |i: usize, o: usize| if (i, o) == (4, 5) { 1e6 } else { 1.0 + (i * 7 + o) as f32 / 3.0 };
        let matrix: Vec<f32> = (0..inputs * outputs).map(|k| at(k / outputs, k % outputs)).collect();
        let layer: Vec<f32> = (0..inputs * outputs).map(|k| at(k % inputs, k / inputs)).collect();
        let bytes = |values: &[f32], encoding: Encoding| -> Vec<u8> {
            let value = |v: &f32| match encoding {
                Encoding::F16 => f16::from_f32(*v).to_le_bytes().to_vec(),
                Encoding::Bf16 => bf16::from_f32(*v).to_le_bytes().to_vec(),
                _ => v.to_le_bytes().to_vec(),
            };
            values.iter().flat_map(value).collect()
        };
        for (encoding, dtype) in [
            (Encoding::F32, DType::F32),
            (Encoding::F32, DType::F16),
            (Encoding::F16, DType::F16),
            (Encoding::Bf16, DType::Bf16),
        ] {
            let ty = TensorType::new(dtype, [8, outputs]);
            let of = |values: &[f32], shape: &[usize], packing| {
                pack(&bytes(values, encoding), encoding, shape, packing, &ty)
            };
            let found = of(&matrix, &[inputs, outputs], Packing::Transposed);
            assert_eq!(found, of(&layer, &[outputs, inputs], Packing::Linear), "{encoding} as {dtype}");
            // [8, 6]: five rows of six values and two zeros, three rows of zeros.
            assert_eq!(found.len(), 8 * 8 * dtype.size(), "{encoding} as {dtype}");
            let row = |i: usize| &found[i * 8 * dtype.size()..(i + 1) * 8 * dtype.size()];
            let stored = match dtype {
                DType::F32 => at(3, 2).to_le_bytes().to_vec(),
                DType::F16 => f16::from_f32(at(3, 2)).to_le_bytes().to_vec(),
                DType::Bf16 => bf16::from_f32(at(3, 2)).to_le_bytes().to_vec(),
            };
            assert_eq!(row(3)[2 * dtype.size()..3 * dtype.size()], stored, "{encoding} as {dtype}");
            assert!(row(3)[6 * dtype.size()..].iter().all(|b| *b == 0), "{encoding} as {dtype}");
            assert!((5..8).all(|i| row(i).iter().all(|b| *b == 0)), "{encoding} as {dtype}");
        }
    }

    #[test]
    fn quads_of_halves_alternate() {
        let rows: Vec<f32> = (0..32u8).map(f32::from).collect(); // [16, 2]
        let packed = pack(
            bytemuck::cast_slice(&rows),
            Encoding::F32,
            &[16, 2],
            Packing::GatedLinear,
            &TensorType::f32([4, 16]),
        );
        let packed: &[f32] = bytemuck::cast_slice(&packed);
        let outputs: Vec<usize> = packed[..16].iter().map(|v| *v as usize / 2).collect();
        assert_eq!(outputs, [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]);
        let vector = pack(
            bytemuck::cast_slice(&rows[..16]),
            Encoding::F32,
            &[16],
            Packing::GatedVector,
            &TensorType::f32([16]),
        );
        let vector: &[f32] = bytemuck::cast_slice(&vector);
        assert_eq!(vector.iter().map(|v| *v as usize).collect::<Vec<_>>(), outputs);
    }

    #[test]
    fn bf16_bits_are_not_touched() {
        let words = [0x3f81u16, 0x0001, 0xff7f, 0x7f80];
        let ty = TensorType::new(DType::Bf16, [4, 2]);
        let packed = pack(bytemuck::cast_slice(&words), Encoding::Bf16, &[2, 2], Packing::Linear, &ty);
        let packed: &[u16] = bytemuck::cast_slice(&packed);
        assert_eq!([packed[0], packed[1], packed[4], packed[5]], [words[0], words[2], words[1], words[3]]);
    }
}

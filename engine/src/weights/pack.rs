//! From a checkpoint's layout to the kernels': PyTorch's `[O, I, ..]`, or a matrix `[I, O]`, becomes `[.., I', O]`, rows at
//! their pitch, columns in strips where the type says so.

use std::thread;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use kernels::{DType, LANES, TensorType};
use loaders::Encoding;

use crate::graph::Packing;

/// Inputs of the blocks a transpose goes through: what a block reads and what it writes stay in cache.
const BLOCK: usize = 32;
/// Bytes from which on a tensor is packed by several threads.
const PARALLEL_BYTES: usize = 1 << 20;

/// The words on the device of a tensor of `shape` that is stored as `bytes`; `ty` is its packed type.
///
/// 16-bit matrices are moved bit by bit, never through another encoding.
pub(super) fn pack(
    bytes: &[u8],
    encoding: Encoding,
    shape: &[usize],
    packing: Packing,
    ty: &TensorType,
) -> Vec<u32> {
    let second = shape.get(1).copied().unwrap_or(1);
    let is_transposed = packing == Packing::Transposed;
    let (outputs, inputs) = if is_transposed { (second, shape[0]) } else { (shape[0], second) };
    let layout = Layout {
        outputs,
        inputs,
        inner: shape.iter().skip(2).product(),
        packing,
        padded_inputs: ty.shape.iter().rev().nth(1).copied().unwrap_or(1),
        pitch: ty.pitch(),
        strip: LANES * ty.strip_quads(),
    };
    match (packing, encoding, ty.dtype) {
        (Packing::Vector | Packing::GatedVector, ..) => {
            let stored: Vec<f32> = values(bytes, encoding).collect();
            let mut packed: Vec<u32> = (0..outputs).map(|o| stored[layout.row(o)].to_bits()).collect();
            packed.resize(ty.rows() * ty.pitch(), 0);
            packed
        }
        (_, Encoding::F32, DType::F16) => layout.place(bytes, 4, |bytes, to: &mut [u16]| {
            let mut values = [0.0f32; BLOCK];
            for (bytes, to) in bytes.chunks(4 * BLOCK).zip(to.chunks_mut(BLOCK)) {
                let values = &mut values[..to.len()];
                words(bytes, values, f32::from_le_bytes);
                let mut halves = [f16::ZERO; BLOCK];
                halves[..to.len()].convert_from_f32_slice(values);
                to.iter_mut().zip(halves).for_each(|(to, half)| *to = half.to_bits());
            }
        }),
        (_, Encoding::F32, _) => layout.place(bytes, 4, |bytes, to| words(bytes, to, u32::from_le_bytes)),
        _ => layout.place(bytes, 2, |bytes, to| words(bytes, to, u16::from_le_bytes)),
    }
}

/// Fills `to` from little-endian bytes.
fn words<const N: usize, T>(bytes: &[u8], to: &mut [T], word: impl Fn([u8; N]) -> T) {
    let (from, _) = bytes.as_chunks::<N>();
    to.iter_mut().zip(from).for_each(|(to, from)| *to = word(*from));
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

/// `[outputs, inputs, inner]`, or `[inputs, outputs]` transposed, -> `[inner, padded_inputs, pitch]` in strips of columns.
struct Layout {
    outputs: usize,
    inputs: usize,
    inner: usize,
    packing: Packing,
    padded_inputs: usize,
    pitch: usize,
    /// Columns of a strip; all of them if there are none.
    strip: usize,
}

impl Layout {
    /// Where a column of the result comes from, in rows of the checkpoint's tensor.
    fn row(&self, column: usize) -> usize {
        match self.packing {
            Packing::GatedLinear | Packing::GatedVector => {
                let (quad, lane) = (column / LANES, column % LANES);
                quad % 2 * (self.outputs / 2) + quad / 2 * LANES + lane
            }
            _ => column,
        }
    }

    /// The packed tensor; `load` makes elements of `size` stored bytes each.
    fn place<T>(&self, bytes: &[u8], size: usize, load: impl Fn(&[u8], &mut [T]) + Sync) -> Vec<u32>
    where
        T: bytemuck::Pod + Send,
    {
        let rows = self.inner * self.padded_inputs;
        // Rows are whole quads: an even number of 16-bit elements.
        let mut packed = vec![0u32; rows * self.pitch * size_of::<T>() / size_of::<u32>()];
        let elements: &mut [T] = bytemuck::cast_slice_mut(&mut packed);
        let strips = elements.chunks_mut((rows * self.strip).max(1)).enumerate();
        let fill = |(strip, to): (usize, &mut [T])| match self.packing {
            Packing::Transposed => self.fill_rows(bytes, size, strip * self.strip, to, &load),
            _ => self.fill_strip(bytes, size, strip * self.strip, to, &load),
        };
        if bytes.len() < PARALLEL_BYTES {
            strips.for_each(fill);
        } else {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let mut shares: Vec<Vec<(usize, &mut [T])>> = (0..threads).map(|_| Vec::new()).collect();
            strips.for_each(|strip| shares[strip.0 % threads].push(strip));
            thread::scope(|scope| {
                for share in shares {
                    scope.spawn(|| share.into_iter().for_each(fill));
                }
            });
        }
        packed
    }

    /// A strip of columns from `first` on, of a tensor that has them as rows.
    fn fill_strip<T>(
        &self,
        bytes: &[u8],
        size: usize,
        first: usize,
        to: &mut [T],
        load: impl Fn(&[u8], &mut [T]),
    ) where
        T: bytemuck::Pod,
    {
        let width = self.strip.min(self.pitch - first);
        let mut block = vec![T::zeroed(); BLOCK * self.inner];
        for i0 in (0..self.inputs).step_by(BLOCK) {
            let n = BLOCK.min(self.inputs - i0) * self.inner;
            for column in 0..width.min(self.outputs - first) {
                let start = (self.row(first + column) * self.inputs + i0) * self.inner;
                load(&bytes[start * size..(start + n) * size], &mut block[..n]);
                for tap in 0..self.inner {
                    let from = block[tap..n].iter().step_by(self.inner);
                    let rows = to[(tap * self.padded_inputs + i0) * width..].chunks_exact_mut(width);
                    rows.zip(from).for_each(|(row, value)| row[column] = *value);
                }
            }
        }
    }

    /// A strip of columns from `first` on, of a tensor that has them as columns.
    fn fill_rows<T>(
        &self,
        bytes: &[u8],
        size: usize,
        first: usize,
        to: &mut [T],
        load: impl Fn(&[u8], &mut [T]),
    ) {
        let width = self.strip.min(self.pitch - first);
        let n = width.min(self.outputs - first);
        for (row, to) in to.chunks_exact_mut(width).take(self.inputs).enumerate() {
            let start = row * self.outputs + first;
            load(&bytes[start * size..(start + n) * size], &mut to[..n]);
        }
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
                let packed = pack(&bytes(values, encoding), encoding, shape, packing, &ty);
                bytemuck::cast_slice::<u32, u8>(&packed).to_vec()
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

    /// As where several lie side by side.
    #[test]
    fn columns_beyond_a_tensors_own_are_zero() {
        let (inputs, outputs) = (3usize, 70usize);
        let layer: Vec<f32> = (0..inputs * outputs).map(|k| 1.0 + k as f32).collect(); // [O, I]
        let ty = TensorType::f32([4, 128]).in_strips();
        let packed =
            pack(bytemuck::cast_slice(&layer), Encoding::F32, &[outputs, inputs], Packing::Linear, &ty);
        let rows = ty.to_rows(bytemuck::cast_slice(&packed));
        let rows: &[f32] = bytemuck::cast_slice(&rows);
        for (at, value) in rows.iter().enumerate() {
            let (i, o) = (at / 128, at % 128);
            let expected = if i < inputs && o < outputs { layer[o * inputs + i] } else { 0.0 };
            assert_eq!(*value, expected, "input {i} of output {o}");
        }
        let vector = pack(
            bytemuck::cast_slice(&layer),
            Encoding::F32,
            &[outputs],
            Packing::Vector,
            &TensorType::f32([128]),
        );
        let vector: &[f32] = bytemuck::cast_slice(&vector);
        assert_eq!(vector[..outputs], layer[..outputs]);
        assert!(vector.len() == 128 && vector[outputs..].iter().all(|value| *value == 0.0));
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

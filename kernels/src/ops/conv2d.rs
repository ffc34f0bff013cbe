//! Two-dimensional convolution.

use std::any::Any;
use std::sync::Arc;

use super::bands::aligned_rows;
use super::contraction::{Band, Contraction};
use super::{
    Activation, Epilogue, MatMul, check_count, check_float, check_shape, check_whole, f16, f32, shape_error,
};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Absorbed, Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::{DType, LANES, Shape, TensorType};

/// Convolution (cross-correlation) over the two dimensions before the innermost, with zero padding.
///
/// `y[b, i, j, o] = epilogue(sum_(u, v, c) x[b, i * stride_y + u - top, j * stride_x + v - left, c] * w[u, v, c, o])`
///
/// # Shapes    `x: [B, H, W, C]` f32 | f16; `w: [KH, KW, C', O]`, any dtype, where `C'` is `C` rounded up to a multiple of 4
/// (rows from `C` on are not used, and finite); then [`Epilogue`]'s -> `y: [B, OH, OW, O]` as `x`
/// or as the epilogue says
/// # Units     `stride`, `padding`: pixels of `x`
/// # Numerics  class Contraction over KH * KW * C
/// # Errors    [`OpError::Shape`] if a stride is 0 or the kernel exceeds the padded image
/// # Source    torch.nn.functional.conv2d with the weight permuted from OIHW
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// Step along H and W.
    pub stride: [usize; 2],
    /// Zeros around the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// What follows the sums.
    pub epilogue: Epilogue,
}

impl Default for Conv2d {
    /// Stride 1, no padding.
    fn default() -> Self {
        Conv2d { stride: [1, 1], padding: [0; 4], epilogue: Epilogue::default() }
    }
}

impl Conv2d {
    /// Whether every output pixel depends on one input pixel, in order: a matrix product.
    fn is_pointwise(&self, w: &TensorType) -> bool {
        self.stride == [1, 1] && self.padding == [0; 4] && w.shape[..2] == [1, 1]
    }

    /// The pixels of `x`, as `(first, count)`, between the first and the last that `pixels` of `y` depend on; some, where they
    /// depend on none. Pixels are counted across the batch.
    fn input_pixels(
        &self,
        x: &TensorType,
        w: &TensorType,
        y: &TensorType,
        pixels: (usize, usize),
    ) -> (usize, usize) {
        let (height, width) = (x.shape[1], x.shape[2]);
        let (out_height, out_width) = (y.shape[1], y.shape[2]);
        // Rows of x under the kernel of an output row, if not all of it lies in padding.
        let read = |row: usize| {
            let (image, top) = (row / out_height * height, row % out_height * self.stride[0]);
            let first = top.saturating_sub(self.padding[0]);
            let end = (top + w.shape[0]).saturating_sub(self.padding[0]).min(height);
            (first < end).then_some((image + first, image + end))
        };
        let mut rows = pixels.0 / out_width..(pixels.0 + pixels.1 - 1) / out_width + 1;
        // They follow one another as output rows do.
        let (first, _) = rows.clone().find_map(read).unwrap_or((0, 1));
        let (_, end) = rows.rfind(|row| read(*row).is_some()).and_then(read).unwrap_or((0, 1));
        (first * width, (end - first) * width)
    }

    /// Bands of output pixels whose windows on `x`, the result and the residual may be bound.
    fn bands(&self, inputs: &[TensorType], y: &TensorType, caps: &Caps) -> Result<Vec<Band>, OpError> {
        let (x, w) = (&inputs[0], &inputs[1]);
        let mut banded = vec![y];
        banded.extend(self.epilogue.residual.then(|| inputs.last().expect("inferred")));
        let aligned = |ty: &TensorType| aligned_rows(ty.row_bytes(), caps.binding_alignment) as usize;
        // All are powers of two: the largest is a multiple of the others.
        let step = banded.iter().map(|ty| aligned(ty)).max().unwrap_or(1);
        let x_step = aligned(x);
        let split = |rows: usize| -> Vec<((usize, usize), (usize, usize))> {
            let bands = (0..y.rows()).step_by(rows).map(|first| (first, rows.min(y.rows() - first)));
            bands
                .map(|pixels| {
                    let (first, count) = self.input_pixels(x, w, y, pixels);
                    let start = first / x_step * x_step;
                    (pixels, (start, count + first - start))
                })
                .collect()
        };
        let limit = caps.max_binding_bytes;
        let bytes = |rows: usize, ty: &TensorType| rows as u64 * ty.row_bytes();
        let widest = |rows: usize| split(rows).iter().map(|(_, x)| x.1).max().unwrap_or(0);
        let row_bytes = banded.iter().map(|ty| ty.row_bytes()).max().unwrap_or(1).max(1);
        // One band may begin and end anywhere. More rows than fit may be followed by more that do: whole rows of the image need
        // fewer of x.
        let most = ((limit / row_bytes) as usize).min(y.rows()) / step * step;
        let mut candidates = [y.rows().max(1)].into_iter().chain((step..=most).rev().step_by(step));
        let fits = |rows: usize| rows as u64 * row_bytes <= limit && bytes(widest(rows), x) <= limit;
        let rows = candidates.find(|rows| fits(*rows)).ok_or_else(|| {
            let bytes = bytes(widest(step), x).max(step as u64 * row_bytes);
            OpError::TooLarge { op: self.name(), operand: "rows", bytes, limit }
        })?;
        let band = |(pixels, x): ((usize, usize), (usize, usize))| Band {
            y: pixels,
            a: x,
            addressing: self.addressing(inputs, y, x.0),
        };
        Ok(split(rows).into_iter().map(band).collect())
    }

    fn addressing(&self, inputs: &[TensorType], y: &TensorType, first_pixel: usize) -> Vec<u32> {
        let (x, w) = (&inputs[0].shape, &inputs[1].shape);
        let [top, _, left, _] = self.padding;
        let pair = |[low, high]: [usize; 2]| low | high << 16;
        let pairs = [[w[0], w[1]], self.stride, [top, left]].map(pair);
        let extents = [first_pixel, x[1], x[2], y.shape[2]];
        extents.into_iter().chain(pairs).map(|v| v as u32).collect()
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn attributes(&self) -> Attributes {
        let mut attributes = vec![("stride", self.stride[..].into()), ("padding", self.padding[..].into())];
        attributes.extend(self.epilogue.attributes());
        attributes
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 2 + self.epilogue.operands())?;
        let (x, w) = (&inputs[0], &inputs[1]);
        check_float(self, "x", x)?;
        if x.shape.len() != 4 {
            return Err(shape_error(self, "x", "[B, H, W, C]", x));
        }
        let rows = x.channels().next_multiple_of(LANES);
        if w.shape.len() != 4 {
            return Err(shape_error(self, "w", format!("[KH, KW, {rows}, O]"), w));
        }
        check_shape(self, "w", w, &[w.shape[0], w.shape[1], rows, w.channels()])?;
        if self.stride.contains(&0) || w.shape[..2].contains(&0) {
            let (expected, found) =
                ("a stride and a kernel of at least 1".to_owned(), Shape::from(self.stride));
            return Err(OpError::Shape { op: self.name(), operand: "w", expected, found });
        }
        let [top, bottom, left, right] = self.padding;
        let mut shape = [x.shape[0], 0, 0, self.epilogue.outputs(w.channels())];
        for (axis, padding) in [(0, top + bottom), (1, left + right)] {
            let steps = (x.shape[1 + axis] + padding).checked_sub(w.shape[axis]);
            let steps = steps.ok_or_else(|| {
                shape_error(self, "x", format!("an image that holds a kernel of {}", w.shape), x)
            })?;
            shape[1 + axis] = steps / self.stride[axis] + 1;
        }
        let y = self.epilogue.result(x.dtype, shape);
        self.epilogue.check(self, &inputs[2..], &y, w.channels(), x.shape[0], None)?;
        Ok(y)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
        let y = self.infer(&types).expect("inferred");
        let (x, w) = (inputs[0], inputs[1]);
        let [_, height, width, channels] = extents(x.ty());
        let [kernel_height, kernel_width, w_rows, columns] = extents(w.ty());
        let [batch, out_height, out_width, _] = extents(&y);
        let mut sums = vec![0.0f64; columns];
        let mut data = Vec::with_capacity(y.shape.elements());
        for pixel in 0..batch * out_height * out_width {
            let (row, j) = (pixel / out_width, pixel % out_width);
            let (b, i) = (row / out_height, row % out_height);
            sums.fill(0.0);
            for (u, v) in (0..kernel_height).flat_map(|u| (0..kernel_width).map(move |v| (u, v))) {
                let iy = (i * self.stride[0] + u).checked_sub(self.padding[0]).filter(|iy| *iy < height);
                let ix = (j * self.stride[1] + v).checked_sub(self.padding[2]).filter(|ix| *ix < width);
                let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                for c in 0..channels {
                    let value = x.at(((b * height + iy) * width + ix) * channels + c);
                    let at = ((u * kernel_width + v) * w_rows + c) * columns;
                    let w_row = &w.data()[at..at + columns];
                    sums.iter_mut().zip(w_row).for_each(|(sum, w)| *sum += value * f64::from(*w));
                }
            }
            let (sum, rows) = (|column: usize| sums[column], out_height * out_width);
            let values = (pixel * y.channels()..(pixel + 1) * y.channels())
                .map(|index| self.epilogue.apply(sum, index, y.channels(), rows, &inputs[2..]) as f32);
            data.extend(values);
        }
        HostTensor::new(y, data)
    }

    fn reference_at(&self, inputs: &[&HostTensor], positions: &[usize]) -> Option<Vec<f32>> {
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
        let y = self.infer(&types).expect("inferred");
        let (x, w) = (inputs[0], inputs[1]);
        let [_, height, width, channels] = extents(x.ty());
        let [kernel_height, kernel_width, w_rows, columns] = extents(w.ty());
        let [_, out_height, out_width, _] = extents(&y);
        let sum = |pixel: usize, column: usize| {
            let (row, j) = (pixel / out_width, pixel % out_width);
            let (b, i) = (row / out_height, row % out_height);
            let mut sum = 0.0f64;
            for (u, v) in (0..kernel_height).flat_map(|u| (0..kernel_width).map(move |v| (u, v))) {
                let iy = (i * self.stride[0] + u).checked_sub(self.padding[0]).filter(|iy| *iy < height);
                let ix = (j * self.stride[1] + v).checked_sub(self.padding[2]).filter(|ix| *ix < width);
                let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                let (x_at, w_at) =
                    (((b * height + iy) * width + ix) * channels, (u * kernel_width + v) * w_rows);
                sum +=
                    (0..channels).map(|c| x.at(x_at + c) * w.at((w_at + c) * columns + column)).sum::<f64>();
            }
            sum
        };
        let element = |at: &usize| {
            let sum = |column: usize| sum(at / y.channels(), column);
            let value = self.epilogue.apply(sum, *at, y.channels(), out_height * out_width, &inputs[2..]);
            y.dtype.round(value as f32)
        };
        Some(positions.iter().map(element).collect())
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let y = self.infer(inputs)?;
        let w = &inputs[1];
        if self.is_pointwise(w) {
            let mut inputs = inputs.to_vec();
            inputs[1] = TensorType { shape: w.shape[2..].into(), ..w.clone() };
            return MatMul::new(self.epilogue.clone()).variants(&inputs, caps);
        }
        check_whole(self.name(), "w", w, caps)?;
        let contraction = Contraction {
            inputs,
            bands: self.bands(inputs, &y, caps)?,
            batch_rows: y.shape[1] * y.shape[2],
            y,
            epilogue: &self.epilogue,
            batches: 1,
            conv: true,
        };
        contraction.variants(self.name(), caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        let [kernel_height, kernel_width, _, columns] = extents(&inputs[1]);
        let terms = kernel_height * kernel_width * inputs[0].channels();
        Cost::new(2 * (y.rows() * columns * terms) as u64, inputs, &y)
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        Class::Contraction { k: inputs[1].shape[0] * inputs[1].shape[1] * inputs[0].channels() }
    }

    fn absorb(&self, next: &dyn Op, slot: usize, types: &[TensorType]) -> Option<Absorbed> {
        let (epilogue, extra_operands) = self.epilogue.absorb(next, slot, types)?;
        Some(Absorbed { op: Arc::new(Conv2d { epilogue, ..self.clone() }), extra_operands })
    }

    fn in_columns(&self, slot: usize, first: usize) -> Option<Arc<dyn Op>> {
        let epilogue =
            self.epilogue.in_columns(first).filter(|_| self.epilogue.batch_position(2) == Some(slot))?;
        Some(Arc::new(Conv2d { epilogue, ..self.clone() }))
    }

    fn operand_scales(&self, inputs: &[TensorType]) -> Vec<f64> {
        let (x, w) = (&inputs[0], &inputs[1]);
        vec![1.0, self.epilogue.weight_scale(w.shape[0] * w.shape[1] * x.channels())]
    }

    fn cases(&self) -> Vec<Case> {
        let same = Conv2d { padding: [1; 4], ..Conv2d::default() };
        let down = Conv2d { stride: [2, 2], ..same.clone() };
        // What the VAE's encoder does before each of its halvings.
        let down_right = Conv2d { stride: [2, 2], padding: [0, 1, 0, 1], ..Conv2d::default() };
        let wide = Conv2d { stride: [1, 3], padding: [0, 2, 3, 4], ..Conv2d::default() };
        let mut cases = Vec::new();
        for (conv, image, kernel, columns) in [
            (&same, [1, 1, 1, 1], [3, 3], 1),
            (&same, [1, 5, 7, 3], [3, 3], 8),
            (&same, [2, 9, 8, 12], [3, 3], 72),
            (&same, [1, 6, 5, 10], [3, 3], 30),
            (&same, [1, 12, 12, 20], [3, 3], 136),
            (&down, [2, 7, 9, 8], [3, 3], 16),
            (&down_right, [1, 8, 6, 4], [3, 3], 24),
            (&wide, [2, 6, 11, 7], [2, 5], 17),
            (&Conv2d::default(), [2, 3, 5, 16], [1, 1], 8),
            (&Conv2d { stride: [2, 2], ..Conv2d::default() }, [1, 5, 4, 8], [1, 1], 8),
        ] {
            let w = [kernel[0], kernel[1], usize::next_multiple_of(image[3], LANES), columns];
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let w = TensorType::new(dtype, w).in_strips();
                cases.push(Case::new(conv.clone(), [f32(image), w]));
            }
            cases.push(Case::new(conv.clone(), [f16(image), f16(w)]));
        }
        // Where rows of x start off the alignment of bindings, and a small limit splits it.
        let w = [3, 3, 4, 8];
        cases.push(Case::new(same.clone(), [f32([1, 37, 35, 3]), f16(w)]));
        cases.push(Case::new(down_right.clone(), [f16([3, 41, 33, 3]), f16(w)]));
        let silu = Some(Activation::Silu);
        let full = Epilogue { batch_bias: true, activation: silu, residual: true, ..Epilogue::bias() };
        // Long sums of few pixels, which variants may split.
        let types = [f16([2, 3, 3, 1024]), f16([1, 3, 1024, 24]), f32([24]), f32([2, 24])];
        let timed = Epilogue { batch_bias: true, ..Epilogue::bias() };
        cases.push(Case::new(Conv2d { epilogue: timed.clone(), ..same.clone() }, types));
        let types = [f16([3, 13, 11, 8]), f16([3, 3, 8, 40]), f32([40]), f32([3, 40])];
        cases.push(Case::new(Conv2d { epilogue: timed.clone(), ..same.clone() }, types));
        // Of time embeddings that others have some columns of, in one dispatch, in split sums, and in bands.
        for (x, w, batch_column, columns) in [
            (f32([2, 5, 4, 8]), f16([3, 3, 8, 24]), 12, 40),
            (f16([2, 5, 4, 8]), f16([3, 3, 8, 18]), 4, 22),
            (f16([2, 3, 3, 1024]), f16([1, 3, 1024, 24]), 32, 56),
            (f16([3, 41, 33, 3]), f16([3, 3, 4, 8]), 4, 16),
        ] {
            let epilogue = Epilogue { batch_column, ..timed.clone() };
            let operands = [f32([w.channels()]), TensorType::new(x.dtype, [x.shape[0], columns])];
            let types: Vec<TensorType> = [x, w].into_iter().chain(operands).collect();
            cases.push(Case::new(Conv2d { epilogue, ..same.clone() }, types));
        }
        let types = [f32([1, 4, 5, 344]), f16([3, 3, 344, 10])];
        cases.push(Case::new(same.clone(), types));
        let cast = Epilogue { dtype: Some(DType::F16), ..Epilogue::default() };
        let types = [f32([1, 6, 5, 4]), f16([3, 3, 4, 9])];
        cases.push(Case::new(Conv2d { epilogue: cast, ..same.clone() }, types));
        for columns in [18, 24] {
            let y = [2, 4, 3, columns];
            let types =
                [f32([2, 4, 3, 8]), f16([3, 3, 8, columns]), f32([columns]), f32([2, columns]), f32(y)];
            cases.push(Case::new(Conv2d { epilogue: full.clone(), ..same.clone() }, types));
        }
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn extents(ty: &TensorType) -> [usize; 4] {
    [ty.shape[0], ty.shape[1], ty.shape[2], ty.shape[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Activate, Add};

    /// The extents that the tests' convolution reads: `x`, `w`, and padding that differs on every side.
    fn uneven() -> (Conv2d, [TensorType; 2]) {
        let conv = Conv2d { stride: [2, 1], padding: [0, 1, 1, 2], epilogue: Epilogue::default() };
        (conv, [f32([1, 4, 3, 2]), f32([3, 2, 4, 2])])
    }

    #[test]
    fn the_reference_is_torchs() {
        let (conv, [x, w]) = uneven();
        let x = HostTensor::from_fn(x, |i| ((i * 7 % 11) as f64 - 5.0) / 2.0);
        let w = HostTensor::from_fn(w, |i| ((i * 5 % 13) as f64 - 6.0) / 4.0);
        let y = conv.reference(&[&x, &w]);
        assert_eq!(y.shape()[..], [1, 2, 5, 2]);
        let expected = [
            3.625, 1.0, 6.0, 0.25, 6.375, -1.125, -7.25, 1.375, 0.0, 0.0, //
            0.5, 1.25, -8.375, 2.25, -0.75, -3.5, 8.25, -2.75, 0.0, 0.0,
        ];
        assert_eq!(y.data(), expected);
    }

    #[test]
    fn bands_cover_the_result_once_and_hold_every_pixel_they_read() {
        let conv = Conv2d { stride: [2, 1], padding: [2, 1, 0, 3], epilogue: Epilogue::default() };
        let inputs = [f32([3, 11, 5, 3]), f32([4, 2, 4, 2])];
        let y = conv.infer(&inputs).expect("valid");
        let caps = Caps { max_binding_bytes: 640, binding_alignment: 64, ..Caps::webgpu() };
        let bands = conv.bands(&inputs, &y, &caps).expect("bands fit");
        assert!(bands.len() > 3, "{}", bands.len());
        let mut next = 0;
        for band in bands {
            assert_eq!(band.y.0, next);
            next += band.y.1;
            for ((first, rows), ty) in [(band.a, &inputs[0]), (band.y, &y)] {
                assert_eq!(first as u64 * ty.row_bytes() % caps.binding_alignment, 0);
                assert!(rows as u64 * ty.row_bytes() <= caps.max_binding_bytes);
                assert!(first + rows <= ty.rows());
            }
            for pixel in band.y.0..next {
                let row = pixel / y.shape[2];
                let (image, top) = (row / y.shape[1], row % y.shape[1] * 2);
                for iy in (top..top + 4).filter_map(|iy| iy.checked_sub(2)).filter(|iy| *iy < 11) {
                    let first = (image * 11 + iy) * 5;
                    assert!(band.a.0 <= first && first + 5 <= band.a.0 + band.a.1, "row {iy} of {pixel}");
                }
            }
        }
        assert_eq!(next, y.rows());
    }

    #[test]
    fn bands_are_as_few_as_bindings_allow() {
        // 32 bytes a pixel of y, rows of 24 pixels: a band may begin at each eighth pixel.
        let same = Conv2d { padding: [1; 4], ..Conv2d::default() };
        let rows = |channels, max_binding_bytes| {
            let inputs = [f32([1, 20, 24, channels]), f32([3, 3, channels.next_multiple_of(4), 8])];
            let y = same.infer(&inputs).expect("valid");
            let caps = Caps { max_binding_bytes, ..Caps::webgpu() };
            same.bands(&inputs, &y, &caps).map(|bands| bands.iter().map(|band| band.y.1).collect::<Vec<_>>())
        };
        // Of nothing there is none.
        let inputs = [f32([0, 20, 24, 4]), f32([3, 3, 4, 8])];
        let nothing = same.infer(&inputs).and_then(|y| same.bands(&inputs, &y, &Caps::webgpu()));
        assert!(nothing.is_ok_and(|bands| bands.is_empty()));
        // All of it, half of it and a bit, and a bit less.
        assert_eq!(rows(4, 20 * 24 * 32), Ok(vec![480]));
        assert_eq!(rows(4, 10 * 24 * 32 + 255), Ok(vec![240, 240]));
        assert_eq!(rows(4, 10 * 24 * 32 - 1), Ok(vec![232, 232, 16]));
        // Rows of x take 768 bytes, and a band those above and below, too.
        assert_eq!(rows(8, 4 * 768), Ok(vec![48; 10]));
        assert_eq!(rows(8, 3 * 768), Ok(vec![24; 20]));
        assert!(matches!(rows(8, 2 * 768), Err(OpError::TooLarge { bytes: 2304, limit: 1536, .. })));
        // Of a result with rows of 4000 bytes, eight.
        let inputs = [f32([1, 4, 4, 4]), f32([3, 3, 4, 1000])];
        let y = same.infer(&inputs).expect("valid");
        let caps = Caps { max_binding_bytes: 16_000, ..Caps::webgpu() };
        let error = same.bands(&inputs, &y, &caps).err();
        assert!(matches!(error, Some(OpError::TooLarge { bytes: 32_000, limit: 16_000, .. })), "{error:?}");
    }

    #[test]
    fn a_pointwise_convolution_is_a_matrix_product() {
        let (_, [x, _]) = uneven();
        let inputs = [x, f32([1, 1, 4, 8])];
        for variant in Conv2d::default().variants(&inputs, &Caps::webgpu()).expect("variants") {
            assert!(variant.name.starts_with("matmul_"), "{}", variant.name);
            assert!(variant.dispatches.iter().all(|d| !d.shader.flags.contains(&"CONV")));
        }
    }

    #[test]
    fn a_time_embedding_an_activation_and_a_skip_connection_are_absorbed() {
        let (y, embedding) = (f32([2, 4, 4, 8]), f32([2, 1, 1, 8]));
        let conv = Conv2d { epilogue: Epilogue::bias(), ..Conv2d::default() };
        let absorbed = conv.absorb(&Add, 0, &[y.clone(), embedding]).expect("absorbed");
        assert_eq!(absorbed.extra_operands, [1]);
        let absorbed =
            absorbed.op.absorb(&Activate(Activation::Silu), 0, std::slice::from_ref(&y)).expect("absorbed");
        let absorbed = absorbed.op.absorb(&Add, 1, &[y.clone(), y]).expect("absorbed");
        assert_eq!(absorbed.extra_operands, [0]);
        let fused: &Conv2d = absorbed.op.as_any().downcast_ref().expect("a convolution");
        let activation = Some(Activation::Silu);
        let expected = Epilogue { batch_bias: true, activation, residual: true, ..Epilogue::bias() };
        assert_eq!(fused.epilogue, expected);
    }

    #[test]
    fn a_time_embedding_among_others_begins_at_a_quad_and_has_every_column() {
        let infer = |batch_column, columns| {
            let epilogue = Epilogue { batch_bias: true, batch_column, ..Epilogue::default() };
            let conv = Conv2d { epilogue, ..Conv2d::default() };
            conv.infer(&[f32([2, 4, 4, 8]), f32([1, 1, 8, 10]), f32([2, columns])])
        };
        assert_eq!(infer(4, 14), Ok(f32([2, 4, 4, 10])));
        let refused = |batch_column, columns| {
            let error = infer(batch_column, columns).expect_err("refused").to_string();
            error.strip_prefix("conv2d: batch_bias: expected ").map(str::to_owned).unwrap_or(error)
        };
        assert_eq!(refused(4, 13), "[2, 14 or more], from a multiple of 4 on, found [2, 13]");
        assert_eq!(refused(6, 20), "[2, 16 or more], from a multiple of 4 on, found [2, 20]");
        assert!(infer(0, 262_140).is_ok() && infer(0, 262_141).is_err(), "rows of 65,535 quads");
    }

    #[test]
    fn a_time_embedding_alone_is_read_among_columns() {
        let conv = Conv2d {
            epilogue: Epilogue { batch_bias: true, residual: true, ..Epilogue::bias() },
            ..Conv2d::default()
        };
        let moved = conv.in_columns(3, 8).and_then(|op| op.in_columns(3, 4)).expect("the batch bias");
        let moved: &Conv2d = moved.as_any().downcast_ref().expect("a convolution");
        assert_eq!(moved.epilogue, Epilogue { batch_column: 12, ..conv.epilogue.clone() });
        assert!([0, 1, 2, 4].into_iter().all(|slot| conv.in_columns(slot, 8).is_none()));
        assert!(Conv2d::default().in_columns(3, 8).is_none());
    }

    #[test]
    fn a_kernel_larger_than_the_padded_image_and_a_stride_of_zero_are_errors() {
        let small = Conv2d::default().infer(&[f32([1, 2, 9, 4]), f32([3, 3, 4, 1])]);
        assert!(matches!(small, Err(OpError::Shape { operand: "x", .. })), "{small:?}");
        let (conv, inputs) = uneven();
        let still = Conv2d { stride: [0, 1], ..conv }.infer(&inputs);
        assert!(matches!(still, Err(OpError::Shape { operand: "w", .. })), "{still:?}");
    }
}

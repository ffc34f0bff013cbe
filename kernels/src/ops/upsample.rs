//! Nearest-neighbour resizing of images.

use std::any::Any;

use super::gather::gather_bands;
use super::{check_count, check_float, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Dispatch, Op, OpError, Variant, fold_grid};
use crate::types::TensorType;
use crate::wgsl::Shader;

/// `y[b, i, j, c] = x[b, source(i), source(j), c]` with `source(i) = min(floor(i * (in / out)), in - 1)`.
///
/// # Shapes    `x: [B, h, w, C]` f32 | f16 -> `y: [B, H, W, C]` as `x`
/// # Numerics  class Move; the quotient and the product of `source` are rounded to f32, as torch has them
/// # Errors    [`OpError::Shape`] if `x` is not an image or an extent is zero
/// # Source    torch.nn.functional.interpolate(size=(H, W), mode="nearest")
#[derive(Clone, Debug)]
pub struct Upsample {
    /// `H`, rows of the result.
    pub height: usize,
    /// `W`, columns of the result.
    pub width: usize,
}

/// Source positions per position of the result.
fn scale(from: usize, to: usize) -> f32 {
    from as f32 / to as f32
}

fn source(at: usize, from: usize, to: usize) -> usize {
    ((at as f32 * scale(from, to)) as usize).min(from - 1)
}

impl Op for Upsample {
    fn name(&self) -> &'static str {
        "upsample"
    }

    fn attributes(&self) -> Attributes {
        vec![("height", self.height.into()), ("width", self.width.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        let (&[batch, h, w, channels], true) = (&*x.shape, self.height > 0 && self.width > 0) else {
            let expected = format!("[B, h, w, C] to become [B, {}, {}, C]", self.height, self.width);
            return Err(shape_error(self, "x", expected, x));
        };
        if h == 0 || w == 0 {
            return Err(shape_error(self, "x", "an image that is not empty", x));
        }
        Ok(TensorType::new(x.dtype, [batch, self.height, self.width, channels]))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let x = inputs[0];
        let y = self.infer(&[x.ty().clone()]).expect("inferred");
        let (h, w, channels) = (x.shape()[1], x.shape()[2], x.shape()[3]);
        HostTensor::from_fn(y, |i| {
            let (pixel, c) = (i / channels, i % channels);
            let (line, j) = (pixel / self.width, pixel % self.width);
            let (b, i) = (line / self.height, line % self.height);
            let row = (b * h + source(i, h, self.height)) * w + source(j, w, self.width);
            x.at(row * channels + c)
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let y = self.infer(inputs)?;
        let (h, w) = (x.shape[1], x.shape[2]);
        let line = |row: usize| {
            let line = row / self.width;
            line / self.height * h + source(line % self.height, h, self.height)
        };
        let touched =
            |_: usize, rows: std::ops::Range<usize>| line(rows.start) * w..(line(rows.end - 1) + 1) * w;
        let shader = Shader::new("upsample").encoding("x", x.dtype).encoding("y", y.dtype);
        let dispatches = gather_bands(self.name(), inputs, &y, caps, touched)?
            .into_iter()
            .map(|band| {
                let quads = band.rows * y.quads();
                let extents = [quads, y.quads(), band.first, self.height, self.width, h, w];
                let mut params: Vec<u32> = extents.map(|v| v as u32).into();
                params.push(scale(h, self.height).to_bits());
                params.push(scale(w, self.width).to_bits());
                params.push(band.origin(0, inputs) as u32);
                Dispatch {
                    shader: shader.clone(),
                    binds: vec![band.read(0, inputs), band.write(1, &y)],
                    params,
                    grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                    tile_flops: 0,
                }
            })
            .collect();
        Ok(vec![Variant { name: "upsample", dispatches, scratch: Vec::new() }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost::new(0, inputs, &y)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Move
    }

    fn cases(&self) -> Vec<Case> {
        let to = |height, width, x| Case::new(Upsample { height, width }, [x]);
        vec![
            to(1, 1, f32([1, 1, 1, 1])),
            to(2, 2, f32([1, 1, 1, 3])),
            to(9, 19, f32([2, 5, 10, 6])),
            to(27, 6, f32([1, 14, 3, 30])),
            to(16, 18, f32([1, 8, 9, 8])),
            to(25, 31, f32([1, 7, 33, 5])),
            to(5, 4, f32([1, 9, 7, 4])),
            // 41 * (2 / 82) is below 1 in f32.
            to(82, 3, f32([1, 2, 1, 1])),
            to(9, 10, f16([2, 5, 5, 10])),
            to(65, 17, f16([1, 33, 9, 3])),
        ]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source rows of a picture one column wide.
    fn rows(from: u8, to: usize) -> Vec<u8> {
        let x = HostTensor::f32([1, usize::from(from), 1, 1], (0..from).map(f32::from).collect());
        let y = Upsample { height: to, width: 1 }.reference(&[&x]);
        y.data().iter().map(|v| *v as u8).collect()
    }

    #[test]
    fn indices_are_those_of_torch_interpolate() {
        assert_eq!(rows(5, 9), [0, 0, 1, 1, 2, 2, 3, 3, 4]);
        assert_eq!(rows(10, 19), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]);
        let expected =
            [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13];
        assert_eq!(rows(14, 27), expected);
        assert_eq!(rows(9, 5), [0, 1, 3, 5, 7]);
        let expected = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6];
        assert_eq!(rows(7, 25), expected);
    }

    #[test]
    fn the_index_is_rounded_as_torch_rounds_it() {
        // Exact arithmetic would take row 1 from 41 on; torch takes it from 42 on.
        let found = rows(2, 82);
        assert_eq!((found[40], found[41], found[42]), (0, 0, 1));
        let found = rows(3, 123);
        assert_eq!((found[41], found[42], found[82], found[83]), (0, 1, 1, 2));
    }

    #[test]
    fn a_band_reads_less_than_the_whole_picture() {
        let caps = Caps { max_binding_bytes: 8 << 10, ..Caps::webgpu() };
        let inputs = [f32([1, 19, 8, 30])];
        let variants = Upsample { height: 37, width: 16 }.variants(&inputs, &caps).expect("bands fit");
        assert!(variants[0].dispatches.len() > 4);
        assert!(variants[0].dispatches.iter().all(|d| d.binds.iter().all(|b| b.window.is_some())));
    }
}

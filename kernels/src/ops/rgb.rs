//! Pictures for the host: from a decoder's result ([`ToRgb`]) and, roughly, from latents ([`LatentsToRgb`]).

use std::any::Any;

use super::bands::bands;
use super::{check_count, check_float, check_shape, check_whole, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::types::{DType, LANES, TensorType};
use crate::wgsl::Shader;

/// `y = clamp(x / 2 + 1/2, 0, 1)`; values that are not finite stay as they are, so that the host can tell.
///
/// # Shapes    `x: [B, H, W, C]` f32 | f16 -> `y: [B, H, W, C]` f32
/// # Units     `x`: -1 black ..= 1 full; `y`: 0 ..= 1
/// # Numerics  class Elementwise
/// # Source    diffusers.image_processor.VaeImageProcessor.denormalize
#[derive(Clone, Debug)]
pub struct ToRgb;

/// A preview of latents without a decoder: a linear map of each pixel's channels, then as [`ToRgb`].
///
/// `y[.., k] = clamp((sum_c z[.., c] * factors[c, k] + bias[k]) / 2 + 1/2, 0, 1)`
///
/// # Shapes    `z: [B, h, w, C]` f32 | f16; `factors: [C', 3]`, any dtype, where `C'` is `C` rounded up to a multiple of 4
///   (rows from `C` on are not used, and finite); `bias: [3]`, any dtype -> `y: [B, h, w, 3]` f32
/// # Units     `y`: 0 black ..= 1 full
/// # Numerics  class Contraction over C
#[derive(Clone, Debug)]
pub struct LatentsToRgb;

/// From -1 ..= 1 to 0 ..= 1.
fn unit_range(x: f64) -> f64 {
    if x.is_finite() { (x / 2.0 + 0.5).clamp(0.0, 1.0) } else { x }
}

impl Op for ToRgb {
    fn name(&self) -> &'static str {
        "to_rgb"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        if x.shape.len() != 4 {
            return Err(shape_error(self, "x", "[B, H, W, C]", x));
        }
        Ok(TensorType::f32(x.shape.clone()))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let x = inputs[0];
        HostTensor::from_fn(TensorType::f32(x.shape().clone()), |i| unit_range(x.at(i)))
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let y = self.infer(inputs)?;
        let shader = Shader::new("to_rgb").encoding("x", x.dtype).encoding("y", y.dtype);
        super::flat_variant("to_rgb", shader, inputs, &y, vec![y.channels() as u32], caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost::new(2 * y.shape.elements() as u64, inputs, &y)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new(ToRgb, [f32([1, 1, 1, 1])]),
            Case::new(ToRgb, [f32([1, 2, 3, 3])]),
            Case::new(ToRgb, [f32([2, 9, 7, 3])]),
            Case::new(ToRgb, [f32([1, 17, 16, 6])]),
            Case::new(ToRgb, [f16([1, 9, 5, 3])]),
        ]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Op for LatentsToRgb {
    fn name(&self) -> &'static str {
        "latents_to_rgb"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 3)?;
        let (z, factors, bias) = (&inputs[0], &inputs[1], &inputs[2]);
        check_float(self, "z", z)?;
        let &[batch, h, w, channels] = &*z.shape else {
            return Err(shape_error(self, "z", "[B, h, w, C]", z));
        };
        check_shape(self, "factors", factors, &[channels.next_multiple_of(LANES), 3])?;
        check_shape(self, "bias", bias, &[3])?;
        Ok(TensorType::f32([batch, h, w, 3]))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let (z, factors, bias) = (inputs[0], inputs[1], inputs[2]);
        let channels = z.shape().channels();
        let mut shape = z.shape().to_vec();
        shape[3] = 3;
        HostTensor::from_fn(TensorType::f32(shape), |i| {
            let (pixel, k) = (i / 3, i % 3);
            let sum: f64 = (0..channels).map(|c| z.at(pixel * channels + c) * factors.at(c * 3 + k)).sum();
            unit_range(sum + bias.at(k))
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let (z, factors, bias) = (&inputs[0], &inputs[1], &inputs[2]);
        let y = self.infer(inputs)?;
        check_whole(self.name(), "factors", factors, caps)?;
        let shader = Shader::new("latents_to_rgb")
            .encoding("z", z.dtype)
            .encoding("factors", factors.dtype)
            .encoding("bias", bias.dtype)
            .encoding("y", y.dtype);
        let dispatches = bands(self.name(), &[z, &y], caps)?
            .into_iter()
            .map(|(first, rows)| Dispatch {
                shader: shader.clone(),
                binds: vec![
                    Bind::read(0, Operand::Input(0)).rows(z, first, rows),
                    Bind::read(1, Operand::Input(1)),
                    Bind::read(2, Operand::Input(2)),
                    Bind::write(3, Operand::Output).rows(&y, first, rows),
                ],
                params: vec![rows as u32, z.quads() as u32],
                grid: fold_grid((rows as u64).div_ceil(64), caps.max_groups_per_axis),
                tile_flops: 0,
            })
            .collect();
        Ok(vec![Variant { name: "latents_to_rgb", dispatches, scratch: Vec::new() }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost::new(6 * inputs[0].shape.elements() as u64, inputs, &y)
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        Class::Contraction { k: inputs[0].channels() }
    }

    fn cases(&self) -> Vec<Case> {
        let of = |z: TensorType, dtype: DType| {
            let factors = TensorType::new(dtype, [z.channels().next_multiple_of(LANES), 3]);
            Case::new(LatentsToRgb, [z, factors, f32([3])])
        };
        vec![
            of(f32([1, 1, 1, 1]), DType::F32),
            of(f32([2, 9, 7, 4]), DType::F32),
            of(f32([1, 5, 13, 10]), DType::F16),
            of(f32([1, 17, 5, 16]), DType::Bf16),
            of(f16([1, 3, 5, 5]), DType::F32),
        ]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_halved_moved_and_clamped_but_for_what_is_not_finite() {
        let x = HostTensor::f32([1, 1, 1, 5], vec![-1.0, 0.5, 3.0, f32::INFINITY, f32::NAN]);
        let y = ToRgb.reference(&[&x]);
        assert_eq!(y.data()[..4], [0.0, 0.75, 1.0, f32::INFINITY]);
        assert!(y.data()[4].is_nan());
    }

    #[test]
    fn latents_are_mapped_by_columns_of_the_factors() {
        let z = HostTensor::f32([1, 1, 1, 2], vec![1.0, -2.0]);
        let factors =
            HostTensor::f32([4, 3], vec![0.5, 0.0, 1.0, 0.0, 0.25, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
        let bias = HostTensor::f32([3], vec![0.0, 0.0, 0.25]);
        // (0.5, -0.5, -0.75)
        assert_eq!(LatentsToRgb.reference(&[&z, &factors, &bias]).data(), [0.75, 0.25, 0.125]);
    }
}

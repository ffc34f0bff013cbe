//! The gated feed-forward activation of transformer blocks.

use std::any::Any;

use super::bands::bands;
use super::{Activation, check_count, check_float, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::types::TensorType;
use crate::wgsl::Shader;

/// `y[.., n] = x[.., n] * gelu(x[.., N + n])`, with the exact GELU.
///
/// # Shapes    `x: [.., 2 N]` f32 | f16 -> `y: [.., N]` as `x`
/// # Numerics  class Elementwise
/// # Errors    [`OpError::NotDivisible`] if the innermost extent is odd
/// # Source    Shazeer 2020; the halves as diffusers.models.activations.GEGLU has them
#[derive(Clone, Debug)]
pub struct Geglu;

impl Op for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        let mut shape = x.shape.to_vec();
        let Some(channels) = shape.last_mut().filter(|channels| **channels > 0) else {
            return Err(shape_error(self, "x", "[.., 2 N]", x));
        };
        if *channels % 2 != 0 {
            let value = *channels;
            return Err(OpError::NotDivisible { op: self.name(), what: "channels", value, divisor: 2 });
        }
        *channels /= 2;
        Ok(TensorType::new(x.dtype, shape))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let x = inputs[0];
        let y = self.infer(&[x.ty().clone()]).expect("inferred");
        let n = y.channels();
        HostTensor::from_fn(y, |i| {
            let hidden = i / n * 2 * n + i % n;
            x.at(hidden) * Activation::Gelu.apply(x.at(hidden + n))
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let y = self.infer(inputs)?;
        let shader = Shader::new("geglu").encoding("x", x.dtype).encoding("y", y.dtype);
        let dispatches = bands(self.name(), &[x, &y], caps)?
            .into_iter()
            .map(|(first, rows)| {
                let quads = rows * y.quads();
                Dispatch {
                    shader: shader.clone(),
                    binds: vec![
                        Bind::read(0, Operand::Input(0)).rows(x, first, rows),
                        Bind::write(1, Operand::Output).rows(&y, first, rows),
                    ],
                    params: vec![quads as u32, y.channels() as u32],
                    grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                }
            })
            .collect();
        Ok(vec![Variant { name: "geglu", dispatches, scratch: Vec::new() }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost::new(16 * y.shape.elements() as u64, inputs, &y)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = [[1, 2], [3, 6], [9, 14], [65, 20], [33, 256], [17, 130]]
            .into_iter()
            .map(|shape| Case::new(Geglu, [f32(shape)]))
            .collect();
        cases.push(Case::new(Geglu, [f32([2, 5, 24])]));
        cases.push(Case::new(Geglu, [f16([31, 10])]));
        cases.push(Case::new(Geglu, [f16([9, 64])]));
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_the_gate() {
        let x = HostTensor::f32([1, 6], vec![1.0, 2.0, 3.0, -1.0, 0.5, 2.0]);
        // hidden, gate = x.chunk(2, dim=-1); hidden * torch.nn.functional.gelu(gate), in float64
        let expected = [-0.158_655_253_931_457_02, 0.691_462_461_274_013_1, 5.863_499_208_310_925];
        for (found, expected) in Geglu.reference(&[&x]).data().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 3e-7, "{found} {expected}");
        }
    }

    #[test]
    fn an_odd_extent_is_refused() {
        let error = Geglu.infer(&[f32([2, 7])]).expect_err("odd");
        assert_eq!(error.to_string(), "geglu: channels 7 is not a multiple of 2");
    }
}

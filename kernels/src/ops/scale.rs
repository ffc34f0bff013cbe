//! Multiplication by a number.

use std::any::Any;

use super::{check_count, check_float, f16, f32, flat_variant};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::TensorType;
use crate::wgsl::Shader;

/// `y = factor * x`.
///
/// # Shapes    `x`: any, f32 | f16 -> `y` as `x`
/// # Numerics  `factor` is rounded to f32; class Elementwise
#[derive(Clone, Debug)]
pub struct Scale {
    /// The number.
    pub factor: f64,
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn attributes(&self) -> Attributes {
        vec![("factor", self.factor.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        check_float(self, "x", &inputs[0])?;
        Ok(inputs[0].clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        HostTensor::from_fn(inputs[0].ty().clone(), |i| self.factor * inputs[0].at(i))
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        // The pipeline of `Activate`: no activation, then the factor.
        let shader = Shader::new("activate").encoding("x", x.dtype).encoding("y", x.dtype);
        let params = vec![x.channels() as u32, 0, (self.factor as f32).to_bits()];
        flat_variant("scale", shader, &inputs[..1], x, params, caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(inputs[0].shape.elements() as u64, &inputs[..1], &inputs[0])
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        let by = |factor, x| Case::new(Scale { factor }, [x]);
        vec![
            by(0.18215, f32([1, 1])),
            by(-2.5, f32([3, 7])),
            by(1.0 / 0.18215, f32([65, 64])),
            by(0.125, f32([257, 30])),
            by(1.0 / 3.0, f16([33, 10])),
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
    fn every_element_is_multiplied() {
        let x = HostTensor::f32([3], vec![1.0, -2.0, 0.0]);
        assert_eq!(Scale { factor: 0.18215 }.reference(&[&x]).data(), [0.18215, -0.3643, 0.0]);
    }
}

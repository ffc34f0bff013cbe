//! Values held within limits.

use std::any::Any;

use super::{check_count, check_float, f16, f32, flat_variant};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::TensorType;
use crate::wgsl::Shader;

/// `y = min(max(x, -limit), limit)`; what is not finite stays.
///
/// # Shapes    `x`: any, f32 | f16 -> `y` as `x`
/// # Numerics  `limit` is rounded to f32; class Elementwise
/// # Source    the `clip_sample` of diffusers' schedulers
#[derive(Clone, Debug)]
pub struct Clamp {
    /// Largest magnitude.
    pub limit: f64,
}

impl Op for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn attributes(&self) -> Attributes {
        vec![("limit", self.limit.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        check_float(self, "x", &inputs[0])?;
        Ok(inputs[0].clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        HostTensor::from_fn(inputs[0].ty().clone(), |i| match inputs[0].at(i) {
            x if x.is_finite() => x.clamp(-self.limit, self.limit),
            x => x,
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let shader = Shader::new("clamp").encoding("x", x.dtype).encoding("y", x.dtype);
        flat_variant("clamp", shader, &inputs[..1], x, vec![(self.limit as f32).to_bits()], caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(2 * inputs[0].shape.elements() as u64, &inputs[..1], &inputs[0])
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        let to = |limit, x| Case::new(Clamp { limit }, [x]);
        vec![
            to(1.0, f32([1, 1])),
            to(0.5, f32([3, 7])),
            to(50.5, f32([65, 64])),
            to(2.0, f32([257, 30])),
            to(1.0, f16([33, 10])),
        ]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

//! Change of element type.

use std::any::Any;

use super::{check_count, check_float, f16, f32, flat_variant};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attribute, Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::{DType, TensorType};
use crate::wgsl::Shader;

/// `y = x`, stored as another type.
///
/// # Shapes    `x`: any, f32 | f16 -> `y: dtype` of the same shape
/// # Numerics  rounds to nearest; class Elementwise
#[derive(Clone, Debug)]
pub struct Cast {
    /// Element type of the result: f32 or f16.
    pub dtype: DType,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn attributes(&self) -> Attributes {
        vec![("dtype", Attribute::Name(if self.dtype == DType::F16 { "f16" } else { "f32" }))]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        check_float(self, "x", &inputs[0])?;
        let y = TensorType::new(self.dtype, inputs[0].shape.clone());
        check_float(self, "y", &y)?;
        Ok(y)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let y = TensorType::new(self.dtype, inputs[0].shape().clone());
        HostTensor::from_fn(y, |i| inputs[0].at(i))
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        // The activation's shader with activation 0 is the identity between any two encodings.
        let shader = Shader::new("activate").encoding("x", inputs[0].dtype).encoding("y", self.dtype);
        let y = TensorType::new(self.dtype, inputs[0].shape.clone());
        flat_variant("cast", shader, &inputs[..1], &y, vec![y.channels() as u32, 0, 1f32.to_bits()], caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = TensorType::new(self.dtype, inputs[0].shape.clone());
        Cost::new(0, &inputs[..1], &y)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        let (to_f16, to_f32) = (Cast { dtype: DType::F16 }, Cast { dtype: DType::F32 });
        let mut cases = Vec::new();
        for shape in [[1, 1], [3, 7], [65, 64], [257, 30]] {
            cases.push(Case::new(to_f16.clone(), [f32(shape)]));
            cases.push(Case::new(to_f32.clone(), [f16(shape)]));
        }
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

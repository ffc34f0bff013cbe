//! The same elements under another shape.

use std::any::Any;

use super::{check_count, check_float, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::{LANES, Shape, TensorType};

/// `x`'s elements in row-major order under another shape: a view, never a copy.
///
/// # Shapes    `x`: any, f32 | f16 -> `y: shape` as `x`
/// # Numerics  class Move
/// # Errors    [`OpError::Shape`] if the number of elements differs, or the innermost extents differ and one of them is not
///   a multiple of 4: padding would then lie elsewhere
#[derive(Clone, Debug)]
pub struct Reshape {
    /// The new extents.
    pub shape: Shape,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn attributes(&self) -> Attributes {
        vec![("shape", (*self.shape).into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        if x.shape.elements() != self.shape.elements() {
            let expected = format!("{} elements for {}", self.shape.elements(), self.shape);
            return Err(shape_error(self, "x", expected, x));
        }
        let (old, new) = (x.channels(), self.shape.channels());
        if old != new && (old % LANES != 0 || new % LANES != 0) {
            let expected = format!(
                "{new} channels as in {}, or a multiple of {LANES} in both: rows are padded to it",
                self.shape
            );
            return Err(shape_error(self, "x", expected, x));
        }
        Ok(TensorType::new(x.dtype, self.shape.clone()))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        inputs[0].clone().reshaped(self.shape.clone())
    }

    fn variants(&self, _: &[TensorType], _: &Caps) -> Result<Vec<Variant>, OpError> {
        Ok(Vec::new())
    }

    fn cost(&self, _: &[TensorType]) -> Cost {
        Cost::default()
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Move
    }

    fn view(&self, _: &[TensorType]) -> Option<u64> {
        Some(0)
    }

    fn cases(&self) -> Vec<Case> {
        Vec::new() // a view has no variant to compare
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Hard;
    use crate::ops::{f16, f32};

    #[test]
    fn the_bytes_stay_as_they_are() {
        let shapes: [(TensorType, Shape); 5] = [
            (f32([1, 1]), [1].into()),
            (f32([30, 7]), [2, 15, 7].into()),
            (f32([5, 16]), [5, 2, 8].into()),
            (f32([13, 5, 12]), [65, 12].into()),
            (f16([9, 10]), [1, 9, 10].into()),
        ];
        for (ty, shape) in shapes {
            let x = Hard::Noise.tensor(&ty, 1);
            let reshape = Reshape { shape };
            let y = reshape.infer(std::slice::from_ref(&ty)).expect("a view");
            let found = reshape.reference(&[&x]);
            assert_eq!((found.ty(), found.to_bytes()), (&y, x.to_bytes()), "{ty}");
        }
    }

    #[test]
    fn a_shape_that_would_move_padding_is_refused() {
        for (from, to) in [(vec![2, 6], vec![3, 4]), (vec![3, 4], vec![2, 6]), (vec![2, 6], vec![12])] {
            let (x, reshape) = (f32(from), Reshape { shape: to.into() });
            let error = reshape.infer(&[x]).expect_err("padding moves");
            assert!(error.to_string().contains("multiple of 4"), "{error}");
        }
        assert!(Reshape { shape: [5].into() }.infer(&[f32([2, 2])]).is_err());
    }
}

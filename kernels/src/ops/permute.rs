//! Dimensions in another order.

use std::any::Any;

use super::strided::StridedCopy;
use super::{check_count, check_float, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::TensorType;

/// Dimension `i` of `y` is dimension `axes[i]` of `x`.
///
/// # Shapes    `x`: rank at most 4, f32 | f16 -> `y: [x.shape[axes[0]], ..]` as `x`
/// # Numerics  class Move
/// # Errors    [`OpError::Shape`] if `axes` does not name each dimension of `x` once
/// # Source    torch.permute
#[derive(Clone, Debug)]
pub struct Permute {
    /// The order, outermost first.
    pub axes: Vec<usize>,
}

/// Steps between neighbours along each dimension, if rows of the innermost take `pitch`.
fn strides(x: &TensorType, pitch: usize) -> Vec<usize> {
    let mut strides = vec![1; x.shape.len()];
    let mut stride = pitch;
    for (slot, extent) in strides.iter_mut().zip(x.shape.iter()).rev().skip(1) {
        *slot = stride;
        stride *= extent;
    }
    strides
}

impl Op for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn attributes(&self) -> Attributes {
        vec![("axes", self.axes.as_slice().into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        let rank = x.shape.len();
        let once = (0..rank).all(|axis| self.axes.contains(&axis));
        if !once || self.axes.len() != rank || rank > 4 {
            return Err(shape_error(self, "x", format!("dimensions {:?}, at most 4", self.axes), x));
        }
        let shape: Vec<usize> = self.axes.iter().map(|axis| x.shape[*axis]).collect();
        Ok(TensorType::new(x.dtype, shape))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let x = inputs[0];
        let y = self.infer(&[x.ty().clone()]).expect("inferred");
        let strides = strides(x.ty(), x.shape().channels());
        let shape = y.shape.clone();
        HostTensor::from_fn(y, |i| {
            let (mut rest, mut at) = (i, 0);
            for (axis, extent) in self.axes.iter().zip(shape.iter()).rev() {
                at += rest % extent * strides[*axis];
                rest /= extent;
            }
            x.at(at)
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let y = self.infer(inputs)?;
        let all = strides(x, x.pitch());
        let rank = self.axes.len();
        let mut copy = StridedCopy { outer: [1; 3], strides: [0; 4], offset: 0 };
        for (i, axis) in self.axes.iter().enumerate() {
            copy.strides[4 - rank + i] = all[*axis];
            if i + 1 < rank {
                copy.outer[4 - rank + i] = y.shape[i];
            }
        }
        // Dimensions that keep their place at the front cut both tensors into blocks that correspond.
        let kept = self.axes.iter().enumerate().take_while(|(i, axis)| i == *axis).count();
        let blocks: usize = x.shape[..kept.min(rank.saturating_sub(1))].iter().product();
        let (x_block, y_block) = (x.rows() / blocks.max(1), y.rows() / blocks.max(1));
        copy.variants(self.name(), x, &y, caps, |rows| {
            rows.start / y_block * x_block..((rows.end - 1) / y_block + 1) * x_block
        })
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost::new(0, inputs, &y)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Move
    }

    fn cases(&self) -> Vec<Case> {
        let case = |axes: &[usize], x: TensorType| Case::new(Permute { axes: axes.to_vec() }, [x]);
        vec![
            case(&[0], f32([1])),
            case(&[1, 0], f32([1, 1])),
            case(&[1, 0], f32([3, 7])),
            case(&[1, 0], f32([65, 130])),
            case(&[1, 0], f16([63, 10])),
            case(&[0, 2, 1], f32([3, 9, 17])),
            case(&[2, 0, 1], f32([5, 6, 8])),
            case(&[0, 2, 1, 3], f32([2, 31, 3, 10])),
            case(&[0, 2, 1, 3], f16([2, 9, 4, 16])),
            case(&[0, 3, 1, 2], f32([2, 5, 7, 6])),
            case(&[0, 2, 3, 1], f32([2, 6, 5, 7])),
            case(&[3, 2, 1, 0], f16([2, 3, 5, 6])),
            case(&[0, 1, 2, 3], f32([2, 3, 5, 6])),
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
    fn the_reference_is_torch_permute() {
        let x = HostTensor::f32([2, 2, 3], (0u8..12).map(f32::from).collect());
        // torch.arange(12).reshape(2, 2, 3).permute(2, 0, 1).flatten()
        let y = Permute { axes: vec![2, 0, 1] }.reference(&[&x]);
        assert_eq!(y.data(), [0.0, 3.0, 6.0, 9.0, 1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0]);
        assert_eq!(**y.shape(), [3, 2, 2]);
    }

    #[test]
    fn axes_that_are_no_permutation_are_refused() {
        for axes in [vec![0, 0], vec![0], vec![0, 2], vec![0, 1, 1]] {
            assert!(Permute { axes: axes.clone() }.infer(&[f32([2, 3])]).is_err(), "{axes:?}");
        }
    }
}

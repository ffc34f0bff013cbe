//! Counting values that are not finite.

use std::any::Any;

use super::bands::bands;
use super::{check_count, check_whole, f16, f32};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant};
use crate::types::{DType, LANES, TensorType};
use crate::wgsl::Shader;

/// How many values are NaN or infinite.
///
/// # Shapes    `x`: any, any dtype -> `y: [1]` f32
/// # Numerics  told by the bits as stored, for WGSL may take it that no value is NaN; exact up to 2^24; class Move
#[derive(Clone, Debug)]
pub struct NonFinite;

/// Most invocations that count a share of a band each.
const COUNTERS: usize = 4096;
/// Invocations of one workgroup.
const GROUP: usize = 64;

impl Op for NonFinite {
    fn name(&self) -> &'static str {
        "non_finite"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        Ok(TensorType::f32([1]))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let count = inputs[0].data().iter().filter(|x| !x.is_finite()).count();
        HostTensor::from_fn(TensorType::f32([1]), |_| count as f64)
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let count = Shader::new("non_finite_count").encoding("x", x.dtype);
        let bands = bands(self.name(), &[x], caps)?;
        let widest = bands.iter().map(|(_, rows)| rows * x.quads()).max().unwrap_or(0);
        let bound = caps.max_binding_bytes / TensorType::f32([GROUP, LANES]).bytes();
        let most = bound.clamp(1, u64::from(caps.max_groups_per_axis)) as usize;
        let groups = widest.clamp(1, COUNTERS).div_ceil(GROUP).min(most);
        let counts = TensorType::f32([groups * GROUP, LANES]);
        check_whole(self.name(), "counts", &counts, caps)?;
        let mut dispatches: Vec<Dispatch> = bands
            .into_iter()
            .map(|(first, rows)| Dispatch {
                shader: count.clone(),
                binds: vec![
                    Bind::read(0, Operand::Input(0)).rows(x, first, rows),
                    Bind::write(1, Operand::Scratch(0)),
                ],
                params: [rows * x.quads(), groups * GROUP, first].map(|v| v as u32).into(),
                grid: [groups as u32, 1, 1],
                tile_flops: 0,
            })
            .collect();
        dispatches.push(Dispatch {
            shader: Shader::new("non_finite_sum"),
            binds: vec![Bind::read(0, Operand::Scratch(0)), Bind::write(1, Operand::Output)],
            params: vec![(groups * GROUP) as u32],
            grid: [1, 1, 1],
            tile_flops: 0,
        });
        Ok(vec![Variant { name: "non_finite", dispatches, scratch: vec![counts] }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(inputs[0].shape.elements() as u64, inputs, &TensorType::f32([1]))
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Move
    }

    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new(NonFinite, [f32([1])]),
            Case::new(NonFinite, [f32([3, 7])]),
            Case::new(NonFinite, [f32([65, 30])]),
            Case::new(NonFinite, [f32([129, 257])]),
            Case::new(NonFinite, [f16([2, 9, 5, 10])]),
            Case::new(NonFinite, [TensorType::new(DType::Bf16, [33, 6])]),
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
    fn both_infinities_and_nan_count() {
        let x = HostTensor::f32([2, 3], vec![1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0]);
        assert_eq!(NonFinite.reference(&[&x]).data(), [3.0]);
    }
}

//! Sums of tensors with coefficients that arrive at run time: a sampler's step.

use std::any::Any;

use super::bands::bands;
use super::{check_count, check_float, check_shape, f16, f32};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::types::{DType, TensorType};
use crate::wgsl::Shader;

/// `y = sum_i coefficients[i] * t_i`, over the first `terms` coefficients.
///
/// # Shapes    `terms` tensors `t_i` of one shape, each f32 | f16; `coefficients: [8]` f32 -> `y` as `t_0`
/// # Numerics  f32, in the order of the terms; class Elementwise
/// # Errors    [`OpError::OperandCount`] if `terms` is not in 1 ..= [`LinearCombination::MAX_TERMS`]
#[derive(Clone, Debug)]
pub struct LinearCombination {
    /// Tensors added.
    pub terms: usize,
}

impl LinearCombination {
    /// What eight storage bindings leave for tensors. Longer sums are chained: the result is a term of the next.
    pub const MAX_TERMS: usize = 6;
    /// Extent of the coefficients.
    pub const COEFFICIENTS: usize = 8;
}

impl Op for LinearCombination {
    fn name(&self) -> &'static str {
        "linear_combination"
    }

    fn attributes(&self) -> Attributes {
        vec![("terms", self.terms.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        let terms = self.terms.clamp(1, Self::MAX_TERMS);
        check_count(self, inputs, terms + 1)?;
        if terms != self.terms {
            let found = self.terms.saturating_add(1);
            return Err(OpError::OperandCount { op: self.name(), expected: terms + 1, found });
        }
        let (tensors, coefficients) = inputs.split_at(self.terms);
        for tensor in tensors {
            check_float(self, "a term", tensor)?;
            check_shape(self, "a term", tensor, &tensors[0].shape)?;
        }
        let coefficients = &coefficients[0];
        check_shape(self, "coefficients", coefficients, &[Self::COEFFICIENTS])?;
        if coefficients.dtype != DType::F32 {
            let (operand, found) = ("coefficients", coefficients.dtype);
            return Err(OpError::DType { op: self.name(), operand, expected: "f32", found });
        }
        Ok(tensors[0].clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let coefficients = inputs[self.terms];
        HostTensor::from_fn(inputs[0].ty().clone(), |i| {
            inputs[..self.terms].iter().enumerate().map(|(k, t)| coefficients.at(k) * t.at(i)).sum()
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let y = self.infer(inputs)?;
        // Terms beyond the last are bound as the first: one pipeline serves every number of terms.
        let term = |i: usize| if i < self.terms { i } else { 0 };
        let shader = ["t0", "t1", "t2", "t3", "t4", "t5"]
            .iter()
            .enumerate()
            .fold(Shader::new("linear_combination"), |shader, (i, name)| {
                shader.encoding(name, inputs[term(i)].dtype)
            })
            .encoding("y", y.dtype);
        let operands: Vec<&TensorType> = inputs[..self.terms].iter().chain([&y]).collect();
        let dispatches = bands(self.name(), &operands, caps)?
            .into_iter()
            .map(|(first, rows)| {
                let quads = rows * y.quads();
                let mut binds: Vec<Bind> = (0..Self::MAX_TERMS)
                    .map(|i| {
                        Bind::read(i as u32, Operand::Input(term(i))).rows(&inputs[term(i)], first, rows)
                    })
                    .collect();
                binds.push(Bind::read(6, Operand::Input(self.terms)));
                binds.push(Bind::write(7, Operand::Output).rows(&y, first, rows));
                Dispatch {
                    shader: shader.clone(),
                    binds,
                    params: [quads, y.channels(), self.terms].map(|v| v as u32).into(),
                    grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                    tile_flops: 0,
                }
            })
            .collect();
        Ok(vec![Variant { name: "linear_combination", dispatches, scratch: Vec::new() }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let flops = 2 * self.terms * inputs[0].shape.elements();
        Cost::new(flops as u64, inputs, &inputs[0])
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        let of = |terms: Vec<TensorType>| {
            let op = LinearCombination { terms: terms.len() };
            let coefficients = f32([LinearCombination::COEFFICIENTS]);
            Case::new(op, terms.into_iter().chain([coefficients]).collect::<Vec<_>>())
        };
        let mut cases: Vec<Case> =
            (1..=Self::MAX_TERMS).map(|terms| of(vec![f32([1, 9, 7, 4]); terms])).collect();
        cases.push(of(vec![f32([1]); 2]));
        cases.push(of(vec![f32([65, 3]); 3]));
        cases.push(of(vec![f32([5, 30]); 4]));
        cases.push(of(vec![f32([2, 5, 6]), f16([2, 5, 6])]));
        cases.push(of(vec![f16([31, 10]), f32([31, 10]), f16([31, 10])]));
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
    fn coefficients_beyond_the_terms_are_not_used() {
        let (x, eps) = (HostTensor::f32([2], vec![1.0, 2.0]), HostTensor::f32([2], vec![10.0, -20.0]));
        let c = HostTensor::f32([8], vec![2.0, 0.5, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
        assert_eq!(LinearCombination { terms: 2 }.reference(&[&x, &eps, &c]).data(), [7.0, -6.0]);
    }

    #[test]
    fn a_wrong_number_of_terms_is_refused() {
        let tensors = |n: usize| [vec![f32([2, 3]); n], vec![f32([8])]].concat();
        for (terms, given) in [(0, 0), (7, 7), (2, 1), (0, 1), (7, 6), (usize::MAX, 6)] {
            let error = LinearCombination { terms }.infer(&tensors(given)).expect_err("count");
            assert!(matches!(error, OpError::OperandCount { .. }), "{error}");
        }
        assert!(LinearCombination { terms: 6 }.infer(&tensors(6)).is_ok());
    }
}

//! Joining tensors along one dimension.

use std::any::Any;
use std::ops::Range;

use super::gather::gather_bands;
use super::{check_float, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::types::TensorType;
use crate::wgsl::Shader;

/// The operands one after the other along `axis`.
///
/// # Shapes    2 to 4 operands that differ in the extent of `axis` alone, f32 | f16, all of one dtype -> `y` with the sum
///   of their extents
/// # Numerics  class Move
/// # Errors    [`OpError::OperandCount`], [`OpError::Shape`], [`OpError::DType`]
/// # Source    torch.cat
#[derive(Clone, Debug)]
pub struct Concat {
    /// Dimension, 0 the outermost.
    pub axis: usize,
}

impl Concat {
    /// Most operands of one concatenation: what the shader binds.
    pub const MAX_OPERANDS: usize = 4;
}

/// One operand's part of the joined dimension.
struct Part {
    /// Index in the result at which it starts.
    begin: usize,
    extent: usize,
}

impl Concat {
    fn parts(&self, inputs: &[TensorType]) -> Vec<Part> {
        let mut begin = 0;
        inputs
            .iter()
            .map(|ty| {
                let part = Part { begin, extent: ty.shape[self.axis] };
                begin += part.extent;
                part
            })
            .collect()
    }

    fn is_innermost(&self, y: &TensorType) -> bool {
        self.axis + 1 == y.shape.len()
    }
}

/// Rows of an operand that `rows` of the result come from, when the joined dimension of `total` indices is not the
/// innermost and one index of it spans `inner` rows; a row nearby if there are none.
fn rows_of_part(part: &Part, total: usize, inner: usize, rows: Range<usize>) -> Range<usize> {
    let before = |row: usize| {
        let (block, at) = (row / (total * inner), row % (total * inner));
        block * part.extent * inner + at.saturating_sub(part.begin * inner).min(part.extent * inner)
    };
    let (start, end) = (before(rows.start), before(rows.end));
    if start < end { start..end } else { start.saturating_sub(1)..start.max(1) }
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn attributes(&self) -> Attributes {
        vec![("axis", self.axis.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        if !(2..=Self::MAX_OPERANDS).contains(&inputs.len()) {
            let expected = inputs.len().clamp(2, Self::MAX_OPERANDS);
            return Err(OpError::OperandCount { op: self.name(), expected, found: inputs.len() });
        }
        let first = &inputs[0];
        let mut shape = first.shape.to_vec();
        let Some(total) = shape.get_mut(self.axis) else {
            return Err(shape_error(self, "the first operand", format!("a dimension {}", self.axis), first));
        };
        *total = 0;
        for ty in inputs {
            check_float(self, "an operand", ty)?;
            if ty.dtype != first.dtype {
                let expected = "the first operand's dtype";
                return Err(OpError::DType {
                    op: self.name(),
                    operand: "an operand",
                    expected,
                    found: ty.dtype,
                });
            }
            let alike = ty.shape.len() == shape.len()
                && ty.shape.iter().zip(shape.iter()).enumerate().all(|(i, (a, b))| i == self.axis || a == b);
            if !alike || ty.shape[self.axis] == 0 {
                let expected = format!("{} but for dimension {}", first.shape, self.axis);
                return Err(shape_error(self, "an operand", expected, ty));
            }
            shape[self.axis] += ty.shape[self.axis];
        }
        Ok(TensorType::new(first.dtype, shape))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let types: Vec<TensorType> = inputs.iter().map(|x| x.ty().clone()).collect();
        let y = self.infer(&types).expect("inferred");
        let parts = self.parts(&types);
        let total = y.shape[self.axis];
        let inner: usize = y.shape[self.axis + 1..].iter().product();
        HostTensor::from_fn(y, |i| {
            let (outer, at, rest) = (i / inner / total, i / inner % total, i % inner);
            let k = parts.iter().rposition(|part| part.begin <= at).expect("the first part begins at 0");
            inputs[k].at((outer * parts[k].extent + at - parts[k].begin) * inner + rest)
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let y = self.infer(inputs)?;
        let parts = self.parts(inputs);
        let innermost = self.is_innermost(&y);
        let total = y.shape[self.axis];
        let inner =
            if innermost { 1 } else { y.shape[self.axis + 1..y.shape.len() - 1].iter().product::<usize>() };
        let shader = ["a", "b", "c", "d", "y"]
            .iter()
            .fold(Shader::new("concat"), |shader, name| shader.encoding(name, y.dtype));
        let touched = |i: usize, rows: Range<usize>| {
            if innermost { rows } else { rows_of_part(&parts[i], total, inner, rows) }
        };
        let dispatches = gather_bands(self.name(), inputs, &y, caps, touched)?
            .into_iter()
            .map(|band| {
                let quads = band.rows * y.quads();
                let mut params = vec![quads, y.channels(), band.first, inner, total, usize::from(innermost)];
                // Parts that do not exist start at the end; the shader binds something for them all the same.
                params.extend((1..Self::MAX_OPERANDS).map(|i| parts.get(i).map_or(total, |part| part.begin)));
                params.extend(
                    (0..Self::MAX_OPERANDS).map(|i| if i < parts.len() { band.origin(i, inputs) } else { 0 }),
                );
                let mut binds: Vec<Bind> = (0..parts.len()).map(|i| band.read(i, inputs)).collect();
                for i in parts.len()..Self::MAX_OPERANDS {
                    let unused = Bind { binding: i as u32, operand: Operand::Input(0), ..binds[0].clone() };
                    binds.push(unused);
                }
                binds.push(band.write(Self::MAX_OPERANDS as u32, &y));
                Dispatch {
                    shader: shader.clone(),
                    binds,
                    params: params.into_iter().map(|v| v as u32).collect(),
                    grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                    tile_flops: 0,
                }
            })
            .collect();
        Ok(vec![Variant { name: "concat", dispatches, scratch: Vec::new() }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost::new(0, inputs, &y)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Move
    }

    fn cases(&self) -> Vec<Case> {
        let case = |axis, types: Vec<TensorType>| Case::new(Concat { axis }, types);
        vec![
            case(0, vec![f32([1]), f32([1])]),
            case(1, vec![f32([1, 1]), f32([1, 1])]),
            case(1, vec![f32([65, 8]), f32([65, 12])]),
            case(1, vec![f32([9, 3]), f32([9, 7])]),
            case(1, vec![f32([17, 4]), f32([17, 6]), f32([17, 8])]),
            case(3, vec![f32([2, 3, 5, 30]), f32([2, 3, 5, 10])]),
            case(1, vec![f32([5, 1]), f32([5, 1]), f32([5, 1]), f32([5, 2])]),
            case(0, vec![f32([1, 77, 6]), f32([2, 77, 6])]),
            case(1, vec![f32([2, 3, 6]), f32([2, 1, 6]), f32([2, 4, 6])]),
            case(2, vec![f32([2, 3, 5, 6]), f32([2, 3, 2, 6])]),
            case(3, vec![f16([2, 3, 5, 12]), f16([2, 3, 5, 16])]),
            case(1, vec![f16([31, 5]), f16([31, 130])]),
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
    fn the_reference_is_torch_cat() {
        let a = HostTensor::f32([2, 1, 2], vec![0.0, 1.0, 2.0, 3.0]);
        let b = HostTensor::f32([2, 2, 2], vec![4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let y = Concat { axis: 1 }.reference(&[&a, &b]);
        assert_eq!(y.data(), [0.0, 1.0, 4.0, 5.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0, 10.0, 11.0]);
        let y = Concat { axis: 2 }.reference(&[&a, &a]);
        assert_eq!(y.data(), [0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 3.0]);
    }

    #[test]
    fn operands_that_do_not_join_are_refused() {
        let concat = Concat { axis: 1 };
        assert!(concat.infer(&[f32([2, 3])]).is_err());
        assert!(concat.infer(&[f32([2, 3]), f32([3, 3])]).is_err());
        assert!(concat.infer(&[f32([2, 3]), f16([2, 3])]).is_err());
        assert!(concat.infer(&[f32([2]), f32([2])]).is_err());
        assert!(concat.infer(&vec![f32([2, 3]); 5]).is_err());
    }

    #[test]
    fn rows_of_a_part_are_those_the_reference_reads() {
        let part = Part { begin: 2, extent: 3 };
        let (total, inner, blocks) = (6, 2, 3);
        for start in 0..blocks * total * inner {
            for end in start + 1..=blocks * total * inner {
                let range = rows_of_part(&part, total, inner, start..end);
                assert!(range.start < range.end && range.end <= blocks * part.extent * inner);
                for row in start..end {
                    let (block, at) = (row / inner / total, row / inner % total);
                    if (2..5).contains(&at) {
                        assert!(range.contains(&((block * 3 + at - 2) * inner + row % inner)));
                    }
                }
            }
        }
    }
}

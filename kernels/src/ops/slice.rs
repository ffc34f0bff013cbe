//! A range of one dimension.

use std::any::Any;

use super::strided::StridedCopy;
use super::{check_count, check_float, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::TensorType;

/// `y = x[.., start .. start + length, ..]` along one dimension.
///
/// # Shapes    `x`: any, f32 | f16 -> `y` as `x` but for `length` along `axis`
/// # Numerics  class Move
/// # Errors    [`OpError::Shape`] if `x` has no dimension `axis`, or the range is empty or ends beyond it
/// # Source    torch.narrow
#[derive(Clone, Debug)]
pub struct Slice {
    /// Dimension, 0 the outermost.
    pub axis: usize,
    /// First index taken.
    pub start: usize,
    /// Indices taken.
    pub length: usize,
}

impl Slice {
    /// Products of `x`'s extents before the axis, and after it.
    fn around(&self, x: &TensorType) -> (usize, usize) {
        (x.shape[..self.axis].iter().product(), x.shape[self.axis + 1..].iter().product())
    }
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn attributes(&self) -> Attributes {
        vec![("axis", self.axis.into()), ("start", self.start.into()), ("length", self.length.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        let end = self.start.checked_add(self.length);
        let mut shape = x.shape.to_vec();
        match (shape.get_mut(self.axis), end) {
            (Some(extent), Some(end)) if end <= *extent && self.length > 0 => *extent = self.length,
            _ => {
                let (start, axis) = (self.start, self.axis);
                let expected = format!("{} from {start} on in dimension {axis}", self.length);
                return Err(shape_error(self, "x", expected, x));
            }
        }
        Ok(TensorType::new(x.dtype, shape))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let x = inputs[0];
        let y = self.infer(&[x.ty().clone()]).expect("inferred");
        let (_, inner) = self.around(x.ty());
        let extent = x.shape()[self.axis];
        HostTensor::from_fn(y, |i| {
            let (outer, at, rest) = (i / inner / self.length, i / inner % self.length, i % inner);
            x.at((outer * extent + self.start + at) * inner + rest)
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let y = self.infer(inputs)?;
        let (outer, after) = self.around(x);
        let pitch = x.pitch();
        if self.axis + 1 == x.shape.len() {
            let copy = StridedCopy { outer: [1, 1, outer], strides: [0, 0, pitch, 1], offset: self.start };
            return copy.variants(self.name(), x, &y, caps, |rows| rows);
        }
        let inner = after / x.channels();
        let extent = x.shape[self.axis];
        let copy = StridedCopy {
            outer: [outer, self.length, inner],
            strides: [extent * inner * pitch, inner * pitch, pitch, 1],
            offset: self.start * inner * pitch,
        };
        let source = |row: usize| {
            let (outer, at, rest) = (row / inner / self.length, row / inner % self.length, row % inner);
            (outer * extent + self.start + at) * inner + rest
        };
        copy.variants(self.name(), x, &y, caps, |rows| source(rows.start)..source(rows.end - 1) + 1)
    }

    fn view(&self, inputs: &[TensorType]) -> Option<u64> {
        let x = &inputs[0];
        let is_whole_rows = self.axis == 0 && x.shape.len() > 1;
        let rows = x.rows() / x.shape[0].max(1);
        is_whole_rows.then(|| (self.start * rows) as u64 * x.row_bytes())
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost { bytes: 2 * y.bytes(), ..Cost::default() }
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Move
    }

    fn cases(&self) -> Vec<Case> {
        let slice = |axis, start, length| Slice { axis, start, length };
        vec![
            Case::new(slice(0, 0, 1), [f32([1])]),
            Case::new(slice(1, 0, 1), [f32([1, 1])]),
            Case::new(slice(1, 3, 7), [f32([65, 10])]),
            Case::new(slice(1, 8, 9), [f32([9, 17])]),
            Case::new(slice(1, 4, 9), [f32([9, 17])]),
            Case::new(slice(1, 4, 128), [f32([5, 257])]),
            Case::new(slice(0, 2, 63), [f32([129, 30])]),
            Case::new(slice(1, 1, 3), [f32([2, 5, 7, 6])]),
            Case::new(slice(2, 6, 1), [f32([2, 5, 7, 6])]),
            Case::new(slice(3, 1, 5), [f16([2, 5, 7, 6])]),
            Case::new(slice(1, 2, 2), [f16([3, 4, 10])]),
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
    fn what_is_taken_is_read_and_written() {
        let cost = Slice { axis: 1, start: 1, length: 3 }.cost(&[f32([5, 8])]);
        assert_eq!(cost, Cost { bytes: 2 * 5 * 16, ..Cost::default() });
    }

    #[test]
    fn an_inner_range_is_taken_from_every_row() {
        let x = HostTensor::f32([2, 3, 4], (0u8..24).map(f32::from).collect());
        let taken = |axis, start, length| Slice { axis, start, length }.reference(&[&x]).into_data();
        assert_eq!(taken(2, 1, 2), [1.0, 2.0, 5.0, 6.0, 9.0, 10.0, 13.0, 14.0, 17.0, 18.0, 21.0, 22.0]);
        assert_eq!(taken(1, 2, 1), [8.0, 9.0, 10.0, 11.0, 20.0, 21.0, 22.0, 23.0]);
    }

    #[test]
    fn a_range_beyond_the_extent_is_refused() {
        for (axis, start, length) in [(0, 1, 2), (1, 0, 0), (2, 0, 1), (0, usize::MAX, 2)] {
            let slice = Slice { axis, start, length };
            assert!(slice.infer(&[f32([2, 3])]).is_err(), "{slice:?}");
        }
    }
}

//! Results whose elements lie in an operand at constant strides: slices and permutations.

use std::ops::Range;

use super::gather::gather_bands;
use crate::op::{Caps, Dispatch, OpError, Variant, fold_grid};
use crate::types::{LANES, TensorType};
use crate::wgsl::Shader;

/// Where the element of `x` lies that is `y[i0, i1, i2, c]`: `offset + i0 * s0 + i1 * s1 + i2 * s2 + c * s3`, counted in
/// elements with rows at their pitch.
pub(super) struct StridedCopy {
    /// Extents of the result before its innermost dimension.
    pub(super) outer: [usize; 3],
    /// `s0 ..= s3`.
    pub(super) strides: [usize; 4],
    /// The element that comes first.
    pub(super) offset: usize,
}

impl StridedCopy {
    /// The dispatches; `touched` holds the rows of `x` that rows of `y` come from.
    pub(super) fn variants(
        &self,
        op: &'static str,
        x: &TensorType,
        y: &TensorType,
        caps: &Caps,
        touched: impl Fn(Range<usize>) -> Range<usize>,
    ) -> Result<Vec<Variant>, OpError> {
        let shader = Shader::new("strided_copy").encoding("x", x.dtype).encoding("y", y.dtype);
        let [s0, s1, s2, s3] = self.strides;
        let by_quads = s3 == 1 && [self.offset, s0, s1, s2].iter().all(|v| v % LANES == 0);
        let inputs = std::slice::from_ref(x);
        let dispatches = gather_bands(op, inputs, y, caps, |_, rows| touched(rows))?
            .into_iter()
            .map(|band| {
                let quads = band.rows * y.quads();
                // The sum of all terms lies in the window; the offset alone may lie before it, and wraps around.
                let offset = (self.offset as u32).wrapping_sub((band.origin(0, inputs) * LANES) as u32);
                let [_, d1, d2] = self.outer;
                let mut params: Vec<u32> =
                    [quads, y.channels(), band.first, d1, d2, s0, s1, s2, s3].map(|v| v as u32).into();
                params.extend([offset, u32::from(by_quads)]);
                Dispatch {
                    shader: shader.clone(),
                    binds: vec![band.read(0, inputs), band.write(1, y)],
                    params,
                    grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                    tile_flops: 0,
                }
            })
            .collect();
        Ok(vec![Variant { name: "strided_copy", dispatches, scratch: Vec::new() }])
    }
}

//! Means and deviations of channels over slabs of rows: what statistics over a whole image begin with.

use super::bands::aligned_rows;
use crate::op::{Bind, Caps, Dispatch, OpError, Operand, fold_grid};
use crate::types::TensorType;
use crate::wgsl::Shader;

/// Invocations that the moments aim at: enough for a large GPU, few enough to merge quickly.
const INVOCATIONS: usize = 16_384;

/// How the rows of each batch of `x: [B, .., C]` are cut for `slab_moments.wgsl`.
pub(super) struct Slabs {
    /// Rows of one batch.
    pub(super) batch_rows: usize,
    /// Rows of one slab; the last of a batch may have fewer.
    pub(super) rows: usize,
    /// Slabs of one batch.
    pub(super) count: usize,
}

impl Slabs {
    /// The slabs of `x`.
    pub(super) fn of(x: &TensorType) -> Self {
        let batch_rows = x.rows() / x.shape[0].max(1);
        let rows = (x.rows() * x.quads() / INVOCATIONS).max(16).next_multiple_of(4);
        Slabs { batch_rows, rows, count: batch_rows.div_ceil(rows) }
    }

    /// Type of the moments of `batches` batches.
    pub(super) fn partials(&self, batches: usize, channels: usize) -> TensorType {
        TensorType::f32([batches, self.count, 3, channels])
    }

    /// The dispatches that write the moments of `input`, of type `x`, into `partials` from batch `first_batch` on.
    ///
    /// # Errors
    /// [`OpError::TooLarge`] if a slab exceeds the binding limit.
    pub(super) fn moments(
        &self,
        op: &'static str,
        (input, x): (Operand, &TensorType),
        (partials, first_batch): (Operand, usize),
        caps: &Caps,
    ) -> Result<Vec<Dispatch>, OpError> {
        let shader = Shader::new("slab_moments").encoding("x", x.dtype);
        let dispatches = windows(op, x, self.rows, caps)?.into_iter().map(|w| {
            let slabs = w.batch_rows.div_ceil(self.rows);
            let first_slab = (w.first_row - w.first_batch * self.batch_rows) / self.rows;
            let extents = [x.channels(), w.batch_rows, w.batches, w.first_row - w.bound_row];
            let slab_numbers = [self.rows, slabs, first_batch + w.first_batch, first_slab, self.count];
            Dispatch {
                shader: shader.clone(),
                binds: vec![
                    Bind::read(0, input).rows(x, w.bound_row, w.bound_rows()),
                    Bind::write(1, partials),
                ],
                params: extents.into_iter().chain(slab_numbers).map(|v| v as u32).collect(),
                grid: fold_grid(
                    (w.batches * slabs * x.quads()).div_ceil(64) as u64,
                    caps.max_groups_per_axis,
                ),
                tile_flops: 0,
            }
        });
        Ok(dispatches.collect())
    }
}

/// Rows of `x` that one dispatch works on: whole batches, or slabs of one batch.
pub(super) struct Window {
    pub(super) first_batch: usize,
    pub(super) batches: usize,
    /// First row, and rows in each batch.
    pub(super) first_row: usize,
    pub(super) batch_rows: usize,
    /// First row that is bound, at an offset that may be.
    pub(super) bound_row: usize,
}

impl Window {
    /// Rows that are bound.
    pub(super) fn bound_rows(&self) -> usize {
        self.first_row + self.batches * self.batch_rows - self.bound_row
    }
}

/// Windows that cover `x: [B, .., C]` such that each is a multiple of `slab_rows` or ends with its batch.
///
/// # Errors
/// [`OpError::TooLarge`] if a slab exceeds the binding limit.
pub(super) fn windows(
    op: &'static str,
    x: &TensorType,
    slab_rows: usize,
    caps: &Caps,
) -> Result<Vec<Window>, OpError> {
    let batches = x.shape[0];
    let rows = x.rows() / batches.max(1);
    if x.bytes() <= caps.max_binding_bytes {
        return Ok(vec![Window { first_batch: 0, batches, first_row: 0, batch_rows: rows, bound_row: 0 }]);
    }
    let step = aligned_rows(x.row_bytes(), caps.binding_alignment) as usize;
    let limit = caps.max_binding_bytes;
    let band = ((limit / x.row_bytes()) as usize).saturating_sub(step - 1) / slab_rows * slab_rows;
    if band == 0 {
        let bytes = (slab_rows + step - 1) as u64 * x.row_bytes();
        return Err(OpError::TooLarge { op, operand: "a slab of x", bytes, limit });
    }
    let mut windows = Vec::new();
    for first_batch in 0..batches {
        for row in (0..rows).step_by(band) {
            let first_row = first_batch * rows + row;
            let bound_row = first_row / step * step;
            let batch_rows = band.min(rows - row);
            windows.push(Window { first_batch, batches: 1, first_row, batch_rows, bound_row });
        }
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_row_once_within_the_limit() {
        let x = TensorType::f32([3, 101, 10]);
        let caps = Caps { max_binding_bytes: 2048, ..Caps::webgpu() };
        let mut next = 0;
        for w in windows("op", &x, 8, &caps).expect("slabs fit") {
            assert_eq!(w.first_row, next);
            assert_eq!(w.bound_row as u64 * x.row_bytes() % caps.binding_alignment, 0);
            assert!(w.bound_rows() as u64 * x.row_bytes() <= caps.max_binding_bytes);
            assert_eq!((w.first_row - w.first_batch * 101) % 8, 0);
            next += w.batches * w.batch_rows;
        }
        assert_eq!(next, 303);
    }
}

//! Bands of a result whose rows come from elsewhere in its operands: each band binds the rows of every operand it reads.

use std::ops::Range;

use super::bands::aligned_rows;
use crate::op::{Bind, Caps, OpError, Operand};
use crate::types::TensorType;

/// Rows of a result that one dispatch computes.
pub(super) struct GatherBand {
    /// First of them.
    pub(super) first: usize,
    /// How many.
    pub(super) rows: usize,
    /// What it binds of each operand.
    windows: Vec<Window>,
}

/// Consecutive rows of an operand that start where a binding may.
struct Window {
    rows: Range<usize>,
}

impl GatherBand {
    /// Operand `i` at binding `i`.
    pub(super) fn read(&self, i: usize, inputs: &[TensorType]) -> Bind {
        let rows = &self.windows[i].rows;
        Bind::read(i as u32, Operand::Input(i)).rows(&inputs[i], rows.start, rows.len())
    }

    /// The band's own rows of the result.
    pub(super) fn write(&self, binding: u32, y: &TensorType) -> Bind {
        Bind::write(binding, Operand::Output).rows(y, self.first, self.rows)
    }

    /// Quads of operand `i` before what is bound of it.
    pub(super) fn origin(&self, i: usize, inputs: &[TensorType]) -> usize {
        self.windows[i].rows.start * inputs[i].quads()
    }
}

/// Bands of `y`'s rows such that neither they nor what they read exceeds the binding limit. One band if everything fits.
///
/// `touched(i, rows)` is a range, not empty, that holds every row of operand `i` which these rows of `y` read.
///
/// # Errors
/// [`OpError::TooLarge`] if the smallest band that may be bound still reads too much.
pub(super) fn gather_bands(
    op: &'static str,
    inputs: &[TensorType],
    y: &TensorType,
    caps: &Caps,
    touched: impl Fn(usize, Range<usize>) -> Range<usize>,
) -> Result<Vec<GatherBand>, OpError> {
    let rows = y.rows();
    let limit = caps.max_binding_bytes;
    let step = aligned_rows(y.row_bytes(), caps.binding_alignment) as usize;
    let fitting = (limit / y.row_bytes().max(1)) as usize;
    let mut band = if fitting >= rows { rows } else { fitting / step * step };
    if band == 0 && rows > 0 {
        return Err(OpError::TooLarge { op, operand: "y", bytes: step as u64 * y.row_bytes(), limit });
    }
    loop {
        match split(op, inputs, rows, band, caps, &touched) {
            Err(_) if band > step => band = (band / 2 / step * step).max(step),
            result => return result,
        }
    }
}

fn split(
    op: &'static str,
    inputs: &[TensorType],
    rows: usize,
    band: usize,
    caps: &Caps,
    touched: &impl Fn(usize, Range<usize>) -> Range<usize>,
) -> Result<Vec<GatherBand>, OpError> {
    (0..rows)
        .step_by(band.max(1))
        .map(|first| {
            let rows = band.min(rows - first);
            let windows = inputs.iter().enumerate().map(|(i, ty)| {
                let needed = touched(i, first..first + rows);
                let step = aligned_rows(ty.row_bytes(), caps.binding_alignment) as usize;
                let rows = needed.start / step * step..needed.end;
                let bytes = rows.len() as u64 * ty.row_bytes();
                if bytes > caps.max_binding_bytes {
                    let limit = caps.max_binding_bytes;
                    return Err(OpError::TooLarge { op, operand: "rows read together", bytes, limit });
                }
                Ok(Window { rows })
            });
            Ok(GatherBand { first, rows, windows: windows.collect::<Result<_, _>>()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_shrink_until_what_they_read_fits() {
        let (x, y) = (TensorType::f32([4000, 4]), TensorType::f32([1000, 4]));
        let caps = Caps { max_binding_bytes: 16 << 10, ..Caps::webgpu() };
        // Every row of y reads four rows of x: a band of y may take a quarter of the limit, less the alignment.
        let read = |_: usize, rows: Range<usize>| 4 * rows.start..4 * rows.end;
        let inputs = [x];
        let bands = gather_bands("op", &inputs, &y, &caps, read).expect("bands fit");
        assert!(bands.len() >= 4);
        let mut next = 0;
        for band in &bands {
            assert_eq!(band.first, next);
            let (offset, bytes) = band.read(0, &inputs).window.expect("a part");
            assert!(offset % caps.binding_alignment == 0 && bytes <= caps.max_binding_bytes);
            assert!(offset <= 4 * band.first as u64 * 16);
            assert_eq!(offset + bytes, 4 * (band.first + band.rows) as u64 * 16);
            next += band.rows;
        }
        assert_eq!(next, 1000);
    }

    #[test]
    fn rows_that_must_be_read_together_and_do_not_fit_are_an_error() {
        let (x, y) = (TensorType::f32([4000, 4]), TensorType::f32([1000, 4]));
        let caps = Caps { max_binding_bytes: 16 << 10, ..Caps::webgpu() };
        let all = |_: usize, _: Range<usize>| 0..4000;
        let error = gather_bands("op", &[x], &y, &caps, all).err().expect("too large");
        assert!(matches!(error, OpError::TooLarge { bytes: 64_000, .. }), "{error}");
    }
}

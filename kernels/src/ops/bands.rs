//! Splitting an operation by rows where a whole operand would exceed the adapter's binding limit.

use crate::op::{Caps, OpError};
use crate::types::TensorType;

/// Bands `(first row, rows)` that cover the rows of `operands`, such that no operand's band exceeds the binding limit and
/// each starts at an offset that may be bound. One band if everything fits.
///
/// # Errors
/// [`OpError::TooLarge`] if the smallest band that may be bound is still too large.
pub(super) fn bands(
    op: &'static str,
    operands: &[&TensorType],
    caps: &Caps,
) -> Result<Vec<(usize, usize)>, OpError> {
    let rows = operands.iter().map(|ty| ty.rows()).max().unwrap_or(0);
    if operands.iter().all(|ty| ty.bytes() <= caps.max_binding_bytes) {
        return Ok(vec![(0, rows)]);
    }
    let step = operands.iter().map(|ty| aligned_rows(ty.row_bytes(), caps.binding_alignment)).fold(1, lcm);
    let widest = operands.iter().max_by_key(|ty| ty.row_bytes()).expect("an operation has a result");
    let fitting = caps.max_binding_bytes / widest.row_bytes().max(1) / step * step;
    if fitting == 0 {
        let bytes = step * widest.row_bytes();
        return Err(OpError::TooLarge { op, operand: "rows", bytes, limit: caps.max_binding_bytes });
    }
    let band = fitting as usize;
    Ok((0..rows).step_by(band).map(|first| (first, band.min(rows - first))).collect())
}

/// The fewest rows after which a band's offset is a multiple of `alignment`.
pub(super) fn aligned_rows(row_bytes: u64, alignment: u64) -> u64 {
    alignment / gcd(row_bytes.max(1), alignment)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u64, b: u64) -> u64 {
    a / gcd(a, b) * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_cover_all_rows_once_and_start_aligned() {
        let ty = TensorType::f32([1000, 12]); // 48 bytes a row: aligned every 16 rows
        let caps = Caps { max_binding_bytes: 10_000, ..Caps::webgpu() };
        let bands = bands("op", &[&ty], &caps).expect("bands fit");
        assert!(bands.len() > 1);
        let mut next = 0;
        for (first, rows) in bands {
            assert_eq!(first, next);
            assert_eq!(first as u64 * ty.row_bytes() % caps.binding_alignment, 0);
            assert!(rows as u64 * ty.row_bytes() <= caps.max_binding_bytes);
            // And not 16 more.
            assert!(rows == 208 || first + rows == 1000, "{rows}");
            next += rows;
        }
        assert_eq!(next, 1000);
    }

    #[test]
    fn a_row_over_the_limit_is_an_error() {
        let caps = Caps { max_binding_bytes: 1024, ..Caps::webgpu() };
        let error = bands("op", &[&TensorType::f32([2, 1000])], &caps).expect_err("too large");
        assert!(matches!(error, OpError::TooLarge { bytes: 32_000, limit: 1024, .. }), "{error}");
    }
}

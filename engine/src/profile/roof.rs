//! What an adapter can do at best.

use kernels::Cost;

/// Peaks of an adapter, as kernels of ours reach them.
///
/// An operation of `f` floating-point operations and `b` bytes runs at `min(flops_per_s, f / b * bytes_per_s)` at best.
///
/// # Source    Williams, Waterman & Patterson 2009
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Roof {
    /// Floating-point operations per second.
    pub flops_per_s: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
}

impl Roof {
    /// Nanoseconds that an operation takes at best.
    pub fn ns(&self, cost: Cost) -> f64 {
        let least = |count: u64, per_s: f64| if count == 0 { 0.0 } else { 1e9 * count as f64 / per_s };
        least(cost.flops, self.flops_per_s).max(least(cost.bytes, self.bytes_per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_arithmetic_and_traffic_is_the_roof() {
        let roof = Roof { flops_per_s: 1e12, bytes_per_s: 1e11 };
        // The ridge: 10 floating-point operations for each byte.
        for (flops, bytes, ns) in
            [(1_000_000, 100_000, 1_000.0), (1_000_000, 1_000, 1_000.0), (1_000, 100_000, 1_000.0)]
        {
            assert!((roof.ns(Cost { flops, bytes }) - ns).abs() < 1e-9, "{flops} {bytes}");
            let attainable = roof.flops_per_s.min(flops as f64 / bytes as f64 * roof.bytes_per_s);
            assert!((1e9 * flops as f64 / attainable - ns).abs() < 1e-9, "{flops} {bytes}");
        }
        assert_eq!(roof.ns(Cost::default()), 0.0);
    }
}

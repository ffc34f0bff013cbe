//! The gated feed-forward activation of transformer blocks.

use std::any::Any;

use super::bands::bands;
use super::{Activation, check_count, check_float, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::types::{LANES, TensorType};
use crate::wgsl::Shader;

/// `y[.., n] = x[.., n] * gelu(x[.., N + n])`, with the exact GELU; `x` in another order if the halves alternate.
///
/// # Shapes    `x: [.., 2 N]` f32 | f16 -> `y: [.., N]` as `x`
/// # Numerics  class Elementwise
/// # Errors    [`OpError::NotDivisible`] if the innermost extent is odd, or no multiple of two quads where halves alternate
/// # Source    Shazeer 2020; the halves as diffusers.models.activations.GEGLU has them
#[derive(Clone, Debug)]
pub struct Geglu {
    /// Whether quads of the two halves alternate, the gate's second: then a contraction that makes `x` has both in registers.
    pub alternating: bool,
}

impl Geglu {
    /// One half after the other.
    pub const HALVES: Geglu = Geglu { alternating: false };
    /// Quads of the halves alternate.
    pub const QUADS: Geglu = Geglu { alternating: true };

    /// Where column `n` of a result with `columns` has its factor and its gate in a row of `x`.
    pub fn operands(&self, n: usize, columns: usize) -> [usize; 2] {
        match self.alternating {
            true => [n / LANES * 2 * LANES + n % LANES, n / LANES * 2 * LANES + LANES + n % LANES],
            false => [n, columns + n],
        }
    }
}

/// Refuses `columns` of which quads cannot alternate.
pub(super) fn check_quads(op: &'static str, what: &'static str, columns: usize) -> Result<(), OpError> {
    if columns.is_multiple_of(2 * LANES) {
        return Ok(());
    }
    Err(OpError::NotDivisible { op, what, value: columns, divisor: 2 * LANES })
}

impl Op for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn attributes(&self) -> Attributes {
        self.alternating.then_some(("alternating", true.into())).into_iter().collect()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        let mut shape = x.shape.to_vec();
        let Some(channels) = shape.last_mut().filter(|channels| **channels > 0) else {
            return Err(shape_error(self, "x", "[.., 2 N]", x));
        };
        if *channels % 2 != 0 {
            let value = *channels;
            return Err(OpError::NotDivisible { op: self.name(), what: "channels", value, divisor: 2 });
        }
        if self.alternating {
            check_quads(self.name(), "channels", *channels)?;
        }
        *channels /= 2;
        Ok(TensorType::new(x.dtype, shape))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let x = inputs[0];
        let y = self.infer(&[x.ty().clone()]).expect("inferred");
        let n = y.channels();
        HostTensor::from_fn(y, |i| {
            let row = i / n * 2 * n;
            let [hidden, gate] = self.operands(i % n, n);
            x.at(row + hidden) * Activation::Gelu.apply(x.at(row + gate))
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let y = self.infer(inputs)?;
        let shader = Shader::new("geglu")
            .flag("ALTERNATING", self.alternating)
            .encoding("x", x.dtype)
            .encoding("y", y.dtype);
        let dispatches = bands(self.name(), &[x, &y], caps)?
            .into_iter()
            .map(|(first, rows)| {
                let quads = rows * y.quads();
                Dispatch {
                    shader: shader.clone(),
                    binds: vec![
                        Bind::read(0, Operand::Input(0)).rows(x, first, rows),
                        Bind::write(1, Operand::Output).rows(&y, first, rows),
                    ],
                    params: vec![quads as u32, y.channels() as u32],
                    grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                    tile_flops: 0,
                }
            })
            .collect();
        Ok(vec![Variant { name: "geglu", dispatches, scratch: Vec::new() }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let y = self.infer(inputs).expect("inferred");
        Cost::new(16 * y.shape.elements() as u64, inputs, &y)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = [[1, 2], [3, 6], [9, 14], [65, 20], [33, 256], [17, 130]]
            .into_iter()
            .map(|shape| Case::new(Geglu::HALVES, [f32(shape)]))
            .collect();
        cases.push(Case::new(Geglu::HALVES, [f32([2, 5, 24])]));
        cases.push(Case::new(Geglu::HALVES, [f16([31, 10])]));
        cases.push(Case::new(Geglu::HALVES, [f16([9, 64])]));
        for shape in [[1, 8], [9, 24], [65, 136]] {
            cases.push(Case::new(Geglu::QUADS, [f32(shape)]));
            cases.push(Case::new(Geglu::QUADS, [f16(shape)]));
        }
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
    fn the_second_half_is_the_gate() {
        let x = HostTensor::f32([1, 6], vec![1.0, 2.0, 3.0, -1.0, 0.5, 2.0]);
        // hidden, gate = x.chunk(2, dim=-1); hidden * torch.nn.functional.gelu(gate), in float64
        let expected = [-0.158_655_253_931_457_02, 0.691_462_461_274_013_1, 5.863_499_208_310_925];
        for (found, expected) in Geglu::HALVES.reference(&[&x]).data().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 3e-7, "{found} {expected}");
        }
    }

    #[test]
    fn alternating_quads_are_the_halves_in_another_order() {
        let halves = HostTensor::from_fn(f32([3, 16]), |i| libm::sin(i as f64));
        let quads = HostTensor::from_fn(f32([3, 16]), |i| {
            let (row, quad, lane) = (i / 16, i % 16 / 4, i % 4);
            halves.at(row * 16 + [0, 8, 4, 12][quad] + lane)
        });
        assert_eq!(Geglu::QUADS.reference(&[&quads]).data(), Geglu::HALVES.reference(&[&halves]).data());
    }

    #[test]
    fn an_odd_extent_is_refused() {
        let error = Geglu::HALVES.infer(&[f32([2, 7])]).expect_err("odd");
        assert_eq!(error.to_string(), "geglu: channels 7 is not a multiple of 2");
        let error = Geglu::QUADS.infer(&[f32([2, 12])]).expect_err("a quad and a half");
        assert_eq!(error.to_string(), "geglu: channels 12 is not a multiple of 8");
    }
}

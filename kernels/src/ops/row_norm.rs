//! What layer and RMS normalization share: the shaders that normalize rows, and the rows that each takes.

use super::bands::bands;
use crate::op::{Bind, Caps, Dispatch, OpError, Operand, Variant, fold_grid};
use crate::types::TensorType;
use crate::wgsl::Shader;

/// Invocations of a workgroup.
const GROUP: usize = 64;
/// Lanes of a row that is read twice, and the fewest of one that is held: as `ROW_LANES` in the shaders.
const ROW_LANES: usize = 8;
/// Quads of a row that a lane holds, as in `held_row.wgsl`.
const HELD: usize = 8;

/// An operation's shaders: `looped` reads rows twice, and takes any; `held` keeps them in registers.
pub(super) struct RowNorm {
    pub looped: &'static str,
    pub held: &'static str,
    /// Operands of one value for each channel, which follow `x`.
    pub parameters: usize,
    pub eps: f64,
}

impl RowNorm {
    /// Both ways, if lanes hold a row of `x`. On a CPU registers are memory, and a second read of a row comes from cache.
    pub(super) fn variants(
        &self,
        op: &'static str,
        x: &TensorType,
        caps: &Caps,
    ) -> Result<Vec<Variant>, OpError> {
        let looped = self.variant(op, self.looped, x, None, caps)?;
        let lanes = x.quads().div_ceil(HELD).next_power_of_two().max(ROW_LANES);
        if lanes > GROUP {
            return Ok(vec![looped]);
        }
        let held = self.variant(op, self.held, x, Some(lanes), caps)?;
        Ok(if caps.software { vec![held, looped] } else { vec![looped, held] })
    }

    fn variant(
        &self,
        op: &'static str,
        name: &'static str,
        x: &TensorType,
        held_by: Option<usize>,
        caps: &Caps,
    ) -> Result<Variant, OpError> {
        let shader = Shader::new(name).encoding("x", x.dtype).encoding("y", x.dtype);
        let group_rows = GROUP / held_by.unwrap_or(ROW_LANES);
        let output = 1 + self.parameters;
        let dispatches = bands(op, &[x], caps)?
            .into_iter()
            .map(|(first, rows)| {
                let mut binds = vec![Bind::read(0, Operand::Input(0)).rows(x, first, rows)];
                binds.extend((1..output).map(|i| Bind::read(i as u32, Operand::Input(i))));
                binds.push(Bind::write(output as u32, Operand::Output).rows(x, first, rows));
                let mut params = vec![rows as u32, x.channels() as u32, (self.eps as f32).to_bits()];
                params.extend(held_by.map(|lanes| lanes as u32));
                Dispatch {
                    shader: shader.clone(),
                    binds,
                    params,
                    grid: fold_grid(rows.div_ceil(group_rows) as u64, caps.max_groups_per_axis),
                    tile_flops: 0,
                }
            })
            .collect();
        Ok(Variant { name, dispatches, scratch: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_hold_rows_that_fit_in_registers_on_gpus() {
        let norm = RowNorm { looped: "looped", held: "held", parameters: 1, eps: 0.0 };
        let webgpu = Caps::webgpu();
        let offered = |channels: usize, software: bool| -> Vec<(&str, Option<u32>, u32)> {
            let caps = Caps { software, ..webgpu.clone() };
            let variants = norm.variants("norm", &TensorType::f32([100, channels]), &caps).expect("fits");
            let of = |variant: Variant| {
                let Dispatch { params, grid, .. } = &variant.dispatches[0];
                (variant.name, params.get(3).copied(), grid[0])
            };
            variants.into_iter().map(of).collect()
        };
        let looped = ("looped", None, 13);
        // Of 8 lanes with 8 quads each, which 8 rows of a workgroup have.
        assert_eq!(offered(256, false), [looped, ("held", Some(8), 13)]);
        assert_eq!(offered(257, false), [looped, ("held", Some(16), 25)]);
        assert_eq!(offered(1280, false), [looped, ("held", Some(64), 100)]);
        assert_eq!(offered(2048, false), [looped, ("held", Some(64), 100)]);
        assert_eq!(offered(2049, false), [looped]);
        assert_eq!(offered(4, true), [("held", Some(8), 13), looped]);
    }
}

//! Group normalization: small groups in one dispatch, others in two, moments of slabs of rows and the result.

use std::any::Any;
use std::sync::Arc;

use super::moments::windows;
use super::{
    Activate, Activation, check_count, check_float, check_shape, check_whole, f16, f32, shape_error,
};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{
    Absorbed, Attributes, Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid,
};
use crate::types::{DType, LANES, TensorType};
use crate::wgsl::Shader;

/// Group normalization over (batch, group), with an optional SiLU.
///
/// `y = (x - mean) / sqrt(var + eps) * scale + bias`
///
/// # Shapes    `x: [B, .., C]` f32 | f16; `scale, bias: [C]` f32 -> `y` as `x`
/// # Units     `eps`: variance of `x`
/// # Numerics  statistics in f32; class Reduction. Values of `x` that are not finite are counted: [`Operand::Tally`]
/// # Errors    [`OpError::NotDivisible`] if `C % groups != 0`
/// # Source    Wu & He 2018, eq. 1; torch.nn.functional.group_norm
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of neighbouring channels that share mean and variance.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Elements of a group up to which one workgroup reads it twice.
const WHOLE_ELEMENTS: usize = 65_536;
/// Quads that a workgroup works on where there are more, and the most slabs of a batch: each block of the result merges them.
const SLAB_QUADS: usize = 2_048;
const MAX_SLABS: usize = 256;
/// Most groups of a span: `statistics` in `group_apply.wgsl`.
const MAX_SPAN_GROUPS: usize = 16;

impl GroupNorm {
    /// Groups that one workgroup works on: they begin and end at quads, and have `wide` quads at least if there are as many.
    fn span_groups(&self, channels: usize, wide: usize) -> usize {
        let width = channels / self.groups;
        let mut groups = match width % LANES {
            0 => 1,
            2 => 2,
            _ => 4,
        };
        while groups * width < wide * LANES && groups < MAX_SPAN_GROUPS.min(self.groups) {
            groups *= 2;
        }
        groups
    }

    /// One dispatch.
    fn whole(&self, x: &TensorType, caps: &Caps) -> Variant {
        let (channels, batches) = (x.channels(), x.shape[0]);
        let batch_rows = x.rows() / batches.max(1);
        let span_groups = self.span_groups(channels, 8);
        let mut params = words(&[channels, self.groups, span_groups, batch_rows, batches]);
        params.extend([(self.eps as f32).to_bits(), u32::from(self.silu)]);
        let dispatch = Dispatch {
            shader: Shader::new("group_norm_whole").encoding("x", x.dtype).encoding("y", x.dtype),
            binds: vec![
                Bind::read(0, Operand::Input(0)),
                Bind::read(1, Operand::Input(1)),
                Bind::read(2, Operand::Input(2)),
                Bind::write(3, Operand::Output),
                Bind::write(4, Operand::Tally),
            ],
            params,
            grid: fold_grid((batches * self.groups.div_ceil(span_groups)) as u64, caps.max_groups_per_axis),
            tile_flops: 0,
        };
        Variant { name: "group_norm_whole", dispatches: vec![dispatch], scratch: Vec::new() }
    }

    /// Two dispatches for each window of `x`.
    fn in_slabs(&self, x: &TensorType, caps: &Caps) -> Result<Variant, OpError> {
        let (channels, batches) = (x.channels(), x.shape[0]);
        let batch_rows = x.rows() / batches.max(1);
        let span_groups = self.span_groups(channels, 16);
        let spans = self.groups.div_ceil(span_groups);
        let span_quads = (span_groups * channels / self.groups).div_ceil(LANES);
        let slab_rows = (SLAB_QUADS / span_quads).max(16).max(batch_rows.div_ceil(MAX_SLABS));
        let batch_slabs = batch_rows.div_ceil(slab_rows);
        let partials = TensorType::f32([batches, batch_slabs, self.groups, LANES]);
        check_whole(self.name(), "moments", &partials, caps)?;

        let moments = Shader::new("group_norm_moments").encoding("x", x.dtype);
        let apply = Shader::new("group_norm_apply").encoding("x", x.dtype).encoding("y", x.dtype);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for w in windows(self.name(), x, slab_rows, caps)? {
            let slabs = w.batch_rows.div_ceil(slab_rows);
            let first_slab = (w.first_row - w.first_batch * batch_rows) / slab_rows;
            let window = [channels, self.groups, span_groups, w.batch_rows, w.batches];
            let window =
                [&window[..], &[w.first_row - w.bound_row, slab_rows, slabs, w.first_batch]].concat();
            let bound = |bind: Bind| bind.rows(x, w.bound_row, w.bound_rows());
            let grid = fold_grid((w.batches * slabs * spans) as u64, caps.max_groups_per_axis);
            first.push(Dispatch {
                shader: moments.clone(),
                binds: vec![
                    bound(Bind::read(0, Operand::Input(0))),
                    Bind::write(1, Operand::Scratch(0)),
                    Bind::write(2, Operand::Tally),
                ],
                params: words(&[&window[..], &[first_slab, batch_slabs]].concat()),
                grid,
                tile_flops: 0,
            });
            let mut params = words(&[&window[..], &[batch_slabs]].concat());
            params.extend([(self.eps as f32).to_bits(), u32::from(self.silu)]);
            second.push(Dispatch {
                shader: apply.clone(),
                binds: vec![
                    bound(Bind::read(0, Operand::Input(0))),
                    Bind::read(1, Operand::Scratch(0)),
                    Bind::read(2, Operand::Input(1)),
                    Bind::read(3, Operand::Input(2)),
                    bound(Bind::write(4, Operand::Output)),
                ],
                params,
                grid,
                tile_flops: 0,
            });
        }
        first.append(&mut second);
        Ok(Variant { name: "group_norm_slabs", dispatches: first, scratch: vec![partials] })
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn attributes(&self) -> Attributes {
        vec![("groups", self.groups.into()), ("eps", self.eps.into()), ("silu", self.silu.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 3)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        if x.shape.len() < 2 {
            return Err(shape_error(self, "x", "[B, .., C]", x));
        }
        if self.groups == 0 || !x.channels().is_multiple_of(self.groups) {
            return Err(OpError::NotDivisible {
                op: self.name(),
                what: "channels",
                value: x.channels(),
                divisor: self.groups,
            });
        }
        check_parameters(self, &inputs[1..], x)?;
        Ok(x.clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let (x, scale, bias) = (inputs[0], inputs[1], inputs[2]);
        let (channels, batches) = (x.ty().channels(), x.shape()[0]);
        let rows = x.ty().rows() / batches.max(1);
        let width = channels / self.groups;
        let mut moments = Vec::with_capacity(batches * self.groups);
        for batch in 0..batches {
            for group in 0..self.groups {
                let values = || {
                    (batch * rows..(batch + 1) * rows)
                        .flat_map(|row| (0..width).map(move |c| row * channels + group * width + c))
                        .map(|i| x.at(i))
                };
                let count = (rows * width) as f64;
                let mean = values().sum::<f64>() / count;
                let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                moments.push((mean, (variance + self.eps).sqrt()));
            }
        }
        HostTensor::from_fn(x.ty().clone(), |i| {
            let channel = i % channels;
            let (mean, deviation) = moments[i / (rows * channels) * self.groups + channel / width];
            let y = (x.at(i) - mean) / deviation * scale.at(channel) + bias.at(channel);
            if self.silu { Activation::Silu.apply(y) } else { y }
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        let mut variants = vec![self.in_slabs(x, caps)?];
        let elements = x.shape.elements() / (x.shape[0] * self.groups).max(1);
        if elements <= WHOLE_ELEMENTS && x.bytes() <= caps.max_binding_bytes {
            variants.push(self.whole(x, caps));
        }
        Ok(variants)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(12 * inputs[0].shape.elements() as u64, inputs, &inputs[0])
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        let x = &inputs[0];
        Class::Reduction { k: x.shape.elements() / (x.shape[0] * self.groups).max(1) }
    }

    fn absorb(&self, next: &dyn Op, _: usize, _: &[TensorType]) -> Option<Absorbed> {
        let silu = matches!(next.as_any().downcast_ref(), Some(Activate(Activation::Silu)));
        if self.silu || !silu {
            return None;
        }
        let op = Arc::new(GroupNorm { silu: true, ..self.clone() });
        Some(Absorbed { op, extra_operands: Vec::new() })
    }

    fn cases(&self) -> Vec<Case> {
        let plain = |groups| GroupNorm { groups, eps: 1e-5, silu: false };
        let case = |op: GroupNorm, dtype, shape: &[usize]| {
            let channels = shape[shape.len() - 1];
            Case::new(op, [TensorType::new(dtype, shape), f32([channels]), f32([channels])])
        };
        let mut cases = vec![
            case(plain(1), DType::F32, &[1, 1]),
            case(plain(2), DType::F32, &[3, 6]),
            case(plain(3), DType::F32, &[2, 3, 5, 30]),
            case(plain(5), DType::F32, &[1, 7, 9, 40]),
            case(plain(4), DType::F32, &[2, 17, 4]),
            case(plain(32), DType::F32, &[2, 8, 8, 320]),
            case(plain(1), DType::F32, &[1, 65, 3]),
            case(plain(8), DType::F32, &[1, 70, 70, 16]),
            case(plain(2), DType::F32, &[2, 301, 20]),
            // Of which a binding of 16 KiB holds a slab, half a batch.
            case(plain(4), DType::F16, &[3, 16, 16, 64]),
            // Several slabs of several spans, and groups wider than a workgroup.
            case(plain(32), DType::F32, &[2, 45, 47, 128]),
            case(plain(2), DType::F32, &[2, 61, 600]),
            case(plain(1), DType::F32, &[1, 70, 1100]),
            case(GroupNorm { silu: true, ..plain(3) }, DType::F32, &[2, 5, 5, 30]),
        ];
        cases.push(Case::new(plain(2), [f16([2, 9, 9, 20]), f32([20]), f32([20])]));
        cases.push(Case::new(GroupNorm { silu: true, ..plain(2) }, [f16([1, 33, 10]), f32([10]), f32([10])]));
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn words(params: &[usize]) -> Vec<u32> {
    params.iter().map(|v| *v as u32).collect()
}

/// `scale` and `bias`, one f32 for each channel of `x`.
pub(super) fn check_parameters(
    op: &dyn Op,
    parameters: &[TensorType],
    x: &TensorType,
) -> Result<(), OpError> {
    for (operand, ty) in ["scale", "bias"].into_iter().zip(parameters) {
        if ty.dtype != DType::F32 {
            return Err(OpError::DType { op: op.name(), operand, expected: "f32", found: ty.dtype });
        }
        check_shape(op, operand, ty, &[x.channels()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x[i] = sin(i) + i / 10`, `scale[c] = 1 + c / 10`, `bias[c] = c / 5 - 0.3`.
    fn operands() -> [HostTensor; 3] {
        [
            HostTensor::from_fn(f32([2, 3, 4]), |i| libm::sin(i as f64) + i as f64 / 10.0),
            HostTensor::from_fn(f32([4]), |c| 1.0 + c as f64 / 10.0),
            HostTensor::from_fn(f32([4]), |c| c as f64 / 5.0 - 0.3),
        ]
    }

    #[test]
    fn reference_agrees_with_torch() {
        // torch.nn.functional.group_norm(x.movedim(-1, 1), 2, scale, bias, eps=1e-5).movedim(1, -1), in f64.
        let expected = [
            -0.927244, 0.417730, 1.383841, -0.250778, -1.343333, -1.378666, -0.731723, 2.410569, 1.159438,
            0.893189, -0.368555, -1.241984, -1.434043, -0.092656, 1.398587, 1.043664, -0.733824, -1.258183,
            -2.018640, 0.766591, 0.994245, 1.351823, 0.890538, -0.878280,
        ];
        let operands = operands();
        let op = GroupNorm { groups: 2, eps: 1e-5, silu: false };
        let y = op.reference(&operands.each_ref());
        for (found, expected) in y.data().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} for {expected}");
        }
    }

    #[test]
    fn absorbing_silu_is_the_composition() {
        let plain = GroupNorm { groups: 2, eps: 1e-5, silu: false };
        let silu = Activate(Activation::Silu);
        let fused = plain.absorb(&silu, 0, &[f32([2, 3, 4])]).expect("silu is absorbed");
        let operands = operands();
        let expected = silu.reference(&[&plain.reference(&operands.each_ref())]);
        let found = fused.op.reference(&operands.each_ref());
        for (found, expected) in found.data().iter().zip(expected.data()) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
        assert!(fused.op.absorb(&silu, 0, &[]).is_none(), "a second silu");
        assert!(plain.absorb(&Activate(Activation::Gelu), 0, &[]).is_none(), "gelu");
    }

    #[test]
    fn groups_must_divide_channels() {
        let op = GroupNorm { groups: 3, eps: 1e-5, silu: false };
        let error = op.infer(&[f32([1, 4]), f32([4]), f32([4])]).expect_err("3 does not divide 4");
        assert_eq!(error.to_string(), "group_norm: channels 4 is not a multiple of 3");
    }
}

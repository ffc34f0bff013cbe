//! Group normalization with statistics from elsewhere: of an image that is worked on in parts.

use std::any::Any;
use std::sync::Arc;

use super::bands::bands;
use super::group_norm::check_parameters;
use super::{
    Activate, Activation, check_count, check_float, check_shape, check_whole, f16, f32, shape_error,
};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{
    Absorbed, Attributes, Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid,
};
use crate::types::{DType, TensorType};
use crate::wgsl::Shader;

/// What [`GroupNorm`](super::GroupNorm) does to its elements, by means and deviations that are given.
///
/// `y = (x - mean) / deviation * scale + bias`
///
/// # Shapes    `x: [B, .., C]` f32 | f16; `scale, bias: [C]` f32; `statistics: [B, groups, 2]` f32, mean and deviation of each
/// group -> `y` as `x`
/// # Units     deviation: `sqrt(var + eps)`
/// # Numerics  class Reduction over one value: differences from a mean lose what both have in common
/// # Errors    [`OpError::NotDivisible`] if `C % groups != 0`
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    /// Groups of neighbouring channels that share mean and deviation.
    pub groups: usize,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn attributes(&self) -> Attributes {
        vec![("groups", self.groups.into()), ("silu", self.silu.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 4)?;
        let (x, statistics) = (&inputs[0], &inputs[3]);
        check_float(self, "x", x)?;
        if x.shape.len() < 2 {
            return Err(shape_error(self, "x", "[B, .., C]", x));
        }
        if self.groups == 0 || !x.channels().is_multiple_of(self.groups) {
            let (what, value) = ("channels", x.channels());
            return Err(OpError::NotDivisible { op: self.name(), what, value, divisor: self.groups });
        }
        check_parameters(self, &inputs[1..3], x)?;
        if statistics.dtype != DType::F32 {
            let (op, operand) = (self.name(), "statistics");
            return Err(OpError::DType { op, operand, expected: "f32", found: statistics.dtype });
        }
        check_shape(self, "statistics", statistics, &[x.shape[0], self.groups, 2])?;
        Ok(x.clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let [x, scale, bias, statistics] = [0, 1, 2, 3].map(|i| inputs[i]);
        let channels = x.ty().channels();
        let batch = x.shape().elements() / x.shape()[0].max(1);
        HostTensor::from_fn(x.ty().clone(), |i| {
            let channel = i % channels;
            let group = i / batch * self.groups + channel / (channels / self.groups);
            let (mean, deviation) = (statistics.at(2 * group), statistics.at(2 * group + 1));
            let y = (x.at(i) - mean) / deviation * scale.at(channel) + bias.at(channel);
            if self.silu { Activation::Silu.apply(y) } else { y }
        })
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let x = &inputs[0];
        check_whole(self.name(), "statistics", &inputs[3], caps)?;
        let shader = Shader::new("normalize").encoding("x", x.dtype).encoding("y", x.dtype);
        let batch_rows = x.rows() / x.shape[0].max(1);
        let dispatches = bands(self.name(), &[x], caps)?
            .into_iter()
            .map(|(first, rows)| {
                let quads = rows * x.quads();
                let silu = usize::from(self.silu);
                let params = [quads, x.channels(), self.groups, batch_rows, first, silu];
                Dispatch {
                    shader: shader.clone(),
                    binds: vec![
                        Bind::read(0, Operand::Input(0)).rows(x, first, rows),
                        Bind::read(1, Operand::Input(1)),
                        Bind::read(2, Operand::Input(2)),
                        Bind::read(3, Operand::Input(3)),
                        Bind::write(4, Operand::Output).rows(x, first, rows),
                    ],
                    params: params.map(|v| v as u32).to_vec(),
                    grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                    tile_flops: 0,
                }
            })
            .collect();
        Ok(vec![Variant { name: "normalize", dispatches, scratch: Vec::new() }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(8 * inputs[0].shape.elements() as u64, inputs, &inputs[0])
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Reduction { k: 1 }
    }

    fn absorb(&self, next: &dyn Op, _: usize, _: &[TensorType]) -> Option<Absorbed> {
        let silu = matches!(next.as_any().downcast_ref(), Some(Activate(Activation::Silu)));
        if self.silu || !silu {
            return None;
        }
        Some(Absorbed { op: Arc::new(Normalize { silu: true, ..self.clone() }), extra_operands: Vec::new() })
    }

    fn cases(&self) -> Vec<Case> {
        let case = |groups, silu, dtype, shape: &[usize]| {
            let channels = f32([shape[shape.len() - 1]]);
            let x = TensorType::new(dtype, shape);
            Case::new(Normalize { groups, silu }, [x, channels.clone(), channels, f32([shape[0], groups, 2])])
        };
        let mut cases = vec![
            case(1, false, DType::F32, &[1, 1]),
            case(2, false, DType::F32, &[3, 6]),
            case(3, false, DType::F32, &[2, 3, 5, 30]),
            case(5, false, DType::F32, &[1, 7, 9, 40]),
            case(1, false, DType::F32, &[2, 65, 3]),
            case(32, true, DType::F32, &[2, 8, 8, 320]),
            case(4, true, DType::F16, &[3, 16, 16, 64]),
        ];
        let channels = f32([20]);
        let x = f16([2, 9, 9, 20]);
        cases.push(Case::new(
            Normalize { groups: 2, silu: false },
            [x, channels.clone(), channels, f32([2, 2, 2])],
        ));
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::GroupNorm;
    use super::*;

    #[test]
    fn with_a_group_norms_own_statistics_it_is_the_group_norm() {
        let x = HostTensor::from_fn(f32([2, 3, 4]), |i| libm::sin(i as f64) + i as f64 / 10.0);
        let scale = HostTensor::from_fn(f32([4]), |c| 1.0 + c as f64 / 10.0);
        let bias = HostTensor::from_fn(f32([4]), |c| c as f64 / 5.0 - 0.3);
        let eps = 1e-5;
        let statistics = HostTensor::from_fn(f32([2, 2, 2]), |i| {
            let (batch, group) = (i / 4, i / 2 % 2);
            let values: Vec<f64> = (0..6).map(|n| x.at(batch * 12 + n / 2 * 4 + group * 2 + n % 2)).collect();
            let mean = values.iter().sum::<f64>() / 6.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 6.0;
            if i % 2 == 0 { mean } else { (variance + eps).sqrt() }
        });
        for silu in [false, true] {
            let expected = GroupNorm { groups: 2, eps, silu }.reference(&[&x, &scale, &bias]);
            let found = Normalize { groups: 2, silu }.reference(&[&x, &scale, &bias, &statistics]);
            for (found, expected) in found.data().iter().zip(expected.data()) {
                assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
            }
        }
    }

    #[test]
    fn statistics_of_another_batch_are_refused() {
        let op = Normalize { groups: 2, silu: false };
        let error = op.infer(&[f32([2, 3, 4]), f32([4]), f32([4]), f32([1, 2, 2])]).expect_err("of one");
        assert_eq!(error.to_string(), "normalize: statistics: expected [2, 2, 2], found [1, 2, 2]");
    }
}

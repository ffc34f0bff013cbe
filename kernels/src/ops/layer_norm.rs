//! Layer normalization.

use std::any::Any;

use super::group_norm::check_parameters;
use super::row_norm::RowNorm;
use super::{check_count, check_float, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::{DType, TensorType};

/// Layer normalization over the innermost dimension.
///
/// `y = (x - mean) / sqrt(var + eps) * scale + bias`
///
/// # Shapes    `x: [.., C]` f32 | f16; `scale, bias: [C]` f32 -> `y` as `x`
/// # Units     `eps`: variance of `x`
/// # Numerics  statistics in f32; class Reduction over C
/// # Source    Ba, Kiros & Hinton 2016, eq. 4; torch.nn.functional.layer_norm
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn attributes(&self) -> Attributes {
        vec![("eps", self.eps.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 3)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        if x.shape.is_empty() {
            return Err(shape_error(self, "x", "[.., C]", x));
        }
        check_parameters(self, &inputs[1..], x)?;
        Ok(x.clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let (x, scale, bias) = (inputs[0], inputs[1], inputs[2]);
        let channels = x.ty().channels();
        let mut data = Vec::with_capacity(x.shape().elements());
        for row in x.data().chunks_exact(channels.max(1)) {
            let values = || row.iter().map(|v| f64::from(*v));
            let mean = values().sum::<f64>() / channels as f64;
            let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / channels as f64;
            let deviation = (variance + self.eps).sqrt();
            data.extend(
                values().enumerate().map(|(c, v)| ((v - mean) / deviation * scale.at(c) + bias.at(c)) as f32),
            );
        }
        HostTensor::new(x.ty().clone(), data)
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let (looped, held) = ("layer_norm", "layer_norm_held");
        RowNorm { looped, held, parameters: 2, eps: self.eps }.variants(self.name(), &inputs[0], caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(10 * inputs[0].shape.elements() as u64, inputs, &inputs[0])
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        Class::Reduction { k: inputs[0].channels() }
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for shape in [[1, 1], [3, 7], [8, 32], [9, 33], [7, 130], [65, 64], [77, 768], [5, 2046], [3, 2051]] {
            let channels = [shape[1]];
            cases.push(Case::new(self.clone(), [f32(shape), f32(channels), f32(channels)]));
        }
        cases.push(Case::new(LayerNorm { eps: 0.5 }, [f32([5, 12]), f32([12]), f32([12])]));
        for shape in [[2, 9, 10], [1, 17, 320], [1, 9, 1280]] {
            let channels = [shape[2]];
            let x = TensorType::new(DType::F16, shape);
            cases.push(Case::new(self.clone(), [x, f32(channels), f32(channels)]));
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
    fn reference_agrees_with_torch() {
        // x[i] = sin(i) + i / 10, scale[c] = 1 + c / 10, bias[c] = c / 5 - 0.3;
        // torch.nn.functional.layer_norm(x, [4], scale, bias, eps=1e-5), in f64.
        let expected = [
            -1.729988, 0.704201, 1.439590, -0.242657, -1.090467, -1.124680, 0.274248, 2.349823, 1.005394,
            0.552744, -0.720638, -1.279412,
        ];
        let x = HostTensor::from_fn(f32([3, 4]), |i| libm::sin(i as f64) + i as f64 / 10.0);
        let scale = HostTensor::from_fn(f32([4]), |c| 1.0 + c as f64 / 10.0);
        let bias = HostTensor::from_fn(f32([4]), |c| c as f64 / 5.0 - 0.3);
        let y = LayerNorm { eps: 1e-5 }.reference(&[&x, &scale, &bias]);
        for (found, expected) in y.data().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} for {expected}");
        }
    }
}

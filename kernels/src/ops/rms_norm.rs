//! Root mean square normalization.

use std::any::Any;

use super::group_norm::check_parameters;
use super::row_norm::RowNorm;
use super::{check_count, check_float, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::{DType, TensorType};

/// Root mean square normalization over the innermost dimension.
///
/// `y = x / sqrt(mean(x^2) + eps) * scale`
///
/// # Shapes    `x: [.., C]` f32 | f16; `scale: [C]` f32 -> `y` as `x`
/// # Units     `eps`: square of `x`
/// # Numerics  sums in f32; class Reduction over C
/// # Source    Zhang & Sennrich 2019, eq. 4; torch.nn.functional.rms_norm
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean of squares.
    pub eps: f64,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn attributes(&self) -> Attributes {
        vec![("eps", self.eps.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 2)?;
        let x = &inputs[0];
        check_float(self, "x", x)?;
        if x.shape.is_empty() {
            return Err(shape_error(self, "x", "[.., C]", x));
        }
        check_parameters(self, &inputs[1..], x)?;
        Ok(x.clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let (x, scale) = (inputs[0], inputs[1]);
        let channels = x.ty().channels();
        let mut data = Vec::with_capacity(x.shape().elements());
        for row in x.data().chunks_exact(channels.max(1)) {
            let values = || row.iter().map(|v| f64::from(*v));
            let root = (values().map(|v| v * v).sum::<f64>() / channels as f64 + self.eps).sqrt();
            data.extend(values().enumerate().map(|(c, v)| (v / root * scale.at(c)) as f32));
        }
        HostTensor::new(x.ty().clone(), data)
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let (looped, held) = ("rms_norm", "rms_norm_held");
        RowNorm { looped, held, parameters: 1, eps: self.eps }.variants(self.name(), &inputs[0], caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(5 * inputs[0].shape.elements() as u64, inputs, &inputs[0])
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        Class::Reduction { k: inputs[0].channels() }
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for shape in [[1, 1], [3, 7], [8, 32], [9, 33], [7, 130], [65, 64], [77, 768], [5, 2046], [3, 2051]] {
            cases.push(Case::new(self.clone(), [f32(shape), f32([shape[1]])]));
        }
        cases.push(Case::new(RmsNorm { eps: 0.5 }, [f32([5, 12]), f32([12])]));
        for shape in [[2, 9, 10], [1, 17, 320], [1, 9, 1280]] {
            cases.push(Case::new(self.clone(), [TensorType::new(DType::F16, shape), f32([shape[2]])]));
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
        // x[i] = sin(i) + i / 10, scale[c] = 1 + c / 10; torch.nn.functional.rms_norm(x, [4], scale, eps=1e-5), in f64.
        let expected = [
            0.0, 1.362321, 1.751092, 0.754362, -0.472374, -0.668332, 0.509310, 2.335485, 1.578287, 1.273076,
            0.482630, 0.114677,
        ];
        let x = HostTensor::from_fn(f32([3, 4]), |i| libm::sin(i as f64) + i as f64 / 10.0);
        let scale = HostTensor::from_fn(f32([4]), |c| 1.0 + c as f64 / 10.0);
        let y = RmsNorm { eps: 1e-5 }.reference(&[&x, &scale]);
        for (found, expected) in y.data().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} for {expected}");
        }
    }
}

//! Scaling each batch to another tensor's standard deviation: guidance rescale.

use std::any::Any;

use super::bands::bands;
use super::moments::Slabs;
use super::{check_count, check_float, check_shape, check_whole, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::types::{DType, TensorType};
use crate::wgsl::Shader;

/// `y = x * (phi * std(reference) / std(x) + 1 - phi)`, `phi = coefficients[0]`.
///
/// A standard deviation is that of all values of a batch. How it is normalised (torch: by `n - 1`) cancels. Where it is zero
/// for `x`, for its values are all equal or there is but one, there is nothing to match and `y = x`; diffusers divides by zero
/// there and continues with NaN or infinity.
///
/// # Shapes    `x, reference: [B, .., C]` f32 | f16; `coefficients: [8]` f32 -> `y` as `x`
/// # Numerics  statistics in f32; class Reduction
/// # Source    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.4; diffusers'
///   `rescale_noise_cfg`
#[derive(Clone, Debug)]
pub struct MatchDeviation;

impl MatchDeviation {
    /// Extent of the coefficients; those after the first are not read.
    pub const COEFFICIENTS: usize = 8;
}

impl Op for MatchDeviation {
    fn name(&self) -> &'static str {
        "match_deviation"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 3)?;
        let (x, reference, coefficients) = (&inputs[0], &inputs[1], &inputs[2]);
        check_float(self, "x", x)?;
        if x.shape.len() < 2 {
            return Err(shape_error(self, "x", "[B, .., C]", x));
        }
        check_float(self, "reference", reference)?;
        check_shape(self, "reference", reference, &x.shape)?;
        check_shape(self, "coefficients", coefficients, &[Self::COEFFICIENTS])?;
        if coefficients.dtype != DType::F32 {
            let (operand, found) = ("coefficients", coefficients.dtype);
            return Err(OpError::DType { op: self.name(), operand, expected: "f32", found });
        }
        Ok(x.clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let (x, reference, phi) = (inputs[0], inputs[1], inputs[2].at(0));
        let batches = x.shape()[0];
        let n = x.shape().elements() / batches.max(1);
        let deviation = |tensor: &HostTensor, batch: usize| {
            let values = || (batch * n..(batch + 1) * n).map(|i| tensor.at(i));
            // Exact for equal values, whose deviation is zero then: f64 holds the sum of 2^29 equal f32.
            let mean = values().sum::<f64>() / n as f64;
            values().map(|v| (v - mean).powi(2)).sum::<f64>().sqrt()
        };
        let factors: Vec<f64> = (0..batches)
            .map(|batch| {
                let own = deviation(x, batch);
                let ratio = if own > 0.0 { deviation(reference, batch) / own } else { 1.0 };
                phi * ratio + (1.0 - phi)
            })
            .collect();
        HostTensor::from_fn(x.ty().clone(), |i| x.at(i) * factors[i / n])
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let (x, reference) = (&inputs[0], &inputs[1]);
        let (channels, batches) = (x.channels(), x.shape[0]);
        let slabs = Slabs::of(x);
        // The moments of x, then the reference's.
        let partials = slabs.partials(2 * batches, channels);
        let factors = TensorType::f32([batches, 1]);
        check_whole(self.name(), "moments", &partials, caps)?;
        check_whole(self.name(), "factors", &factors, caps)?;

        let words = |params: [usize; 5]| params.map(|v| v as u32).to_vec();
        let mut dispatches = Vec::new();
        for (number, ty) in [x, reference].into_iter().enumerate() {
            let to = (Operand::Scratch(0), number * batches);
            dispatches.extend(slabs.moments(self.name(), (Operand::Input(number), ty), to, caps)?);
        }
        dispatches.push(Dispatch {
            shader: Shader::new("match_deviation_combine"),
            binds: vec![
                Bind::read(0, Operand::Scratch(0)),
                Bind::read(1, Operand::Input(2)),
                Bind::write(2, Operand::Scratch(1)),
            ],
            params: words([channels, slabs.batch_rows, slabs.rows, slabs.count, batches]),
            grid: fold_grid(batches as u64, caps.max_groups_per_axis),
            tile_flops: 0,
        });
        let apply = Shader::new("match_deviation_apply").encoding("x", x.dtype).encoding("y", x.dtype);
        for (first, rows) in bands(self.name(), &[x], caps)? {
            let quads = rows * x.quads();
            dispatches.push(Dispatch {
                shader: apply.clone(),
                binds: vec![
                    Bind::read(0, Operand::Input(0)).rows(x, first, rows),
                    Bind::read(1, Operand::Scratch(1)),
                    Bind::write(2, Operand::Output).rows(x, first, rows),
                ],
                params: [quads, channels, first, slabs.batch_rows].map(|v| v as u32).into(),
                grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                tile_flops: 0,
            });
        }
        Ok(vec![Variant { name: "match_deviation", dispatches, scratch: vec![partials, factors] }])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(17 * inputs[0].shape.elements() as u64, inputs, &inputs[0])
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        let x = &inputs[0];
        Class::Reduction { k: x.shape.elements() / x.shape[0].max(1) }
    }

    fn cases(&self) -> Vec<Case> {
        let case = |x: TensorType, reference| Case::new(MatchDeviation, [x, reference, f32([8])]);
        let same = |shape: &[usize]| case(f32(shape), f32(shape));
        vec![
            same(&[1, 1]),
            same(&[1, 1, 1, 1]),
            same(&[2, 1, 1, 3]),
            same(&[3, 2, 3, 5]),
            same(&[1, 7, 9, 4]),
            same(&[3, 15, 31, 7]),
            // Over a binding of 16 KiB; batches begin inside bands.
            same(&[1, 33, 65, 4]),
            same(&[2, 17, 33, 4]),
            same(&[2, 23, 25, 6]),
            // Slabs of more than 16 rows.
            same(&[2, 128, 129, 16]),
            case(f16([2, 9, 7, 10]), f16([2, 9, 7, 10])),
            case(f16([1, 33, 6]), f32([1, 33, 6])),
            case(f32([2, 65, 12]), f16([2, 65, 12])),
        ]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phi(value: f32) -> HostTensor {
        HostTensor::f32([8], vec![value, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    }

    #[test]
    fn reference_agrees_with_diffusers() {
        // x[i] = sin(i) + i / 10, reference[i] = cos(3 i) - i / 7.
        // diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion.rescale_noise_cfg(x, reference, 0.7), in f64.
        let expected = [
            0.000000, 1.149267, 1.354135, 0.538481, -0.435554, -0.560215, 0.391342, 1.656493, 2.184295,
            1.601721, 0.556620, 0.122083, 0.738174, 1.913975, 2.659953, 2.392557, 1.459928, 0.821820,
            1.167203, 2.280833, 3.241142, 3.267523, 2.438022, 1.617574,
        ];
        let x = HostTensor::from_fn(f32([2, 2, 2, 3]), |i| libm::sin(i as f64) + i as f64 / 10.0);
        let reference =
            HostTensor::from_fn(f32([2, 2, 2, 3]), |i| libm::cos(3.0 * i as f64) - i as f64 / 7.0);
        let y = MatchDeviation.reference(&[&x, &reference, &phi(0.7)]);
        for (found, expected) in y.data().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} for {expected}");
        }
    }

    #[test]
    fn without_phi_or_without_deviation_nothing_changes() {
        let (x, reference) =
            (HostTensor::f32([1, 3], vec![1.0, -2.0, 4.0]), HostTensor::f32([1, 3], vec![9.0; 3]));
        assert_eq!(MatchDeviation.reference(&[&x, &reference, &phi(0.0)]).data(), x.data());
        let equal = HostTensor::f32([1, 3], vec![0.1; 3]);
        assert_eq!(MatchDeviation.reference(&[&equal, &x, &phi(0.7)]).data(), equal.data());
        let one = HostTensor::f32([1, 1], vec![3.0]);
        assert_eq!(MatchDeviation.reference(&[&one, &one, &phi(0.7)]).data(), [3.0]);
    }

    #[test]
    fn a_reference_of_another_shape_is_refused() {
        let error = MatchDeviation.infer(&[f32([1, 3, 4]), f32([2, 3, 4]), f32([8])]).expect_err("shape");
        assert_eq!(error.to_string(), "match_deviation: reference: expected [1, 3, 4], found [2, 3, 4]");
        let error = MatchDeviation.infer(&[f32([1, 3, 4]), f32([1, 3, 4]), f32([4])]).expect_err("shape");
        assert_eq!(error.to_string(), "match_deviation: coefficients: expected [8], found [4]");
        assert!(MatchDeviation.infer(&[f32([4]), f32([4]), f32([8])]).is_err());
    }
}

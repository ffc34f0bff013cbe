//! Comparing a result with its reference: comparators, the tolerance table, and inputs chosen to be hard.
//!
//! Used alike by `photogram validate` and by the tests, so that there is one answer to "is this right?".

use crate::host_tensor::HostTensor;
use crate::types::{DType, TensorType};

/// Unit roundoff of `f32`.
const U_F32: f64 = 1.0 / (1u64 << 24) as f64;
/// Unit roundoff of `f16`.
const U_F16: f64 = 1.0 / (1u64 << 11) as f64;

/// What kind of arithmetic an operation does: the row of the tolerance table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Class {
    /// Values are moved, never changed: bit-equal.
    Move,
    /// Each result depends on a few values.
    Elementwise,
    /// Statistics over `k` values decide each result.
    Reduction {
        /// Values reduced.
        k: usize,
    },
    /// Sums of products over `k` terms.
    Contraction {
        /// Terms.
        k: usize,
    },
    /// A whole network, a latent or a picture against PyTorch in f32.
    Network,
    /// The same for a network of more than 100 million parameters, where PyTorch's own rounding shows.
    LargeNetwork,
}

/// What a comparison found; `worst` is where the error is largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Largest `|found - expected|`.
    pub max_abs: f64,
    /// Largest error relative to its element, of those that are at least a thousandth of the root mean square.
    pub max_rel: f64,
    /// Row-major position of the largest error, or of the first value that is not finite.
    pub worst: usize,
    /// `sum (found - expected)^2 / sum expected^2`.
    pub nmse: f64,
    /// `sum (found - expected)^2 / sum (expected - mean(expected))^2`.
    pub centred_nmse: f64,
    /// Places where either has a value that is not finite.
    pub non_finite: usize,
    /// Whether the tolerance of the class holds.
    pub pass: bool,
}

/// Whether `found` is `expected` within the tolerance of `class` for values stored as `dtype`.
///
/// # Panics
/// If the shapes differ: a programming error.
pub fn compare(expected: &HostTensor, found: &HostTensor, class: Class, dtype: DType) -> Comparison {
    assert_eq!(expected.shape(), found.shape(), "shapes of expected and found");
    compare_values(expected.data(), found.data(), class, dtype)
}

/// [`compare`] on bare values.
pub fn compare_values(expected: &[f32], found: &[f32], class: Class, dtype: DType) -> Comparison {
    assert_eq!(expected.len(), found.len(), "lengths of expected and found");
    let n = expected.len().max(1) as f64;
    let mean = expected.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let power = expected.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let spread = expected.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
    let rms = (power / n).sqrt();

    let (mut max_abs, mut max_rel, mut worst, mut error, mut non_finite) =
        (0.0f64, 0.0f64, 0, 0.0f64, 0usize);
    let mut within = true;
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        if !f.is_finite() || !e.is_finite() {
            if non_finite == 0 {
                worst = i;
            }
            non_finite += 1;
            continue;
        }
        let (e64, f64_) = (f64::from(*e), f64::from(*f));
        let difference = (f64_ - e64).abs();
        error += difference * difference;
        if e64.abs() >= 1e-3 * rms && e64 != 0.0 {
            max_rel = max_rel.max(difference / e64.abs());
        }
        if difference > max_abs && non_finite == 0 {
            (max_abs, worst) = (difference, i);
        }
        within &= element_within(e64, difference, *e, *f, class, dtype, rms);
    }
    let (nmse, centred_nmse) = (ratio(error, power), ratio(error, spread));
    let close = match (class, dtype) {
        // Where terms are alike, so are their rounding errors: they add up over long sums.
        (Class::Contraction { k }, DType::F32) => within && nmse <= 1e-10 * (k as f64 / 2048.0).max(1.0),
        (Class::Contraction { .. }, _) => within && nmse <= 1e-6,
        (Class::Network, DType::F32) => centred_nmse <= 1e-10,
        (Class::LargeNetwork, DType::F32) => centred_nmse <= 1e-9,
        (Class::Network | Class::LargeNetwork, _) => centred_nmse <= 5e-5,
        _ => within,
    };
    Comparison { max_abs, max_rel, worst, nmse, centred_nmse, non_finite, pass: close && non_finite == 0 }
}

fn element_within(
    e: f64,
    difference: f64,
    e32: f32,
    f32_: f32,
    class: Class,
    dtype: DType,
    rms: f64,
) -> bool {
    match (class, dtype) {
        (Class::Move, _) => e32.to_bits() == f32_.to_bits(),
        (Class::Elementwise, DType::F32) => difference <= 1e-5 * e.abs() + 1e-6,
        (Class::Elementwise, _) => difference <= 2.0 * U_F16 * e.abs() + 1e-4,
        (Class::Reduction { k }, DType::F32) => {
            difference <= 1e-5 * e.abs() + 8.0 * U_F32 * (k as f64).sqrt() * rms
        }
        (Class::Reduction { .. }, _) => difference <= 4.0 * U_F16 * e.abs() + 1e-3,
        // One wrong element of many shows in no mean. The worst seen was 4e-5 in 32 bits, and the rounding of the result in 16.
        (Class::Contraction { .. }, DType::F32) => difference <= 1e-3 * e.abs().max(rms),
        (Class::Contraction { .. }, _) => difference <= 1e-2 * e.abs().max(rms),
        (Class::Network | Class::LargeNetwork, _) => true,
    }
}

fn ratio(error: f64, scale: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / scale }
}

/// Peak signal-to-noise ratio in dB of values in 0 ..= 1; infinite when equal. Printed, never a criterion.
pub fn psnr(expected: &[f32], found: &[f32]) -> f64 {
    let n = expected.len().max(1) as f64;
    let error =
        expected.iter().zip(found).map(|(e, f)| (f64::from(*e) - f64::from(*f)).powi(2)).sum::<f64>() / n;
    -10.0 * error.log10()
}

/// Kinds of input that break kernels which white noise leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hard {
    /// Standard normal values.
    Noise,
    /// Noise with one value in 97 a hundred times larger (20 times in 16 bits).
    Outliers,
    /// Every row one constant.
    ConstantRows,
    /// Noise on an offset of 50 (8 in 16 bits).
    Offset,
}

impl Hard {
    /// Every kind.
    pub const ALL: [Hard; 4] = [Hard::Noise, Hard::Outliers, Hard::ConstantRows, Hard::Offset];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Hard::Noise => "noise",
            Hard::Outliers => "outliers",
            Hard::ConstantRows => "constant rows",
            Hard::Offset => "offset",
        }
    }

    /// A tensor of this kind; the same `seed` gives the same values everywhere.
    pub fn tensor(self, ty: &TensorType, seed: u64) -> HostTensor {
        self.scaled(ty, seed, 1.0)
    }

    /// [`Hard::tensor`] times `scale`.
    pub fn scaled(self, ty: &TensorType, seed: u64, scale: f64) -> HostTensor {
        let mut rng = SplitMix(seed);
        let channels = ty.channels().max(1);
        let mut constant = 0.0;
        // 16-bit operands are kept where sums of products along their longest dimension stay below f16's 65,504.
        let longest = ty.shape.iter().copied().max().unwrap_or(1).max(256);
        let (outlier, offset) = match ty.dtype {
            DType::F32 => (100.0, 50.0),
            _ => (20.0, 8.0 * (256.0 / longest as f64).sqrt()),
        };
        HostTensor::from_fn(ty.clone(), |i| {
            let noise = rng.normal();
            scale
                * match self {
                    Hard::Noise => noise,
                    Hard::Outliers if i % 97 == 13 => outlier * noise,
                    Hard::Outliers => noise,
                    Hard::ConstantRows => {
                        if i % channels == 0 {
                            constant = noise;
                        }
                        constant
                    }
                    Hard::Offset => offset + noise,
                }
        })
    }
}

/// Values of mean 0 and variance 1 for large tensors, between -3.5 and 3.5; ten times as fast as [`Hard::Noise`].
pub fn quick_noise(ty: &TensorType, seed: u64) -> HostTensor {
    let mut rng = SplitMix(seed);
    // Four of 16 bits, whose sum has the variance 1/3.
    HostTensor::from_fn(ty.clone(), |_| {
        let word = rng.word();
        let sum: u64 = (0..4).map(|i| word >> (16 * i) & 0xffff).sum();
        (sum as f64 / 65_536.0 - 2.0) * 1.732_050_8
    })
}

/// A small generator for inputs; not the one that draws pictures' noise.
struct SplitMix(u64);

impl SplitMix {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        libm::sqrt(-2.0 * libm::log(u)) * libm::cos(std::f64::consts::TAU * v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [Class; 6] = [
        Class::Move,
        Class::Elementwise,
        Class::Reduction { k: 1000 },
        Class::Contraction { k: 1000 },
        Class::Network,
        Class::LargeNetwork,
    ];

    #[test]
    fn a_reference_that_is_not_finite_is_agreed_with_by_nothing() {
        for class in CLASSES {
            for wrong in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                for found in [1.0, wrong] {
                    let comparison =
                        compare_values(&[1.0, wrong, 3.0], &[1.0, found, 3.0], class, DType::F32);
                    assert!(!comparison.pass && comparison.non_finite == 1, "{class:?} {wrong} {found}");
                }
            }
        }
    }

    #[test]
    fn quick_noise_has_mean_0_and_variance_1() {
        let x = quick_noise(&TensorType::f32([100_000]), 3);
        let mean = x.data().iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
        let variance = x.data().iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn equal_tensors_pass_in_every_class() {
        let x = Hard::Offset.tensor(&TensorType::f32([33, 7]), 1);
        for class in CLASSES {
            assert!(compare(&x, &x, class, DType::F32).pass, "{class:?}");
        }
    }

    #[test]
    fn one_wrong_element_of_a_million_is_refused() {
        let x = Hard::Noise.tensor(&TensorType::f32([1024, 1024]), 4);
        // Too little for the mean of a contraction.
        for (dtype, error) in [(DType::F32, 0.005), (DType::F16, 0.05)] {
            let wrong = HostTensor::from_fn(x.ty().clone(), |i| x.at(i) + f64::from(i == 77_777) * error);
            for class in CLASSES.iter().filter(|class| !matches!(class, Class::Network | Class::LargeNetwork))
            {
                let found = compare(&x, &wrong, *class, dtype);
                assert!(!found.pass && found.worst == 77_777, "{class:?} {dtype}");
            }
        }
    }

    #[test]
    fn ten_times_the_tolerance_zeros_and_nan_are_refused_in_every_class() {
        for dtype in [DType::F32, DType::F16] {
            let x = Hard::Noise.tensor(&TensorType::f32([64, 8]), 2);
            // Relative size of an error that is ten times what the loosest rule of the class allows.
            for class in CLASSES {
                let nudge = match (class, dtype) {
                    (Class::Move, _) => 1e-6,
                    (Class::Elementwise, DType::F32) => 1e-4,
                    (Class::Reduction { .. }, DType::F32) => 3e-4,
                    (Class::Contraction { .. } | Class::Network, DType::F32) => 1e-4,
                    (Class::LargeNetwork, DType::F32) => 3e-4,
                    (Class::Elementwise | Class::Reduction { .. }, _) => 4e-2,
                    (Class::Contraction { .. }, _) => 1e-2,
                    (Class::Network | Class::LargeNetwork, _) => 8e-2,
                };
                let nudged = HostTensor::from_fn(x.ty().clone(), |i| x.at(i) * (1.0 + nudge) + nudge);
                assert!(!compare(&x, &nudged, class, dtype).pass, "nudge, {class:?} {dtype}");
                let zeros = HostTensor::from_fn(x.ty().clone(), |_| 0.0);
                assert!(!compare(&x, &zeros, class, dtype).pass, "zeros, {class:?} {dtype}");
                let nan = HostTensor::from_fn(x.ty().clone(), |i| if i == 100 { f64::NAN } else { x.at(i) });
                let found = compare(&x, &nan, class, dtype);
                assert!(!found.pass && found.worst == 100 && found.non_finite == 1, "nan, {class:?} {dtype}");
            }
        }
    }
}

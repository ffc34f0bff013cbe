//! Whether matrix units compute what they should, found out before kernels count on them.

use kernels::check::Hard;
use kernels::ops::{Attention, MatMul};
use kernels::{Case, DType, TensorType, Variant};

use super::gpu::Gpu;
use crate::validate::{ValidateError, Verdict, validate_variants};

/// What the names of variants have that are tried.
const ON_MATRIX_UNITS: &str = "_cooperative";

/// Several blocks of rows, columns and terms for tiles of 8 and of 16, none of them whole; heads as in Stable Diffusion 1.
fn cases() -> [Case; 2] {
    let f16 = |shape: &[usize]| TensorType::new(DType::F16, shape);
    let attention = Attention { causal: true, ..Attention::new(2) };
    let tokens = f16(&[1, 99, 80]);
    [
        Case::new(MatMul::default(), [f16(&[150, 70]), f16(&[72, 200]).in_strips()]),
        Case::new(attention, [tokens.clone(), tokens.clone(), tokens]),
    ]
}

/// Multiplies two small matrices and attends a little on matrix units; two pipelines.
///
/// # Errors
/// Why kernels must not use them, in words.
pub(super) async fn probe(gpu: &Gpu) -> Result<(), String> {
    for case in cases() {
        let tried = |variant: &Variant| variant.name.contains(ON_MATRIX_UNITS);
        judge(case.op.name(), &validate_variants(gpu, &case, &[Hard::Noise], tried).await)?;
    }
    Ok(())
}

/// What a probe that ended so says. An adapter that is offered no such variant has none to fear.
fn judge(op: &str, verdicts: &Result<Vec<Verdict>, ValidateError>) -> Result<(), String> {
    match verdicts {
        Err(error) => Err(format!("the driver does not run {op} on them: {}", brief(error))),
        Ok(verdicts) => match verdicts.iter().find(|verdict| !verdict.pass()) {
            None => Ok(()),
            Some(wrong) => Err(format!(
                "{op} on them is wrong: nmse {:.1e}, {} values not finite",
                wrong.comparison.nmse, wrong.comparison.non_finite
            )),
        },
    }
}

/// The beginning of an error on one line: drivers quote whole shaders.
fn brief(error: &ValidateError) -> String {
    const SHOWN: usize = 300;
    let words: Vec<String> = error.to_string().split_whitespace().map(str::to_owned).collect();
    words.join(" ").chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use kernels::HostTensor;
    use kernels::check::{Class, compare};

    use super::*;
    use crate::device::DeviceError;

    fn verdict(scale: f64, padding_is_zero: bool) -> Verdict {
        let ty = TensorType::new(DType::F16, [4, 4]);
        let product = |scale: f64| HostTensor::from_fn(ty.clone(), |i| scale * (i as f64 - 5.0));
        let comparison = compare(&product(1.0), &product(scale), Class::Contraction { k: 4 }, DType::F16);
        Verdict {
            op: "matmul",
            attributes: String::new(),
            variant: "matmul_cooperative",
            inputs: vec![ty.clone(), ty],
            hard: Hard::Noise,
            comparison,
            padding_is_zero,
        }
    }

    #[test]
    fn a_wrong_product_and_a_refused_one_are_told() {
        assert_eq!(judge("matmul", &Ok(vec![verdict(1.0, true)])), Ok(()));
        assert_eq!(judge("matmul", &Ok(Vec::new())), Ok(()));
        let wrong = judge("matmul", &Ok(vec![verdict(1.0, true), verdict(1.1, true)])).unwrap_err();
        assert_eq!(wrong, "matmul on them is wrong: nmse 1.0e-2, 0 values not finite");
        assert!(judge("matmul", &Ok(vec![verdict(f64::NAN, true)])).is_err());
        assert!(judge("matmul", &Ok(vec![verdict(1.0, false)])).is_err());
        let refused = ValidateError::Device(DeviceError::Refused { message: "no\n\n  f16".to_owned() });
        assert!(judge("matmul", &Err(refused)).unwrap_err().ends_with("internal: no f16"));
    }
}

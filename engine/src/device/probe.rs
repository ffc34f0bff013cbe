//! Whether matrix units compute what they should, found out before kernels count on them.

use kernels::check::Hard;
use kernels::ops::MatMul;
use kernels::{Case, DType, TensorType};

use super::gpu::Gpu;
use crate::validate::{ValidateError, Verdict, validate_variants};

/// The variant that is tried.
const VARIANT: &str = "matmul_cooperative";

/// Several blocks of rows, columns and terms for tiles of 8 and of 16, none of them whole.
const EXTENTS: [usize; 3] = [150, 70, 200];

/// Multiplies two small matrices on matrix units; one pipeline.
///
/// # Errors
/// Why kernels must not use them, in words.
pub(super) async fn probe(gpu: &Gpu) -> Result<(), String> {
    let [m, k, n] = EXTENTS;
    let f16 = |shape| TensorType::new(DType::F16, shape);
    let case = Case::new(MatMul::default(), [f16([m, k]), f16([k.next_multiple_of(4), n])]);
    let verdicts = validate_variants(gpu, &case, &[Hard::Noise], |variant| variant.name == VARIANT).await;
    judge(&verdicts)
}

/// What a probe that ended so says. An adapter that is offered no such variant has none to fear.
fn judge(verdicts: &Result<Vec<Verdict>, ValidateError>) -> Result<(), String> {
    match verdicts {
        Err(error) => Err(format!("the driver does not run a product on them: {}", brief(error))),
        Ok(verdicts) => match verdicts.iter().find(|verdict| !verdict.pass()) {
            None => Ok(()),
            Some(wrong) => Err(format!(
                "a product on them is wrong: nmse {:.1e}, {} values not finite",
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
            variant: VARIANT,
            inputs: vec![ty.clone(), ty],
            hard: Hard::Noise,
            comparison,
            padding_is_zero,
        }
    }

    #[test]
    fn a_wrong_product_and_a_refused_one_are_told() {
        assert_eq!(judge(&Ok(vec![verdict(1.0, true)])), Ok(()));
        assert_eq!(judge(&Ok(Vec::new())), Ok(()));
        let wrong = judge(&Ok(vec![verdict(1.0, true), verdict(1.1, true)])).unwrap_err();
        assert_eq!(wrong, "a product on them is wrong: nmse 1.0e-2, 0 values not finite");
        assert!(judge(&Ok(vec![verdict(f64::NAN, true)])).is_err());
        assert!(judge(&Ok(vec![verdict(1.0, false)])).is_err());
        let refused = ValidateError::Device(DeviceError::Refused { message: "no\n\n  f16".to_owned() });
        assert!(judge(&Err(refused)).unwrap_err().ends_with("internal: no f16"));
    }
}

//! `photogram validate`: whether this adapter computes what it should.

mod cases;
mod kernels;
mod marks;
mod recorded;
mod shapes;

use ::kernels::check::Comparison;
use serde_json::{Value, json};

use crate::adapter::open_tuned;
use crate::args::{PrecisionArg, ValidateArgs};
use crate::failure::{Code, Failure};
use crate::report::{Report, Verbosity};

/// Compares kernels with their references, on their own cases or at a model's shapes, or a recorded run with ours.
///
/// # Errors    [`Code::CheckFailed`] if a result is wrong
pub(crate) async fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let report = Report::new(if args.quiet { Verbosity::Quiet } else { Verbosity::Normal });
    if let Some(folder) = &args.reference {
        let adapter = open_tuned(&args.adapter, &report).await?;
        let precision = args.precision.unwrap_or(PrecisionArg::F32);
        return recorded::validate(adapter, folder, precision, args.json, &report).await;
    }
    if let Some(path) = &args.cases {
        let adapter = open_tuned(&args.adapter, &report).await?;
        return cases::validate(adapter, path, args.json, &report).await;
    }
    let shape = &args.shape;
    let is_shaped = shape.width.is_some() || shape.height.is_some() || shape.cfg_scale.is_some();
    if args.model.is_some() || is_shaped {
        return shapes::validate(args, &report).await;
    }
    if args.precision.is_some() {
        return Err(Failure::usage("--precision", "--model, a size or --reference beside it", "none"));
    }
    kernels::validate(open_tuned(&args.adapter, &report).await?, args.json, &report).await
}

fn comparison_as_json(comparison: &Comparison) -> Value {
    json!({
        "max_abs": comparison.max_abs,
        "max_rel": comparison.max_rel,
        "worst": comparison.worst,
        "nmse": comparison.nmse,
        "centred_nmse": comparison.centred_nmse,
        "non_finite": comparison.non_finite,
        "pass": comparison.pass,
    })
}

fn check(passed: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if passed { Ok(()) } else { Err(Failure::new(Code::CheckFailed, message())) }
}

fn pass_or_fail(pass: bool) -> &'static str {
    if pass { "pass" } else { "FAIL" }
}

fn figure(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") }
}

/// The larger of two errors; one that is not a number is the largest.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_no_number_is_the_worst() {
        for errors in [[f64::NAN, 1.0, 2.0], [1.0, f64::NAN, 2.0], [1.0, 2.0, f64::NAN]] {
            assert!(errors.into_iter().fold(0.0, worse).is_nan(), "{errors:?}");
        }
        assert_eq!([1.0, 3.0, 2.0].into_iter().fold(0.0, worse), 3.0);
    }
}

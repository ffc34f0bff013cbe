//! `photogram validate`: whether this adapter computes what it should.

use std::path::Path;

use engine::device::Gpu;
use engine::recorded::{RecordedRun, run_recorded};
use engine::validate::{Verdict, validate_case};
use kernels::DType;
use kernels::check::Comparison;
use serde_json::{Value, json};

use crate::adapter::{Adapter, open, open_tuned};
use crate::args::ValidateArgs;
use crate::failure::{Code, Failure};
use crate::report::{Report, Verbosity, print, print_json};
use crate::tables::table;

/// Failures of a variant that are described one by one.
const MAX_DESCRIBED: usize = 5;

/// Compares kernels with their references, or a recorded run with ours.
///
/// # Errors    [`Code::CheckFailed`] if a result is wrong
pub(crate) async fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let report = Report::new(if args.quiet { Verbosity::Quiet } else { Verbosity::Normal });
    match &args.reference {
        Some(folder) => {
            let adapter = open_tuned(&args.adapter, &report).await?;
            validate_recorded(args, adapter, folder, &report).await
        }
        None => validate_kernels(args, &open(&args.adapter, &report).await?.gpu, &report).await,
    }
}

/// All verdicts on one variant for one dtype.
struct Variant {
    op: &'static str,
    name: &'static str,
    dtype: DType,
    verdicts: Vec<Verdict>,
}

impl Variant {
    fn failures(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.pass())
    }

    fn worst(&self, figure: fn(&Comparison) -> f64) -> f64 {
        self.verdicts.iter().map(|verdict| figure(&verdict.comparison)).fold(0.0, worse)
    }
}

/// The larger of two errors; one that is not a number is the largest.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

async fn validate_kernels(args: &ValidateArgs, gpu: &Gpu, report: &Report) -> Result<(), Failure> {
    let cases = kernels::ops::cases();
    report.steps("checking", cases.len());
    let mut variants: Vec<Variant> = Vec::new();
    for case in &cases {
        for verdict in validate_case(gpu, case).await? {
            let (op, name, dtype) = (verdict.op, verdict.variant, verdict.inputs[0].dtype);
            let is_it =
                |variant: &&mut Variant| (variant.op, variant.name, variant.dtype) == (op, name, dtype);
            match variants.iter_mut().find(is_it) {
                Some(variant) => variant.verdicts.push(verdict),
                None => variants.push(Variant { op, name, dtype, verdicts: vec![verdict] }),
            }
        }
        report.step();
    }
    report.clear();

    if args.json {
        print_json(&kernels_as_json(gpu, &variants))?;
    } else {
        let text = kernels_described(gpu, &variants);
        print(&text, &text)?;
    }
    let failed = variants.iter().filter(|variant| variant.failures().next().is_some()).count();
    check(failed == 0, || format!("{failed} of {} kernel variants are wrong on this adapter", variants.len()))
}

fn kernels_described(gpu: &Gpu, variants: &[Variant]) -> String {
    let head = ["operation", "variant", "dtype", "checks", "failed", "max abs", "nmse", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(variants.iter().map(|variant| {
        let failed = variant.failures().count();
        vec![
            variant.op.to_owned(),
            variant.name.to_owned(),
            variant.dtype.to_string(),
            variant.verdicts.len().to_string(),
            failed.to_string(),
            figure(variant.worst(|comparison| comparison.max_abs)),
            figure(variant.worst(|comparison| comparison.nmse)),
            pass_or_fail(failed == 0).to_owned(),
        ]
    }));
    let mut text = format!("{}, {}\n\n{}", gpu.adapter_name(), gpu.driver(), table(&rows));
    for variant in variants {
        for verdict in variant.failures().take(MAX_DESCRIBED) {
            text.push_str(&format!("\n{}", failure_described(verdict)));
        }
    }
    text
}

fn failure_described(verdict: &Verdict) -> String {
    let inputs: Vec<String> = verdict.inputs.iter().map(ToString::to_string).collect();
    let Comparison { max_abs, worst, nmse, non_finite, .. } = verdict.comparison;
    let padding = if verdict.padding_is_zero { "" } else { ", padding is not zero" };
    format!(
        "{} {} on {} ({}): max abs {} at {worst}, nmse {}, {non_finite} not finite{padding}\n",
        verdict.variant,
        verdict.attributes,
        inputs.join(", "),
        verdict.hard.name(),
        figure(max_abs),
        figure(nmse),
    )
}

fn kernels_as_json(gpu: &Gpu, variants: &[Variant]) -> Value {
    let variants = variants.iter().map(|variant| {
        let failures = variant.failures().map(|verdict| {
            let inputs: Vec<String> = verdict.inputs.iter().map(ToString::to_string).collect();
            json!({
                "attributes": verdict.attributes,
                "inputs": inputs,
                "values": verdict.hard.name(),
                "padding_is_zero": verdict.padding_is_zero,
                "comparison": comparison_as_json(&verdict.comparison),
            })
        });
        json!({
            "operation": variant.op,
            "variant": variant.name,
            "dtype": variant.dtype.to_string(),
            "checks": variant.verdicts.len(),
            "pass": variant.failures().next().is_none(),
            "max_abs": variant.worst(|comparison| comparison.max_abs),
            "nmse": variant.worst(|comparison| comparison.nmse),
            "failures": failures.collect::<Vec<_>>(),
        })
    });
    json!({
        "adapter": gpu.adapter_name(),
        "driver": gpu.driver(),
        "notes": gpu.notes(),
        "variants": variants.collect::<Vec<_>>(),
    })
}

async fn validate_recorded(
    args: &ValidateArgs,
    Adapter { gpu, notes }: Adapter,
    folder: &Path,
    report: &Report,
) -> Result<(), Failure> {
    report.stage("running the recorded request");
    let run = run_recorded(gpu.clone(), folder, args.precision.into()).await?;
    report.clear();
    if args.json {
        print_json(&run_as_json(&gpu, &notes, &run))?;
    } else {
        let text = run_described(&gpu, &run);
        print(&text, &text)?;
    }
    check(run.pass(), || {
        let first = run.first_failure().map_or("", |stage| &stage.name);
        format!("'{first}' is the first stage that differs from the recorded run")
    })
}

fn run_described(gpu: &Gpu, run: &RecordedRun) -> String {
    let head = ["stage", "nmse", "max abs", "worst index", "not finite", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(run.stages.iter().map(|stage| {
        let Comparison { max_abs, worst, centred_nmse, non_finite, pass, .. } = stage.comparison;
        vec![
            stage.name.clone(),
            figure(centred_nmse),
            figure(max_abs),
            worst.to_string(),
            non_finite.to_string(),
            pass_or_fail(pass).to_owned(),
        ]
    }));
    format!(
        "{}, {}, {}\n\n{}\nimage: {:.1} dB PSNR\n",
        gpu.adapter_name(),
        gpu.driver(),
        run.dtype,
        table(&rows),
        run.image_psnr
    )
}

fn run_as_json(gpu: &Gpu, notes: &[String], run: &RecordedRun) -> Value {
    let stages = run
        .stages
        .iter()
        .map(|stage| json!({ "stage": stage.name, "comparison": comparison_as_json(&stage.comparison) }));
    json!({
        "adapter": gpu.adapter_name(),
        "driver": gpu.driver(),
        "notes": notes,
        "dtype": run.dtype.to_string(),
        "pass": run.pass(),
        "image_psnr": run.image_psnr,
        "stages": stages.collect::<Vec<_>>(),
    })
}

fn comparison_as_json(comparison: &Comparison) -> Value {
    json!({
        "max_abs": comparison.max_abs,
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

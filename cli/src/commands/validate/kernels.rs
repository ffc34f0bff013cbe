//! Every variant of every kernel on its own cases.

use std::path::Path;

use ::kernels::check::Comparison;
use ::kernels::{Case, DType};
use engine::device::Gpu;
use engine::validate::{Verdict, validate_case};
use serde_json::{Value, json};

use super::marks::Marks;
use super::{check, comparison_as_json, figure, pass_or_fail, worse};
use crate::adapter::{Adapter, cache_folder};
use crate::failure::Failure;
use crate::report::{Report, print, print_json};
use crate::tables::table;

/// Failures of a variant that are described one by one.
const MAX_DESCRIBED: usize = 5;

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

/// Runs every case of every kernel, and notes which variants are wrong here and which are not any more.
pub(super) async fn validate(
    Adapter { gpu, .. }: Adapter,
    as_json: bool,
    report: &Report,
) -> Result<(), Failure> {
    let gpu = &gpu;
    let cases = ::kernels::ops::cases();
    let variants = check_cases(gpu, &cases, cache_folder().as_deref(), report).await?;
    if as_json {
        print_json(&kernels_as_json(gpu, &variants))?;
    } else {
        let text = kernels_described(gpu, &variants);
        print(&text, &text)?;
    }
    let failed = variants.iter().filter(|variant| variant.failures().next().is_some()).count();
    check(failed == 0, || format!("{failed} of {} kernel variants are wrong on this adapter", variants.len()))
}

/// Runs `cases`. Variants that are wrong with any element type are noted in `folder`, those that are right are not any more.
async fn check_cases(
    gpu: &Gpu,
    cases: &[Case],
    folder: Option<&Path>,
    report: &Report,
) -> Result<Vec<Variant>, Failure> {
    report.steps("checking", cases.len());
    let mut variants: Vec<Variant> = Vec::new();
    for case in cases {
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

    let mut marks = Marks::new(gpu);
    let is_wrong = |name: &str| variants.iter().any(|v| v.name == name && v.failures().next().is_some());
    for variant in &variants {
        marks.note(variant.name, is_wrong(variant.name));
    }
    marks.write(folder, gpu, report);
    Ok(variants)
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

#[cfg(test)]
mod tests {
    use ::kernels::TensorType;
    use ::kernels::ops::Scale;
    use engine::device::{AdapterChoice, FaultPlan};
    use engine::tuning::{Identity, read_choices};

    use super::*;
    use crate::report::Verbosity;

    #[test]
    fn what_is_wrong_with_one_element_type_is_kept_for_later_runs() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let of_type = |dtype| Case::new(Scale { factor: 0.5 }, [TensorType::new(dtype, [4, 64])]);
        let cases = [DType::F32, DType::F16].map(of_type);
        let identity = Identity::of(&gpu);
        // Element types that were wrong, and who is distrusted later, where the device leaves a submission undone.
        let after = |skip_submission: Option<u64>| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            gpu.arm(FaultPlan { skip_submission, ..FaultPlan::default() });
            let report = Report::new(Verbosity::Quiet);
            let variants = pollster::block_on(check_cases(&gpu, &cases, Some(folder.path()), &report));
            let variants = variants.unwrap_or_else(|failure| panic!("{}", failure.message));
            assert_eq!(variants.len(), 2);
            let wrong = variants.iter().filter(|variant| variant.failures().next().is_some());
            let wrong: Vec<DType> = wrong.map(|variant| variant.dtype).collect();
            let path = folder.path().join(identity.file_name());
            let later = pollster::block_on(read_choices(&path, &identity));
            let distrusted =
                later.map_or(Vec::new(), |choices| choices.distrusted().map(str::to_owned).collect());
            (wrong, distrusted)
        };
        assert_eq!(after(None), (vec![], vec![]));
        let [_, submissions] = gpu.counts();
        let mut found = Vec::new();
        for skipped in 0..submissions {
            let (wrong, distrusted) = after(Some(skipped));
            assert_eq!(distrusted, if wrong.is_empty() { vec![] } else { vec!["scale"] }, "{skipped}");
            found.extend(wrong);
        }
        for dtype in [DType::F32, DType::F16] {
            assert!(found.contains(&dtype), "{found:?}");
        }
    }
}

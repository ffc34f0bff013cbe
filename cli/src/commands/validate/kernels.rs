//! Every variant of every kernel on its own cases.

use ::kernels::DType;
use ::kernels::check::Comparison;
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

    let mut marks = Marks::new(gpu);
    let is_wrong = |name: &str| variants.iter().any(|v| v.name == name && v.failures().next().is_some());
    for variant in &variants {
        marks.note(variant.name, is_wrong(variant.name));
    }
    marks.write(cache_folder().as_deref(), gpu, report);
    if as_json {
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

//! Single operations recorded elsewhere.

use std::path::Path;

use ::kernels::check::Comparison;
use engine::device::Gpu;
use engine::validate::{CaseReport, Cases};
use serde_json::{Value, json};

use super::{check, comparison_as_json, figure, pass_or_fail, worse};
use crate::adapter::Adapter;
use crate::failure::{Failure, one_line};
use crate::report::{Report, print, print_json};
use crate::tables::table;

/// Computes every case that can be expressed, with every variant.
pub(super) async fn validate(
    Adapter { gpu, .. }: Adapter,
    path: &Path,
    as_json: bool,
    report: &Report,
) -> Result<(), Failure> {
    let cases = Cases::open(path).await?;
    report.steps("checking", cases.len());
    let mut reports = Vec::with_capacity(cases.len());
    for index in 0..cases.len() {
        reports.push(cases.run(&gpu, index).await?);
        report.step();
    }
    report.clear();
    if as_json {
        print_json(&cases_as_json(&gpu, &reports))?;
    } else {
        let text = described(&gpu, &reports);
        print(&text, &text)?;
    }
    let failed = reports.iter().filter(|report| report.fails()).count();
    check(failed == 0, || format!("{failed} of {} recorded cases differ on this adapter", reports.len()))
}

fn worst(variants: &[(&str, Comparison)], figure: fn(&Comparison) -> f64) -> f64 {
    variants.iter().map(|(_, comparison)| figure(comparison)).fold(0.0, worse)
}

fn described(gpu: &Gpu, reports: &[CaseReport]) -> String {
    let head = ["case", "op", "variants", "max abs", "max rel", "nmse", "not finite", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(|report| match &report.result {
        Ok(variants) => vec![
            one_line(&report.name),
            one_line(&report.op),
            variants.len().to_string(),
            figure(worst(variants, |comparison| comparison.max_abs)),
            figure(worst(variants, |comparison| comparison.max_rel)),
            figure(worst(variants, |comparison| comparison.nmse)),
            variants.iter().map(|(_, comparison)| comparison.non_finite).max().unwrap_or(0).to_string(),
            pass_or_fail(!report.fails()).to_owned(),
        ],
        Err(reason) => {
            let mut row = vec![one_line(&report.name), one_line(&report.op)];
            row.resize(head.len() - 1, "-".to_owned());
            row.push(format!("skipped: {}", one_line(reason)));
            row
        }
    }));
    let skipped = reports.iter().filter(|report| report.result.is_err()).count();
    format!(
        "{}, {}\n\n{}\n{} cases, {skipped} skipped\n",
        gpu.adapter_name(),
        gpu.driver(),
        table(&rows),
        reports.len()
    )
}

fn cases_as_json(gpu: &Gpu, reports: &[CaseReport]) -> Value {
    let cases = reports.iter().map(|report| {
        let variants = report.result.as_ref().map(|variants| {
            let variants = variants.iter();
            variants
                .map(
                    |(variant, found)| json!({ "variant": variant, "comparison": comparison_as_json(found) }),
                )
                .collect::<Vec<_>>()
        });
        json!({
            "name": report.name,
            "op": report.op,
            "verdict": match (&report.result, report.fails()) {
                (Err(_), _) => "skipped",
                (Ok(_), true) => "fail",
                (Ok(_), false) => "pass",
            },
            "reason": report.result.as_ref().err(),
            "variants": variants.unwrap_or_default(),
        })
    });
    json!({ "adapter": gpu.adapter_name(), "driver": gpu.driver(), "cases": cases.collect::<Vec<_>>() })
}

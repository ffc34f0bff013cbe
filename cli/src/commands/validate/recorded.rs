//! A recorded PyTorch run beside ours.

use std::path::Path;

use ::kernels::check::Comparison;
use engine::device::Gpu;
use engine::recorded::{RecordedRun, run_recorded};
use serde_json::{Value, json};

use super::{check, comparison_as_json, figure, pass_or_fail};
use crate::adapter::Adapter;
use crate::args::PrecisionArg;
use crate::failure::Failure;
use crate::report::{Report, print, print_json};
use crate::tables::table;

/// Runs the recorded request and compares stage by stage.
pub(super) async fn validate(
    Adapter { gpu, notes }: Adapter,
    folder: &Path,
    precision: PrecisionArg,
    as_json: bool,
    report: &Report,
) -> Result<(), Failure> {
    report.stage("running the recorded request");
    let run = run_recorded(gpu.clone(), folder, precision.into()).await?;
    report.clear();
    if as_json {
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

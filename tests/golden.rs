//! Whole pipelines against PyTorch: every recorded run in `fixtures/pipelines`, stage by stage.
//!
//! A failure names the first stage that differs. `PIPELINE=sd1_layout` runs one folder alone.

use std::path::{Path, PathBuf};

use engine::device::Gpu;
use engine::pipelines::Precision;
use engine::recorded::run_recorded;
use photogram_tests::{fixture, gpu};

#[test]
fn every_recorded_run_agrees_in_f32() {
    if let Some(gpu) = gpu() {
        check(&gpu, &folders(), Precision::F32);
    }
}

#[test]
fn every_recorded_run_agrees_in_f16() {
    if let Some(gpu) = gpu() {
        check(&gpu, &folders(), Precision::F16);
    }
}

#[test]
fn the_built_in_model_agrees() {
    if let Some(gpu) = gpu() {
        check(&gpu, &[fixture("builtin")], Precision::F32);
    }
}

fn check(gpu: &Gpu, folders: &[PathBuf], precision: Precision) {
    assert!(!folders.is_empty(), "there are recorded runs");
    let failures: Vec<String> = folders.iter().filter_map(|f| failure(gpu, f, precision)).collect();
    assert!(
        failures.is_empty(),
        "{} of {} runs differ:\n{}",
        failures.len(),
        folders.len(),
        failures.join("\n")
    );
}

fn failure(gpu: &Gpu, folder: &Path, precision: Precision) -> Option<String> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let run = match pollster::block_on(run_recorded(gpu.clone(), folder, precision)) {
        Ok(run) => run,
        Err(error) => return Some(format!("{name}: {error}")),
    };
    for stage in &run.stages {
        let c = &stage.comparison;
        println!("{name:24} {:30} nmse {:9.2e} max {:9.2e}", stage.name, c.centred_nmse, c.max_abs);
    }
    let stage = run.first_failure()?;
    Some(format!("{name}: '{}' is the first stage that differs: {:?}", stage.name, stage.comparison))
}

/// Every folder below `fixtures/pipelines` that holds a recorded run.
fn folders() -> Vec<PathBuf> {
    let only = std::env::var("PIPELINE").ok();
    let mut found = Vec::new();
    let mut open = vec![fixture("pipelines")];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("fixtures are readable").path()).collect();
        if paths.iter().any(|p| p.ends_with("reference.json")) {
            let name =
                folder.strip_prefix(fixture("pipelines")).expect("below the fixtures").to_string_lossy();
            if only.as_deref().is_none_or(|only| name.starts_with(only)) {
                found.push(folder);
            }
            continue;
        }
        open.extend(paths.into_iter().filter(|p| p.is_dir()));
    }
    found.sort();
    found
}

//! Every variant of every kernel against its reference, on this machine's adapter.
//!
//! `KERNEL=matmul` runs one operation alone.

use engine::device::{Gpu, GpuOptions};
use engine::validate::validate_case;
use kernels::Case;
use photogram_tests::described;

/// A failure's first lines name operation, variant and operands.
fn check(gpu: &Gpu, cases: &[Case]) {
    let only = std::env::var("KERNEL").ok();
    let mut failures = Vec::new();
    let mut checked = 0;
    for case in cases.iter().filter(|c| only.as_deref().is_none_or(|name| c.op.name() == name)) {
        let verdicts =
            pollster::block_on(validate_case(gpu, case)).unwrap_or_else(|e| panic!("{case:?}: {e}"));
        assert!(!verdicts.is_empty(), "{case:?} has no variant");
        checked += verdicts.len();
        for v in verdicts.iter().filter(|v| !v.pass()) {
            failures.push(described(v));
        }
    }
    assert!(checked > 0, "nothing was checked");
    println!("{checked} comparisons on {}", gpu.adapter_name());
    assert!(failures.is_empty(), "{} of {checked} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_variant_agrees_with_its_reference() {
    if let Some(gpu) = photogram_tests::gpu() {
        check(&gpu, &kernels::ops::cases());
    }
}

#[test]
fn every_safe_variant_agrees_with_run_time_checks_and_without_features() {
    let options = GpuOptions { checked_shaders: true, webgpu_only: true, ..GpuOptions::default() };
    if let Some(gpu) = photogram_tests::gpu_with(options) {
        check(&gpu, &kernels::ops::cases());
    }
}

#[test]
fn every_variant_agrees_when_operands_exceed_a_binding() {
    let options = GpuOptions { max_binding_bytes: Some(16 << 10), ..GpuOptions::default() };
    if let Some(gpu) = photogram_tests::gpu_with(options) {
        let fits = |case: &Case| case.op.variants(&case.inputs, gpu.caps()).is_ok();
        let cases: Vec<Case> = kernels::ops::cases().into_iter().filter(fits).collect();
        check(&gpu, &cases);
    }
}

#[test]
fn every_variant_agrees_when_dispatches_are_short() {
    let options = GpuOptions { max_dispatch_flops: Some(20_000), ..GpuOptions::default() };
    if let Some(gpu) = photogram_tests::gpu_with(options) {
        // Where a dispatch for each row would be tens of thousands.
        let is_small = |case: &&Case| case.op.cost(&case.inputs).flops < 20_000 * 200;
        let cases = kernels::ops::cases();
        check(&gpu, &cases.iter().filter(is_small).cloned().collect::<Vec<_>>());
    }
}

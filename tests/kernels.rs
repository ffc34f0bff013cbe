//! Every variant of every kernel against its reference, on this machine's adapter.
//!
//! `KERNEL=matmul` runs one operation alone.

use engine::device::{Gpu, GpuOptions};
use engine::validate::validate_case;
use kernels::check::{Hard, compare};
use kernels::ops::Attention;
use kernels::{Case, DType, HostTensor, TensorType};
use photogram_tests::{described, run_variants};

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
        assert_eq!(gpu.caps().max_binding_bytes, 16 << 10);
        let fits = |case: &Case| case.op.variants(&case.inputs, gpu.caps()).is_ok();
        let cases: Vec<Case> = kernels::ops::cases().into_iter().filter(fits).collect();
        check(&gpu, &cases);
    }
}

#[test]
fn every_variant_agrees_when_dispatches_are_short() {
    let options = GpuOptions { max_dispatch_flops: Some(20_000), ..GpuOptions::default() };
    if let Some(gpu) = photogram_tests::gpu_with(options) {
        assert_eq!(gpu.caps().max_dispatch_flops, 20_000);
        // Where a dispatch for each row would be tens of thousands.
        let is_small = |case: &&Case| case.op.cost(&case.inputs).flops < 20_000 * 200;
        let cases = kernels::ops::cases();
        check(&gpu, &cases.iter().filter(is_small).cloned().collect::<Vec<_>>());
    }
}

/// Random masks hide nothing, and a row of scores that are all hidden is what models pad with.
#[test]
fn queries_that_see_nothing_get_zeros() {
    let Some(gpu) = photogram_tests::gpu() else { return };
    for dtype in [DType::F32, DType::F16] {
        for d in [40, 330] {
            let op = Attention { kv_heads: 1, mask: true, scale: Some(0.1), ..Attention::new(2) };
            let types = [
                TensorType::new(dtype, [2, 37, 2 * d]),
                TensorType::new(dtype, [2, 45, d]),
                TensorType::new(dtype, [2, 45, d]),
                TensorType::f32([2, 2, 37, 45]),
            ];
            let mut operands: Vec<HostTensor> =
                types.iter().enumerate().map(|(i, ty)| Hard::Noise.tensor(ty, i as u64 + 1)).collect();
            // Each third query sees nothing; of those before it, one sees the first key alone.
            operands[3] = HostTensor::from_fn(types[3].clone(), |i| {
                let (query, key) = (i / 45 % 37, i % 45);
                let hidden = query % 3 == 2 || query % 3 == 1 && key > 0;
                if hidden { [f64::NEG_INFINITY, -1e30, f64::from(f32::MIN)][key % 3] } else { 0.5 }
            });
            let case = Case::new(op, types.clone());
            let expected = case.op.reference(&operands.iter().collect::<Vec<_>>());
            for (number, found) in run_variants(&gpu, &case, &operands).iter().enumerate() {
                let comparison = compare(&expected, found, case.op.class(&types), dtype);
                assert!(comparison.pass, "variant {number} of {dtype}, {d} features: {comparison:?}");
                let row = 2 * 2 * d;
                assert!(
                    found.data()[row..row + 2 * d].iter().all(|y| *y == 0.0),
                    "variant {number}, {dtype}, {d}"
                );
            }
        }
    }
}

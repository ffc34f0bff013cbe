//! Matrix units are tried before a device is handed out; one that fails keeps them idle and says so.

use engine::device::GpuOptions;
use kernels::ops::MatMul;
use kernels::{DType, Op, TensorType};

#[test]
fn matrix_units_that_fail_the_probe_stay_idle_and_the_device_works() {
    let options = GpuOptions { claimed_cooperative: Some(8), ..GpuOptions::default() };
    let Some(gpu) = photogram_tests::gpu_with(options) else { return };
    println!("{}: {:?}", gpu.adapter_name(), gpu.notes());
    assert_eq!(gpu.caps().cooperative, None);
    let [note] = gpu.notes() else { panic!("{:?}", gpu.notes()) };
    assert!(note.starts_with("matrix units are not used: ") && !note.contains('\n'), "{note}");
    assert!(!variants(gpu.caps()).contains(&"matmul_cooperative"));

    let ty = TensorType::f32([5]);
    let tensor = gpu.allocate("x", ty).expect("a buffer");
    pollster::block_on(gpu.upload_bytes(&tensor, 0, &[1; 32])).expect("the device works");
    assert_eq!(pollster::block_on(gpu.read_bytes(&tensor)).expect("the device works"), [1; 32]);
}

#[test]
fn matrix_units_that_pass_are_offered_without_a_note() {
    let Some(gpu) = photogram_tests::gpu() else { return };
    let Some(extent) = gpu.caps().cooperative else {
        println!("skipped: {} has no matrix units that pass; {:?}", gpu.adapter_name(), gpu.notes());
        return;
    };
    println!("{}: {extent}x{extent}", gpu.adapter_name());
    assert_eq!(gpu.notes(), &[] as &[String]);
    assert!(gpu.pipelines() >= 2, "a product and an attention were tried: {}", gpu.pipelines());
    assert!(variants(gpu.caps()).contains(&"matmul_cooperative"));
}

fn variants(caps: &kernels::Caps) -> Vec<&'static str> {
    let types = [TensorType::new(DType::F16, [64, 64]), TensorType::new(DType::F16, [64, 64])];
    let variants = MatMul::default().variants(&types, caps).expect("small");
    variants.iter().map(|variant| variant.name).collect()
}

//! Every variant of every operation on shapes that models have: `cargo bench -p benches --bench kernels`.
//!
//! A bench is named `operation/variant/operands`; a word after `--` runs those whose name contains it. Contractions count
//! floating-point operations per second as elements, the others count the bytes that must move at least.

use std::cell::LazyCell;

use benches::{Bench, criterion};
use criterion::{BenchmarkGroup, BenchmarkId, SamplingMode, Throughput, measurement::WallTime};
use engine::device::{DeviceTensor, Program};
use engine::graph::{Graph, Rate};
use engine::plan::{Choice, build_plan};
use kernels::check::{Class, Hard};
use kernels::ops::{
    Activate, Activation, Add, Attention, Cast, Clamp, Concat, Conv2d, Epilogue, Geglu, GroupNorm,
    LatentsToRgb, LayerNorm, LinearCombination, MatMul, MatchDeviation, Mul, NonFinite, Normalize, Permute,
    RmsNorm, Scale, Slice, ToRgb, Upsample,
};
use kernels::{Case, DType, TensorType};
use pollster::block_on;

fn main() {
    let bench = Bench::open();
    let mut criterion = criterion();
    // Minutes for a CPU.
    let is_too_much = |case: &Case| bench.gpu.caps().software && case.op.cost(&case.inputs).flops > 1 << 36;
    for case in cases().into_iter().filter(|case| !is_too_much(case)) {
        let mut group = criterion.benchmark_group(case.op.name());
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(throughput(&case));
        run_variants(&bench, &mut group, &case);
        group.finish();
    }
    criterion.final_summary();
}

fn throughput(case: &Case) -> Throughput {
    let cost = case.op.cost(&case.inputs);
    match case.op.class(&case.inputs) {
        Class::Contraction { .. } => Throughput::Elements(cost.flops),
        _ => Throughput::Bytes(cost.bytes),
    }
}

fn run_variants(bench: &Bench, group: &mut BenchmarkGroup<'_, WallTime>, case: &Case) {
    let gpu = &bench.gpu;
    let mut graph = Graph::new();
    let ids: Vec<_> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(i, ty)| graph.input(&format!("operand {i}"), ty.clone(), Rate::Step))
        .collect();
    let result = graph.apply_arc(case.op.name(), case.op.clone(), &ids).expect("operands fit");
    graph.output(result);
    // A bench that is not asked for costs nothing.
    let tensors = LazyCell::new(|| {
        let operands: Vec<DeviceTensor> = case
            .inputs
            .iter()
            .enumerate()
            .map(|(i, ty)| {
                let tensor = Hard::Noise.tensor(ty, i as u64 + 1);
                block_on(gpu.upload_new("operand", &tensor)).expect("cases are small")
            })
            .collect();
        (operands, gpu.allocate("result", graph.ty(result).clone()).expect("cases are small"))
    });

    let operand_types = case.inputs.iter().map(TensorType::to_string).collect::<Vec<_>>().join(" ");
    let n_variants = case.op.variants(&case.inputs, gpu.caps()).expect("cases fit every adapter").len();
    for number in 0..n_variants {
        let plan = build_plan(&graph, gpu.caps(), Choice::Number(number)).expect("cases fit every adapter");
        let variant = plan.steps[0].variant.name;
        let run_with = |program: &Program| {
            let (operands, to) = &*tensors;
            block_on(program.run(gpu, &[Rate::Step], operands, std::slice::from_ref(to)))
                .expect("the device runs");
        };
        let program = LazyCell::new(|| {
            let program = Program::compile(gpu, plan, Vec::new()).expect("the device compiles");
            // Drivers leave a part of compiling to the first run.
            run_with(&program);
            bench.wait();
            program
        });
        group.bench_function(BenchmarkId::new(variant, &operand_types), |b| {
            b.iter_custom(|iterations| {
                let program = &*program;
                bench.wait();
                let started = std::time::Instant::now();
                for _ in 0..iterations {
                    run_with(program);
                }
                bench.wait();
                started.elapsed()
            });
        });
    }
}

/// Layers of Stable Diffusion 1.x at 256x256 without guidance, and of the built-in model.
fn cases() -> Vec<Case> {
    let f32 = |shape: Vec<usize>| TensorType::f32(shape);
    let f16 = |shape: Vec<usize>| TensorType::new(DType::F16, shape);
    // As models' weights lie.
    let w = |shape: Vec<usize>| TensorType::new(DType::F16, shape).in_strips();
    let w32 = |shape: Vec<usize>| TensorType::f32(shape).in_strips();
    let same = Conv2d { stride: [1, 1], padding: [1; 4], epilogue: Epilogue::bias() };
    let halving = Conv2d { stride: [2, 2], ..same.clone() };
    let linear = MatMul::new(Epilogue::bias());
    let attention = Attention::new;
    let norm = GroupNorm { groups: 32, eps: 1e-5, silu: true };
    vec![
        Case::new(same.clone(), [f32(vec![2, 16, 16, 1280]), w32(vec![3, 3, 1280, 1280]), f32(vec![1280])]),
        Case::new(same.clone(), [f32(vec![2, 8, 8, 1280]), w(vec![3, 3, 1280, 1280]), f32(vec![1280])]),
        // The shapes that side_by_side.py compares with torch.
        Case::new(MatMul::default(), [f32(vec![1024, 1024]), w(vec![1024, 1024])]),
        Case::new(MatMul::default(), [f16(vec![1024, 1024]), w(vec![1024, 1024])]),
        Case::new(same.clone(), [f32(vec![1, 64, 64, 320]), w(vec![3, 3, 320, 320]), f32(vec![320])]),
        Case::new(same.clone(), [f16(vec![1, 64, 64, 320]), w(vec![3, 3, 320, 320]), f32(vec![320])]),
        Case::new(attention(8), [f16(vec![1, 1024, 320]), f16(vec![1, 1024, 320]), f16(vec![1, 1024, 320])]),
        Case::new(MatMul::default(), [f32(vec![512, 512]), w(vec![512, 512])]),
        Case::new(MatMul::default(), [f16(vec![4096, 4096]), w(vec![4096, 4096])]),
        Case::new(MatMul::default(), [f32(vec![4096, 4096]), w32(vec![4096, 4096])]),
        Case::new(same.clone(), [f16(vec![2, 64, 64, 320]), w(vec![3, 3, 320, 320]), f32(vec![320])]),
        Case::new(linear.clone(), [f32(vec![1024, 320]), w32(vec![320, 320]), f32(vec![320])]),
        Case::new(linear.clone(), [f32(vec![1024, 320]), w(vec![320, 2560]), f32(vec![2560])]),
        // Long sums of few rows.
        Case::new(linear.clone(), [f32(vec![64, 5120]), w(vec![5120, 1280]), f32(vec![1280])]),
        Case::new(linear.clone(), [f16(vec![64, 5120]), w(vec![5120, 1280]), f32(vec![1280])]),
        Case::new(linear, [f16(vec![256, 640]), w(vec![640, 640]), f32(vec![640])]),
        Case::new(same.clone(), [f32(vec![1, 32, 32, 320]), w(vec![3, 3, 320, 320]), f32(vec![320])]),
        Case::new(same.clone(), [f16(vec![1, 32, 32, 320]), w(vec![3, 3, 320, 320]), f32(vec![320])]),
        Case::new(same.clone(), [f32(vec![2, 16, 16, 64]), w(vec![3, 3, 64, 64]), f32(vec![64])]),
        Case::new(same, [f32(vec![1, 128, 128, 16]), w(vec![3, 3, 16, 4]), f32(vec![4])]),
        Case::new(halving, [f32(vec![1, 32, 32, 320]), w(vec![3, 3, 320, 320]), f32(vec![320])]),
        Case::new(attention(8), [f32(vec![1, 1024, 320]), f32(vec![1, 1024, 320]), f32(vec![1, 1024, 320])]),
        Case::new(attention(8), [f32(vec![1, 1024, 320]), f32(vec![1, 77, 320]), f32(vec![1, 77, 320])]),
        Case::new(attention(1), [f32(vec![1, 1024, 512]), f32(vec![1, 1024, 512]), f32(vec![1, 1024, 512])]),
        Case::new(attention(1), [f16(vec![1, 1024, 512]), f16(vec![1, 1024, 512]), f16(vec![1, 1024, 512])]),
        Case::new(
            Normalize { groups: 32, silu: true },
            [f32(vec![1, 128, 128, 256]), f32(vec![256]), f32(vec![256]), f32(vec![1, 32, 2])],
        ),
        Case::new(norm.clone(), [f32(vec![1, 32, 32, 320]), f32(vec![320]), f32(vec![320])]),
        Case::new(norm, [f16(vec![1, 128, 128, 256]), f32(vec![256]), f32(vec![256])]),
        Case::new(LayerNorm { eps: 1e-5 }, [f32(vec![1024, 320]), f32(vec![320]), f32(vec![320])]),
        Case::new(LayerNorm { eps: 1e-5 }, [f32(vec![256, 1280]), f32(vec![1280]), f32(vec![1280])]),
        Case::new(RmsNorm { eps: 1e-6 }, [f32(vec![1024, 320]), f32(vec![320])]),
        Case::new(Mul, [f32(vec![1, 32, 32, 320]), f32(vec![1, 32, 32, 320])]),
        Case::new(Scale { factor: 2.0 }, [f32(vec![1, 32, 32, 320])]),
        Case::new(Clamp { limit: 1.0 }, [f32(vec![1, 32, 32, 320])]),
        Case::new(Cast { dtype: DType::F16 }, [f32(vec![1, 32, 32, 320])]),
        Case::new(NonFinite, [f32(vec![1, 32, 32, 320])]),
        Case::new(LatentsToRgb, [f32(vec![1, 64, 64, 4]), f32(vec![4, 3]), f32(vec![3])]),
        Case::new(Geglu::HALVES, [f32(vec![1024, 2560])]),
        Case::new(Activate(Activation::Silu), [f32(vec![1024, 1280])]),
        Case::new(Add, [f32(vec![1, 32, 32, 320]), f32(vec![1, 32, 32, 320])]),
        Case::new(Concat { axis: 3 }, [f32(vec![1, 32, 32, 640]), f32(vec![1, 32, 32, 320])]),
        Case::new(Slice { axis: 0, start: 1, length: 1 }, [f32(vec![2, 32, 32, 320])]),
        Case::new(Permute { axes: vec![0, 2, 1, 3] }, [f32(vec![1, 1024, 8, 40])]),
        Case::new(Upsample { height: 64, width: 64 }, [f32(vec![1, 32, 32, 320])]),
        Case::new(
            LinearCombination { terms: 4 },
            [vec![1, 64, 64, 4], vec![1, 64, 64, 4], vec![1, 64, 64, 4], vec![1, 64, 64, 4], vec![8]]
                .map(f32),
        ),
        Case::new(MatchDeviation, [vec![1, 128, 128, 4], vec![1, 128, 128, 4], vec![8]].map(f32)),
        Case::new(ToRgb, [f32(vec![1, 256, 256, 3])]),
    ]
}

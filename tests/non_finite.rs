//! Values that are not finite, on this machine's adapter: the kernels that look for them find them, and those that promise to
//! keep them do. WGSL may take it that there are none, so no comparison of ordinary values shows this.

use std::collections::BTreeSet;

use engine::ErrorKind;
use engine::device::{Gpu, GpuOptions, Program, Range, Tally};
use engine::graph::{Graph, Rate};
use engine::pipelines::{Model, NoiseSource, Pipeline, Precision};
use engine::plan::{Choice, build_plan};
use kernels::check::{Hard, compare};
use kernels::ops::{Attention, Clamp, GroupNorm, LatentsToRgb, NonFinite, Slice, ToRgb};
use kernels::{Caps, Case, DType, HostTensor, Op, TensorType};
use photogram_tests::run_variants as run;
use photogram_tests::{copy_folder, draw_tiny, fixture, tiny_request};
use pollster::block_on;

const SPECIAL: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// Noise with values that are not finite in `positions`.
fn spoiled(ty: &TensorType, positions: &[usize]) -> HostTensor {
    let mut data = Hard::Noise.tensor(ty, 1).into_data();
    for (i, position) in positions.iter().enumerate() {
        data[*position] = SPECIAL[i % SPECIAL.len()];
    }
    HostTensor::new(ty.clone(), data)
}

fn adapters() -> impl Iterator<Item = Gpu> {
    let small = GpuOptions { max_binding_bytes: Some(16 << 10), ..GpuOptions::default() };
    photogram_tests::gpu().into_iter().chain(photogram_tests::gpu_with(small))
}

/// One that other tests run nothing on: what is traced is all that a device runs.
fn own_gpu() -> Option<Gpu> {
    photogram_tests::gpu_with(GpuOptions::default())
}

#[test]
fn every_value_that_is_not_finite_is_counted() {
    for gpu in adapters() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let ty = TensorType::new(dtype, [301, 30]);
            // The first and last value, one in each lane, and neighbours across a row's end.
            for positions in [vec![], vec![0], vec![9029], vec![4, 35, 66, 97, 4529, 4530, 9029]] {
                let x = spoiled(&ty, &positions);
                let case = Case::new(NonFinite, [ty.clone()]);
                for found in run(&gpu, &case, std::slice::from_ref(&x)) {
                    assert_eq!(found.data(), [positions.len() as f32], "{ty}, {positions:?}");
                }
            }
        }
    }
}

/// Whatever the variant, the bindings' limit and the grid: each once, and those of one run after another.
#[test]
fn a_group_norm_counts_what_is_not_finite_in_its_operand() {
    let mut variants = BTreeSet::new();
    for gpu in adapters() {
        let folded = Caps { max_groups_per_axis: 3, ..gpu.caps().clone() };
        for case in (GroupNorm { groups: 1, eps: 1.0, silu: false }).cases() {
            let elements = case.inputs[0].shape.elements();
            let positions: Vec<usize> = (0..elements).filter(|i| i % 37 == 36 || i + 1 == elements).collect();
            let spoiled = spoiled(&case.inputs[0], &positions);
            let sound = Hard::Noise.tensor(&case.inputs[0], 1);
            for caps in [gpu.caps(), &folded] {
                for number in 0..case.op.variants(&case.inputs, caps).map_or(0, |variants| variants.len()) {
                    let mut graph = Graph::new();
                    let ids = ["x", "scale", "bias"].iter().zip(&case.inputs);
                    let ids: Vec<_> =
                        ids.map(|(name, ty)| graph.input(name, ty.clone(), Rate::Step)).collect();
                    let y = graph.apply_arc("the norm", case.op.clone(), &ids).expect("a valid case");
                    graph.output(y);
                    let plan = build_plan(&graph, caps, Choice::Number(number)).expect("it fits");
                    variants.insert(plan.steps[0].variant.name);
                    let program = Program::compile(&gpu, plan, Vec::new()).expect("it compiles");
                    let counted = |x: &HostTensor| {
                        let ones = |ty: &TensorType| HostTensor::from_fn(ty.clone(), |_| 1.0);
                        let operands = [x.clone(), ones(&case.inputs[1]), ones(&case.inputs[2])];
                        let upload = |x| block_on(gpu.upload_new("operand", x)).expect("room");
                        let to = gpu.allocate("y", case.inputs[0].clone()).expect("room");
                        let operands = operands.each_ref().map(upload);
                        let ran = block_on(program.run(&gpu, &[Rate::Step], &operands, &[to]));
                        ran.expect("it runs");
                        block_on(program.tallies(&gpu)).expect("counts")
                    };
                    let tally = |count| Tally {
                        name: "the norm".to_owned(),
                        op: "group_norm",
                        count,
                        total: elements,
                    };
                    program.clear_tallies(&gpu);
                    assert_eq!(counted(&sound), [], "{case:?}");
                    assert_eq!(counted(&spoiled), [tally(positions.len())], "{case:?}");
                    assert_eq!(counted(&spoiled), [tally(2 * positions.len())], "{case:?}");
                    program.clear_tallies(&gpu);
                    assert_eq!(counted(&sound), [], "{case:?}");
                }
            }
        }
    }
    let expected = ["group_norm_slabs", "group_norm_whole"];
    assert!(
        variants.iter().copied().eq(expected.into_iter().filter(|_| !variants.is_empty())),
        "{variants:?}"
    );
}

#[test]
fn keys_behind_a_mask_of_infinities_are_not_seen() {
    if let Some(gpu) = photogram_tests::gpu() {
        for dtype in [DType::F32, DType::F16] {
            let q = TensorType::new(dtype, [1, 70, 2 * 40]);
            let kv = TensorType::new(dtype, [1, 131, 2 * 40]);
            // Of the first head's queries the first sees nothing, the others their last keys alone: beyond the first tiles of
            // every variant. The second head's see all but a few.
            let mask = TensorType::f32([1, 2, 70, 131]);
            let is_hidden = |i: usize| {
                let (head, query, key) = (i / 131 / 70, i / 131 % 70, i % 131);
                if head == 0 { query == 0 || key < 131 - query } else { (key + query) % 19 == 0 }
            };
            let hidden = [f32::NEG_INFINITY, f32::MIN];
            let mask = HostTensor::from_fn(mask, |i| {
                if is_hidden(i) { f64::from(hidden[i % 2]) } else { (i % 7) as f64 / 7.0 }
            });
            let op = Attention { mask: true, ..Attention::new(2) };
            let case = Case::new(op, [q, kv.clone(), kv, mask.ty().clone()]);
            let noise = |i: usize| Hard::Noise.tensor(&case.inputs[i], 1 + i as u64);
            let operands = [noise(0), noise(1), noise(2), mask];
            let expected = case.op.reference(&operands.each_ref());
            assert!(expected.data()[..40].iter().all(|y| *y == 0.0), "a query that sees nothing");
            for found in run(&gpu, &case, &operands) {
                let comparison = compare(&expected, &found, case.op.class(&case.inputs), dtype);
                assert!(comparison.pass, "{dtype}: {comparison:?}");
                assert!(found.data()[..40].iter().all(|y| *y == 0.0), "{dtype}");
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_pass_through() {
    for gpu in adapters() {
        for dtype in [DType::F32, DType::F16] {
            let picture = TensorType::new(dtype, [1, 9, 7, 3]);
            let latent = TensorType::new(dtype, [1, 9, 7, 4]);
            let (factors, bias) = (TensorType::f32([4, 3]), TensorType::f32([3]));
            let cases = [
                Case::new(ToRgb, [picture.clone()]),
                Case::new(Clamp { limit: 1.0 }, [picture]),
                Case::new(LatentsToRgb, [latent, factors, bias]),
            ];
            for case in cases {
                let mut operands = vec![spoiled(&case.inputs[0], &[0, 4, 8, 13, 100, 188])];
                operands.extend(case.inputs[1..].iter().map(|ty| Hard::Noise.tensor(ty, 2)));
                let expected = case.op.reference(&operands.iter().collect::<Vec<_>>());
                assert!(expected.data().iter().any(|x| x.is_nan()), "{case:?}");
                for found in run(&gpu, &case, &operands) {
                    for (e, f) in expected.data().iter().zip(found.data()) {
                        let kept = if e.is_finite() {
                            f.is_finite()
                        } else {
                            e.is_nan() == f.is_nan() && !f.is_finite()
                        };
                        assert!(kept, "{case:?}: {e} became {f}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_operand_of_what_is_not_finite_is_told_where_it_is_a_part_of_a_tensor() {
    let Some(gpu) = own_gpu() else { return };
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([2, 64]), Rate::Step);
    let part = graph.apply("part", Slice { axis: 0, start: 1, length: 1 }, &[x]).expect("it is there");
    let clamped = graph.apply("clamped", Clamp { limit: 50.0 }, &[part]).expect("operands fit");
    graph.output(clamped);
    // The first row is finite and smaller; of the second the last value is not finite.
    let values = HostTensor::from_fn(TensorType::f32([2, 64]), |i| match i {
        127 => f64::NAN,
        _ => i as f64,
    });
    let plan = build_plan(&graph, gpu.caps(), Choice::Fastest).expect("small");
    assert_eq!(plan.steps.last().expect("an operation").input_offsets, [4 * 64], "a part is no copy");
    let program = Program::compile(&gpu, plan, Vec::new()).expect("it compiles");
    let input = block_on(gpu.upload_new("x", &values)).expect("room");
    let output = gpu.allocate("clamped", graph.ty(clamped).clone()).expect("room");
    gpu.trace(true);
    block_on(program.run(&gpu, &[Rate::Step], &[input], &[output])).expect("nothing fails");
    let traced = gpu.end_trace();
    assert_eq!(traced.len(), 1, "{traced:?}");
    assert_eq!((traced[0].name.as_str(), traced[0].op), ("clamped", "clamp"));
    assert_eq!(traced[0].inputs, [Range { min: 64.0, max: 126.0, non_finite: 1, count: 64 }]);
    assert_eq!(traced[0].output, Range { min: 50.0, max: 50.0, non_finite: 1, count: 64 });
}

/// An infinite weight at the end of each of a denoiser's tensors; every sixteenth of them, all with `SPOILED=all`.
/// Queries and keys are not among them: attention takes a score of minus infinity for a masked one, and whether others are
/// beside it depends on the picture.
#[test]
fn what_is_not_finite_anywhere_in_a_denoiser_ends_the_step() {
    let Some(gpu) = own_gpu() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&fixture("pipelines/sd1_layout/model"), folder.path());
    let path = folder.path().join("unet/diffusion_pytorch_model.safetensors");
    let sound = std::fs::read(&path).expect("weights");
    let every = if std::env::var("SPOILED").is_ok_and(|value| value == "all") { 1 } else { 16 };
    let mut spoiled = 0;
    let is_score = |name: &str| name.ends_with("to_q.weight") || name.ends_with("to_k.weight");
    let tensors = ends_of_f16_tensors(&sound);
    for (name, end) in tensors.into_iter().filter(|(name, _)| !is_score(name)).step_by(every) {
        let mut bytes = sound.clone();
        bytes[end - 2..end].copy_from_slice(&INFINITY_F16);
        std::fs::write(&path, bytes).expect("room");
        let model = block_on(Model::open(folder.path(), None, Precision::F32)).expect("it is well-formed");
        let error = draw_tiny(&mut Pipeline::new(gpu.clone(), model), 32).expect_err(&name);
        assert_eq!(error.kind(), ErrorKind::NotFinite, "{name}: {error}");
        assert!(error.to_string().starts_with("step 0, unet."), "{name}: {error}");
        spoiled += 1;
    }
    println!("{spoiled} spoiled weights: each ends the first step");
    assert!(spoiled > 30);
}

/// Where no trace finds the operation, the counts say which block it was: here because every operation is traced already.
#[test]
fn the_block_that_first_reads_what_is_not_finite_is_known_without_a_trace() {
    let Some(gpu) = own_gpu() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&fixture("pipelines/sd1_layout/model"), folder.path());
    let path = folder.path().join("unet/diffusion_pytorch_model.safetensors");
    let sound = std::fs::read(&path).expect("weights");
    let ends = ends_of_f16_tensors(&sound);
    for (spoiled, expected) in [
        ("conv_in.weight", "step 0, operand of group_norm unet.down_blocks.0.resnets.0.activate: "),
        (
            "down_blocks.1.resnets.0.conv2.weight",
            "step 0, operand of group_norm unet.down_blocks.1.attentions.0.norm: ",
        ),
        (
            "mid_block.resnets.1.conv2.weight",
            "step 0, operand of group_norm unet.up_blocks.0.resnets.0.activate: ",
        ),
        (
            "up_blocks.1.resnets.0.conv1.weight",
            "step 0, operand of group_norm unet.up_blocks.1.resnets.0.activate: ",
        ),
        ("conv_out.weight", "latent after step 0: "),
    ] {
        let (_, end) = ends.iter().find(|(name, _)| name == spoiled).expect(spoiled);
        let mut bytes = sound.clone();
        bytes[end - 2..*end].copy_from_slice(&INFINITY_F16);
        std::fs::write(&path, bytes).expect("room");
        let model = block_on(Model::open(folder.path(), None, Precision::F32)).expect("it is well-formed");
        gpu.trace(false);
        let error = draw_tiny(&mut Pipeline::new(gpu.clone(), model), 32).expect_err(spoiled);
        gpu.end_trace();
        println!("{spoiled}: {error}");
        assert!(error.to_string().starts_with(expected), "{spoiled}: {error}");
    }
}

/// What one picture's denoiser counted is not held against the next.
#[test]
fn a_picture_after_one_that_was_not_finite_is_drawn() {
    let Some(gpu) = own_gpu() else { return };
    let model = block_on(Model::open(&fixture("pipelines/sd1_layout/model"), None, Precision::F32));
    let mut pipeline = Pipeline::new(gpu, model.expect("fixtures are sound"));
    let expected = draw_tiny(&mut pipeline, 32).expect("nothing fails");
    let request = tiny_request(32);
    let n = pipeline.latent_shape(request.size).iter().product();
    let noise = NoiseSource::recorded(vec![f32::NAN; n], Vec::new());
    let spoiled = block_on(async {
        let mut run = pipeline.start_from(&request, noise).await?;
        while run.next().await?.is_some() {}
        run.decode().await.map(drop)
    });
    assert_eq!(spoiled.expect_err("no latent is finite").kind(), ErrorKind::NotFinite);
    assert!(draw_tiny(&mut pipeline, 32).expect("nothing fails") == expected);
}

const INFINITY_F16: [u8; 2] = 0x7c00_u16.to_le_bytes();

/// The tensors of a safetensors file, all of them f16, with the place behind their last byte.
fn ends_of_f16_tensors(file: &[u8]) -> Vec<(String, usize)> {
    let (length, rest) = file.split_first_chunk().expect("a length");
    let length = u64::from_le_bytes(*length) as usize;
    let header: serde_json::Value = serde_json::from_slice(&rest[..length]).expect("JSON");
    let tensors = header.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__");
    let end = |(name, tensor): (&String, &serde_json::Value)| {
        assert_eq!(tensor["dtype"], "F16", "{name}");
        (name.clone(), 8 + length + tensor["data_offsets"][1].as_u64().expect("a number") as usize)
    };
    tensors.map(end).collect()
}

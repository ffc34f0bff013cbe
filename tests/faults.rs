//! What becomes of a picture when the device fails: memory runs out, the device is lost, it hangs, it does not do what it says.
//!
//! `FAULTS=all` has every allocation and submission fail, not some.

use std::thread;
use std::time::{Duration, Instant};

use engine::device::{DeviceError, FaultPlan, Gpu, GpuOptions, Program};
use engine::graph::{Graph, Rate};
use engine::pipelines::{Model, Pipeline, PixelSize, Precision, Request};
use engine::plan::{Choice, build_plan};
use engine::samplers::Method;
use engine::validate::Cases;
use engine::{Error, ErrorKind};
use kernels::ops::MatMul;
use kernels::{HostTensor, TensorType};
use photogram_tests::{draw_tiny, fixture, gpu_with, tiny_request};
use pollster::block_on;

fn pipeline(gpu: &Gpu) -> Pipeline {
    let model = block_on(Model::open(&fixture("pipelines/sd1_layout/model"), None, Precision::F32));
    Pipeline::new(gpu.clone(), model.expect("fixtures are sound"))
}

fn drawn(pipeline: &mut Pipeline) -> Result<Vec<u8>, Error> {
    draw_tiny(pipeline, 32)
}

/// How far apart failures are: 1 if all of them are asked for.
fn every(some: usize) -> usize {
    if std::env::var("FAULTS").as_deref() == Ok("all") { 1 } else { some }
}

/// A device for one test, with a picture, and the allocations and submissions that it took.
fn undisturbed() -> Option<(Gpu, Vec<u8>, [u64; 2])> {
    let gpu = gpu_with(GpuOptions::default())?;
    gpu.arm(FaultPlan::default());
    let picture = drawn(&mut pipeline(&gpu)).expect("nothing fails");
    let counts = gpu.counts();
    Some((gpu, picture, counts))
}

#[test]
fn whichever_allocation_fails_the_next_picture_is_drawn() {
    let Some((gpu, expected, [allocations, _])) = undisturbed() else { return };
    assert!(allocations > 20, "{allocations}");
    let held = gpu.held_bytes();
    let mut failed = 0;
    for number in (0..allocations).step_by(every(40)) {
        let mut pipeline = pipeline(&gpu);
        gpu.arm(FaultPlan { fail_allocation: Some(number), ..FaultPlan::default() });
        match drawn(&mut pipeline) {
            Ok(picture) => assert!(picture == expected && gpu.counts()[0] <= number, "allocation {number}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "allocation {number}: {error}");
                failed += 1;
            }
        }
        gpu.arm(FaultPlan::default());
        let picture =
            drawn(&mut pipeline).unwrap_or_else(|error| panic!("after allocation {number}: {error}"));
        assert!(picture == expected, "after allocation {number}");
        drop(pipeline);
        assert_eq!(gpu.held_bytes(), held, "after allocation {number}");
    }
    println!("{failed} allocations failed, of {allocations}");
    assert_eq!(failed, allocations.div_ceil(every(40) as u64));
}

#[test]
fn what_a_device_held_when_its_memory_ran_out_is_a_limit_to_work_within() {
    let Some((gpu, expected, [allocations, _])) = undisturbed() else { return };
    let (mut drawn_within, mut refused) = (0, 0);
    for number in (0..allocations).step_by(every(40)) {
        let mut pipeline = pipeline(&gpu);
        gpu.arm(FaultPlan { fail_allocation: Some(number), ..FaultPlan::default() });
        let Err(Error::Device(DeviceError::OutOfMemory { held, .. })) = drawn(&mut pipeline) else {
            panic!("allocation {number} does not fail")
        };
        gpu.arm(FaultPlan::default());
        pipeline.limit(Some(held));
        match drawn(&mut pipeline) {
            Ok(picture) => {
                assert!(picture == expected, "allocation {number}");
                drawn_within += 1;
            }
            Err(Error::NoRoom { limit, least, .. }) => {
                assert!(limit == held && least > held, "allocation {number}: {held} of {least}");
                refused += 1;
            }
            Err(error) => panic!("allocation {number}, within {held} bytes: {error}"),
        }
        pipeline.limit(None);
    }
    println!("{drawn_within} drawn within what was held, {refused} refused beforehand");
    assert!(drawn_within > 0 && refused > 0);
}

#[test]
fn whenever_the_device_is_lost_the_picture_ends_with_an_error() {
    let Some((_, _, [_, submissions])) = undisturbed() else { return };
    assert!(submissions > 10, "{submissions}");
    let mut lost = 0;
    for number in (0..submissions).step_by(every(5)) {
        let gpu = gpu_with(GpuOptions::default()).expect("it was there before");
        gpu.arm(FaultPlan { lose_at_submission: Some(number), ..FaultPlan::default() });
        let started = Instant::now();
        let error = drawn(&mut pipeline(&gpu)).err();
        let error = error.unwrap_or_else(|| panic!("submission {number}: a lost device drew a picture"));
        assert_eq!(error.kind(), ErrorKind::Gpu, "submission {number}: {error}");
        assert!(started.elapsed() < Duration::from_secs(10), "submission {number}: {:?}", started.elapsed());
        lost += 1;
    }
    println!("{lost} submissions lost the device, of {submissions}");
}

/// Long enough for a device that works, and short enough to wait for it often.
const PATIENCE: Duration = Duration::from_millis(50);

#[test]
fn whenever_the_device_hangs_the_picture_ends_with_an_error() {
    let Some((_, _, [_, submissions])) = undisturbed() else { return };
    let mut hung = 0;
    for number in (0..submissions).step_by(every(5)) {
        let gpu = gpu_with(GpuOptions::default()).expect("it was there before");
        gpu.arm(FaultPlan {
            hang_at_submission: Some(number),
            patience: Some(PATIENCE),
            ..FaultPlan::default()
        });
        let mut pipeline = pipeline(&gpu);
        let error = drawn(&mut pipeline).err();
        let error =
            error.unwrap_or_else(|| panic!("submission {number}: a device that hangs drew a picture"));
        assert_eq!(error.kind(), ErrorKind::Gpu, "submission {number}: {error}");
        assert!(matches!(error, Error::Device(DeviceError::Hung { .. })), "submission {number}: {error}");
        // Nobody waits for it again.
        let again = Instant::now();
        let error = drawn(&mut pipeline).expect_err("it is still hung");
        assert!(matches!(error, Error::Device(DeviceError::Hung { .. })), "submission {number}: {error}");
        assert!(again.elapsed() < Duration::from_secs(1), "submission {number}: {:?}", again.elapsed());
        hung += 1;
    }
    println!("{hung} submissions hung, of {submissions}");
}

/// Nothing that a step leaves behind is waited for before the next one is recorded.
#[test]
fn a_step_is_recorded_while_the_one_before_runs() {
    // Noise of the second has more bytes than wgpu's own staging is given.
    let drawing_noise = Request {
        size: PixelSize { width: 264, height: 264 },
        sampler: Some(Method::from_name("euler_a").expect("a sampler of ours")),
        ..tiny_request(264)
    };
    for (folder, request) in [("sd1_layout", tiny_request(32)), ("mid_attention_only", drawing_noise)] {
        let folder = fixture("pipelines").join(folder).join("model");
        let model = || block_on(Model::open(&folder, None, Precision::F32)).expect("fixtures are sound");
        let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
        let mut pipeline = Pipeline::new(gpu.clone(), model());
        let mut run = block_on(pipeline.start(&request)).expect("it starts");
        block_on(run.next()).expect("it runs").expect("the first step");
        // From here on nothing finishes: of the second step nothing, and the first has not been looked at.
        let hang =
            FaultPlan { hang_at_submission: Some(0), patience: Some(PATIENCE), ..FaultPlan::default() };
        gpu.arm(hang);
        block_on(run.next()).expect("it is queued").expect("the second step");
        let [_, step] = gpu.counts();
        assert!(step > 0);
        let error = block_on(run.next()).expect_err("the second step has to be there now");
        assert!(matches!(error, Error::Device(DeviceError::Hung { .. })), "{error}");

        // Where the first step never finishes, the second is recorded before that is found out.
        let gpu = gpu_with(GpuOptions::default()).expect("it was there before");
        let mut pipeline = Pipeline::new(gpu.clone(), model());
        let mut run = block_on(pipeline.start(&request)).expect("it starts");
        gpu.arm(hang);
        block_on(run.next()).expect("it is queued").expect("the first step");
        let [_, first] = gpu.counts();
        let error = block_on(run.next()).expect_err("the first step has to be there now");
        assert!(matches!(error, Error::Device(DeviceError::Hung { .. })), "{error}");
        assert_eq!(gpu.counts()[1] - first, step, "submissions of a whole step");
    }
}

#[test]
fn a_device_that_finishes_other_work_is_waited_for() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let value = HostTensor::new(TensorType::f32([4]), vec![1.0; 4]);
    let tensor = block_on(gpu.upload_new("x", &value)).expect("room");
    let patience = Duration::from_millis(300);
    gpu.arm(FaultPlan { hang_at_submission: Some(0), patience: Some(patience), ..FaultPlan::default() });
    let started = Instant::now();
    let waiting = {
        let (gpu, tensor) = (gpu.clone(), tensor.clone());
        thread::spawn(move || block_on(gpu.read(&tensor)).expect_err("it hangs"))
    };
    // What is submitted from now on finishes.
    while gpu.counts()[1] == 0 {
        thread::yield_now();
    }
    gpu.arm(FaultPlan { patience: Some(patience), ..FaultPlan::default() });
    while started.elapsed() < 4 * patience {
        block_on(gpu.read(&tensor)).expect("nothing else fails");
        thread::sleep(patience / 10);
    }
    assert!(!waiting.is_finished(), "the device is at work");
    let error = waiting.join().expect("no panic");
    assert!(matches!(error, DeviceError::Hung { waited } if waited < 2 * patience), "{error}");
}

#[test]
fn a_device_that_hangs_is_not_waited_for_when_it_is_left() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let mut graph = Graph::new();
    let types = [TensorType::f32([1024, 4096]), TensorType::f32([4096, 2048]).in_strips()];
    let ids = types.each_ref().map(|ty| graph.input("x", ty.clone(), Rate::Step));
    let product = graph.apply("product", MatMul::default(), &ids).expect("operands fit");
    graph.output(product);
    let inputs = types.map(|ty| gpu.allocate("x", ty).expect("room"));
    let to = gpu.allocate("product", graph.ty(product).clone()).expect("room");
    let plan = build_plan(&graph, gpu.caps(), Choice::Fastest).expect("small");
    let program = Program::compile(&gpu, plan, Vec::new()).expect("it compiles");
    let run = || block_on(program.run(&gpu, &[Rate::Step], &inputs, std::slice::from_ref(&to)));
    let multiplied = || {
        run().expect("nothing fails");
        block_on(gpu.read(&to)).expect("nothing fails");
    };
    multiplied();
    let started = Instant::now();
    multiplied();
    let whole = started.elapsed();

    gpu.arm(FaultPlan { hang_at_submission: Some(0), patience: Some(PATIENCE), ..FaultPlan::default() });
    // A fast device's submissions are long: nothing has to be waited for in one run.
    let error = (0..4).find_map(|_| run().err()).expect("it hangs");
    assert!(matches!(error, DeviceError::Hung { .. }), "{error}");
    let left = Instant::now();
    drop((program, inputs, to, gpu));
    println!("left after {:?}; the work takes {whole:?}", left.elapsed());
    assert!(left.elapsed() < Duration::from_millis(5) + whole / 8, "{:?} of {whole:?}", left.elapsed());
}

#[test]
fn a_device_that_does_not_do_its_last_work_is_found_out() {
    let Some((gpu, expected, [_, submissions])) = undisturbed() else { return };
    // The canary's upload, its dispatch, and what brings it back; smaller uploads are no submissions of ours.
    for number in submissions - 2..submissions {
        let mut pipeline = pipeline(&gpu);
        gpu.arm(FaultPlan { skip_submission: Some(number), ..FaultPlan::default() });
        let error =
            drawn(&mut pipeline).err().unwrap_or_else(|| panic!("submission {number} of {submissions}"));
        assert!(matches!(&error, Error::Device(_)) && error.kind() == ErrorKind::Gpu, "{error}");
        assert!(error.to_string().contains("left no trace"), "{error}");
    }
    gpu.arm(FaultPlan::default());
    assert!(drawn(&mut pipeline(&gpu)).expect("nothing fails") == expected);

    // A number that an earlier picture left is none of this one's.
    let mut pipeline = pipeline(&gpu);
    assert!(drawn(&mut pipeline).expect("nothing fails") == expected);
    gpu.arm(FaultPlan::default());
    assert!(drawn(&mut pipeline).expect("nothing fails") == expected);
    let [_, submissions] = gpu.counts();
    gpu.arm(FaultPlan { skip_submission: Some(submissions - 2), ..FaultPlan::default() });
    let error = drawn(&mut pipeline).expect_err("the canary's dispatch is skipped");
    assert!(error.to_string().contains("left no trace"), "{error}");
}

/// All variants of a recorded case write to one buffer: each has to write all of it, whatever the one before left there.
#[test]
fn a_variant_of_a_recorded_case_that_does_nothing_fails() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let cases = block_on(Cases::open(&fixture("cases/torch.json"))).expect("a fixture");
    let run = |index| block_on(cases.run(&gpu, index)).expect("it runs");
    let index = (0..cases.len()).find(|index| run(*index).op == "linear").expect("one of torch's functions");
    gpu.arm(FaultPlan::default());
    let variants = run(index).result.expect("it is ours").len();
    let [_, submissions] = gpu.counts();
    let mut failures = 0;
    for skipped in 0..submissions {
        gpu.arm(FaultPlan { skip_submission: Some(skipped), ..FaultPlan::default() });
        let failed = run(index).result.expect("it is ours");
        failures += failed.iter().filter(|(_, comparison)| !comparison.pass).count();
    }
    println!("{variants} variants, {failures} of {submissions} submissions left undone: a failure");
    // Of each, its dispatch and what brings its result back.
    assert!(variants > 1 && failures >= 2 * variants);
}

//! What becomes of a picture when the device fails: memory runs out, the device is lost, it does not do what it says.
//!
//! `FAULTS=all` has every allocation and submission fail, not some.

use std::time::{Duration, Instant};

use engine::device::{FaultPlan, Gpu, GpuOptions};
use engine::pipelines::{Model, Pipeline, Precision};
use engine::{Error, ErrorKind};
use photogram_tests::{draw_tiny, fixture, gpu_with};
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
}

//! Negative controls of what a pipeline wires together: with one thing wrong, a recorded run must fail, and at the stage where
//! the mistake is.

use engine::device::{Gpu, GpuOptions};
use engine::models::HiddenState;
use engine::pipelines::{Model, Pipeline, Precision, Request};
use engine::recorded::Reference;
use engine::samplers::Spacing;
use photogram_tests::{fixture, gpu, gpu_with};
use pollster::block_on;

/// What is done to a run that is right, and the first stage that has to differ.
type Mistake = (&'static str, fn(&mut Reference), &'static str);

const MISTAKES: &[(&str, &[Mistake])] = &[
    (
        "sdxl_layout/dpmpp_2m_karras",
        &[
            ("encoders swapped", |run| run.model.text.swap(0, 1), "context"),
            (
                "the first's last state",
                |run| run.model.text[0].outputs.context = HiddenState::Last,
                "context",
            ),
            (
                "the second's last state",
                |run| run.model.text[1].outputs.context = HiddenState::Last,
                "context",
            ),
            // No prompt has this token: the first one stands for it.
            ("pooled from the first token", |run| run.model.text[1].network.config.end = u32::MAX, "pooled"),
            (
                "sizes swapped",
                |run| std::mem::swap(&mut run.request.told.original, &mut run.request.told.target),
                "time_ids",
            ),
            (
                "crop transposed",
                |run| std::mem::swap(&mut run.request.told.crop_top, &mut run.request.told.crop_left),
                "time_ids",
            ),
            ("an empty negative prompt", |run| run.request.negative_prompt = Some(String::new()), "context"),
        ],
    ),
    (
        "sdxl_layout/ddim_rescale",
        &[("guidance not rescaled", |run| run.request.guidance_rescale = 0.0, "latent.0")],
    ),
    (
        "sdxl_layout/euler_refiner",
        &[
            ("no refiner", |run| run.model.refiner = None, "latent.4"),
            ("hand-over too early", |run| run.request.refiner_start = 0.3, "latent.2"),
            (
                "scores swapped",
                |run| {
                    let told = &mut run.request.told;
                    std::mem::swap(&mut told.aesthetic_score, &mut told.negative_aesthetic_score);
                },
                "refiner.time_ids",
            ),
        ],
    ),
];

#[test]
fn every_mistake_is_rejected_where_it_is_made() {
    let Some(gpu) = gpu() else { return };
    for (folder, mistakes) in MISTAKES {
        let open = || {
            let folder = fixture("pipelines").join(folder);
            block_on(Reference::open(&folder, Precision::F32)).expect("fixtures are sound")
        };
        let first = |reference: Reference| {
            let run = block_on(reference.run(gpu.clone())).expect("fixtures are sound");
            run.first_failure().map(|stage| stage.name.clone())
        };
        assert_eq!(first(open()), None, "{folder} is right");
        for (what, make, stage) in *mistakes {
            let mut wrong = open();
            make(&mut wrong);
            assert_eq!(first(wrong).as_deref(), Some(*stage), "{folder}: {what}");
        }
    }
}

fn pipeline(gpu: &Gpu, folder: &str) -> (Pipeline, Request) {
    let folder = fixture("pipelines").join(folder);
    let reference = block_on(Reference::open(&folder, Precision::F32)).expect("fixtures are sound");
    (Pipeline::new(gpu.clone(), reference.model), reference.request)
}

#[test]
fn no_negative_prompt_is_not_an_empty_one_said_before() {
    let Some(gpu) = gpu() else { return };
    let (mut pipeline, request) = pipeline(&gpu, "sdxl_layout/euler");
    let mut context = |negative: Option<&str>| {
        let request = Request { negative_prompt: negative.map(str::to_owned), ..request.clone() };
        block_on(pipeline.condition(&request)).expect("the device runs").context.into_data()
    };
    let (empty, none, again) = (context(Some("")), context(None), context(Some("")));
    assert!(empty != none, "zeros are not an empty text");
    assert!(empty == again, "the same text is the same context");
}

#[test]
fn networks_that_wait_leave_the_device() {
    // Its own: on a shared one, others hold and give back bytes meanwhile.
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let conditioned = |bytes| {
        let before = gpu.held_bytes();
        let (mut pipeline, request) = pipeline(&gpu, "sdxl_layout/euler_refiner");
        pipeline.keep_text(bytes);
        block_on(pipeline.condition(&request)).expect("the device runs");
        gpu.held_bytes() - before
    };
    let (without, with) = (conditioned(0), conditioned(u64::MAX));
    assert!(with > without + 100_000, "{with} bytes, {without} without text encoders");

    let (mut pipeline, request) = pipeline(&gpu, "sdxl_layout/euler_refiner");
    pipeline.keep_text(0);
    let denoiser =
        |model: &Model| model.unet.weights.checkpoint().encodings().iter().map(|e| e.bytes).sum::<u64>();
    let both = denoiser(pipeline.model());
    let mut run = block_on(pipeline.start(&request)).expect("the request makes sense");
    let (mut base, mut refined) = (0, 0);
    while let Some(progress) = block_on(run.next()).expect("the device runs") {
        *if progress.is_refined { &mut refined } else { &mut base } = gpu.held_bytes();
    }
    drop(run);
    assert!(base > 0 && refined > 0, "both took part");
    assert!(refined < base + both / 2, "{refined} bytes beside {base}: the base's denoiser is still there");
}

#[test]
fn timesteps_are_spaced_as_asked_by_both_models() {
    let folder = fixture("pipelines/sdxl_layout/euler_refiner");
    let Reference { model, request, .. } =
        block_on(Reference::open(&folder, Precision::F32)).expect("fixtures are sound");
    let firsts = |spacing| {
        let planned = model.check(&Request { spacing, ..request.clone() }).expect("it makes sense");
        let refinement = planned.refinement.expect("there is a refiner");
        [&planned.trajectory, &refinement].map(|trajectory| trajectory.steps[0].timestep.0)
    };
    let (own, leading, trailing) =
        (firsts(None), firsts(Some(Spacing::Leading)), firsts(Some(Spacing::Trailing)));
    assert_eq!(own, leading, "SDXL's scheduler");
    assert!(own[0] != trailing[0] && own[1] != trailing[1], "{own:?} {trailing:?}");
}

//! The built-in model, stage by stage: `cargo bench -p benches --bench models`.

use std::path::Path;
use std::time::{Duration, Instant};

use benches::{Bench, criterion};
use criterion::SamplingMode;
use engine::noise::{RngKind, Seed};
use engine::pipelines::{GuidanceScale, Model, Pipeline, PixelSize, Precision, Request, Told};
use pollster::block_on;

const PROMPT: &str = "3D glossy emoji of a red apple";

fn main() {
    let bench = Bench::open();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/builtin/model");
    let model = block_on(Model::open(&folder, None, Precision::F32)).expect("the built-in model is sound");
    let mut pipeline = Pipeline::new(bench.gpu.clone(), model);
    block_on(pipeline.prepare(&request(1))).expect("the built-in model fits every adapter");

    let mut criterion = criterion();
    let mut group = criterion.benchmark_group("builtin");
    group.sampling_mode(SamplingMode::Flat);
    // What came of the last prompts is kept: only others are encoded.
    let requests = [request(1), Request { prompt: format!("not {PROMPT}"), ..request(1) }];
    group.bench_function("encode_prompts", |b| {
        b.iter_custom(|iterations| {
            bench.wait();
            let started = Instant::now();
            for request in requests.iter().cycle().take(iterations as usize) {
                block_on(pipeline.condition(request)).expect("the device runs");
            }
            bench.wait();
            started.elapsed()
        });
    });
    group.bench_function("step", |b| {
        b.iter_custom(|iterations| steps(&bench, &mut pipeline, iterations));
    });
    let latent = vec![0.5; pipeline.latent_shape(request(1).size).iter().product()];
    let latent = block_on(pipeline.upload_latent(&latent, request(1).size)).expect("the device runs");
    group.bench_function("decode", |b| b.iter(|| block_on(pipeline.decode(&latent)).expect("finite")));
    group.finish();
    criterion.final_summary();
}

/// Time of `n` denoising steps with guidance, after a first one that also computes what depends on the prompt alone.
fn steps(bench: &Bench, pipeline: &mut Pipeline, n: u64) -> Duration {
    const LONGEST_RUN: u64 = 100;
    let (mut left, mut elapsed) = (n, Duration::ZERO);
    while left > 0 {
        let timed = left.min(LONGEST_RUN);
        let mut run =
            block_on(pipeline.start(&request(timed as usize + 1))).expect("the request makes sense");
        block_on(run.next()).expect("the device runs");
        bench.wait();
        let started = Instant::now();
        while block_on(run.next()).expect("the device runs").is_some() {}
        bench.wait();
        elapsed += started.elapsed();
        left -= timed;
    }
    elapsed
}

fn request(steps: usize) -> Request {
    Request {
        prompt: PROMPT.to_owned(),
        negative_prompt: None,
        size: PixelSize { width: 128, height: 128 },
        steps,
        guidance: GuidanceScale(5.0),
        guidance_rescale: 0.0,
        seed: Seed(42),
        rng: RngKind::Cpu,
        sampler: None,
        schedule: None,
        spacing: None,
        prediction: None,
        init: None,
        told: Told::default(),
        refiner_start: Request::REFINER_START,
    }
}

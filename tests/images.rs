//! Whole pictures: the same seed gives the same bytes, on every way to compute them.

use std::fs;
use std::path::{Path, PathBuf};

use engine::device::GpuOptions;
use engine::graph::{Rate, fuse};
use engine::noise::{Generator, RngKind, Seed};
use engine::pipelines::{
    Budget, GuidanceScale, Image, InitImage, Model, Pipeline, PixelSize, Precision, Request, Told,
};
use engine::plan::{Choice, build_plan};
use engine::samplers::Method;
use engine::similarity::compare_pictures;
use engine::{Error, ErrorKind};
use kernels::DType;
use kernels::check::{Class, compare_values};
use loaders::Checkpoint;
use loaders::safetensors::Limits;
use photogram_tests::{copy_folder, fixture, gpu, gpu_with, workspace};
use pollster::block_on;

#[test]
fn the_same_seed_gives_the_same_bytes_twenty_times() {
    let Some(gpu) = gpu() else { return };
    let mut pipeline = Pipeline::new(gpu, built_in());
    let pictures = [request("ddim", 7), request("euler_a", 7)];
    let first: Vec<Vec<u8>> = pictures.iter().map(|r| drawn(&mut pipeline, r).to_rgb8()).collect();
    let others: Vec<Vec<u8>> =
        ["ddim", "euler_a"].map(|sampler| drawn(&mut pipeline, &request(sampler, 8)).to_rgb8()).into();
    for (sampler, (first, other)) in ["ddim", "euler_a"].iter().zip(first.iter().zip(&others)) {
        assert!(first != other, "{sampler}: another seed gives another picture");
    }
    assert!(first[0] != first[1], "samplers differ");

    let again = |pipeline: &mut Pipeline, runs: std::ops::Range<usize>| {
        for run in runs {
            let which = run % pictures.len();
            let found = drawn(pipeline, &pictures[which]).to_rgb8();
            assert!(found == first[which], "run {run} draws other bytes");
        }
    };
    again(&mut pipeline, 0..16);
    drop(pipeline);
    let fresh = gpu_with(GpuOptions::default()).expect("it was there before");
    again(&mut Pipeline::new(fresh, built_in()), 16..20);
}

#[test]
fn threads_draw_on_one_device() {
    let Some(gpu) = gpu() else { return };
    let pictures: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let draw = || drawn(&mut Pipeline::new(gpu.clone(), built_in()), &request("ddim", 7)).to_rgb8();
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(draw)).collect();
        threads.into_iter().map(|thread| thread.join().expect("draws")).collect()
    });
    assert!(pictures.iter().all(|picture| *picture == pictures[0]), "threads draw the same picture");
}

#[test]
fn an_adapter_without_features_draws_the_same_picture() {
    let Some(gpu) = gpu() else { return };
    let plain = gpu_with(GpuOptions { webgpu_only: true, ..GpuOptions::default() });
    let plain = plain.expect("it was there before");
    let [expected, found] = [gpu, plain].map(|gpu| {
        let mut pipeline = Pipeline::new(gpu, built_in());
        let mut run = block_on(pipeline.start(&request("ddim", 7))).expect("starts");
        while block_on(run.next()).expect("runs").is_some() {}
        block_on(run.latent()).expect("reads")
    });
    let comparison = compare_values(&expected, &found, Class::Network, DType::F32);
    println!("latent without features: {comparison:?}");
    assert!(comparison.pass, "{comparison:?}");
}

#[test]
fn a_picture_decodes_alike_in_bands() {
    let Some(gpu) = gpu() else { return };
    // The largest weight is 288 KiB.
    let limit = 320 << 10;
    let banded = gpu_with(GpuOptions { max_binding_bytes: Some(limit), ..GpuOptions::default() });
    let banded = banded.expect("it was there before");
    let size = PixelSize { width: 128, height: 96 };
    let [expected, found] = [gpu, banded].map(|gpu| {
        let caps = gpu.caps().clone();
        let mut pipeline = Pipeline::new(gpu, built_in());
        let n = pipeline.latent_shape(size).iter().product();
        let noise = Generator::new(RngKind::Cpu, Seed(3)).normal(n);
        let latent = block_on(pipeline.upload_latent(&noise, size)).expect("small");
        let image = block_on(pipeline.decode(&latent)).expect("decodes");
        let vae = &pipeline.model().vae;
        let (mut net, rgb) = vae.build_decoder(latent.ty().clone(), DType::F32).expect("is sound");
        net.graph.output(rgb);
        let plan = build_plan(&fuse(&net.graph), &caps, Choice::Fastest).expect("fits");
        (image, plan.dispatches(Rate::Step))
    });
    println!("{} dispatches whole, {} in bands", expected.1, found.1);
    assert!(found.1 > expected.1, "a limit of {limit} bytes needs bands");
    let comparison = compare_values(expected.0.values(), found.0.values(), Class::Network, DType::F32);
    assert!(comparison.pass, "{comparison:?}");
}

#[test]
fn a_seed_draws_the_noise_that_torch_recorded() {
    let runs = recorded_runs();
    for run in &runs {
        let found = Generator::new(RngKind::Cpu, run.seed).normal(run.noise.len());
        assert!(furthest(&run.noise, &found) <= TORCH, "{}", run.name);
    }
    println!("{} recorded runs", runs.len());
    assert!(!runs.is_empty(), "there are recorded runs");
}

#[test]
fn a_run_starts_from_the_noise_that_torch_recorded() {
    let Some(gpu) = gpu() else { return };
    let recorded = recorded_runs().into_iter().find(|run| run.name == "odd_sizes/euler").expect("a fixture");
    let request = Request { size: recorded.size, seed: recorded.seed, ..request("ddim", 0) };
    let model = block_on(Model::open(&recorded.model, None, Precision::F32)).expect("fixtures are sound");
    let factor = model.check(&request).expect("makes sense").trajectory.start.noise;
    assert_eq!(factor, 1.0, "ddim starts from the noise itself");
    let mut pipeline = Pipeline::new(gpu, model);
    let run = block_on(pipeline.start(&request)).expect("starts");
    assert!(furthest(&recorded.noise, &block_on(run.latent()).expect("reads")) <= TORCH);
}

/// How far torch's normals are from themselves on processors of other kinds.
const TORCH: f32 = 4e-6;

/// What a recorded run started from.
struct RecordedStart {
    /// Folders of model and run.
    name: String,
    model: PathBuf,
    seed: Seed,
    size: PixelSize,
    noise: Vec<f32>,
}

fn recorded_runs() -> Vec<RecordedStart> {
    let children = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        entries.map(|entry| entry.expect("fixtures are readable").path()).collect()
    };
    let root = fixture("pipelines");
    let folders = children(&root).into_iter().flat_map(|model| children(&model));
    folders.filter(|f| f.join("reference.json").exists()).map(|f| RecordedStart::read(&root, &f)).collect()
}

impl RecordedStart {
    fn read(root: &Path, folder: &Path) -> Self {
        let json = fs::read(folder.join("reference.json")).expect("fixtures are readable");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("fixtures are JSON");
        let number = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("no number '{key}'"));
        let tensors = folder.join("reference.safetensors");
        let tensors = block_on(Checkpoint::open(tensors, &Limits::default())).expect("fixtures are sound");
        let entry = tensors.require("noise").expect("runs record their noise");
        let bytes = block_on(tensors.read(entry)).expect("fixtures are readable");
        let edge = |key| usize::try_from(number(key)).expect("small");
        RecordedStart {
            name: folder.strip_prefix(root).expect("below the fixtures").to_string_lossy().replace('\\', "/"),
            model: folder.join(json["model"].as_str().expect("names its model")),
            seed: Seed(number("seed")),
            size: PixelSize { width: edge("width"), height: edge("height") },
            noise: bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }
}

fn furthest(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len(), "lengths of noise");
    expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The model that ships with the program.
fn built_in() -> Model {
    let folder = workspace().join("cli/builtin/model");
    block_on(Model::open(&folder, None, Precision::F32)).expect("the built-in model is sound")
}

fn request(sampler: &str, seed: u64) -> Request {
    Request {
        prompt: "3D glossy emoji of a red apple".to_owned(),
        negative_prompt: None,
        size: PixelSize { width: 64, height: 64 },
        steps: 3,
        guidance: GuidanceScale(3.0),
        guidance_rescale: 0.0,
        seed: Seed(seed),
        rng: RngKind::Cpu,
        sampler: Some(Method::from_name(sampler).expect("a sampler of ours")),
        schedule: None,
        spacing: None,
        prediction: None,
        init: None,
        told: Told::default(),
        refiner_start: Request::REFINER_START,
    }
}

fn drawn(pipeline: &mut Pipeline, request: &Request) -> Image {
    let mut run = block_on(pipeline.start(request)).expect("starts");
    while block_on(run.next()).expect("runs").is_some() {}
    block_on(run.decode()).expect("decodes")
}

/// How near a picture in tiles is to the whole: only sums in another order tell them apart, and rounding to bytes hides those.
const TILED_PSNR: f64 = 80.0;

#[test]
fn the_host_does_not_run_ahead_of_the_device() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let mut pipeline = Pipeline::new(gpu.clone(), built_in());
    drawn(&mut pipeline, &Request { steps: 8, ..request("ddim", 7) });
    let [_, submissions] = gpu.counts();
    assert!(submissions > 20 && gpu.in_flight() <= 8, "{} of {submissions} in flight", gpu.in_flight());
}

/// On a device of its own, for peaks are a device's: what was foretold, the most bytes there were, and the picture.
fn within_with(
    options: GpuOptions,
    model: Model,
    limit: Option<u64>,
    tile: Option<usize>,
    request: &Request,
) -> Option<(Budget, u64, Vec<u8>)> {
    let gpu = gpu_with(options)?;
    let mut pipeline = Pipeline::new(gpu.clone(), model);
    pipeline.limit(limit);
    tile.into_iter().for_each(|edge| pipeline.tile(edge));
    let budget = pipeline.budget(request).expect("the built-in model is sound");
    let image = drawn(&mut pipeline, request).to_rgb8();
    // Once more: what had to leave comes back.
    assert_eq!(image, drawn(&mut pipeline, request).to_rgb8());
    let found = gpu.peak_bytes();
    println!("{:?}: {} bytes foretold, {found} found", budget.residency, budget.peak_bytes);
    assert!(found <= budget.peak_bytes, "{budget:?}");
    assert!((budget.peak_bytes as f64 / found as f64 - 1.0).abs() < 0.05, "{budget:?}");
    Some((budget, found, image))
}

/// [`within_with`] an adapter's own features and the built-in model.
fn within(limit: Option<u64>, tile: Option<usize>, request: &Request) -> Option<(Budget, u64, Vec<u8>)> {
    within_with(GpuOptions::default(), built_in(), limit, tile, request)
}

#[test]
fn a_limit_of_memory_is_kept_and_was_foretold() {
    let request = Request { size: PixelSize { width: 192, height: 192 }, ..request("ddim", 7) };
    let Some((whole, _, expected)) = within(None, None, &request) else { return };
    assert!(whole.residency.keeps_denoiser && whole.residency.tile.is_none());
    let plain = GpuOptions { webgpu_only: true, ..GpuOptions::default() };
    within_with(plain, built_in(), None, None, &request).expect("it was there before");

    let limit = whole.peak_bytes - whole.peak_bytes / 8;
    let (less, found, image) = within(Some(limit), None, &request).expect("it was there before");
    assert!(found <= limit && !less.residency.keeps_denoiser && less.residency.tile.is_none(), "{less:?}");
    assert_eq!(image, expected, "what stays on the device changes no picture");
}

/// Where steps take the most, every latent that a sampler keeps counts, and a sum before it is clamped.
#[test]
fn latents_of_every_sampler_are_foretold() {
    let size = PixelSize { width: 256, height: 256 };
    let folder = tempfile::tempdir().expect("a temporary folder");
    clipping(folder.path());
    let clipping = || block_on(Model::open(folder.path(), None, Precision::F32)).expect("sound");
    // On the second, what bindings begin at lies as far apart as WebGPU lets it, counts of what is not finite among it.
    for (sampler, model, webgpu_only) in [
        ("euler_a", &built_in as &dyn Fn() -> Model, false),
        ("euler_a", &built_in, true),
        ("dpm++2m", &built_in, false),
        ("ddim", &clipping, false),
    ] {
        let options = || GpuOptions { webgpu_only, ..GpuOptions::default() };
        let request = Request { size, steps: 4, ..request(sampler, 7) };
        let Some(gpu) = gpu_with(options()) else { return };
        assert!(!webgpu_only || gpu.caps().binding_alignment == 256, "{:?}", gpu.caps());
        let mut pipeline = Pipeline::new(gpu, model());
        pipeline.tile(16);
        pipeline.limit(Some(1));
        let least = pipeline.budget(&request).expect("sound").peak_bytes;
        let drawn = within_with(options(), model(), Some(least), Some(16), &request);
        let (budget, found, _) = drawn.expect("it was there before");
        assert_eq!(budget.peak_phase, "denoiser", "{sampler}");
        // Less than one of them.
        assert!(budget.peak_bytes - found < 12 << 10, "{sampler}: {found} of {}", budget.peak_bytes);
    }
}

#[test]
fn of_two_text_encoders_one_leaves_before_the_other_comes() {
    let model = || block_on(Model::open(&fixture("pipelines/sdxl_layout/model"), None, Precision::F32));
    let request = Request { size: PixelSize { width: 32, height: 32 }, ..request("euler", 7) };
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let mut pipeline = Pipeline::new(gpu, model().expect("sound"));
    pipeline.limit(Some(1));
    let budget = pipeline.budget(&request).expect("sound");
    let options = GpuOptions::default();
    within_with(options, model().expect("sound"), Some(budget.peak_bytes), None, &request)
        .expect("it was there before");

    // The denoiser takes more than both of them, so that the limit alone does not show it.
    let encoded = |limit: Option<u64>| {
        let gpu = gpu_with(GpuOptions::default()).expect("it was there before");
        let mut pipeline = Pipeline::new(gpu.clone(), model().expect("sound"));
        pipeline.limit(limit);
        block_on(pipeline.condition(&request)).expect("prompts are encoded");
        [gpu.peak_bytes(), gpu.held_bytes()]
    };
    let ([most, kept], [least, left]) = (encoded(None), encoded(Some(budget.peak_bytes)));
    let texts = budget.phases.iter().filter(|phase| phase.name.starts_with("text_encoder"));
    let smaller = texts.map(|phase| phase.weight_bytes).min().expect("two");
    println!("{most} bytes at most and {kept} kept, {least} and {left} within a limit; one has {smaller}");
    assert!(least + smaller <= most && left + 2 * smaller <= kept);
}

/// Fills `folder` with the built-in model, whose scheduler clips here.
fn clipping(folder: &Path) {
    copy_folder(&workspace().join("cli/builtin/model"), folder);
    let path = folder.join("scheduler/scheduler_config.json");
    let plain = fs::read_to_string(&path).expect("a scheduler");
    let clipping = plain.replace("\"clip_sample\": false", "\"clip_sample\": true");
    assert_ne!(plain, clipping);
    fs::write(&path, clipping).expect("a scheduler");
}

#[test]
fn a_picture_in_tiles_is_the_whole_picture() {
    let size = PixelSize { width: 320, height: 256 };
    let plain = Request { size, steps: 2, ..request("ddim", 7) };
    let Some((whole, _, expected)) = within(None, None, &plain) else { return };
    let image = Image::from_rgb8(size, &expected);
    let redrawn = Request { init: Some(InitImage { image, strength: 0.5 }), ..plain.clone() };
    let limit = whole.peak_bytes - whole.peak_bytes / 3;
    for (request, expected, limit, tile) in
        [(&plain, Some(expected), None, Some(16)), (&redrawn, None, Some(limit), None)]
    {
        let expected = expected.or_else(|| within(None, None, request).map(|(_, _, image)| image));
        let (budget, found, image) = within(limit, tile, request).expect("it was there before");
        assert!(budget.residency.tile.is_some(), "{budget:?}");
        let decoder = |budget: &Budget| budget.phases.last().map(|phase| (phase.dispatches, phase.flops));
        let (dispatches, flops) = decoder(&budget).expect("pictures are decoded");
        let (fewest, least) = decoder(&whole).expect("pictures are decoded");
        assert!(dispatches > fewest && flops >= least && flops < 3 * least, "{flops} for {least}");
        assert!(
            limit.is_none_or(|limit| found <= limit) && budget.residency.keeps_denoiser == limit.is_none()
        );
        let similarity = compare_pictures(&expected.expect("drawn before"), &image, size.width);
        println!("in tiles: {similarity:?}");
        assert!(similarity.psnr >= TILED_PSNR, "{similarity:?}");
    }
}

#[test]
fn the_largest_picture_with_room_is_found() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let folder = fixture("pipelines/vae_downscale_2/model");
    let model = block_on(Model::open(&folder, None, Precision::F32)).expect("a fixture");
    let mut pipeline = Pipeline::new(gpu, model);
    let sized = |edge: usize| Request { size: PixelSize { width: edge, height: edge }, ..request("ddim", 7) };
    pipeline.limit(Some(1));
    let least = |edge: usize| (edge, pipeline.budget(&sized(edge)).expect("sound").peak_bytes);
    let least: Vec<(usize, u64)> = (16..150).step_by(2).map(least).collect();
    // A larger picture takes less where tiles divide it better.
    let uneven = least.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[1].1);
    let limits: Vec<u64> = uneven.collect();
    assert!(limits.len() > 10, "{limits:?}");
    for limit in limits {
        pipeline.limit(Some(limit));
        let largest = least.iter().rfind(|(_, bytes)| *bytes <= limit).map(|(edge, _)| *edge);
        let found = pipeline.largest_with_room(&sized(150));
        assert_eq!(found.map(|room| room.size.width), largest, "{limit}");
    }
}

#[test]
fn a_picture_that_finds_no_room_is_an_error_and_the_next_one_is_drawn() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let mut pipeline = Pipeline::new(gpu, built_in());
    let request = request("ddim", 7);
    let expected = drawn(&mut pipeline, &request).to_rgb8();
    pipeline.limit(Some(20 << 20));
    let error = block_on(pipeline.start(&request)).err().expect("no room");
    assert!(matches!(&error, Error::NoRoom { limit, least, .. } if least > limit), "{error}");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    // A limit that text encoders have to leave for is forgotten with the limit.
    pipeline.limit(None);
    let whole = pipeline.budget(&request).expect("sound").peak_bytes;
    pipeline.limit(Some(whole - 1));
    assert_eq!(drawn(&mut pipeline, &request).to_rgb8(), expected);
    assert!(!pipeline.budget(&request).expect("sound").residency.keeps_text);
    pipeline.limit(None);
    assert_eq!(drawn(&mut pipeline, &request).to_rgb8(), expected);
    assert!(pipeline.budget(&request).expect("sound").residency.keeps_text);
}

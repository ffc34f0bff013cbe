//! What the words of `generate`, `profile` and `tune` ask of the engine.

use engine::noise::{RngKind, Seed};
use engine::pipelines::{
    Family, GuidanceScale, Image, InitImage, Model, Pipeline, PixelSize, Precision, PredictionType, Request,
    Told,
};
use loaders::RgbPicture;

use crate::args::{
    GenerateArgs, MemoryArgs, ModelArgs, PlanArgs, PrecisionArg, PredictionArg, RngArg, ShapeArgs, StartArgs,
};
use crate::builtin;
use crate::failure::{Code, Failure};

/// The largest batch: file names and seeds are counted, memory is not.
const MAX_PICTURES: usize = 1_000_000;

/// Steps where neither the user nor the model's card says.
const STEPS: usize = 20;

/// Guidance where neither the user nor the model's card says.
const CFG_SCALE: f64 = 7.0;

/// Strength where the user does not say.
const STRENGTH: f64 = 0.75;

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::Auto => Precision::Auto,
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::F16 => Precision::F16,
        }
    }
}

/// Opens the model that the words name.
///
/// # Errors    those of reading it
pub(crate) async fn open_model(args: &ModelArgs) -> Result<Model, Failure> {
    let (vae, precision) = (args.vae.as_deref(), args.precision.into());
    match &args.model {
        Some(path) => Ok(Model::open(path, vae, precision).await?),
        None => builtin::open(vae, precision).await,
    }
}

/// Lets a pipeline take as much of the device as the words allow.
pub(crate) fn limit_memory(pipeline: &mut Pipeline, args: &MemoryArgs) {
    pipeline.limit(args.max_vram);
    if args.vae_tiling {
        pipeline.tile(Pipeline::TILE);
    }
}

/// Checks what depends on no model.
///
/// # Errors    [`Code::Usage`]
pub(crate) fn check_args(args: &GenerateArgs) -> Result<(), Failure> {
    if args.batch_count == 0 || args.batch_count > MAX_PICTURES {
        return Err(Failure::usage("--batch-count", format!("1 to {MAX_PICTURES}"), args.batch_count));
    }
    check_start(&args.start)?;
    if args.refiner_start.is_some() && args.refiner.is_none() {
        return Err(Failure::usage("--refiner-start", "--refiner beside it", "none"));
    }
    if args.latents.is_some() && args.batch_count > 1 {
        let found = format!("--batch-count {}", args.batch_count);
        return Err(Failure::usage("--latents", "one picture: each would start from the same noise", found));
    }
    Ok(())
}

/// Checks that there is a picture to go from.
///
/// # Errors    [`Code::Usage`]
pub(crate) fn check_start(args: &StartArgs) -> Result<(), Failure> {
    match args.strength.is_some() && args.init_img.is_none() {
        true => Err(Failure::usage("--strength", "--init-img beside it", "none")),
        false => Ok(()),
    }
}

/// The request for the first picture.
///
/// # Errors    those of reading the initial picture, and of [`Model::check`]
pub(crate) fn build_request(args: &GenerateArgs, model: &Model) -> Result<Request, Failure> {
    check_told(args, model)?;
    let picture = args.start.init_img.as_ref().map(loaders::read_rgb).transpose()?;
    let size = picture_size(&args.shape, picture.as_ref(), model);
    let plain = plain_request(&args.prompt, &args.source, &args.shape, model);
    let mut request = Request {
        negative_prompt: args.negative_prompt.clone(),
        guidance_rescale: args.guidance_rescale,
        size,
        steps: args.sampling.steps.unwrap_or(plain.steps),
        seed: if args.seed < 0 { random_seed() } else { Seed::from(args.seed) },
        rng: match args.rng {
            RngArg::Cpu => RngKind::Cpu,
            RngArg::Cuda => RngKind::Cuda,
        },
        sampler: args.sampling.sampler,
        schedule: args.schedule,
        spacing: args.timestep_spacing,
        prediction: args.prediction.map(|prediction| match prediction {
            PredictionArg::Eps => PredictionType::Epsilon,
            PredictionArg::V => PredictionType::V,
        }),
        told: told(args),
        refiner_start: args.refiner_start.unwrap_or(Request::REFINER_START),
        ..plain
    };
    if let Some(picture) = picture {
        // No picture is stretched to a size that cannot be drawn.
        model.check(&request)?;
        request.init = Some(initial(&picture, size, &args.start)?);
    }
    Ok(request)
}

/// The picture that is foretold.
///
/// # Errors    those of reading the initial picture, and of [`Model::check`]
pub(crate) fn planned_request(args: &PlanArgs, model: &Model) -> Result<Request, Failure> {
    let picture = args.start.init_img.as_ref().map(loaders::read_rgb).transpose()?;
    let size = picture_size(&args.shape, picture.as_ref(), model);
    let plain = plain_request("", &args.source, &args.shape, model);
    let steps = args.sampling.steps.unwrap_or(plain.steps);
    let mut request = Request { size, steps, sampler: args.sampling.sampler, ..plain };
    model.check(&request)?;
    if let Some(picture) = picture {
        request.init = Some(initial(&picture, size, &args.start)?);
    }
    Ok(request)
}

/// A picture of which no more is said than these words.
pub(crate) fn plain_request(prompt: &str, source: &ModelArgs, shape: &ShapeArgs, model: &Model) -> Request {
    let (steps, cfg_scale) = match source.model {
        None => (builtin::STEPS, builtin::CFG_SCALE),
        Some(_) => (STEPS, CFG_SCALE),
    };
    Request {
        prompt: prompt.to_owned(),
        negative_prompt: None,
        guidance_rescale: 0.0,
        size: picture_size(shape, None, model),
        steps,
        guidance: GuidanceScale(shape.cfg_scale.unwrap_or(cfg_scale)),
        seed: Seed(0),
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

/// Refuses to tell a model what it was not trained to be told.
fn check_told(args: &GenerateArgs, model: &Model) -> Result<(), Failure> {
    if model.family != Family::StableDiffusion {
        return Ok(());
    }
    let given = [
        ("--original-size", args.original_size.is_some()),
        ("--target-size", args.target_size.is_some()),
        ("--crop", args.crop.is_some()),
        ("--aesthetic-score", args.aesthetic_score.is_some()),
        ("--negative-aesthetic-score", args.negative_aesthetic_score.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Failure::usage(flag, "a model of Stable Diffusion XL", model.family.name())),
        None => Ok(()),
    }
}

/// What SDXL is told besides the prompt.
fn told(args: &GenerateArgs) -> Told {
    let size = |pair: Option<[usize; 2]>| pair.map(|[width, height]| PixelSize { width, height });
    let [crop_left, crop_top] = args.crop.unwrap_or_default();
    let default = Told::default();
    Told {
        original: size(args.original_size),
        crop_top,
        crop_left,
        target: size(args.target_size),
        aesthetic_score: args.aesthetic_score.unwrap_or(default.aesthetic_score),
        negative_aesthetic_score: args.negative_aesthetic_score.unwrap_or(default.negative_aesthetic_score),
    }
}

/// The size asked for; a side that is not takes the initial picture's, rounded down to what the model can draw, or the
/// model's own.
fn picture_size(shape: &ShapeArgs, picture: Option<&RgbPicture>, model: &Model) -> PixelSize {
    let multiple = model.edge_multiple();
    let edge = |asked: Option<usize>, found: fn(&RgbPicture) -> u32| match (asked, picture) {
        (Some(edge), _) => edge,
        (None, Some(picture)) => (found(picture) as usize / multiple * multiple).max(model.least_edge()),
        (None, None) => model.native_edge(),
    };
    PixelSize { width: edge(shape.width, RgbPicture::width), height: edge(shape.height, RgbPicture::height) }
}

/// The picture that drawing starts from, at the size that is drawn.
fn initial(picture: &RgbPicture, size: PixelSize, args: &StartArgs) -> Result<InitImage, Failure> {
    Ok(InitImage { image: stretched(picture, size)?, strength: args.strength.unwrap_or(STRENGTH) })
}

/// The picture at another size.
fn stretched(picture: &RgbPicture, size: PixelSize) -> Result<Image, Failure> {
    let no_room = || Failure::new(Code::OutOfMemory, format!("--init-img: no room for {size} pixels"));
    let side = |edge: usize| u32::try_from(edge).map_err(|_| no_room());
    let resized = picture.resized(side(size.width)?, side(size.height)?).ok_or_else(no_room)?;
    Ok(Image::from_rgb8(size, resized.pixels()))
}

/// A seed that nobody chose: 32 bits, so that it is short to type.
fn random_seed() -> Seed {
    use std::hash::{BuildHasher, RandomState};
    Seed(RandomState::new().hash_one(()) >> 32)
}

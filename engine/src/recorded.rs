//! A run that PyTorch recorded against ours, stage by stage.
//!
//! A folder holds `reference.json`, the request, and `reference.safetensors`, f32 in PyTorch's layouts: `context`, `pooled`,
//! `time_ids`, `noise`, `step_noise.i`, `encoded`, `latent.i` and `image`, and under `refiner.` what a refiner is told. Ours runs
//! freely from the recorded noise. Called by `photogram validate --reference` and by the golden tests.

use std::path::Path;

use kernels::DType;
use kernels::check::{Class, Comparison, compare_values, psnr};
use loaders::safetensors::Limits;
use loaders::{Checkpoint, Config, Encoding, FileSource};

use crate::device::Gpu;
use crate::error::{Error, ErrorKind};
use crate::noise::{RngKind, Seed};
use crate::pipelines::{
    GuidanceScale, Image, InitImage, Model, NoiseSource, Pipeline, PixelSize, Precision, PredictionType,
    Request, Told,
};
use crate::samplers::{Method, Schedule, Spacing};

/// Parameters of a denoiser from which [`Class::LargeNetwork`] applies.
const LARGE: u64 = 100_000_000;

/// One stage of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The tensor's name in the reference.
    pub name: String,
    /// Ours against the recorded one.
    pub comparison: Comparison,
}

/// A whole run, in the order in which stages are computed.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedRun {
    /// Every recorded stage.
    pub stages: Vec<Stage>,
    /// Peak signal-to-noise ratio of the picture in dB. Printed, never a criterion: a picture hides broken layers.
    pub image_psnr: f64,
    /// How activations were stored.
    pub dtype: DType,
}

impl RecordedRun {
    /// Whether every stage is right.
    pub fn pass(&self) -> bool {
        self.stages.iter().all(|stage| stage.comparison.pass)
    }

    /// The first stage that is wrong.
    pub fn first_failure(&self) -> Option<&Stage> {
        self.stages.iter().find(|stage| !stage.comparison.pass)
    }
}

/// A recorded run, read and not yet repeated.
pub struct Reference {
    /// The model, with the reference's autoencoder and refiner.
    pub model: Model,
    /// What was asked of it.
    pub request: Request,
    tensors: Checkpoint,
}

/// Runs the reference in `folder` on `gpu` and compares every stage.
///
/// # Errors
/// As [`Reference::open`] and [`Reference::run`].
pub async fn run_recorded(gpu: Gpu, folder: &Path, precision: Precision) -> Result<RecordedRun, Error> {
    Reference::open(folder, precision).await?.run(gpu).await
}

impl Reference {
    /// Reads the reference in `folder`.
    ///
    /// # Errors
    /// [`Error`]: a file is missing or malformed, a value of the request is not supported.
    pub async fn open(folder: &Path, precision: Precision) -> Result<Self, Error> {
        let source = FileSource::open(folder.join("reference.json"))?;
        let config = Config::read(&source).await?;
        let tensors = Checkpoint::open(folder.join("reference.safetensors"), &Limits::default()).await?;
        let path = folder.join(config.require::<String>("model")?);
        let vae = config.get::<String>("vae")?.map(|vae| folder.join(vae));
        let mut model = Model::open(&path, vae.as_deref(), precision).await?;
        if let Some(refiner) = config.get::<String>("refiner")? {
            let refiner = Model::open(&folder.join(refiner), None, precision).await?;
            model = model.with_refiner(refiner).map_err(|error| in_reference(error, &config))?;
        }
        let request = read_request(&config, folder)?;
        model.check(&request).map_err(|error| in_reference(error, &config))?;
        Ok(Reference { model, request, tensors })
    }

    /// Repeats the run on `gpu` and compares every stage.
    ///
    /// # Errors
    /// [`Error`]: a recorded tensor is missing or malformed, the device failed. A stage that differs is no error.
    pub async fn run(self, gpu: Gpu) -> Result<RecordedRun, Error> {
        let Reference { model, request, tensors } = self;
        let parameters: u64 =
            model.unet.weights.checkpoint().tensors().map(|(_, tensor)| tensor.n_values()).sum();
        let class = if parameters > LARGE { Class::LargeNetwork } else { Class::Network };
        let mut pipeline = Pipeline::new(gpu, model);
        let dtype = pipeline.dtype();

        let mut stages = Vec::new();
        let mut note = |name: &str, expected: &[f32], found: &[f32]| {
            stages.push(Stage {
                name: name.to_owned(),
                comparison: compare_values(expected, found, class, dtype),
            });
        };
        let recorded = Recorded { tensors: &tensors };
        let [channels, height, width] = pipeline.latent_shape(request.size);
        let latent_shape = [1, channels, height, width];
        let noise = recorded.require("noise", &latent_shape).await?;
        let mut step_noise = Vec::new();
        while let Some(values) =
            recorded.get(&format!("step_noise.{}", step_noise.len()), &latent_shape).await?
        {
            step_noise.push(values);
        }

        let mut run = pipeline.start_from(&request, NoiseSource::recorded(noise, step_noise)).await?;
        for (name, tensor) in run.conditioning().tensors() {
            note(name, &recorded.require(name, tensor.shape()).await?, tensor.data());
        }
        if let Some(encoded) = run.encoded().await? {
            note("encoded", &recorded.require("encoded", &latent_shape).await?, &encoded);
        }
        let mut is_refined = false;
        while let Some(progress) = run.next().await? {
            if progress.is_refined && !std::mem::replace(&mut is_refined, true) {
                for (name, tensor) in run.conditioning().tensors() {
                    let name = format!("refiner.{name}");
                    note(&name, &recorded.require(&name, tensor.shape()).await?, tensor.data());
                }
            }
            let name = format!("latent.{}", progress.step);
            note(&name, &recorded.require(&name, &latent_shape).await?, &run.latent().await?);
        }
        let last = format!("latent.{}", run.total() - 1);
        let image = run.decode().await?;
        let image_shape = [3, request.size.height, request.size.width];
        let expected = recorded.require("image", &image_shape).await?;
        let found = image.to_channels_first();
        note("image", &expected, &found);
        drop(run);

        let latent =
            pipeline.upload_latent(&recorded.require(&last, &latent_shape).await?, request.size).await?;
        let decoded = pipeline.decode(&latent).await?;
        note("image from the recorded latent", &expected, &decoded.to_channels_first());
        Ok(RecordedRun { stages, image_psnr: psnr(&expected, &found), dtype })
    }
}

/// A request that makes no sense, as the file's fault: whoever reads it gave no flag.
fn in_reference(error: Error, config: &Config) -> Error {
    match error.kind() {
        ErrorKind::Usage => {
            loaders::Error::unsupported(config.file(), format!("what it asks for ({error})"), "").into()
        }
        _ => error,
    }
}

/// The recorded tensors.
struct Recorded<'a> {
    tensors: &'a Checkpoint,
}

impl Recorded<'_> {
    async fn require(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.tensors.require(name)?;
        Ok(self.get(name, shape).await?.unwrap_or_default())
    }

    async fn get(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, Error> {
        let Some(entry) = self.tensors.get(name) else { return Ok(None) };
        if entry.shape != shape || entry.encoding != Encoding::F32 {
            return Err(entry.unexpected(format!("F32{shape:?}")).into());
        }
        let bytes = self.tensors.read(entry).await?;
        let word = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Ok(Some(bytes.chunks_exact(4).map(word).collect()))
    }
}

fn read_request(config: &Config, folder: &Path) -> Result<Request, Error> {
    let size = PixelSize {
        width: config.require_count("width", 1..=16_384)?,
        height: config.require_count("height", 1..=16_384)?,
    };
    let sampler = config.require::<String>("sampler")?;
    let sampler = Method::from_name(&sampler).map_err(|_| config.unsupported("sampler", ""))?;
    let schedule = config.or("schedule", "discrete".to_owned())?;
    let schedule = Schedule::ALL.iter().copied().find(|s| s.name() == schedule);
    let spacing = match config.get::<String>("timestep_spacing")? {
        None => None,
        Some(name) => {
            let known = Spacing::ALL.into_iter().find(|spacing| spacing.name() == name);
            Some(known.ok_or_else(|| config.unsupported("timestep_spacing", ""))?)
        }
    };
    let prediction = match config.get::<String>("prediction_type")?.as_deref() {
        None => None,
        Some("epsilon") => Some(PredictionType::Epsilon),
        Some("v_prediction") => Some(PredictionType::V),
        Some(_) => return Err(config.unsupported("prediction_type", "").into()),
    };
    let init = match config.get::<String>("init_image")? {
        None => None,
        Some(name) => {
            let picture = loaders::read_rgb(folder.join(name))?;
            let found = PixelSize { width: picture.width() as usize, height: picture.height() as usize };
            Some(InitImage {
                image: Image::from_rgb8(found, picture.pixels()),
                strength: config.require("strength")?,
            })
        }
    };
    Ok(Request {
        prompt: config.require("prompt")?,
        negative_prompt: config.get("negative_prompt")?,
        size,
        steps: config.require_count("steps", 1..=1_000_000)?,
        guidance: GuidanceScale(config.or("cfg_scale", 7.5)?),
        guidance_rescale: share(config, "guidance_rescale", 0.0, |v| (0.0..=1.0).contains(v))?,
        seed: Seed(config.or::<usize>("seed", 0)? as u64),
        rng: RngKind::Cpu,
        sampler: Some(sampler),
        schedule: Some(schedule.ok_or_else(|| config.unsupported("schedule", ""))?),
        spacing,
        prediction,
        init,
        told: read_told(config)?,
        refiner_start: share(config, "refiner_start", Request::REFINER_START, |v| *v > 0.0 && *v < 1.0)?,
    })
}

/// The value of `key`, a part of a whole, or `default` if it is absent.
fn share(config: &Config, key: &str, default: f64, is_valid: impl Fn(&f64) -> bool) -> Result<f64, Error> {
    let value = config.or(key, default)?;
    if is_valid(&value) { Ok(value) } else { Err(config.unsupported(key, "it is a part of 1").into()) }
}

fn read_told(config: &Config) -> Result<Told, Error> {
    const MOST_TOLD: usize = 65_536;
    let pair = |key: &str, least: usize| -> Result<Option<[usize; 2]>, Error> {
        match config.get::<Vec<usize>>(key)?.as_deref() {
            None => Ok(None),
            Some(pair) if pair.iter().any(|n| *n < least || *n > MOST_TOLD) => {
                Err(config.unsupported(key, format!("{least} to {MOST_TOLD} pixels")).into())
            }
            Some(&[rows, columns]) => Ok(Some([rows, columns])),
            Some(_) => Err(config.unexpected(key, "two numbers, rows and columns").into()),
        }
    };
    let size = |key: &str| Ok::<_, Error>(pair(key, 1)?.map(|[height, width]| PixelSize { width, height }));
    let [crop_top, crop_left] = pair("crop", 0)?.unwrap_or_default();
    let default = Told::default();
    Ok(Told {
        original: size("original_size")?,
        crop_top,
        crop_left,
        target: size("target_size")?,
        aesthetic_score: config.or("aesthetic_score", default.aesthetic_score)?,
        negative_aesthetic_score: config.or("negative_aesthetic_score", default.negative_aesthetic_score)?,
    })
}

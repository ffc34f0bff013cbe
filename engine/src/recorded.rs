//! A run that PyTorch recorded against ours, stage by stage.
//!
//! A folder holds `reference.json`, the request, and `reference.safetensors`, f32 in PyTorch's layouts: `context`, `noise`,
//! `step_noise.i`, `encoded`, `latent.i` and `image`. Ours runs freely from the recorded noise. Called by `photogram validate
//! --reference` and by the golden tests.

use std::path::Path;

use kernels::DType;
use kernels::check::{Class, Comparison, compare_values, psnr};
use loaders::safetensors::Limits;
use loaders::{Checkpoint, Config, Encoding, FileSource};

use crate::device::Gpu;
use crate::error::Error;
use crate::noise::{RngKind, Seed};
use crate::pipelines::{
    GuidanceScale, Image, InitImage, Model, NoiseSource, Pipeline, PixelSize, Precision, PredictionType,
    Request,
};
use crate::samplers::{Method, Schedule};

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

/// Runs the reference in `folder` on `gpu` and compares every stage.
///
/// # Errors
/// [`Error`]: a file is missing or malformed, a value of the request is not supported, the device failed. A stage that
/// differs is no error.
pub async fn run_recorded(gpu: Gpu, folder: &Path, precision: Precision) -> Result<RecordedRun, Error> {
    let source = FileSource::open(folder.join("reference.json"))?;
    let config = Config::read(&source).await?;
    let tensors = Checkpoint::open(folder.join("reference.safetensors"), &Limits::default()).await?;
    let model = Model::open(&folder.join(config.require::<String>("model")?), precision).await?;
    let request = read_request(&config, folder)?;
    let parameters: u64 =
        model.unet.weights.checkpoint().tensors().map(|(_, tensor)| tensor.n_values()).sum();
    let class = if parameters > LARGE { Class::LargeNetwork } else { Class::Network };
    let mut pipeline = Pipeline::new(gpu, model);
    let dtype = pipeline.dtype();

    let mut stages = Vec::new();
    let mut note = |name: &str, expected: &[f32], found: &[f32]| {
        stages
            .push(Stage { name: name.to_owned(), comparison: compare_values(expected, found, class, dtype) });
    };
    let recorded = Recorded { tensors: &tensors };
    let [channels, height, width] = pipeline.latent_shape(request.size);
    let latent_shape = [1, channels, height, width];
    let noise = recorded.require("noise", &latent_shape).await?;
    let mut step_noise = Vec::new();
    while let Some(values) = recorded.get(&format!("step_noise.{}", step_noise.len()), &latent_shape).await? {
        step_noise.push(values);
    }

    let mut run = pipeline.start_from(&request, NoiseSource::recorded(noise, step_noise)).await?;
    let context = run.context().await?;
    note("context", &recorded.require("context", context.shape()).await?, context.data());
    if let Some(encoded) = run.encoded().await? {
        note("encoded", &recorded.require("encoded", &latent_shape).await?, &encoded);
    }
    while let Some(progress) = run.next().await? {
        let name = format!("latent.{}", progress.step);
        note(&name, &recorded.require(&name, &latent_shape).await?, &run.latent().await?);
    }
    let last = format!("latent.{}", run.total() - 1);
    let image = run.decode().await?;
    let image_shape = [3, request.size.height, request.size.width];
    let expected = recorded.require("image", &image_shape).await?;
    let found = channels_first(&image);
    note("image", &expected, &found);
    drop(run);

    let latent = pipeline.upload_latent(&recorded.require(&last, &latent_shape).await?, request.size).await?;
    let decoded = pipeline.decode(&latent).await?;
    note("image from the recorded latent", &expected, &channels_first(&decoded));
    Ok(RecordedRun { stages, image_psnr: psnr(&expected, &found), dtype })
}

/// A picture in PyTorch's layout, `[3, H, W]`.
fn channels_first(image: &Image) -> Vec<f32> {
    let values = image.values();
    let pixels = values.len() / 3;
    (0..values.len()).map(|i| values[i % pixels * 3 + i / pixels]).collect()
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
        negative_prompt: config.or("negative_prompt", String::new())?,
        size,
        steps: config.require_count("steps", 1..=1_000_000)?,
        guidance: GuidanceScale(config.or("cfg_scale", 7.5)?),
        seed: Seed(config.or::<usize>("seed", 0)? as u64),
        rng: RngKind::Cpu,
        sampler: Some(sampler),
        schedule: Some(schedule.ok_or_else(|| config.unsupported("schedule", ""))?),
        prediction,
        init,
    })
}

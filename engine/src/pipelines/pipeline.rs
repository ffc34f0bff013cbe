//! A model on a device: programs compiled once for each size, weights uploaded once for all of them.

use std::rc::Rc;

use kernels::{DType, HostTensor, TensorType};

use super::autoencoder::{Autoencoder, latent_extent};
use super::conditioning::Conditioning;
use super::denoiser::{DenoiserShape, build_denoiser};
use super::memory::{Latents, Residency};
use super::model::Model;
use super::numbers::{Canary, Counter, blame};
use super::picture::{Image, PixelSize};
use super::request::Request;
use super::run::{NoiseSource, Run};
use super::stack::Stack;
use super::stats::Stats;
use super::terms::Combiner;
use crate::compile::plan_for;
use crate::device::{DeviceTensor, Gpu, Program, Readback};
use crate::error::Error;
use crate::graph::Rate;

/// A model ready to draw.
pub struct Pipeline {
    pub(super) gpu: Gpu,
    pub(super) base: Stack,
    pub(super) refiner: Option<Stack>,
    pub(super) autoencoder: Autoencoder,
    pub(super) combiner: Combiner,
    /// Bytes that may be on the device at once.
    pub(super) limit: Option<u64>,
    /// Edge of the decoder's tiles in latent pixels, if the user asked for tiles.
    pub(super) forced_tile: Option<usize>,
    /// How requests like the last one are worked on.
    residency: Residency,
    settled: Option<Settled>,
    /// A request like the last one.
    last: Option<Request>,
    /// For latents of the present size.
    counter: Option<Counter>,
    canary: Option<Canary>,
}

/// What a residency was decided for: a denoiser's shape, an initial picture, latents, how the autoencoder's activations are stored,
/// a limit, tiles.
type Settled = (DenoiserShape, bool, Latents, DType, Option<u64>, Option<usize>);

impl Pipeline {
    /// Puts `model` on `gpu`. Weights are uploaded when a program first needs them.
    pub fn new(gpu: Gpu, mut model: Model) -> Self {
        let refiner = model.refiner.take().map(|refiner| Stack::new(&gpu, *refiner));
        let base = Stack::new(&gpu, model);
        let vae_dtype = if base.model.vae.config.force_upcast { DType::F32 } else { base.dtype };
        Pipeline {
            gpu,
            base,
            refiner,
            autoencoder: Autoencoder::new(vae_dtype),
            combiner: Combiner::new(&[0]),
            limit: None,
            forced_tile: None,
            residency: Residency { keeps_text: true, keeps_denoiser: true, tile: None },
            settled: None,
            last: None,
            counter: None,
            canary: None,
        }
    }

    /// The model; its refiner is not in it any more.
    pub fn model(&self) -> &Model {
        &self.base.model
    }

    /// Works within `bytes` on the device from here on, by keeping less there and decoding in tiles.
    pub fn limit(&mut self, bytes: Option<u64>) {
        self.limit = bytes;
        self.gpu.limit(bytes);
    }

    /// Encodes and decodes pictures in tiles of at most `edge` latent pixels from here on, where they are larger than one. Edges
    /// below [`Pipeline::LEAST_TILE`] stand for that.
    pub fn tile(&mut self, edge: usize) {
        self.forced_tile = Some(edge.max(Pipeline::LEAST_TILE));
    }

    /// Edge in latent pixels of the smallest tiles: smaller ones would be halo for the most part.
    pub const LEAST_TILE: usize = 16;

    /// Edge in latent pixels of tiles of which few are needed and whose borders are few.
    pub const TILE: usize = 64;

    /// Lets text encoders of up to `bytes` stay on the device beside the denoiser; larger ones are read again for each prompt.
    pub fn keep_text(&mut self, bytes: u64) {
        [Some(&mut self.base), self.refiner.as_mut()]
            .into_iter()
            .flatten()
            .for_each(|stack| stack.keep_text(bytes));
    }

    /// How the denoiser's activations are stored.
    pub fn dtype(&self) -> DType {
        self.base.dtype
    }

    /// How the autoencoder's activations are stored: f32 where its configuration says that f16 overflows in it, or where it
    /// did.
    pub fn vae_dtype(&self) -> DType {
        self.autoencoder.dtype
    }

    /// What the denoiser is told for `request`. Prompts are encoded now if they are not those of the last call; large text
    /// encoders leave the device afterwards.
    ///
    /// # Errors
    /// [`Error`]: the request makes no sense, a file is broken, the device is too small.
    pub async fn condition(&mut self, request: &Request) -> Result<Conditioning, Error> {
        request.check(self.base.model.least_edge(), self.base.model.edge_multiple())?;
        self.settle(request)?;
        self.base.condition(&self.gpu, request).await
    }

    /// Decides how `request` is worked on.
    fn settle(&mut self, request: &Request) -> Result<(), Error> {
        let shape = self.base.denoiser_shape(request);
        let latents = self.latents(request)?;
        let dtype = self.autoencoder.dtype;
        let key = (shape, request.init.is_some(), latents, dtype, self.limit, self.forced_tile);
        if self.settled.as_ref() == Some(&key) {
            return Ok(());
        }
        self.last = Some(request.clone());
        let budget = self.budget(request)?;
        if !budget.fits() {
            return Err(Error::NoRoom {
                limit: budget.limit.unwrap_or_default(),
                least: budget.peak_bytes,
                phase: budget.peak_phase,
                size: request.size,
                smaller: self.largest_with_room(request),
                dtype: self.dtype(),
            });
        }
        self.residency = budget.residency;
        let always = !self.residency.keeps_text;
        [Some(&mut self.base), self.refiner.as_mut()]
            .into_iter()
            .flatten()
            .for_each(|stack| stack.release_text(always));
        self.settled = Some(key);
        Ok(())
    }

    /// Compiles what `request` needs and uploads the weights, as far as they may be on the device together.
    ///
    /// # Errors
    /// As [`Pipeline::condition`].
    pub async fn prepare(&mut self, request: &Request) -> Result<(), Error> {
        self.condition(request).await?;
        let vae = &self.base.model.vae;
        if self.residency.keeps_denoiser && self.residency.tile.is_none() {
            self.autoencoder.decoder(&self.gpu, vae, latent_extent(vae, request.size)).await?;
            if request.init.is_some() {
                self.autoencoder.encoder(&self.gpu, vae, request.size).await?;
            }
        }
        if !self.residency.keeps_denoiser {
            self.release_autoencoder();
            if request.init.is_some() {
                // The encoder comes first, and alone.
                return Ok(());
            }
        }
        self.base_denoiser(request).await?;
        Ok(())
    }

    /// Encodes the prompts, draws the noise and stands before the first step.
    ///
    /// # Errors
    /// As [`Pipeline::prepare`], and [`Error::Sampler`].
    pub async fn start(&mut self, request: &Request) -> Result<Run<'_>, Error> {
        let noise = NoiseSource::from_seed(request.seed, request.rng);
        self.start_from(request, noise).await
    }

    /// [`Pipeline::start`] with noise from elsewhere: a file, a recorded run.
    ///
    /// # Errors
    /// As [`Pipeline::start`].
    pub async fn start_from(&mut self, request: &Request, noise: NoiseSource) -> Result<Run<'_>, Error> {
        self.prepare(request).await?;
        let [height, width] = self.latent_extent(request.size);
        self.combiner = Combiner::new(&[1, height, width, self.model().vae.config.latent_channels]);
        let encoded = match &request.init {
            Some(init) => Some(self.encode(&init.image).await?),
            None => None,
        };
        if !self.residency.keeps_denoiser {
            self.release_autoencoder();
        }
        Run::new(self, request, noise, encoded).await
    }

    /// The picture of a latent `[1, h, w, C]` in the denoiser's scale; once more in f32 if f16 overflows.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and those of the device.
    pub async fn decode(&mut self, latent: &DeviceTensor) -> Result<Image, Error> {
        self.decode_after(latent, || ()).await
    }

    /// [`Pipeline::decode`], where `let_go` drops what others have of a denoiser that leaves the device.
    pub(super) async fn decode_after(
        &mut self,
        latent: &DeviceTensor,
        mut let_go: impl FnMut(),
    ) -> Result<Image, Error> {
        let mut make_room = |pipeline: &mut Self| {
            if !pipeline.residency.keeps_denoiser {
                let_go();
                pipeline.release_denoisers();
            }
        };
        make_room(self);
        let mut image = self.decode_once(latent).await?;
        if self.autoencoder.dtype == DType::F16 && check_finite("", image.values()).is_err() {
            self.widen_autoencoder()?;
            make_room(self);
            image = self.decode_once(latent).await?;
        }
        if let Err(error) = check_finite("decoded picture", image.values()) {
            return Err(blame(&self.gpu.clone(), error, self.decode_once(latent)).await?);
        }
        self.check_canary().await?;
        Ok(image)
    }

    /// Has the autoencoder run in f32 from here on, and decides anew how that is done within the limit.
    fn widen_autoencoder(&mut self) -> Result<(), Error> {
        self.autoencoder.dtype = DType::F32;
        self.release_autoencoder();
        match self.last.clone() {
            Some(request) => self.settle(&request),
            None => Ok(()),
        }
    }

    /// Whether the device has really done what it was given.
    async fn check_canary(&mut self) -> Result<(), Error> {
        let canary = match &mut self.canary {
            Some(canary) => canary,
            none => none.insert(Canary::new(&self.gpu)?),
        };
        canary.check(&self.gpu).await
    }

    /// Queues a count of what is not finite in a latent.
    pub(super) async fn count_non_finite(&mut self, latent: &DeviceTensor) -> Result<Readback, Error> {
        if !self.counter.as_ref().is_some_and(|counter| counter.counts(latent.ty())) {
            self.counter = Some(Counter::new(&self.gpu, latent.ty())?);
        }
        self.counter.as_ref().expect("just made").count(&self.gpu, latent).await
    }

    async fn decode_once(&mut self, latent: &DeviceTensor) -> Result<Image, Error> {
        self.autoencoder.decode(&self.gpu, &self.base.model.vae, latent, self.residency.tile).await
    }

    fn release_autoencoder(&mut self) {
        self.autoencoder.release();
        self.base.model.vae.weights.release();
    }

    fn release_denoisers(&mut self) {
        [Some(&mut self.base), self.refiner.as_mut()].into_iter().flatten().for_each(Stack::release_denoiser);
    }

    /// The mean latent of a picture in the denoiser's scale, `[1, h, w, C]`; once more in f32 if f16 overflows.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and those of the device.
    pub async fn encode(&mut self, image: &Image) -> Result<DeviceTensor, Error> {
        let mut latent = self.encode_once(image).await?;
        let is_f16 = self.autoencoder.dtype == DType::F16;
        if is_f16 && check_finite("", self.gpu.read(&latent).await?.data()).is_err() {
            drop(latent);
            self.widen_autoencoder()?;
            if !self.residency.keeps_denoiser {
                self.release_denoisers();
            }
            latent = self.encode_once(image).await?;
        }
        if let Err(error) = check_finite("encoded picture", self.gpu.read(&latent).await?.data()) {
            return Err(blame(&self.gpu.clone(), error, self.encode_once(image)).await?);
        }
        Ok(latent)
    }

    async fn encode_once(&mut self, image: &Image) -> Result<DeviceTensor, Error> {
        self.autoencoder.encode(&self.gpu, &self.base.model.vae, image, self.residency.tile).await
    }

    /// A latent-like tensor on the device from PyTorch's layout, `[C, h, w]`.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If there are not `C * h * w` values: a programming error.
    pub async fn upload_latent(&self, values: &[f32], size: PixelSize) -> Result<DeviceTensor, Error> {
        let [height, width] = self.latent_extent(size);
        let channels = self.model().vae.config.latent_channels;
        assert_eq!(values.len(), channels * height * width, "values of a latent");
        let ty = TensorType::f32([1, height, width, channels]);
        let tensor = HostTensor::from_fn(ty, |i| {
            let (pixel, channel) = (i / channels, i % channels);
            f64::from(values[channel * height * width + pixel])
        });
        Ok(self.gpu.upload_new("latent", &tensor).await?)
    }

    /// A tensor `[1, h, w, C]` of the device in PyTorch's layout, `[C, h, w]`.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn read_latent(&self, latent: &DeviceTensor) -> Result<Vec<f32>, Error> {
        let tensor = self.gpu.read(latent).await?;
        let channels = tensor.shape().channels();
        let pixels = tensor.shape().rows();
        let data = tensor.data();
        Ok((0..channels * pixels).map(|i| data[i % pixels * channels + i / pixels]).collect())
    }

    /// Extents `[C, h, w]` of the latent of a picture of `size`.
    pub fn latent_shape(&self, size: PixelSize) -> [usize; 3] {
        let [height, width] = self.latent_extent(size);
        [self.model().vae.config.latent_channels, height, width]
    }

    /// What runs of `request` take; a refiner's dispatches are not in it.
    ///
    /// # Errors
    /// As [`Pipeline::prepare`].
    pub fn stats(&self, request: &Request) -> Result<Stats, Error> {
        let shape = self.base.denoiser_shape(request);
        let denoiser = plan_for(&self.gpu, &build_denoiser(&self.model().unet, shape)?)?;
        let (vae, extent) = (&self.base.model.vae, [shape.height, shape.width]);
        let decoder = self.autoencoder.decoder_phase(&self.gpu, vae, extent, self.residency.tile)?;
        Ok(Stats {
            denoiser_dispatches: denoiser.dispatches(Rate::Step),
            prompt_dispatches: denoiser.dispatches(Rate::Prompt),
            decoder_dispatches: decoder.prompt_dispatches + decoder.dispatches,
            denoiser_flops: denoiser.flops(Rate::Step),
            pipelines: self.gpu.pipelines(),
            peak_bytes: self.gpu.peak_bytes(),
            adapter: self.gpu.adapter_name().to_owned(),
            driver: self.gpu.driver(),
        })
    }

    /// The base model's denoiser, in the place of the refiner's.
    pub(super) async fn base_denoiser(&mut self, request: &Request) -> Result<Rc<Program>, Error> {
        if let Some(refiner) = &mut self.refiner {
            refiner.release_denoiser();
        }
        let shape = self.base.denoiser_shape(request);
        self.base.denoiser(&self.gpu, shape).await
    }

    pub(super) fn latent_extent(&self, size: PixelSize) -> [usize; 2] {
        latent_extent(&self.base.model.vae, size)
    }
}

/// Every rate: a program whose inputs are all new.
pub(super) const ALL: [Rate; 3] = [Rate::Load, Rate::Prompt, Rate::Step];

pub(super) fn check_finite(stage: &str, values: &[f32]) -> Result<(), Error> {
    let count = values.iter().filter(|v| !v.is_finite()).count();
    if count == 0 {
        return Ok(());
    }
    Err(Error::NotFinite { stage: stage.to_owned(), count, total: values.len() })
}

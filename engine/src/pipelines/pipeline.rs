//! A model on a device: programs compiled once for each size, weights uploaded once for all of them.

use std::collections::HashMap;
use std::rc::Rc;

use kernels::{DType, HostTensor, TensorType};

use super::conditioning::Conditioning;
use super::denoiser::{DenoiserShape, build_denoiser};
use super::memory::Residency;
use super::model::Model;
use super::numbers::{Canary, Counter, blamed};
use super::picture::{Image, PixelSize};
use super::request::Request;
use super::run::{NoiseSource, Run};
use super::stack::Stack;
use super::stats::Stats;
use super::terms::Combiner;
use super::tiles::Tiles;
use crate::compile::{compile, plan_for};
use crate::device::{DeviceTensor, Gpu, Program};
use crate::error::Error;
use crate::graph::{Graph, Rate};

/// A model ready to draw.
pub struct Pipeline {
    pub(super) gpu: Gpu,
    pub(super) base: Stack,
    pub(super) refiner: Option<Stack>,
    /// By rows and columns of the latent, and by how activations are stored.
    decoders: HashMap<([usize; 2], DType), Rc<Program>>,
    /// The same, by rows and columns of the picture.
    encoders: HashMap<([usize; 2], DType), Rc<Program>>,
    vae_dtype: DType,
    pub(super) combiner: Combiner,
    /// Bytes that may be on the device at once.
    pub(super) limit: Option<u64>,
    /// Edge of the decoder's tiles in latent pixels, if the user asked for tiles.
    pub(super) forced_tile: Option<usize>,
    /// How requests like the last one are worked on.
    residency: Residency,
    settled: Option<Settled>,
    /// For latents of the present size.
    counter: Option<Counter>,
    canary: Option<Canary>,
}

/// What a residency was decided for: a denoiser's shape, an initial picture, a limit, tiles.
type Settled = (DenoiserShape, bool, Option<u64>, Option<usize>);

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
            decoders: HashMap::new(),
            encoders: HashMap::new(),
            vae_dtype,
            combiner: Combiner::new(&[0]),
            limit: None,
            forced_tile: None,
            residency: Residency { keeps_text: true, keeps_denoiser: true, tile: None },
            settled: None,
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

    /// Decodes pictures in tiles of `edge` latent pixels from here on, where they are larger than one.
    pub fn tile(&mut self, edge: usize) {
        self.forced_tile = Some(edge);
    }

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
        self.vae_dtype
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
        let key = (shape, request.init.is_some(), self.limit, self.forced_tile);
        if self.settled.as_ref() == Some(&key) {
            return Ok(());
        }
        let budget = self.budget(request)?;
        if !budget.fits() {
            let limit = budget.limit.unwrap_or_default();
            return Err(Error::NoRoom { limit, least: budget.peak_bytes, phase: budget.peak_phase });
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

    /// Compiles what `request` needs and uploads the weights.
    ///
    /// # Errors
    /// As [`Pipeline::condition`].
    pub async fn prepare(&mut self, request: &Request) -> Result<(), Error> {
        self.condition(request).await?;
        if !self.residency.keeps_denoiser {
            self.release_decoder();
        }
        self.base_denoiser(request).await?;
        if self.residency.keeps_denoiser {
            self.decoder(self.decoded_extent(self.latent_extent(request.size))).await?;
        }
        if request.init.is_some() {
            self.encoder(request.size).await?;
        }
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
        Run::new(self, request, noise).await
    }

    /// The picture of a latent `[1, h, w, C]` in the denoiser's scale; once more in f32 if f16 overflows.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and those of the device.
    pub async fn decode(&mut self, latent: &DeviceTensor) -> Result<Image, Error> {
        if !self.residency.keeps_denoiser {
            self.release_denoisers();
        }
        let mut image = self.decode_in_parts(latent).await?;
        if self.vae_dtype == DType::F16 && check_finite("", image.values()).is_err() {
            self.vae_dtype = DType::F32;
            self.release_decoder();
            image = self.decode_in_parts(latent).await?;
        }
        if let Err(error) = check_finite("decoded picture", image.values()) {
            return Err(self.blame_decoder(latent, error).await?);
        }
        self.check_canary().await?;
        Ok(image)
    }

    /// `error` with the operation that is to blame.
    async fn blame_decoder(&mut self, latent: &DeviceTensor, error: Error) -> Result<Error, Error> {
        let Error::NotFinite { stage, count, total } = &error else { return Ok(error) };
        if self.gpu.is_traced() {
            return Ok(error);
        }
        self.gpu.trace(true);
        let decoded = self.decode_in_parts(latent).await;
        let traced = self.gpu.end_trace();
        decoded?;
        Ok(blamed(&traced, stage, *count, *total))
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
    pub(super) async fn count_non_finite(&mut self, latent: &DeviceTensor) -> Result<DeviceTensor, Error> {
        if !self.counter.as_ref().is_some_and(|counter| counter.counts(latent.ty())) {
            self.counter = Some(Counter::new(&self.gpu, latent.ty())?);
        }
        self.counter.as_ref().expect("just made").count(&self.gpu, latent).await
    }

    /// As a whole, or in tiles.
    async fn decode_in_parts(&mut self, latent: &DeviceTensor) -> Result<Image, Error> {
        let extent = [latent.ty().shape[1], latent.ty().shape[2]];
        let tile = self.decoded_extent(extent);
        if tile == extent {
            return self.decode_once(extent, latent).await;
        }
        let values = self.gpu.read(latent).await?;
        let tiles = Tiles::new(extent, tile, self.model().vae.config.downscale());
        let mut mosaic = tiles.mosaic();
        for corner in tiles.corners() {
            let part = self.gpu.upload_new("tile", &tiles.part(&values, corner)).await?;
            mosaic.add(corner, self.decode_once(tile, &part).await?.values());
        }
        Ok(mosaic.into_image())
    }

    /// Extent in latent pixels of what the decoder is compiled for.
    fn decoded_extent(&self, extent: [usize; 2]) -> [usize; 2] {
        extent.map(|edge| self.residency.tile.map_or(edge, |tile| tile.min(edge)))
    }

    fn release_decoder(&mut self) {
        self.decoders.clear();
        self.base.model.vae.weights.release();
    }

    /// Whether the denoiser may stay while a picture is decoded.
    pub(super) fn keeps_denoiser(&self) -> bool {
        self.residency.keeps_denoiser
    }

    fn release_denoisers(&mut self) {
        [Some(&mut self.base), self.refiner.as_mut()].into_iter().flatten().for_each(Stack::release_denoiser);
    }

    async fn decode_once(&mut self, extent: [usize; 2], latent: &DeviceTensor) -> Result<Image, Error> {
        self.gpu.trace_stage(|| "decoder".to_owned());
        let program = self.decoder(extent).await?;
        let ty = program.plan().outputs[0].1.clone();
        let pixels = self.gpu.allocate("pixels", ty.clone())?;
        program.run(&self.gpu, &ALL, std::slice::from_ref(latent), std::slice::from_ref(&pixels)).await?;
        let values = self.gpu.read(&pixels).await?.into_data();
        Ok(Image::new(PixelSize { width: ty.shape[2], height: ty.shape[1] }, values))
    }

    /// The mean latent of a picture in the denoiser's scale, `[1, h, w, C]`; once more in f32 if f16 overflows.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and those of the device.
    pub async fn encode(&mut self, image: &Image) -> Result<DeviceTensor, Error> {
        let mut latent = self.encode_once(image).await?;
        if self.vae_dtype == DType::F16 && check_finite("", self.gpu.read(&latent).await?.data()).is_err() {
            self.vae_dtype = DType::F32;
            latent = self.encode_once(image).await?;
        }
        check_finite("encoded picture", self.gpu.read(&latent).await?.data())?;
        Ok(latent)
    }

    async fn encode_once(&mut self, image: &Image) -> Result<DeviceTensor, Error> {
        self.gpu.trace_stage(|| "encoder".to_owned());
        let program = self.encoder(image.size()).await?;
        let pixels = self.gpu.upload_new("pixels", &image.to_pixels()).await?;
        let latent = self.gpu.allocate("encoded", program.plan().outputs[0].1.clone())?;
        program.run(&self.gpu, &ALL, &[pixels], std::slice::from_ref(&latent)).await?;
        Ok(latent)
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
        let decoder = plan_for(&self.gpu, &self.decoder_graph([shape.height, shape.width])?)?;
        Ok(Stats {
            denoiser_dispatches: denoiser.dispatches(Rate::Step),
            prompt_dispatches: denoiser.dispatches(Rate::Prompt),
            decoder_dispatches: ALL.iter().map(|rate| decoder.dispatches(*rate)).sum(),
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

    pub(super) async fn decoder(&mut self, [height, width]: [usize; 2]) -> Result<Rc<Program>, Error> {
        let key = ([height, width], self.vae_dtype);
        if let Some(program) = self.decoders.get(&key) {
            return Ok(program.clone());
        }
        let graph = self.decoder_graph([height, width])?;
        let program = Rc::new(compile(&self.gpu, &graph, &self.model().vae.weights).await?);
        self.decoders.insert(key, program.clone());
        Ok(program)
    }

    pub(super) fn decoder_graph(&self, [height, width]: [usize; 2]) -> Result<Graph, Error> {
        let vae = &self.model().vae;
        let latent = TensorType::f32([1, height, width, vae.config.latent_channels]);
        let (mut net, rgb) = vae.build_decoder(latent, self.vae_dtype)?;
        net.graph.output(rgb);
        Ok(net.graph)
    }

    async fn encoder(&mut self, size: PixelSize) -> Result<Rc<Program>, Error> {
        let key = ([size.height, size.width], self.vae_dtype);
        if let Some(program) = self.encoders.get(&key) {
            return Ok(program.clone());
        }
        let graph = self.encoder_graph(size)?;
        let program = Rc::new(compile(&self.gpu, &graph, &self.base.model.vae.weights).await?);
        self.encoders.insert(key, program.clone());
        Ok(program)
    }

    pub(super) fn encoder_graph(&self, size: PixelSize) -> Result<Graph, Error> {
        let pixels = TensorType::f32([1, size.height, size.width, 3]);
        let (mut net, latent) = self.base.model.vae.build_encoder(pixels, self.vae_dtype)?;
        net.graph.output(latent);
        Ok(net.graph)
    }

    pub(super) fn latent_extent(&self, size: PixelSize) -> [usize; 2] {
        let downscale = self.model().vae.config.downscale();
        [size.height / downscale, size.width / downscale]
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

//! A model on a device: programs compiled once for each size, weights uploaded once for all of them.

use std::collections::HashMap;
use std::rc::Rc;

use kernels::{DType, HostTensor, TensorType};
use loaders::Encoding;

use super::denoiser::{DenoiserShape, build_denoiser};
use super::model::{Model, Precision};
use super::picture::{Image, PixelSize};
use super::request::Request;
use super::run::{NoiseSource, Run};
use super::stats::Stats;
use super::terms::Combiner;
use crate::compile::compile;
use crate::device::{DeviceTensor, Gpu, Program};
use crate::error::Error;
use crate::graph::Rate;

/// A model ready to draw.
pub struct Pipeline {
    pub(super) gpu: Gpu,
    pub(super) model: Model,
    dtype: DType,
    text_encoders: HashMap<usize, Rc<Program>>,
    denoisers: HashMap<DenoiserShape, Rc<Program>>,
    decoders: HashMap<[usize; 2], Rc<Program>>,
    encoders: HashMap<[usize; 2], Rc<Program>>,
    pub(super) combiner: Combiner,
}

impl Pipeline {
    /// Puts `model` on `gpu`. Weights are uploaded when a program first needs them.
    pub fn new(gpu: Gpu, model: Model) -> Self {
        let dtype = activation_dtype(&gpu, &model);
        Pipeline {
            gpu,
            model,
            dtype,
            text_encoders: HashMap::new(),
            denoisers: HashMap::new(),
            decoders: HashMap::new(),
            encoders: HashMap::new(),
            combiner: Combiner::new(&[0]),
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How the denoiser's activations are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Compiles what `request` needs and uploads the weights.
    ///
    /// # Errors
    /// [`Error`]: the request makes no sense, a file is broken, the device is too small.
    pub async fn prepare(&mut self, request: &Request) -> Result<(), Error> {
        request.check(self.model.edge_multiple())?;
        let shape = self.denoiser_shape(request);
        self.text_encoder(shape.batch()).await?;
        self.denoiser(shape).await?;
        self.decoder(self.latent_extent(request.size)).await?;
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
        self.combiner = Combiner::new(&[1, height, width, self.model.vae.config.latent_channels]);
        Run::new(self, request, noise).await
    }

    /// The context of prompts: what the denoiser attends to, `[B, S, D]`.
    ///
    /// # Errors
    /// [`Error`] of the files or the device.
    pub async fn encode_prompts(&mut self, prompts: &[&str]) -> Result<DeviceTensor, Error> {
        let tokens = self.model.prompt_tokens();
        let ids: Vec<Vec<u32>> =
            prompts.iter().map(|p| self.model.tokenizer.encode_padded(p, tokens)).collect();
        let embedded = self.model.text.embed(&ids).await?;
        let ty = TensorType::f32([prompts.len(), tokens, self.model.text.config.width]);
        let embedded = self.gpu.upload_new("embeddings", &HostTensor::new(ty, embedded)).await?;
        let program = self.text_encoder(prompts.len()).await?;
        let context = self.gpu.allocate("context", program.plan().outputs[0].1.clone())?;
        program.run(&self.gpu, &ALL, &[embedded], std::slice::from_ref(&context)).await?;
        Ok(context)
    }

    /// The picture of a latent `[1, h, w, C]` in the denoiser's scale.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and those of the device.
    pub async fn decode(&mut self, latent: &DeviceTensor) -> Result<Image, Error> {
        let extent = [latent.ty().shape[1], latent.ty().shape[2]];
        let program = self.decoder(extent).await?;
        let ty = program.plan().outputs[0].1.clone();
        let pixels = self.gpu.allocate("pixels", ty.clone())?;
        program.run(&self.gpu, &ALL, std::slice::from_ref(latent), std::slice::from_ref(&pixels)).await?;
        let values = self.gpu.read(&pixels).await?.into_data();
        check_finite("decoded picture", &values)?;
        Ok(Image::new(PixelSize { width: ty.shape[2], height: ty.shape[1] }, values))
    }

    /// The mean latent of a picture in the denoiser's scale, `[1, h, w, C]`.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn encode(&mut self, image: &Image) -> Result<DeviceTensor, Error> {
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
        let channels = self.model.vae.config.latent_channels;
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
        [self.model.vae.config.latent_channels, height, width]
    }

    /// What runs of `request` take.
    ///
    /// # Errors
    /// As [`Pipeline::prepare`].
    pub async fn stats(&mut self, request: &Request) -> Result<Stats, Error> {
        let shape = self.denoiser_shape(request);
        let denoiser = self.denoiser(shape).await?;
        let decoder = self.decoder(self.latent_extent(request.size)).await?;
        Ok(Stats {
            denoiser_dispatches: denoiser.plan().dispatches(Rate::Step),
            prompt_dispatches: denoiser.plan().dispatches(Rate::Prompt),
            decoder_dispatches: ALL.iter().map(|rate| decoder.plan().dispatches(*rate)).sum(),
            denoiser_flops: denoiser.plan().flops(Rate::Step),
            pipelines: self.gpu.pipelines(),
            peak_bytes: self.gpu.peak_bytes(),
            adapter: self.gpu.adapter_name().to_owned(),
            driver: self.gpu.driver(),
        })
    }

    pub(super) fn denoiser_shape(&self, request: &Request) -> DenoiserShape {
        let [height, width] = self.latent_extent(request.size);
        DenoiserShape {
            height,
            width,
            tokens: self.model.prompt_tokens(),
            guided: request.guidance.is_on(),
            dtype: self.dtype,
        }
    }

    pub(super) async fn denoiser(&mut self, shape: DenoiserShape) -> Result<Rc<Program>, Error> {
        if let Some(program) = self.denoisers.get(&shape) {
            return Ok(program.clone());
        }
        let graph = build_denoiser(&self.model.unet, shape)?;
        let program = Rc::new(compile(&self.gpu, &graph, &self.model.unet.weights).await?);
        self.denoisers.insert(shape, program.clone());
        Ok(program)
    }

    async fn text_encoder(&mut self, batch: usize) -> Result<Rc<Program>, Error> {
        if let Some(program) = self.text_encoders.get(&batch) {
            return Ok(program.clone());
        }
        let text = &self.model.text;
        let (mut net, context) = text.build(batch, self.model.prompt_tokens(), self.dtype)?;
        net.graph.output(context);
        let program = Rc::new(compile(&self.gpu, &net.graph, &text.weights).await?);
        self.text_encoders.insert(batch, program.clone());
        Ok(program)
    }

    async fn decoder(&mut self, [height, width]: [usize; 2]) -> Result<Rc<Program>, Error> {
        if let Some(program) = self.decoders.get(&[height, width]) {
            return Ok(program.clone());
        }
        let vae = &self.model.vae;
        let latent = TensorType::f32([1, height, width, vae.config.latent_channels]);
        let (mut net, rgb) = vae.build_decoder(latent, self.vae_dtype())?;
        net.graph.output(rgb);
        let program = Rc::new(compile(&self.gpu, &net.graph, &vae.weights).await?);
        self.decoders.insert([height, width], program.clone());
        Ok(program)
    }

    async fn encoder(&mut self, size: PixelSize) -> Result<Rc<Program>, Error> {
        let key = [size.height, size.width];
        if let Some(program) = self.encoders.get(&key) {
            return Ok(program.clone());
        }
        let vae = &self.model.vae;
        let pixels = TensorType::f32([1, size.height, size.width, 3]);
        let (mut net, latent) = vae.build_encoder(pixels, self.vae_dtype())?;
        net.graph.output(latent);
        let program = Rc::new(compile(&self.gpu, &net.graph, &vae.weights).await?);
        self.encoders.insert(key, program.clone());
        Ok(program)
    }

    fn vae_dtype(&self) -> DType {
        if self.model.vae.config.force_upcast { DType::F32 } else { self.dtype }
    }

    fn latent_extent(&self, size: PixelSize) -> [usize; 2] {
        let downscale = self.model.vae.config.downscale();
        [size.height / downscale, size.width / downscale]
    }
}

/// Every rate: a program whose inputs are all new.
pub(super) const ALL: [Rate; 3] = [Rate::Load, Rate::Prompt, Rate::Step];

fn activation_dtype(gpu: &Gpu, model: &Model) -> DType {
    let encodings = model.unet.weights.checkpoint().encodings();
    let most = encodings.iter().max_by_key(|total| total.bytes).map(|total| total.encoding);
    match model.precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Auto if gpu.caps().software || most == Some(Encoding::F32) => DType::F32,
        Precision::Auto => DType::F16,
    }
}

pub(super) fn check_finite(stage: &str, values: &[f32]) -> Result<(), Error> {
    let count = values.iter().filter(|v| !v.is_finite()).count();
    if count == 0 {
        return Ok(());
    }
    Err(Error::NotFinite { stage: stage.to_owned(), count, total: values.len() })
}

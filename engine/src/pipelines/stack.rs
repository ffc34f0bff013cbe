//! A model's text encoders and its denoiser on a device.

use std::collections::HashMap;
use std::rc::Rc;

use kernels::{DType, HostTensor, TensorType};
use loaders::Encoding;

use super::conditioning::{Conditioning, Encoded, picked, side_by_side};
use super::denoiser::{DenoiserShape, build_denoiser};
use super::model::{Model, Precision};
use super::numbers::blame;
use super::pipeline::{ALL, check_finite};
use super::request::Request;
use crate::compile::compile;
use crate::device::{DeviceTensor, Gpu, Program};
use crate::error::Error;
use crate::graph::Graph;

/// Bytes of text encoders that may stand idle beside the denoiser. SD 1.x's is smaller, SDXL's are larger.
const RESIDENT_TEXT_BYTES: u64 = 512 << 20;

/// A model at work.
pub(super) struct Stack {
    pub(super) model: Model,
    pub(super) dtype: DType,
    denoisers: HashMap<DenoiserShape, Rc<Program>>,
    /// By the encoder's place and the number of prompts.
    encoders: HashMap<[usize; 2], Rc<Program>>,
    /// The prompts that were encoded last, and what came of them.
    encoded: Option<(Prompts, Encoded)>,
    /// Text encoders with more bytes than this leave the device when they have encoded a prompt.
    resident_text_bytes: u64,
    /// Whether they leave it in any case: memory is short.
    always_releases_text: bool,
}

/// What text encoders read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prompts {
    /// In the order of a batch.
    texts: Vec<String>,
    /// Whether zeros take the first one's place.
    zeroes_first: bool,
}

impl Stack {
    pub(super) fn new(gpu: &Gpu, model: Model) -> Self {
        let dtype = activation_dtype(gpu, &model);
        Stack {
            model,
            dtype,
            denoisers: HashMap::new(),
            encoders: HashMap::new(),
            encoded: None,
            resident_text_bytes: RESIDENT_TEXT_BYTES,
            always_releases_text: false,
        }
    }

    /// Lets text encoders of up to `bytes` stay on the device.
    pub(super) fn keep_text(&mut self, bytes: u64) {
        self.resident_text_bytes = bytes;
    }

    /// Has text encoders leave the device whatever their size, at once and from here on, or not.
    pub(super) fn release_text(&mut self, always: bool) {
        self.always_releases_text = always;
        if always {
            self.encoders.clear();
            self.model.text.iter().for_each(|text| text.network.weights.release());
        }
    }

    /// Whether text encoders are small enough to stay on the device.
    pub(super) fn keeps_text(&self) -> bool {
        self.model.text_bytes() <= self.resident_text_bytes
    }

    /// What `request` needs a denoiser for.
    pub(super) fn denoiser_shape(&self, request: &Request) -> DenoiserShape {
        let downscale = self.model.edge_multiple();
        let guided = request.guidance.is_on();
        DenoiserShape {
            height: request.size.height / downscale,
            width: request.size.width / downscale,
            tokens: self.model.prompt_tokens(),
            guided,
            rescaled: guided && request.guidance_rescale > 0.0,
            dtype: self.dtype,
        }
    }

    pub(super) async fn denoiser(&mut self, gpu: &Gpu, shape: DenoiserShape) -> Result<Rc<Program>, Error> {
        if let Some(program) = self.denoisers.get(&shape) {
            return Ok(program.clone());
        }
        let graph = build_denoiser(&self.model.unet, shape)?;
        let program = Rc::new(compile(gpu, &graph, &self.model.unet.weights).await?);
        self.denoisers.insert(shape, program.clone());
        Ok(program)
    }

    /// Takes the denoiser off the device.
    pub(super) fn release_denoiser(&mut self) {
        self.denoisers.clear();
        self.model.unet.weights.release();
    }

    /// What the denoiser is told for `request`; prompts are encoded if they are not those of the last call.
    ///
    /// # Errors
    /// [`Error`] of the files or the device; [`Error::NotFinite`].
    pub(super) async fn condition(&mut self, gpu: &Gpu, request: &Request) -> Result<Conditioning, Error> {
        let guided = request.guidance.is_on();
        let prompts = Prompts {
            zeroes_first: guided && request.negative_prompt.is_none() && self.model.zeros_for_no_prompt,
            texts: texts(request),
        };
        let encoded = match &self.encoded {
            Some((known, encoded)) if *known == prompts => encoded.clone(),
            _ => self.encode(gpu, prompts).await?,
        };
        let rows: &[bool] = if guided { &[true, false] } else { &[false] };
        let numbers = self.model.added.map(|added| {
            let values: Vec<f32> = rows
                .iter()
                .flat_map(|is_negative| added.of(request, *is_negative))
                .map(|number| number as f32)
                .collect();
            HostTensor::f32([rows.len(), added.count()], values)
        });
        Ok(Conditioning { context: encoded.context, pooled: encoded.pooled, numbers })
    }

    /// The text encoder at `place` before it encodes `prompts`.
    ///
    /// # Errors
    /// [`Error`] of the files or the device.
    pub(super) async fn text_work(
        &mut self,
        gpu: &Gpu,
        place: usize,
        prompts: &[String],
    ) -> Result<TextWork, Error> {
        let text = &self.model.text[place];
        let network = &text.network;
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| text.tokens(prompt)).collect();
        let (batch, tokens) = (ids.len(), text.prompt_tokens());
        let embedded = network.embed(&ids).await?;
        let ty = TensorType::f32([batch, tokens, network.config.width]);
        let embedded = gpu.upload_new("embeddings", &HostTensor::new(ty, embedded)).await?;
        let program = match self.encoders.get(&[place, batch]) {
            Some(program) => program.clone(),
            None => {
                let graph = self.text_graph(place, batch)?;
                let program = Rc::new(compile(gpu, &graph, &network.weights).await?);
                self.encoders.insert([place, batch], program.clone());
                program
            }
        };
        let mut outputs = Vec::new();
        for (_, ty) in &program.plan().outputs {
            outputs.push(gpu.allocate("text encoder's result", ty.clone())?);
        }
        Ok(TextWork { ids, program, embedded, outputs })
    }

    /// The graph of the text encoder at `place` for so many prompts.
    pub(super) fn text_graph(&self, place: usize, batch: usize) -> Result<Graph, Error> {
        let text = &self.model.text[place];
        let (mut net, results) = text.network.build(batch, text.prompt_tokens(), self.dtype, text.outputs)?;
        results.iter().for_each(|result| net.graph.output(*result));
        Ok(net.graph)
    }

    /// Takes the text encoder at `place` off the device if all of them are too large to stay.
    pub(super) fn release_large_text(&mut self, place: usize) {
        if self.always_releases_text || !self.keeps_text() {
            self.encoders.clear();
            self.model.text[place].network.weights.release();
        }
    }

    async fn encode(&mut self, gpu: &Gpu, prompts: Prompts) -> Result<Encoded, Error> {
        let encoded = self.encode_once(gpu, &prompts).await?;
        let mut checked = check_finite("context of the prompt", encoded.context.data());
        if let Some(pooled) = &encoded.pooled {
            checked = checked.and_then(|()| check_finite("pooled prompt", pooled.data()));
        }
        if let Err(error) = checked {
            return Err(blame(gpu, error, self.encode_once(gpu, &prompts)).await?);
        }
        self.encoded = Some((prompts, encoded.clone()));
        Ok(encoded)
    }

    async fn encode_once(&mut self, gpu: &Gpu, prompts: &Prompts) -> Result<Encoded, Error> {
        let (mut contexts, mut pooled) = (Vec::new(), None);
        for place in 0..self.model.text.len() {
            let TextWork { ids, program, embedded, outputs } =
                self.text_work(gpu, place, &prompts.texts).await?;
            gpu.trace_stage(|| {
                if place == 0 { "text_encoder".to_owned() } else { format!("text_encoder_{}", place + 1) }
            });
            program.run(gpu, &ALL, &[embedded], &outputs).await?;
            let mut values = Vec::new();
            for output in &outputs {
                values.push(gpu.read(output).await?);
            }
            let text = &self.model.text[place];
            if text.outputs.pooled
                && let Some(projected) = values.pop()
            {
                let positions = ids.iter().map(|ids| text.network.config.pooled_position(ids));
                pooled = Some(picked(&projected, &positions.collect::<Vec<_>>()));
            }
            contexts.append(&mut values);
            self.release_large_text(place);
        }
        let encoded = Encoded { context: side_by_side(&contexts), pooled };
        let encoded = if prompts.zeroes_first { encoded.without_negative() } else { encoded };
        Ok(encoded)
    }
}

/// What is encoded for `request`, in the order of a batch.
pub(super) fn texts(request: &Request) -> Vec<String> {
    let negative = || request.negative_prompt.clone().unwrap_or_default();
    let negative = request.guidance.is_on().then(negative);
    negative.into_iter().chain([request.prompt.clone()]).collect()
}

/// A text encoder with prompts before it.
pub(super) struct TextWork {
    /// The tokens of each prompt.
    ids: Vec<Vec<u32>>,
    pub(super) program: Rc<Program>,
    pub(super) embedded: DeviceTensor,
    pub(super) outputs: Vec<DeviceTensor>,
}

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

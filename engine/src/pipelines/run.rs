//! One picture in the making: the caller pulls it step by step.

use std::rc::Rc;

use kernels::{HostTensor, TensorType};

use super::denoiser::DenoiserShape;
use super::picture::{Image, PixelSize};
use super::pipeline::{Pipeline, check_finite};
use super::request::Request;
use super::terms::coefficients;
use crate::device::{DeviceTensor, Program};
use crate::error::Error;
use crate::graph::Rate;
use crate::noise::{Generator, RngKind, Seed};
use crate::samplers::{self, Combination, Operand, Sigma, Step, Timestep, Trajectory};

/// Where a run's noise comes from.
pub enum NoiseSource {
    /// Drawn as it is needed.
    Generator(Box<Generator>),
    /// Given, in PyTorch's layout `[C, h, w]`.
    Given {
        /// The first noise, of unit variance.
        noise: Vec<f32>,
        /// Noise of each step that draws some, in order.
        steps: std::vec::IntoIter<Vec<f32>>,
    },
    /// The first noise given, the rest drawn.
    GivenFirst {
        /// The first noise, of unit variance; taken at the start.
        noise: Vec<f32>,
        /// What the steps draw from.
        generator: Box<Generator>,
    },
}

impl NoiseSource {
    /// Noise drawn from a seed.
    pub fn from_seed(seed: Seed, rng: RngKind) -> Self {
        NoiseSource::Generator(Box::new(Generator::new(rng, seed)))
    }

    /// Recorded noise: the first, and that of each step.
    pub fn recorded(noise: Vec<f32>, steps: Vec<Vec<f32>>) -> Self {
        NoiseSource::Given { noise, steps: steps.into_iter() }
    }

    fn first(&mut self, n: usize) -> Result<Vec<f32>, Error> {
        let noise = match self {
            NoiseSource::Generator(generator) => generator.normal(n),
            NoiseSource::Given { noise, .. } | NoiseSource::GivenFirst { noise, .. } => std::mem::take(noise),
        };
        checked(noise, n)
    }

    fn next(&mut self, n: usize) -> Result<Vec<f32>, Error> {
        let noise = match self {
            NoiseSource::Generator(generator) | NoiseSource::GivenFirst { generator, .. } => {
                generator.normal(n)
            }
            NoiseSource::Given { steps, .. } => steps.next().unwrap_or_default(),
        };
        checked(noise, n)
    }
}

fn checked(noise: Vec<f32>, n: usize) -> Result<Vec<f32>, Error> {
    if noise.len() == n {
        return Ok(noise);
    }
    Err(Error::usage("noise", format!("{n} values"), noise.len()))
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Number of the step, from 0.
    pub step: usize,
    /// Evaluations of the model in the whole run.
    pub total: usize,
    /// Noise level that the step started from.
    pub sigma: Sigma,
    /// What the model was told.
    pub timestep: Timestep,
}

/// A picture between its prompt and its pixels.
pub struct Run<'p> {
    pipeline: &'p mut Pipeline,
    program: Rc<Program>,
    shape: DenoiserShape,
    trajectory: Trajectory,
    noise: NoiseSource,
    size: PixelSize,
    step: usize,
    x: DeviceTensor,
    slots: Vec<Option<DeviceTensor>>,
    context: DeviceTensor,
    guidance: Option<DeviceTensor>,
    encoded: Option<DeviceTensor>,
    evaluation: Evaluation,
}

/// Tensors that every evaluation of the denoiser writes anew.
struct Evaluation {
    input_scale: DeviceTensor,
    time: DeviceTensor,
    output: DeviceTensor,
}

impl<'p> Run<'p> {
    pub(super) async fn new(
        pipeline: &'p mut Pipeline,
        request: &Request,
        mut noise: NoiseSource,
    ) -> Result<Self, Error> {
        let trajectory = pipeline.model.check(request)?.trajectory;
        let shape = pipeline.denoiser_shape(request);
        let program = pipeline.denoiser(shape).await?;
        let prompts: &[&str] = match shape.guided {
            true => &[&request.negative_prompt, &request.prompt],
            false => &[&request.prompt],
        };
        let context = pipeline.encode_prompts(prompts).await?;
        check_finite("context of the prompt", pipeline.gpu.read(&context).await?.data())?;
        let guidance = match shape.guided {
            true => {
                let scale = request.guidance.0;
                Some(pipeline.gpu.upload_new("guidance", &coefficients(&[1.0 - scale, scale])).await?)
            }
            false => None,
        };
        let encoded = match &request.init {
            Some(init) => Some(pipeline.encode(&init.image).await?),
            None => None,
        };
        let n = pipeline.latent_shape(request.size).iter().product();
        let first = pipeline.upload_latent(&noise.first(n)?, request.size).await?;
        let mut terms = vec![(trajectory.start.noise, first)];
        if let Some(encoded) = &encoded {
            terms.push((trajectory.start.latent, encoded.clone()));
        }
        let x = pipeline.combiner.sum(&pipeline.gpu, &terms).await?;
        let features =
            TensorType::new(shape.dtype, [shape.batch(), pipeline.model.unet.config.time_features()]);
        let evaluation = Evaluation {
            input_scale: pipeline.gpu.allocate("input scale", coefficients(&[]).ty().clone())?,
            time: pipeline.gpu.allocate("time", features)?,
            output: pipeline.gpu.allocate("prediction", x.ty().clone())?,
        };
        Ok(Run {
            evaluation,
            slots: vec![None; trajectory.n_slots],
            size: request.size,
            step: 0,
            pipeline,
            program,
            shape,
            trajectory,
            noise,
            x,
            context,
            guidance,
            encoded,
        })
    }

    /// Evaluations of the model in the whole run.
    pub fn total(&self) -> usize {
        self.trajectory.steps.len()
    }

    /// The schedule that is followed.
    pub fn schedule(&self) -> samplers::Schedule {
        self.trajectory.schedule
    }

    /// Queues the next step; `None` after the last.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn next(&mut self) -> Result<Option<Progress>, Error> {
        let Some(step) = self.trajectory.steps.get(self.step).cloned() else { return Ok(None) };
        let output = self.evaluate(&step).await?;
        let noise = match step.draws_noise {
            true => {
                let n = self.pipeline.latent_shape(self.size).iter().product();
                let noise = self.noise.next(n)?;
                Some(self.pipeline.upload_latent(&noise, self.size).await?)
            }
            false => None,
        };
        for store in &step.store {
            let stored = self.combine(&store.value, &output, noise.as_ref()).await?;
            self.slots[store.slot] = Some(stored);
        }
        self.x = self.combine(&step.next, &output, noise.as_ref()).await?;
        let progress =
            Progress { step: self.step, total: self.total(), sigma: step.sigma, timestep: step.timestep };
        self.step += 1;
        Ok(Some(progress))
    }

    /// The latent as it is now, `[C, h, w]`; waits for all steps so far.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn latent(&self) -> Result<Vec<f32>, Error> {
        self.pipeline.read_latent(&self.x).await
    }

    /// The context that the denoiser attends to: batch, tokens, features, and the values.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn context(&self) -> Result<HostTensor, Error> {
        Ok(self.pipeline.gpu.read(&self.context).await?)
    }

    /// The initial picture's latent, `[C, h, w]`, if there is one.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn encoded(&self) -> Result<Option<Vec<f32>>, Error> {
        match &self.encoded {
            Some(encoded) => Ok(Some(self.pipeline.read_latent(encoded).await?)),
            None => Ok(None),
        }
    }

    /// The picture of the latent as it is now.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and those of the device.
    pub async fn decode(&mut self) -> Result<Image, Error> {
        check_finite("latent", &self.latent().await?)?;
        let x = self.x.clone();
        self.pipeline.decode(&x).await
    }

    async fn evaluate(&self, step: &Step) -> Result<DeviceTensor, Error> {
        let gpu = &self.pipeline.gpu;
        let unet = &self.pipeline.model.unet.config;
        let features = kernels::host::time_embedding(
            step.timestep.0,
            unet.time_features(),
            unet.flip_sin_to_cos,
            unet.freq_shift,
        );
        let Evaluation { input_scale, time, output } = &self.evaluation;
        gpu.upload(input_scale, &coefficients(&[step.input_scale])).await?;
        gpu.upload(time, &HostTensor::new(time.ty().clone(), features.repeat(self.shape.batch()))).await?;
        let mut inputs = vec![self.x.clone(), input_scale.clone()];
        inputs.extend(self.guidance.clone());
        inputs.extend([self.context.clone(), time.clone()]);
        let first: &[Rate] = &[Rate::Load, Rate::Prompt, Rate::Step];
        let rates = if self.step == 0 { first } else { &[Rate::Step] };
        self.program.run(gpu, rates, &inputs, std::slice::from_ref(output)).await?;
        Ok(output.clone())
    }

    async fn combine(
        &mut self,
        combination: &Combination,
        output: &DeviceTensor,
        noise: Option<&DeviceTensor>,
    ) -> Result<DeviceTensor, Error> {
        let terms: Vec<(f64, DeviceTensor)> = combination
            .terms
            .iter()
            .map(|term| {
                let tensor = match term.operand {
                    Operand::X => &self.x,
                    Operand::Output => output,
                    Operand::Slot(slot) => self.slots[slot].as_ref().expect("stored before it is read"),
                    Operand::Noise => noise.expect("drawn by the step that reads it"),
                };
                (term.coefficient, tensor.clone())
            })
            .collect();
        let Pipeline { gpu, combiner, .. } = &mut *self.pipeline;
        combiner.sum_clamped(gpu, &terms, combination.clamp).await
    }
}

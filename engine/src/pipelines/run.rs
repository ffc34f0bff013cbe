//! One picture in the making: the caller pulls it step by step.

use std::rc::Rc;

use kernels::{HostTensor, TensorType};

use super::conditioning::Conditioning;
use super::numbers::{Counter, blame};
use super::picture::Image;
use super::pipeline::{ALL, Pipeline, check_finite};
use super::request::Request;
use super::stack::Stack;
use super::terms::coefficients;
use crate::device::{DeviceTensor, Gpu, Program, Readback, Tally};
use crate::error::Error;
use crate::graph::Rate;
use crate::models::UNetConfig;
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
    /// Evaluations of denoisers in the whole run.
    pub total: usize,
    /// Noise level that the step started from.
    pub sigma: Sigma,
    /// What the denoiser was told.
    pub timestep: Timestep,
    /// Whether it was the refiner's.
    pub is_refined: bool,
}

/// A picture between its prompt and its pixels.
pub struct Run<'p> {
    pipeline: &'p mut Pipeline,
    request: Request,
    noise: NoiseSource,
    step: usize,
    total: usize,
    x: DeviceTensor,
    encoded: Option<DeviceTensor>,
    stage: Stage,
    /// The refiner's steps, until it takes over.
    refinement: Option<Trajectory>,
    /// The last step, until it is known that everything in it is finite.
    unchecked: Option<Unchecked>,
}

/// A step whose counts of values that are not finite are still on their way.
struct Unchecked {
    number: usize,
    step: Step,
    /// The latent before it.
    before: DeviceTensor,
    /// Those in the latent after it.
    in_latent: Readback,
    /// Those that the denoiser's norms have read, the first of each of its blocks among them.
    in_blocks: Option<Readback>,
}

/// A denoiser at work, and the steps that it does.
struct Stage {
    is_refiner: bool,
    unet: UNetConfig,
    /// `None` once it left the device for the decoder.
    program: Option<Rc<Program>>,
    trajectory: Trajectory,
    /// Steps done so far.
    done: usize,
    slots: Vec<Option<DeviceTensor>>,
    conditioning: Conditioning,
    /// Inputs that stay: what they are to [`super::build_denoiser`] is said there.
    guidance: Vec<DeviceTensor>,
    context: DeviceTensor,
    added: Option<DeviceTensor>,
    evaluation: Evaluation,
}

/// Tensors that every evaluation of the denoiser writes anew.
struct Evaluation {
    input_scale: DeviceTensor,
    time: DeviceTensor,
    output: DeviceTensor,
}

impl Stage {
    async fn new(
        gpu: &Gpu,
        stack: &Stack,
        program: Rc<Program>,
        conditioning: Conditioning,
        trajectory: Trajectory,
        request: &Request,
    ) -> Result<Self, Error> {
        let shape = stack.denoiser_shape(request);
        let unet = &stack.model.unet;
        let context = HostTensor::new(shape.context(unet), conditioning.context.data().to_vec());
        let mut guidance = Vec::new();
        if shape.guided {
            let scale = request.guidance.0;
            guidance.push(gpu.upload_new("guidance", &coefficients(&[1.0 - scale, scale])).await?);
        }
        if shape.rescaled {
            guidance.push(gpu.upload_new("rescale", &coefficients(&[request.guidance_rescale])).await?);
        }
        let added = match (&conditioning.pooled, &conditioning.numbers) {
            (Some(pooled), Some(numbers)) => unet.config.added_input(pooled, numbers, shape.dtype),
            _ => None,
        };
        let added = match added {
            Some(added) => Some(gpu.upload_new("added", &added).await?),
            None => None,
        };
        program.clear_tallies(gpu);
        let time = unet.config.time_input(0.0, shape.batch(), shape.dtype);
        let latent = TensorType::f32([1, shape.height, shape.width, unet.config.in_channels]);
        Ok(Stage {
            is_refiner: false,
            unet: unet.config.clone(),
            program: Some(program),
            done: 0,
            slots: vec![None; trajectory.n_slots],
            trajectory,
            conditioning,
            guidance,
            context: gpu.upload_new("context", &context).await?,
            added,
            evaluation: Evaluation {
                input_scale: gpu.allocate("input scale", coefficients(&[]).ty().clone())?,
                time: gpu.allocate("time", time.ty().clone())?,
                output: gpu.allocate("prediction", latent)?,
            },
        })
    }

    /// The prediction for the latent `x` in `step`.
    async fn evaluate(
        &self,
        gpu: &Gpu,
        x: &DeviceTensor,
        step: &Step,
        rates: &[Rate],
    ) -> Result<DeviceTensor, Error> {
        let inputs = self.inputs(gpu, x, step).await?;
        let output = &self.evaluation.output;
        self.program().run(gpu, rates, &inputs, std::slice::from_ref(output)).await?;
        Ok(output.clone())
    }

    fn program(&self) -> &Program {
        self.program.as_ref().expect("nothing is decoded before the last step where it has to leave")
    }

    /// The program's inputs for the latent `x` in `step`.
    async fn inputs(&self, gpu: &Gpu, x: &DeviceTensor, step: &Step) -> Result<Vec<DeviceTensor>, Error> {
        let Evaluation { input_scale, time, .. } = &self.evaluation;
        gpu.upload(input_scale, &coefficients(&[step.input_scale])).await?;
        let (batch, dtype) = (time.ty().shape[0], time.ty().dtype);
        gpu.upload(time, &self.unet.time_input(step.timestep.0, batch, dtype)).await?;
        let mut inputs = vec![x.clone(), input_scale.clone()];
        inputs.extend(self.guidance.iter().cloned());
        inputs.extend([self.context.clone(), time.clone()]);
        inputs.extend(self.added.clone());
        Ok(inputs)
    }
}

impl<'p> Run<'p> {
    pub(super) async fn new(
        pipeline: &'p mut Pipeline,
        request: &Request,
        mut noise: NoiseSource,
        encoded: Option<DeviceTensor>,
    ) -> Result<Self, Error> {
        let refiner = pipeline.refiner.as_ref().map(|stack| &stack.model);
        let planned = pipeline.base.model.check_with(refiner, request)?;
        let conditioning = pipeline.condition(request).await?;
        let program = pipeline.base_denoiser(request).await?;
        let n = pipeline.latent_shape(request.size).iter().product();
        let first = pipeline.upload_latent(&noise.first(n)?, request.size).await?;
        let start = planned.trajectory.start;
        let mut terms = vec![(start.noise, first)];
        if let Some(encoded) = &encoded {
            terms.push((start.latent, encoded.clone()));
        }
        let x = pipeline.combiner.sum(&pipeline.gpu, &terms).await?;
        Ok(Run {
            total: planned.steps().count(),
            step: 0,
            stage: Stage::new(
                &pipeline.gpu,
                &pipeline.base,
                program,
                conditioning,
                planned.trajectory,
                request,
            )
            .await?,
            refinement: planned.refinement,
            unchecked: None,
            request: request.clone(),
            pipeline,
            noise,
            x,
            encoded,
        })
    }

    /// Evaluations of denoisers in the whole run.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The schedule that is followed.
    pub fn schedule(&self) -> samplers::Schedule {
        self.stage.trajectory.schedule
    }

    /// Queues the next step; `None` after the last. An error ends the run: what it holds may be of another step then.
    ///
    /// # Errors
    /// Those of the device, and of the refiner's files.
    pub async fn next(&mut self) -> Result<Option<Progress>, Error> {
        if self.stage.done == self.stage.trajectory.steps.len() {
            self.check_last().await?;
            let Some(refinement) = self.refinement.take() else { return Ok(None) };
            self.hand_over(refinement).await?;
        }
        let number = self.step;
        self.pipeline.gpu.trace_stage(|| format!("step {number}"));
        let step = self.stage.trajectory.steps[self.stage.done].clone();
        let rates: &[Rate] = if self.stage.done == 0 { &ALL } else { &[Rate::Step] };
        let output = self.stage.evaluate(&self.pipeline.gpu, &self.x, &step, rates).await?;
        let noise = match step.draws_noise {
            true => {
                let n = self.pipeline.latent_shape(self.request.size).iter().product();
                let noise = self.noise.next(n)?;
                Some(self.pipeline.upload_latent(&noise, self.request.size).await?)
            }
            false => None,
        };
        for store in &step.store {
            let stored = self.combine(&store.value, &output, noise.as_ref()).await?;
            self.stage.slots[store.slot] = Some(stored);
        }
        let before = self.x.clone();
        self.x = self.combine(&step.next, &output, noise.as_ref()).await?;
        let in_latent = self.pipeline.count_non_finite(&self.x).await?;
        let in_blocks = self.stage.program().begin_tallies(&self.pipeline.gpu)?;
        // The device is at work on this step while the one before is looked at, and the next recorded.
        self.check_last().await?;
        self.unchecked = Some(Unchecked { number, step: step.clone(), before, in_latent, in_blocks });
        let progress = Progress {
            step: self.step,
            total: self.total,
            sigma: step.sigma,
            timestep: step.timestep,
            is_refined: self.stage.is_refiner,
        };
        self.step += 1;
        self.stage.done += 1;
        Ok(Some(progress))
    }

    /// Whether the last step whose counts were queued was finite: at the beginning of each block, and in the latent after it.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the operation that first gave something else.
    async fn check_last(&mut self) -> Result<(), Error> {
        let Some(Unchecked { number, step, before, in_latent, in_blocks }) = self.unchecked.take() else {
            return Ok(());
        };
        let gpu = &self.pipeline.gpu;
        let tallies = match in_blocks {
            Some(readback) => self.stage.program().finish_tallies(gpu, readback).await?,
            None => Vec::new(),
        };
        let in_latent = Counter::counted(gpu, in_latent).await?;
        let error = match tallies.into_iter().next() {
            Some(Tally { name, op, count, total }) => {
                let stage = format!("step {number}, operand of {op} {name}");
                Error::NotFinite { stage, count, total }
            }
            None if in_latent > 0 => {
                let (stage, total) = (format!("latent after step {number}"), before.ty().shape.elements());
                Error::NotFinite { stage, count: in_latent, total }
            }
            None => return Ok(()),
        };
        let again = async {
            gpu.trace_stage(|| format!("step {number}"));
            self.stage.evaluate(gpu, &before, &step, &ALL).await
        };
        Err(blame(gpu, error, again).await?)
    }

    /// Puts the refiner in the base model's place.
    async fn hand_over(&mut self, trajectory: Trajectory) -> Result<(), Error> {
        let Pipeline { gpu, base, refiner, .. } = &mut *self.pipeline;
        let Some(stack) = refiner else { return Ok(()) };
        base.release_denoiser();
        let conditioning = stack.condition(gpu, &self.request).await?;
        let program = stack.denoiser(gpu, stack.denoiser_shape(&self.request)).await?;
        let stage = Stage::new(gpu, stack, program, conditioning, trajectory, &self.request).await?;
        self.stage = Stage { is_refiner: true, ..stage };
        Ok(())
    }

    /// The denoiser with the inputs of the first step, and its output.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) async fn first_evaluation(
        &self,
    ) -> Result<(Rc<Program>, Vec<DeviceTensor>, DeviceTensor), Error> {
        let step = &self.stage.trajectory.steps[0];
        let inputs = self.stage.inputs(&self.pipeline.gpu, &self.x, step).await?;
        let program = self.stage.program.clone().expect("nothing was decoded yet");
        Ok((program, inputs, self.stage.evaluation.output.clone()))
    }

    /// The latent on the device as it is now.
    pub(super) fn x(&self) -> &DeviceTensor {
        &self.x
    }

    /// The latent as it is now, `[C, h, w]`; waits for all steps so far.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn latent(&self) -> Result<Vec<f32>, Error> {
        self.pipeline.read_latent(&self.x).await
    }

    /// What the denoiser at work is told.
    pub fn conditioning(&self) -> &Conditioning {
        &self.stage.conditioning
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
        self.check_last().await?;
        check_finite("latent", &self.latent().await?)?;
        let Run { pipeline, stage, refinement, x, .. } = self;
        let is_done = stage.done == stage.trajectory.steps.len() && refinement.is_none();
        let let_go = || {
            if is_done {
                stage.program = None;
            }
        };
        pipeline.decode_after(x, let_go).await
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
                    Operand::Slot(slot) => self.stage.slots[slot].as_ref().expect("stored before it is read"),
                    Operand::Noise => noise.expect("drawn by the step that reads it"),
                };
                (term.coefficient, tensor.clone())
            })
            .collect();
        let Pipeline { gpu, combiner, .. } = &mut *self.pipeline;
        combiner.sum_clamped(gpu, &terms, combination.clamp).await
    }
}

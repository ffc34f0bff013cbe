//! A denoising run as plain values: which noise levels the model is evaluated at, and which
//! linear combinations of tensors lead from one to the next.
//!
//! Every coefficient is known before the first evaluation, so a method is a pure function from
//! a configuration to a [`Trajectory`], and a device needs one kernel to follow any of them.

use super::{Config, SamplerError, Schedule};

/// Standard deviation of the noise for a signal of scale 1, k-diffusion's sigma.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Sigma(pub f64);

/// Position in the training schedule, from 0 (clean) to `num_train_timesteps - 1`; fractional
/// between two of them.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Timestep(pub f64);

/// A tensor that a [`Combination`] reads. All have the latent's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// The latent, in the method's own scale.
    X,
    /// What the model returned in this step, after guidance.
    Output,
    /// A tensor stored by this step or by an earlier one.
    Slot(usize),
    /// A fresh standard normal tensor, one per step.
    Noise,
}

/// `coefficient * operand`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Finite and not zero.
    pub coefficient: f64,
    /// The tensor it multiplies.
    pub operand: Operand,
}

/// `clamp(sum(coefficient * operand))`
#[derive(Debug, Clone, PartialEq)]
pub struct Combination {
    /// At most [`Combination::MAX_TERMS`], each operand once.
    pub terms: Vec<Term>,
    /// Each element of the sum is clamped to +- this.
    pub clamp: Option<f64>,
}

impl Combination {
    /// The longest sum that the kernel takes.
    pub const MAX_TERMS: usize = 8;

    /// The sum of `terms`, with equal operands merged and zeros left out.
    pub(super) fn new<const N: usize>(terms: [(f64, Operand); N]) -> Self {
        let mut merged: Vec<Term> = Vec::with_capacity(N);
        for (coefficient, operand) in terms {
            match merged.iter_mut().find(|term| term.operand == operand) {
                Some(term) => term.coefficient += coefficient,
                None => merged.push(Term { coefficient, operand }),
            }
        }
        merged.retain(|term| term.coefficient != 0.0);
        Self { terms: merged, clamp: None }
    }

    /// The sum of both, which share no operand.
    pub(super) fn plus(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        self
    }

    pub(super) fn clamped(self, limit: Option<f64>) -> Self {
        Self { clamp: limit, ..self }
    }

    fn is_finite(&self) -> bool {
        self.terms.iter().all(|term| term.coefficient.is_finite())
    }
}

/// A tensor to keep for later.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// Where to, below [`Trajectory::n_slots`]; what was there is replaced.
    pub slot: usize,
    /// What, in terms of the latent before this step changes it.
    pub value: Combination,
}

/// One evaluation of the model and what follows from it.
///
/// In order: the model sees `input_scale * X` at `timestep`; every element of `store` is
/// computed and kept; `X` becomes `next`.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What the model's time embedding sees.
    pub timestep: Timestep,
    /// The noise level of `X`, infinite where nothing of the signal is left.
    pub sigma: Sigma,
    /// Factor on `X` at the model's entrance.
    pub input_scale: f64,
    /// Whether a noise tensor is drawn in this step, be it used or not.
    pub draws_noise: bool,
    /// Tensors for later steps, and for `next`, which sees them.
    pub store: Vec<Store>,
    /// The latent after this step.
    pub next: Combination,
}

/// The first latent: `latent * encoded image + noise * standard normal`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Start {
    /// Factor on the encoded initial image; 0 without one.
    pub latent: f64,
    /// Factor on the noise; diffusers' `init_noise_sigma` without an initial image.
    pub noise: f64,
}

/// Everything a run computes between the noise and the latent that is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// The schedule that was used, be it asked for or configured.
    pub schedule: Schedule,
    /// How the latent begins.
    pub start: Start,
    /// At least one.
    pub steps: Vec<Step>,
    /// How many tensors are kept at most.
    pub n_slots: usize,
}

impl Trajectory {
    /// Refuses what no device could compute.
    pub(super) fn checked(self, method: &'static str, config: &Config) -> Result<Self, SamplerError> {
        let is_sound = |step: &Step| {
            let start = self.start.latent.is_finite() && self.start.noise.is_finite();
            let stored = step.store.iter().all(|store| store.value.is_finite());
            start && stored && step.next.is_finite() && step.input_scale.is_finite()
        };
        match self.steps.iter().position(|step| !is_sound(step)) {
            Some(step) => Err(SamplerError::Singular { file: config.file.to_owned(), method, step }),
            None => Ok(self),
        }
    }
}

//! What the Euler methods share: a latent `x0 + sigma * noise`, scaled down for the model.

use super::{Config, Operand, Prediction, Range, Request, SamplerError, Sigma, Spacing, Start, Timestep};

/// The noise levels of a run, of which image-to-image does the tail.
#[derive(Debug)]
pub(super) struct Levels {
    /// One for each step.
    pub(super) timesteps: Vec<f64>,
    /// At least one more; step `i` leads from `sigmas[i]` to `sigmas[i + 1]`.
    pub(super) sigmas: Vec<f64>,
}

/// One step's place among the [`Levels`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    pub(super) timestep: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Levels {
    /// How the latent begins, and the steps that are done.
    ///
    /// # Source    `init_noise_sigma` and `add_noise` of diffusers' Euler schedulers
    pub(super) fn run(
        &self,
        request: &Request,
        spacing: Spacing,
        n_train: usize,
    ) -> Result<(Start, impl Iterator<Item = Level>), SamplerError> {
        let skipped = request.skipped(self.timesteps.iter().copied(), n_train)?;
        let max = self.sigmas.iter().copied().fold(0.0, f64::max);
        let from_noise = if spacing == Spacing::Leading { max.hypot(1.0) } else { max };
        let start = request.start(from_noise, 1.0, self.sigmas[skipped]);
        let pairs = self.timesteps.iter().zip(self.sigmas.windows(2)).skip(skipped);
        let levels = pairs.map(|(&timestep, pair)| Level { timestep, from: pair[0], to: pair[1] });
        Ok((start, levels))
    }
}

impl Level {
    /// As the model sees it: diffusers hands its timesteps over in f32.
    pub(super) fn model_timestep(self) -> Timestep {
        Timestep(f64::from(self.timestep as f32))
    }

    pub(super) fn sigma(self) -> Sigma {
        Sigma(self.from)
    }

    pub(super) fn input_scale(self) -> f64 {
        1.0 / self.from.hypot(1.0)
    }

    /// `x + (x - x0) / sigma * (to - sigma)`: the terms of an Euler step to the level `to`.
    pub(super) fn euler_terms(self, prediction: Prediction, to: f64) -> [(f64, Operand); 2] {
        let (sigma, dt) = (self.from, to - self.from);
        match prediction {
            Prediction::Epsilon => [(1.0, Operand::X), (dt, Operand::Output)],
            Prediction::Velocity => {
                let variance = sigma * sigma + 1.0;
                [(1.0 + dt * sigma / variance, Operand::X), (dt / variance.sqrt(), Operand::Output)]
            }
        }
    }
}

/// The timesteps of a discrete schedule for a method whose spacing is `linspace` by default.
pub(super) fn read_timesteps(
    config: &Config,
    request: &Request,
    n_train: usize,
) -> Result<(Spacing, Vec<f64>), SamplerError> {
    let spacing = Spacing::read(config, Spacing::Linspace)?;
    let offset = config.count("steps_offset", 0, n_train)?;
    request.check_steps(1, n_train)?;
    let range = Range { n_train, n_used: n_train, offset };
    Ok((spacing, spacing.timesteps(range, request.steps)))
}

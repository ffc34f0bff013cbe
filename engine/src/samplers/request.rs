//! What a user asks of a sampler.

use super::{Config, Method, SamplerError, Start, Trajectory};

/// How noise levels are spread over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Those of evenly spaced training timesteps.
    Discrete,
    /// Evenly spaced in the seventh root of sigma, Karras et al. 2022.
    Karras,
}

impl Schedule {
    /// Both, in the order in which they are listed to users.
    pub const ALL: &'static [Schedule] = &[Schedule::Discrete, Schedule::Karras];

    /// The command line's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Karras => "karras",
        }
    }
}

/// What a run is asked to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Denoising steps of a run from pure noise.
    pub steps: usize,
    /// `None`: as the model's configuration says.
    pub schedule: Option<Schedule>,
    /// With an initial image: the part of the run that is done, in (0, 1]. `None`: from noise.
    pub strength: Option<f64>,
    /// The part of the training schedule that this model does before it hands its latent over, in (0, 1); diffusers'
    /// `denoising_end`. `None`: all.
    pub denoising_end: Option<f64>,
    /// The part that another model has done to the latent that is given, in (0, 1); diffusers' `denoising_start`.
    pub denoising_start: Option<f64>,
}

/// The first timestep that is left to the second of two models of which the first does `part` of the training schedule.
///
/// # Source    `denoising_end` and `denoising_start` of diffusers' StableDiffusionXL pipelines
fn hand_over(part: f64, n_train: usize) -> f64 {
    let n_train = n_train as f64;
    (n_train - part * n_train).round_ties_even()
}

impl Request {
    /// A whole run from noise, on the configured schedule.
    pub fn whole(steps: usize) -> Self {
        Request { steps, schedule: None, strength: None, denoising_end: None, denoising_start: None }
    }

    pub(super) fn check(&self, method: &Method) -> Result<(), SamplerError> {
        if let Some(schedule) = self.schedule
            && !method.schedules.contains(&schedule)
        {
            let names: Vec<&str> = method.schedules.iter().map(|schedule| schedule.name()).collect();
            return Err(SamplerError::Usage {
                what: "schedule",
                expected: format!("{} for {}", names.join(" or "), method.name),
                found: schedule.name().to_owned(),
            });
        }
        if let Some(strength) = self.strength
            && !(strength > 0.0 && strength <= 1.0)
        {
            return Err(SamplerError::Usage {
                what: "strength",
                expected: "a number above 0, at most 1".to_owned(),
                found: strength.to_string(),
            });
        }
        match [self.denoising_end, self.denoising_start]
            .into_iter()
            .flatten()
            .find(|p| !(*p > 0.0 && *p < 1.0))
        {
            Some(part) => Err(hand_over_error("a number between 0 and 1", part)),
            None => Ok(()),
        }
    }

    /// # Errors    [`SamplerError::Usage`] if `steps` is not from `min` to `n_train`
    pub(super) fn check_steps(&self, min: usize, n_train: usize) -> Result<(), SamplerError> {
        if (min..=n_train).contains(&self.steps) {
            return Ok(());
        }
        Err(SamplerError::Usage {
            what: "steps",
            expected: format!("{min} to {n_train}"),
            found: self.steps.to_string(),
        })
    }

    /// How many of the `timesteps` of a whole run are skipped because the initial image stands for them, or because
    /// another model has done them.
    ///
    /// # Errors    [`SamplerError::Usage`] if nothing would be left
    /// # Source    `get_timesteps` of diffusers' image-to-image pipelines
    pub(super) fn skipped(
        &self,
        timesteps: impl ExactSizeIterator<Item = f64>,
        n_train: usize,
    ) -> Result<usize, SamplerError> {
        let n_timesteps = timesteps.len();
        if let Some(part) = self.denoising_start {
            let limit = hand_over(part, n_train);
            let left = timesteps.filter(|timestep| *timestep < limit).count();
            return match left {
                0 => Err(hand_over_error("at least one step to be left to the second model", part)),
                left => Ok(n_timesteps - left),
            };
        }
        let Some(strength) = self.strength else {
            return Ok(0);
        };
        let done = ((self.steps as f64 * strength) as usize).min(self.steps);
        let skipped = self.steps - done;
        if skipped >= n_timesteps {
            return Err(SamplerError::Usage {
                what: "strength",
                expected: format!("at least one of {} steps to be left", self.steps),
                found: strength.to_string(),
            });
        }
        Ok(skipped)
    }

    /// Leaves the steps after the hand-over to the second model out of `trajectory`.
    ///
    /// # Errors    [`SamplerError::Usage`] if no step would be left
    pub(super) fn end(&self, trajectory: &mut Trajectory, n_train: usize) -> Result<(), SamplerError> {
        let Some(part) = self.denoising_end else { return Ok(()) };
        let limit = hand_over(part, n_train);
        trajectory.steps.truncate(trajectory.steps.iter().filter(|step| step.timestep.0 >= limit).count());
        match trajectory.steps.is_empty() {
            true => Err(hand_over_error("at least one step to be left to the first model", part)),
            false => Ok(()),
        }
    }

    /// How the latent begins, from the factor on the noise of a run from noise, and the scales of signal and noise where
    /// this run begins.
    pub(super) fn start(&self, from_noise: f64, signal: f64, noise: f64) -> Start {
        match (self.denoising_start, self.strength) {
            (Some(_), _) => Start { latent: 1.0, noise: 0.0 },
            (None, Some(_)) => Start { latent: signal, noise },
            (None, None) => Start { latent: 0.0, noise: from_noise },
        }
    }

    /// What is asked for, or else what `use_karras_sigmas` says.
    pub(super) fn schedule(&self, config: &Config) -> Result<Schedule, SamplerError> {
        let configured = config.flag("use_karras_sigmas", false)?;
        Ok(self.schedule.unwrap_or(if configured { Schedule::Karras } else { Schedule::Discrete }))
    }
}

fn hand_over_error(expected: &str, found: f64) -> SamplerError {
    SamplerError::Usage { what: "refiner-start", expected: expected.to_owned(), found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python's `round(1000 - part * 1000)`; the first model keeps what lies at the limit.
    #[test]
    fn the_step_at_the_hand_over_is_the_first_models() {
        for (part, limit) in
            [(0.8, 200.0), (0.7995, 200.0), (0.8005, 200.0), (0.0005, 1000.0), (0.799, 201.0)]
        {
            assert_eq!(hand_over(part, 1000), limit, "{part}");
        }
        let second = Request { denoising_start: Some(0.8), ..Request::whole(4) };
        let timesteps = [601.0, 200.5, 200.0, 199.5, 1.0];
        assert_eq!(second.skipped(timesteps.into_iter(), 1000).ok(), Some(3));
    }
}

//! What a user asks of a sampler.

use super::{Config, Method, SamplerError};

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
}

impl Request {
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
        Ok(())
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

    /// How many of the `n_timesteps` of a run are skipped because the initial image stands for
    /// them.
    ///
    /// # Errors    [`SamplerError::Usage`] if nothing would be left
    /// # Source    `get_timesteps` of diffusers' image-to-image pipelines
    pub(super) fn skipped(&self, n_timesteps: usize) -> Result<usize, SamplerError> {
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

    /// What is asked for, or else what `use_karras_sigmas` says.
    pub(super) fn schedule(&self, config: &Config) -> Result<Schedule, SamplerError> {
        let configured = config.flag("use_karras_sigmas", false)?;
        Ok(self.schedule.unwrap_or(if configured { Schedule::Karras } else { Schedule::Discrete }))
    }
}

//! Euler's method in sigma, Karras et al. 2022, algorithm 2 without churn; diffusers'
//! `EulerDiscreteScheduler`.

use super::sigma_space::{Levels, read_timesteps};
use super::sigmas::karras;
use super::{
    Combination, Config, Method, NoiseSchedule, Prediction, Request, SamplerError, Schedule, SigmaTable,
    Step, Trajectory,
};

pub(super) const METHOD: Method = Method {
    name: "euler",
    a1111_name: "Euler",
    class_name: "EulerDiscreteScheduler",
    schedules: Schedule::ALL,
    plan,
};

#[derive(Debug, Clone, Copy)]
enum Interpolation {
    /// The sigmas of the timesteps.
    Linear,
    /// Sigmas of even logarithm, whatever the timesteps.
    LogLinear,
}

/// Where a run ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum FinalSigma {
    Zero,
    /// The training schedule's lowest.
    Min,
}

impl FinalSigma {
    pub(super) fn read(config: &Config) -> Result<Self, SamplerError> {
        let words = [("zero", Self::Zero), ("sigma_min", Self::Min)];
        config.choice("final_sigmas_type", Self::Zero, &words)
    }

    pub(super) fn sigma(self, table: &SigmaTable) -> f64 {
        match self {
            Self::Zero => 0.0,
            Self::Min => table.min(),
        }
    }
}

fn plan(config: &Config, request: &Request) -> Result<Trajectory, SamplerError> {
    config.refuse_flags(&["use_exponential_sigmas", "use_beta_sigmas"])?;
    config.choice("timestep_type", (), &[("discrete", ())])?;
    let noise = NoiseSchedule::read_with_finite_sigmas(config)?;
    let table = SigmaTable::new(&noise);
    let prediction = Prediction::read(config)?;
    let schedule = request.schedule(config)?;
    let final_sigma = FinalSigma::read(config)?;
    let words = [("linear", Interpolation::Linear), ("log_linear", Interpolation::LogLinear)];
    let interpolation = config.choice("interpolation_type", Interpolation::Linear, &words)?;
    let (spacing, mut timesteps) = read_timesteps(config, request, noise.n_train())?;

    let mut sigmas = match interpolation {
        Interpolation::Linear => timesteps.iter().map(|&timestep| table.sigma(timestep)).collect(),
        Interpolation::LogLinear => log_linear(&table, request.steps),
    };
    if schedule == Schedule::Karras {
        sigmas = karras(config, sigmas[sigmas.len() - 1], sigmas[0], request.steps)?;
        timesteps = sigmas.iter().map(|&sigma| table.timestep(sigma)).collect();
    }
    sigmas.push(final_sigma.sigma(&table));

    let levels = Levels { timesteps, sigmas };
    let step = |level: super::sigma_space::Level| Step {
        timestep: level.model_timestep(),
        sigma: level.sigma(),
        input_scale: level.input_scale(),
        draws_noise: false,
        store: Vec::new(),
        next: Combination::new(level.euler_terms(prediction, level.to)),
    };
    let (start, levels) = levels.run(request, spacing, noise.n_train())?;
    Ok(Trajectory { schedule, start, steps: levels.map(step).collect(), n_slots: 0 })
}

/// `steps + 1` sigmas, of which the last is the lowest: the one appended after it is not reached.
fn log_linear(table: &SigmaTable, steps: usize) -> Vec<f64> {
    let (max, min) = (table.max().ln(), table.min().ln());
    (0..=steps).map(|i| (max + (min - max) * (i as f64 / steps as f64)).exp()).collect()
}

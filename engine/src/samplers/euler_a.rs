//! Ancestral sampling with Euler steps, k-diffusion's `sample_euler_ancestral` with eta = 1;
//! diffusers' `EulerAncestralDiscreteScheduler`, to which k-diffusion's Karras schedule is added.

use super::sigma_space::{Level, Levels, read_timesteps};
use super::sigmas::karras;
use super::{
    Combination, Config, Method, NoiseSchedule, Operand, Prediction, Request, SamplerError, Schedule,
    SigmaTable, Spacing, Step, Trajectory,
};

pub(super) const METHOD: Method = Method {
    name: "euler_a",
    a1111_name: "Euler a",
    class_name: "EulerAncestralDiscreteScheduler",
    schedules: Schedule::ALL,
    plan,
};

fn plan(config: &Config, request: &Request) -> Result<Trajectory, SamplerError> {
    let noise = NoiseSchedule::read_with_finite_sigmas(config)?;
    let table = SigmaTable::new(&noise);
    let prediction = Prediction::read(config)?;
    // The scheduler in diffusers does not know `use_karras_sigmas`.
    let schedule = request.schedule.unwrap_or(Schedule::Discrete);
    let (spacing, mut timesteps) = read_timesteps(config, request, noise.n_train())?;

    let mut sigmas: Vec<f64> = match schedule {
        Schedule::Discrete => timesteps.iter().map(|&timestep| table.sigma(timestep)).collect(),
        Schedule::Karras => karras(config, table.min(), table.max(), request.steps)?,
    };
    if schedule == Schedule::Karras {
        timesteps = sigmas.iter().map(|&sigma| table.timestep(sigma)).collect();
    }
    sigmas.push(0.0);

    // k-diffusion scales the first noise by the largest sigma; diffusers' rule for leading timesteps is its own.
    let spacing = if schedule == Schedule::Karras { Spacing::Trailing } else { spacing };
    let levels = Levels { timesteps, sigmas };
    let (start, levels) = levels.run(request, spacing, noise.n_train())?;
    let steps = levels.map(|level| step(level, prediction)).collect();
    Ok(Trajectory { schedule, start, steps, n_slots: 0 })
}

/// A deterministic step below the next noise level, and noise to come up to it.
fn step(level: Level, prediction: Prediction) -> Step {
    let (from, to) = (level.from, level.to);
    let sigma_up = (to * to * (from * from - to * to) / (from * from)).sqrt();
    let sigma_down = to * to / from;
    let [x, output] = level.euler_terms(prediction, sigma_down);
    Step {
        timestep: level.model_timestep(),
        sigma: level.sigma(),
        input_scale: level.input_scale(),
        draws_noise: true,
        store: Vec::new(),
        next: Combination::new([x, output, (sigma_up, Operand::Noise)]),
    }
}

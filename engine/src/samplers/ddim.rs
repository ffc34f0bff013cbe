//! DDIM without added noise (eta = 0), Song et al. 2021, eq. 12; diffusers' `DDIMScheduler`.

use super::{
    Combination, Config, Method, NoiseSchedule, Operand, Prediction, Range, Request, SamplerError, Schedule,
    Sigma, Spacing, Start, Step, Store, Timestep, Trajectory,
};

pub(super) const METHOD: Method = Method {
    name: "ddim",
    a1111_name: "DDIM",
    class_name: "DDIMScheduler",
    schedules: &[Schedule::Discrete],
    plan,
};

/// Where the clamped prediction of the clean latent is kept within a step.
const ORIGINAL: usize = 0;

fn plan(config: &Config, request: &Request) -> Result<Trajectory, SamplerError> {
    config.refuse_flags(&["thresholding"])?;
    let noise = NoiseSchedule::read_with_rescaling(config)?;
    let prediction = Prediction::read(config)?;
    let spacing = Spacing::read(config, Spacing::Leading)?;
    let n_train = noise.n_train();
    let offset = config.count("steps_offset", 0, n_train)?;
    let set_alpha_to_one = config.flag("set_alpha_to_one", true)?;
    let final_alpha_cumprod = if set_alpha_to_one { 1.0 } else { noise.alpha_cumprod(0)? };
    let clip = if config.flag("clip_sample", true)? {
        Some(config.positive("clip_sample_range", f64::INFINITY)?.unwrap_or(1.0))
    } else {
        None
    };
    request.check_steps(1, n_train)?;

    let stride = (n_train / request.steps) as i64;
    let range = Range { n_train, n_used: n_train, offset };
    let timesteps = spacing.timesteps(range, request.steps);
    let skipped = request.skipped(timesteps.iter().copied(), n_train)?;
    let mut steps = Vec::new();
    let mut start = Start { latent: 0.0, noise: 1.0 };
    for timestep in timesteps[skipped..].iter().map(|timestep| timestep.round_ties_even() as i64) {
        let alpha_cumprod = noise.alpha_cumprod(timestep)?;
        let previous = timestep - stride;
        let previous_alpha_cumprod =
            if previous >= 0 { noise.alpha_cumprod(previous)? } else { final_alpha_cumprod };
        if steps.is_empty() {
            start = request.start(1.0, alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        }
        steps.push(step(prediction, clip, timestep, alpha_cumprod, previous_alpha_cumprod));
    }
    Ok(Trajectory { schedule: Schedule::Discrete, start, steps, n_slots: usize::from(clip.is_some()) })
}

fn step(prediction: Prediction, clip: Option<f64>, timestep: i64, from: f64, to: f64) -> Step {
    let (alpha, sigma) = (from.sqrt(), (1.0 - from).sqrt());
    let (next_alpha, next_sigma) = (to.sqrt(), (1.0 - to).sqrt());
    let original = prediction.original(alpha, sigma);
    let noise = prediction.noise(alpha, sigma);
    let noise_terms = [(next_sigma * noise.x, Operand::X), (next_sigma * noise.output, Operand::Output)];
    let [noise_x, noise_output] = noise_terms;
    let (store, original_terms) = if clip.is_some() {
        let value = Combination::new([(original.x, Operand::X), (original.output, Operand::Output)]);
        let store = Store { slot: ORIGINAL, value: value.clamped(clip) };
        (vec![store], [(next_alpha, Operand::Slot(ORIGINAL)), (0.0, Operand::Output)])
    } else {
        let terms = [(next_alpha * original.x, Operand::X), (next_alpha * original.output, Operand::Output)];
        (Vec::new(), terms)
    };
    let [first, second] = original_terms;
    Step {
        timestep: Timestep(timestep as f64),
        sigma: Sigma(sigma / alpha),
        input_scale: 1.0,
        draws_noise: false,
        store,
        next: Combination::new([first, second, noise_x, noise_output]),
    }
}

//! DPM-Solver++(2M), the second-order multistep solver in data prediction, Lu et al. 2022,
//! algorithm 2; diffusers' `DPMSolverMultistepScheduler`.

use serde_json::Value;

use super::euler::FinalSigma;
use super::sigmas::karras;
use super::{
    Combination, Config, Method, NoiseSchedule, Operand, Prediction, Range, Request, SamplerError, Schedule,
    Sigma, SigmaTable, Spacing, Step, Store, Timestep, Trajectory,
};

pub(super) const METHOD: Method = Method {
    name: "dpm++2m",
    a1111_name: "DPM++ 2M",
    class_name: "DPMSolverMultistepScheduler",
    schedules: Schedule::ALL,
    plan,
};

/// The last two predictions of the clean latent, in turns.
const N_SLOTS: usize = 2;

/// Shorter runs end with a first-order step if `lower_order_final` is set.
const FEW_STEPS: usize = 15;

/// How the slope of the prediction enters a second-order step.
#[derive(Debug, Clone, Copy)]
enum Solver {
    Midpoint,
    Heun,
}

fn plan(config: &Config, request: &Request) -> Result<Trajectory, SamplerError> {
    config.refuse_flags(&[
        "thresholding",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_lu_lambdas",
        "use_flow_sigmas",
        "use_dynamic_shifting",
    ])?;
    config.refuse_given("variance_type")?;
    config.choice("algorithm_type", (), &[("dpmsolver++", ())])?;
    // diffusers takes the words of its DEIS and UniPC schedulers for its default.
    let words = [
        ("midpoint", Solver::Midpoint),
        ("heun", Solver::Heun),
        ("logrho", Solver::Midpoint),
        ("bh1", Solver::Midpoint),
        ("bh2", Solver::Midpoint),
    ];
    let solver = config.choice("solver_type", Solver::Midpoint, &words)?;
    let order = config.count("solver_order", 2, usize::MAX)?;
    if !(1..=2).contains(&order) {
        return Err(config.unsupported("solver_order", "1 or 2", &Value::from(order)));
    }
    let prediction = Prediction::read(config)?;
    let schedule = request.schedule(config)?;
    let final_sigma = FinalSigma::read(config)?;
    let lower_order_final = config.flag("lower_order_final", true)?;
    let euler_at_final = config.flag("euler_at_final", false)?;

    let noise = NoiseSchedule::read_with_finite_sigmas(config)?;
    let table = SigmaTable::new(&noise);
    let (timesteps, sigmas) = levels(config, request, &noise, &table, schedule, final_sigma)?;
    let n = timesteps.len();
    let skipped = request.skipped(timesteps.iter().copied(), noise.n_train())?;
    let first_order_at_end =
        euler_at_final || matches!(final_sigma, FinalSigma::Zero) || (lower_order_final && n < FEW_STEPS);

    let steps = (skipped..n).map(|i| {
        let before =
            (order == 2 && i > skipped && !(first_order_at_end && i + 1 == n)).then(|| sigmas[i - 1]);
        let (alpha, sigma) = alpha_sigma(sigmas[i]);
        let original = prediction.original(alpha, sigma);
        let slot = i % N_SLOTS;
        let value = Combination::new([(original.x, Operand::X), (original.output, Operand::Output)]);
        Step {
            timestep: Timestep(timesteps[i]),
            sigma: Sigma(sigmas[i]),
            input_scale: 1.0,
            draws_noise: false,
            store: vec![Store { slot, value }],
            next: update(solver, before, sigmas[i], sigmas[i + 1], slot),
        }
    });
    let steps = steps.collect();
    let (signal, noise) = alpha_sigma(sigmas[skipped]);
    let start = request.start(1.0, signal, noise);
    Ok(Trajectory { schedule, start, steps, n_slots: N_SLOTS })
}

/// Timesteps, which are integers, and one sigma more.
fn levels(
    config: &Config,
    request: &Request,
    noise: &NoiseSchedule,
    table: &SigmaTable,
    schedule: Schedule,
    final_sigma: FinalSigma,
) -> Result<(Vec<f64>, Vec<f64>), SamplerError> {
    let spacing = Spacing::read(config, Spacing::Linspace)?;
    let n_train = noise.n_train();
    let offset = config.count("steps_offset", 0, n_train)?;
    let lambda_min = config.number_or_minus_infinity("lambda_min_clipped")?;
    request.check_steps(1, n_train)?;
    let (timesteps, mut sigmas) = match schedule {
        Schedule::Karras => {
            let sigmas = karras(config, table.min(), table.max(), request.steps)?;
            let rounds = config.choice(
                "beta_schedule",
                true,
                &[("linear", true), ("scaled_linear", true), ("squaredcos_cap_v2", false)],
            )?;
            let timestep = |&sigma: &f64| {
                let timestep = table.timestep(sigma);
                if rounds { timestep.round_ties_even() } else { timestep.trunc() }
            };
            (sigmas.iter().map(timestep).collect::<Vec<_>>(), sigmas)
        }
        Schedule::Discrete => {
            // lambda = ln(alpha / sigma) falls with the timestep.
            let n_used = noise.sigmas().iter().take_while(|sigma| -sigma.ln() >= lambda_min).count();
            if n_used < 2 {
                let found = Value::from(lambda_min);
                return Err(config.malformed("lambda_min_clipped", "two timesteps to be left", &found));
            }
            let range = Range { n_train, n_used, offset };
            let timesteps = spacing.timesteps_above_lowest(range, request.steps);
            let timesteps: Vec<f64> = timesteps.iter().map(|timestep| timestep.round_ties_even()).collect();
            let sigmas = timesteps.iter().map(|&timestep| table.sigma(timestep)).collect();
            (timesteps, sigmas)
        }
    };
    sigmas.push(final_sigma.sigma(table));
    Ok((timesteps, sigmas))
}

/// Scales of signal and noise in a variance-preserving latent of noise level `sigma`.
fn alpha_sigma(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / sigma.hypot(1.0);
    (alpha, sigma * alpha)
}

/// The step from `from` to `to`, of second order if the level `before` is known.
///
/// With `h` the step in log-SNR, `exp(-h)` is `to / from`.
fn update(solver: Solver, before: Option<f64>, from: f64, to: f64, slot: usize) -> Combination {
    let ratio = to / from;
    let (alpha, sigma) = alpha_sigma(to);
    let x = sigma / alpha_sigma(from).1;
    let data = alpha * (1.0 - ratio);
    let Some(before) = before else {
        return Combination::new([(x, Operand::X), (data, Operand::Slot(slot))]);
    };
    let (h, h_before) = ((from / to).ln(), (before / from).ln());
    let slope = match solver {
        Solver::Midpoint => 0.5 * data,
        Solver::Heun => alpha * ((ratio - 1.0) / h + 1.0),
    };
    let difference = slope * h / h_before;
    let older = (slot + 1) % N_SLOTS;
    Combination::new([
        (x, Operand::X),
        (data + difference, Operand::Slot(slot)),
        (-difference, Operand::Slot(older)),
    ])
}

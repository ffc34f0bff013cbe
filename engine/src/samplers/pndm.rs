//! Pseudo numerical methods for diffusion, Liu et al. 2022; diffusers' `PNDMScheduler`.
//!
//! With `skip_prk_steps`, as Stable Diffusion sets it, the linear multistep method alone
//! (PLMS), whose first step is done twice: a run has one evaluation more than steps. Without
//! it, twelve evaluations of the pseudo Runge-Kutta method (PRK) come first.

use super::{
    Combination, Config, Method, NoiseSchedule, Operand, Prediction, Range, Request, SamplerError, Schedule,
    Sigma, Spacing, Step, Store, Timestep, Trajectory,
};

pub(super) const METHOD: Method = Method {
    name: "pndm",
    a1111_name: "PLMS",
    class_name: "PNDMScheduler",
    schedules: &[Schedule::Discrete],
    plan,
};

/// Model outputs that the multistep formula reads; they take the slots 0 to 3 in turns.
const ORDER: usize = 4;
/// The latent from which a step of several evaluations starts.
const SAMPLE: usize = ORDER;
/// The weighted sum of a Runge-Kutta step's outputs.
const SUM: usize = ORDER + 1;
const N_SLOTS: usize = ORDER + 2;

/// Adams-Bashforth weights by the number of known outputs, the newest first.
const ADAMS_BASHFORTH: [[f64; ORDER]; ORDER] = [
    [1.0, 0.0, 0.0, 0.0],
    [3.0 / 2.0, -1.0 / 2.0, 0.0, 0.0],
    [23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0],
    [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

fn plan(config: &Config, request: &Request) -> Result<Trajectory, SamplerError> {
    let noise = NoiseSchedule::read(config)?;
    let spacing = Spacing::read(config, Spacing::Leading)?;
    let n_train = noise.n_train();
    let offset = config.count("steps_offset", 0, n_train)?;
    let skip_prk_steps = config.flag("skip_prk_steps", false)?;
    let set_alpha_to_one = config.flag("set_alpha_to_one", false)?;
    let final_alpha_cumprod = if set_alpha_to_one { 1.0 } else { noise.alpha_cumprod(0)? };
    let prediction = Prediction::read(config)?;
    request.check_steps(if skip_prk_steps { 1 } else { ORDER }, n_train)?;

    let stride = (n_train / request.steps) as i64;
    let range = Range { n_train, n_used: n_train, offset };
    let spaced = spacing.timesteps(range, request.steps);
    let spaced: Vec<i64> = spaced.iter().map(|timestep| timestep.round_ties_even() as i64).collect();
    let prk_timesteps = if skip_prk_steps { Vec::new() } else { prk_timesteps(&spaced, stride) };
    let timesteps = if skip_prk_steps {
        plms_timesteps(&spaced)
    } else {
        [&prk_timesteps[..], &spaced[ORDER - 1..]].concat()
    };
    let skipped = request.skipped(timesteps.iter().map(|timestep| *timestep as f64), n_train)?;

    let mut solver =
        Solver { noise, final_alpha_cumprod, prediction, stride, prk_timesteps, counter: 0, n_outputs: 0 };
    let steps = timesteps[skipped..].iter().map(|&timestep| solver.step(timestep));
    let steps = steps.collect::<Result<Vec<_>, _>>()?;
    let alpha_cumprod = solver.noise.alpha_cumprod(timesteps[skipped])?;
    let start = request.start(1.0, alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
    Ok(Trajectory { schedule: Schedule::Discrete, start, steps, n_slots: N_SLOTS })
}

/// The second timestep twice.
fn plms_timesteps(spaced: &[i64]) -> Vec<i64> {
    let second = spaced.get(1).copied();
    spaced.iter().take(1).copied().chain(second).chain(spaced.iter().skip(1).copied()).collect()
}

/// Twelve timesteps: each of three Runge-Kutta steps visits its start, its middle twice, and
/// its end.
fn prk_timesteps(spaced: &[i64], stride: i64) -> Vec<i64> {
    let steps = spaced[..ORDER].windows(2);
    steps.flat_map(|pair| [pair[0], pair[1] + stride / 2, pair[1] + stride / 2, pair[1]]).collect()
}

/// What diffusers' scheduler changes as it goes.
struct Solver {
    noise: NoiseSchedule,
    final_alpha_cumprod: f64,
    prediction: Prediction,
    stride: i64,
    prk_timesteps: Vec<i64>,
    /// Evaluations so far.
    counter: usize,
    /// Outputs stored so far.
    n_outputs: usize,
}

/// The latent a step starts from, and the timesteps it starts from and leads to.
struct Span {
    sample: Operand,
    from: i64,
    to: i64,
}

impl Solver {
    fn step(&mut self, timestep: i64) -> Result<Step, SamplerError> {
        let alpha_cumprod = self.noise.alpha_cumprod(timestep)?;
        let (store, next) = if self.counter < self.prk_timesteps.len() {
            self.prk_step(timestep)?
        } else {
            self.plms_step(timestep)?
        };
        self.counter += 1;
        Ok(Step {
            timestep: Timestep(timestep as f64),
            sigma: Sigma(((1.0 - alpha_cumprod) / alpha_cumprod).sqrt()),
            input_scale: 1.0,
            draws_noise: false,
            store,
            next,
        })
    }

    fn prk_step(&mut self, timestep: i64) -> Result<(Vec<Store>, Combination), SamplerError> {
        let phase = self.counter % 4;
        let from = self.prk_timesteps[self.counter - phase];
        let to = timestep - if phase.is_multiple_of(2) { self.stride / 2 } else { 0 };
        let span = Span { sample: if phase == 0 { Operand::X } else { Operand::Slot(SAMPLE) }, from, to };
        let output = [(1.0, Operand::Output)];
        Ok(match phase {
            0 => {
                let store = vec![
                    self.store_output(),
                    Store { slot: SAMPLE, value: Combination::new([(1.0, Operand::X)]) },
                    Store { slot: SUM, value: Combination::new([(1.0 / 6.0, Operand::Output)]) },
                ];
                (store, self.transfer(&span, output)?)
            }
            1 | 2 => {
                let sum = Combination::new([(1.0, Operand::Slot(SUM)), (1.0 / 3.0, Operand::Output)]);
                (vec![Store { slot: SUM, value: sum }], self.transfer(&span, output)?)
            }
            _ => {
                let sum = [(1.0, Operand::Slot(SUM)), (1.0 / 6.0, Operand::Output)];
                (Vec::new(), self.transfer(&span, sum)?)
            }
        })
    }

    fn plms_step(&mut self, timestep: i64) -> Result<(Vec<Store>, Combination), SamplerError> {
        if self.counter == 1 {
            // The first step again, with the mean of the outputs at its two ends.
            let span = Span { sample: Operand::Slot(SAMPLE), from: timestep + self.stride, to: timestep };
            let mean = [(0.5, Operand::Output), (0.5, self.output(0))];
            return Ok((Vec::new(), self.transfer(&span, mean)?));
        }
        let mut store = vec![self.store_output()];
        if self.counter == 0 {
            store.push(Store { slot: SAMPLE, value: Combination::new([(1.0, Operand::X)]) });
        }
        let weights = ADAMS_BASHFORTH[self.n_outputs.min(ORDER) - 1];
        let span = Span { sample: Operand::X, from: timestep, to: timestep - self.stride };
        let outputs: [_; ORDER] = std::array::from_fn(|age| (weights[age], self.output(age)));
        Ok((store, self.transfer(&span, outputs)?))
    }

    fn store_output(&mut self) -> Store {
        let slot = self.n_outputs % ORDER;
        self.n_outputs += 1;
        Store { slot, value: Combination::new([(1.0, Operand::Output)]) }
    }

    /// The output stored `age` outputs before the newest; meaningless where there is none.
    fn output(&self, age: usize) -> Operand {
        Operand::Slot((self.n_outputs + ORDER - 1 - age) % ORDER)
    }

    /// Liu et al. 2022, eq. 9: the latent at `span.to`, given one combined model output.
    fn transfer<const N: usize>(
        &self,
        span: &Span,
        output: [(f64, Operand); N],
    ) -> Result<Combination, SamplerError> {
        let from = self.noise.alpha_cumprod(span.from)?;
        let to = if span.to >= 0 { self.noise.alpha_cumprod(span.to)? } else { self.final_alpha_cumprod };
        let denominator = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
        let noise_factor = -(to - from) / denominator;
        let noise = self.prediction.noise(from.sqrt(), (1.0 - from).sqrt());
        let sample_factor = (to / from).sqrt() + noise_factor * noise.x;
        let output = output.map(|(weight, operand)| (noise_factor * noise.output * weight, operand));
        Ok(Combination::new([(sample_factor, span.sample)]).plus(Combination::new(output)))
    }
}

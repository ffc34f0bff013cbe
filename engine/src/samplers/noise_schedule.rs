//! How much noise a model was trained with at each timestep.

use serde_json::Value;

use super::{Config, SamplerError};

/// More training timesteps than any model has; bounds what a configuration can make us allocate.
const MAX_TRAIN_TIMESTEPS: usize = 100_000;

#[derive(Debug, Clone, Copy)]
enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredCosine,
}

/// `alphas_cumprod[t]`, the share of the signal's variance at timestep `t`, strictly falling.
///
/// # Numerics  f64, where diffusers has f32: about 1e-7 apart
/// # Source    the constructors of diffusers' schedulers, which agree on the keys and defaults
#[derive(Debug, Clone)]
pub(super) struct NoiseSchedule {
    pub(super) alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    pub(super) fn read(config: &Config) -> Result<Self, SamplerError> {
        Ok(Self::from_betas(read_betas(config)?))
    }

    /// As [`read`](Self::read), rescaled to zero terminal signal if the configuration says so.
    pub(super) fn read_with_rescaling(config: &Config) -> Result<Self, SamplerError> {
        let schedule = Self::read(config)?;
        let rescale = config.flag("rescale_betas_zero_snr", false)?;
        Ok(if rescale { schedule.rescaled_to_zero_terminal_snr() } else { schedule })
    }

    /// As [`read_with_rescaling`](Self::read_with_rescaling), but with the last signal share at
    /// 2^-24 where rescaling made it zero, for methods that divide by it.
    pub(super) fn read_with_finite_sigmas(config: &Config) -> Result<Self, SamplerError> {
        let mut schedule = Self::read_with_rescaling(config)?;
        if config.flag("rescale_betas_zero_snr", false)?
            && let Some(last) = schedule.alphas_cumprod.last_mut()
        {
            *last = 2f64.powi(-24);
        }
        Ok(schedule)
    }

    fn from_betas(betas: impl IntoIterator<Item = f64>) -> Self {
        let product = |product: &mut f64, beta: f64| {
            *product *= 1.0 - beta;
            Some(*product)
        };
        Self { alphas_cumprod: betas.into_iter().scan(1.0, product).collect() }
    }

    /// # Source    Lin et al. 2023, algorithm 1
    fn rescaled_to_zero_terminal_snr(self) -> Self {
        let roots: Vec<f64> = self.alphas_cumprod.iter().map(|alpha| alpha.sqrt()).collect();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        let scale = first / (first - last);
        Self { alphas_cumprod: roots.iter().map(|root| ((root - last) * scale).powi(2)).collect() }
    }

    pub(super) fn n_train(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// # Errors    [`SamplerError::Usage`] if `steps` and `steps_offset` lead past the end
    pub(super) fn alpha_cumprod(&self, timestep: i64) -> Result<f64, SamplerError> {
        let index = usize::try_from(timestep).ok();
        index.and_then(|index| self.alphas_cumprod.get(index)).copied().ok_or_else(|| SamplerError::Usage {
            what: "steps",
            expected: format!("timesteps from 0 to {}", self.n_train() - 1),
            found: format!("timestep {timestep}"),
        })
    }

    /// `sigma[t] = sqrt((1 - alphas_cumprod[t]) / alphas_cumprod[t])`
    pub(super) fn sigmas(&self) -> Vec<f64> {
        self.alphas_cumprod.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect()
    }
}

/// Timesteps of the training schedule.
pub(super) fn read_n_train(config: &Config) -> Result<usize, SamplerError> {
    config.count("num_train_timesteps", 1000, MAX_TRAIN_TIMESTEPS)
}

fn read_betas(config: &Config) -> Result<Vec<f64>, SamplerError> {
    let n_train = read_n_train(config)?;
    // Two timesteps are the least between which a noise level can be interpolated.
    if n_train < 2 {
        return Err(config.malformed("num_train_timesteps", "at least 2", &Value::from(n_train)));
    }
    if let Some(betas) = config.positives("trained_betas", 1.0)? {
        let expected = format!("num_train_timesteps = {n_train} numbers");
        let found = Value::from(format!("{} numbers", betas.len()));
        return if betas.len() == n_train {
            Ok(betas)
        } else {
            Err(config.malformed("trained_betas", &expected, &found))
        };
    }
    let words = [
        ("linear", BetaSchedule::Linear),
        ("scaled_linear", BetaSchedule::ScaledLinear),
        ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
    ];
    let start = config.positive("beta_start", 1.0)?.unwrap_or(0.0001);
    let end = config.positive("beta_end", 1.0)?.unwrap_or(0.02);
    Ok(match config.choice("beta_schedule", BetaSchedule::Linear, &words)? {
        BetaSchedule::Linear => linear(start, end, n_train).collect(),
        BetaSchedule::ScaledLinear => {
            linear(start.sqrt(), end.sqrt(), n_train).map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosine => (0..n_train).map(|t| squared_cosine(t, n_train)).collect(),
    })
}

/// `n` numbers from `start` to `end`, both included.
fn linear(start: f64, end: f64, n: usize) -> impl Iterator<Item = f64> {
    let step = (end - start) / (n - 1) as f64;
    (0..n).map(move |i| if i < n / 2 { start + step * i as f64 } else { end - step * (n - 1 - i) as f64 })
}

/// # Source    Nichol & Dhariwal 2021, eq. 17, with betas capped at 0.999
fn squared_cosine(t: usize, n_train: usize) -> f64 {
    let alpha_bar = |t: usize| {
        let time = t as f64 / n_train as f64;
        ((time + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
    };
    (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(0.999)
}

//! Noise levels of the training schedule as k-diffusion counts them, and the Karras schedule.

use super::{Config, NoiseSchedule, SamplerError};

/// `sigma[t]` and its logarithm, rising with `t`.
#[derive(Debug, Clone)]
pub(super) struct SigmaTable {
    sigmas: Vec<f64>,
    log_sigmas: Vec<f64>,
}

impl SigmaTable {
    pub(super) fn new(schedule: &NoiseSchedule) -> Self {
        let sigmas = schedule.sigmas();
        let log_sigmas = sigmas.iter().map(|sigma| sigma.ln()).collect();
        Self { sigmas, log_sigmas }
    }

    pub(super) fn min(&self) -> f64 {
        self.sigmas[0]
    }

    pub(super) fn max(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// Interpolated linearly between timesteps, constant outside of them.
    pub(super) fn sigma(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let position = timestep.clamp(0.0, last as f64);
        let low = (position.floor() as usize).min(last - 1);
        let slope = self.sigmas[low + 1] - self.sigmas[low];
        if position == last as f64 { self.max() } else { self.sigmas[low] + slope * (position - low as f64) }
    }

    /// The fractional timestep of a noise level, by interpolating logarithms.
    pub(super) fn timestep(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.max(1e-10).ln();
        let n_below = self.log_sigmas.partition_point(|&level| level <= log_sigma);
        let low = n_below.saturating_sub(1).min(self.log_sigmas.len() - 2);
        let (below, above) = (self.log_sigmas[low], self.log_sigmas[low + 1]);
        let weight = ((below - log_sigma) / (below - above)).clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * (low + 1) as f64
    }
}

/// `steps` noise levels from `max` down to `min`, equidistant in their seventh root.
///
/// `sigma_min` and `sigma_max` of the configuration take precedence over `min` and `max`.
///
/// # Source    Karras et al. 2022, eq. 5
pub(super) fn karras(config: &Config, min: f64, max: f64, steps: usize) -> Result<Vec<f64>, SamplerError> {
    const RHO: f64 = 7.0;
    let min_root = config.positive("sigma_min", f64::INFINITY)?.unwrap_or(min).powf(1.0 / RHO);
    let max_root = config.positive("sigma_max", f64::INFINITY)?.unwrap_or(max).powf(1.0 / RHO);
    let ramp = |i: usize| i as f64 / (steps.max(2) - 1) as f64;
    Ok((0..steps).map(|i| (max_root + ramp(i) * (min_root - max_root)).powf(RHO)).collect())
}

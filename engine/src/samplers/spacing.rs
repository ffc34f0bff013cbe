//! Which timesteps of the training schedule a run of few steps visits.
//!
//! Source: Lin et al. 2023, table 2, with the rounding of diffusers (numpy's, ties to even).

use super::{Config, SamplerError};

/// How timesteps are spread over the training schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// From 0 upwards by a whole stride: the noisiest timesteps are not visited.
    Leading,
    /// From the end downwards by a fractional stride: 0 is not visited.
    Trailing,
    /// Both ends included.
    Linspace,
}

/// Where timesteps are taken from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// Length of the training schedule, which sets the stride of `trailing`.
    pub(super) n_train: usize,
    /// The part of it that is used, from 0.
    pub(super) n_used: usize,
    /// `steps_offset`, added by `leading`.
    pub(super) offset: usize,
}

impl Spacing {
    /// The key of a scheduler's configuration that says it.
    pub(crate) const KEY: &'static str = "timestep_spacing";

    /// Every spacing.
    pub const ALL: [Self; 3] = [Self::Leading, Self::Trailing, Self::Linspace];

    /// Its name in scheduler_config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
        }
    }

    pub(super) fn read(config: &Config, default: Self) -> Result<Self, SamplerError> {
        config.choice(Self::KEY, default, &Self::ALL.map(|spacing| (spacing.name(), spacing)))
    }

    /// `steps` timesteps, the highest first; only `linspace` may give fractions.
    pub(super) fn timesteps(self, range: Range, steps: usize) -> Vec<f64> {
        match self {
            Self::Leading => leading(range, steps),
            Self::Trailing => trailing(range, steps),
            Self::Linspace => linspace(range, steps),
        }
    }

    /// As [`timesteps`](Self::timesteps) where the run ends one step above the lowest, so
    /// that `leading` and `linspace` spread one point more and leave it out.
    ///
    /// `trailing` gives fewer than `steps` if less than the whole training schedule is used.
    pub(super) fn timesteps_above_lowest(self, range: Range, steps: usize) -> Vec<f64> {
        let n_points = if self == Self::Trailing { steps } else { steps + 1 };
        let mut timesteps = self.timesteps(range, n_points);
        timesteps.truncate(steps);
        timesteps
    }
}

fn leading(range: Range, n_points: usize) -> Vec<f64> {
    let stride = range.n_used / n_points;
    (0..n_points).rev().map(|i| (i * stride + range.offset) as f64).collect()
}

fn trailing(range: Range, n_points: usize) -> Vec<f64> {
    let stride = range.n_train as f64 / n_points as f64;
    // For some counts (61 of 1000) numpy's arange rounds to one element more, a timestep of -1
    // that no model was trained on; it is left out.
    (0..n_points)
        .map(|i| (range.n_used as f64 - i as f64 * stride).round_ties_even() - 1.0)
        .take_while(|&timestep| timestep >= 0.0)
        .collect()
}

fn linspace(range: Range, n_points: usize) -> Vec<f64> {
    let last = (range.n_used - 1) as f64;
    let stride = last / (n_points.max(2) - 1) as f64;
    let point = |i: usize| if i > 0 && i + 1 == n_points { last } else { i as f64 * stride };
    (0..n_points).rev().map(point).collect()
}

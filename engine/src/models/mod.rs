//! One file per network: its configuration, and the graph it stands for.
//!
//! A model reads every key of its configuration. What it does not implement is an error that names the key, never ignored.

mod clip_text;
mod unet;
mod vae_kl;

use loaders::{Config, FromJson};

use crate::error::Error;

pub use clip_text::{ClipText, ClipTextConfig, HiddenState, TextOutputs};
pub use unet::{AddedConfig, UNet, UNetConfig};
pub use vae_kl::{VaeKl, VaeKlConfig};

/// Refuses any value of `key` but `default`, which is also what an absent key means.
fn only<T: FromJson + PartialEq>(config: &Config, key: &str, default: T) -> Result<(), Error> {
    match config.get::<T>(key)? {
        Some(value) if value != default => Err(config.unsupported(key, "").into()),
        _ => Ok(()),
    }
}

/// Refuses any value of these keys but `null`.
fn only_null(config: &Config, keys: &[&str]) -> Result<(), Error> {
    let set = keys.iter().find(|key| config.value(key).is_some_and(|v| !v.is_null()));
    set.map_or(Ok(()), |key| Err(config.unsupported(key, "").into()))
}

/// Refuses keys that nobody read: they may change what the network computes. Keys with a leading underscore are remarks.
fn no_unknown_keys(config: &Config, remarks: &[&str]) -> Result<(), Error> {
    let unknown = config.unread_keys().into_iter().find(|key| {
        !key.starts_with('_') && !remarks.contains(key) && config.value(key).is_some_and(|v| !v.is_null())
    });
    unknown.map_or(Ok(()), |key| Err(config.unsupported(key, "").into()))
}

/// Refuses a `divisor` under `key` that leaves a remainder with any of `values`.
fn divides_all(
    config: &Config,
    key: &str,
    divisor: usize,
    mut values: impl Iterator<Item = usize>,
) -> Result<(), Error> {
    match values.find(|value| !value.is_multiple_of(divisor)) {
        Some(value) => Err(config.unexpected(key, format!("a divisor of {value}")).into()),
        None => Ok(()),
    }
}

/// A convolution's, a block's activation: these networks know SiLU alone.
fn only_silu(config: &Config) -> Result<(), Error> {
    match config.get::<String>("act_fn")?.as_deref() {
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(config.unsupported("act_fn", "").into()),
    }
}

/// A whole number of blocks, channels or layers, within what a sane file holds.
const SANE_CHANNELS: std::ops::RangeInclusive<usize> = 1..=65_536;
const SANE_LAYERS: std::ops::RangeInclusive<usize> = 1..=256;

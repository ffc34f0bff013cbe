//! Normalizations.

use kernels::HostTensor;
use kernels::ops::{GroupNorm, LayerNorm, RmsNorm};
use serde_json::Value;

use super::super::{Recorded, host};
use super::images::{channels_first, image};
use super::{Arguments, Expressed, ResultShape, Skip, as_it_is, single};

/// A scale or a bias; a norm without one has ones or zeros.
fn parameter(
    arguments: &mut Arguments<'_>,
    name: &'static str,
    channels: usize,
    usual: f32,
) -> Result<HostTensor, Skip> {
    match arguments.optional(name)? {
        Some(recorded) => Ok(HostTensor::f32([recorded.values.len()], recorded.values.clone())),
        None => Ok(HostTensor::f32([channels], vec![usual; channels])),
    }
}

pub(super) fn group_norm(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let groups = arguments.count("num_groups", None)?;
    let eps = arguments.number("eps", Some(1e-5))?;
    let input = arguments.tensor("input")?;
    let &[batch, channels, ..] = input.shape.as_slice() else {
        return Err(format!("a tensor of shape {:?}", input.shape));
    };
    let pixels: usize = input.shape[2..].iter().product();
    let as_image = Recorded { shape: vec![batch, channels, pixels, 1], ..input.clone() };
    let x = image(&as_image)?.reshaped([batch, pixels, channels]);
    let scale = parameter(arguments, "weight", channels, 1.0)?;
    let bias = parameter(arguments, "bias", channels, 0.0)?;
    let shape = ResultShape::Of(arguments.tensor("input")?.shape.clone());
    single(GroupNorm { groups, eps, silu: false }, vec![x, scale, bias], channels_first, shape)
}

/// The input with the dimensions that are normalized as one, and their extent.
fn normalized(arguments: &mut Arguments<'_>) -> Result<(HostTensor, usize), Skip> {
    let shape = arguments.attribute("normalized_shape").cloned();
    let input = arguments.tensor("input")?;
    let dimensions = match &shape {
        Some(Value::Array(dimensions)) => dimensions.len(),
        _ => 1,
    };
    let split = input.shape.len().checked_sub(dimensions).ok_or("more dimensions than there are")?;
    let own = &input.shape[split..];
    let channels: usize = own.iter().product();
    let is_own = shape
        .as_ref()
        .is_none_or(|shape| *shape == Value::from(own) || shape.as_u64() == Some(channels as u64));
    if !is_own {
        return Err(format!("'normalized_shape' = {shape:?} on {:?}", input.shape));
    }
    let rows: usize = input.shape[..split].iter().product();
    Ok((host(input, &[rows, channels])?, channels))
}

pub(super) fn layer_norm(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let (x, channels) = normalized(arguments)?;
    let eps = arguments.number("eps", Some(1e-5))?;
    let scale = parameter(arguments, "weight", channels, 1.0)?;
    let bias = parameter(arguments, "bias", channels, 0.0)?;
    let shape = ResultShape::Of(arguments.tensor("input")?.shape.clone());
    single(LayerNorm { eps }, vec![x, scale, bias], as_it_is, shape)
}

pub(super) fn rms_norm(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let (x, channels) = normalized(arguments)?;
    let eps = arguments.number("eps", Some(f64::from(f32::EPSILON)))?;
    let scale = parameter(arguments, "weight", channels, 1.0)?;
    let shape = ResultShape::Of(arguments.tensor("input")?.shape.clone());
    single(RmsNorm { eps }, vec![x, scale], as_it_is, shape)
}

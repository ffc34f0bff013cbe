//! Functions of each element.

use kernels::ops::{Activate, Activation, LinearCombination};
use kernels::{HostTensor, Op};

use super::{Arguments, Expressed, ResultShape, Sketch, Skip, as_it_is, plain, same};

pub(super) fn activation(arguments: &mut Arguments<'_>, activation: Activation) -> Result<Expressed, Skip> {
    arguments.flag("inplace")?;
    plain(Activate(activation), vec![same(arguments.tensor("input")?)?])
}

/// `slope * x + (1 - slope) * max(x, 0)`.
pub(super) fn leaky_relu(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    arguments.flag("inplace")?;
    let slope = arguments.number("negative_slope", Some(0.01))?;
    if slope == 0.0 {
        return activation(arguments, Activation::Relu);
    }
    // Others would cancel, and infinities with them.
    if !(0.0..1.0).contains(&slope) {
        return Err(format!("'negative_slope' = {slope} is not from 0 up to 1"));
    }
    let mut coefficients = vec![0.0; LinearCombination::COEFFICIENTS];
    coefficients[..2].copy_from_slice(&[slope as f32, (1.0 - slope) as f32]);
    let mut sketch = Sketch::default();
    let x = sketch.operand(same(arguments.tensor("input")?)?);
    let positive = sketch.apply(Activate(Activation::Relu), &[x])?;
    let coefficients = sketch.operand(HostTensor::f32([coefficients.len()], coefficients));
    let y = sketch.apply(LinearCombination { terms: 2 }, &[x, positive, coefficients])?;
    sketch.ending(y, as_it_is, ResultShape::Own)
}

pub(super) fn gelu(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let approximate = arguments.attribute("approximate").cloned();
    match approximate.as_ref().map(|value| value.as_str()) {
        None | Some(Some("none")) => activation(arguments, Activation::Gelu),
        Some(Some("tanh")) => activation(arguments, Activation::GeluTanh),
        Some(_) => Err(format!("'approximate' = {approximate:?}")),
    }
}

pub(super) fn binary(arguments: &mut Arguments<'_>, op: impl Op + 'static) -> Result<Expressed, Skip> {
    if arguments.number("alpha", Some(1.0))? != 1.0 {
        return Err("'alpha' is none of ours".to_owned());
    }
    let other = same(arguments.tensor("other")?)?;
    plain(op, vec![same(arguments.tensor("input")?)?, other])
}

//! Functions of each element.

use kernels::Op;
use kernels::ops::{Activate, Activation};

use super::arguments::Arguments;
use super::{Expressed, Skip, plain, same};

pub(super) fn activation(arguments: &mut Arguments<'_>, activation: Activation) -> Result<Expressed, Skip> {
    arguments.flag("inplace")?;
    plain(Activate(activation), vec![same(arguments.tensor("input")?)?])
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

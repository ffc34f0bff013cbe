//! One file for each command.

pub(crate) mod compare;
pub(crate) mod devices;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod plan;
pub(crate) mod profile;
pub(crate) mod reproduce;
pub(crate) mod tune;
pub(crate) mod validate;

//! One file for each command.

pub(crate) mod devices;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod profile;
pub(crate) mod tune;
pub(crate) mod validate;

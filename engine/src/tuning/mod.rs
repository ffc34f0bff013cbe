//! Measured choices between the variants of an operation.

mod choices;

pub use choices::{Choices, key};

//! What photogram's operations mean, and their WGSL.
//!
//! Each operation is one file in [`ops`]: its attributes, shape inference, an `f64` reference, and the shader variants that
//! compute it. This crate knows no GPU API and opens no files; `engine` turns a [`Variant`] into pipelines and dispatches.

#![forbid(unsafe_code)]

pub mod check;
pub mod host;
mod host_tensor;
mod op;
pub mod ops;
mod types;
mod wgsl;

pub use host_tensor::HostTensor;
pub use op::{
    Absorbed, Attribute, Attributes, Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Subgroups,
    TALLY_BYTES, Variant, fold_grid,
};
pub use types::{DType, LANES, STRIP, Shape, TensorType};
pub use wgsl::{Shader, Target, fnv1a, shaders_hash};

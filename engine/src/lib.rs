//! How photogram turns a graph of tensors into a picture on a GPU.
//!
//! Modules in processing order: [`graph`] says what is computed, [`plan`] in which order and memory, [`device`] runs it,
//! [`reference`](mod@reference) runs it on the CPU for comparison.

pub mod device;
pub mod graph;
pub mod plan;
pub mod reference;
pub mod validate;

//! How photogram turns a graph of tensors into a picture on a GPU.
//!
//! Modules in processing order: [`models`] are built from [`nn`]'s layers into a [`graph`], whose parameters [`weights`] takes
//! from a checkpoint; [`plan`] puts it in order and memory, [`device`] runs it. [`samplers`] and [`noise`] are arithmetic on
//! the host, and [`pipelines`] is where all of it becomes a picture. [`reference`](mod@reference) runs a graph on the CPU and
//! [`validate`] compares; [`profile`] says where the time goes, and [`tuning`] which variants take the least of it;
//! [`similarity`] says how alike two pictures are.

mod compile;
pub mod device;
mod error;
pub mod graph;
pub mod models;
pub mod nn;
pub mod noise;
pub mod pipelines;
pub mod plan;
pub mod profile;
pub mod recorded;
pub mod reference;
pub mod samplers;
pub mod similarity;
pub mod tuning;
pub mod validate;
pub mod weights;

pub use compile::compile;
pub use error::{Error, ErrorKind};

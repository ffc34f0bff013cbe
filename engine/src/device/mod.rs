//! The only place that says wgpu: adapters, memory, pipelines, and running a plan.

mod adapter;
mod error;
mod gpu;
mod pipelines;
mod program;
mod transfer;
mod trusted;

pub use adapter::{AdapterChoice, AdapterReport, list_adapters};
pub use error::DeviceError;
pub use gpu::{DeviceTensor, Gpu, GpuOptions};
pub use program::Program;

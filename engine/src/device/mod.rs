//! The only place that says wgpu: adapters, memory, pipelines, running a plan and timing it.

mod adapter;
mod error;
mod gpu;
mod pace;
mod pipelines;
mod probe;
mod program;
mod timing;
mod transfer;
mod trusted;

pub use adapter::{AdapterChoice, AdapterReport, list_adapters};
pub use error::DeviceError;
pub use gpu::{DeviceTensor, Gpu, GpuOptions};
pub use program::Program;
pub use timing::{Clock, DispatchTime, HostTime};

//! The only place that says wgpu: adapters, memory, pipelines, running a plan and timing it.

mod adapter;
mod error;
mod faults;
mod gpu;
mod in_flight;
mod pace;
mod pipelines;
mod probe;
mod program;
mod tally;
mod timing;
mod trace;
mod transfer;
mod trusted;
mod watchdog;

pub use adapter::{AdapterChoice, AdapterReport, list_adapters};
pub use error::DeviceError;
pub use faults::FaultPlan;
pub use gpu::{DeviceTensor, Gpu, GpuOptions};
pub use program::Program;
pub use tally::Tally;
pub use timing::{Clock, DispatchTime, HostTime};
pub use trace::{Range, Traced};
pub(crate) use transfer::Readback;

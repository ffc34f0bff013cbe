//! What the benches share: the adapter, and waiting for it.

use std::time::Duration;

use criterion::Criterion;
use engine::device::{AdapterChoice, DeviceTensor, Gpu};
use kernels::TensorType;
use pollster::block_on;

/// An open device, and a tensor whose reading waits for all that was queued before.
pub struct Bench {
    /// The device.
    pub gpu: Gpu,
    fence: DeviceTensor,
}

impl Bench {
    /// Opens the adapter that `PHOTOGRAM_ADAPTER` names as `--adapter` does, and prints which.
    ///
    /// # Panics
    /// If there is none: a bench without an adapter measures nothing.
    pub fn open() -> Self {
        let choice = match std::env::var("PHOTOGRAM_ADAPTER") {
            Ok(name) => name.parse().unwrap_or_else(|never: std::convert::Infallible| match never {}),
            Err(_) => AdapterChoice::Auto,
        };
        let gpu = block_on(Gpu::open(choice)).unwrap_or_else(|e| panic!("{e}"));
        println!("adapter: {} ({})", gpu.adapter_name(), gpu.driver());
        let fence = gpu.allocate("fence", TensorType::f32([1])).unwrap_or_else(|e| panic!("{e}"));
        Bench { gpu, fence }
    }

    /// Waits until everything queued so far has run.
    ///
    /// # Panics
    /// If the device fails.
    pub fn wait(&self) {
        block_on(self.gpu.read(&self.fence)).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Criterion with few samples: one run of a kernel or a model is long, and varies little.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args()
}

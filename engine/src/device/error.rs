//! What can go wrong on a device.

use std::time::Duration;

/// A failure of the device, not of what it was asked to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no adapter, or none of the name asked for.
    #[error("no adapter {wanted}; found {found}")]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// Adapters there are.
        found: String,
    },
    /// The adapter would not give a device.
    #[error("{adapter}: {reason}")]
    NotOpened {
        /// The adapter.
        adapter: String,
        /// Its words.
        reason: String,
    },
    /// A buffer could not be had.
    #[error("out of GPU memory: '{label}' takes {bytes} bytes, {held} are held already")]
    OutOfMemory {
        /// The buffer.
        label: String,
        /// Its size.
        bytes: u64,
        /// Bytes this process holds on the device.
        held: u64,
    },
    /// The device stopped answering, or its driver gave up.
    #[error("GPU lost: {reason}")]
    Lost {
        /// The driver's words.
        reason: String,
    },
    /// Nothing that the device was given has finished for long.
    #[error("GPU hung: it has not finished what it was given for {} s", .waited.as_secs_f64().ceil())]
    Hung {
        /// How long.
        waited: Duration,
    },
    /// wgpu refused a call: a bug here.
    #[error("internal: {message}")]
    Refused {
        /// wgpu's message.
        message: String,
    },
}

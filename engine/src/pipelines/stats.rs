//! What a run took.

/// Dispatches, pipelines and bytes. Seconds are the caller's to take: a browser has other clocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Dispatches of one evaluation of the denoiser, guidance included.
    pub denoiser_dispatches: usize,
    /// Dispatches that depend on the prompt alone and run once.
    pub prompt_dispatches: usize,
    /// Dispatches of the decoder.
    pub decoder_dispatches: usize,
    /// Floating-point operations of one evaluation of the denoiser.
    pub denoiser_flops: u64,
    /// Pipelines compiled in this process.
    pub pipelines: usize,
    /// The most bytes of device buffers held at once.
    pub peak_bytes: u64,
    /// The adapter's name.
    pub adapter: String,
    /// Backend, driver and version.
    pub driver: String,
}

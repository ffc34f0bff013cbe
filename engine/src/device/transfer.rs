//! Bytes to and from the device.
//!
//! Weights go through a ring of mapped buffers of our own: wgpu's hidden staging memory turns a failed allocation into a
//! lost device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::HostTensor;

use super::error::DeviceError;
use super::gpu::{Allocation, DeviceTensor, Gpu, Submission};

/// Buffers in the ring: one is filled while the other's copy runs. Uploads at the same time take more.
const RING: usize = 2;
/// Bytes of each.
const RING_BYTES: usize = 16 << 20;
/// Uploads up to this size go through wgpu's own staging, which does not wait for work in flight.
const SMALL: usize = 64 << 10;

/// The staging ring.
#[derive(Default)]
pub(super) struct Staging {
    /// Buffers that were ever made.
    made: usize,
    /// Those that nobody fills, the one that has waited longest first.
    free: VecDeque<Staged>,
}

/// A buffer of the ring, and the copy out of it that may still run.
struct Staged {
    buffer: Arc<Allocation>,
    copy: Option<Submission>,
}

impl Staging {
    fn create(gpu: &Gpu) -> Result<Staged, DeviceError> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let buffer = gpu.create_buffer("staging", RING_BYTES as u64, usage)?;
        Ok(Staged { buffer, copy: None })
    }

    /// A buffer for one upload alone: while it is mapped nobody else may map it.
    fn take(gpu: &Gpu) -> Result<Staged, DeviceError> {
        let free = {
            let mut ring = gpu.staging();
            if ring.made < RING { None } else { ring.free.pop_front() }
        };
        if let Some(staged) = free {
            return Ok(staged);
        }
        let staged = Staging::create(gpu)?;
        gpu.staging().made += 1;
        Ok(staged)
    }

    fn give_back(&mut self, staged: Staged) {
        if self.free.len() < RING {
            self.free.push_back(staged);
        }
    }
}

impl Gpu {
    /// The most bytes that the ring's buffers have after uploads of up to `bytes`, one after the other; they stay for the next.
    pub(crate) fn staging_bytes(bytes: u64) -> u64 {
        if bytes > SMALL as u64 { (RING * RING_BYTES) as u64 } else { 0 }
    }

    /// Writes `bytes` into a tensor's buffer from byte `offset` on. Later work on this device sees them.
    ///
    /// # Errors
    /// [`DeviceError`] if the device fails.
    pub async fn upload_bytes(
        &self,
        to: &DeviceTensor,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        if bytes.len() <= SMALL {
            self.queue().write_buffer(to.buffer(), offset, bytes);
            return self.check();
        }
        let mut at = offset;
        for chunk in bytes.chunks(RING_BYTES) {
            let Staged { buffer: staging, copy } = Staging::take(self)?;
            // For its own copy alone: what was queued later may run on.
            if let Some(copy) = copy {
                self.wait(copy).await?;
            }
            self.finish_mapping(Mapping::begin(&staging.buffer, wgpu::MapMode::Write)).await?;
            let size = chunk.len() as u64;
            let mapped = staging.buffer.slice(..size).get_mapped_range_mut();
            let mut mapped = mapped.map_err(|e| DeviceError::Refused { message: e.to_string() })?;
            mapped.slice(..).copy_from_slice(chunk);
            drop(mapped);
            staging.buffer.unmap();
            let mut encoder =
                self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&staging.buffer, 0, to.buffer(), at, size);
            let copy = Some(self.submit(encoder.finish()));
            self.staging().give_back(Staged { buffer: staging, copy });
            at += size;
        }
        self.check()
    }

    /// Writes a whole tensor.
    ///
    /// # Errors
    /// [`DeviceError`] if the device fails.
    ///
    /// # Panics
    /// If the types differ: a programming error.
    pub async fn upload(&self, to: &DeviceTensor, tensor: &HostTensor) -> Result<(), DeviceError> {
        assert_eq!(to.ty(), tensor.ty(), "type of the uploaded tensor");
        self.upload_bytes(to, 0, &tensor.to_bytes()).await
    }

    /// A new tensor on the device with the values of `tensor`.
    ///
    /// # Errors
    /// [`DeviceError`] if memory runs out or the device fails.
    pub async fn upload_new(&self, label: &str, tensor: &HostTensor) -> Result<DeviceTensor, DeviceError> {
        let to = self.allocate(label, tensor.ty().clone())?;
        self.upload(&to, tensor).await?;
        Ok(to)
    }

    /// Reads a tensor's bytes, padding included, once all work so far has run.
    ///
    /// # Errors
    /// [`DeviceError`] if memory runs out or the device fails.
    pub async fn read_bytes(&self, from: &DeviceTensor) -> Result<Vec<u8>, DeviceError> {
        self.read_part(from, 0, from.ty().bytes()).await
    }

    /// Reads `bytes` of a tensor's buffer from byte `offset` on, a multiple of 4, once all work so far has run.
    pub(super) async fn read_part(
        &self,
        from: &DeviceTensor,
        offset: u64,
        bytes: u64,
    ) -> Result<Vec<u8>, DeviceError> {
        let readback = self.begin_read(from, offset, bytes)?;
        self.finish_read(readback).await
    }

    /// Queues what [`Gpu::read_part`] does: the bytes are those that are there once all work so far has run.
    pub(crate) fn begin_read(
        &self,
        from: &DeviceTensor,
        offset: u64,
        bytes: u64,
    ) -> Result<Readback, DeviceError> {
        let size = bytes.next_multiple_of(4).max(4);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let to = self.create_buffer("readback", size, usage)?;
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(from.buffer(), offset, &to.buffer, 0, size);
        let submission = self.submit(encoder.finish());
        let mapping = Mapping::begin(&to.buffer, wgpu::MapMode::Read);
        Ok(Readback { to, bytes, submission, mapping })
    }

    /// The bytes of a [`Readback`], without waiting for work that was queued after it.
    pub(crate) async fn finish_read(&self, readback: Readback) -> Result<Vec<u8>, DeviceError> {
        let Readback { to, bytes, submission, mapping } = readback;
        self.wait(submission).await?;
        self.finish_mapping(mapping).await?;
        let mapped = to.buffer.slice(..bytes).get_mapped_range();
        let mapped = mapped.map_err(|e| DeviceError::Refused { message: e.to_string() })?;
        Ok(mapped.to_vec())
    }

    /// Reads a tensor once all work so far has run.
    ///
    /// # Errors
    /// [`DeviceError`] if memory runs out or the device fails.
    pub async fn read(&self, from: &DeviceTensor) -> Result<HostTensor, DeviceError> {
        Ok(HostTensor::from_bytes(from.ty().clone(), &self.read_bytes(from).await?).0)
    }

    /// Waits until a buffer is mapped whose work has run.
    async fn finish_mapping(&self, mapping: Mapping) -> Result<(), DeviceError> {
        self.look();
        while !mapping.done.load(Ordering::Acquire) {
            let submission = self.submit_nothing();
            self.wait(submission).await?;
        }
        if mapping.failed.load(Ordering::Acquire) {
            self.check()?;
            return Err(DeviceError::Lost { reason: "a buffer could not be mapped".to_owned() });
        }
        Ok(())
    }
}

/// Bytes of a tensor on their way to the host.
pub(crate) struct Readback {
    to: Arc<Allocation>,
    bytes: u64,
    submission: Submission,
    mapping: Mapping,
}

/// A buffer that is being mapped: noticed as soon as the device is looked at after the work that uses it.
struct Mapping {
    done: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
}

impl Mapping {
    fn begin(buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Self {
        let (done, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (set_done, set_failed) = (done.clone(), failed.clone());
        buffer.slice(..).map_async(mode, move |result| {
            set_failed.store(result.is_err(), Ordering::Release);
            set_done.store(true, Ordering::Release);
        });
        Mapping { done, failed }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kernels::TensorType;

    use super::*;
    use crate::device::{AdapterChoice, FaultPlan};

    #[test]
    fn nothing_waits_for_what_was_queued_later() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let patience = Some(Duration::from_millis(50));
        let ty = TensorType::f32([SMALL]);
        let x = HostTensor::from_fn(ty.clone(), |i| i as f64);
        let tensor = pollster::block_on(gpu.upload_new("x", &x)).expect("room");
        let read = || gpu.begin_read(&tensor, 0, ty.bytes()).expect("room");
        let early = read();
        // From here on nothing is known to be done.
        gpu.arm(FaultPlan { hang_at_submission: Some(0), patience, ..FaultPlan::default() });
        let late = read();
        assert_eq!(pollster::block_on(gpu.finish_read(early)).expect("it was done before"), x.to_bytes());
        for _ in 0..RING {
            pollster::block_on(gpu.upload(&tensor, &x)).expect("nothing uses these buffers");
        }
        let hung = |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::Hung { .. }));
        assert!(hung(pollster::block_on(gpu.upload(&tensor, &x))), "the first of them is still copied from");
        assert!(hung(pollster::block_on(gpu.finish_read(late)).map(drop)));
    }

    #[test]
    fn as_many_buffers_stay_as_take_turns() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let before = gpu.held_bytes();
        let staying = || (gpu.held_bytes() - before) as usize / RING_BYTES;
        gpu.arm(FaultPlan { fail_allocation: Some(0), ..FaultPlan::default() });
        assert!(Staging::take(&gpu).is_err());
        let take = || Staging::take(&gpu).expect("room");
        // Of one after the other each makes one until there are enough.
        let found = [(); 4].map(|()| {
            let staged = take();
            gpu.staging().give_back(staged);
            staying()
        });
        assert_eq!(found, [1, RING, RING, RING]);
        let at_once = [(); 3 * RING].map(|()| take());
        assert_eq!(staying(), 3 * RING);
        at_once.into_iter().for_each(|staged| gpu.staging().give_back(staged));
        assert_eq!(staying(), RING);
    }

    #[test]
    fn a_buffer_that_cannot_be_mapped_is_a_loss() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let mapping = |failed| Mapping {
            done: Arc::new(AtomicBool::new(true)),
            failed: Arc::new(AtomicBool::new(failed)),
        };
        assert!(pollster::block_on(gpu.finish_mapping(mapping(false))).is_ok());
        let error = pollster::block_on(gpu.finish_mapping(mapping(true))).expect_err("it failed");
        assert!(matches!(error, DeviceError::Lost { .. }), "{error}");
    }
}

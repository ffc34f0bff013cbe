//! How long dispatches take: by timestamps where the adapter has them, else by the wall time of repeated dispatches.
//!
//! Apart from [`Program::run`], which nothing here slows down. Browsers lack the clock of `std::time`.

use std::time::{Duration, Instant};

use kernels::TensorType;

use super::error::DeviceError;
use super::gpu::{DeviceTensor, Gpu, Submission};
use super::program::Program;
use crate::graph::Rate;

/// Dispatches whose two timestamps fit one query set.
const MAX_TIMED: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;
/// Wall time that a batch of one repeated dispatch takes at least: submitting and waiting are lost in it.
const LONG_ENOUGH: Duration = Duration::from_millis(10);
/// Repetitions of one dispatch in a batch.
const MAX_REPETITIONS: u64 = 4096;

/// What dispatches are timed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The adapter's, before and after each dispatch.
    Timestamps,
    /// The host's, around batches of one dispatch repeated.
    Wall,
}

/// A dispatch of a plan and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DispatchTime {
    /// Its operation: an index into [`crate::plan::Plan::steps`].
    pub step: usize,
    /// Its place among the operation's dispatches.
    pub dispatch: usize,
    /// Nanoseconds.
    pub ns: f64,
}

/// A run as the host sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTime {
    /// Command buffers.
    pub submissions: usize,
    /// Recording them.
    pub recording: Duration,
    /// Giving them to the driver, which may already work on them meanwhile: llvmpipe does.
    pub submitting: Duration,
    /// From the first recording until everything has run.
    pub wall: Duration,
}

impl Gpu {
    /// The most exact clock there is here.
    pub fn clock(&self) -> Clock {
        match self.device().features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            true => Clock::Timestamps,
            false => Clock::Wall,
        }
    }
}

impl Program {
    /// [`Program::run`], watched from the host until everything has run.
    ///
    /// # Errors
    /// [`DeviceError`] if the device fails.
    ///
    /// # Panics
    /// As [`Program::run`].
    pub async fn run_watched(
        &self,
        gpu: &Gpu,
        rates: &[Rate],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<HostTime, DeviceError> {
        let started = Instant::now();
        let launches = self.checked_launches(rates, inputs, outputs);
        let mut host = HostTime::default();
        for batch in self.batches(gpu, &launches) {
            let recording = Instant::now();
            let groups = self.groups(gpu, batch, inputs, outputs)?;
            let submission = gpu.checked(|| {
                let commands = self.recorded(gpu, batch, &groups);
                host.recording += recording.elapsed();
                let submitting = Instant::now();
                let submission = gpu.submit(commands);
                host.submitting += submitting.elapsed();
                submission
            })?;
            host.submissions += 1;
            self.throttle(gpu, submission, batch).await?;
        }
        gpu.wait(gpu.submit_nothing()).await?;
        host.wall = started.elapsed();
        Ok(host)
    }

    /// Runs everything of the given rates and times each dispatch, in order.
    ///
    /// # Errors
    /// [`DeviceError`] if the device fails.
    ///
    /// # Panics
    /// As [`Program::run`], and if there are no timestamps where they are asked for: a programming error.
    pub async fn run_timed(
        &self,
        gpu: &Gpu,
        clock: Clock,
        rates: &[Rate],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<Vec<DispatchTime>, DeviceError> {
        let launches = self.checked_launches(rates, inputs, outputs);
        let ns = match clock {
            Clock::Timestamps => self.time_by_timestamps(gpu, &launches, inputs, outputs).await?,
            Clock::Wall => self.time_by_wall(gpu, &launches, inputs, outputs).await?,
        };
        let times = launches.iter().zip(ns).map(|(launch, ns)| {
            let (step, dispatch) = self.numbers(*launch);
            DispatchTime { step, dispatch, ns }
        });
        Ok(times.collect())
    }

    async fn time_by_timestamps(
        &self,
        gpu: &Gpu,
        launches: &[usize],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<Vec<f64>, DeviceError> {
        let mut stamps = Vec::new();
        for batch in self.batches(gpu, launches).flat_map(|batch| batch.chunks(MAX_TIMED)) {
            let words = TensorType::f32([4 * batch.len()]);
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let to = DeviceTensor::new(words.clone(), gpu.create_buffer("timestamps", words.bytes(), usage)?);
            let submission = self.submit_stamped(gpu, batch, inputs, outputs, &to)?;
            self.throttle(gpu, submission, batch).await?;
            stamps.push(to);
        }
        let period = f64::from(gpu.queue().get_timestamp_period());
        let mut ns = Vec::with_capacity(launches.len());
        for stamps in &stamps {
            let bytes = gpu.read_bytes(stamps).await?;
            ns.extend(bytes.chunks_exact(16).map(|pair| period * ticks(pair) as f64));
        }
        Ok(ns)
    }

    /// [`Program::submit`] with a timestamp before and after each dispatch, which go `to` a buffer in pairs.
    fn submit_stamped(
        &self,
        gpu: &Gpu,
        batch: &[usize],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
        to: &DeviceTensor,
    ) -> Result<Submission, DeviceError> {
        let groups = self.groups(gpu, batch, inputs, outputs)?;
        let n_queries = 2 * batch.len() as u32;
        let inside = gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);
        gpu.checked(|| {
            let queries = gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: n_queries,
            });
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let numbered = batch.iter().zip(&groups).zip((0..n_queries).step_by(2));
            if inside {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for ((launch, group), query) in numbered {
                    pass.write_timestamp(&queries, query);
                    self.record(&mut pass, *launch, group);
                    pass.write_timestamp(&queries, query + 1);
                }
            } else {
                for ((launch, group), query) in numbered {
                    let writes = wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(query),
                        end_of_pass_write_index: Some(query + 1),
                    };
                    let descriptor =
                        wgpu::ComputePassDescriptor { timestamp_writes: Some(writes), ..Default::default() };
                    self.record(&mut encoder.begin_compute_pass(&descriptor), *launch, group);
                }
            }
            encoder.resolve_query_set(&queries, 0..n_queries, to.buffer(), 0);
            gpu.submit(encoder.finish())
        })
    }

    /// Repeating a dispatch is harmless: none reads what it writes.
    async fn time_by_wall(
        &self,
        gpu: &Gpu,
        launches: &[usize],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<Vec<f64>, DeviceError> {
        let mut ns = Vec::with_capacity(launches.len());
        for launch in launches {
            let most = most_repetitions(self.work(*launch), gpu.work_per_submission());
            let mut repetitions = 1;
            let wall = loop {
                let batch = vec![*launch; repetitions as usize];
                let started = Instant::now();
                let submission = self.submit(gpu, &batch, inputs, outputs)?;
                gpu.wait(submission).await?;
                let wall = started.elapsed();
                if wall >= LONG_ENOUGH || repetitions >= most {
                    break wall;
                }
                repetitions = more_repetitions(repetitions, wall).min(most);
            };
            ns.push(wall.as_nanos() as f64 / repetitions as f64);
        }
        Ok(ns)
    }
}

/// From a pair of timestamps in memory; 0 where a counter has started anew.
fn ticks(pair: &[u8]) -> u64 {
    let stamp = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| pair[at + i]));
    stamp(8).saturating_sub(stamp(0))
}

/// How often a dispatch of `work` may be repeated in a submission of at most `limit`.
fn most_repetitions(work: u64, limit: u64) -> u64 {
    (limit / work.max(1)).clamp(1, MAX_REPETITIONS)
}

/// How many repetitions to try after some that took too short a time: what should be enough, but at most 16 times as many,
/// for the first ones also pay for waking up.
fn more_repetitions(repetitions: u64, wall: Duration) -> u64 {
    let wanted = 1.2 * LONG_ENOUGH.as_secs_f64() / wall.as_secs_f64().max(1e-9);
    repetitions * (wanted.ceil() as u64).clamp(2, 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_timestamps_is_a_number_of_ticks() {
        let pair = |from: u64, to: u64| [from.to_le_bytes(), to.to_le_bytes()].concat();
        assert_eq!(ticks(&pair(1 << 40, (1 << 40) + 1_000)), 1_000);
        assert_eq!(ticks(&pair(5, 3)), 0);
    }

    #[test]
    fn repetitions_grow_until_a_batch_is_long_enough_and_stay_interruptible() {
        assert_eq!(more_repetitions(1, LONG_ENOUGH / 4), 5);
        assert_eq!(more_repetitions(3, LONG_ENOUGH), 6);
        assert_eq!(more_repetitions(1, Duration::ZERO), 16);
        assert_eq!(most_repetitions(0, 1_000), 1_000);
        assert_eq!(most_repetitions(300, 1_000), 3);
        assert_eq!(most_repetitions(3_000, 1_000), 1);
        assert_eq!(most_repetitions(1, u64::MAX), MAX_REPETITIONS);
    }
}

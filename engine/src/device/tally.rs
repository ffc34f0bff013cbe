//! How many values that are not finite the operations of a program have seen: counted by kernels that read them anyway.

use kernels::TALLY_BYTES;

use super::error::DeviceError;
use super::gpu::Gpu;
use super::program::Program;
use super::transfer::Readback;
use crate::plan::Place;

/// An operation whose first operand is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Module path.
    pub name: String,
    /// Operation.
    pub op: &'static str,
    /// Values that are infinite or not a number.
    pub count: usize,
    /// Of how many.
    pub total: usize,
}

impl Program {
    /// Forgets what was counted.
    pub fn clear_tallies(&self, gpu: &Gpu) {
        let Some(slot) = self.plan().tallies else { return };
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.clear_buffer(self.tensor(Place::Slot(slot), &[], &[]).buffer(), 0, None);
        gpu.submit(encoder.finish());
    }

    /// Operations that have seen values which are not finite since [`Program::clear_tallies`], in the order in which they run; waits
    /// for all work so far.
    ///
    /// # Errors
    /// [`DeviceError`] if memory runs out or the device fails.
    pub async fn tallies(&self, gpu: &Gpu) -> Result<Vec<Tally>, DeviceError> {
        match self.begin_tallies(gpu)? {
            Some(readback) => self.finish_tallies(gpu, readback).await,
            None => Ok(Vec::new()),
        }
    }

    /// Queues the reading of the counts as they are once all work so far has run; `None` if nothing is counted.
    pub(crate) fn begin_tallies(&self, gpu: &Gpu) -> Result<Option<Readback>, DeviceError> {
        let slot = self.plan().tallies;
        let read =
            |slot| gpu.begin_read(self.tensor(Place::Slot(slot), &[], &[]), 0, self.plan().slots[slot]);
        slot.map(read).transpose()
    }

    /// [`Program::tallies`], of what was read.
    pub(crate) async fn finish_tallies(
        &self,
        gpu: &Gpu,
        readback: Readback,
    ) -> Result<Vec<Tally>, DeviceError> {
        let counts = gpu.finish_read(readback).await?;
        let tally = |(step, offset): (&crate::plan::PlanStep, u64)| {
            let count: u32 = bytemuck::pod_read_unaligned(&counts[offset as usize..][..TALLY_BYTES as usize]);
            let total = step.input_types[0].shape.elements();
            (count > 0).then(|| Tally {
                name: step.name.clone(),
                op: step.op.name(),
                count: count as usize,
                total,
            })
        };
        let counting = self.plan().steps.iter().filter_map(|step| Some((step, step.tally?.1)));
        Ok(counting.filter_map(tally).collect())
    }
}

//! What every operation of a program gives: for finding the one where numbers go wrong.

use std::sync::{MutexGuard, PoisonError};

use kernels::{HostTensor, TensorType};

use super::error::DeviceError;
use super::gpu::{DeviceTensor, Gpu};
use super::program::Program;
use crate::graph::Rate;
use crate::plan::PlanStep;

/// What the values of a tensor lie within.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Least finite value; infinite if there is none.
    pub min: f32,
    /// Greatest finite value.
    pub max: f32,
    /// Values that are infinite or not a number.
    pub non_finite: usize,
    /// All values.
    pub count: usize,
}

impl Range {
    /// That of `values`.
    pub fn of(values: &[f32]) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        Range {
            min: finite().fold(f32::INFINITY, f32::min),
            max: finite().fold(f32::NEG_INFINITY, f32::max),
            non_finite: values.iter().filter(|value| !value.is_finite()).count(),
            count: values.len(),
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3e} to {:.3e}", self.min, self.max)?;
        match self.non_finite {
            0 => Ok(()),
            count => write!(f, " and {count} not finite"),
        }
    }
}

/// What one operation gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// The part of a picture's making: `text_encoder`, `step 3`, `decoder`.
    pub stage: String,
    /// Module path.
    pub name: String,
    /// Operation.
    pub op: &'static str,
    /// How it was computed.
    pub variant: &'static str,
    /// Type of the result.
    pub ty: TensorType,
    /// What the result lies within.
    pub output: Range,
    /// What the operands lie within, if the result is not finite.
    pub inputs: Vec<Range>,
}

/// What is watched while programs run.
#[derive(Debug)]
pub(super) struct Watch {
    stage: String,
    seen: Vec<Traced>,
    /// Whether nothing is run any more after an operation whose result is not finite.
    stops: bool,
}

impl Watch {
    fn is_over(&self) -> bool {
        self.stops && self.seen.last().is_some_and(|last| last.output.non_finite > 0)
    }
}

impl Gpu {
    /// From here on, programs run one operation after the other, and what each gives is kept until [`Gpu::traced`]. With `stops`,
    /// up to the first result that is not finite, and only that is kept.
    pub fn trace(&self, stops: bool) {
        *self.watch() = Some(Watch { stage: String::new(), seen: Vec::new(), stops });
    }

    /// Names what runs from here on, if it is traced.
    pub fn trace_stage(&self, stage: impl FnOnce() -> String) {
        if let Some(watch) = self.watch().as_mut() {
            watch.stage = stage();
        }
    }

    /// What was traced since the last call; tracing goes on.
    pub fn traced(&self) -> Vec<Traced> {
        self.watch().as_mut().map(|watch| std::mem::take(&mut watch.seen)).unwrap_or_default()
    }

    /// Ends tracing; what was traced since the last call.
    pub fn end_trace(&self) -> Vec<Traced> {
        self.watch().take().map(|watch| watch.seen).unwrap_or_default()
    }

    /// Whether anything is traced.
    pub fn is_traced(&self) -> bool {
        self.watch().is_some()
    }

    fn watch(&self) -> MutexGuard<'_, Option<Watch>> {
        self.watched().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Program {
    /// [`Program::run`] while the device is traced.
    pub(super) async fn run_traced(
        &self,
        gpu: &Gpu,
        rates: &[Rate],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<(), DeviceError> {
        let launches = self.checked_launches(rates, inputs, outputs);
        for launches in launches.chunk_by(|a, b| self.numbers(*a).0 == self.numbers(*b).0) {
            if gpu.watch().as_ref().is_some_and(Watch::is_over) {
                return Ok(());
            }
            for launch in launches {
                let submission = self.submit(gpu, &[*launch], inputs, outputs)?;
                gpu.wait(submission).await?;
            }
            let step = &self.plan().steps[self.numbers(launches[0]).0];
            let read =
                async |tensor: &DeviceTensor, offset: u64, ty: &TensorType| -> Result<Range, DeviceError> {
                    let bytes = gpu.read_part(tensor, offset, ty.bytes()).await?;
                    Ok(Range::of(HostTensor::from_bytes(ty.clone(), &bytes).0.data()))
                };
            let output = read(self.tensor(step.output, inputs, outputs), 0, &step.output_type).await?;
            let mut ranges = Vec::new();
            if output.non_finite > 0 {
                for (i, ty) in step.input_types.iter().enumerate() {
                    let tensor = self.tensor(step.inputs[i], inputs, outputs);
                    ranges.push(read(tensor, step.input_offsets[i], ty).await?);
                }
            }
            self.keep(gpu, step, output, ranges);
        }
        gpu.check()
    }

    fn keep(&self, gpu: &Gpu, step: &PlanStep, output: Range, inputs: Vec<Range>) {
        if let Some(watch) = gpu.watch().as_mut()
            && (!watch.stops || output.non_finite > 0)
        {
            watch.seen.push(Traced {
                stage: watch.stage.clone(),
                name: step.name.clone(),
                op: step.op.name(),
                variant: step.variant.name,
                ty: step.output_type.clone(),
                output,
                inputs,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_what_is_finite() {
        let range = Range::of(&[1.0, f32::NAN, -2.5, f32::INFINITY, 4.0, f32::NEG_INFINITY]);
        assert_eq!(range, Range { min: -2.5, max: 4.0, non_finite: 3, count: 6 });
        assert_eq!(range.to_string(), "-2.500e0 to 4.000e0 and 3 not finite");
    }
}

//! The kernels of a model at its own shapes, each in the variant that plans take.

use kernels::HostTensor;
use kernels::check::Hard;

use super::{Expected, UNWRITTEN, Verdict, described_attributes};
use crate::device::{Gpu, Program};
use crate::error::Error;
use crate::graph::{Graph, Rate};
use crate::plan::{Choice, build_plan};
use crate::tuning::Task;

/// Runs the variant that plans for `gpu` take for `task` on every kind of input, and compares a sample of each result, or all of
/// it, with the reference.
///
/// # Errors
/// [`Error`] if memory runs out or the device fails. A wrong result is a [`Verdict`], not an error.
pub async fn validate_task(gpu: &Gpu, task: &Task) -> Result<Vec<Verdict>, Error> {
    let (op, inputs) = (task.op.as_ref(), task.inputs.as_slice());
    let mut graph = Graph::new();
    let ids: Vec<_> = inputs.iter().map(|ty| graph.input("operand", ty.clone(), Rate::Step)).collect();
    let result = graph.apply_arc(op.name(), task.op.clone(), &ids)?;
    graph.output(result);
    let output = graph.ty(result).clone();
    let plan = build_plan(&graph, gpu.caps(), Choice::Measured(gpu.choices()))?;
    let Some(variant) = plan.steps.first().map(|step| step.variant.name) else { return Ok(Vec::new()) };
    let program = Program::compile(gpu, plan, Vec::new())?;

    let scales = op.operand_scales(inputs);
    let mut verdicts = Vec::with_capacity(Hard::ALL.len());
    for hard in Hard::ALL {
        let operands: Vec<HostTensor> = inputs
            .iter()
            .enumerate()
            .map(|(i, ty)| hard.scaled(ty, i as u64 + 1, scales.get(i).copied().unwrap_or(1.0)))
            .collect();
        let mut uploaded = Vec::with_capacity(operands.len());
        for operand in &operands {
            uploaded.push(gpu.upload_new("operand", operand).await?);
        }
        let expected = Expected::surely_of(op, inputs, &operands);
        drop(operands);
        let to = gpu.allocate("result", output.clone())?;
        gpu.upload_bytes(&to, 0, &vec![UNWRITTEN; output.bytes() as usize]).await?;
        program.run(gpu, &[Rate::Step], &uploaded, std::slice::from_ref(&to)).await?;
        let (found, padding_is_zero) = HostTensor::from_bytes(output.clone(), &gpu.read_bytes(&to).await?);
        // One of the two is known.
        let Some(comparison) = expected.compare(op, inputs, &found).into_iter().next() else { continue };
        verdicts.push(Verdict {
            op: op.name(),
            attributes: described_attributes(op),
            variant,
            inputs: inputs.to_vec(),
            hard,
            comparison,
            padding_is_zero,
        });
    }
    Ok(verdicts)
}

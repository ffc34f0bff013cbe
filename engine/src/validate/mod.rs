//! Comparing shader variants with their operation's reference, on this adapter.
//!
//! Called by `photogram validate`, `photogram tune` and the kernel tests: one program decides what is right.

mod cases;
mod expected;
mod shapes;

use kernels::check::{Comparison, Hard, compare};
use kernels::{Case, HostTensor, Op, TensorType, Variant};

use crate::device::{DeviceError, Gpu, Program};
use crate::graph::{Graph, GraphError, Rate};
use crate::plan::{Choice, PlanError, build_plan};

pub use cases::{CaseReport, Cases};
pub use expected::Against;
pub(crate) use expected::Expected;
pub use shapes::validate_task;

/// What a result's bytes are before a kernel runs, which has to write every element: large finite numbers in every type, which no
/// reference gives.
pub const UNWRITTEN: u8 = 0x7b;

/// The operands of `case` of one kind.
pub fn operands(case: &Case, hard: Hard) -> Vec<HostTensor> {
    case.inputs.iter().enumerate().map(|(i, ty)| hard.tensor(ty, i as u64 + 1)).collect()
}

/// One variant on one case and one kind of input.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Operation.
    pub op: &'static str,
    /// Its attributes, `name=value` with spaces between.
    pub attributes: String,
    /// Variant.
    pub variant: &'static str,
    /// Operand types.
    pub inputs: Vec<TensorType>,
    /// Kind of values.
    pub hard: Hard,
    /// What the comparison found.
    pub comparison: Comparison,
    /// Whether the padding after each row of the result is zero, as every kernel may count on.
    pub padding_is_zero: bool,
}

impl Verdict {
    /// What is to be said of the bytes that `variant` left in the buffer of its result.
    pub fn of(case: &Case, variant: &'static str, hard: Hard, expected: &HostTensor, bytes: &[u8]) -> Self {
        let (found, padding_is_zero) = HostTensor::from_bytes(expected.ty().clone(), bytes);
        Verdict {
            op: case.op.name(),
            attributes: described_attributes(case.op.as_ref()),
            variant,
            inputs: case.inputs.clone(),
            hard,
            comparison: compare(expected, &found, case.op.class(&case.inputs), expected.ty().dtype),
            padding_is_zero,
        }
    }

    /// Whether the variant is right.
    pub fn pass(&self) -> bool {
        self.comparison.pass && self.padding_is_zero
    }
}

/// Why a case could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// The case's operands do not fit its operation.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The case does not fit the adapter.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Runs every variant of `case` on every kind of input.
///
/// # Errors
/// [`ValidateError`]: the case could not be run. A wrong result is a [`Verdict`], not an error.
pub async fn validate_case(gpu: &Gpu, case: &Case) -> Result<Vec<Verdict>, ValidateError> {
    validate_variants(gpu, case, &Hard::ALL, |_| true).await
}

/// [`validate_case`] for the variants that are wanted, on these kinds of input.
///
/// # Errors
/// As [`validate_case`].
pub(crate) async fn validate_variants(
    gpu: &Gpu,
    case: &Case,
    kinds: &[Hard],
    is_wanted: impl Fn(&Variant) -> bool,
) -> Result<Vec<Verdict>, ValidateError> {
    let mut graph = Graph::new();
    let ids: Vec<_> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(i, ty)| graph.input(&format!("operand {i}"), ty.clone(), Rate::Step))
        .collect();
    let result = graph.apply_arc(case.op.name(), case.op.clone(), &ids)?;
    graph.output(result);
    let output = graph.ty(result).clone();

    let variants = case.op.variants(&case.inputs, gpu.caps());
    let variants = variants.map_err(|source| PlanError { node: case.op.name().to_owned(), source })?;
    let mut programs = Vec::with_capacity(variants.len());
    for (number, _) in variants.iter().enumerate().filter(|(_, variant)| is_wanted(variant)) {
        let plan = build_plan(&graph, gpu.caps(), Choice::Number(number))?;
        let name = plan.steps[0].variant.name;
        programs.push((name, Program::compile(gpu, plan, Vec::new())?));
    }

    let mut verdicts = Vec::new();
    for hard in kinds.iter().copied() {
        let operands = operands(case, hard);
        let expected = case.op.reference(&operands.iter().collect::<Vec<_>>());
        let mut uploaded = Vec::with_capacity(operands.len());
        for operand in &operands {
            uploaded.push(gpu.upload_new("operand", operand).await?);
        }
        for (variant, program) in &programs {
            let to = gpu.allocate("result", output.clone())?;
            gpu.upload_bytes(&to, 0, &vec![UNWRITTEN; output.bytes() as usize]).await?;
            program.run(gpu, &[Rate::Step], &uploaded, std::slice::from_ref(&to)).await?;
            let bytes = gpu.read_bytes(&to).await?;
            verdicts.push(Verdict::of(case, variant, hard, &expected, &bytes));
        }
    }
    Ok(verdicts)
}

/// `name=value` with spaces between.
fn described_attributes(op: &dyn Op) -> String {
    let attributes = op.attributes();
    let attributes: Vec<String> = attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    attributes.join(" ")
}

#[cfg(test)]
mod tests {
    use kernels::DType;

    use super::*;

    #[test]
    fn what_is_not_written_is_finite_in_every_type() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let ty = TensorType::new(dtype, [1, 4]);
            let bytes = vec![UNWRITTEN; ty.bytes() as usize];
            let (found, _) = HostTensor::from_bytes(ty, &bytes);
            assert!(found.data().iter().all(|value| value.is_finite() && *value > 6e4), "{dtype}");
        }
    }
}

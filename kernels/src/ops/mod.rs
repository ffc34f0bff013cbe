//! One file per operation. Adding one: its file here, its WGSL under `wgsl/`, and a line below.

mod activation;
mod attention;
mod bands;
mod binary;
mod cast;
mod clamp;
mod concat;
mod contraction;
mod conv2d;
mod epilogue;
mod gather;
mod geglu;
mod group_norm;
mod layer_norm;
mod linear_combination;
mod match_deviation;
mod matmul;
mod moments;
mod non_finite;
mod normalize;
mod permute;
mod reshape;
mod rgb;
mod rms_norm;
mod row_norm;
mod scale;
mod slice;
mod strided;
mod upsample;

pub use activation::{Activate, Activation};
pub use attention::Attention;
pub use binary::{Add, Mul};
pub use cast::Cast;
pub use clamp::Clamp;
pub use concat::Concat;
pub use conv2d::Conv2d;
pub use epilogue::Epilogue;
pub use geglu::Geglu;
pub use group_norm::GroupNorm;
pub use layer_norm::LayerNorm;
pub use linear_combination::LinearCombination;
pub use match_deviation::MatchDeviation;
pub use matmul::MatMul;
pub use non_finite::NonFinite;
pub use normalize::Normalize;
pub use permute::Permute;
pub use reshape::Reshape;
pub use rgb::{LatentsToRgb, ToRgb};
pub use rms_norm::RmsNorm;
pub use scale::Scale;
pub use slice::Slice;
pub use upsample::Upsample;

use crate::op::{Bind, Caps, Case, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::types::{DType, Shape, TensorType};
use crate::wgsl::Shader;
use bands::bands;

/// Every comparison of every operation: what `photogram validate` runs and the kernel tests repeat.
pub fn cases() -> Vec<Case> {
    let exemplars: &[&dyn Op] = &[
        &Activate(Activation::Silu),
        &Add,
        &Mul,
        &Cast { dtype: DType::F16 },
        &Clamp { limit: 1.0 },
        &MatMul::default(),
        &Conv2d::default(),
        &GroupNorm { groups: 32, eps: 1e-5, silu: false },
        &Normalize { groups: 1, silu: false },
        &LayerNorm { eps: 1e-5 },
        &RmsNorm { eps: 1e-5 },
        &Attention::new(1),
        &Scale { factor: 1.0 },
        &Geglu::HALVES,
        &Upsample { height: 1, width: 1 },
        &Concat { axis: 0 },
        &Slice { axis: 0, start: 0, length: 1 },
        &Permute { axes: Vec::new() },
        &LinearCombination { terms: 1 },
        &MatchDeviation,
        &ToRgb,
        &LatentsToRgb,
        &NonFinite,
    ];
    exemplars.iter().flat_map(|op| op.cases()).collect()
}

/// An f32 operand of a test case.
fn f32(shape: impl Into<Shape>) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// An f16 operand of a test case.
fn f16(shape: impl Into<Shape>) -> TensorType {
    TensorType::new(DType::F16, shape)
}

fn check_count(op: &dyn Op, inputs: &[TensorType], expected: usize) -> Result<(), OpError> {
    if inputs.len() == expected {
        return Ok(());
    }
    Err(OpError::OperandCount { op: op.name(), expected, found: inputs.len() })
}

/// Activations are f32 or f16; bf16 is for weights.
fn check_float(op: &dyn Op, operand: &'static str, ty: &TensorType) -> Result<(), OpError> {
    if ty.strips {
        return Err(shape_error(op, operand, "whole rows, for strips are for weights", ty));
    }
    match ty.dtype {
        DType::F32 | DType::F16 => Ok(()),
        found => Err(OpError::DType { op: op.name(), operand, expected: "f32 or f16", found }),
    }
}

fn check_shape(
    op: &dyn Op,
    operand: &'static str,
    ty: &TensorType,
    expected: &[usize],
) -> Result<(), OpError> {
    if *ty.shape == *expected {
        return Ok(());
    }
    Err(shape_error(op, operand, format!("{}", Shape::from(expected)), ty))
}

fn shape_error(op: &dyn Op, operand: &'static str, expected: impl Into<String>, ty: &TensorType) -> OpError {
    OpError::Shape { op: op.name(), operand, expected: expected.into(), found: ty.shape.clone() }
}

/// Refuses an operand that has to be bound whole and exceeds the adapter's limit.
fn check_whole(op: &'static str, operand: &'static str, ty: &TensorType, caps: &Caps) -> Result<(), OpError> {
    if ty.bytes() <= caps.max_binding_bytes {
        return Ok(());
    }
    Err(OpError::TooLarge { op, operand, bytes: ty.bytes(), limit: caps.max_binding_bytes })
}

/// The variant of an element-by-element operation whose operands all have the result's shape: operand `i` at binding `i`,
/// the result after them, `Params { quads, ..extra }`, and 64 quads to a workgroup.
fn flat_variant(
    name: &'static str,
    shader: Shader,
    inputs: &[TensorType],
    output: &TensorType,
    extra: Vec<u32>,
    caps: &Caps,
) -> Result<Vec<Variant>, OpError> {
    let mut operands: Vec<&TensorType> = inputs.iter().collect();
    operands.push(output);
    let dispatches = bands(name, &operands, caps)?
        .into_iter()
        .map(|(first, rows)| {
            let mut binds: Vec<Bind> = inputs
                .iter()
                .enumerate()
                .map(|(i, ty)| Bind::read(i as u32, Operand::Input(i)).rows(ty, first, rows))
                .collect();
            binds.push(Bind::write(inputs.len() as u32, Operand::Output).rows(output, first, rows));
            let quads = rows * output.quads();
            let mut params = vec![quads as u32];
            params.extend(&extra);
            let grid = fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis);
            Dispatch { shader: shader.clone(), binds, params, grid, tile_flops: 0 }
        })
        .collect();
    Ok(vec![Variant { name, dispatches, scratch: Vec::new() }])
}

#[cfg(test)]
mod sampled {
    use super::cases;
    use crate::check::Hard;
    use crate::host_tensor::HostTensor;

    #[test]
    fn elements_of_a_reference_are_the_references() {
        let mut operations = std::collections::BTreeSet::new();
        for case in cases() {
            let operands: Vec<HostTensor> =
                case.inputs.iter().enumerate().map(|(i, ty)| Hard::Noise.tensor(ty, i as u64 + 1)).collect();
            let operands: Vec<&HostTensor> = operands.iter().collect();
            let Some(none) = case.op.reference_at(&operands, &[]) else { continue };
            assert!(none.is_empty());
            let whole = case.op.reference(&operands);
            let positions: Vec<usize> = (0..whole.data().len()).step_by(3).collect();
            let found = case.op.reference_at(&operands, &positions).expect("offered before");
            let expected: Vec<f32> = positions.iter().map(|at| whole.data()[*at]).collect();
            assert_eq!(found.len(), expected.len(), "{case:?}");
            for (found, expected) in found.iter().zip(&expected) {
                // Sums in another order round to another neighbour.
                assert!(
                    (found - expected).abs() <= 1e-3 * expected.abs() + 1e-6,
                    "{found} {expected} {case:?}"
                );
            }
            operations.insert(case.op.name());
        }
        assert_eq!(operations.into_iter().collect::<Vec<_>>(), ["attention", "conv2d", "matmul"]);
    }
}

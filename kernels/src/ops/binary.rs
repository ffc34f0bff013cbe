//! Element-by-element arithmetic on two operands, with broadcasting.

use std::any::Any;

use super::{check_count, check_float, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Variant, fold_grid};
use crate::ops::bands::bands;
use crate::types::TensorType;
use crate::wgsl::Shader;

/// `y = a + b`.
///
/// # Shapes    `a, b`: equal ranks of at most 4, f32 | f16; an extent of 1 is repeated -> `y` of `a`'s dtype
/// # Numerics  class Elementwise
#[derive(Clone, Debug)]
pub struct Add;

/// `y = a * b`.
///
/// # Shapes    `a, b`: equal ranks of at most 4, f32 | f16; an extent of 1 is repeated -> `y` of `a`'s dtype
/// # Numerics  class Elementwise
#[derive(Clone, Debug)]
pub struct Mul;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        infer(self, inputs)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        reference(self, inputs, |a, b| a + b)
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        variants(self, "ADD", inputs, caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        cost(self, inputs)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        operand_types().into_iter().map(|types| Case::new(Add, types)).collect()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Op for Mul {
    fn name(&self) -> &'static str {
        "mul"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        infer(self, inputs)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        reference(self, inputs, |a, b| a * b)
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        variants(self, "MUL", inputs, caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        cost(self, inputs)
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        operand_types().into_iter().map(|types| Case::new(Mul, types)).collect()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn infer(op: &dyn Op, inputs: &[TensorType]) -> Result<TensorType, OpError> {
    check_count(op, inputs, 2)?;
    let (a, b) = (&inputs[0], &inputs[1]);
    check_float(op, "a", a)?;
    check_float(op, "b", b)?;
    let mismatch = || shape_error(op, "b", format!("a shape that broadcasts with {}", a.shape), b);
    if a.shape.len() != b.shape.len() || a.shape.len() > 4 {
        return Err(mismatch());
    }
    let extents = a.shape.iter().zip(b.shape.iter());
    let shape: Option<Vec<usize>> =
        extents.map(|(&x, &y)| (x == y || x == 1 || y == 1).then_some(if x == 1 { y } else { x })).collect();
    Ok(TensorType::new(a.dtype, shape.ok_or_else(mismatch)?))
}

fn reference(op: &dyn Op, inputs: &[&HostTensor], f: impl Fn(f64, f64) -> f64) -> HostTensor {
    let (a, b) = (inputs[0], inputs[1]);
    let y = infer(op, &[a.ty().clone(), b.ty().clone()]).expect("inferred");
    HostTensor::from_fn(y.clone(), |i| f(broadcast(a, &y, i), broadcast(b, &y, i)))
}

/// The element of `x` that stands at row-major position `index` of the broadcast result.
fn broadcast(x: &HostTensor, y: &TensorType, index: usize) -> f64 {
    let (mut rest, mut at, mut stride) = (index, 0, 1);
    for (extent, own) in y.shape.iter().zip(x.shape().iter()).rev() {
        if *own > 1 {
            at += rest % extent * stride;
        }
        rest /= extent;
        stride *= own;
    }
    x.at(at)
}

/// The extents of a type before its innermost dimension, filled up with ones on the left to three.
fn outer(ty: &TensorType) -> [usize; 3] {
    let mut dims = [1; 3];
    let outer = &ty.shape[..ty.shape.len().saturating_sub(1)];
    dims[3 - outer.len()..].copy_from_slice(outer);
    dims
}

/// Quads from one index of each outer dimension to the next; 0 where the operand is repeated.
fn strides(ty: &TensorType) -> [usize; 3] {
    let [d0, d1, d2] = outer(ty);
    let row = ty.quads();
    [(d0, d1 * d2 * row), (d1, d2 * row), (d2, row)]
        .map(|(extent, stride)| if extent > 1 { stride } else { 0 })
}

fn variants(
    op: &dyn Op,
    flag: &'static str,
    inputs: &[TensorType],
    caps: &Caps,
) -> Result<Vec<Variant>, OpError> {
    let (a, b) = (&inputs[0], &inputs[1]);
    let y = infer(op, inputs)?;
    let shader = Shader::new("binary")
        .encoding("a", a.dtype)
        .encoding("b", b.dtype)
        .encoding("y", y.dtype)
        .flag(flag, true);
    // Operands of the result's shape are bound by bands; a repeated one is small and bound whole.
    let whole = |ty: &TensorType| ty.shape != y.shape;
    for (name, ty) in [("a", a), ("b", b)] {
        if whole(ty) {
            super::check_whole(op.name(), name, ty, caps)?;
        }
    }
    let banded: Vec<&TensorType> = [a, b, &y].into_iter().filter(|ty| !whole(ty)).collect();
    let [_, d1, d2] = outer(&y);
    let dispatches = bands(op.name(), &banded, caps)?
        .into_iter()
        .map(|(first, rows)| {
            let bind = |binding: usize, ty: &TensorType| {
                let bind = Bind::read(binding as u32, Operand::Input(binding));
                if whole(ty) { bind } else { bind.rows(ty, first, rows) }
            };
            let quads = rows * y.quads();
            let origin = |ty: &TensorType| if whole(ty) { 0 } else { first * y.quads() };
            let [a0, a1, a2] = strides(a);
            let [b0, b1, b2] = strides(b);
            let repeated = |ty: &TensorType| usize::from(ty.channels() == 1 && y.channels() > 1);
            let params = [quads, y.channels(), first, d1, d2, a0, a1, a2, b0, b1, b2, origin(a), origin(b)];
            let params = params.into_iter().chain([repeated(a), repeated(b)]).map(|v| v as u32).collect();
            Dispatch {
                shader: shader.clone(),
                binds: vec![bind(0, a), bind(1, b), Bind::write(2, Operand::Output).rows(&y, first, rows)],
                params,
                grid: fold_grid((quads as u64).div_ceil(64), caps.max_groups_per_axis),
                tile_flops: 0,
            }
        })
        .collect();
    Ok(vec![Variant { name: op.name(), dispatches, scratch: Vec::new() }])
}

fn cost(op: &dyn Op, inputs: &[TensorType]) -> Cost {
    let y = infer(op, inputs).expect("inferred");
    Cost::new(y.shape.elements() as u64, inputs, &y)
}

fn operand_types() -> Vec<[TensorType; 2]> {
    vec![
        [f32([1, 1]), f32([1, 1])],
        [f32([65, 7]), f32([65, 7])],
        [f32([9, 130]), f32([1, 130])],
        [f32([9, 30]), f32([9, 1])],
        [f32([1, 5]), f32([1, 1])],
        [f16([17, 10]), f16([17, 10])],
        [f16([17, 10]), f16([1, 10])],
        [f32([2, 3, 5, 6]), f32([2, 1, 1, 6])],
        [f32([2, 3, 5, 6]), f32([1, 1, 1, 1])],
        [f32([1, 3, 1, 6]), f32([2, 3, 4, 6])],
    ]
}

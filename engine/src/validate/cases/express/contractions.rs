//! Products of matrices.

use kernels::ops::{Epilogue, MatMul};
use kernels::{HostTensor, LANES, TensorType};

use super::super::{Recorded, host};
use super::{Arguments, Expressed, Skip, plain, same, vector};

/// `[.., K, N]` with rows of zeros up to a multiple of 4, from PyTorch's values by `at(batch, k, n)`.
fn matrix(
    ty: &Recorded,
    batches: &[usize],
    k: usize,
    n: usize,
    at: impl Fn(usize, usize, usize) -> f32,
) -> Result<HostTensor, Skip> {
    let dtype = host(ty, &ty.shape)?.ty().dtype;
    let rows = k.next_multiple_of(LANES);
    let shape: Vec<usize> = batches.iter().copied().chain([rows, n]).collect();
    Ok(HostTensor::from_fn(TensorType::new(dtype, shape), |i| {
        let (batch, row, column) = (i / n / rows, i / n % rows, i % n);
        if row < k { f64::from(at(batch, row, column)) } else { 0.0 }
    }))
}

pub(super) fn linear(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let weight = arguments.tensor("weight")?.clone();
    let bias = arguments.optional("bias")?.map(vector).transpose()?;
    let input = arguments.tensor("input")?;
    let ([n, k], Some(last)) = (weight.shape.as_slice(), input.shape.last()) else {
        return Err(format!("a weight of shape {:?}", weight.shape));
    };
    let (n, k) = (*n, *k);
    if *last != k {
        return Err(format!("rows of {last} on a weight of {k}"));
    }
    let shape: Vec<usize> = if input.shape.len() == 1 { vec![1, k] } else { input.shape.clone() };
    let w = matrix(&weight, &[], k, n, |_, row, column| weight.values[column * k + row])?;
    let mut operands = vec![host(input, &shape)?, w];
    let epilogue = Epilogue { bias: bias.is_some(), ..Epilogue::default() };
    operands.extend(bias);
    plain(MatMul::new(epilogue), operands)
}

pub(super) fn matmul(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let (mut other, mut input) = (arguments.tensor("other")?.clone(), arguments.tensor("input")?.clone());
    // Vectors are rows on the left, and columns on the right.
    if let [k] = input.shape[..] {
        input.shape = vec![1, k];
    }
    if let [k] = other.shape[..] {
        other.shape = vec![k, 1];
    }
    let rank = input.shape.len();
    if rank < 2 || other.shape.len() < 2 {
        return Err("products of scalars are none of ours".to_owned());
    }
    let [k, n] = [other.shape[other.shape.len() - 2], other.shape[other.shape.len() - 1]];
    if input.shape[rank - 1] != k {
        return Err(format!("rows of {} on {k} rows", input.shape[rank - 1]));
    }
    let batches = &other.shape[..other.shape.len() - 2];
    let w = matrix(&other, batches, k, n, |batch, row, column| other.values[(batch * k + row) * n + column])?;
    plain(MatMul::default(), vec![same(&input)?, w])
}

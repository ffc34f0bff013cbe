//! Products and convolutions.

use kernels::ops::{Conv2d, Epilogue, MatMul};
use kernels::{HostTensor, LANES, TensorType};
use serde_json::Value;

use super::super::{Recorded, host};
use super::arguments::Arguments;
use super::images::{channels_first, image};
use super::{Expressed, ResultShape, Skip, plain, same, single, vector};

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
    let other = arguments.tensor("other")?.clone();
    let input = arguments.tensor("input")?;
    let rank = input.shape.len();
    if rank < 2 || other.shape.len() < 2 {
        return Err("products of vectors are none of ours".to_owned());
    }
    let [k, n] = [other.shape[other.shape.len() - 2], other.shape[other.shape.len() - 1]];
    if input.shape[rank - 1] != k {
        return Err(format!("rows of {} on {k} rows", input.shape[rank - 1]));
    }
    let batches = &other.shape[..other.shape.len() - 2];
    let w = matrix(&other, batches, k, n, |batch, row, column| other.values[(batch * k + row) * n + column])?;
    plain(MatMul::default(), vec![same(input)?, w])
}

pub(super) fn conv2d(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    for (name, usual) in [("dilation", 1), ("groups", 1)] {
        let found = arguments.pair(name, usual)?;
        if found != [usual; 2] {
            return Err(format!("'{name}' = {found:?} is none of ours"));
        }
    }
    let stride = arguments.pair("stride", 1)?;
    let weight = arguments.tensor("weight")?.clone();
    let bias = arguments.optional("bias")?.map(vector).transpose()?;
    let [outputs, inputs, height, width] = weight.shape[..] else {
        return Err(format!("a weight of shape {:?}", weight.shape));
    };
    let padding = match arguments.attribute("padding").and_then(Value::as_str) {
        Some("valid") => [0; 4],
        Some("same") => {
            // What is odd goes to the bottom and to the right, as in torch.
            let [y, x] = [height - 1, width - 1];
            [y / 2, y - y / 2, x / 2, x - x / 2]
        }
        Some(other) => return Err(format!("padding '{other}'")),
        None => {
            let [y, x] = arguments.pair("padding", 0)?;
            [y, y, x, x]
        }
    };
    let x = image(arguments.tensor("input")?)?;
    let dtype = host(&weight, &weight.shape)?.ty().dtype;
    let rows = inputs.next_multiple_of(LANES);
    let w = HostTensor::from_fn(TensorType::new(dtype, [height, width, rows, outputs]), |i| {
        let (tap, row, column) = (i / outputs / rows, i / outputs % rows, i % outputs);
        if row >= inputs {
            return 0.0;
        }
        f64::from(weight.values[(column * inputs + row) * height * width + tap])
    });
    let mut operands = vec![x, w];
    let epilogue = Epilogue { bias: bias.is_some(), ..Epilogue::default() };
    operands.extend(bias);
    single(Conv2d { stride, padding, epilogue }, operands, channels_first, ResultShape::ChannelsFirst)
}

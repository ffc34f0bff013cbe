//! Attention, and the softmax in it.

use kernels::ops::Attention;
use kernels::{HostTensor, TensorType};
use loaders::Encoding;

use super::super::{Recorded, host};
use super::{Arguments, Expressed, ResultShape, Skip, single};

/// `[B, heads, S, D]` as `[B, S, heads * D]`, with the extents.
fn tokens(recorded: &Recorded) -> Result<(HostTensor, [usize; 4]), Skip> {
    let [batch, heads, tokens, features] = match recorded.shape.as_slice() {
        [b, h, s, d] => [*b, *h, *s, *d],
        [h, s, d] => [1, *h, *s, *d],
        shape => return Err(format!("heads of shape {shape:?}")),
    };
    let dtype = host(recorded, &recorded.shape)?.ty().dtype;
    let ty = TensorType::new(dtype, [batch, tokens, heads * features]);
    let tensor = HostTensor::from_fn(ty, |i| {
        let (d, h, s) = (i % features, i / features % heads, i / features / heads % tokens);
        let b = i / features / heads / tokens;
        f64::from(recorded.values[((b * heads + h) * tokens + s) * features + d])
    });
    Ok((tensor, [batch, heads, tokens, features]))
}

pub(super) fn attention(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let causal = arguments.flag("is_causal")?;
    let grouped = arguments.flag("enable_gqa")?;
    if arguments.number("dropout_p", Some(0.0))? != 0.0 {
        return Err("dropout is random".to_owned());
    }
    let scale = arguments.optional_number("scale")?;
    let (q, [batch, heads, queries, features]) = tokens(arguments.tensor("query")?)?;
    let (k, [_, kv_heads, keys, _]) = tokens(arguments.tensor("key")?)?;
    let (v, value_shape) = tokens(arguments.tensor("value")?)?;
    if value_shape[3] != features || (kv_heads != heads && !grouped) {
        return Err("values as wide as keys, and as many heads, are all there is".to_owned());
    }
    let mut operands = vec![q, k, v];
    let mask = arguments.optional("attn_mask")?.cloned();
    if let Some(mask) = &mask {
        let shape: Vec<usize> = std::iter::repeat_n(1, 4usize.saturating_sub(mask.shape.len()))
            .chain(mask.shape.clone())
            .collect();
        if shape.len() != 4
            || shape[3] != keys
            || shape[2] != 1 && shape[2] != queries
            || shape[0] != 1 && shape[0] != batch
        {
            return Err(format!("a mask of shape {:?}", mask.shape));
        }
        let hidden = |value: &f32| if *value == 0.0 { f32::NEG_INFINITY } else { 0.0 };
        let values = match mask.encoding {
            Encoding::Bool => mask.values.iter().map(hidden).collect(),
            _ => mask.values.clone(),
        };
        operands.push(HostTensor::f32(shape, values));
    }
    let op = Attention { heads, kv_heads, causal, scale, mask: mask.is_some() };
    let to_torch = move |result: &HostTensor| {
        let at = |i: usize| {
            let (d, s, h) = (i % features, i / features % queries, i / features / queries % heads);
            let b = i / features / queries / heads;
            result.data()[((b * queries + s) * heads + h) * features + d]
        };
        (0..result.data().len()).map(at).collect()
    };
    let shape = ResultShape::Of(arguments.tensor("query")?.shape.clone());
    single(op, operands, to_torch, shape)
}

/// Features of a head that weighs columns of the identity.
const SOFTMAX_FEATURES: usize = 64;
/// The longest row whose softmax is taken: its heads hold its square.
const SOFTMAX_ROW: usize = 2048;

/// Attention whose scores are a mask alone, and whose values are the identity.
pub(super) fn softmax(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let dim = arguments.dimension("dim", None, "input")?;
    let input = arguments.tensor("input")?;
    let shape = if input.shape.is_empty() { vec![1] } else { input.shape.clone() };
    let (n, inner) = (shape[dim], shape[dim + 1..].iter().product::<usize>());
    let rows = input.values.len() / n;
    if n > SOFTMAX_ROW {
        return Err(format!("rows of {n}, of which {SOFTMAX_ROW} are computed at most"));
    }
    // The column `i` of row `row`, in PyTorch's order.
    let place = move |row: usize, i: usize| (row / inner * n + i) * inner + row % inner;
    let scores = (0..rows * n).map(|at| input.values[place(at / n, at % n)]).collect::<Vec<f32>>();
    if scores.chunks(n).any(|row| row.iter().all(|score| *score == f32::NEG_INFINITY)) {
        return Err("a row of negative infinities".to_owned());
    }
    let dtype = host(input, &input.shape)?.ty().dtype;
    let (heads, features) = (n.div_ceil(SOFTMAX_FEATURES), SOFTMAX_FEATURES);
    let of_tokens = |tokens| TensorType::new(dtype, [1, tokens, heads * features]);
    let zeros = |tokens| HostTensor::from_fn(of_tokens(tokens), |_| 0.0);
    let width = heads * features;
    let identity = HostTensor::from_fn(of_tokens(n), |i| f64::from(u8::from(i / width == i % width)));
    let operands = vec![zeros(rows), zeros(n), identity, HostTensor::f32([1, 1, rows, n], scores)];
    let to_torch = move |result: &HostTensor| {
        let mut values = vec![0.0; rows * n];
        for (at, value) in result.data().iter().enumerate().filter(|(at, _)| at % width < n) {
            values[place(at / width, at % width)] = *value;
        }
        values
    };
    let op = Attention { mask: true, ..Attention::new(heads) };
    single(op, operands, to_torch, ResultShape::Of(shape))
}

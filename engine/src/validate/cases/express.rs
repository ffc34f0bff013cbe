//! Functions of torch.nn.functional as operations of ours.

use std::sync::Arc;

use kernels::ops::{
    Activate, Activation, Add, Attention, Concat, Conv2d, Epilogue, GroupNorm, LayerNorm, MatMul, Mul,
    RmsNorm, Upsample,
};
use kernels::{HostTensor, LANES, Op, TensorType};
use loaders::Encoding;
use serde_json::Value;

use super::{Recorded, RecordedCase, host};

/// An operation, its operands in our layouts, and how its result is read in PyTorch's.
pub(super) struct Expressed {
    pub(super) op: Arc<dyn Op>,
    pub(super) operands: Vec<HostTensor>,
    pub(super) to_torch: Box<ToTorch>,
    pub(super) shape: ResultShape,
}

/// The shape of a result in PyTorch.
pub(super) enum ResultShape {
    /// Ours.
    Own,
    /// Ours with the innermost dimension as the second.
    ChannelsFirst,
    /// That of an operand.
    Of(Vec<usize>),
}

impl ResultShape {
    pub(super) fn of(self, ours: &[usize]) -> Vec<usize> {
        match self {
            ResultShape::Own => ours.to_vec(),
            ResultShape::ChannelsFirst => {
                let (batch, pixels) = (&ours[..1], &ours[1..ours.len() - 1]);
                [batch, &ours[ours.len() - 1..], pixels].concat()
            }
            ResultShape::Of(shape) => shape,
        }
    }
}

type ToTorch = dyn Fn(&HostTensor) -> Vec<f32>;
type Skip = String;

/// `case` in our operations, or why it is none of them.
pub(super) fn express(case: &RecordedCase) -> Result<Expressed, Skip> {
    if case.op != "embedding" {
        for (name, tensors) in &case.inputs {
            tensors.iter().try_for_each(|tensor| computable(&format!("input '{name}'"), tensor))?;
        }
        computable("the output", &case.output)?;
    }
    let mut arguments = Arguments { case, used: Vec::new() };
    let expressed = match case.op.as_str() {
        "linear" => linear(&mut arguments),
        "matmul" => matmul(&mut arguments),
        "conv2d" => conv2d(&mut arguments),
        "group_norm" => group_norm(&mut arguments),
        "layer_norm" => layer_norm(&mut arguments),
        "rms_norm" => rms_norm(&mut arguments),
        "scaled_dot_product_attention" => attention(&mut arguments),
        "silu" => activation(&mut arguments, Activation::Silu),
        "relu" => activation(&mut arguments, Activation::Relu),
        "sigmoid" => activation(&mut arguments, Activation::Sigmoid),
        "tanh" => activation(&mut arguments, Activation::Tanh),
        "gelu" => gelu(&mut arguments),
        "interpolate" => interpolate(&mut arguments),
        "add" => binary(&mut arguments, Arc::new(Add)),
        "mul" => binary(&mut arguments, Arc::new(Mul)),
        "concat" | "cat" => concat(&mut arguments),
        "embedding" => Err("embeddings are gathered on the host".to_owned()),
        "conv_transpose2d" | "softmax" | "leaky_relu" | "pixel_shuffle" | "pad" => {
            Err(format!("photogram has no operation for {} by itself", case.op))
        }
        other => Err(format!("'{other}' is not known")),
    }?;
    arguments.all_used()?;
    Ok(expressed)
}

/// Refuses tensors without elements, and those whose values were not read.
fn computable(what: &str, tensor: &Recorded) -> Result<(), Skip> {
    if tensor.shape.contains(&0) {
        return Err(format!("{what} has no elements: {:?}", tensor.shape));
    }
    let elements: usize = tensor.shape.iter().product();
    if tensor.values.len() != elements {
        return Err(format!("{what}: tensors of {} are not computed with", tensor.encoding));
    }
    Ok(())
}

/// The inputs and attributes of a case, and which were asked for.
struct Arguments<'c> {
    case: &'c RecordedCase,
    used: Vec<&'static str>,
}

impl Arguments<'_> {
    fn tensor(&mut self, name: &'static str) -> Result<&Recorded, Skip> {
        self.optional(name)?.ok_or_else(|| format!("it has no input '{name}'"))
    }

    fn optional(&mut self, name: &'static str) -> Result<Option<&Recorded>, Skip> {
        self.used.push(name);
        match self.case.inputs.get(name).map(Vec::as_slice) {
            None => Ok(None),
            Some([one]) => Ok(Some(one)),
            Some(_) => Err(format!("input '{name}' is a list")),
        }
    }

    fn tensors(&mut self, name: &'static str) -> Result<&[Recorded], Skip> {
        self.used.push(name);
        self.case.inputs.get(name).map(Vec::as_slice).ok_or_else(|| format!("it has no input '{name}'"))
    }

    fn attribute(&mut self, name: &'static str) -> Option<&Value> {
        self.used.push(name);
        self.case.attributes.get(name).filter(|value| !value.is_null())
    }

    fn number(&mut self, name: &'static str, usual: Option<f64>) -> Result<f64, Skip> {
        match self.attribute(name) {
            None => usual.ok_or_else(|| format!("it has no attribute '{name}'")),
            Some(value) => value.as_f64().ok_or_else(|| format!("attribute '{name}' = {value} is no number")),
        }
    }

    fn optional_number(&mut self, name: &'static str) -> Result<Option<f64>, Skip> {
        if self.attribute(name).is_none() { Ok(None) } else { self.number(name, None).map(Some) }
    }

    /// One of a few words.
    fn word(&mut self, name: &'static str, usual: &str) -> Result<String, Skip> {
        match self.attribute(name) {
            None => Ok(usual.to_owned()),
            Some(Value::String(word)) => Ok(word.clone()),
            Some(value) => Err(format!("attribute '{name}' = {value} is no word")),
        }
    }

    fn count(&mut self, name: &'static str, usual: Option<usize>) -> Result<usize, Skip> {
        let number = self.number(name, usual.map(|usual| usual as f64))?;
        let is_count = number >= 0.0 && number.fract() == 0.0 && number < 1e9;
        if is_count { Ok(number as usize) } else { Err(format!("attribute '{name}' = {number} is no count")) }
    }

    fn flag(&mut self, name: &'static str) -> Result<bool, Skip> {
        match self.attribute(name) {
            None => Ok(false),
            Some(value) => {
                value.as_bool().ok_or_else(|| format!("attribute '{name}' = {value} is no switch"))
            }
        }
    }

    /// A number for both axes, or one for each.
    fn pair(&mut self, name: &'static str, usual: usize) -> Result<[usize; 2], Skip> {
        let Some(value) = self.attribute(name) else { return Ok([usual; 2]) };
        let count = |value: &Value| value.as_u64().filter(|n| *n < 1 << 16).map(|n| n as usize);
        let pair = match value {
            Value::Array(axes) if axes.len() == 2 => {
                count(&axes[0]).zip(count(&axes[1])).map(|(a, b)| [a, b])
            }
            Value::Array(axes) if axes.len() == 1 => count(&axes[0]).map(|n| [n; 2]),
            one => count(one).map(|n| [n; 2]),
        };
        pair.ok_or_else(|| format!("attribute '{name}' = {value} is not understood"))
    }

    fn all_used(&self) -> Result<(), Skip> {
        let given = self.case.inputs.keys().chain(self.case.attributes.keys());
        match given.into_iter().find(|name| !self.used.contains(&name.as_str())) {
            Some(name) => Err(format!("'{name}' is not understood")),
            None => Ok(()),
        }
    }
}

fn as_it_is(result: &HostTensor) -> Vec<f32> {
    result.data().to_vec()
}

fn plain(op: impl Op, operands: Vec<HostTensor>) -> Result<Expressed, Skip> {
    Ok(Expressed { op: Arc::new(op), operands, to_torch: Box::new(as_it_is), shape: ResultShape::Own })
}

/// A tensor in its own shape, of rank 1 at least.
fn same(recorded: &Recorded) -> Result<HostTensor, Skip> {
    match recorded.shape.as_slice() {
        [] => host(recorded, &[1]),
        shape => host(recorded, shape),
    }
}

/// A vector in f32, as biases and scales of norms are.
fn vector(recorded: &Recorded) -> Result<HostTensor, Skip> {
    match recorded.shape.as_slice() {
        [n] => Ok(HostTensor::f32([*n], recorded.values.clone())),
        shape => Err(format!("a vector of shape {shape:?}")),
    }
}

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

fn linear(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
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

fn matmul(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
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

/// `[B, C, H, W]` or `[C, H, W]` as `[B, H, W, C]`.
fn image(recorded: &Recorded) -> Result<HostTensor, Skip> {
    let [batch, channels, height, width] = match recorded.shape.as_slice() {
        [b, c, h, w] => [*b, *c, *h, *w],
        [c, h, w] => [1, *c, *h, *w],
        shape => return Err(format!("an image of shape {shape:?}")),
    };
    let dtype = host(recorded, &recorded.shape)?.ty().dtype;
    Ok(HostTensor::from_fn(TensorType::new(dtype, [batch, height, width, channels]), |i| {
        let (pixel, channel) = (i / channels, i % channels);
        let (b, position) = (pixel / (height * width), pixel % (height * width));
        f64::from(recorded.values[(b * channels + channel) * height * width + position])
    }))
}

/// Our `[B, .., C]` as PyTorch's `[B, C, ..]`.
fn channels_first(result: &HostTensor) -> Vec<f32> {
    let shape = result.shape();
    let (channels, pixels) = (shape.channels(), shape.rows() / shape[0].max(1));
    let at = |i: usize| {
        let (b, channel, pixel) = (i / pixels / channels, i / pixels % channels, i % pixels);
        result.data()[(b * pixels + pixel) * channels + channel]
    };
    (0..result.data().len()).map(at).collect()
}

fn conv2d(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
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
    Ok(Expressed {
        op: Arc::new(Conv2d { stride, padding, epilogue }),
        operands,
        to_torch: Box::new(channels_first),
        shape: ResultShape::ChannelsFirst,
    })
}

/// A scale or a bias; a norm without one has ones or zeros.
fn parameter(
    arguments: &mut Arguments<'_>,
    name: &'static str,
    channels: usize,
    usual: f32,
) -> Result<HostTensor, Skip> {
    match arguments.optional(name)? {
        Some(recorded) => Ok(HostTensor::f32([recorded.values.len()], recorded.values.clone())),
        None => Ok(HostTensor::f32([channels], vec![usual; channels])),
    }
}

fn group_norm(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let groups = arguments.count("num_groups", None)?;
    let eps = arguments.number("eps", Some(1e-5))?;
    let input = arguments.tensor("input")?;
    let &[batch, channels, ..] = input.shape.as_slice() else {
        return Err(format!("a tensor of shape {:?}", input.shape));
    };
    let pixels: usize = input.shape[2..].iter().product();
    let as_image = Recorded { shape: vec![batch, channels, pixels, 1], ..input.clone() };
    let x = image(&as_image)?.reshaped([batch, pixels, channels]);
    let scale = parameter(arguments, "weight", channels, 1.0)?;
    let bias = parameter(arguments, "bias", channels, 0.0)?;
    let op = Arc::new(GroupNorm { groups, eps, silu: false });
    let shape = ResultShape::Of(arguments.tensor("input")?.shape.clone());
    Ok(Expressed { op, operands: vec![x, scale, bias], to_torch: Box::new(channels_first), shape })
}

/// The input with the dimensions that are normalized as one, and their extent.
fn normalized(arguments: &mut Arguments<'_>) -> Result<(HostTensor, usize), Skip> {
    let shape = arguments.attribute("normalized_shape").cloned();
    let input = arguments.tensor("input")?;
    let dimensions = match &shape {
        Some(Value::Array(dimensions)) => dimensions.len(),
        _ => 1,
    };
    let split = input.shape.len().checked_sub(dimensions).ok_or("more dimensions than there are")?;
    let own = &input.shape[split..];
    let channels: usize = own.iter().product();
    let is_own = shape
        .as_ref()
        .is_none_or(|shape| *shape == Value::from(own) || shape.as_u64() == Some(channels as u64));
    if !is_own {
        return Err(format!("'normalized_shape' = {shape:?} on {:?}", input.shape));
    }
    let rows: usize = input.shape[..split].iter().product();
    Ok((host(input, &[rows, channels])?, channels))
}

fn layer_norm(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let (x, channels) = normalized(arguments)?;
    let eps = arguments.number("eps", Some(1e-5))?;
    let scale = parameter(arguments, "weight", channels, 1.0)?;
    let bias = parameter(arguments, "bias", channels, 0.0)?;
    let shape = ResultShape::Of(arguments.tensor("input")?.shape.clone());
    Ok(Expressed { shape, ..plain(LayerNorm { eps }, vec![x, scale, bias])? })
}

fn rms_norm(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let (x, channels) = normalized(arguments)?;
    let eps = arguments.number("eps", Some(f64::from(f32::EPSILON)))?;
    let scale = parameter(arguments, "weight", channels, 1.0)?;
    let shape = ResultShape::Of(arguments.tensor("input")?.shape.clone());
    Ok(Expressed { shape, ..plain(RmsNorm { eps }, vec![x, scale])? })
}

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

fn attention(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
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
    let op = Arc::new(Attention { heads, kv_heads, causal, scale, mask: mask.is_some() });
    let to_torch = move |result: &HostTensor| {
        let at = |i: usize| {
            let (d, s, h) = (i % features, i / features % queries, i / features / queries % heads);
            let b = i / features / queries / heads;
            result.data()[((b * queries + s) * heads + h) * features + d]
        };
        (0..result.data().len()).map(at).collect()
    };
    let shape = ResultShape::Of(arguments.tensor("query")?.shape.clone());
    Ok(Expressed { op, operands, to_torch: Box::new(to_torch), shape })
}

fn activation(arguments: &mut Arguments<'_>, activation: Activation) -> Result<Expressed, Skip> {
    arguments.flag("inplace")?;
    plain(Activate(activation), vec![same(arguments.tensor("input")?)?])
}

fn gelu(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let approximate = arguments.attribute("approximate").cloned();
    match approximate.as_ref().map(|value| value.as_str()) {
        None | Some(Some("none")) => activation(arguments, Activation::Gelu),
        Some(Some("tanh")) => activation(arguments, Activation::GeluTanh),
        Some(_) => Err(format!("'approximate' = {approximate:?}")),
    }
}

fn interpolate(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let mode = arguments.word("mode", "nearest")?;
    if mode != "nearest" {
        return Err(format!("mode '{mode}' is none of ours"));
    }
    let factor = arguments.attribute("scale_factor").cloned();
    let size = arguments.attribute("size").is_some();
    let x = image(arguments.tensor("input")?)?;
    let [height, width] = match (size, factor) {
        (true, _) => arguments.pair("size", 1)?,
        (false, Some(factor)) => {
            let is_ours = |factor: &f64| factor.fract() == 0.0 && (1.0..65_536.0).contains(factor);
            let factor = factor.as_f64().filter(is_ours);
            let factor =
                factor.ok_or("factors but one whole number for both axes are none of ours")? as usize;
            [x.shape()[1] * factor, x.shape()[2] * factor]
        }
        (false, None) => return Err("neither 'size' nor 'scale_factor'".to_owned()),
    };
    Ok(Expressed {
        op: Arc::new(Upsample { height, width }),
        operands: vec![x],
        to_torch: Box::new(channels_first),
        shape: ResultShape::ChannelsFirst,
    })
}

fn binary(arguments: &mut Arguments<'_>, op: Arc<dyn Op>) -> Result<Expressed, Skip> {
    if arguments.number("alpha", Some(1.0))? != 1.0 {
        return Err("'alpha' is none of ours".to_owned());
    }
    let other = same(arguments.tensor("other")?)?;
    let operands = vec![same(arguments.tensor("input")?)?, other];
    Ok(Expressed { op, operands, to_torch: Box::new(as_it_is), shape: ResultShape::Own })
}

fn concat(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let dim = arguments.number("dim", Some(0.0))?;
    let tensors = arguments.tensors("tensors")?;
    let rank = tensors.first().map_or(0, |tensor| tensor.shape.len()) as f64;
    let axis = if dim < 0.0 { dim + rank } else { dim };
    if !(0.0..rank).contains(&axis) || axis.fract() != 0.0 {
        return Err(format!("dimension {dim} of {rank}"));
    }
    let operands: Result<Vec<HostTensor>, Skip> = tensors.iter().map(same).collect();
    plain(Concat { axis: axis as usize }, operands?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn recorded(shape: &[usize], encoding: Encoding) -> Recorded {
        let elements: usize = shape.iter().product();
        // What is not computed with is not read either.
        let values = if encoding == Encoding::I64 { 0 } else { elements };
        Recorded { shape: shape.to_vec(), encoding, values: vec![1.0; values] }
    }

    #[test]
    fn what_is_not_understood_is_skipped_with_a_reason() {
        let f32 = Encoding::F32;
        let image = || ("input", recorded(&[1, 2, 3, 3], f32));
        let heads = |name| (name, recorded(&[1, 1, 2, 4], f32));
        let attention = || vec![heads("query"), heads("key"), heads("value")];
        for (op, attributes, inputs, reason) in [
            (
                "linear",
                json!({}),
                vec![
                    ("input", recorded(&[2, 3], f32)),
                    ("weight", recorded(&[4, 3], f32)),
                    ("bias", recorded(&[4], Encoding::I64)),
                ],
                "input 'bias': tensors of I64 are not computed with",
            ),
            (
                "linear",
                json!({}),
                vec![("input", recorded(&[3, 0], f32)), ("weight", recorded(&[5, 0], f32))],
                "input 'input' has no elements: [3, 0]",
            ),
            (
                "conv2d",
                json!({"padding": "same"}),
                vec![image(), ("weight", recorded(&[4, 2, 0, 3], f32))],
                "input 'weight' has no elements: [4, 2, 0, 3]",
            ),
            (
                "interpolate",
                json!({"scale_factor": 1e15}),
                vec![image()],
                "factors but one whole number for both axes are none of ours",
            ),
            ("interpolate", json!({"mode": 5}), vec![image()], "attribute 'mode' = 5 is no word"),
            (
                "scaled_dot_product_attention",
                json!({"scale": "0.3"}),
                attention(),
                "attribute 'scale' = \"0.3\" is no number",
            ),
        ] {
            let inputs: BTreeMap<String, Vec<Recorded>> =
                inputs.into_iter().map(|(name, tensor)| (name.to_owned(), vec![tensor])).collect();
            let case = RecordedCase {
                op: op.to_owned(),
                attributes: attributes.as_object().expect("an object").clone(),
                inputs,
                output: recorded(&[1], f32),
            };
            assert_eq!(express(&case).err().as_deref(), Some(reason), "{op}");
        }
    }

    #[test]
    fn hidden_keys_are_never_seen() {
        let mut mask = recorded(&[2, 2], Encoding::Bool);
        mask.values = vec![1.0, 0.0, 0.0, 1.0];
        let mut inputs = BTreeMap::from([("attn_mask".to_owned(), vec![mask])]);
        for name in ["query", "key", "value"] {
            inputs.insert(name.to_owned(), vec![recorded(&[1, 1, 2, 4], Encoding::F32)]);
        }
        let op = "scaled_dot_product_attention".to_owned();
        let output = recorded(&[1, 1, 2, 4], Encoding::F32);
        let case = RecordedCase { op, attributes: serde_json::Map::new(), inputs, output };
        let expressed = express(&case).expect("it is ours");
        assert_eq!(expressed.operands[3].data(), [0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0]);
    }
}

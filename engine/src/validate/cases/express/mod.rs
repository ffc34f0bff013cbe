//! Functions of torch.nn.functional as operations of ours.

mod attention;
mod contractions;
mod convolutions;
mod elementwise;
mod images;
mod moves;
mod norms;

use kernels::ops::{Activation, Add, Concat, Mul};
use kernels::{HostTensor, Op, TensorType};

use super::arguments::{Arguments, Skip};
use super::{MAX_TENSOR_BYTES, Recorded, RecordedCase, host, is_at_most};
use crate::graph::{Graph, Rate, Source, ValueId};
use attention::{attention, softmax};
use contractions::{linear, matmul};
use convolutions::{conv_transpose2d, conv2d};
use elementwise::{activation, binary, gelu, leaky_relu};
use images::interpolate;
use moves::{concat, pad, pixel_shuffle};
use norms::{group_norm, layer_norm, rms_norm};

/// Operations of ours on operands in our layouts, and how their result is read in PyTorch's.
pub(super) struct Expressed {
    /// With one output.
    pub(super) graph: Graph,
    /// What its inputs are given.
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

/// `case` in our operations, or why it is none of them.
pub(super) fn express(case: &RecordedCase) -> Result<Expressed, Skip> {
    for (name, tensors) in &case.inputs {
        tensors.iter().try_for_each(|tensor| computable(&format!("input '{name}'"), tensor))?;
    }
    computable("the output", &case.output)?;
    let mut arguments = Arguments::of(case);
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
        "add" => binary(&mut arguments, Add),
        "mul" => binary(&mut arguments, Mul),
        "concat" | "cat" => concat(&mut arguments),
        "softmax" => softmax(&mut arguments),
        "leaky_relu" => leaky_relu(&mut arguments),
        "pixel_shuffle" => pixel_shuffle(&mut arguments),
        "pad" => pad(&mut arguments),
        "conv_transpose2d" => conv_transpose2d(&mut arguments),
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

fn as_it_is(result: &HostTensor) -> Vec<f32> {
    result.data().to_vec()
}

/// A graph in the making, with the values of its inputs.
#[derive(Default)]
struct Sketch {
    graph: Graph,
    operands: Vec<HostTensor>,
}

impl Sketch {
    fn operand(&mut self, tensor: HostTensor) -> ValueId {
        let id = self.graph.input("operand", tensor.ty().clone(), Rate::Step);
        self.operands.push(tensor);
        id
    }

    fn apply(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId, Skip> {
        let types: Vec<TensorType> = inputs.iter().map(|id| self.graph.ty(*id).clone()).collect();
        let output = op.infer(&types).map_err(|error| error.to_string())?;
        if !is_at_most(&output.shape, MAX_TENSOR_BYTES / 4) {
            return Err(format!("a result of {} is too large", output.shape));
        }
        let name = op.name();
        self.graph.apply(name, op, inputs).map_err(|error| error.to_string())
    }

    /// A tensor that has `value` everywhere.
    fn filled(&mut self, ty: TensorType, value: f64) -> Result<ValueId, Skip> {
        if !is_at_most(&ty.shape, MAX_TENSOR_BYTES / 4) {
            return Err(format!("an operand of {} is too large", ty.shape));
        }
        Ok(self.operand(HostTensor::from_fn(ty, |_| value)))
    }

    /// Values one after the other along `axis`, as many at once as one operation joins.
    fn joined(&mut self, axis: usize, mut ids: Vec<ValueId>) -> Result<ValueId, Skip> {
        while ids.len() > 1 {
            let mut fewer = Vec::new();
            for some in ids.chunks(Concat::MAX_OPERANDS) {
                fewer.push(if let [one] = some { *one } else { self.apply(Concat { axis }, some)? });
            }
            ids = fewer;
        }
        ids.first().copied().ok_or_else(|| "nothing to join".to_owned())
    }

    fn ending(
        mut self,
        result: ValueId,
        to_torch: impl Fn(&HostTensor) -> Vec<f32> + 'static,
        shape: ResultShape,
    ) -> Result<Expressed, Skip> {
        if !matches!(self.graph.value(result).source, Source::Node { .. }) {
            return Err("nothing is computed".to_owned());
        }
        self.graph.output(result);
        Ok(Expressed { graph: self.graph, operands: self.operands, to_torch: Box::new(to_torch), shape })
    }
}

/// One operation, whose result is read by `to_torch`.
fn single(
    op: impl Op + 'static,
    operands: Vec<HostTensor>,
    to_torch: impl Fn(&HostTensor) -> Vec<f32> + 'static,
    shape: ResultShape,
) -> Result<Expressed, Skip> {
    let mut sketch = Sketch::default();
    let ids: Vec<ValueId> = operands.into_iter().map(|operand| sketch.operand(operand)).collect();
    let result = sketch.apply(op, &ids)?;
    sketch.ending(result, to_torch, shape)
}

/// One operation that has PyTorch's layout.
fn plain(op: impl Op + 'static, operands: Vec<HostTensor>) -> Result<Expressed, Skip> {
    single(op, operands, as_it_is, ResultShape::Own)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use loaders::Encoding;
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
                "factors [1000000000000000.0, 1000000000000000.0] of [3, 3]",
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

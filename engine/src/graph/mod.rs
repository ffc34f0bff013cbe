//! A computation as a value: tensors, the operations between them, and names for what a person may want to look at.
//!
//! Pure: no device, no files, and the same calls give the same graph.

mod columns;
mod dump;
mod fuse;
mod segments;
mod stack;

use std::sync::Arc;

use kernels::{Op, OpError, Shape, TensorType};

pub use fuse::fuse;
pub use segments::{Norm, Segment, segments};

/// A tensor of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// How often a value changes; what depends only on slower inputs is computed only when those change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rate {
    /// Once, when the weights are there.
    Load,
    /// Once for each prompt.
    Prompt,
    /// In every step.
    Step,
}

/// How a checkpoint's tensor is laid out for kernels when it is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Packing {
    /// `[N]`, stored as f32: biases and the scales of norms.
    Vector,
    /// [`Packing::Vector`] whose halves alternate in quads.
    GatedVector,
    /// [`Packing::Linear`] of a layer whose outputs' halves alternate in quads: GEGLU's.
    GatedLinear,
    /// A linear layer's `[O, I]` or a 1x1 convolution's `[O, I, 1, 1]` -> `[I', O]`, `I'` rounded up to 4 with zeros.
    Linear,
    /// A matrix `[I, O]` that is multiplied from the left, not a linear layer's -> `[I', O]` as [`Packing::Linear`].
    Transposed,
    /// A convolution's `[O, I, KH, KW]` -> `[KH, KW, I', O]`, `I'` rounded up to 4 with zeros.
    Conv,
}

impl Packing {
    /// Whether columns lie in strips, where there are several.
    pub fn is_matrix(self) -> bool {
        !matches!(self, Packing::Vector | Packing::GatedVector)
    }
}

/// A weight: a tensor of a checkpoint in a packing, or several, stacked in a new outermost dimension if they are alike, or side by
/// side in columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Param {
    /// Names in the checkpoint.
    pub tensors: Vec<String>,
    /// Layout on the device.
    pub packing: Packing,
    /// Columns of each where they lie side by side: its own and zeros up to a whole strip. Of one, and of stacked ones, none.
    pub columns: Vec<usize>,
}

impl Param {
    /// One tensor.
    pub fn one(name: String, packing: Packing) -> Self {
        Param { tensors: vec![name], packing, columns: Vec::new() }
    }

    /// Types of its tensors on the device, where they lie one after the other, if all of it is `ty`.
    pub fn parts(&self, ty: &TensorType) -> Vec<TensorType> {
        let of = |shape: Shape| TensorType { shape, ..ty.clone() };
        match (self.columns.as_slice(), self.tensors.len()) {
            ([], 0 | 1) => vec![ty.clone()],
            ([], n) => vec![of(ty.shape[1..].into()); n],
            (columns, _) => {
                let rows = &ty.shape[..ty.shape.len() - 1];
                columns.iter().map(|n| of([rows, &[*n]].concat().into())).collect()
            }
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        self.tensors.first().map_or("", String::as_str)
    }
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Given from outside whenever `rate` says.
    Input {
        /// How often it changes.
        rate: Rate,
    },
    /// A weight.
    Param(Param),
    /// The result of an operation.
    Node {
        /// The operation.
        op: Arc<dyn Op>,
        /// Its operands.
        inputs: Vec<ValueId>,
    },
}

/// A tensor and its origin.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name: an input's, a tensor's in the checkpoint, or the module path that PyTorch would give this result.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
    /// Origin.
    pub source: Source,
}

/// Why a graph cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{node}: {source}")]
pub struct GraphError {
    /// Module path of the operation.
    pub node: String,
    /// What does not fit.
    #[source]
    pub source: OpError,
}

/// Tensors in order of definition: an operation's operands always stand before its result.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    outputs: Vec<ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }

    /// A tensor that is given from outside.
    pub fn input(&mut self, name: &str, ty: TensorType, rate: Rate) -> ValueId {
        self.push(Value { name: name.to_owned(), ty, source: Source::Input { rate } })
    }

    /// A weight; the same weight asked for twice is one value.
    pub fn param(&mut self, param: Param, ty: TensorType) -> ValueId {
        let known = self.values.iter().position(|v| matches!(&v.source, Source::Param(p) if *p == param));
        match known {
            Some(index) => ValueId(index as u32),
            None => self.push(Value { name: param.name().to_owned(), ty, source: Source::Param(param) }),
        }
    }

    /// The result of `op` on `inputs`, called `name`.
    ///
    /// # Errors
    /// [`GraphError`] with that name and what the operation expects.
    pub fn apply(
        &mut self,
        name: impl Into<String>,
        op: impl Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        self.apply_arc(name, Arc::new(op), inputs)
    }

    /// [`Graph::apply`] for an operation that is shared already.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply_arc(
        &mut self,
        name: impl Into<String>,
        op: Arc<dyn Op>,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        let name = name.into();
        let types: Vec<TensorType> = inputs.iter().map(|id| self.ty(*id).clone()).collect();
        let ty = op.infer(&types).map_err(|source| GraphError { node: name.clone(), source })?;
        Ok(self.push(Value { name, ty, source: Source::Node { op, inputs: inputs.to_vec() } }))
    }

    /// The same graph with those operations replaced for which `replace`, given name and operation, has another. Values keep
    /// their ids.
    ///
    /// # Errors
    /// [`GraphError`] if a replacement does not fit its operands, or its result does not fit the operations that read it.
    pub fn map_ops(
        &self,
        mut replace: impl FnMut(&str, &Arc<dyn Op>) -> Option<Arc<dyn Op>>,
    ) -> Result<Graph, GraphError> {
        let mut mapped = Graph { values: Vec::new(), outputs: self.outputs.clone() };
        for value in &self.values {
            match &value.source {
                Source::Node { op, inputs } => {
                    let op = replace(&value.name, op).unwrap_or_else(|| op.clone());
                    mapped.apply_arc(value.name.clone(), op, inputs)?;
                }
                _ => {
                    mapped.push(value.clone());
                }
            }
        }
        Ok(mapped)
    }

    /// Gives the result of an operation another name.
    pub fn rename(&mut self, id: ValueId, name: impl Into<String>) {
        if let Value { source: Source::Node { .. }, name: old, .. } = &mut self.values[id.index()] {
            *old = name.into();
        }
    }

    /// Marks a value as a result.
    pub fn output(&mut self, id: ValueId) {
        self.outputs.push(id);
    }

    /// Results, in the order they were marked.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// A value with its origin.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// A value's type.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.value(id).ty
    }

    /// A value's shape.
    pub fn shape(&self, id: ValueId) -> &Shape {
        &self.ty(id).shape
    }

    /// Every value, in order of definition.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// Inputs in the order they were declared.
    pub fn inputs(&self) -> Vec<ValueId> {
        self.values().filter(|(_, v)| matches!(v.source, Source::Input { .. })).map(|(id, _)| id).collect()
    }

    /// Weights in order of first use.
    pub fn params(&self) -> impl Iterator<Item = (ValueId, &Param)> {
        self.values().filter_map(|(id, v)| match &v.source {
            Source::Param(param) => Some((id, param)),
            _ => None,
        })
    }

    /// The last result that carries this module path.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values().filter(|(_, v)| v.name == name).map(|(id, _)| id).last()
    }

    fn push(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() as u32 - 1)
    }
}

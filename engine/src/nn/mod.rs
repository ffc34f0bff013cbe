//! Layers: functions that add nodes to a graph, under the names PyTorch gives them.

mod attention;
mod resnet;

use kernels::ops::{
    Activate, Activation, Add, Cast, Conv2d, Epilogue, Geglu, GroupNorm, LayerNorm, MatMul, Reshape,
};
use kernels::{DType, Op, TensorType};

use crate::error::Error;
use crate::graph::{Graph, Packing, Rate, ValueId};
use crate::weights::Weights;

pub use attention::{AttentionConfig, TransformerConfig};
pub use resnet::ResnetConfig;

/// Side, stride and padding of a square convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Taps along each axis.
    pub size: usize,
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Zeros at the top, bottom, left and right.
    pub padding: [usize; 4],
}

impl Kernel {
    /// 1x1.
    pub const ONE: Kernel = Kernel { size: 1, stride: 1, padding: [0; 4] };
    /// 3x3 that keeps the size.
    pub const THREE: Kernel = Kernel { size: 3, stride: 1, padding: [1; 4] };

    /// A square kernel of odd `size` that keeps the size of its input.
    pub fn same(size: usize) -> Kernel {
        Kernel { size, stride: 1, padding: [size / 2; 4] }
    }
}

/// A network under construction: a graph, the weights it takes its parameters from, and the path of the module that is
/// being built.
pub struct Net<'w> {
    /// What has been built.
    pub graph: Graph,
    weights: &'w Weights,
    /// First part of the names of values, which the checkpoint's names lack: `unet`, `vae`, `text_encoder`.
    part: &'static str,
    path: Vec<String>,
}

impl<'w> Net<'w> {
    /// A network of the part `part` of a pipeline.
    pub fn new(part: &'static str, weights: &'w Weights) -> Self {
        Net { graph: Graph::new(), weights, part, path: Vec::new() }
    }

    /// The weights.
    pub fn weights(&self) -> &'w Weights {
        self.weights
    }

    /// The path of the present module in the checkpoint followed by `name`.
    pub fn weight_name(&self, name: &str) -> String {
        let mut parts: Vec<&str> = self.path.iter().map(String::as_str).collect();
        if !name.is_empty() {
            parts.push(name);
        }
        parts.join(".")
    }

    /// Builds the module `name` inside the present one, or the present one itself if the name is empty; the result carries
    /// the module's path.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn module(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<ValueId, Error>,
    ) -> Result<ValueId, Error> {
        let depth = self.path.len();
        if !name.is_empty() {
            self.path.push(name.to_owned());
        }
        let result = build(self);
        let path = format!("{}.{}", self.part, self.path.join("."));
        self.path.truncate(depth);
        let id = result?;
        self.graph.rename(id, path);
        Ok(id)
    }

    /// A tensor that is given from outside.
    pub fn input(&mut self, name: &str, ty: TensorType, rate: Rate) -> ValueId {
        self.graph.input(name, ty, rate)
    }

    /// The result of an operation.
    ///
    /// # Errors
    /// [`Error::Graph`] naming the module and what the operation expects.
    pub fn apply(&mut self, op: impl Op, inputs: &[ValueId]) -> Result<ValueId, Error> {
        let name = format!("{}.{}", self.part, self.weight_name(op.name()));
        Ok(self.graph.apply(name, op, inputs)?)
    }

    /// Extent of a dimension.
    pub fn extent(&self, id: ValueId, dimension: usize) -> usize {
        self.graph.shape(id)[dimension]
    }

    /// Extent of the innermost dimension.
    pub fn channels(&self, id: ValueId) -> usize {
        self.graph.ty(id).channels()
    }

    /// How a value's elements are stored.
    pub fn dtype(&self, id: ValueId) -> DType {
        self.graph.ty(id).dtype
    }

    /// `x` under another shape.
    ///
    /// # Errors
    /// [`Error::Graph`] if the shapes do not hold the same rows.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId, Error> {
        self.apply(Reshape { shape: shape.into() }, &[x])
    }

    /// `a + b`.
    ///
    /// # Errors
    /// [`Error::Graph`] if the shapes do not broadcast.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Error> {
        self.apply(Add, &[a, b])
    }

    /// `x` stored as `dtype`, which is `x` itself if it is already.
    ///
    /// # Errors
    /// [`Error::Graph`].
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, Error> {
        if self.dtype(x) == dtype { Ok(x) } else { self.apply(Cast { dtype }, &[x]) }
    }

    /// SiLU.
    ///
    /// # Errors
    /// [`Error::Graph`].
    pub fn silu(&mut self, x: ValueId) -> Result<ValueId, Error> {
        self.apply(Activate(Activation::Silu), &[x])
    }

    /// torch.nn.Linear: `weight: [outputs, C]` (or a 1x1 convolution's), and `bias: [outputs]` if `bias`.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn linear(&mut self, name: &str, x: ValueId, outputs: usize, bias: bool) -> Result<ValueId, Error> {
        self.packed_linear(name, x, outputs, Packing::Linear, bias.then_some(Packing::Vector))
    }

    /// diffusers' GEGLU: a linear layer `proj` with a bias to twice as many `outputs`, the second half being the gate.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn geglu(&mut self, name: &str, x: ValueId, outputs: usize) -> Result<ValueId, Error> {
        self.module(name, |net| {
            let (weight, bias) = (Packing::GatedLinear, Some(Packing::GatedVector));
            let both = net.packed_linear("proj", x, 2 * outputs, weight, bias)?;
            net.apply(Geglu::QUADS, &[both])
        })
    }

    fn packed_linear(
        &mut self,
        name: &str,
        x: ValueId,
        outputs: usize,
        weight: Packing,
        bias: Option<Packing>,
    ) -> Result<ValueId, Error> {
        self.module(name, |net| {
            let inputs = net.channels(x);
            let shapes: [&[usize]; 2] = [&[outputs, inputs], &[outputs, inputs, 1, 1]];
            let mut operands = vec![x, net.param("weight", weight, &shapes)?];
            if let Some(packing) = bias {
                operands.push(net.param("bias", packing, &[&[outputs]])?);
            }
            let epilogue = Epilogue { bias: bias.is_some(), ..Epilogue::default() };
            net.apply(MatMul::new(epilogue), &operands)
        })
    }

    /// CLIP's projection of pooled features: transformers' linear layer without bias under `name.weight`, or OpenCLIP's matrix
    /// `[C, outputs]` under `name`.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn text_projection(&mut self, name: &str, x: ValueId, outputs: usize) -> Result<ValueId, Error> {
        if self.weights.checkpoint().get(&self.weight_name(name)).is_none() {
            return self.linear(name, x, outputs, false);
        }
        let weight = self.param(name, Packing::Transposed, &[&[self.channels(x), outputs]])?;
        self.apply(MatMul::default(), &[x, weight])
    }

    /// torch.nn.Conv2d with a bias: `weight: [outputs, C, size, size]`.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: ValueId,
        outputs: usize,
        kernel: Kernel,
    ) -> Result<ValueId, Error> {
        self.module(name, |net| {
            let shape = [outputs, net.channels(x), kernel.size, kernel.size];
            let weight = net.param("weight", Packing::Conv, &[&shape])?;
            let bias = net.param("bias", Packing::Vector, &[&[outputs]])?;
            let stride = [kernel.stride; 2];
            net.apply(
                Conv2d { stride, padding: kernel.padding, epilogue: Epilogue::bias() },
                &[x, weight, bias],
            )
        })
    }

    /// torch.nn.GroupNorm.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn group_norm(&mut self, name: &str, x: ValueId, groups: usize, eps: f64) -> Result<ValueId, Error> {
        self.norm(name, x, GroupNorm { groups, eps, silu: false })
    }

    /// torch.nn.LayerNorm over the innermost dimension.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub fn layer_norm(&mut self, name: &str, x: ValueId, eps: f64) -> Result<ValueId, Error> {
        self.norm(name, x, LayerNorm { eps })
    }

    fn norm(&mut self, name: &str, x: ValueId, op: impl Op) -> Result<ValueId, Error> {
        self.module(name, |net| {
            let channels = net.channels(x);
            let scale = net.param("weight", Packing::Vector, &[&[channels]])?;
            let bias = net.param("bias", Packing::Vector, &[&[channels]])?;
            net.apply(op, &[x, scale, bias])
        })
    }

    fn param(&mut self, name: &str, packing: Packing, shapes: &[&[usize]]) -> Result<ValueId, Error> {
        let (param, ty) = self.weights.param(&self.weight_name(name), packing, shapes)?;
        Ok(self.graph.param(param, ty))
    }
}

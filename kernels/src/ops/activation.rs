//! Activations: alone ([`Activate`]) and as part of a contraction's epilogue.

use std::any::Any;

use super::{check_count, check_float, flat_variant};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::{DType, TensorType};
use crate::wgsl::Shader;

/// A function applied to every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + exp(-x))`; torch.nn.functional.silu.
    Silu,
    /// `x / 2 * (1 + erf(x / sqrt 2))`; torch.nn.functional.gelu.
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`; torch.nn.functional.gelu(approximate="tanh").
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`; transformers' quick_gelu.
    QuickGelu,
    /// `max(x, 0)`; torch.nn.functional.relu.
    Relu,
    /// `1 / (1 + exp(-x))`; torch.nn.functional.sigmoid.
    Sigmoid,
    /// `tanh(x)`; torch.nn.functional.tanh.
    Tanh,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Activation; 7] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Sigmoid,
        Activation::Tanh,
    ];

    /// Name in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::QuickGelu => "quick_gelu",
            Activation::Relu => "relu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
        }
    }

    /// Its number in `wgsl/shared/activation.wgsl`; 0 stands for none.
    pub(crate) fn number(activation: Option<Activation>) -> u32 {
        match activation {
            None => 0,
            Some(Activation::Silu) => 1,
            Some(Activation::Gelu) => 2,
            Some(Activation::GeluTanh) => 3,
            Some(Activation::QuickGelu) => 4,
            Some(Activation::Relu) => 5,
            Some(Activation::Sigmoid) => 6,
            Some(Activation::Tanh) => 7,
        }
    }

    /// The function itself.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Activation::Silu => x / (1.0 + libm::exp(-x)),
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + libm::tanh(inner))
            }
            Activation::QuickGelu => x / (1.0 + libm::exp(-1.702 * x)),
            Activation::Relu => x.max(0.0),
            Activation::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
            Activation::Tanh => libm::tanh(x),
        }
    }
}

/// `y = activation(x)`, element by element.
///
/// # Shapes    `x`: any, f32 | f16 -> `y` as `x`
/// # Numerics  class Elementwise
#[derive(Clone, Debug)]
pub struct Activate(pub Activation);

impl Op for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn attributes(&self) -> Attributes {
        vec![("activation", self.0.name().into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 1)?;
        check_float(self, "x", &inputs[0])?;
        Ok(inputs[0].clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        HostTensor::from_fn(inputs[0].ty().clone(), |i| self.0.apply(inputs[0].at(i)))
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let shader = Shader::new("activate").encoding("x", inputs[0].dtype).encoding("y", inputs[0].dtype);
        flat_variant(
            "activate",
            shader,
            &inputs[..1],
            &inputs[0],
            vec![inputs[0].channels() as u32, Activation::number(Some(self.0)), 1.0f32.to_bits()],
            caps,
        )
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost::new(8 * inputs[0].shape.elements() as u64, &inputs[..1], &inputs[0])
    }

    fn class(&self, _: &[TensorType]) -> Class {
        Class::Elementwise
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for activation in Activation::ALL {
            for shape in [[1, 1], [3, 7], [65, 64], [257, 30]] {
                cases.push(Case::new(Activate(activation), [TensorType::f32(shape)]));
            }
            cases.push(Case::new(Activate(activation), [TensorType::new(DType::F16, [33, 10])]));
        }
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

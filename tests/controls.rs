//! Negative controls: networks with one thing wrong must fail the comparison with PyTorch that the right ones pass.
//!
//! A control that passes everywhere would mean that the tolerance, or the fixtures, cannot see such a mistake.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use engine::graph::Graph;
use engine::reference::run_reference;
use kernels::check::{Class, Comparison, compare};
use kernels::ops::{
    Activate, Activation, Add, Attention, Concat, Conv2d, Geglu, GroupNorm, LayerNorm, MatMul, Upsample,
};
use kernels::{Attributes, Caps, Case, Cost, DType, HostTensor, Op, OpError, TensorType, Variant};
use photogram_tests::recording::{Network, Recording, on_host, recordings};

/// A mistake: what stands in the place of an operation, `None` where it is not concerned.
type Mistake = fn(&str, &Arc<dyn Op>) -> Option<Arc<dyn Op>>;

/// What a mistake does to an operation's result, given the operation and its operands.
type Computed = fn(&dyn Op, &[&HostTensor]) -> HostTensor;

#[test]
fn the_right_networks_pass() {
    for recording in recordings() {
        let model = recording.model();
        for network in recording.networks(&model) {
            let found = compare_result(&recording, &network, &network.net.graph);
            println!("{:12} {:12} {:.1e}", recording.name, network.part, found.centred_nmse);
            assert!(found.pass, "{} {}: {found:?}", recording.name, network.part);
        }
    }
}

#[test]
fn every_mistake_is_rejected() {
    let recordings = recordings();
    let models: Vec<_> = recordings.iter().map(|recording| (recording, recording.model())).collect();
    let mut accepted = Vec::new();
    for (what, part, mistake) in MISTAKES {
        let mut made = 0;
        for (recording, model) in &models {
            for network in recording.networks(model).iter().filter(|network| network.part == *part) {
                let Some(wrong) = with_mistake(&network.net.graph, mistake) else { continue };
                made += 1;
                let found = compare_result(recording, network, &wrong);
                println!("{what:52} {part:12} {:12} {:.1e}", recording.name, found.centred_nmse);
                if found.pass {
                    accepted.push(format!("{what} in {part} of {}", recording.name));
                }
            }
        }
        assert!(made > 0, "no recording has what '{what}' in {part} concerns");
    }
    assert!(accepted.is_empty(), "the comparison with PyTorch cannot see: {accepted:#?}");
}

/// Every mistake, by what is wrong and the first block of the networks it is made in.
const MISTAKES: &[(&str, &str, Mistake)] = &[
    ("attention removed", "text_encoder", |_, op| when::<Attention>(op, zeros)),
    ("self-attention removed", "unet", |name, op| named::<Attention>(name, ".attn1.", op, zeros)),
    ("cross-attention removed", "unet", |name, op| named::<Attention>(name, ".attn2.", op, zeros)),
    ("attention removed", "vae.encoder", |_, op| when::<Attention>(op, zeros)),
    ("attention removed", "vae.decoder", |_, op| when::<Attention>(op, zeros)),
    ("every query sees itself alone", "text_encoder", |_, op| when::<Attention>(op, third_operand)),
    ("causal mask off", "text_encoder", |_, op| {
        changed(op, |a: &Attention| Attention { causal: false, ..a.clone() })
    }),
    ("causal mask on", "vae.decoder", |_, op| {
        changed(op, |a: &Attention| Attention { causal: true, ..a.clone() })
    }),
    ("attention scaled by all heads' features", "text_encoder", |_, op| when::<Attention>(op, wide_scale)),
    ("attention scaled by all heads' features", "unet", |_, op| when::<Attention>(op, wide_scale)),
    ("attention not scaled", "vae.decoder", |_, op| {
        changed(op, |a: &Attention| Attention { scale: Some(1.0), ..a.clone() })
    }),
    ("tanh for erf in GEGLU", "unet", |_, op| {
        when::<Geglu>(op, |op, x| geglu(op, x[0], false, Activation::GeluTanh))
    }),
    ("halves of GEGLU swapped", "unet", |_, op| {
        when::<Geglu>(op, |op, x| geglu(op, x[0], true, Activation::Gelu))
    }),
    ("tanh for erf", "text_encoder", |_, op| activation(op, Activation::Gelu, Activation::GeluTanh)),
    ("erf for quick GELU", "text_encoder", |_, op| activation(op, Activation::QuickGelu, Activation::Gelu)),
    ("group norm's epsilon x 10", "unet", group_norm_epsilon),
    ("group norm's epsilon x 10", "vae.encoder", group_norm_epsilon),
    ("group norm's epsilon x 10", "vae.decoder", group_norm_epsilon),
    ("a transformer's group norm with a block's epsilon", "unet", |name, op| {
        let transformer = name.contains(".attentions.") && name.ends_with(".norm");
        let op = transformer.then_some(op)?;
        changed(op, |norm: &GroupNorm| GroupNorm { eps: 1e-5, ..norm.clone() })
    }),
    ("layer norm's epsilon x 10", "text_encoder", layer_norm_epsilon),
    ("layer norm's epsilon x 10", "unet", layer_norm_epsilon),
    ("half the groups of a group norm", "unet", |_, op| {
        changed(op, |norm: &GroupNorm| GroupNorm { groups: (norm.groups / 2).max(1), ..norm.clone() })
    }),
    ("a linear layer without its bias", "text_encoder", |name, op| {
        named::<MatMul>(name, "layers.0.mlp.fc1", op, without_bias)
    }),
    ("a linear layer without its bias", "unet", |name, op| {
        named::<MatMul>(name, "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", op, without_bias)
    }),
    ("a time embedding without its bias", "unet", |name, op| {
        named::<MatMul>(name, "mid_block.resnets.0.time_emb_proj", op, without_bias)
    }),
    ("a convolution without its bias", "unet", |name, op| {
        named::<Conv2d>(name, "conv_out", op, without_bias)
    }),
    ("a convolution without its bias", "vae.encoder", |name, op| {
        named::<Conv2d>(name, "encoder.conv_in", op, without_bias)
    }),
    ("a convolution without its bias", "vae.decoder", |name, op| {
        named::<Conv2d>(name, "decoder.conv_in", op, without_bias)
    }),
    ("halving with zeros at the top left", "vae.encoder", |_, op| halving(op, [1, 0, 1, 0])),
    ("halving with zeros at the bottom right", "unet", |_, op| halving(op, [0, 2, 0, 2])),
    ("source rows shifted by one", "unet", |_, op| when::<Upsample>(op, |op, x| resized(op, x[0], shifted))),
    ("source rows shifted by one", "vae.decoder", |_, op| {
        when::<Upsample>(op, |op, x| resized(op, x[0], shifted))
    }),
    ("bilinear upsampling", "unet", |_, op| when::<Upsample>(op, |op, x| resized(op, x[0], bilinear))),
    ("bilinear upsampling", "vae.decoder", |_, op| when::<Upsample>(op, |op, x| resized(op, x[0], bilinear))),
    ("skip before hidden in a concatenation", "unet", |_, op| {
        when::<Concat>(op, |op, x| op.reference(&[x[1], x[0]]))
    }),
    ("no shortcut around a residual block", "unet", |name, op| {
        let block = name.ends_with("mid_block.resnets.1");
        block.then_some(op).and_then(|op| when::<Add>(op, second_operand))
    }),
    ("no shortcut around an attention", "vae.decoder", |name, op| {
        let block = name.ends_with("mid_block.attentions.0");
        block.then_some(op).and_then(|op| when::<Add>(op, second_operand))
    }),
];

/// `graph` with the mistake, or `None` if nothing in it is concerned.
fn with_mistake(graph: &Graph, mistake: &Mistake) -> Option<Graph> {
    let mut replaced = 0;
    let wrong = graph.map_ops(|name, op| {
        let other = mistake(name, op);
        replaced += usize::from(other.is_some());
        other
    });
    (replaced > 0).then(|| wrong.expect("a mistake keeps every shape"))
}

/// The network's last block, with the operations of `graph`, against PyTorch's.
fn compare_result(recording: &Recording, network: &Network<'_>, graph: &Graph) -> Comparison {
    let name = network.blocks.last().expect("blocks were recorded");
    let result = graph.find(name).unwrap_or_else(|| panic!("our graph has no '{name}'"));
    let given = on_host(graph, network.net.weights(), &network.given);
    let found = run_reference(graph, &given, &[result]).remove(0);
    compare(&recording.tensor(name, found.ty()), &found, Class::Network, DType::F32)
}

/// An operation that computes something else.
struct Wrong {
    right: Arc<dyn Op>,
    computed: Computed,
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wrong({:?})", self.right)
    }
}

impl Op for Wrong {
    fn name(&self) -> &'static str {
        self.right.name()
    }

    fn attributes(&self) -> Attributes {
        self.right.attributes()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        self.right.infer(inputs)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        (self.computed)(&*self.right, inputs)
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        self.right.variants(inputs, caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        self.right.cost(inputs)
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        self.right.class(inputs)
    }

    fn cases(&self) -> Vec<Case> {
        Vec::new()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What computes `computed` in the place of a `T`.
fn when<T: Op>(op: &Arc<dyn Op>, computed: Computed) -> Option<Arc<dyn Op>> {
    op.as_any().is::<T>().then(|| Arc::new(Wrong { right: op.clone(), computed }) as Arc<dyn Op>)
}

/// [`when`] for operations with `part` in their module path.
fn named<T: Op>(name: &str, part: &str, op: &Arc<dyn Op>, computed: Computed) -> Option<Arc<dyn Op>> {
    name.contains(part).then_some(op).and_then(|op| when::<T>(op, computed))
}

/// A `T` with other attributes in the place of a `T`.
fn changed<T: Op>(op: &Arc<dyn Op>, change: fn(&T) -> T) -> Option<Arc<dyn Op>> {
    op.as_any().downcast_ref().map(|op| Arc::new(change(op)) as Arc<dyn Op>)
}

fn activation(op: &Arc<dyn Op>, from: Activation, to: Activation) -> Option<Arc<dyn Op>> {
    let concerned = op.as_any().downcast_ref::<Activate>().is_some_and(|Activate(found)| *found == from);
    concerned.then(|| Arc::new(Activate(to)) as Arc<dyn Op>)
}

fn group_norm_epsilon(_: &str, op: &Arc<dyn Op>) -> Option<Arc<dyn Op>> {
    changed(op, |norm: &GroupNorm| GroupNorm { eps: 10.0 * norm.eps, ..norm.clone() })
}

fn layer_norm_epsilon(_: &str, op: &Arc<dyn Op>) -> Option<Arc<dyn Op>> {
    changed(op, |norm: &LayerNorm| LayerNorm { eps: 10.0 * norm.eps })
}

fn halving(op: &Arc<dyn Op>, padding: [usize; 4]) -> Option<Arc<dyn Op>> {
    let conv = op.as_any().downcast_ref::<Conv2d>().filter(|conv| conv.stride == [2, 2])?;
    Some(Arc::new(Conv2d { padding, ..conv.clone() }))
}

fn zeros(op: &dyn Op, inputs: &[&HostTensor]) -> HostTensor {
    let types: Vec<TensorType> = inputs.iter().map(|x| x.ty().clone()).collect();
    HostTensor::from_fn(op.infer(&types).expect("inferred"), |_| 0.0)
}

fn second_operand(_: &dyn Op, inputs: &[&HostTensor]) -> HostTensor {
    inputs[1].clone()
}

fn third_operand(_: &dyn Op, inputs: &[&HostTensor]) -> HostTensor {
    inputs[2].clone()
}

/// The contraction with zeros for its third operand.
fn without_bias(op: &dyn Op, inputs: &[&HostTensor]) -> HostTensor {
    let zeros = HostTensor::from_fn(inputs[2].ty().clone(), |_| 0.0);
    op.reference(&[inputs[0], inputs[1], &zeros])
}

fn wide_scale(op: &dyn Op, inputs: &[&HostTensor]) -> HostTensor {
    let attention = op.as_any().downcast_ref::<Attention>().expect("made for attentions");
    let scale = 1.0 / (inputs[0].ty().channels() as f64).sqrt();
    Attention { scale: Some(scale), ..attention.clone() }.reference(inputs)
}

/// GEGLU of `x: [.., 2 N]` with either half as the gate.
fn geglu(op: &dyn Op, x: &HostTensor, first_is_gate: bool, gate: Activation) -> HostTensor {
    let op = op.as_any().downcast_ref::<Geglu>().expect("made for GEGLU");
    let y = op.infer(&[x.ty().clone()]).expect("inferred");
    let n = y.channels();
    HostTensor::from_fn(y, |i| {
        let [first, second] = op.operands(i % n, n).map(|column| x.at(i / n * 2 * n + column));
        if first_is_gate { second * gate.apply(first) } else { first * gate.apply(second) }
    })
}

/// Positions in a row of `from` pixels, and their weights, that make pixel `at` of `to`.
type Taps = fn(at: usize, from: usize, to: usize) -> [(usize, f64); 2];

fn shifted(at: usize, from: usize, to: usize) -> [(usize, f64); 2] {
    let source = ((at + 1) * from / to).min(from - 1);
    [(source, 1.0), (source, 0.0)]
}

fn bilinear(at: usize, from: usize, to: usize) -> [(usize, f64); 2] {
    let position = ((at as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
    let first = position as usize;
    [(first, 1.0 - position.fract()), ((first + 1).min(from - 1), position.fract())]
}

/// `x: [B, h, w, C]` at the size of the upsampling `op`.
fn resized(op: &dyn Op, x: &HostTensor, taps: Taps) -> HostTensor {
    let y = op.infer(&[x.ty().clone()]).expect("inferred");
    let ([height, width], [rows, columns, channels]) =
        ([y.shape[1], y.shape[2]], [1, 2, 3].map(|d| x.shape()[d]));
    HostTensor::from_fn(y, |i| {
        let (channel, column, row) = (i % channels, i / channels % width, i / channels / width % height);
        let batch = i / (channels * width * height);
        let mut sum = 0.0;
        for (row, vertical) in taps(row, rows, height) {
            for (column, horizontal) in taps(column, columns, width) {
                let at = ((batch * rows + row) * columns + column) * channels + channel;
                sum += vertical * horizontal * x.at(at);
            }
        }
        sum
    })
}

//! Folding operations into the ones before them, as those operations themselves allow.

use std::sync::Arc;

use kernels::{Op, TensorType};

use super::columns::join_columns;
use super::stack::stack;
use super::{Graph, Source, Value, ValueId};

/// An operation and its operands.
type Node = (Arc<dyn Op>, Vec<ValueId>);

/// The same computation with fewer operations: what an operation's only reader can be done in its own epilogue is done there
/// (see [`kernels::Op::absorb`]), and values nothing depends on are left out.
///
/// Operations that do the same with one operand become one. Outputs stay values of their own.
pub fn fuse(graph: &Graph) -> Graph {
    let mut nodes: Vec<Option<Node>> = graph
        .values()
        .map(|(_, v)| match &v.source {
            Source::Node { op, inputs } => Some((op.clone(), inputs.clone())),
            _ => None,
        })
        .collect();
    let mut readers = vec![0usize; nodes.len()];
    for (_, inputs) in nodes.iter().flatten() {
        inputs.iter().for_each(|id| readers[id.index()] += 1);
    }
    graph.outputs().iter().for_each(|id| readers[id.index()] += 2);

    for index in 0..nodes.len() {
        let Some((op, inputs)) = nodes[index].clone() else { continue };
        let types: Vec<TensorType> = inputs.iter().map(|id| graph.ty(*id).clone()).collect();
        // The operand defined last goes first: the others are then there when the fused operation runs.
        let mut slots: Vec<usize> = (0..inputs.len()).collect();
        slots.sort_by_key(|slot| std::cmp::Reverse(inputs[*slot]));
        let fused = slots.into_iter().find_map(|slot| {
            let producer = inputs[slot];
            if readers[producer.index()] != 1 {
                return None;
            }
            let (first, operands) = nodes[producer.index()].as_ref()?;
            let absorbed = first.absorb(op.as_ref(), slot, &types)?;
            let extra = absorbed.extra_operands.iter().map(|i| inputs[*i]);
            let operands: Vec<ValueId> = operands.iter().copied().chain(extra).collect();
            Some((producer, absorbed.op, operands))
        });
        if let Some((producer, op, operands)) = fused {
            nodes[producer.index()] = None;
            nodes[index] = Some((op, operands));
        }
    }
    stack(&join_columns(&rebuild(graph, &nodes)))
}

fn rebuild(graph: &Graph, nodes: &[Option<Node>]) -> Graph {
    let mut needed = vec![false; nodes.len()];
    graph.outputs().iter().for_each(|id| needed[id.index()] = true);
    for index in (0..nodes.len()).rev() {
        if let (true, Some((_, inputs))) = (needed[index], &nodes[index]) {
            inputs.iter().for_each(|id| needed[id.index()] = true);
        }
    }
    let mut new = Graph::new();
    let mut ids: Vec<Option<ValueId>> = vec![None; nodes.len()];
    for (id, value) in graph.values() {
        let is_input = matches!(value.source, Source::Input { .. });
        if !needed[id.index()] && !is_input {
            continue;
        }
        let source = match &nodes[id.index()] {
            None => value.source.clone(),
            Some((op, inputs)) => {
                let inputs =
                    inputs.iter().map(|i| ids[i.index()].expect("operands stand before results")).collect();
                Source::Node { op: op.clone(), inputs }
            }
        };
        ids[id.index()] = Some(new.push(Value { source, ..value.clone() }));
    }
    for output in graph.outputs() {
        new.output(ids[output.index()].expect("outputs are needed"));
    }
    new
}

#[cfg(test)]
mod tests {
    use kernels::ops::{Activate, Activation, MatMul, Scale};

    use super::*;
    use crate::graph::{Packing, Param, Rate};

    #[test]
    fn what_two_operations_read_is_absorbed_by_none() {
        let ops = |readers: &[&dyn Fn() -> Arc<dyn Op>]| -> Vec<&'static str> {
            let mut graph = Graph::new();
            let x = graph.input("x", TensorType::f32([8, 64]), Rate::Step);
            let w = graph.param(Param::one("w".to_owned(), Packing::Linear), TensorType::f32([64, 64]));
            let y = graph.apply("y", MatMul::default(), &[x, w]).expect("operands fit");
            for (i, reader) in readers.iter().enumerate() {
                let result = graph.apply_arc(format!("{i}"), reader(), &[y]).expect("operands fit");
                graph.output(result);
            }
            let name = |value: &Value| match &value.source {
                Source::Node { op, .. } => Some(op.name()),
                _ => None,
            };
            fuse(&graph).values().filter_map(|(_, value)| name(value)).collect()
        };
        let silu: &dyn Fn() -> Arc<dyn Op> = &|| Arc::new(Activate(Activation::Silu));
        let scale: &dyn Fn() -> Arc<dyn Op> = &|| Arc::new(Scale { factor: 2.0 });
        assert_eq!(ops(&[silu]), ["matmul"]);
        assert_eq!(ops(&[silu, scale]), ["matmul", "activate", "scale"]);
    }
}

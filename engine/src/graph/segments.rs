//! Parts of a graph: what lies between two of its values, and what lies between its group norms.
//!
//! A group norm looks at a whole image, the layers between two of them only at a few pixels around each. An image can so be
//! worked on in tiles and give what it gives as a whole, if the tiles wait for each other before every norm.

use std::collections::HashMap;

use kernels::TensorType;
use kernels::ops::{GroupNorm, Normalize};

use super::{Graph, GraphError, Rate, Source, ValueId};

/// A group norm whose statistics are needed before a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The value that it is over, in the graph that was cut.
    pub over: ValueId,
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

/// The layers between two group norms.
#[derive(Debug)]
pub struct Segment {
    /// What it computes. Its inputs are `carried`, then the statistics of `norms`; its outputs are `results`.
    pub graph: Graph,
    /// Values of the graph that was cut which it takes.
    pub carried: Vec<ValueId>,
    /// Norms that it begins with.
    pub norms: Vec<Norm>,
    /// Values of the graph that was cut which it gives: those that later segments take, and the graph's results.
    pub results: Vec<ValueId>,
}

impl Graph {
    /// What computes `results` from `inputs`: those become inputs, in this order, before the graph's own that are needed.
    pub fn between(&self, inputs: &[ValueId], results: &[ValueId]) -> Graph {
        let mut needed = vec![false; self.values.len()];
        results.iter().for_each(|id| needed[id.index()] = true);
        for (id, value) in self.values().collect::<Vec<_>>().into_iter().rev() {
            if let (true, false, Source::Node { inputs: operands, .. }) =
                (needed[id.index()], inputs.contains(&id), &value.source)
            {
                operands.iter().for_each(|operand| needed[operand.index()] = true);
            }
        }
        let mut part = Graph::new();
        let mut ids: HashMap<ValueId, ValueId> = HashMap::new();
        for id in inputs {
            let value = self.value(*id);
            ids.insert(*id, part.input(&value.name, value.ty.clone(), Rate::Step));
        }
        for (id, value) in self.values().filter(|(id, _)| needed[id.index()]) {
            if ids.contains_key(&id) {
                continue;
            }
            let mut value = value.clone();
            if let Source::Node { inputs, .. } = &mut value.source {
                inputs.iter_mut().for_each(|operand| *operand = ids[operand]);
            }
            ids.insert(id, part.push(value));
        }
        results.iter().for_each(|id| part.output(ids[id]));
        part
    }
}

/// `graph` cut before each group norm, in the order in which its parts can run; parts that compute nothing are left out.
///
/// # Errors
/// None for a graph of sound operations: [`GraphError`] is a norm that [`Normalize`] refuses.
pub fn segments(graph: &Graph) -> Result<Vec<Segment>, GraphError> {
    let levels = levels(graph);
    let Given { graph: given, ids, statistics } = Given::of(graph)?;
    let last = levels.iter().copied().max().unwrap_or(0);
    let mut segments = Vec::new();
    for level in 0..=last {
        let of_level = |id: &ValueId| is_node(graph, *id) && levels[id.index()] == level;
        let (mut carried, mut results): (Vec<ValueId>, Vec<ValueId>) = (Vec::new(), Vec::new());
        let (mut norms, mut statistics_of) = (Vec::new(), Vec::new());
        for (id, value) in graph.values() {
            let Source::Node { op, inputs } = &value.source else { continue };
            if levels[id.index()] == level {
                let from_before = inputs
                    .iter()
                    .filter(|i| !of_level(i) && !matches!(graph.value(**i).source, Source::Param(_)));
                carried.extend(from_before);
                if let Some(norm) = op.as_any().downcast_ref::<GroupNorm>() {
                    norms.push(Norm { over: inputs[0], groups: norm.groups, eps: norm.eps });
                    statistics_of.push(statistics[&id]);
                }
            } else {
                results.extend(inputs.iter().filter(|i| of_level(i) && levels[id.index()] > level));
            }
        }
        results.extend(graph.outputs().iter().filter(|id| of_level(id)));
        [&mut carried, &mut results].into_iter().for_each(|ids| {
            ids.sort();
            ids.dedup();
        });
        if results.is_empty() {
            continue;
        }
        let new = |of: &[ValueId]| -> Vec<ValueId> { of.iter().map(|id| ids[id.index()]).collect() };
        let inputs = [new(&carried), statistics_of].concat();
        segments.push(Segment { graph: given.between(&inputs, &new(&results)), carried, norms, results });
    }
    Ok(segments)
}

fn is_node(graph: &Graph, id: ValueId) -> bool {
    matches!(graph.value(id).source, Source::Node { .. })
}

/// For each value the most group norms on a way to it.
fn levels(graph: &Graph) -> Vec<usize> {
    let mut levels: Vec<usize> = Vec::new();
    for (_, value) in graph.values() {
        let level = match &value.source {
            Source::Node { op, inputs } => {
                let before = inputs.iter().map(|i| levels[i.index()]).max().unwrap_or(0);
                before + usize::from(op.as_any().is::<GroupNorm>())
            }
            _ => 0,
        };
        levels.push(level);
    }
    levels
}

/// A graph whose group norms take their statistics as inputs.
struct Given {
    graph: Graph,
    /// The new id of each value.
    ids: Vec<ValueId>,
    /// The statistics of each norm, by its old id.
    statistics: HashMap<ValueId, ValueId>,
}

impl Given {
    fn of(graph: &Graph) -> Result<Self, GraphError> {
        let mut given = Given { graph: Graph::new(), ids: Vec::new(), statistics: HashMap::new() };
        for (id, value) in graph.values() {
            let mut value = value.clone();
            let new = match &mut value.source {
                Source::Node { op, inputs } => {
                    inputs.iter_mut().for_each(|operand| *operand = given.ids[operand.index()]);
                    match op.as_any().downcast_ref::<GroupNorm>() {
                        Some(norm) => {
                            let ty = TensorType::f32([value.ty.shape[0], norm.groups, 2]);
                            let name = format!("{}.statistics", value.name);
                            let statistics = given.graph.input(&name, ty, Rate::Step);
                            given.statistics.insert(id, statistics);
                            inputs.push(statistics);
                            let op = Normalize { groups: norm.groups, silu: norm.silu };
                            given.graph.apply(value.name.clone(), op, inputs)?
                        }
                        None => given.graph.push(value),
                    }
                }
                _ => given.graph.push(value),
            };
            given.ids.push(new);
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use kernels::HostTensor;
    use kernels::ops::{Activate, Activation, Add, Scale};

    use super::*;
    use crate::reference::run_reference;

    /// `x -> 2x -> norm -> silu -> norm -> + 2x`, with scales and biases that are inputs.
    fn two_norms() -> Graph {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, 3, 5, 4]), Rate::Step);
        let scale = graph.input("scale", TensorType::f32([4]), Rate::Step);
        let bias = graph.input("bias", TensorType::f32([4]), Rate::Step);
        let norm = GroupNorm { groups: 2, eps: 1e-5, silu: false };
        let twice = graph.apply("twice", Scale { factor: 2.0 }, &[x]).expect("sound");
        let first = graph.apply("first", norm.clone(), &[twice, scale, bias]).expect("sound");
        let active = graph.apply("active", Activate(Activation::Silu), &[first]).expect("sound");
        let second = graph.apply("second", norm, &[active, scale, bias]).expect("sound");
        let sum = graph.apply("sum", Add, &[second, twice]).expect("sound");
        graph.output(sum);
        graph
    }

    #[test]
    fn segments_begin_with_norms_and_carry_what_later_ones_take() {
        let graph = two_norms();
        let names =
            |ids: &[ValueId]| -> Vec<String> { ids.iter().map(|id| graph.value(*id).name.clone()).collect() };
        let found: Vec<_> = segments(&graph)
            .expect("sound")
            .iter()
            .map(|s| {
                let over: Vec<ValueId> = s.norms.iter().map(|norm| norm.over).collect();
                (names(&s.carried), names(&over), names(&s.results))
            })
            .collect();
        let of = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(
            found,
            [
                (of(&["x"]), of(&[]), of(&["twice"])),
                (of(&["scale", "bias", "twice"]), of(&["twice"]), of(&["active"])),
                (of(&["scale", "bias", "twice", "active"]), of(&["active"]), of(&["sum"])),
            ]
        );
    }

    #[test]
    fn segments_one_after_the_other_are_the_graph() {
        let graph = two_norms();
        let mut values: HashMap<ValueId, HostTensor> = graph
            .inputs()
            .into_iter()
            .map(|id| (id, HostTensor::from_fn(graph.ty(id).clone(), |i| libm::sin(i as f64) + 1.0)))
            .collect();
        let expected = run_reference(&graph, &values, graph.outputs()).remove(0);
        for segment in segments(&graph).expect("sound") {
            let statistics = segment.norms.iter().map(|norm| {
                let over = &values[&norm.over];
                HostTensor::from_fn(TensorType::f32([1, norm.groups, 2]), |i| {
                    let of_group: Vec<f64> = (0..over.data().len())
                        .filter(|at| at % 4 / (4 / norm.groups) == i / 2)
                        .map(|at| over.at(at))
                        .collect();
                    let mean = of_group.iter().sum::<f64>() / of_group.len() as f64;
                    let squares = of_group.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
                    if i % 2 == 0 { mean } else { (squares / of_group.len() as f64 + norm.eps).sqrt() }
                })
            });
            let given = segment.carried.iter().map(|id| values[id].clone()).chain(statistics);
            let given = segment.graph.inputs().into_iter().zip(given).collect();
            let found = run_reference(&segment.graph, &given, segment.graph.outputs());
            values.extend(segment.results.iter().copied().zip(found));
        }
        for (found, expected) in values[&graph.outputs()[0]].data().iter().zip(expected.data()) {
            assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
        }
    }
}

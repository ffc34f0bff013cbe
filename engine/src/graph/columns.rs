//! Doing at once what several operations do with one operand and weights of any width, where what reads their results can read some
//! columns of a wider one: the projections of a time embedding.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::ops::Reshape;
use kernels::{Op, STRIP, TensorType};

use super::stack::{MOST_BYTES, is_param, is_read_beside, operands, stack_name};
use super::{Graph, Param, Source, Value, ValueId};

/// Operations whose results lie side by side in the columns of one, in order.
#[derive(Default)]
struct Join {
    members: Vec<ValueId>,
    columns: usize,
    /// Bytes of its largest operand.
    bytes: u64,
}

/// Columns of the widest join: what reads some of them has to say where they begin.
const MOST_COLUMNS: usize = 1 << 16;

/// Which columns of a joined result stand for a value, from the first on.
#[derive(Clone, Copy)]
struct Columns {
    join: usize,
    first: usize,
}

/// The same computation with fewer operations: those that do the same with one first operand and weights of their own become one on
/// weights that lie side by side (see [`kernels::Op::joins_columns`]), if all that reads their results takes columns of a wider one.
pub(super) fn join_columns(graph: &Graph) -> Graph {
    let joins = joins(graph);
    let mut parts: BTreeMap<ValueId, Columns> = BTreeMap::new();
    for (join, Join { members, .. }) in joins.iter().enumerate() {
        let mut first = 0;
        for member in members {
            parts.insert(*member, Columns { join, first });
            first += padded(graph.ty(*member));
        }
    }
    for (id, value) in graph.values() {
        let viewed = viewed(value).and_then(|viewed| parts.get(&viewed).copied());
        viewed.map(|columns| parts.insert(id, columns));
    }
    let is_read = is_read_beside(graph, |id| parts.contains_key(&id));

    let mut new = Graph::new();
    let mut ids: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut joined: BTreeMap<usize, ValueId> = BTreeMap::new();
    for (id, value) in graph.values() {
        if let Some(Columns { join, .. }) = parts.get(&id) {
            joined.entry(*join).or_insert_with(|| push_join(graph, &mut new, &joins[*join], &ids));
            continue;
        }
        let source = match &value.source {
            Source::Param(_) if !is_read[id.index()] => continue,
            Source::Node { op, inputs } => {
                let mut op = op.clone();
                let mut operand = |(slot, input): (usize, &ValueId)| match parts.get(input) {
                    None => ids[input],
                    Some(Columns { join, first }) => {
                        op = op.in_columns(slot, *first).expect("asked before");
                        joined[join]
                    }
                };
                let inputs = inputs.iter().enumerate().map(&mut operand).collect();
                Source::Node { op, inputs }
            }
            other => other.clone(),
        };
        ids.insert(id, new.push(Value { source, ..value.clone() }));
    }
    graph.outputs().iter().for_each(|id| new.output(ids[id]));
    new
}

/// Columns of `ty` that begin where a strip may: what lies side by side is then packed one by one.
fn padded(ty: &TensorType) -> usize {
    ty.channels().next_multiple_of(STRIP)
}

/// The operand of which `value` is the same under another shape.
fn viewed(value: &Value) -> Option<ValueId> {
    match &value.source {
        Source::Node { op, inputs } if op.as_any().is::<Reshape>() => inputs.first().copied(),
        _ => None,
    }
}

fn joins(graph: &Graph) -> Vec<Join> {
    let takes_columns = takes_columns(graph);
    let mut alike: BTreeMap<(ValueId, String), Vec<Join>> = BTreeMap::new();
    for (id, value) in graph.values().filter(|(id, _)| takes_columns[id.index()]) {
        let Source::Node { op, inputs } = &value.source else { continue };
        let types: Vec<TensorType> = inputs.iter().map(|id| graph.ty(*id).clone()).collect();
        let own = inputs.iter().zip(&types).skip(1).map(|(id, ty)| match &graph.value(*id).source {
            Source::Param(param) if param.tensors.len() == 1 => Some(format!(
                "{:?} {} {:?}",
                param.packing,
                ty.dtype,
                ty.shape.split_last().map(|(_, rows)| rows)
            )),
            _ => None,
        });
        let Some(own) = own.collect::<Option<Vec<String>>>() else { continue };
        if is_param(graph, inputs[0]) || !op.joins_columns(&types) {
            continue;
        }
        let bytes =
            types[1..].iter().map(|ty| (ty.rows() * padded(ty) * ty.dtype.size()) as u64).max().unwrap_or(0);
        let columns = padded(&value.ty);
        let joins = alike.entry((inputs[0], format!("{op:?} {own:?}"))).or_default();
        let has_room =
            |join: &Join| join.bytes + bytes <= MOST_BYTES && join.columns + columns <= MOST_COLUMNS;
        if !joins.last().is_some_and(has_room) {
            joins.push(Join::default());
        }
        let join = joins.last_mut().expect("there is one by now");
        join.members.push(id);
        join.columns += columns;
        join.bytes += bytes;
    }
    alike.into_values().flatten().filter(|join| join.members.len() > 1).collect()
}

/// Whether each value is read, and only by what would read it among the columns of a wider one.
fn takes_columns(graph: &Graph) -> Vec<bool> {
    let n = graph.values().count();
    let (mut takes, mut is_read) = (vec![true; n], vec![false; n]);
    graph.outputs().iter().for_each(|id| takes[id.index()] = false);
    // What reads a value stands after it.
    let values: Vec<(ValueId, &Value)> = graph.values().collect();
    for (id, value) in values.into_iter().rev() {
        let Source::Node { op, inputs } = &value.source else { continue };
        for (slot, input) in inputs.iter().enumerate() {
            let has_its_rows = graph.ty(*input).channels() == value.ty.channels();
            takes[input.index()] &= match viewed(value) {
                Some(_) => has_its_rows && takes[id.index()],
                None => op.in_columns(slot, 0).is_some(),
            };
            is_read[input.index()] = true;
        }
    }
    takes.into_iter().zip(is_read).map(|(takes, is_read)| takes && is_read).collect()
}

/// Adds the operation of a join; its result has those of its members side by side.
fn push_join(graph: &Graph, new: &mut Graph, join: &Join, ids: &BTreeMap<ValueId, ValueId>) -> ValueId {
    let first = operands(graph, join.members[0]);
    let mut inputs = vec![ids[&first[0]]];
    for (slot, weight) in first.iter().enumerate().skip(1) {
        let weights = || join.members.iter().map(|member| graph.value(operands(graph, *member)[slot]));
        let columns: Vec<usize> = weights().map(|weight| padded(&weight.ty)).collect();
        let params = weights().filter_map(|weight| match &weight.source {
            Source::Param(param) => Some(param),
            _ => None,
        });
        let params: Vec<&Param> = params.collect();
        let ty = graph.ty(*weight);
        let mut shape = ty.shape.to_vec();
        shape.pop();
        shape.push(columns.iter().sum());
        let ty = TensorType::new(ty.dtype, shape);
        let ty = if params[0].packing.is_matrix() { ty.in_strips() } else { ty };
        let tensors = params.iter().flat_map(|param| param.tensors.clone()).collect();
        inputs.push(new.param(Param { tensors, packing: params[0].packing, columns }, ty));
    }
    let Source::Node { op, .. } = &graph.value(join.members[0]).source else {
        unreachable!("members are operations")
    };
    let op: Arc<dyn Op> = op.clone();
    let name = stack_name(join.members.iter().map(|id| graph.value(*id).name.as_str()).collect());
    new.apply_arc(name, op, &inputs).expect("a join fits where its members did")
}

#[cfg(test)]
mod tests {
    use kernels::DType;
    use kernels::ops::{Conv2d, Epilogue, MatMul};

    use super::*;
    use crate::graph::{Packing, Rate};

    /// A time embedding's projection.
    #[derive(Clone)]
    struct Projection {
        width: usize,
        dtype: DType,
        tensors: Vec<&'static str>,
        /// Columns of each row as a convolution reads it.
        row: usize,
        is_output: bool,
    }

    fn projection(width: usize) -> Projection {
        Projection { width, dtype: DType::F32, tensors: vec!["w"], row: width, is_output: false }
    }

    /// A convolution for each projection of one time embedding of `inputs` features, as its batch bias.
    fn timed(inputs: usize, projections: impl IntoIterator<Item = Projection>) -> Graph {
        let mut graph = Graph::new();
        let time = graph.input("time", TensorType::f32([2, inputs]), Rate::Step);
        project(graph, time, projections)
    }

    /// [`timed`] by a value of `graph`.
    fn project(mut graph: Graph, time: ValueId, projections: impl IntoIterator<Item = Projection>) -> Graph {
        let inputs = graph.ty(time).channels();
        for (i, Projection { width, dtype, tensors, row, is_output }) in projections.into_iter().enumerate() {
            let batches = 2 * width / row;
            let tensors = tensors.iter().map(|name| format!("{i}.{name}")).collect();
            let w = Param { tensors, packing: Packing::Linear, columns: Vec::new() };
            let w = graph.param(w, TensorType::new(dtype, [inputs, width]).in_strips());
            let bias =
                graph.param(Param::one(format!("{i}.bias"), Packing::Vector), TensorType::f32([width]));
            let kernel = TensorType::f32([1, 1, 8, row]).in_strips();
            let kernel = graph.param(Param::one(format!("{i}.kernel"), Packing::Conv), kernel);
            let x = graph.input(&format!("{i}.x"), TensorType::f32([batches, 4, 4, 8]), Rate::Step);
            let mut apply = |name: &str, op: Arc<dyn Op>, inputs: &[ValueId]| {
                graph.apply_arc(format!("{i}.{name}"), op, inputs).expect("operands fit")
            };
            let shift = apply("shift", Arc::new(MatMul::new(Epilogue::bias())), &[time, w, bias]);
            let rows = apply("rows", Arc::new(Reshape { shape: [batches, 1, 1, row].into() }), &[shift]);
            let epilogue = Epilogue { batch_bias: true, ..Epilogue::default() };
            let conv = apply("conv", Arc::new(Conv2d { epilogue, ..Conv2d::default() }), &[x, kernel, rows]);
            graph.output(conv);
            if is_output {
                graph.output(rows);
            }
        }
        graph
    }

    fn named<'g>(graph: &'g Graph, op: &str) -> Vec<&'g Value> {
        let is =
            |value: &&Value| matches!(&value.source, Source::Node { op: found, .. } if found.name() == op);
        graph.values().map(|(_, value)| value).filter(is).collect()
    }

    /// Products that are left.
    fn products(inputs: usize, projections: impl IntoIterator<Item = Projection>) -> usize {
        named(&join_columns(&timed(inputs, projections)), "matmul").len()
    }

    #[test]
    fn projections_of_any_width_are_one_product() {
        let joined = join_columns(&timed(64, [64, 160, 128].map(projection)));
        let products = named(&joined, "matmul");
        assert_eq!(products.len(), 1);
        assert_eq!((*products[0].ty.shape).to_vec(), [2, 384]);
        assert_eq!(products[0].name, "0.shift and 2 more");
        let columns: Vec<Vec<usize>> = joined.params().map(|(_, param)| param.columns.clone()).collect();
        assert_eq!(columns, [vec![], vec![64, 192, 128], vec![64, 192, 128], vec![], vec![]]);
        let first = |value: &Value| match &value.source {
            Source::Node { op, .. } => op.attributes().into_iter().find(|(name, _)| *name == "batch_column"),
            _ => None,
        };
        let firsts: Vec<_> = named(&joined, "conv2d").into_iter().map(first).collect();
        assert_eq!(firsts, [None, Some(("batch_column", 64.into())), Some(("batch_column", 256.into()))]);
        assert!(named(&joined, "reshape").is_empty(), "nothing reads the results one by one");
    }

    #[test]
    fn what_differs_or_is_read_otherwise_stays_as_it_is() {
        let with = |other: Projection| products(64, [projection(64), other]);
        assert_eq!(with(projection(128)), 1);
        assert_eq!(with(Projection { is_output: true, ..projection(128) }), 2);
        assert_eq!(with(Projection { row: 32, ..projection(128) }), 2, "two batches in a row");
        assert_eq!(with(Projection { dtype: DType::F16, ..projection(128) }), 2);
        assert_eq!(
            with(Projection { tensors: vec!["a", "b"], ..projection(128) }),
            2,
            "a weight of several already"
        );
        let graph = timed(64, [projection(64)]);
        assert_eq!(format!("{:?}", join_columns(&graph)), format!("{graph:?}"));
    }

    #[test]
    fn what_is_joined_is_not_stacked_as_well() {
        // Two joins of 60,032 columns.
        let fused = crate::graph::fuse(&timed(4, [30_016; 4].map(projection)));
        let products = named(&fused, "matmul");
        assert_eq!(
            products.iter().map(|value| value.ty.shape.to_vec()).collect::<Vec<_>>(),
            [[2, 60_032]; 2]
        );
        for (id, param) in fused.params() {
            let bytes: u64 = param.parts(fused.ty(id)).iter().map(TensorType::bytes).sum();
            assert_eq!(bytes, fused.ty(id).bytes(), "{param:?}");
        }
    }

    #[test]
    fn weights_that_are_multiplied_with_each_other_stay_as_they_are() {
        let weight = |graph: &mut Graph, name: &str| {
            graph.param(Param::one(name.to_owned(), Packing::Linear), TensorType::f32([2, 64]))
        };
        let mut graph = Graph::new();
        let a = weight(&mut graph, "a");
        let mut graph = project(graph, a, [64, 128].map(projection));
        // And those whose results are read one by one.
        for name in ["b", "c"] {
            let w = graph.param(Param::one(name.to_owned(), Packing::Linear), TensorType::f32([64, 64]));
            let y = graph.apply(format!("a{name}"), MatMul::default(), &[a, w]).expect("operands fit");
            graph.output(y);
        }
        assert_eq!(named(&crate::graph::fuse(&graph), "matmul").len(), 4);
    }

    #[test]
    fn what_is_joined_fits_a_binding_and_its_columns_are_found() {
        // 80 MB each, of 134; then 40,000 columns each, of 65,536.
        assert_eq!(products(1000, [20_000, 20_000, 64].map(projection)), 2);
        assert_eq!(products(4, [40_000, 40_000, 40_000].map(projection)), 3);
    }
}

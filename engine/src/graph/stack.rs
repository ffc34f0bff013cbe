//! Doing at once what several operations do with one operand: queries, keys and values.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::ops::{Reshape, Slice};
use kernels::{Op, TensorType};

use super::{Graph, Param, Source, Value, ValueId};

/// Alignment at which every adapter can bind a part of a buffer.
///
/// Source: `minStorageBufferOffsetAlignment` of WebGPU's default limits.
const ALIGNMENT: u64 = 256;

/// Bytes of one binding that every adapter has: weights are not stacked beyond it.
pub(super) const MOST_BYTES: u64 = 128 << 20;

/// Operations whose results are parts of one, in order.
struct Stack {
    op: Arc<dyn Op>,
    members: Vec<ValueId>,
}

/// The same computation with fewer operations: those that do the same with one first operand and weights of their own become
/// one on stacked weights (see [`kernels::Op::stacked`]), and their results views of its result.
pub(super) fn stack(graph: &Graph) -> Graph {
    let stacks = stacks(graph);
    if stacks.is_empty() {
        return graph.clone();
    }
    let firsts: BTreeMap<ValueId, &Stack> = stacks.iter().map(|stack| (stack.members[0], stack)).collect();
    let is_member = |id: ValueId| stacks.iter().any(|stack| stack.members.contains(&id));
    let is_read = is_read_beside(graph, is_member);

    let mut new = Graph::new();
    let mut ids: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (id, value) in graph.values() {
        if let Some(stack) = firsts.get(&id) {
            for (member, part) in stack.members.iter().zip(push_stack(graph, &mut new, stack, &ids)) {
                ids.insert(*member, part);
            }
        }
        if ids.contains_key(&id) || (matches!(value.source, Source::Param(_)) && !is_read[id.index()]) {
            continue;
        }
        let source = match &value.source {
            Source::Node { op, inputs } => {
                let inputs = inputs.iter().map(|input| ids[input]).collect();
                Source::Node { op: op.clone(), inputs }
            }
            other => other.clone(),
        };
        ids.insert(id, new.push(Value { source, ..value.clone() }));
    }
    graph.outputs().iter().for_each(|id| new.output(ids[id]));
    new
}

/// Whether each value is an output, or read by what is no member of a stack: a weight that only members read is a part of another.
pub(super) fn is_read_beside(graph: &Graph, is_member: impl Fn(ValueId) -> bool) -> Vec<bool> {
    let mut is_read = vec![false; graph.values().count()];
    graph.outputs().iter().for_each(|id| is_read[id.index()] = true);
    for (id, value) in graph.values() {
        if let (Source::Node { inputs, .. }, false) = (&value.source, is_member(id)) {
            inputs.iter().for_each(|input| is_read[input.index()] = true);
        }
    }
    is_read
}

/// Whether a value is a weight: one that nothing but members reads does not stay by itself, and cannot be their first operand.
pub(super) fn is_param(graph: &Graph, id: ValueId) -> bool {
    matches!(graph.value(id).source, Source::Param(_))
}

/// Operands of an operation; none of what is no operation.
pub(super) fn operands(graph: &Graph, id: ValueId) -> &[ValueId] {
    match &graph.value(id).source {
        Source::Node { inputs, .. } => inputs.as_slice(),
        _ => &[],
    }
}

fn stacks(graph: &Graph) -> Vec<Stack> {
    let mut alike: BTreeMap<(ValueId, String), Vec<Stack>> = BTreeMap::new();
    for (id, value) in graph.values() {
        let Source::Node { op, inputs } = &value.source else { continue };
        let types: Vec<TensorType> = inputs.iter().map(|id| graph.ty(*id).clone()).collect();
        let own = inputs.iter().skip(1).map(|id| match &graph.value(*id).source {
            Source::Param(param) if param.tensors.len() == 1 => {
                Some(format!("{:?} {}", param.packing, graph.ty(*id)))
            }
            _ => None,
        });
        let Some(own) = own.collect::<Option<Vec<String>>>() else { continue };
        if is_param(graph, inputs[0]) || !value.ty.bytes().is_multiple_of(ALIGNMENT) {
            continue;
        }
        let Some(stacked) = op.stacked(&types) else { continue };
        let bytes = types[1..].iter().map(TensorType::bytes).max().unwrap_or(0);
        // Of weights that fill a binding, as many as fit make a stack of their own.
        let room = (MOST_BYTES / bytes.max(1)).max(1) as usize;
        let stacks = alike.entry((inputs[0], format!("{op:?} {own:?}"))).or_default();
        match stacks.last_mut() {
            Some(stack) if stack.members.len() < room => stack.members.push(id),
            _ => stacks.push(Stack { op: stacked, members: vec![id] }),
        }
    }
    alike.into_values().flatten().filter(|stack| stack.members.len() > 1).collect()
}

/// Adds the operation of a stack; the results are its members'.
fn push_stack(
    graph: &Graph,
    new: &mut Graph,
    stack: &Stack,
    ids: &BTreeMap<ValueId, ValueId>,
) -> Vec<ValueId> {
    let n = stack.members.len();
    let first = operands(graph, stack.members[0]);
    let mut inputs = vec![ids[&first[0]]];
    for (slot, weight) in first.iter().enumerate().skip(1) {
        let params =
            stack.members.iter().map(|member| match &graph.value(operands(graph, *member)[slot]).source {
                Source::Param(param) => param,
                _ => unreachable!("members have weights of their own"),
            });
        let params: Vec<&Param> = params.collect();
        let param = Param {
            tensors: params.iter().flat_map(|param| param.tensors.clone()).collect(),
            packing: params[0].packing,
            columns: Vec::new(),
        };
        let ty = graph.ty(*weight);
        let shape: Vec<usize> = [n].iter().chain(ty.shape.iter()).copied().collect();
        inputs.push(new.param(param, TensorType { shape: shape.into(), ..ty.clone() }));
    }
    let name = stack_name(stack.members.iter().map(|id| graph.value(*id).name.as_str()).collect());
    let apply = |new: &mut Graph, name: String, op: Arc<dyn Op>, inputs: &[ValueId]| {
        new.apply_arc(name, op, inputs).expect("a stack fits where its members did")
    };
    let whole = apply(new, name.clone(), stack.op.clone(), &inputs);
    let part = |(i, member): (usize, &ValueId)| {
        let slice = Slice { axis: 0, start: i, length: 1 };
        let row = apply(new, format!("{name}[{i}]"), Arc::new(slice), &[whole]);
        let value = graph.value(*member);
        apply(new, value.name.clone(), Arc::new(Reshape { shape: value.ty.shape.clone() }), &[row])
    };
    stack.members.iter().enumerate().map(part).collect()
}

/// `a.b.to_q`, `a.b.to_k` -> `a.b.to_q+to_k`; of many, the first and how many more.
pub(super) fn stack_name(names: Vec<&str>) -> String {
    const SHOWN: usize = 3;
    let module = |name: &str| name.rsplit_once('.').map_or(String::new(), |(module, _)| module.to_owned());
    let shared = names.iter().all(|name| module(name) == module(names[0]));
    if !shared || names.len() > SHOWN {
        return format!("{} and {} more", names[0], names.len() - 1);
    }
    let last = names[1..].iter().map(|name| name.rsplit('.').next().unwrap_or_default());
    [names[0]].into_iter().chain(last).collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use kernels::DType;
    use kernels::ops::{Activation, Epilogue, MatMul};

    use super::*;
    use crate::graph::{Packing, Rate};

    /// Numbers of operations that are no views, of products of one operand with weights of this type and these epilogues.
    fn products(w: &TensorType, epilogues: &[Epilogue]) -> usize {
        let mut graph = Graph::new();
        let a = graph.input("a", TensorType::new(DType::F16, [64, w.shape[0]]), Rate::Step);
        for (i, epilogue) in epilogues.iter().enumerate() {
            let param = Param::one(format!("w{i}"), Packing::Linear);
            let w = graph.param(param, w.clone());
            let y = graph.apply(format!("y{i}"), MatMul::new(epilogue.clone()), &[a, w]).expect("fits");
            graph.output(y);
        }
        let stacked = stack(&graph);
        let is_product =
            |value: &Value| matches!(&value.source, Source::Node { op, .. } if op.name() == "matmul");
        stacked.values().filter(|(_, value)| is_product(value)).count()
    }

    #[test]
    fn only_what_is_alike_is_stacked() {
        let w = TensorType::new(DType::F16, [64, 64]);
        let plain = Epilogue::default;
        let active = Epilogue { activation: Some(Activation::Silu), ..plain() };
        assert_eq!(products(&w, &[plain(), plain(), plain()]), 1);
        assert_eq!(products(&w, &[plain(), active.clone(), plain(), active]), 2);
    }

    #[test]
    fn stacked_weights_fit_a_binding() {
        let w = TensorType::new(DType::F16, [8192, 4096]); // 64 MiB
        assert_eq!(products(&w, &vec![Epilogue::default(); 5]), 3);
        let w = TensorType::new(DType::F16, [8192, 8256]); // over 128 MiB
        assert_eq!(products(&w, &vec![Epilogue::default(); 3]), 3);
    }
}

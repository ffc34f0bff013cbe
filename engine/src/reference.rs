//! Runs a graph on the CPU with every operation's reference: what the GPU is compared with.

use std::collections::HashMap;

use kernels::HostTensor;

use crate::graph::{Graph, Source, ValueId};

/// The values of `wanted`, computed with [`kernels::Op::reference`].
///
/// `given` holds the graph's inputs and weights.
///
/// # Panics
/// If an input or a weight that is needed was not given: a programming error.
pub fn run_reference(
    graph: &Graph,
    given: &HashMap<ValueId, HostTensor>,
    wanted: &[ValueId],
) -> Vec<HostTensor> {
    let mut needed = vec![false; graph.values().count()];
    wanted.iter().for_each(|id| needed[id.index()] = true);
    let values: Vec<_> = graph.values().collect();
    for (id, value) in values.iter().rev() {
        if let (true, Source::Node { inputs, .. }) = (needed[id.index()], &value.source) {
            inputs.iter().for_each(|i| needed[i.index()] = true);
        }
    }
    let mut computed: HashMap<ValueId, HostTensor> = HashMap::new();
    for (id, value) in values.iter().filter(|(id, _)| needed[id.index()]) {
        let Source::Node { op, inputs } = &value.source else { continue };
        let operands: Vec<&HostTensor> = inputs
            .iter()
            .map(|i| computed.get(i).or_else(|| given.get(i)))
            .map(|t| t.unwrap_or_else(|| panic!("{}: an operand was not given", value.name)))
            .collect();
        let result = op.reference(&operands);
        assert_eq!(result.ty(), &value.ty, "{}", value.name);
        computed.insert(*id, result);
    }
    wanted
        .iter()
        .map(|id| computed.get(id).or_else(|| given.get(id)).expect("wanted values are needed").clone())
        .collect()
}

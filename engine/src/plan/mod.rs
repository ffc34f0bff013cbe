//! From a graph to a list of dispatches over a few buffers. Pure: it knows an adapter's [`Caps`], not the adapter.

mod dump;
mod slots;

use std::collections::HashMap;
use std::sync::Arc;

use kernels::{Bind, Caps, Cost, Dispatch, Op, OpError, Operand, TALLY_BYTES, TensorType, Variant};

use crate::graph::{Graph, Param, Rate, Source, ValueId};
use crate::tuning::Choices;
use slots::SlotPool;

/// Floating-point operations that adapters do while they move a byte: about as many on llvmpipe, dozens on GPUs.
const FLOPS_PER_BYTE: u64 = 8;

/// Where a tensor lives while a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Given by the caller.
    Input(usize),
    /// Given by the caller, to be written.
    Output(usize),
    /// A weight.
    Param(usize),
    /// A buffer of the program's own, reused by values that are never alive together.
    Slot(usize),
}

/// One operation of a plan.
#[derive(Clone, Debug)]
pub struct PlanStep {
    /// Module path.
    pub name: String,
    /// The operation.
    pub op: Arc<dyn Op>,
    /// When it has to run.
    pub rate: Rate,
    /// How it is computed.
    pub variant: Variant,
    /// Its operands.
    pub inputs: Vec<Place>,
    /// Types of the operands: their places may hold more.
    pub input_types: Vec<TensorType>,
    /// Where in its place each operand begins, in bytes: a multiple of the adapter's binding alignment.
    pub input_offsets: Vec<u64>,
    /// Its result.
    pub output: Place,
    /// Type of the result.
    pub output_type: TensorType,
    /// Intermediate tensors of the variant.
    pub scratch: Vec<Place>,
    /// Its count of values that are not finite, if it counts some, and where in its place that is, in bytes.
    pub tally: Option<(Place, u64)>,
    /// Arithmetic and traffic.
    pub cost: Cost,
}

impl PlanStep {
    /// What a dispatch's time goes by, in floating-point operations: those of its tiles, or as many as adapters do while the
    /// operation's bytes move, which the workgroups of a shader share; whichever is more.
    pub fn dispatch_work(&self, dispatch: usize) -> u64 {
        let dispatches = &self.variant.dispatches;
        let groups =
            |dispatch: &Dispatch| dispatch.grid.iter().map(|extent| u128::from(*extent)).product::<u128>();
        let Dispatch { shader, tile_flops, .. } = &dispatches[dispatch];
        let alike: u128 = dispatches.iter().filter(|other| other.shader == *shader).map(groups).sum();
        let moving =
            u128::from(FLOPS_PER_BYTE * self.cost.bytes) * groups(&dispatches[dispatch]) / alike.max(1);
        (moving as u64).max(*tile_flops)
    }

    /// The bytes of its place that a binding covers, `(offset, length)`.
    pub fn window(&self, bind: &Bind) -> (u64, u64) {
        let (start, bytes) = match bind.operand {
            Operand::Input(i) => (self.input_offsets[i], self.input_types[i].bytes()),
            Operand::Output => (0, self.output_type.bytes()),
            Operand::Scratch(i) => (0, self.variant.scratch[i].bytes()),
            Operand::Tally => (self.tally.expect("planned").1, TALLY_BYTES),
        };
        let (offset, length) = bind.window.unwrap_or((0, bytes));
        (start + offset, length)
    }

    /// The place behind a binding.
    pub fn place(&self, bind: &Bind) -> Place {
        match bind.operand {
            Operand::Input(i) => self.inputs[i],
            Operand::Output => self.output,
            Operand::Scratch(i) => self.scratch[i],
            Operand::Tally => self.tally.expect("planned").0,
        }
    }
}

/// Everything a device needs to run a graph.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Inputs by name, as the graph declares them.
    pub inputs: Vec<(String, TensorType)>,
    /// Results by name.
    pub outputs: Vec<(String, TensorType)>,
    /// Weights.
    pub params: Vec<(Param, TensorType)>,
    /// Bytes of each buffer that values share.
    pub slots: Vec<u64>,
    /// The slot of all steps' counts of values that are not finite, which no value shares, if there are some.
    pub tallies: Option<usize>,
    /// Operations in order: all of a slower rate before those of a faster one.
    pub steps: Vec<PlanStep>,
}

impl Plan {
    /// Dispatches of one run of everything at `rate`.
    pub fn dispatches(&self, rate: Rate) -> usize {
        self.steps.iter().filter(|s| s.rate == rate).map(|s| s.variant.dispatches.len()).sum()
    }

    /// Bytes of the buffers that values share: the program's peak beyond weights, inputs and outputs.
    pub fn slot_bytes(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// Bytes of the weights.
    pub fn param_bytes(&self) -> u64 {
        self.params.iter().map(|(_, ty)| ty.bytes()).sum()
    }

    /// Floating-point operations at `rate`.
    pub fn flops(&self, rate: Rate) -> u64 {
        self.steps.iter().filter(|s| s.rate == rate).map(|s| s.cost.flops).sum()
    }
}

/// Which of an operation's variants a plan takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The one expected to be fastest.
    #[default]
    Fastest,
    /// The one that runs anywhere.
    Safest,
    /// The variant of this number, for comparing variants.
    Number(usize),
    /// The one that was measured to be fastest where it is offered, the one expected to be otherwise; never one that is
    /// distrusted while there is another.
    Measured(&'a Choices),
}

impl Choice<'_> {
    /// The place among `variants` of the one to take.
    fn number(self, op: &dyn Op, inputs: &[TensorType], variants: &[Variant]) -> usize {
        let last = variants.len() - 1;
        match self {
            Choice::Fastest => last,
            Choice::Safest => 0,
            Choice::Number(n) => n.min(last),
            Choice::Measured(choices) => {
                let trusted = |variant: &Variant| choices.trusts(variant.name);
                let chosen = choices.get(op, inputs);
                let chosen =
                    chosen.and_then(|name| variants.iter().position(|v| v.name == name && trusted(v)));
                // If none is trusted, the one that runs anywhere is as good as any.
                chosen.or_else(|| variants.iter().rposition(trusted)).unwrap_or(0)
            }
        }
    }
}

/// Why a graph cannot run on an adapter.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{node}: {source}")]
pub struct PlanError {
    /// Module path of the operation.
    pub node: String,
    /// What does not fit.
    #[source]
    pub source: OpError,
}

/// The plan of `graph` on an adapter with `caps`.
///
/// # Errors
/// [`PlanError`] naming the operation whose operand exceeds the adapter's limits.
pub fn build_plan(graph: &Graph, caps: &Caps, choice: Choice<'_>) -> Result<Plan, PlanError> {
    Planner::new(graph, caps).build(caps, choice)
}

struct Planner<'g> {
    graph: &'g Graph,
    /// The value whose bytes each value shares, and from which byte on: itself unless it is a view.
    root: Vec<(ValueId, u64)>,
    rate: Vec<Rate>,
    /// Whether each value is read at a faster rate than it is computed at, so that its buffer must outlive the run.
    pinned: Vec<bool>,
    places: HashMap<ValueId, Place>,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph, caps: &Caps) -> Self {
        let in_outputs = in_outputs(graph);
        let (mut root, mut rate): (Vec<(ValueId, u64)>, Vec<Rate>) = (Vec::new(), Vec::new());
        for (id, value) in graph.values() {
            let (own_root, own_rate) = match &value.source {
                Source::Input { rate } => ((id, 0), *rate),
                Source::Param(_) => ((id, 0), Rate::Load),
                Source::Node { op, inputs } => {
                    let slowest =
                        inputs.iter().map(|i: &ValueId| rate[i.index()]).max().unwrap_or(Rate::Load);
                    let types: Vec<TensorType> = inputs.iter().map(|i| graph.ty(*i).clone()).collect();
                    let view = op.view(&types).and_then(|offset| {
                        let (of, start) = root[inputs[0].index()];
                        // A result is a buffer of its own: no part of another.
                        let is_whole = value.ty.bytes() == graph.ty(inputs[0]).bytes();
                        let is_bindable = (start + offset).is_multiple_of(caps.binding_alignment);
                        let fits = is_bindable && (is_whole || !in_outputs[id.index()]);
                        fits.then_some((of, start + offset))
                    });
                    (view.unwrap_or((id, 0)), slowest)
                }
            };
            root.push(own_root);
            rate.push(own_rate);
        }
        let mut pinned = vec![false; root.len()];
        for (id, value) in graph.values() {
            if let Source::Node { inputs, .. } = &value.source {
                for input in inputs.iter().map(|i: &ValueId| root[i.index()].0.index()) {
                    pinned[input] |= rate[id.index()] > rate[input];
                }
            }
        }
        Planner { graph, root, rate, pinned, places: HashMap::new() }
    }

    fn build(mut self, caps: &Caps, choice: Choice<'_>) -> Result<Plan, PlanError> {
        let graph = self.graph;
        let inputs = graph.inputs();
        for (i, id) in inputs.iter().enumerate() {
            self.places.insert(*id, Place::Input(i));
        }
        let params: Vec<(ValueId, Param)> = graph.params().map(|(id, p)| (id, p.clone())).collect();
        for (i, (id, _)) in params.iter().enumerate() {
            self.places.insert(*id, Place::Param(i));
        }
        for (i, id) in graph.outputs().iter().enumerate() {
            self.places.entry(self.root[id.index()].0).or_insert(Place::Output(i));
        }

        let order = self.order();
        let last_use = self.last_use(&order);
        let mut pool = SlotPool::default();
        let mut steps = Vec::with_capacity(order.len());
        for (position, id) in order.iter().enumerate() {
            let value = graph.value(*id);
            let Source::Node { op, inputs } = &value.source else {
                unreachable!("only operations are ordered")
            };
            let error = |source| PlanError { node: value.name.clone(), source };
            let types: Vec<TensorType> = inputs.iter().map(|i| graph.ty(*i).clone()).collect();
            let mut variants = op.variants(&types, caps).map_err(error)?;
            let variant = variants.swap_remove(choice.number(op.as_ref(), &types, &variants));
            let output = match self.places.get(id) {
                Some(place) => *place,
                None => Place::Slot(pool.take(value.ty.bytes(), self.pinned[id.index()])),
            };
            self.places.insert(*id, output);
            let scratch: Vec<usize> = variant.scratch.iter().map(|ty| pool.take(ty.bytes(), false)).collect();
            steps.push(PlanStep {
                name: value.name.clone(),
                op: op.clone(),
                rate: self.rate[id.index()],
                inputs: inputs.iter().map(|i| self.places[&self.root[i.index()].0]).collect(),
                input_offsets: inputs.iter().map(|i| self.root[i.index()].1).collect(),
                output,
                output_type: value.ty.clone(),
                scratch: scratch.iter().map(|slot| Place::Slot(*slot)).collect(),
                tally: None,
                cost: op.cost(&types),
                input_types: types,
                variant,
            });
            scratch.into_iter().for_each(|slot| pool.give_back(slot));
            for dead in last_use.get(&position).into_iter().flatten() {
                if let (Place::Slot(slot), false) = (self.places[dead], self.pinned[dead.index()]) {
                    pool.give_back(slot);
                }
            }
        }
        let tallies = place_tallies(&mut steps, &mut pool, caps);
        let named = |id: &ValueId| (graph.value(*id).name.clone(), graph.ty(*id).clone());
        Ok(Plan {
            inputs: inputs.iter().map(named).collect(),
            outputs: graph.outputs().iter().map(named).collect(),
            params: params.into_iter().map(|(id, param)| (param, graph.ty(id).clone())).collect(),
            slots: pool.into_sizes(),
            tallies,
            steps,
        })
    }

    /// Operations to dispatch: by rate, then as the graph has them.
    fn order(&self) -> Vec<ValueId> {
        let mut order: Vec<ValueId> = self
            .graph
            .values()
            .filter(|(id, v)| matches!(v.source, Source::Node { .. }) && self.root[id.index()].0 == *id)
            .map(|(id, _)| id)
            .collect();
        order.sort_by_key(|id| (self.rate[id.index()], *id));
        order
    }

    /// For each position in the order, the values read there for the last time.
    fn last_use(&self, order: &[ValueId]) -> HashMap<usize, Vec<ValueId>> {
        let mut last: HashMap<ValueId, usize> = HashMap::new();
        for (position, id) in order.iter().enumerate() {
            last.insert(*id, position);
            if let Source::Node { inputs, .. } = &self.graph.value(*id).source {
                inputs.iter().for_each(|i| {
                    last.insert(self.root[i.index()].0, position);
                });
            }
        }
        let mut by_position: HashMap<usize, Vec<ValueId>> = HashMap::new();
        for (id, position) in last {
            by_position.entry(position).or_default().push(id);
        }
        by_position.values_mut().for_each(|ids| ids.sort());
        by_position
    }
}

/// Gives every step that counts what is not finite a place for that in a slot of their own; which that is.
fn place_tallies(steps: &mut [PlanStep], pool: &mut SlotPool, caps: &Caps) -> Option<usize> {
    let counts = |step: &&mut PlanStep| {
        let mut binds = step.variant.dispatches.iter().flat_map(|dispatch| &dispatch.binds);
        binds.any(|bind| bind.operand == Operand::Tally)
    };
    let stride = TALLY_BYTES.next_multiple_of(caps.binding_alignment);
    let mut counting: Vec<&mut PlanStep> = steps.iter_mut().filter(counts).collect();
    let slot = (!counting.is_empty()).then(|| pool.take(counting.len() as u64 * stride, true))?;
    for (step, offset) in counting.iter_mut().zip((0..).step_by(stride as usize)) {
        step.tally = Some((Place::Slot(slot), offset));
    }
    Some(slot)
}

/// Whether each value's bytes are an output's: an output, or what an output is a view of.
fn in_outputs(graph: &Graph) -> Vec<bool> {
    let mut found = vec![false; graph.values().count()];
    for output in graph.outputs() {
        let mut id = *output;
        found[id.index()] = true;
        while let Source::Node { op, inputs } = &graph.value(id).source {
            let types: Vec<TensorType> = inputs.iter().map(|i| graph.ty(*i).clone()).collect();
            if op.view(&types).is_none() {
                break;
            }
            id = inputs[0];
            found[id.index()] = true;
        }
    }
    found
}

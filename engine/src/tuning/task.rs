//! What there is to choose in plans.

use std::collections::HashMap;
use std::sync::Arc;

use kernels::{Caps, Op, TensorType};

use super::key;
use crate::plan::Plan;

/// An operation on operands of given types.
#[derive(Clone, Debug)]
pub struct Task {
    /// The operation, with attributes.
    pub op: Arc<dyn Op>,
    /// Types of its operands.
    pub inputs: Vec<TensorType>,
    /// How many of the plans' operations are this one.
    pub calls: usize,
}

impl Task {
    /// What a choice for it is stored under.
    pub fn key(&self) -> String {
        key(self.op.as_ref(), &self.inputs)
    }
}

/// Each distinct operation of `plans` that has more than one variant on an adapter with `caps`, in the order of its first use.
pub fn infer_tasks<'a>(plans: impl IntoIterator<Item = &'a Plan>, caps: &Caps) -> Vec<Task> {
    let mut tasks = tasks_of(plans);
    tasks.retain(|task| task.op.variants(&task.inputs, caps).is_ok_and(|variants| variants.len() > 1));
    tasks
}

/// Each distinct operation of `plans`, in the order of its first use.
pub fn tasks_of<'a>(plans: impl IntoIterator<Item = &'a Plan>) -> Vec<Task> {
    let (mut tasks, mut known): (Vec<Task>, HashMap<String, usize>) = Default::default();
    for step in plans.into_iter().flat_map(|plan| &plan.steps) {
        let task = Task { op: step.op.clone(), inputs: step.input_types.clone(), calls: 1 };
        let place = known.entry(task.key()).or_insert(tasks.len());
        match tasks.get_mut(*place) {
            Some(task) => task.calls += 1,
            None => tasks.push(task),
        }
    }
    tasks
}

//! From a graph to a program: fused, planned, its weights on the device.

use crate::device::{Gpu, Program};
use crate::error::Error;
use crate::graph::{Graph, fuse};
use crate::plan::{Choice, Plan, build_plan};
use crate::weights::Weights;

/// Compiles `graph`, whose parameters are tensors of `weights`.
///
/// # Errors
/// [`Error::Plan`] if the adapter's limits are too low, [`Error::Load`] and [`Error::Device`] while weights are uploaded.
pub async fn compile(gpu: &Gpu, graph: &Graph, weights: &Weights) -> Result<Program, Error> {
    let plan = plan_for(gpu, graph)?;
    let mut params = Vec::with_capacity(plan.params.len());
    for (param, ty) in &plan.params {
        params.push(weights.on_device(gpu, param, ty).await?);
    }
    Ok(Program::compile(gpu, plan, params)?)
}

/// What `graph` becomes on `gpu`, without its weights.
///
/// # Errors
/// [`Error::Plan`] if the adapter's limits are too low.
pub(crate) fn plan_for(gpu: &Gpu, graph: &Graph) -> Result<Plan, Error> {
    Ok(build_plan(&fuse(graph), gpu.caps(), Choice::Measured(gpu.choices()))?)
}

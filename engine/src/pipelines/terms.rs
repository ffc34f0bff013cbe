//! A sampler's linear combinations on the device: one kernel, one program for each number of terms.

use std::collections::HashMap;

use kernels::ops::{Clamp, LinearCombination};
use kernels::{DType, HostTensor, TensorType};

use crate::device::{DeviceTensor, Gpu, Program};
use crate::error::Error;
use crate::graph::{Graph, Rate};
use crate::plan::{Choice, build_plan};

/// Coefficients as the kernel takes them: unused ones are zero.
pub(super) fn coefficients(values: &[f64]) -> HostTensor {
    let mut data = vec![0.0f32; LinearCombination::COEFFICIENTS];
    data.iter_mut().zip(values).for_each(|(slot, value)| *slot = *value as f32);
    HostTensor::f32([LinearCombination::COEFFICIENTS], data)
}

/// Sums of tensors of one type.
pub(super) struct Combiner {
    ty: TensorType,
    programs: HashMap<usize, Program>,
    /// Results, reused once nobody holds them: the queue runs in order, so their last reader has its turn first.
    pool: Vec<DeviceTensor>,
    /// The last limit that was asked for, and its program.
    clamp: Option<(f64, Program)>,
}

impl Combiner {
    /// Sums of f32 tensors of `shape`.
    pub(super) fn new(shape: &[usize]) -> Self {
        Combiner {
            ty: TensorType::new(DType::F32, shape),
            programs: HashMap::new(),
            pool: Vec::new(),
            clamp: None,
        }
    }

    /// [`Combiner::sum`] with each element held within `+-limit`.
    pub(super) async fn sum_clamped(
        &mut self,
        gpu: &Gpu,
        terms: &[(f64, DeviceTensor)],
        limit: Option<f64>,
    ) -> Result<DeviceTensor, Error> {
        let sum = self.sum(gpu, terms).await?;
        let Some(limit) = limit else { return Ok(sum) };
        let to = self.free(gpu)?;
        if self.clamp.as_ref().is_none_or(|(known, _)| *known != limit) {
            let mut graph = Graph::new();
            let x = graph.input("sum", self.ty.clone(), Rate::Step);
            let clamped = graph.apply("sampler.clamp", Clamp { limit }, &[x])?;
            graph.output(clamped);
            self.clamp = Some((limit, compile_graph(gpu, &graph)?));
        }
        if let Some((_, program)) = &self.clamp {
            program.run(gpu, &[Rate::Step], &[sum], std::slice::from_ref(&to)).await?;
        }
        Ok(to)
    }

    /// A new tensor: the sum of `coefficient * tensor` over `terms`.
    pub(super) async fn sum(
        &mut self,
        gpu: &Gpu,
        terms: &[(f64, DeviceTensor)],
    ) -> Result<DeviceTensor, Error> {
        let to = self.free(gpu)?;
        let (first, rest) = terms.split_at(terms.len().min(LinearCombination::MAX_TERMS));
        if !rest.is_empty() {
            let partial = Box::pin(self.sum(gpu, first)).await?;
            let chained: Vec<_> = std::iter::once((1.0, partial)).chain(rest.iter().cloned()).collect();
            return Box::pin(self.sum(gpu, &chained)).await;
        }
        let values: Vec<f64> = first.iter().map(|(c, _)| *c).collect();
        let factors = gpu.upload_new("coefficients", &coefficients(&values)).await?;
        let program = match self.programs.entry(first.len()) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(compile(gpu, &self.ty, first.len())?)
            }
        };
        let mut inputs: Vec<DeviceTensor> = first.iter().map(|(_, t)| t.clone()).collect();
        inputs.push(factors);
        program.run(gpu, &[Rate::Step], &inputs, std::slice::from_ref(&to)).await?;
        Ok(to)
    }

    /// A tensor that nobody reads any more.
    fn free(&mut self, gpu: &Gpu) -> Result<DeviceTensor, Error> {
        if let Some(tensor) = self.pool.iter().find(|tensor| tensor.is_unshared()) {
            return Ok(tensor.clone());
        }
        let tensor = gpu.allocate("combination", self.ty.clone())?;
        self.pool.push(tensor.clone());
        Ok(tensor)
    }
}

fn compile(gpu: &Gpu, ty: &TensorType, terms: usize) -> Result<Program, Error> {
    let mut graph = Graph::new();
    let mut inputs: Vec<_> =
        (0..terms).map(|i| graph.input(&format!("term {i}"), ty.clone(), Rate::Step)).collect();
    inputs.push(graph.input("coefficients", TensorType::f32([LinearCombination::COEFFICIENTS]), Rate::Step));
    let sum = graph.apply("sampler.combination", LinearCombination { terms }, &inputs)?;
    graph.output(sum);
    compile_graph(gpu, &graph)
}

fn compile_graph(gpu: &Gpu, graph: &Graph) -> Result<Program, Error> {
    let plan = build_plan(graph, gpu.caps(), Choice::Fastest)?;
    Ok(Program::compile(gpu, plan, Vec::new())?)
}

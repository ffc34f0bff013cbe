//! A network over an image that never lies on the device as a whole: tile by tile from one group norm to the next, with every
//! norm's statistics over all tiles. What lies between is in host memory.

use std::collections::HashMap;

use kernels::TensorType;

use super::pipeline::ALL;
use super::tiles::{Tiles, Whole};
use crate::compile::{compile, plan_for};
use crate::device::{DeviceTensor, Gpu, Program};
use crate::error::Error;
use crate::graph::{Graph, Segment, ValueId, segments};
use crate::plan::Plan;
use crate::weights::Weights;

/// The network for one size of tiles.
pub(super) struct Piecewise {
    tiles: Tiles,
    /// The network over one tile, with one input and one result.
    graph: Graph,
    segments: Vec<Segment>,
}

impl Piecewise {
    /// `graph`, a network over one tile of `tiles` with one input and one result.
    ///
    /// # Errors
    /// [`Error::Graph`].
    pub(super) fn new(tiles: Tiles, graph: Graph) -> Result<Self, Error> {
        let segments = segments(&graph)?;
        Ok(Piecewise { tiles, graph, segments })
    }

    /// Tiles of an image.
    pub(super) fn tiles(&self) -> usize {
        self.tiles.corners().len()
    }

    /// What is run for each tile, one plan after the other.
    ///
    /// # Errors
    /// [`Error::Plan`] if the adapter's limits are too low.
    pub(super) fn plans(&self, gpu: &Gpu) -> Result<Vec<Plan>, Error> {
        self.segments.iter().map(|segment| plan_for(gpu, &segment.graph)).collect()
    }

    /// What the network makes of the whole `image`.
    ///
    /// # Errors
    /// As [`compile`], and those of the device.
    pub(super) async fn run(&self, gpu: &Gpu, weights: &Weights, image: Whole) -> Result<Whole, Error> {
        let mut values: HashMap<ValueId, Whole> = HashMap::from([(self.graph.inputs()[0], image)]);
        for (place, segment) in self.segments.iter().enumerate() {
            let program = compile(gpu, &segment.graph, weights).await?;
            let results = self.run_segment(gpu, &program, segment, &values).await?;
            values.extend(segment.results.iter().copied().zip(results));
            let later = &self.segments[place + 1..];
            values.retain(|id, _| {
                let is_carried = later.iter().any(|segment| segment.carried.contains(id));
                is_carried || self.graph.outputs().contains(id)
            });
        }
        Ok(values.remove(&self.graph.outputs()[0]).expect("the last segment gives the result"))
    }

    /// The whole images that `segment` gives.
    async fn run_segment(
        &self,
        gpu: &Gpu,
        program: &Program,
        segment: &Segment,
        values: &HashMap<ValueId, Whole>,
    ) -> Result<Vec<Whole>, Error> {
        let allocated = |types: &[(String, TensorType)]| -> Result<Vec<DeviceTensor>, Error> {
            types.iter().map(|(name, ty)| Ok(gpu.allocate(name, ty.clone())?)).collect()
        };
        let inputs = allocated(&program.plan().inputs)?;
        let outputs = allocated(&program.plan().outputs)?;
        for (norm, input) in segment.norms.iter().zip(&inputs[segment.carried.len()..]) {
            gpu.upload(input, &values[&norm.over].statistics(norm)).await?;
        }
        let mut results: Vec<Whole> =
            outputs.iter().map(|output| Whole::of_tiles(&self.tiles, output.ty())).collect();
        for corner in self.tiles.corners() {
            for (carried, input) in segment.carried.iter().zip(&inputs) {
                gpu.upload_bytes(input, 0, &values[carried].cut(&self.tiles, corner)).await?;
            }
            program.run(gpu, &ALL, &inputs, &outputs).await?;
            for (result, output) in results.iter_mut().zip(&outputs) {
                result.paste(&self.tiles, corner, &gpu.read_bytes(output).await?);
            }
        }
        Ok(results)
    }
}

//! Running programs under a clock.

use std::time::Duration;

use kernels::check::Hard;
use kernels::ops::{Add, MatMul};
use kernels::{Cost, DType, Op, TensorType};

use super::{Operation, Roof, Section, TimedDispatch};
use crate::device::{Clock, DeviceError, DeviceTensor, DispatchTime, Gpu, HostTime, Program};
use crate::error::Error;
use crate::graph::{Graph, Rate};
use crate::plan::{Choice, Plan, build_plan};

/// Edge of the square matrices whose product shows the arithmetic of a software adapter, and of a GPU.
const MATRIX_EDGES: [usize; 2] = [512, 4096];
/// Bytes of each of the three tensors whose sum shows the memory of a software adapter, and of a GPU: more than caches hold.
const SUM_BYTES: [u64; 2] = [32 << 20, 128 << 20];
/// Runs of which the roof is the best.
const ROOF_RUNS: usize = 10;
/// Elements of their rows.
const SUM_ROW: usize = 4096;

/// A program with its operands and results.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) program: &'a Program,
    pub(crate) rates: &'a [Rate],
    pub(crate) inputs: &'a [DeviceTensor],
    pub(crate) outputs: &'a [DeviceTensor],
}

/// Runs `work` once to warm up, then `repeat` times as ever and `repeat` times with each dispatch timed; figures are medians.
///
/// # Errors
/// [`DeviceError`] if the device fails.
pub(crate) async fn measure_section(
    gpu: &Gpu,
    name: &str,
    work: Work<'_>,
    clock: Clock,
    repeat: usize,
) -> Result<Section, DeviceError> {
    let Work { program, rates, inputs, outputs } = work;
    program.run_watched(gpu, rates, inputs, outputs).await?;
    let mut host = Vec::with_capacity(repeat);
    for _ in 0..repeat {
        host.push(program.run_watched(gpu, rates, inputs, outputs).await?);
    }
    let times = times(gpu, work, clock, repeat).await?;
    Ok(Section {
        name: name.to_owned(),
        operations: operations(program.plan(), &times),
        host: host_medians(&host),
    })
}

/// The median of each time.
fn host_medians(runs: &[HostTime]) -> HostTime {
    let of = |time: fn(&HostTime) -> Duration| median(runs.iter().map(time).collect()).unwrap_or_default();
    HostTime {
        submissions: runs.first().map_or(0, |run| run.submissions),
        recording: of(|run| run.recording),
        submitting: of(|run| run.submitting),
        wall: of(|run| run.wall),
    }
}

/// The median time of each dispatch.
async fn times(
    gpu: &Gpu,
    work: Work<'_>,
    clock: Clock,
    repeat: usize,
) -> Result<Vec<DispatchTime>, DeviceError> {
    let Work { program, rates, inputs, outputs } = work;
    let mut runs = Vec::with_capacity(repeat);
    for _ in 0..repeat {
        runs.push(program.run_timed(gpu, clock, rates, inputs, outputs).await?);
    }
    Ok(medians(&runs))
}

/// Of runs that dispatch the same, the median of each dispatch.
fn medians(runs: &[Vec<DispatchTime>]) -> Vec<DispatchTime> {
    let Some(first) = runs.first() else { return Vec::new() };
    let of = |at: usize| {
        // Times are not negative: their bits are in their order.
        let bits = median(runs.iter().map(|run| run[at].ns.to_bits()).collect());
        f64::from_bits(bits.unwrap_or_default())
    };
    first.iter().enumerate().map(|(at, time)| DispatchTime { ns: of(at), ..*time }).collect()
}

/// The middle value, the lower one of two.
fn median<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// The operations of a plan that were timed, with their times.
fn operations(plan: &Plan, times: &[DispatchTime]) -> Vec<Operation> {
    let of_one_step = times.chunk_by(|a, b| a.step == b.step);
    let operations = of_one_step.map(|times| {
        let step = &plan.steps[times[0].step];
        let timed = times.iter().map(|time| {
            let dispatch = &step.variant.dispatches[time.dispatch];
            TimedDispatch { shader: dispatch.shader.file, grid: dispatch.grid, ns: time.ns }
        });
        Operation {
            path: step.name.clone(),
            kernel: step.variant.name,
            inputs: step.input_types.clone(),
            output: step.output_type.clone(),
            cost: step.cost,
            dispatches: timed.collect(),
        }
    });
    operations.collect()
}

/// Measures what the adapter can do: arithmetic by a large matrix product of ours on tensors of `dtype`, memory by a large
/// sum of two tensors.
///
/// # Errors
/// [`Error`] if memory runs out or the device fails.
pub(crate) async fn measure_roof(gpu: &Gpu, dtype: DType, clock: Clock) -> Result<Roof, Error> {
    let kind = usize::from(!gpu.caps().software);
    let edge = MATRIX_EDGES[kind];
    let matrix = TensorType::new(dtype, [edge, edge]);
    let rows = SUM_BYTES[kind].min(gpu.caps().max_binding_bytes) as usize / (4 * SUM_ROW);
    let row = TensorType::f32([rows, SUM_ROW]);
    let product = best(gpu, MatMul::default(), &[matrix.clone(), matrix.in_strips()], clock).await?;
    let sum = best(gpu, Add, &[row.clone(), row], clock).await?;
    Ok(roof_of(product, sum))
}

/// From the costs of a product and a sum, and their nanoseconds.
fn roof_of(product: (Cost, f64), sum: (Cost, f64)) -> Roof {
    let per_s = |count: u64, ns: f64| 1e9 * count as f64 / ns.max(1.0);
    Roof { flops_per_s: per_s(product.0.flops, product.1), bytes_per_s: per_s(sum.0.bytes, sum.1) }
}

/// The cost of `op` on noise of these types, and its shortest time in nanoseconds.
async fn best(gpu: &Gpu, op: impl Op, types: &[TensorType], clock: Clock) -> Result<(Cost, f64), Error> {
    let mut graph = Graph::new();
    let name = op.name();
    let ids: Vec<_> = types.iter().map(|ty| graph.input("operand", ty.clone(), Rate::Step)).collect();
    let result = graph.apply(name, op, &ids)?;
    graph.output(result);
    let program = Program::compile(gpu, build_plan(&graph, gpu.caps(), Choice::Fastest)?, Vec::new())?;
    let mut inputs = Vec::with_capacity(types.len());
    for ty in types {
        let input = gpu.allocate("operand", ty.clone())?;
        let block = noise(ty);
        for offset in (0..ty.bytes()).step_by(block.len()) {
            let left = (ty.bytes() - offset).min(block.len() as u64) as usize;
            gpu.upload_bytes(&input, offset, &block[..left]).await?;
        }
        inputs.push(input);
    }
    let outputs = [gpu.allocate("result", graph.ty(result).clone())?];
    let work = Work { program: &program, rates: &[Rate::Step], inputs: &inputs, outputs: &outputs };
    program.run_watched(gpu, work.rates, work.inputs, work.outputs).await?;
    let mut ns = f64::INFINITY;
    for _ in 0..ROOF_RUNS {
        ns = ns.min(times(gpu, work, clock, 1).await?.iter().map(|time| time.ns).sum());
    }
    Ok((program.plan().steps[0].cost, ns))
}

/// Bytes of the first rows of noise of this type: a GPU runs faster on zeros than on what models compute with.
fn noise(ty: &TensorType) -> Vec<u8> {
    const ROWS: usize = 64;
    let block = TensorType::new(ty.dtype, [ROWS.min(ty.rows()), ty.channels()]);
    Hard::Noise.tensor(&block, 1).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(step: usize, ns: f64) -> DispatchTime {
        DispatchTime { step, dispatch: 0, ns }
    }

    #[test]
    fn each_time_of_the_host_has_its_own_median() {
        let of = |recording, submitting, wall| {
            let [recording, submitting, wall] = [recording, submitting, wall].map(Duration::from_millis);
            HostTime { submissions: 2, recording, submitting, wall }
        };
        let runs = [of(1, 50, 900), of(3, 40, 700), of(2, 60, 800)];
        assert_eq!(host_medians(&runs), of(2, 50, 800));
    }

    #[test]
    fn a_product_shows_the_arithmetic_and_a_sum_the_memory() {
        let cost = |flops, bytes| Cost { flops, bytes };
        let roof = roof_of((cost(4_000, 30), 2.0), (cost(50, 600), 3.0));
        assert_eq!((roof.flops_per_s, roof.bytes_per_s), (2e12, 2e11));
    }

    #[test]
    fn each_dispatch_has_its_own_median() {
        let runs = [
            vec![time(0, 3.0), time(1, 10.5)],
            vec![time(0, 1.0), time(1, 0.0)],
            vec![time(0, 2.0), time(1, 11.5)],
        ];
        assert_eq!(medians(&runs), [time(0, 2.0), time(1, 10.5)]);
        assert_eq!(medians(&runs[..2]), [time(0, 1.0), time(1, 0.0)]);
        assert_eq!(medians(&[]), []);
    }
}

//! Numbers that are not finite: noticed while a picture is made, and traced to the operation that first gave some.

use kernels::TensorType;
use kernels::ops::{NonFinite, Scale};

use crate::device::{DeviceError, DeviceTensor, Gpu, Program, Readback, Traced};
use crate::error::Error;
use crate::graph::{Graph, Rate};
use crate::plan::{Choice, Plan, build_plan};

/// Counts what is not finite in tensors of one type, on the device.
pub(super) struct Counter {
    ty: TensorType,
    program: Program,
}

impl Counter {
    pub(super) fn new(gpu: &Gpu, ty: &TensorType) -> Result<Self, Error> {
        Ok(Counter { ty: ty.clone(), program: Program::compile(gpu, Counter::plan(gpu, ty)?, Vec::new())? })
    }

    /// What a counter of tensors of `ty` runs.
    pub(super) fn plan(gpu: &Gpu, ty: &TensorType) -> Result<Plan, Error> {
        let mut graph = Graph::new();
        let x = graph.input("counted", ty.clone(), Rate::Step);
        let count = graph.apply("not finite", NonFinite, &[x])?;
        graph.output(count);
        Ok(build_plan(&graph, gpu.caps(), Choice::Fastest)?)
    }

    pub(super) fn counts(&self, ty: &TensorType) -> bool {
        self.ty == *ty
    }

    /// Queues the count of `x`: for [`Counter::counted`], later.
    pub(super) async fn count(&self, gpu: &Gpu, x: &DeviceTensor) -> Result<Readback, Error> {
        let count = gpu.allocate("not finite", TensorType::f32([1]))?;
        self.program.run(gpu, &[Rate::Step], std::slice::from_ref(x), std::slice::from_ref(&count)).await?;
        Ok(gpu.begin_read(&count, 0, size_of::<f32>() as u64)?)
    }

    /// What was counted.
    pub(super) async fn counted(gpu: &Gpu, readback: Readback) -> Result<usize, Error> {
        let bytes = gpu.finish_read(readback).await?;
        Ok(bytemuck::pod_read_unaligned::<f32>(&bytes) as usize)
    }
}

/// A number that a device has to bring back after everything else: some say that they have finished when they have failed.
pub(super) struct Canary {
    program: Program,
    from: DeviceTensor,
    to: DeviceTensor,
    nonce: u32,
}

impl Canary {
    pub(super) fn new(gpu: &Gpu) -> Result<Self, Error> {
        let ty = TensorType::f32([4]);
        let mut graph = Graph::new();
        let x = graph.input("nonce", ty.clone(), Rate::Step);
        let copy = graph.apply("canary", Scale { factor: 1.0 }, &[x])?;
        graph.output(copy);
        let program = Program::compile(gpu, build_plan(&graph, gpu.caps(), Choice::Fastest)?, Vec::new())?;
        let (from, to) = (gpu.allocate("nonce", ty.clone())?, gpu.allocate("canary", ty)?);
        Ok(Canary { program, from, to, nonce: 0 })
    }

    /// Sends it after everything that is queued, and waits for it.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device did not run it.
    pub(super) async fn check(&mut self, gpu: &Gpu) -> Result<(), Error> {
        self.nonce = self.nonce % 1_000_000 + 1;
        let nonce = self.nonce as f32;
        gpu.upload_bytes(&self.from, 0, bytemuck::cast_slice(&[nonce, -nonce, nonce, -nonce])).await?;
        self.program
            .run(gpu, &[Rate::Step], std::slice::from_ref(&self.from), std::slice::from_ref(&self.to))
            .await?;
        if gpu.read(&self.to).await?.data() == [nonce, -nonce, nonce, -nonce] {
            return Ok(());
        }
        let reason = "it says that it has finished, and its last dispatch left no trace".to_owned();
        Err(DeviceError::Lost { reason }.into())
    }
}

/// `error`, with the operation that is to blame where `again`, which does once more what gave it, is not traced already.
///
/// # Errors    those of `again`
pub(super) async fn blame<T>(
    gpu: &Gpu,
    error: Error,
    again: impl Future<Output = Result<T, Error>>,
) -> Result<Error, Error> {
    if gpu.is_traced() {
        return Ok(error);
    }
    gpu.trace(true);
    let result = again.await;
    let traced = gpu.end_trace();
    result?;
    Ok(blamed(&traced, error))
}

/// What is to be said of the first operation whose result is not finite; `error` if none was found.
fn blamed(traced: &[Traced], error: Error) -> Error {
    let Some(first) = traced.iter().find(|traced| traced.output.non_finite > 0) else { return error };
    let operands: Vec<String> = first.inputs.iter().map(ToString::to_string).collect();
    Error::NotFinite {
        stage: format!(
            "{}, {} ({} as {}, operands within {})",
            first.stage,
            first.name,
            first.op,
            first.variant,
            operands.join(", ")
        ),
        count: first.output.non_finite,
        total: first.output.count,
    }
}

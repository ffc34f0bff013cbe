//! A plan on a device: pipelines, buffers and all bind groups of its own made once, replayed as often as wanted.

use std::sync::Arc;

use kernels::{Bind, DType, TensorType};

use super::error::DeviceError;
use super::gpu::{DeviceTensor, Gpu, PARAMS_STRIDE, Submission};
use super::pipelines::Pipeline;
use crate::graph::Rate;
use crate::plan::{Place, Plan, PlanStep};

/// A compiled plan.
pub struct Program {
    plan: Plan,
    slots: Vec<DeviceTensor>,
    params: Vec<DeviceTensor>,
    launches: Vec<Launch>,
    /// `Params` of every launch on devices without immediates.
    uniforms: Option<(DeviceTensor, wgpu::BindGroup)>,
}

struct Launch {
    step: usize,
    dispatch: usize,
    pipeline: Arc<Pipeline>,
    /// Bound once, unless it touches an input or an output: bound, they would stay on the device, and nothing would count them.
    group: Option<wgpu::BindGroup>,
}

impl Program {
    /// Compiles a plan whose weights are `params`, in the plan's order.
    ///
    /// # Errors
    /// [`DeviceError`] if memory runs out or a shader is refused.
    pub fn compile(gpu: &Gpu, plan: Plan, params: Vec<DeviceTensor>) -> Result<Program, DeviceError> {
        let slots: Result<Vec<DeviceTensor>, DeviceError> = plan
            .slots
            .iter()
            .enumerate()
            .map(|(i, bytes)| {
                let elements =
                    usize::try_from(bytes.div_ceil(4)).expect("a buffer's size fits the address space");
                gpu.allocate(&format!("slot {i}"), TensorType::new(DType::F32, [elements]))
            })
            .collect();
        let mut program = Program { plan, slots: slots?, params, launches: Vec::new(), uniforms: None };
        program.launches = program.prepare(gpu)?;
        if !gpu.has_immediates() {
            program.uniforms = Some(program.upload_params(gpu)?);
        }
        Ok(program)
    }

    /// What is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Queues everything of the given rates. Slower rates must have run since their inputs changed.
    ///
    /// # Errors
    /// [`DeviceError`] if the device fails.
    ///
    /// # Panics
    /// If inputs or outputs are not those of the plan: a programming error.
    pub async fn run(
        &self,
        gpu: &Gpu,
        rates: &[Rate],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<(), DeviceError> {
        if gpu.is_traced() {
            return self.run_traced(gpu, rates, inputs, outputs).await;
        }
        let launches = self.checked_launches(rates, inputs, outputs);
        for batch in self.batches(gpu, &launches) {
            let submission = self.submit(gpu, batch, inputs, outputs)?;
            self.throttle(gpu, submission, batch).await?;
        }
        gpu.check()
    }

    /// The launches of the given rates, once inputs and outputs are known to be those of the plan.
    pub(super) fn checked_launches(
        &self,
        rates: &[Rate],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Vec<usize> {
        check_types("input", &self.plan.inputs, inputs);
        check_types("output", &self.plan.outputs, outputs);
        (0..self.launches.len()).filter(|l| rates.contains(&self.step(*l).rate)).collect()
    }

    /// `launches` in runs of one submission each, of which each holds what a submission may hold when it is asked for.
    pub(super) fn batches<'l>(&self, gpu: &Gpu, launches: &'l [usize]) -> impl Iterator<Item = &'l [usize]> {
        batches(launches, |l| self.work(*l), || gpu.work_per_submission())
    }

    /// [`Gpu::throttle`] for the submission of a batch.
    pub(super) async fn throttle(
        &self,
        gpu: &Gpu,
        submission: Submission,
        batch: &[usize],
    ) -> Result<(), DeviceError> {
        gpu.throttle(submission, batch.iter().map(|launch| self.work(*launch)).sum()).await
    }

    /// A launch's operation in the plan, and its place among the operation's dispatches.
    pub(super) fn numbers(&self, launch: usize) -> (usize, usize) {
        (self.launches[launch].step, self.launches[launch].dispatch)
    }

    fn prepare(&self, gpu: &Gpu) -> Result<Vec<Launch>, DeviceError> {
        let dispatches = self.plan.steps.iter().flat_map(|step| &step.variant.dispatches);
        gpu.pipeline_cache().compile_all(gpu, dispatches)?;
        let mut launches = Vec::new();
        for (step_number, step) in self.plan.steps.iter().enumerate() {
            for (number, dispatch) in step.variant.dispatches.iter().enumerate() {
                let pipeline = gpu.pipeline_cache().get(gpu, dispatch)?;
                let external = dispatch
                    .binds
                    .iter()
                    .any(|b| matches!(step.place(b), Place::Input(_) | Place::Output(_)));
                let group = match external {
                    true => None,
                    false => Some(self.bind(gpu, step, &dispatch.binds, &pipeline, &[], &[])?),
                };
                launches.push(Launch { step: step_number, dispatch: number, pipeline, group });
            }
        }
        Ok(launches)
    }

    fn step(&self, launch: usize) -> &PlanStep {
        &self.plan.steps[self.launches[launch].step]
    }

    /// Work of a launch.
    pub(super) fn work(&self, launch: usize) -> u64 {
        self.step(launch).dispatch_work(self.launches[launch].dispatch)
    }

    pub(super) fn submit(
        &self,
        gpu: &Gpu,
        batch: &[usize],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<Submission, DeviceError> {
        let groups = self.groups(gpu, batch, inputs, outputs)?;
        gpu.checked(|| gpu.submit(self.recorded(gpu, batch, &groups)))
    }

    pub(super) fn recorded(
        &self,
        gpu: &Gpu,
        batch: &[usize],
        groups: &[wgpu::BindGroup],
    ) -> wgpu::CommandBuffer {
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (number, group) in batch.iter().zip(groups) {
            self.record(&mut pass, *number, group);
        }
        drop(pass);
        encoder.finish()
    }

    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, number: usize, group: &wgpu::BindGroup) {
        let launch = &self.launches[number];
        let dispatch = &self.step(number).variant.dispatches[launch.dispatch];
        pass.set_pipeline(&launch.pipeline.pipeline);
        pass.set_bind_group(0, group, &[]);
        match &self.uniforms {
            Some((_, uniform)) => {
                let offset = number as u64 * PARAMS_STRIDE;
                pass.set_bind_group(1, uniform, &[offset as u32]);
            }
            None => pass.set_immediates(0, bytemuck::cast_slice(&dispatch.params)),
        }
        let [x, y, z] = dispatch.grid;
        pass.dispatch_workgroups(x, y, z);
    }

    pub(super) fn groups(
        &self,
        gpu: &Gpu,
        batch: &[usize],
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<Vec<wgpu::BindGroup>, DeviceError> {
        let mut groups = Vec::with_capacity(batch.len());
        // Whoever repeats a launch times it: it is bound once.
        for repeated in batch.chunk_by(|a, b| a == b) {
            let group = self.group(gpu, repeated[0], inputs, outputs)?;
            groups.extend(std::iter::repeat_n(group, repeated.len()));
        }
        Ok(groups)
    }

    fn group(
        &self,
        gpu: &Gpu,
        number: usize,
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<wgpu::BindGroup, DeviceError> {
        let launch = &self.launches[number];
        if let Some(group) = &launch.group {
            return Ok(group.clone());
        }
        let step = self.step(number);
        let binds = &step.variant.dispatches[launch.dispatch].binds;
        self.bind(gpu, step, binds, &launch.pipeline, inputs, outputs)
    }

    pub(super) fn tensor<'a>(
        &'a self,
        place: Place,
        inputs: &'a [DeviceTensor],
        outputs: &'a [DeviceTensor],
    ) -> &'a DeviceTensor {
        match place {
            Place::Input(i) => &inputs[i],
            Place::Output(i) => &outputs[i],
            Place::Param(i) => &self.params[i],
            Place::Slot(i) => &self.slots[i],
        }
    }

    fn bind(
        &self,
        gpu: &Gpu,
        step: &PlanStep,
        binds: &[Bind],
        pipeline: &Pipeline,
        inputs: &[DeviceTensor],
        outputs: &[DeviceTensor],
    ) -> Result<wgpu::BindGroup, DeviceError> {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = binds
            .iter()
            .map(|bind| {
                let tensor = self.tensor(step.place(bind), inputs, outputs);
                let (offset, length) = step.window(bind);
                wgpu::BindGroupEntry {
                    binding: bind.binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: tensor.buffer(),
                        offset,
                        size: std::num::NonZeroU64::new(length),
                    }),
                }
            })
            .collect();
        gpu.checked(|| {
            gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&step.name),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })
    }

    fn upload_params(&self, gpu: &Gpu) -> Result<(DeviceTensor, wgpu::BindGroup), DeviceError> {
        let words = PARAMS_STRIDE as usize / 4;
        let mut data = vec![0u32; self.launches.len().max(1) * words];
        for (i, launch) in self.launches.iter().enumerate() {
            let params = &self.plan.steps[launch.step].variant.dispatches[launch.dispatch].params;
            data[i * words..i * words + params.len()].copy_from_slice(params);
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.create_buffer("params", gpu.params_bytes(self.launches.len()), usage)?;
        gpu.queue().write_buffer(&buffer.buffer, 0, bytemuck::cast_slice(&data));
        let layout = gpu.params_layout().expect("without immediates there is a layout");
        let group = gpu.checked(|| {
            gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("params"),
                layout,
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &buffer.buffer,
                        offset: 0,
                        size: std::num::NonZeroU64::new(PARAMS_STRIDE),
                    }),
                }],
            })
        })?;
        Ok((DeviceTensor::new(TensorType::f32([data.len()]), buffer), group))
    }
}

fn check_types(what: &str, declared: &[(String, TensorType)], given: &[DeviceTensor]) {
    assert_eq!(declared.len(), given.len(), "number of {what}s");
    for ((name, ty), tensor) in declared.iter().zip(given) {
        assert_eq!(ty, tensor.ty(), "type of {what} '{name}'");
    }
}

/// Splits launches into runs of at most the work that `limit` gives for each of them, and of at least one launch.
fn batches(
    mut rest: &[usize],
    work: impl Fn(&usize) -> u64,
    limit: impl Fn() -> u64,
) -> impl Iterator<Item = &[usize]> {
    std::iter::from_fn(move || {
        let limit = limit();
        let sums = rest.iter().scan(0, |sum: &mut u64, launch| {
            *sum += work(launch);
            Some(*sum)
        });
        let count = sums.take_while(|sum| *sum <= limit).count().max(1);
        let (batch, others) = rest.split_at_checked(count)?;
        rest = others;
        Some(batch)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::slice::from_ref;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use kernels::ops::{Add, Epilogue, MatMul};
    use kernels::{DType, HostTensor, TensorType};

    use super::*;
    use crate::device::pace::Pace;
    use crate::device::{AdapterChoice, Clock, FaultPlan};
    use crate::graph::Graph;
    use crate::plan::{Choice, build_plan};

    fn compiled(gpu: &Gpu, graph: &Graph) -> Program {
        let plan = build_plan(graph, gpu.caps(), Choice::Fastest).expect("a plan");
        Program::compile(gpu, plan, Vec::new()).expect("a program")
    }

    /// Each of the outputs is twice the input, by a launch of its own.
    fn doubling(gpu: &Gpu, ty: &TensorType, outputs: &[&str]) -> Program {
        let mut graph = Graph::new();
        let x = graph.input("x", ty.clone(), Rate::Step);
        for name in outputs {
            let sum = graph.apply(*name, Add, &[x, x]).expect("fits");
            graph.output(sum);
        }
        compiled(gpu, &graph)
    }

    /// Each way to run that leaves work in flight tells of the pace, and follows it before it is over.
    #[test]
    fn a_devices_pace_is_told_and_followed_by_every_run() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        // 20 dispatches of 1.4 GFLOP.
        let ty = TensorType::new(DType::F16, [896, 896]);
        let mut graph = Graph::new();
        let [a, w] = ["a", "w"].map(|name| graph.input(name, ty.clone(), Rate::Step));
        let mut y = a;
        for _ in 0..20 {
            y = graph.apply("y", MatMul::new(Epilogue::default()), &[y, w]).expect("fits");
        }
        graph.output(y);
        let program = compiled(&gpu, &graph);
        let [a, w, y] = ["a", "w", "y"].map(|name| gpu.allocate(name, ty.clone()).expect("room"));
        let (inputs, outputs) = ([a, w], [y]);
        let rates = [Rate::Step];
        // Wall times are of waits for one submission each.
        for run in ["run", "watched", "timed"]
            .into_iter()
            .filter(|run| *run != "timed" || gpu.clock() == Clock::Timestamps)
        {
            let once = || {
                let done = pollster::block_on(async {
                    match run {
                        "run" => program.run(&gpu, &rates, &inputs, &outputs).await,
                        "watched" => program.run_watched(&gpu, &rates, &inputs, &outputs).await.map(drop),
                        _ => program.run_timed(&gpu, gpu.clock(), &rates, &inputs, &outputs).await.map(drop),
                    }
                });
                done.expect("it runs");
            };
            // 4 dispatches a submission, so that the first is waited for once there are 12; 3 in those that follow.
            let mut pace = Pace::new(false);
            (0..2).for_each(|_| pace.note(1, Duration::from_secs(1)));
            assert_eq!(pace.work(), 6_250_000_000);
            gpu.unfinished().set_pace(pace);
            gpu.arm(FaultPlan { late: Some(Duration::from_millis(110)), ..FaultPlan::default() });
            once();
            let [_, submissions] = gpu.counts();
            gpu.arm(FaultPlan::default());
            let in_steady_pace = 20_u64.div_ceil(4) * if run == "timed" { 2 } else { 1 };
            assert!(submissions > in_steady_pace, "{run}: {submissions} submissions, {in_steady_pace}");
            // The others wait until everything has run.
            assert!(if run == "run" { gpu.in_flight() <= 3 } else { gpu.in_flight() == 0 }, "{run}");
        }
    }

    #[test]
    fn what_has_to_be_waited_for_long_makes_submissions_smaller() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        gpu.unfinished().set_pace(Pace::new(false));
        let full = gpu.work_per_submission();
        let add = || pollster::block_on(gpu.throttle(gpu.submit_nothing(), full)).expect("nothing fails");
        gpu.arm(FaultPlan { late: Some(Duration::from_millis(300)), ..FaultPlan::default() });
        (0..3).for_each(|_| add());
        let smaller = gpu.work_per_submission();
        assert!(smaller < full && gpu.in_flight() == 2, "{smaller} of {full}");
        // Also by who waits for what came after it, who does not wait for it again.
        let ty = TensorType::f32([1]);
        let tensor = gpu.allocate("x", ty).expect("room");
        pollster::block_on(gpu.read(&tensor)).expect("nothing fails");
        assert!(gpu.work_per_submission() < smaller, "{} of {smaller}", gpu.work_per_submission());
        assert_eq!(gpu.in_flight(), 0);
        // And by who has to wait for what was submitted just now.
        gpu.arm(FaultPlan::default());
        gpu.unfinished().set_pace(Pace::new(false));
        add();
        gpu.arm(FaultPlan { late: Some(Duration::from_millis(200)), ..FaultPlan::default() });
        pollster::block_on(gpu.wait(gpu.submit_nothing())).expect("nothing fails");
        assert!(gpu.work_per_submission() < full, "{} of {full}", gpu.work_per_submission());
        // But not by who waits for what came before.
        let before = gpu.submit_nothing();
        add();
        let after = gpu.submit_nothing();
        let unfinished = [before, after].map(|submission| {
            pollster::block_on(gpu.wait(submission)).expect("nothing fails");
            gpu.in_flight()
        });
        assert_eq!(unfinished, [1, 0]);
    }

    /// The host may have been kept from noting it.
    #[test]
    fn a_submission_begins_when_the_queue_is_given_it() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        gpu.unfinished().set_pace(Pace::new(false));
        let full = gpu.work_per_submission();
        let submission = gpu.submit_nothing();
        std::thread::sleep(Duration::from_millis(110));
        pollster::block_on(gpu.throttle(submission, full)).expect("nothing fails");
        pollster::block_on(gpu.wait(gpu.submit_nothing())).expect("nothing fails");
        assert!(gpu.work_per_submission() < full);
    }

    /// By another thread, or by whoever shares the device: wgpu calls from inside of a submission what waited for an earlier one.
    #[test]
    fn what_is_added_while_the_queue_is_given_something_is_not_done_with_it() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        // Until it was done in time to be noticed by the submission.
        for wait in 0..100 {
            let (others, submission) = (gpu.clone(), gpu.submit_nothing());
            gpu.queue().on_submitted_work_done(move || {
                others.unfinished().add(submission, 1, Instant::now());
            });
            std::thread::sleep(Duration::from_millis(wait));
            let submission = gpu.submit_nothing();
            let is_added_meanwhile = gpu.in_flight() == 1;
            pollster::block_on(gpu.wait(submission)).expect("nothing fails");
            if is_added_meanwhile {
                return assert_eq!(gpu.in_flight(), 1);
            }
            pollster::block_on(gpu.wait(gpu.submit_nothing())).expect("nothing fails");
        }
        panic!("a submission notices what is done");
    }

    #[test]
    fn a_repeated_launch_is_bound_once_and_each_launch_to_its_own() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let ty = TensorType::f32([4]);
        let program = doubling(&gpu, &ty, &["y", "z"]);
        let [x, y, z] = ["x", "y", "z"].map(|name| gpu.allocate(name, ty.clone()).expect("room"));
        let ones = HostTensor::from_fn(ty.clone(), |_| 1.0);
        pollster::block_on(gpu.upload(&x, &ones)).expect("it fits");
        let (batch, inputs, outputs) = ([0, 0, 0, 0, 1], [x], [y, z]);
        program.submit(&gpu, &batch, &inputs, &outputs).expect("they fit");
        let twos = HostTensor::from_fn(ty, |_| 2.0).to_bytes();
        for output in &outputs {
            assert_eq!(pollster::block_on(gpu.read_bytes(output)).expect("it ran"), twos);
        }
        let groups = program.groups(&gpu, &batch, &inputs, &outputs).expect("they fit");
        let is_first = |group: &wgpu::BindGroup| *group == groups[0];
        assert_eq!(groups.iter().map(is_first).collect::<Vec<_>>(), [true, true, true, true, false]);
    }

    /// Whose bytes nobody would count: a bind group is an owner, too.
    #[test]
    fn a_program_keeps_nothing_that_it_was_run_on() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let Some(before) = gpu.device().generate_allocator_report() else {
            return println!("skipped: the backend does not say what is allocated");
        };
        let ty = TensorType::f32([1 << 20]);
        let program = doubling(&gpu, &ty, &["y"]);
        for _ in 0..20 {
            let [x, y] = ["x", "y"].map(|name| gpu.allocate(name, ty.clone()).expect("room"));
            pollster::block_on(program.run(&gpu, &[Rate::Step], &[x], &[y])).expect("it runs");
        }
        pollster::block_on(gpu.wait(gpu.submit_nothing())).expect("it ends");
        gpu.look();
        let after = gpu.device().generate_allocator_report().expect("as before");
        let kept = after.total_allocated_bytes.saturating_sub(before.total_allocated_bytes);
        assert!(kept < ty.bytes() / 2, "{kept} of {} a run", 2 * ty.bytes());
    }

    /// wgpu calls from inside of a look at the device what waited for earlier work: of whoever shares the device it may be anything.
    #[test]
    fn what_is_called_from_inside_of_a_look_is_not_locked_out() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let ty = TensorType::f32([1 << 16]);
        let program = doubling(&gpu, &ty, &["y"]);
        let [x, y] = ["x", "y"].map(|name| gpu.allocate(name, ty.clone()).expect("room"));
        // Whose callers look at the device, because it has refused something.
        let _ = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage: wgpu::BufferUsages::empty(),
            mapped_at_creation: false,
        });
        let upload = {
            let (gpu, x) = (gpu.clone(), x.clone());
            move || pollster::block_on(gpu.upload_bytes(&x, 0, &[0; 4 << 16]))
        };
        let run = {
            let gpu = gpu.clone();
            move || pollster::block_on(program.run(&gpu, &[Rate::Step], from_ref(&x), from_ref(&y)))
        };
        let uses: [Arc<dyn Fn() -> Result<(), DeviceError> + Send + Sync>; 2] =
            [Arc::new(upload), Arc::new(run)];
        for what in uses {
            let (ended, results) = std::sync::mpsc::channel();
            let (called, also_ended) = (what.clone(), ended.clone());
            gpu.queue().on_submitted_work_done(move || also_ended.send(called()).expect("somebody listens"));
            std::thread::spawn(move || ended.send(what()));
            for _ in 0..2 {
                let result =
                    results.recv_timeout(Duration::from_secs(60)).expect("neither waits for the other");
                assert!(matches!(result, Err(DeviceError::Refused { .. })), "{result:?}");
            }
        }
    }

    #[test]
    fn what_was_not_found_done_stays_in_flight() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let tensor = gpu.allocate("x", TensorType::f32([1])).expect("room");
        pollster::block_on(gpu.throttle(gpu.submit_nothing(), 1)).expect("nothing fails");
        let patience = Some(Duration::from_millis(50));
        gpu.arm(FaultPlan { hang_at_submission: Some(0), patience, ..FaultPlan::default() });
        let error = pollster::block_on(gpu.read(&tensor)).expect_err("it hangs");
        assert!(matches!(error, DeviceError::Hung { .. }), "{error}");
        assert_eq!(gpu.in_flight(), 1);
    }

    #[test]
    fn what_is_small_does_not_wait_for_what_is_full() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        // That of software does not change.
        gpu.unfinished().set_pace(Pace::new(true));
        let full = gpu.work_per_submission();
        let unfinished = |work| {
            pollster::block_on(gpu.throttle(gpu.submit_nothing(), work)).expect("nothing fails");
            gpu.in_flight()
        };
        assert_eq!([full, full, full, full, 10 * full].map(unfinished), [1, 2, 2, 2, 2]);
        assert_eq!([full, full, 1, 1, 1].map(unfinished), [2, 2, 2, 3, 4], "beside one that is full");
        assert_eq!([full, full].map(unfinished), [4, 2], "the first that was full, then what came after it");
        assert_eq!([1; 9].map(unfinished), [2, 3, 4, 5, 6, 7, 8, 8, 8]);
    }

    #[test]
    fn submissions_hold_as_much_as_they_may() {
        let work = |launch: &usize| [5, 5, 5, 20, 1, 9][*launch];
        let launches = [0, 1, 2, 3, 4, 5];
        let found = |launches, limit| batches(launches, work, move || limit).collect::<Vec<_>>();
        assert_eq!(found(&launches, 10), [&[0, 1][..], &[2], &[3], &[4, 5]]);
        assert_eq!(found(&launches, u64::MAX), [&launches[..]]);
        assert!(found(&[], 10).is_empty());
        // What they may hold changes meanwhile.
        let limit = Cell::new(10);
        let mut changing = batches(&launches, work, || limit.get());
        assert_eq!(changing.next(), Some(&launches[..2]));
        limit.set(25);
        assert_eq!(changing.next(), Some(&launches[2..4]));
    }
}

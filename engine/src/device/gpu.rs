//! An open device: memory, submission and waiting, with every failure as a value.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kernels::{Caps, TensorType};

use super::adapter::{self, AdapterChoice};
use super::error::DeviceError;
use super::faults::{Fate, FaultPlan, Faults};
use super::in_flight::InFlight;
use super::pace::Pace;
use super::pipelines::Pipelines;
use super::probe::probe;
use super::trace::Watch;
use super::transfer::Staging;
use super::trusted;
use super::watchdog::{PATIENCE, POLL, Watchdog};
use crate::tuning::Choices;

/// Waits in which wgpu may panic before the device counts as lost.
const MAX_PANICS: usize = 3;
/// Bytes of a `Params` block in a uniform buffer, and the distance between two of them.
pub(super) const PARAMS_STRIDE: u64 = 256;

/// An open device, and the choices that programs for it are compiled with. Clones are the same device.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
    choices: Arc<Choices>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    caps: Caps,
    notes: Vec<String>,
    max_buffer_bytes: u64,
    /// Layout of the uniform that holds `Params` on devices without immediates.
    params_layout: Option<wgpu::BindGroupLayout>,
    checks_shaders: bool,
    pipelines: Pipelines,
    staging: Mutex<Staging>,
    in_flight: Mutex<InFlight<Submission>>,
    /// That the device is lost, or hangs.
    loss: Arc<OnceLock<DeviceError>>,
    /// Waits that have ended well.
    finished: AtomicU64,
    /// The first call that wgpu refused outside of every scope.
    refusal: Arc<OnceLock<DeviceError>>,
    held_bytes: Arc<AtomicU64>,
    peak_bytes: AtomicU64,
    /// Bytes that may be held at once.
    limit: AtomicU64,
    faults: Faults,
    /// What is traced, if anything is.
    watched: Mutex<Option<Watch>>,
}

/// What the queue was given at once.
#[derive(Clone)]
pub(super) struct Submission {
    index: wgpu::SubmissionIndex,
    submitted: Instant,
    /// How many were ever in flight before: done once it is.
    follows: u64,
    /// On purpose: [`FaultPlan::hang_at_submission`].
    hangs: bool,
}

/// A tensor in a buffer on the device. Clones share the buffer.
#[derive(Clone)]
pub struct DeviceTensor {
    ty: TensorType,
    allocation: Arc<Allocation>,
}

/// A buffer whose bytes are accounted for until this is dropped; a bind group keeps the buffer longer.
pub(super) struct Allocation {
    pub(super) buffer: wgpu::Buffer,
    held_bytes: Arc<AtomicU64>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.held_bytes.fetch_sub(self.buffer.size(), Ordering::Relaxed);
    }
}

impl DeviceTensor {
    /// Element type and shape.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    pub(super) fn new(ty: TensorType, allocation: Arc<Allocation>) -> Self {
        DeviceTensor { ty, allocation }
    }

    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        &self.allocation.buffer
    }

    /// Whether no other tensor shares the buffer.
    pub fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.allocation) == 1
    }
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Which adapter.
    pub adapter: AdapterChoice,
    /// Keep wgpu's run-time checks in shaders: slower, for finding a kernel's out-of-range index.
    pub checked_shaders: bool,
    /// Do without immediates and subgroups, and begin bindings only where every adapter can, as with WebGPU's defaults.
    pub webgpu_only: bool,
    /// A lower limit for one storage binding than the adapter's.
    pub max_binding_bytes: Option<u64>,
    /// Fewer floating-point operations in one dispatch than the adapter may have.
    pub max_dispatch_flops: Option<u64>,
    /// Take square cooperative matrices of this extent for offered, and ask the driver for nothing of the kind: for tests of
    /// what happens where a driver offers what it does not have.
    pub claimed_cooperative: Option<u32>,
}

impl GpuOptions {
    fn limit(&self, caps: &mut Caps) {
        if self.webgpu_only {
            caps.binding_alignment = caps.binding_alignment.max(Caps::webgpu().binding_alignment);
        }
        caps.max_binding_bytes = caps.max_binding_bytes.min(self.max_binding_bytes.unwrap_or(u64::MAX));
        caps.max_dispatch_flops = caps.max_dispatch_flops.min(self.max_dispatch_flops.unwrap_or(u64::MAX));
    }
}

impl Gpu {
    /// Opens the adapter that `choice` means.
    ///
    /// # Errors
    /// [`DeviceError::NoAdapter`], [`DeviceError::NotOpened`].
    pub async fn open(choice: AdapterChoice) -> Result<Gpu, DeviceError> {
        Gpu::open_with(GpuOptions { adapter: choice, ..GpuOptions::default() }).await
    }

    /// Opens a device as `options` ask. Matrix units that fail a probe stay idle, and [`Gpu::notes`] say so.
    ///
    /// # Errors
    /// [`DeviceError::NoAdapter`], [`DeviceError::NotOpened`].
    pub async fn open_with(options: GpuOptions) -> Result<Gpu, DeviceError> {
        let adapters = adapter::enumerate(&adapter::instance()).await;
        let Some(index) = adapter::find(&adapters, &options.adapter) else {
            let found: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(DeviceError::NoAdapter { wanted: options.adapter.to_string(), found });
        };
        Gpu::open_adapter(&adapters[index], &options).await
    }

    /// Opens `adapter` as `options` ask, whichever adapter they name.
    ///
    /// # Errors
    /// [`DeviceError::NotOpened`].
    pub(super) async fn open_adapter(
        adapter: &wgpu::Adapter,
        options: &GpuOptions,
    ) -> Result<Gpu, DeviceError> {
        let offered = options.claimed_cooperative.or_else(|| adapter::cooperative_extent(adapter));
        let Some(extent) = offered.filter(|_| !options.webgpu_only) else {
            return Gpu::request(adapter, options, None, Vec::new()).await;
        };
        // The probe's products may exceed the limits that are asked for.
        let unlimited = GpuOptions { max_binding_bytes: None, max_dispatch_flops: None, ..options.clone() };
        // wgpu asserts that drivers keep their word about such features.
        let asked = || block_on_ready(Gpu::request(adapter, &unlimited, Some(extent), Vec::new()));
        let opened = catch_unwind(AssertUnwindSafe(asked));
        let opened = opened.map_err(|_| "wgpu cannot open the adapter with them".to_owned());
        let reason = match opened.and_then(|opened| opened.map_err(|error| error.to_string())) {
            Err(reason) => reason,
            Ok(gpu) => match probe(&gpu).await {
                Ok(()) => return Ok(gpu.probed(options)),
                Err(reason) => reason,
            },
        };
        // A device that has refused something may refuse all that follows: the next one has never heard of matrix units.
        let note = format!("matrix units are not used: {reason}");
        Gpu::request(adapter, options, None, vec![note]).await
    }

    /// The same device within the limits of `options`, which says so if its matrix units are idle for the sake of its subgroups.
    fn probed(mut self, options: &GpuOptions) -> Gpu {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody else has it yet");
        options.limit(&mut inner.caps);
        if let Some(subgroups) = inner.caps.subgroups.filter(|subgroups| subgroups.min != subgroups.max) {
            let sizes = format!("subgroups may have {} to {} invocations", subgroups.min, subgroups.max);
            inner.notes.push(format!("matrix units are not used: {sizes}, kernels for them need one size"));
        }
        self
    }

    async fn request(
        adapter: &wgpu::Adapter,
        options: &GpuOptions,
        cooperative: Option<u32>,
        notes: Vec<String>,
    ) -> Result<Gpu, DeviceError> {
        let mut features = match options.webgpu_only {
            true => wgpu::Features::empty(),
            false => adapter::wanted_features(adapter.features()),
        };
        let is_asked_for = cooperative.is_some() && options.claimed_cooperative.is_none();
        if is_asked_for {
            features |= adapter::COOPERATIVE_FEATURES;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("photogram"),
            required_features: features,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features: match is_asked_for {
                true => trusted::experimental_features(),
                false => wgpu::ExperimentalFeatures::disabled(),
            },
            ..Default::default()
        };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|e| DeviceError::NotOpened {
            adapter: adapter.get_info().name,
            reason: e.to_string(),
        })?;
        Ok(Gpu::with_device(device, queue, adapter.get_info(), options, cooperative, notes))
    }

    /// Works on a device that somebody else opened: a game, an editor. Matrix units stay idle: which kinds it has is not known.
    pub fn adopt(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: wgpu::AdapterInfo,
        options: &GpuOptions,
    ) -> Gpu {
        Gpu::with_device(device, queue, info, options, None, Vec::new())
    }

    fn with_device(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: wgpu::AdapterInfo,
        options: &GpuOptions,
        cooperative: Option<u32>,
        notes: Vec<String>,
    ) -> Gpu {
        let loss: Arc<OnceLock<DeviceError>> = Arc::default();
        let seen = loss.clone();
        device.set_device_lost_callback(move |reason, message| {
            let _ = seen.set(DeviceError::Lost { reason: format!("{reason:?}: {message}") });
        });
        let refusal: Arc<OnceLock<DeviceError>> = Arc::default();
        let (lost, refused) = (loss.clone(), refusal.clone());
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let _ = match error {
                wgpu::Error::OutOfMemory { .. } => {
                    lost.set(DeviceError::Lost { reason: "out of memory".to_owned() })
                }
                other => refused.set(DeviceError::Refused { message: other.to_string() }),
            };
        }));
        let (limits, features) = (device.limits(), device.features());
        let mut caps = Caps { cooperative, ..adapter::caps(&info, &limits, features) };
        if cooperative.is_some() && !caps.software {
            caps.max_dispatch_flops = Caps::MATRIX_DISPATCH_FLOPS;
        }
        options.limit(&mut caps);
        let immediates = features.contains(wgpu::Features::IMMEDIATES) && limits.max_immediate_size >= 64;
        let params_layout = (!immediates).then(|| {
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some("params"),
                entries: &[wgpu::BindGroupLayoutEntry {
                    binding: 0,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer {
                        ty: wgpu::BufferBindingType::Uniform,
                        has_dynamic_offset: true,
                        min_binding_size: None,
                    },
                    count: None,
                }],
            })
        });
        let in_flight = InFlight::new(Pace::new(caps.software));
        Gpu {
            choices: Arc::default(),
            inner: Arc::new(Inner {
                max_buffer_bytes: limits.max_buffer_size,
                device,
                queue,
                info,
                caps,
                notes,
                params_layout,
                checks_shaders: options.checked_shaders,
                pipelines: Pipelines::default(),
                staging: Mutex::default(),
                in_flight: Mutex::new(in_flight),
                loss,
                finished: AtomicU64::new(0),
                refusal,
                held_bytes: Arc::default(),
                peak_bytes: AtomicU64::new(0),
                limit: AtomicU64::new(u64::MAX),
                faults: Faults::default(),
                watched: Mutex::default(),
            }),
        }
    }

    /// What kernels may count on here.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// The same device, for which graphs are compiled with `choices`.
    pub fn with_choices(self, choices: Choices) -> Gpu {
        Gpu { choices: Arc::new(choices), ..self }
    }

    /// Which variants were measured to be fastest here.
    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    /// What a user should know about the adapter, a line each: what it offers and is not used, and why.
    pub fn notes(&self) -> &[String] {
        &self.inner.notes
    }

    /// The adapter's name.
    pub fn adapter_name(&self) -> &str {
        &self.inner.info.name
    }

    /// Backend and driver with version.
    pub fn driver(&self) -> String {
        let info = &self.inner.info;
        format!("{:?} {} {}", info.backend, info.driver, info.driver_info).trim_end().to_owned()
    }

    /// Pipelines compiled so far.
    pub fn pipelines(&self) -> usize {
        self.inner.pipelines.len()
    }

    /// Bytes of the buffers that are held now.
    pub fn held_bytes(&self) -> u64 {
        self.inner.held_bytes.load(Ordering::Relaxed)
    }

    /// The most bytes of buffers that were ever held at once.
    pub fn peak_bytes(&self) -> u64 {
        self.inner.peak_bytes.load(Ordering::Relaxed)
    }

    /// Refuses buffers that would make it hold more than `bytes`, as if the device had no more; not while it is traced.
    pub fn limit(&self, bytes: Option<u64>) {
        self.inner.limit.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A buffer for a tensor; its content is zero.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], [`DeviceError::Lost`].
    pub fn allocate(&self, label: &str, ty: TensorType) -> Result<DeviceTensor, DeviceError> {
        let allocation = self.allocate_bytes(label, ty.bytes())?;
        Ok(DeviceTensor::new(ty, allocation))
    }

    pub(super) fn allocate_bytes(&self, label: &str, bytes: u64) -> Result<Arc<Allocation>, DeviceError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        self.create_buffer(label, bytes.next_multiple_of(16).max(16), usage)
    }

    pub(super) fn create_buffer(
        &self,
        label: &str,
        size: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Arc<Allocation>, DeviceError> {
        self.check()?;
        let inner = &self.inner;
        let held = inner.held_bytes.load(Ordering::Relaxed);
        let out_of_memory = || DeviceError::OutOfMemory { label: label.to_owned(), bytes: size, held };
        let is_over = held.saturating_add(size) > inner.limit.load(Ordering::Relaxed);
        // Tracing reads back what nobody foretold, and is worth more than the limit.
        if size > inner.max_buffer_bytes || (is_over && !self.is_traced()) {
            return Err(out_of_memory());
        }
        if inner.faults.fails_allocation() {
            return Err(out_of_memory());
        }
        let scope = inner.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        if block_on_ready(scope.pop()).is_some() {
            return Err(out_of_memory());
        }
        let now = inner.held_bytes.fetch_add(size, Ordering::Relaxed) + size;
        inner.peak_bytes.fetch_max(now, Ordering::Relaxed);
        Ok(Arc::new(Allocation { buffer, held_bytes: inner.held_bytes.clone() }))
    }

    /// Runs wgpu calls and turns a validation error among them into a value.
    pub(super) fn checked<T>(&self, calls: impl FnOnce() -> T) -> Result<T, DeviceError> {
        let scope = self.inner.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = calls();
        match block_on_ready(scope.pop()) {
            Some(error) => {
                self.hear_of_loss();
                self.check()?;
                Err(DeviceError::Refused { message: error.to_string() })
            }
            None => self.check().map(|()| result),
        }
    }

    /// The first failure the device reported, if any: after a loss, wgpu itself is silent.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        let lost = || self.inner.loss.get().map_or(Ok(()), |error| Err(error.clone()));
        lost()?;
        let Some(refusal) = self.inner.refusal.get() else { return Ok(()) };
        self.hear_of_loss();
        lost()?;
        Err(refusal.clone())
    }

    /// A lost device refuses calls, and tells of its loss when it is polled after what ran has ended. As submitting does, polling calls
    /// what waited for earlier work: nothing may be locked.
    fn hear_of_loss(&self) {
        let poll = wgpu::PollType::Wait { submission_index: None, timeout: Some(POLL) };
        // wgpu panics where it cannot poll; what is known by now is all there is to know.
        let _ = catch_unwind(AssertUnwindSafe(|| self.inner.device.poll(poll)));
    }

    /// Waits until `submission` has run.
    ///
    /// # Errors
    /// [`DeviceError::Lost`], also where wgpu panics because of a lost device; [`DeviceError::Hung`].
    pub(super) async fn wait(&self, submission: Submission) -> Result<(), DeviceError> {
        let finished = || self.inner.finished.load(Ordering::Relaxed);
        let patience = self.inner.faults.patience().unwrap_or(PATIENCE);
        let mut watchdog = Watchdog::new(patience, finished());
        let mut panics = 0;
        loop {
            let started = Instant::now();
            let polled = catch_unwind(AssertUnwindSafe(|| self.poll(&submission, watchdog.look())));
            self.check()?;
            match polled {
                Ok(Ok(_)) => {
                    self.inner.finished.fetch_add(1, Ordering::Relaxed);
                    self.unfinished().settle(submission.follows, Instant::now());
                    return Ok(());
                }
                Ok(Err(wgpu::PollError::Timeout)) => {
                    if let Some(waited) = watchdog.note(started.elapsed(), finished()) {
                        return Err(self.give_up(waited));
                    }
                }
                Ok(Err(other)) => {
                    self.hear_of_loss();
                    self.check()?;
                    return Err(DeviceError::Refused { message: other.to_string() });
                }
                // wgpu-core 30 asserts that nothing is submitted between two of its looks at the queue, which another thread
                // may do: asked again, it answers.
                Err(_) if panics < MAX_PANICS => panics += 1,
                Err(_) => return Err(DeviceError::Lost { reason: "the driver failed a wait".to_owned() }),
            }
        }
    }

    fn poll(&self, submission: &Submission, timeout: Duration) -> Result<wgpu::PollStatus, wgpu::PollError> {
        let poll =
            wgpu::PollType::Wait { submission_index: Some(submission.index.clone()), timeout: Some(timeout) };
        let polled = self.inner.device.poll(poll);
        if !submission.hangs {
            self.inner.faults.late().into_iter().for_each(std::thread::sleep);
            return polled;
        }
        std::thread::sleep(timeout);
        Err(wgpu::PollError::Timeout)
    }

    /// Notices what is done already, and waits for nothing.
    pub(super) fn look(&self) {
        // What is wrong with the device is found by the waits.
        let _ = catch_unwind(AssertUnwindSafe(|| self.inner.device.poll(wgpu::PollType::Poll)));
    }

    /// The device counts as lost from here on.
    fn give_up(&self, waited: Duration) -> DeviceError {
        let hung = self.inner.loss.get_or_init(|| DeviceError::Hung { waited }).clone();
        // Dropping the last handle of a queue waits for its work, for ever.
        std::mem::forget(self.inner.queue.clone());
        hung
    }

    /// Notes a submission of `work`, and waits until no more are unfinished than may be: the host must not run ahead of an
    /// interrupt, nor of memory, and a small one at the end of a step is no reason to wait for that step.
    pub(super) async fn throttle(&self, submission: Submission, work: u64) -> Result<(), DeviceError> {
        let submitted = submission.submitted;
        self.unfinished().add(submission, work, submitted);
        let next = || self.unfinished().excess();
        while let Some((submission, count)) = next() {
            self.wait(submission).await?;
            self.unfinished().settle(count, Instant::now());
        }
        Ok(())
    }

    pub(super) fn unfinished(&self) -> MutexGuard<'_, InFlight<Submission>> {
        self.inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submissions that may be unfinished.
    pub fn in_flight(&self) -> usize {
        self.unfinished().len()
    }

    /// Floating-point operations that one submission may hold.
    pub(super) fn work_per_submission(&self) -> u64 {
        self.unfinished().pace().work()
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// Gives the queue a list of commands to run.
    pub(super) fn submit(&self, commands: wgpu::CommandBuffer) -> Submission {
        let fate = self.inner.faults.fate_of_submission();
        self.hand_over(fate == Fate::Hung, |queue| match fate {
            Fate::Done | Fate::Hung => queue.submit([commands]),
            Fate::Skipped => queue.submit([]),
            Fate::Lost => {
                self.inner.device.destroy();
                queue.submit([])
            }
        })
    }

    /// Gives the queue nothing, which is done once everything before it is.
    pub(super) fn submit_nothing(&self) -> Submission {
        let hangs = self.inner.faults.fate_of_nothing() == Fate::Hung;
        self.hand_over(hangs, |queue| queue.submit([]))
    }

    fn hand_over(
        &self,
        hangs: bool,
        submit: impl FnOnce(&wgpu::Queue) -> wgpu::SubmissionIndex,
    ) -> Submission {
        // Before: what is added meanwhile may come after it. And nothing is locked: wgpu calls what waited for earlier work.
        let (submitted, follows) = (Instant::now(), self.unfinished().added());
        Submission { index: submit(&self.inner.queue), submitted, follows, hangs }
    }

    /// Has other things go wrong from here on: for tests of what happens then.
    pub fn arm(&self, plan: FaultPlan) {
        self.inner.faults.arm(plan);
    }

    /// Allocations and submissions so far, as a [`FaultPlan`] counts them.
    pub fn counts(&self) -> [u64; 2] {
        self.inner.faults.counts()
    }

    pub(super) fn watched(&self) -> &Mutex<Option<Watch>> {
        &self.inner.watched
    }

    pub(super) fn has_immediates(&self) -> bool {
        self.inner.params_layout.is_none()
    }

    /// Bytes of a program's `Params` of so many launches in a buffer of their own.
    pub(crate) fn params_bytes(&self, launches: usize) -> u64 {
        if self.has_immediates() { 0 } else { launches.max(1) as u64 * PARAMS_STRIDE }
    }

    pub(super) fn params_layout(&self) -> Option<&wgpu::BindGroupLayout> {
        self.inner.params_layout.as_ref()
    }

    pub(super) fn checks_shaders(&self) -> bool {
        self.inner.checks_shaders
    }

    pub(super) fn pipeline_cache(&self) -> &Pipelines {
        &self.inner.pipelines
    }

    pub(super) fn staging(&self) -> MutexGuard<'_, Staging> {
        self.inner.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a future that wgpu has ready at once on native backends.
fn block_on_ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::yield_now();
    }
}

//! Choosing variants by measuring: on whatever adapter there is, a software driver too, though the program does not tune those.

use std::any::Any;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use engine::device::{Clock, Gpu, GpuOptions, Program};
use engine::graph::{Graph, Rate};
use engine::noise::{RngKind, Seed};
use engine::pipelines::{GuidanceScale, Model, Pipeline, PixelSize, Precision, Request, Told};
use engine::plan::{Choice, Plan, build_plan};
use engine::profile::ProfileOptions;
use engine::tuning::{Choices, Identity, Task, Tuned, Tuner, infer_tasks, key, read_choices};
use engine::validate::{Against, Verdict, validate_task};
use kernels::check::Class;
use kernels::ops::{MatMul, Scale};
use kernels::{Attributes, Caps, Case, Cost, Dispatch, HostTensor, Op, OpError, TensorType, Variant};
use loaders::{BytesSource, Config, Error, create_folder, write_bytes};
use photogram_tests::{fixture, gpu_with};
use pollster::block_on;

/// A device for one test: times are its own, and wgpu's waiting stumbles where threads submit to one device meanwhile.
fn gpu() -> Option<Gpu> {
    gpu_with(GpuOptions::default())
}

/// Twice `x`, with a usual variant that gives three times `x`, or nothing at all, where `x` has as many elements.
#[derive(Clone, Debug)]
struct Doubled {
    wrong: Range<usize>,
    idle: bool,
}

impl Doubled {
    fn wrong_from(elements: usize) -> Self {
        Doubled { wrong: elements..usize::MAX, idle: false }
    }
}

const DOUBLE: Scale = Scale { factor: 2.0 };

impl Op for Doubled {
    fn name(&self) -> &'static str {
        "doubled"
    }

    fn attributes(&self) -> Attributes {
        vec![("wrong_from", self.wrong.start.into()), ("idle", self.idle.into())]
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        DOUBLE.infer(inputs)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        DOUBLE.reference(inputs)
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let is_wrong = self.wrong.contains(&inputs[0].shape.elements());
        let factor = if is_wrong && !self.idle { 3.0 } else { 2.0 };
        let named = |name, factor: f64| -> Result<Variant, OpError> {
            let variants = Scale { factor }.variants(inputs, caps)?;
            Ok(Variant { name, ..variants.into_iter().next().expect("it has one") })
        };
        let mut wrong = named("doubled_wrongly", factor)?;
        if is_wrong && self.idle {
            wrong.dispatches.clear();
        }
        Ok(vec![named("doubled_slowly", 2.0)?, wrong])
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        DOUBLE.cost(inputs)
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        DOUBLE.class(inputs)
    }

    fn cases(&self) -> Vec<Case> {
        vec![Case::new(self.clone(), [TensorType::f32([3, 7])])]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Twice `x` of 8192 rows of 33 values, for so much that it is compared by samples where it has some: every 2,128 elements, 16 of
/// them. One of its variants gives `factor` times `x` in the rows `wrong`.
#[derive(Clone, Debug)]
struct Large {
    wrong: Range<usize>,
    factor: f64,
    has_samples: bool,
    /// Whether the wrong variant is the first, which others are compared with.
    is_first: bool,
}

impl Large {
    const ROWS: usize = 8192;
    /// Rows without a sample.
    const UNSEEN: Range<usize> = 16..32;

    fn wrong_in(wrong: Range<usize>) -> Self {
        assert!(wrong.start.is_multiple_of(16) && wrong.end.is_multiple_of(16), "rows that can be bound");
        Large { wrong, factor: 3.0, has_samples: true, is_first: false }
    }

    fn task(&self) -> Task {
        Task { op: Arc::new(self.clone()), inputs: vec![TensorType::f32([Self::ROWS, 33])], calls: 1 }
    }

    /// The dispatches that multiply rows of `x` by `factor`.
    fn scaled(rows: Range<usize>, factor: f64, caps: &Caps) -> Result<Vec<Dispatch>, OpError> {
        let part = TensorType::f32([rows.len(), 33]);
        let variants = Scale { factor }.variants(std::slice::from_ref(&part), caps)?;
        let mut dispatches = variants.into_iter().next().expect("it has one").dispatches;
        let window = (rows.start as u64 * part.row_bytes(), part.bytes());
        for bind in dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.binds) {
            bind.window = Some(window);
        }
        Ok(dispatches)
    }
}

impl Op for Large {
    fn name(&self) -> &'static str {
        "large"
    }

    fn attributes(&self) -> Attributes {
        Vec::new()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        DOUBLE.infer(inputs)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        DOUBLE.reference(inputs)
    }

    fn reference_at(&self, inputs: &[&HostTensor], positions: &[usize]) -> Option<Vec<f32>> {
        let at = |position: &usize| 2.0 * inputs[0].data()[*position];
        self.has_samples.then(|| positions.iter().map(at).collect())
    }

    fn variants(&self, _: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let mut dispatches = Vec::new();
        for (rows, factor) in
            [(0..self.wrong.start, 2.0), (self.wrong.clone(), self.factor), (self.wrong.end..Self::ROWS, 2.0)]
        {
            dispatches.extend(Self::scaled(rows, factor, caps)?);
        }
        let wrong = Variant { name: "large_wrong", dispatches, scratch: Vec::new() };
        let dispatches = Self::scaled(0..Self::ROWS, 2.0, caps)?;
        let right = Variant { name: "large_right", dispatches, scratch: Vec::new() };
        Ok(if self.is_first { vec![wrong, right] } else { vec![right, wrong] })
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        Cost { flops: 1 << 29, ..DOUBLE.cost(inputs) }
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        DOUBLE.class(inputs)
    }

    fn cases(&self) -> Vec<Case> {
        Vec::new()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn a_wrong_row_of_a_large_result_is_found() {
    let Some(gpu) = gpu() else { return };
    let validated = |large: &Large| block_on(validate_task(&gpu, &large.task())).expect("it runs");
    // Anywhere that samples are, and where there are no samples, for then all is computed.
    let seen = Large::wrong_in(1024..1040);
    let whole = Large { has_samples: false, ..Large::wrong_in(Large::UNSEEN) };
    for large in [&seen, &whole] {
        let verdicts = validated(large);
        assert_eq!(verdicts.len(), 4, "one for each kind of input");
        for verdict in verdicts {
            assert!(verdict.variant == "large_wrong" && !verdict.pass(), "{large:?}: {verdict:?}");
        }
    }
    // Between samples nothing is known; what follows is of use only while that is so.
    assert!(validated(&Large::wrong_in(Large::UNSEEN)).iter().all(Verdict::pass));
}

#[test]
fn what_samples_do_not_see_is_compared_with_the_first_right_variant() {
    let Some(gpu) = gpu() else { return };
    let wrong = |large: &Large| -> Vec<bool> {
        let tuned = block_on(Tuner::new(gpu.clone()).tune(&large.task())).expect("it runs");
        assert_eq!(tuned.against, Against::Samples);
        tuned.variants.iter().map(|variant| variant.wrong.is_some()).collect()
    };
    let large = Large::wrong_in(Large::UNSEEN);
    assert_eq!(wrong(&large), [false, true]);
    // The first is compared with nothing there, but its values are finite.
    assert_eq!(wrong(&Large { factor: f64::from(f32::MAX), is_first: true, ..large }), [true, false]);
}

fn planned(op: impl Op, inputs: &[TensorType], gpu: &Gpu, choice: Choice<'_>) -> Plan {
    let mut graph = Graph::new();
    let ids: Vec<_> = inputs.iter().map(|ty| graph.input("x", ty.clone(), Rate::Step)).collect();
    let result = graph.apply("result", op, &ids).expect("operands fit");
    graph.output(result);
    build_plan(&graph, gpu.caps(), choice).expect("small")
}

fn tuned(gpu: &Gpu, op: impl Op, inputs: &[TensorType]) -> Tuned {
    let plan = planned(op, inputs, gpu, Choice::Fastest);
    let [task] = &infer_tasks([&plan, &plan], gpu.caps())[..] else { panic!("one task: {plan}") };
    assert_eq!(task.calls, 2);
    block_on(Tuner::new(gpu.clone()).tune(task)).expect("it runs")
}

#[test]
fn a_variant_that_is_wrong_at_a_models_shape_is_found_and_passed_over() {
    let Some(gpu) = gpu() else { return };
    let inputs = vec![TensorType::f32([64, 33])];
    // Right on the operation's own case, of 21 elements.
    let task = Task { op: Arc::new(Doubled::wrong_from(1_000)), inputs, calls: 1 };
    let verdicts = block_on(validate_task(&gpu, &task)).expect("it runs");
    assert_eq!(verdicts.len(), 4, "one for each kind of input");
    assert!(verdicts.iter().all(|verdict| verdict.variant == "doubled_wrongly" && !verdict.pass()));

    // What is not written is not zero by chance, nor is the padding of a row of 33 values.
    let idle = Doubled { wrong: 1_000..usize::MAX, idle: true };
    let idle = Task { op: Arc::new(idle), ..task.clone() };
    let verdicts = block_on(validate_task(&gpu, &idle)).expect("it runs");
    assert!(verdicts.iter().all(|verdict| !verdict.padding_is_zero && !verdict.pass()), "{verdicts:?}");

    let mut choices = Choices::default();
    choices.distrust("doubled_wrongly");
    let verdicts =
        block_on(validate_task(&gpu.clone().with_choices(choices.clone()), &task)).expect("it runs");
    assert!(
        verdicts.iter().all(|verdict| verdict.variant == "doubled_slowly" && verdict.pass()),
        "{verdicts:?}"
    );

    // A file keeps it, and where nothing is trusted the safest is taken.
    let identity = Identity::of(&gpu);
    let stored = BytesSource::new("choices", identity.to_json(&choices).to_string().into_bytes());
    let mut read =
        block_on(Config::read(&stored)).and_then(|file| identity.choices_of(&file)).expect("its own");
    assert_eq!(read.distrusted().collect::<Vec<_>>(), ["doubled_wrongly"]);
    read.distrust("doubled_slowly");
    let plan = planned(Doubled::wrong_from(1), &task.inputs, &gpu, Choice::Measured(&read));
    assert_eq!(plan.steps[0].variant.name, "doubled_slowly");
    assert!(read.trust("doubled_wrongly") && !read.trust("doubled_wrongly"));
    // A choice that was measured does not bring back what is distrusted.
    read.insert(task.key(), "doubled_slowly");
    let plan = planned(Doubled::wrong_from(1_000), &task.inputs, &gpu, Choice::Measured(&read));
    assert_eq!(plan.steps[0].variant.name, "doubled_wrongly");
}

#[test]
fn every_variant_is_timed_five_times() {
    let Some(gpu) = gpu() else { return };
    let inputs = vec![TensorType::f32([64, 33])];
    let task = Task { op: Arc::new(Doubled::wrong_from(usize::MAX)), inputs, calls: 1 };
    let submissions = |tuner: Tuner| {
        let mut tuner = tuner;
        let [_, before] = gpu.counts();
        block_on(tuner.tune(&task)).expect("it runs");
        gpu.counts()[1] - before
    };
    // What a run submits does not depend on its number, nor does all that is done besides.
    let tuner = || Tuner::new(gpu.clone());
    let [one, two] = [1, 2].map(|runs| submissions(tuner().with_runs(runs)));
    assert!(two > one, "{one} {two}");
    assert_eq!(submissions(tuner()), one + 4 * (two - one));
}

#[test]
fn a_wrong_variant_never_wins_and_is_told() {
    let Some(gpu) = gpu() else { return };
    let x = [TensorType::f32([64, 33])];
    // On the operation's own case, of 21 elements, and the model's operands; on either alone.
    for (wrong, idle) in
        [(1..usize::MAX, false), (1_000..usize::MAX, false), (1..1_000, false), (1_000..usize::MAX, true)]
    {
        let op = Doubled { wrong, idle };
        let found = tuned(&gpu, op.clone(), &x);
        assert_eq!(found.against, Against::Reference);
        let [slow, wrong] = &found.variants[..] else { panic!("{found:?}") };
        assert!(slow.wrong.is_none() && slow.ns > Some(0.0), "{slow:?}");
        assert!(wrong.wrong.as_deref().is_some_and(|why| why.contains("max abs")), "{op:?}: {wrong:?}");
        assert_eq!(wrong.ns, None, "what is wrong is not timed");
        assert_eq!(found.chosen().map(|chosen| chosen.variant), Some("doubled_slowly"));
        assert_eq!(found.gain(), None);

        let mut choices = Choices::default();
        found.choose(&mut choices);
        let variant = |choice| planned(op.clone(), &x, &gpu, choice).steps[0].variant.name;
        assert_eq!(variant(Choice::Measured(&choices)), "doubled_slowly");
        assert_eq!(variant(Choice::Fastest), "doubled_wrongly");
    }
}

#[test]
fn a_short_dispatch_is_timed_by_many() {
    let Some(gpu) = gpu() else { return };
    let ty = TensorType::f32([4, 4]);
    let plan = planned(DOUBLE, std::slice::from_ref(&ty), &gpu, Choice::Fastest);
    let program = Program::compile(&gpu, plan, Vec::new()).expect("it compiles");
    let inputs = [gpu.allocate("x", ty.clone()).expect("room")];
    let outputs = [gpu.allocate("y", ty).expect("room")];
    let ns = || {
        let times = block_on(program.run_timed(&gpu, Clock::Wall, &[Rate::Step], &inputs, &outputs));
        times.expect("it runs")[0].ns
    };
    // A batch of them takes 10 ms; on a busy machine one alone may.
    assert!((0..50).map(|_| ns()).any(|ns| ns > 0.0 && ns < 2e6));
}

#[test]
fn recording_is_told_from_the_work_of_submissions() {
    let Some(gpu) = gpu() else { return };
    let mut graph = Graph::new();
    let ty = TensorType::f32([1024, 1024]);
    let w = graph.input("w", ty.clone().in_strips(), Rate::Step);
    let mut x = graph.input("x", ty.clone(), Rate::Step);
    for _ in 0..8 {
        x = graph.apply("product", MatMul::default(), &[x, w]).expect("operands fit");
    }
    graph.output(x);
    let plan = build_plan(&graph, gpu.caps(), Choice::Fastest).expect("small");
    let program = Program::compile(&gpu, plan, Vec::new()).expect("it compiles");
    let inputs = [ty.clone().in_strips(), ty.clone()].map(|ty| gpu.allocate("x", ty).expect("room"));
    let outputs = [gpu.allocate("y", ty).expect("room")];
    let run = || block_on(program.run_watched(&gpu, &[Rate::Step], &inputs, &outputs)).expect("it runs");
    run();
    let host = run();
    println!("{host:?}");
    // 17 GFLOP: more than a submission of a software adapter holds.
    assert!(!gpu.caps().software || host.submissions > 2, "{host:?}");
    // llvmpipe works meanwhile.
    let is_llvmpipe = gpu.adapter_name().contains("llvmpipe");
    assert!(!is_llvmpipe || host.submitting > host.wall / 4, "{host:?}");
    assert!(host.recording < host.wall / 4, "{host:?}");
}

#[test]
fn a_right_variant_is_not_suspected() {
    let Some(gpu) = gpu() else { return };
    let found = tuned(&gpu, Doubled::wrong_from(usize::MAX), &[TensorType::f32([64, 33])]);
    assert!(found.variants.iter().all(|v| v.wrong.is_none() && v.ns > Some(0.0)), "{found:?}");
    assert!(found.gain() >= Some(1.0), "{found:?}");
}

#[test]
fn a_large_product_is_compared_with_samples_of_its_reference() {
    let Some(gpu) = gpu() else { return };
    let f32 = TensorType::f32;
    let found = tuned(&gpu, MatMul::default(), &[f32([512, 512]), f32([512, 516])]);
    println!("{:?}", found.variants);
    assert_eq!(found.against, Against::Samples);
    assert!(found.variants.len() > 2 && found.variants.iter().all(|v| v.wrong.is_none()), "{found:?}");
    let fastest = found.variants.iter().filter_map(|v| v.ns).fold(f64::INFINITY, f64::min);
    let chosen = found.chosen().and_then(|chosen| chosen.ns).expect("one was chosen");
    assert!(chosen <= fastest / 0.98, "{found:?}");
}

fn request() -> Request {
    Request {
        prompt: String::new(),
        negative_prompt: None,
        guidance_rescale: 0.0,
        size: PixelSize { width: 32, height: 32 },
        steps: 2,
        guidance: GuidanceScale(7.0),
        seed: Seed(0),
        rng: RngKind::Cpu,
        sampler: None,
        schedule: None,
        spacing: None,
        prediction: None,
        init: None,
        told: Told::default(),
        refiner_start: Request::REFINER_START,
    }
}

fn pipeline(gpu: Gpu) -> Pipeline {
    let folder = fixture("pipelines/sd1_layout/model");
    Pipeline::new(gpu, block_on(Model::open(&folder, None, Precision::F32)).expect("fixtures are sound"))
}

/// Every choice that is not the usual one, with the variants offered first.
fn unusual(tasks: &[Task], gpu: &Gpu) -> Choices {
    let mut choices = Choices::default();
    for task in tasks {
        let variants = task.op.variants(&task.inputs, gpu.caps()).expect("planned");
        choices.insert(task.key(), variants[0].name);
    }
    choices
}

#[test]
fn a_models_programs_run_what_was_chosen() {
    let Some(gpu) = gpu() else { return };
    let tasks = pipeline(gpu.clone()).tuning_tasks(&request()).expect("sound");
    let keys: Vec<String> = tasks.iter().map(Task::key).collect();
    assert!(tasks.len() > 10, "{keys:?}");
    let distinct: std::collections::BTreeSet<&String> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
    let again = pipeline(gpu.clone()).tuning_tasks(&request()).expect("sound");
    assert_eq!(again.iter().map(Task::key).collect::<Vec<_>>(), keys);

    let choices = unusual(&tasks, &gpu);
    let mut pipeline = pipeline(gpu.with_choices(choices.clone()));
    let options = ProfileOptions { repeat: 1, clock: None };
    let profile = block_on(pipeline.profile(&request(), options)).expect("it runs");
    let names: Vec<&str> = choices.iter().map(|(_, variant)| variant).collect();
    let operations = profile.sections.iter().flat_map(|section| &section.operations);
    let (mut chosen, mut calls) = (0, 0);
    for operation in operations {
        let types: Vec<String> = operation.inputs.iter().map(ToString::to_string).collect();
        let on = format!(" on {}", types.join(", "));
        let of_these: Vec<&Task> = tasks.iter().filter(|task| task.key().ends_with(&on)).collect();
        if !of_these.is_empty() && names.contains(&operation.kernel) {
            chosen += 1;
        }
    }
    tasks.iter().for_each(|task| calls += task.calls);
    assert_eq!(chosen, calls, "every operation that there is a choice for");
}

#[test]
fn choices_are_kept_for_one_adapter_driver_and_set_of_shaders() {
    let Some(gpu) = gpu() else { return };
    let folder = std::env::temp_dir().join(format!("photogram-tuning-{}", std::process::id()));
    create_folder(&folder).expect("a folder");
    let identity = Identity::of(&gpu);
    let path = folder.join(identity.file_name());
    assert_eq!(identity.file_name(), Identity::of(&gpu).file_name());
    let read = |path: &Path, identity: &Identity| block_on(read_choices(path, identity));
    assert!(matches!(read(&path, &identity), Err(Error::NotFound { .. })));

    let mut choices = Choices::default();
    let product = [TensorType::f32([8, 8]), TensorType::f32([8, 8])];
    choices.insert(key(&MatMul::default(), &product), "matmul_register");
    write_bytes(&path, identity.to_json(&choices).to_string().as_bytes()).expect("written");
    assert_eq!(read(&path, &identity).expect("just written"), choices);

    type Change = (&'static str, fn(&mut Identity));
    let changed: [Change; 3] = [
        ("adapter", |identity| identity.adapter.push('x')),
        ("driver", |identity| identity.driver.push('x')),
        ("shaders", |identity| identity.shaders.push('x')),
    ];
    for (key, change) in changed {
        let mut other = identity.clone();
        change(&mut other);
        assert_ne!(other.file_name(), identity.file_name());
        let error = read(&path, &other).expect_err("another's").to_string();
        assert!(error.contains(&format!("key '{key}'")), "{error}");
    }
    let sound = identity.to_json(&choices);
    let without = |key: &str| {
        let mut value = sound.clone();
        value.as_object_mut().expect("an object").remove(key);
        value.to_string()
    };
    let with = |value: serde_json::Value| {
        let mut changed = sound.clone();
        changed["choices"] = value;
        changed.to_string()
    };
    for text in [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "\u{0}".repeat(100),
        sound.to_string()[..sound.to_string().len() / 2].to_owned(),
        without("driver"),
        without("choices"),
        with(1.into()),
        with(serde_json::json!({ "matmul": 1 })),
        with(serde_json::json!(["matmul"])),
    ] {
        write_bytes(&path, text.as_bytes()).expect("written");
        assert!(matches!(read(&path, &identity), Err(Error::Malformed { .. })), "{text}");
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}

//! Plans, from headers alone: what would be dispatched, over which buffers. No device is needed.

use std::collections::HashMap;
use std::fs;

use engine::graph::{Graph, Rate, Source, Value, ValueId, fuse};
use engine::models::{
    ClipText, ClipTextConfig, HiddenState, TextOutputs, UNet, UNetConfig, VaeKl, VaeKlConfig,
};
use engine::pipelines::{DenoiserShape, Model, Precision, build_denoiser};
use engine::plan::{Choice, Place, Plan, PlanStep, build_plan};
use engine::reference::run_reference;
use engine::tuning::{Choices, key};
use kernels::check::{Class, compare};
use kernels::{Bind, Caps, DType, Operand, Subgroups, TALLY_BYTES, TensorType};
use photogram_tests::recording::{on_host, recordings};
use photogram_tests::{fixture, stable_diffusion_1};
use pollster::block_on;

/// Dispatches of one evaluation of Stable Diffusion 1's denoiser; PyTorch launches 1,143 kernels.
const MOST_DISPATCHES: usize = 400;

#[test]
fn the_headers_are_those_of_stable_diffusion_1() {
    assert_eq!(stable_diffusion_1::unet().n_values(), 859_520_964);
    assert_eq!(stable_diffusion_1::vae().n_values(), 83_653_863);
    assert_eq!(stable_diffusion_1::text_encoder().n_values(), 123_060_480);
}

#[test]
fn a_guided_evaluation_of_stable_diffusion_1_takes_few_dispatches() {
    for (adapter, caps) in adapters() {
        for dtype in [DType::F32, DType::F16] {
            let plan = planned(&stable_diffusion_1_denoiser(64, dtype), &caps);
            let [load, prompt, step] = RATES.map(|rate| plan.dispatches(rate));
            println!("{adapter} {dtype}: {step} dispatches a step, {prompt} a prompt, {load} at load");
            assert!(step <= MOST_DISPATCHES, "{adapter} {dtype}");
            assert!(
                (3..10).contains(&prompt),
                "keys and values of the text, at three widths, wait for no step"
            );
            // Three widths of 22 residual blocks.
            let is_projection = |step: &&PlanStep| step.name.contains("time_emb_proj");
            let projections: Vec<&PlanStep> = plan.steps.iter().filter(is_projection).collect();
            assert_eq!(
                projections.len(),
                1,
                "{adapter} {dtype}: one product has all projections of the time"
            );
            assert_eq!(
                (*projections[0].output_type.shape).to_vec(),
                [2, 9 * 1280 + 5 * 640 + 5 * 320 + 3 * 1280]
            );
        }
    }
}

#[test]
fn a_denoiser_that_pads_one_side_is_built_from_its_smallest_latent_on() {
    let checkpoint = stable_diffusion_1::unet().checkpoint();
    let config = UNetConfig { downsample_padding: 0, ..UNetConfig::stable_diffusion_1() };
    let unet = UNet::new(config, &checkpoint, false);
    let least = unet.config.least_latent_edge();
    for (width, is_built) in [(least - 1, false), (least, true)] {
        let shape = DenoiserShape {
            height: 64,
            width,
            tokens: 77,
            guided: false,
            rescaled: false,
            dtype: DType::F32,
        };
        assert_eq!(build_denoiser(&unet, shape).is_ok(), is_built, "{width}");
    }
}

#[test]
fn every_binding_lies_in_its_tensor_and_within_the_limits() {
    for (adapter, caps) in adapters() {
        for program in programs() {
            let plan = planned(&program.graph, &caps);
            check_bindings(&plan, &caps).unwrap_or_else(|e| panic!("{} on {adapter}: {e}", program.name));
        }
    }
}

#[test]
fn the_dispatches_of_a_step_do_all_of_its_work_and_none_more_than_the_limit() {
    let (mut copies, mut in_bands) = (0, 0);
    let programs = programs().into_iter().filter(|program| program.large).collect::<Vec<_>>();
    for (adapter, caps) in adapters() {
        let caps = Caps { max_dispatch_flops: 8_000_000_000, ..caps };
        for step in programs.iter().flat_map(|program| planned(&program.graph, &caps).steps) {
            let name = format!("{} on {adapter}", step.name);
            let dispatches = &step.variant.dispatches;
            let work: Vec<u64> = (0..dispatches.len()).map(|i| step.dispatch_work(i)).collect();
            // Workgroups of a shader move the bytes together.
            let moving = 8 * step.cost.bytes;
            let groups =
                |i: usize| dispatches[i].grid.iter().map(|extent| u64::from(*extent)).product::<u64>();
            for (number, dispatch) in dispatches.iter().enumerate() {
                let alike = |i: &usize| dispatches[*i].shader == dispatch.shader;
                let alike: Vec<usize> = (0..dispatches.len()).filter(alike).collect();
                let share = groups(number) as f64 / alike.iter().map(|i| groups(*i)).sum::<u64>() as f64;
                let expected = (moving as f64 * share).floor().max(dispatch.tile_flops as f64);
                assert!(
                    (work[number] as f64 - expected).abs() <= 1.0,
                    "{name}: {} of {expected}",
                    work[number]
                );
                copies += usize::from(alike.len() < dispatches.len());
                in_bands += usize::from(alike.len() > 1 && dispatch.tile_flops == 0);
                assert!(dispatch.tile_flops <= caps.max_dispatch_flops, "{name}");
            }
            let sum: u64 = work.iter().sum();
            assert!(sum + dispatches.len() as u64 > step.cost.flops, "{name}: {sum} of {}", step.cost.flops);
        }
    }
    assert!(copies > 0 && in_bands > 0, "{copies} with a shader beside another, {in_bands} in bands");
}

#[test]
fn every_value_keeps_its_buffer_until_it_was_read() {
    for (adapter, caps) in adapters() {
        for program in programs() {
            let graph = fuse(&program.graph);
            let plan = build_plan(&graph, &caps, Choice::Fastest).expect("fits");
            check_lifetimes(&graph, &plan).unwrap_or_else(|e| panic!("{} on {adapter}: {e}", program.name));
            if program.large {
                let mib = |bytes: u64| bytes.div_ceil(1 << 20);
                let values: u64 = plan.steps.iter().map(|step| step.output_type.bytes()).sum();
                println!(
                    "{} on {adapter}: {} MiB in {} slots, the largest of {} MiB, for {} MiB of values",
                    program.name,
                    mib(plan.slot_bytes()),
                    plan.slots.len(),
                    mib(plan.slots.iter().copied().max().unwrap_or(0)),
                    mib(values)
                );
                assert!(plan.slot_bytes() < values / 4, "buffers are reused");
            }
        }
    }
}

#[test]
fn two_builds_give_the_same_plan() {
    let (first, second) = (programs(), programs());
    let caps = Caps::webgpu();
    for (a, b) in first.iter().zip(&second) {
        assert!(a.graph.to_string() == b.graph.to_string(), "{}: graphs differ", a.name);
        let [a_plan, b_plan] = [a, b].map(|program| planned(&program.graph, &caps));
        assert!(a_plan.to_string() == b_plan.to_string(), "{}: plans differ", a.name);
        assert!(format!("{a_plan:?}") == format!("{b_plan:?}"), "{}: dispatches differ", a.name);
    }
}

#[test]
fn a_measured_variant_is_taken_where_it_is_offered() {
    let graph = fuse(&stable_diffusion_1_denoiser(8, DType::F32));
    for (adapter, caps) in adapters() {
        let usual = build_plan(&graph, &caps, Choice::Fastest).expect("fits");
        let names = |plan: &Plan| plan.steps.iter().map(|step| step.variant.name).collect::<Vec<_>>();
        // One of the operations that can be computed in several ways.
        let offered = |step: &PlanStep| step.op.variants(&step.input_types, &caps).expect("planned");
        let step = usual.steps.iter().find(|step| offered(step).len() > 1).expect("a contraction");
        let chosen = offered(step)[0].name;
        assert_ne!(chosen, step.variant.name, "{adapter}: the first is not the last");
        let same = |other: &PlanStep| key(other.op.as_ref(), &other.input_types);
        let expected = usual.steps.iter().map(|other| match same(other) == same(step) {
            true => chosen,
            false => other.variant.name,
        });
        let mut choices = Choices::default();
        choices.insert(same(step), chosen);
        let plan = build_plan(&graph, &caps, Choice::Measured(&choices)).expect("fits");
        assert_eq!(names(&plan), expected.collect::<Vec<_>>(), "{adapter}");
        check_bindings(&plan, &caps).unwrap_or_else(|e| panic!("{adapter}: {e}"));
        check_lifetimes(&graph, &plan).unwrap_or_else(|e| panic!("{adapter}: {e}"));

        let mut foreign = Choices::default();
        foreign.insert(same(step), "a variant of another version");
        for choices in [foreign, Choices::default()] {
            let plan = build_plan(&graph, &caps, Choice::Measured(&choices)).expect("fits");
            assert_eq!(plan.to_string(), usual.to_string(), "{adapter}");
        }
    }
}

#[test]
fn fusing_keeps_results_and_removes_operations() {
    for recording in recordings() {
        let model = recording.model();
        for network in recording.networks(&model) {
            let mut graph = network.net.graph.clone();
            let last = network.blocks.last().expect("blocks were recorded");
            let middle = &network.blocks[network.blocks.len() / 2];
            for name in [middle, last] {
                graph.output(graph.find(name).expect("a block of ours"));
            }
            let fused = fuse(&graph);
            let named = |graph: &Graph| -> Vec<_> {
                graph
                    .outputs()
                    .iter()
                    .map(|id| graph.value(*id))
                    .map(|v| (v.name.clone(), v.ty.clone()))
                    .collect()
            };
            assert_eq!(named(&graph), named(&fused), "{} {}", recording.name, network.part);
            let [before, after] = [&graph, &fused].map(n_operations);
            println!("{:12} {:12} {before} operations, {after} fused", recording.name, network.part);
            assert!(after < before, "{} {}: nothing was fused", recording.name, network.part);

            let given = on_host(&graph, network.net.weights(), &network.given);
            let moved = graph.inputs().into_iter().zip(fused.inputs());
            let moved = moved.map(|(old, new)| (new, network.given[&old].clone())).collect();
            let moved = on_host(&fused, network.net.weights(), &moved);
            let expected = run_reference(&graph, &given, graph.outputs());
            let found = run_reference(&fused, &moved, fused.outputs());
            for (expected, found) in expected.iter().zip(&found) {
                let comparison = compare(expected, found, Class::Network, DType::F32);
                assert!(comparison.pass, "{} {}: {comparison:?}", recording.name, network.part);
            }
        }
    }
}

#[test]
fn a_plan_reads_as_text() {
    let model = tiny_model("latent_8");
    let latent = TensorType::f32([1, 2, 2, model.vae.config.latent_channels]);
    let (mut net, rgb) = model.vae.build_decoder(latent, DType::F32).expect("fixtures are sound");
    net.graph.output(rgb);
    insta::assert_snapshot!(planned(&net.graph, &Caps::webgpu()));
}

const RATES: [Rate; 3] = [Rate::Load, Rate::Prompt, Rate::Step];

/// Kinds of adapter that plans differ for.
fn adapters() -> [(&'static str, Caps); 4] {
    let subgroups = |lanes| Some(Subgroups { min: lanes, max: lanes });
    [
        ("WebGPU", Caps::webgpu()),
        (
            "software",
            Caps {
                subgroups: subgroups(8),
                max_dispatch_flops: Caps::SOFTWARE_DISPATCH_FLOPS,
                software: true,
                ..Caps::webgpu()
            },
        ),
        ("a GPU", Caps { subgroups: subgroups(32), max_binding_bytes: 1 << 31, ..Caps::webgpu() }),
        (
            "a GPU with matrix units",
            Caps {
                subgroups: subgroups(32),
                cooperative: Some(16),
                workgroup_bytes: 48 << 10,
                max_binding_bytes: 1 << 31,
                max_dispatch_flops: Caps::MATRIX_DISPATCH_FLOPS,
                ..Caps::webgpu()
            },
        ),
    ]
}

/// A graph that is compiled for a picture.
struct Program {
    name: String,
    graph: Graph,
    /// Whether it is of a model of real size.
    large: bool,
}

/// Every graph of Stable Diffusion 1 at two sizes, and of every model of the fixtures.
fn programs() -> Vec<Program> {
    let large = |name: String, graph| Program { name, graph, large: true };
    let mut programs = Vec::new();
    let checkpoint = stable_diffusion_1::text_encoder().checkpoint();
    let text = ClipText::new("text_encoder", ClipTextConfig::clip_vit_large(), &checkpoint, false);
    let text = text.expect("no tensor has two names");
    let last = TextOutputs { context: HiddenState::Last, pooled: false };
    programs.push(large("SD 1 text encoder".to_owned(), text_graph(&text, last, 2)));
    let vae = VaeKl::new(VaeKlConfig::stable_diffusion_1(), &stable_diffusion_1::vae().checkpoint(), false);
    let vae = vae.expect("no tensor has two names");
    for edge in [64, 96] {
        for dtype in [DType::F32, DType::F16] {
            let denoiser = stable_diffusion_1_denoiser(edge, dtype);
            programs.push(large(format!("SD 1 denoiser {edge} {dtype}"), denoiser));
        }
        programs.push(large(format!("SD 1 decoder {edge}"), decoder_graph(&vae, edge)));
        programs.push(large(format!("SD 1 encoder {edge}"), encoder_graph(&vae, edge)));
    }
    for name in tiny_models() {
        let model = tiny_model(&name);
        for dtype in [DType::F32, DType::F16] {
            let guided = dtype == DType::F32;
            let shape = DenoiserShape { height: 7, width: 5, tokens: 9, guided, rescaled: guided, dtype };
            let graph = build_denoiser(&model.unet, shape).expect("fixtures are sound");
            programs.push(Program { name: format!("{name} denoiser {dtype}"), graph, large: false });
        }
        for text in &model.text {
            let graph = text_graph(&text.network, text.outputs, 1);
            programs.push(Program { name: format!("{name} text encoder"), graph, large: false });
        }
        for (part, graph) in
            [("decoder", decoder_graph(&model.vae, 6)), ("encoder", encoder_graph(&model.vae, 6))]
        {
            programs.push(Program { name: format!("{name} {part}"), graph, large: false });
        }
    }
    programs
}

fn stable_diffusion_1_denoiser(edge: usize, dtype: DType) -> Graph {
    let checkpoint = stable_diffusion_1::unet().checkpoint();
    let unet = UNet::new(UNetConfig::stable_diffusion_1(), &checkpoint, false);
    let shape = DenoiserShape { height: edge, width: edge, tokens: 77, guided: true, rescaled: false, dtype };
    build_denoiser(&unet, shape).expect("the header has what the model asks for")
}

fn text_graph(text: &ClipText, outputs: TextOutputs, prompts: usize) -> Graph {
    let (mut net, results) = text
        .build(prompts, text.config.positions, DType::F32, outputs)
        .expect("the header has what the model asks for");
    results.iter().for_each(|result| net.graph.output(*result));
    net.graph
}

fn decoder_graph(vae: &VaeKl, edge: usize) -> Graph {
    let latent = TensorType::f32([1, edge, edge, vae.config.latent_channels]);
    let (mut net, rgb) =
        vae.build_decoder(latent, DType::F32).expect("the header has what the model asks for");
    net.graph.output(rgb);
    net.graph
}

fn encoder_graph(vae: &VaeKl, edge: usize) -> Graph {
    let edge = edge * vae.config.downscale();
    let (mut net, latent) = vae
        .build_encoder(TensorType::f32([1, edge, edge, 3]), DType::F32)
        .expect("the header has what the model asks for");
    net.graph.output(latent);
    net.graph
}

fn tiny_models() -> Vec<String> {
    let entries = fs::read_dir(fixture("pipelines")).expect("fixtures are readable");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("fixtures are readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "there are fixtures");
    names
}

fn tiny_model(name: &str) -> Model {
    let folder = fixture("pipelines").join(name).join("model");
    block_on(Model::open(&folder, None, Precision::F32)).expect("fixtures are sound")
}

fn planned(graph: &Graph, caps: &Caps) -> Plan {
    build_plan(&fuse(graph), caps, Choice::Fastest).expect("fits the adapter")
}

fn n_operations(graph: &Graph) -> usize {
    let is_computed = |v: &Value| matches!(v.source, Source::Node { .. }) && view(graph, v).is_none();
    graph.values().filter(|(_, v)| is_computed(v)).count()
}

/// Bytes of the buffer at a place.
fn capacity(plan: &Plan, place: Place) -> u64 {
    match place {
        Place::Input(i) => plan.inputs[i].1.bytes(),
        Place::Output(i) => plan.outputs[i].1.bytes(),
        Place::Param(i) => plan.params[i].1.bytes(),
        Place::Slot(i) => plan.slots[i],
    }
}

fn check_bindings(plan: &Plan, caps: &Caps) -> Result<(), String> {
    for step in &plan.steps {
        for (number, dispatch) in step.variant.dispatches.iter().enumerate() {
            let at = format!("dispatch {number} of {} '{}'", step.variant.name, step.name);
            if dispatch.params.len() > 16
                || dispatch.grid.iter().any(|n| *n == 0 || *n > caps.max_groups_per_axis)
            {
                return Err(format!(
                    "{at}: {} words of parameters, grid {:?}",
                    dispatch.params.len(),
                    dispatch.grid
                ));
            }
            for bind in &dispatch.binds {
                let (start, bytes) = operand(step, bind);
                let (offset, length) = step.window(bind);
                let fits = offset % caps.binding_alignment == 0
                    && (1..=caps.max_binding_bytes).contains(&length)
                    && offset >= start
                    && offset + length <= start + bytes
                    && start + bytes <= capacity(plan, step.place(bind));
                if !fits {
                    return Err(format!("{at}: {offset}+{length} of {start}+{bytes} bytes, {bind:?}"));
                }
                let shares =
                    |other: &&Bind| other.binding != bind.binding && step.place(other) == step.place(bind);
                if let (true, Some(other)) = (bind.write, dispatch.binds.iter().find(shares)) {
                    return Err(format!("{at}: {bind:?} is written and bound as {other:?}"));
                }
            }
        }
    }
    Ok(())
}

/// Where in its place an operand begins, and its bytes.
fn operand(step: &PlanStep, bind: &Bind) -> (u64, u64) {
    match bind.operand {
        Operand::Input(i) => (step.input_offsets[i], step.input_types[i].bytes()),
        Operand::Output => (0, step.output_type.bytes()),
        Operand::Scratch(i) => (0, step.variant.scratch[i].bytes()),
        Operand::Tally => (step.tally.expect("it has a place").1, TALLY_BYTES),
    }
}

/// Replays `plan` as a program does over several steps and prompts, noting which value is in each buffer: what an operation
/// finds in its operands' buffers must be the values that `graph` gives it.
fn check_lifetimes(graph: &Graph, plan: &Plan) -> Result<(), String> {
    let nodes = match_nodes(graph, plan)?;
    let mut held: HashMap<Place, ValueId> = HashMap::new();
    for (i, id) in graph.inputs().into_iter().enumerate() {
        held.insert(Place::Input(i), id);
    }
    for (i, (param, _)) in plan.params.iter().enumerate() {
        let id = graph.params().find(|(_, p)| *p == param).map(|(id, _)| id).ok_or("a weight of no graph")?;
        held.insert(Place::Param(i), id);
    }
    let (all, step, prompt): (&[Rate], &[Rate], &[Rate]) = (&RATES, &RATES[2..], &RATES[1..]);
    for rates in [all, step, step, prompt, step] {
        for (planned, id) in plan.steps.iter().zip(&nodes).filter(|(s, _)| rates.contains(&s.rate)) {
            run_step(graph, &nodes, planned, *id, &mut held)?;
        }
        for (i, id) in graph.outputs().iter().enumerate() {
            let (root, offset) = root(graph, &nodes, *id);
            let is_whole = offset == 0 && graph.ty(root).bytes() == graph.ty(*id).bytes();
            if held.get(&Place::Output(i)) != Some(&root) || !is_whole {
                return Err(format!("output {i} does not hold '{}'", graph.value(*id).name));
            }
        }
    }
    Ok(())
}

fn run_step(
    graph: &Graph,
    computed: &[ValueId],
    step: &PlanStep,
    id: ValueId,
    held: &mut HashMap<Place, ValueId>,
) -> Result<(), String> {
    let Source::Node { inputs, .. } = &graph.value(id).source else {
        return Err(format!("{id:?} is no node"));
    };
    for ((place, start), input) in step.inputs.iter().zip(&step.input_offsets).zip(inputs) {
        let found = held.get(place);
        let (root, offset) = root(graph, computed, *input);
        if found != Some(&root) || *start != offset {
            let found = found.map_or("nothing", |id| &graph.value(*id).name);
            let wanted = &graph.value(*input).name;
            return Err(format!("'{}' reads '{wanted}' and finds {found} from {start} on", step.name));
        }
    }
    let mut own: Vec<Place> = step.scratch.clone();
    own.push(step.output);
    for (i, place) in own.iter().enumerate() {
        if step.inputs.contains(place) || own[..i].contains(place) {
            return Err(format!("'{}' writes {place}, which it uses otherwise", step.name));
        }
        held.remove(place);
    }
    held.insert(step.output, id);
    Ok(())
}

/// The node of each step: the first of its name and operation that no step before it computes.
fn match_nodes(graph: &Graph, plan: &Plan) -> Result<Vec<ValueId>, String> {
    let mut waiting: HashMap<(String, String), Vec<ValueId>> = HashMap::new();
    for (id, value) in graph.values() {
        if let Source::Node { op, .. } = &value.source {
            waiting.entry((value.name.clone(), format!("{op:?}"))).or_default().push(id);
        }
    }
    let (rates, mut nodes) = (rates(graph), Vec::new());
    for step in &plan.steps {
        let key = (step.name.clone(), format!("{:?}", step.op));
        let found = waiting.get_mut(&key).filter(|ids| !ids.is_empty()).map(|ids| ids.remove(0));
        let id = found.ok_or_else(|| format!("'{}' is no operation of the graph", step.name))?;
        let slowest = rates[&id];
        if step.rate != slowest {
            return Err(format!(
                "'{}' runs at {:?}, its operands change at {slowest:?}",
                step.name, step.rate
            ));
        }
        nodes.push(id);
    }
    let is_view = |id: &ValueId| view(graph, graph.value(*id)).is_some();
    match waiting.into_values().flatten().find(|id| !is_view(id)) {
        Some(id) => Err(format!("'{}' is not computed", graph.value(id).name)),
        None => Ok(nodes),
    }
}

/// The value whose bytes `id` shows, and from which byte on, if only `computed` are computed.
fn root(graph: &Graph, computed: &[ValueId], id: ValueId) -> (ValueId, u64) {
    match (&graph.value(id).source, view(graph, graph.value(id))) {
        (Source::Node { inputs, .. }, Some(offset)) if !computed.contains(&id) => {
            let (root, start) = root(graph, computed, inputs[0]);
            (root, start + offset)
        }
        _ => (id, 0),
    }
}

/// Where a value's bytes may lie in its first operand's.
fn view(graph: &Graph, value: &Value) -> Option<u64> {
    let Source::Node { op, inputs } = &value.source else { return None };
    let types: Vec<TensorType> = inputs.iter().map(|id| graph.ty(*id).clone()).collect();
    op.view(&types)
}

/// How often each value changes.
fn rates(graph: &Graph) -> HashMap<ValueId, Rate> {
    let mut rates = HashMap::new();
    for (id, value) in graph.values() {
        let rate = match &value.source {
            Source::Input { rate } => *rate,
            Source::Param(_) => Rate::Load,
            Source::Node { inputs, .. } => inputs.iter().map(|i| rates[i]).max().unwrap_or(Rate::Load),
        };
        rates.insert(id, rate);
    }
    rates
}

#[test]
fn a_unet_without_padding_halves_with_a_row_and_a_column_behind() {
    let (checkpoint, config) = (stable_diffusion_1::unet().checkpoint(), UNetConfig::stable_diffusion_1());
    for (downsample_padding, padding) in [(0, "[0, 1, 0, 1]"), (1, "[1, 1, 1, 1]")] {
        let unet = UNet::new(UNetConfig { downsample_padding, ..config.clone() }, &checkpoint, false);
        let (guided, rescaled, dtype) = (false, false, DType::F32);
        let shape = DenoiserShape { height: 8, width: 8, tokens: 77, guided, rescaled, dtype };
        let graph = build_denoiser(&unet, shape).expect("the lists are complete");
        let id = graph.find("unet.down_blocks.0.downsamplers.0").expect("every level but the last is halved");
        let Source::Node { op, .. } = &graph.value(id).source else { panic!("a convolution") };
        let found = op.attributes().into_iter().find(|(name, _)| *name == "padding");
        assert_eq!(found.map(|(_, value)| value.to_string()).as_deref(), Some(padding));
    }
}

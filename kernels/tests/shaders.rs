//! Every shader of every case, without a device: it compiles for each API, and its dispatches keep the limits they promise.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::process::Command;

use naga::AddressSpace;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use photogram_kernels::ops::{self, Activate, Activation, Concat, Geglu, Slice, ToRgb, Upsample};
use photogram_kernels::{
    Caps, Case, DType, Dispatch, OpError, Operand, Shader, Subgroups, Target, TensorType, Variant,
};

const TARGETS: [Target; 2] = [
    Target { immediates: true, enable_subgroups: false },
    Target { immediates: false, enable_subgroups: false },
];

/// Words of `Params`: 64 bytes of immediates.
const MAX_PARAMS: usize = 16;
/// WebGPU's defaults, which the first variant of an operation keeps.
const SAFE_STORAGE_BUFFERS: usize = 8;
const SAFE_WORKGROUP_BYTES: u32 = 16 << 10;
const SAFE_INVOCATIONS: u32 = 256;

/// Adapters that differ in what kernels look at.
fn adapters() -> Vec<(&'static str, Caps)> {
    let subgroups = |size| Some(Subgroups { min: size, max: size });
    vec![
        ("webgpu", Caps::webgpu()),
        ("subgroups of 32", Caps { subgroups: subgroups(32), ..Caps::webgpu() }),
        (
            "cooperative matrices of 16",
            Caps {
                subgroups: subgroups(32),
                cooperative: Some(16),
                workgroup_bytes: 32 << 10,
                ..Caps::webgpu()
            },
        ),
        (
            "cooperative matrices of 8",
            Caps { subgroups: subgroups(8), cooperative: Some(8), software: true, ..Caps::webgpu() },
        ),
        ("software", Caps { subgroups: subgroups(8), software: true, ..Caps::webgpu() }),
        ("software without subgroups", Caps { software: true, ..Caps::webgpu() }),
        ("bindings of 16 KiB", Caps { max_binding_bytes: 16 << 10, ..Caps::webgpu() }),
        ("bindings of 2 KiB", Caps { max_binding_bytes: 2 << 10, binding_alignment: 32, ..Caps::webgpu() }),
        ("short dispatches", Caps { max_dispatch_flops: 20_000, ..Caps::webgpu() }),
        ("grids of 64", Caps { max_groups_per_axis: 64, ..Caps::webgpu() }),
    ]
}

/// The variants, or none if the case does not fit the adapter.
fn variants(case: &Case, caps: &Caps) -> Vec<Variant> {
    match case.op.variants(&case.inputs, caps) {
        Ok(variants) => variants,
        Err(OpError::TooLarge { .. }) => Vec::new(),
        Err(error) => panic!("{case:?}: {error}"),
    }
}

fn parse(shader: &Shader, target: Target) -> (naga::Module, ModuleInfo) {
    let text = shader.wgsl(target);
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|e| panic!("{shader:?}\n{}", e.emit_to_string(&text)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{shader:?}\n{}", e.emit_to_string(&text)));
    (module, info)
}

fn uses_cooperative_matrices(module: &naga::Module) -> bool {
    module.types.iter().any(|(_, ty)| matches!(ty.inner, naga::TypeInner::CooperativeMatrix { .. }))
}

fn write_for_every_api(module: &naga::Module, info: &ModuleInfo) -> Result<(), String> {
    use naga::back::{hlsl, msl, spv};
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    spv::write_vec(module, info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .map_err(|e| format!("MSL: {e}"))?;
    // naga has no words for them in HLSL.
    if uses_cooperative_matrices(module) {
        return Ok(());
    }
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        immediates_target: Some(hlsl::BindTarget::default()),
        ..hlsl::Options::default()
    };
    let pipeline = hlsl::PipelineOptions::default();
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

/// What a shader declares, to be held against what dispatches give it.
struct Interface {
    /// `(binding, written)` of group 0.
    storage: BTreeSet<(u32, bool)>,
    params_words: u32,
    workgroup_bytes: u32,
    invocations: u32,
}

impl Interface {
    fn of(module: &naga::Module) -> Self {
        let mut interface =
            Interface { storage: BTreeSet::new(), params_words: 0, workgroup_bytes: 0, invocations: 0 };
        for (_, global) in module.global_variables.iter() {
            let bytes = || module.types[global.ty].inner.size(module.to_ctx());
            match (global.space, &global.binding) {
                (AddressSpace::Storage { access }, Some(binding)) => {
                    assert_eq!(binding.group, 0, "storage lies in group 0");
                    let written = access.contains(naga::StorageAccess::STORE);
                    interface.storage.insert((binding.binding, written));
                }
                (AddressSpace::Immediate | AddressSpace::Uniform, _) => interface.params_words = bytes() / 4,
                (AddressSpace::WorkGroup, _) => interface.workgroup_bytes += bytes(),
                _ => {}
            }
        }
        let [x, y, z] = module.entry_points[0].workgroup_size;
        interface.invocations = x * y * z;
        interface
    }
}

#[test]
fn every_shader_compiles_for_every_api_with_immediates_and_without() {
    let mut seen: HashSet<Shader> = HashSet::new();
    for (_, caps) in adapters() {
        for case in ops::cases() {
            for dispatch in variants(&case, &caps).into_iter().flat_map(|v| v.dispatches) {
                if !seen.insert(dispatch.shader.clone()) {
                    continue;
                }
                for target in TARGETS {
                    let (module, info) = parse(&dispatch.shader, target);
                    if let Err(message) = write_for_every_api(&module, &info) {
                        panic!("{:?} with {target:?}: {message}", dispatch.shader);
                    }
                }
            }
        }
    }
    assert!(!seen.is_empty());
}

/// The modules in SPIR-V as Khronos's validator takes them, where it is installed: naga is no judge of itself.
///
/// `REQUIRE_SPIRV_VAL=1`, as `.ci/run` sets it, makes a missing one fail.
#[test]
fn every_shader_is_valid_to_spirv_val() {
    let Ok(version) = Command::new("spirv-val").arg("--version").output() else {
        assert!(
            std::env::var("REQUIRE_SPIRV_VAL").as_deref() != Ok("1"),
            "REQUIRE_SPIRV_VAL=1, but no spirv-val"
        );
        println!("skipped: no spirv-val");
        return;
    };
    // SPIRV-Tools v2023.1: it learned of cooperative matrices in v2023.4.
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let number: f64 = version.split_once('v').map_or(0.0, |(_, rest)| {
        rest.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
    });
    let folder = std::env::temp_dir().join(format!("photogram-spirv-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let (mut seen, mut files) = (HashSet::new(), Vec::new());
    for dispatch in adapters().iter().flat_map(|(_, caps)| {
        let cases = ops::cases();
        cases.iter().flat_map(|case| variants(case, caps)).flat_map(|v| v.dispatches).collect::<Vec<_>>()
    }) {
        if !seen.insert(dispatch.shader.clone()) {
            continue;
        }
        let (module, info) = parse(&dispatch.shader, TARGETS[0]);
        if uses_cooperative_matrices(&module) && number < 2023.4 {
            continue;
        }
        let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
        let words = naga::back::spv::write_vec(&module, &info, &options, None).expect("checked above");
        let path = folder.join(format!("{}.spv", files.len()));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        std::fs::write(&path, bytes).expect("written");
        files.push((path, dispatch.shader));
    }
    let mut broken = Vec::new();
    for (path, shader) in &files {
        let output = Command::new("spirv-val")
            .args(["--target-env", "vulkan1.1"])
            .arg(path)
            .output()
            .expect("it ran before");
        if !output.status.success() {
            broken.push(format!("{shader:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    std::fs::remove_dir_all(&folder).expect("removed");
    println!("{} modules, {} of {} shaders", files.len(), files.len(), seen.len());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(files.len() > 50);
}

fn operand_type<'a>(
    operand: Operand,
    case: &'a Case,
    output: &'a TensorType,
    variant: &'a Variant,
) -> &'a TensorType {
    match operand {
        Operand::Input(i) => &case.inputs[i],
        Operand::Output => output,
        Operand::Scratch(i) => &variant.scratch[i],
    }
}

/// Rules that every dispatch keeps; a message for each that this one breaks.
fn broken_rules(
    dispatch: &Dispatch,
    interface: &Interface,
    case: &Case,
    output: &TensorType,
    variant: &Variant,
    caps: &Caps,
) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, message: &dyn Fn() -> String| {
        if !holds {
            broken.push(message());
        }
    };
    let words = dispatch.params.len();
    rule(words <= MAX_PARAMS, &|| format!("{words} words of params"));
    rule(words == interface.params_words as usize, &|| {
        format!("{words} words of params, the shader declares {}", interface.params_words)
    });
    let grid = dispatch.grid;
    rule(grid.iter().all(|axis| (1..=caps.max_groups_per_axis).contains(axis)), &|| format!("grid {grid:?}"));
    let given: BTreeSet<(u32, bool)> = dispatch.binds.iter().map(|b| (b.binding, b.write)).collect();
    rule(given == interface.storage && given.len() == dispatch.binds.len(), &|| {
        format!("bindings {given:?}, the shader declares {:?}", interface.storage)
    });
    for bind in &dispatch.binds {
        let ty = operand_type(bind.operand, case, output, variant);
        let (offset, bytes) = bind.window.unwrap_or((0, ty.bytes()));
        rule(bytes > 0 && bytes % 4 == 0 && offset + bytes <= ty.bytes(), &|| format!("{bind:?} of {ty}"));
        rule(bytes <= caps.max_binding_bytes, &|| format!("{bind:?} of {ty} is over the limit"));
        rule(offset % caps.binding_alignment == 0, &|| format!("{bind:?} is not aligned"));
        let read_too = dispatch.binds.iter().any(|other| other.operand == bind.operand && !other.write);
        rule(!(bind.write && read_too), &|| format!("{bind:?} is also read"));
    }
    broken
}

/// Whether the windows of the output follow each other from its start to its end.
fn output_is_covered_once(variant: &Variant, output: &TensorType) -> bool {
    let mut windows: Vec<(u64, u64)> = variant
        .dispatches
        .iter()
        .flat_map(|d| &d.binds)
        .filter(|b| b.operand == Operand::Output)
        .map(|b| b.window.unwrap_or((0, output.bytes())))
        .collect();
    windows.sort_unstable();
    let end = windows.iter().try_fold(0, |end, (offset, bytes)| (*offset == end).then_some(end + bytes));
    end == Some(output.bytes())
}

#[test]
fn every_dispatch_keeps_the_limits_and_fits_its_shader() {
    let mut interfaces = std::collections::HashMap::new();
    let mut banded: BTreeSet<&str> = BTreeSet::new();
    for (adapter, caps) in adapters() {
        for case in ops::cases() {
            let output = case.op.infer(&case.inputs).unwrap_or_else(|e| panic!("{case:?}: {e}"));
            for (number, variant) in variants(&case, &caps).iter().enumerate() {
                let name = format!("{} of {case:?} on {adapter}", variant.name);
                if variant.dispatches.len() > 1 && variant.scratch.is_empty() {
                    banded.insert(case.op.name());
                }
                for dispatch in &variant.dispatches {
                    let interface = interfaces
                        .entry(dispatch.shader.clone())
                        .or_insert_with_key(|shader| Interface::of(&parse(shader, Target::NAGA).0));
                    let broken = broken_rules(dispatch, interface, &case, &output, variant, &caps);
                    assert!(broken.is_empty(), "{name}: {broken:?}");
                    assert!(caps.subgroups.is_some() || !dispatch.shader.subgroups, "{name}: subgroups");
                    if number == 0 {
                        assert!(!dispatch.shader.subgroups, "{name}: subgroups in the safe variant");
                        assert!(interface.storage.len() <= SAFE_STORAGE_BUFFERS, "{name}: storage buffers");
                        assert!(
                            interface.workgroup_bytes <= SAFE_WORKGROUP_BYTES,
                            "{name}: workgroup memory"
                        );
                        assert!(interface.invocations <= SAFE_INVOCATIONS, "{name}: invocations");
                    }
                }
                // Without windows, dispatches find their parts of the output by their parameters.
                let outputs = variant.dispatches.iter().flat_map(|dispatch| &dispatch.binds);
                let mut outputs = outputs.filter(|bind| bind.operand == Operand::Output);
                if variant.scratch.is_empty() && outputs.any(|bind| bind.window.is_some()) {
                    assert!(output_is_covered_once(variant, &output), "{name}: windows of the output");
                }
            }
        }
    }
    for op in ["activate", "concat", "geglu", "permute", "scale", "slice", "upsample"] {
        assert!(banded.contains(op), "no case of {op} was split: {banded:?}");
    }
}

#[test]
fn a_dispatch_that_breaks_a_rule_is_found() {
    let case = Case::new(Activate(Activation::Silu), [TensorType::f32([64, 64])]);
    let caps = Caps { max_binding_bytes: 8 << 10, ..Caps::webgpu() };
    let variant = variants(&case, &caps).remove(0);
    let output = case.inputs[0].clone();
    let interface = Interface::of(&parse(&variant.dispatches[0].shader, Target::NAGA).0);
    let broken = |spoil: &dyn Fn(&mut Dispatch)| {
        let mut dispatch = variant.dispatches[1].clone();
        spoil(&mut dispatch);
        broken_rules(&dispatch, &interface, &case, &output, &variant, &caps).len()
    };
    assert_eq!(broken(&|_| {}), 0);
    assert!(broken(&|d| d.params.push(0)) > 0);
    assert!(broken(&|d| d.grid[1] = 65_536) > 0);
    assert!(broken(&|d| d.grid[0] = 0) > 0);
    assert!(broken(&|d| d.binds[1].write = false) > 0);
    assert!(broken(&|d| d.binds[0].binding = 5) > 0);
    assert!(broken(&|d| d.binds[0].operand = Operand::Output) > 0);
    assert!(broken(&|d| d.binds[0].window = None) > 0);
    assert!(broken(&|d| d.binds[0].window = Some((16, 256))) > 0);
    assert!(broken(&|d| d.binds[0].window = Some((16 << 10, 256))) > 0);

    assert!(output_is_covered_once(&variant, &output));
    let mut gap = variant.clone();
    gap.dispatches.remove(1);
    assert!(!output_is_covered_once(&gap, &output));
    let mut twice = variant.clone();
    twice.dispatches.push(variant.dispatches[0].clone());
    assert!(!output_is_covered_once(&twice, &output));
}

/// Classes of size that the cases of each operation must contain, and those they lack.
fn missing_classes(cases: &[Case]) -> Vec<String> {
    type Holds = fn(&Case) -> bool;
    let classes: [(&str, Holds); 6] = [
        ("a single element", |c| {
            let result = c.op.infer(&c.inputs).ok();
            c.inputs.iter().chain(&result).any(|ty| ty.shape.elements() == 1)
        }),
        ("an extent under a tile", |c| extents(c).any(|n| (2..8).contains(&n))),
        ("an extent one off a tile", |c| {
            extents(c).any(|n| [8, 16, 32, 64, 128, 256].iter().any(|tile| n + 1 == *tile || n == tile + 1))
        }),
        ("an odd extent", |c| extents(c).any(|n| n > 1 && n % 2 == 1)),
        ("channels that are not a multiple of 4", |c| {
            c.inputs.iter().any(|ty| ty.channels() > 4 && ty.channels() % 4 != 0)
        }),
        ("f16", |c| c.inputs.iter().any(|ty| ty.dtype == DType::F16)),
    ];
    let mut by_op: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        by_op.entry(case.op.name()).or_default().push(case);
    }
    let mut missing = Vec::new();
    for (op, cases) in by_op {
        for (class, holds) in classes {
            if !cases.iter().any(|case| holds(case)) {
                missing.push(format!("{op}: {class}"));
            }
        }
    }
    missing
}

fn extents(case: &Case) -> impl Iterator<Item = usize> {
    case.inputs.iter().flat_map(|ty| ty.shape.iter().copied())
}

#[test]
fn the_cases_of_every_operation_contain_every_class_of_size() {
    let missing = missing_classes(&ops::cases());
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_class_of_size_that_is_lacking_is_named() {
    let one = Case::new(Activate(Activation::Silu), [TensorType::f32([64, 64])]);
    assert_eq!(missing_classes(&[one]).len(), 6);
}

#[test]
fn more_workgroups_than_an_axis_holds_are_folded() {
    let x = TensorType::f32([65_535 * 64 + 1, 4]);
    let case = Case::new(Activate(Activation::Silu), [x.clone()]);
    let dispatches = variants(&case, &Caps::webgpu()).remove(0).dispatches;
    let [dispatch] = &dispatches[..] else { panic!("{} dispatches", dispatches.len()) };
    let [width, height, depth] = dispatch.grid;
    assert!(width <= 65_535 && height == 2 && depth == 1, "{:?}", dispatch.grid);
    assert!(u64::from(width) * u64::from(height) * 64 >= (x.rows() * x.quads()) as u64);
}

#[test]
fn what_a_decoder_does_at_512_fits_the_default_binding_limit() {
    let image = |side: usize, channels: usize| TensorType::f32([1, side, side, channels]);
    let cases = [
        Case::new(Activate(Activation::Silu), [image(512, 256)]),
        Case::new(Upsample { height: 512, width: 512 }, [image(256, 256)]),
        Case::new(Concat { axis: 3 }, [image(512, 128), image(512, 130)]),
        Case::new(Concat { axis: 1 }, [image(512, 128), image(512, 128)]),
        Case::new(Slice { axis: 1, start: 3, length: 509 }, [image(512, 256)]),
        Case::new(Geglu::HALVES, [image(512, 512)]),
        Case::new(ToRgb, [image(4096, 3)]),
    ];
    let caps = Caps::webgpu();
    for case in cases {
        let output = case.op.infer(&case.inputs).expect("a valid case");
        let variant = case.op.variants(&case.inputs, &caps).expect("bands fit").remove(0);
        assert!(variant.dispatches.len() > 1, "{case:?}");
        assert!(output_is_covered_once(&variant, &output), "{case:?}");
        for dispatch in &variant.dispatches {
            let interface = Interface::of(&parse(&dispatch.shader, Target::NAGA).0);
            let broken = broken_rules(dispatch, &interface, &case, &output, &variant, &caps);
            assert!(broken.is_empty(), "{case:?}: {broken:?}");
        }
    }
}

//! Every shader of every case, without a device: it compiles for each API, and its dispatches keep the limits they promise.

mod translation;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use naga::AddressSpace;
use photogram_kernels::ops::{self, Activate, Activation, Concat, Geglu, Slice, ToRgb, Upsample};
use photogram_kernels::{
    Caps, Case, DType, Dispatch, Operand, Shader, TALLY_BYTES, Target, TensorType, Variant,
};
use translation::{SpirvVal, adapters, hlsl, msl, parse, spirv, uses_cooperative_matrices, variants};

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
                    let written = spirv(&module, &info).and_then(|_| msl(&module, &info));
                    let written = written.and_then(|()| match uses_cooperative_matrices(&module) {
                        true => Ok(()),
                        false => hlsl(&module, &info),
                    });
                    if let Err(message) = written {
                        panic!("{:?} with {target:?}: {message}", dispatch.shader);
                    }
                }
            }
        }
    }
    assert!(!seen.is_empty());
}

#[test]
fn every_shader_is_valid_to_spirv_val() {
    let Some(spirv_val) = SpirvVal::find() else { return };
    let (mut seen, mut checked, mut broken) = (HashSet::new(), 0, Vec::new());
    for (_, caps) in adapters() {
        for dispatch in ops::cases().iter().flat_map(|case| variants(case, &caps)).flat_map(|v| v.dispatches)
        {
            if !seen.insert(dispatch.shader.clone()) {
                continue;
            }
            let (module, info) = parse(&dispatch.shader, TARGETS[0]);
            if !spirv_val.knows(&module) {
                continue;
            }
            checked += 1;
            if let Err(message) = spirv(&module, &info).and_then(|words| spirv_val.check(&words)) {
                broken.push(format!("{:?}: {message}", dispatch.shader));
            }
        }
    }
    assert!(spirv_val.check(&[0x0723_0203]).is_err(), "a magic number is no module");
    println!("{checked} of {} modules, spirv-val v{}", seen.len(), spirv_val.version);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(checked > 50);
}

/// A variable without one is zero whenever its declaration is reached; Tint makes it so once, and not in every round of a loop.
#[test]
fn every_local_variable_has_an_initial_value() {
    let mut seen = HashSet::new();
    for (adapter, caps) in adapters() {
        for dispatch in ops::cases().iter().flat_map(|case| variants(case, &caps)).flat_map(|v| v.dispatches)
        {
            if !seen.insert(dispatch.shader.clone()) {
                continue;
            }
            let text = dispatch.shader.wgsl(TARGETS[0]);
            for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
                let variables = line.split("var ").skip(1).filter_map(|rest| rest.split(';').next());
                let bare: Vec<&str> = variables.filter(|variable| !variable.contains('=')).collect();
                assert!(bare.is_empty(), "{} on {adapter}: {bare:?}", dispatch.shader.file);
            }
        }
    }
}

/// The table of RELIABILITY.md says of every variant what has been checked of it; `.ci/run dawn` prints it.
#[test]
fn the_page_on_reliability_has_a_row_for_every_variant() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../RELIABILITY.md"));
    let page = page.expect("it is readable").replace("\r\n", "\n");
    let (_, table) = page.split_once("\n| variant | SPIR-V |").expect("the table has this head");
    let (table, _) = table.split_once("\n\n").expect("it ends");
    let rows: BTreeSet<&str> =
        table.lines().skip(2).filter_map(|row| row.split('|').nth(1)).map(str::trim).collect();
    let names: BTreeSet<&str> = adapters()
        .iter()
        .flat_map(|(_, caps)| ops::cases().into_iter().flat_map(move |case| variants(&case, caps)))
        .map(|variant| variant.name)
        .collect();
    let missing: Vec<&&str> = names.difference(&rows).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    let unknown: Vec<&&str> = rows.difference(&names).collect();
    assert!(unknown.is_empty(), "no variant is called {unknown:?}");
}

fn operand_bytes(operand: Operand, case: &Case, output: &TensorType, variant: &Variant) -> u64 {
    match operand {
        Operand::Input(i) => case.inputs[i].bytes(),
        Operand::Output => output.bytes(),
        Operand::Scratch(i) => variant.scratch[i].bytes(),
        Operand::Tally => TALLY_BYTES,
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
        let whole = operand_bytes(bind.operand, case, output, variant);
        let (offset, bytes) = bind.window.unwrap_or((0, whole));
        rule(bytes > 0 && bytes % 4 == 0 && offset + bytes <= whole, &|| {
            format!("{bind:?} of {whole} bytes")
        });
        rule(bytes <= caps.max_binding_bytes, &|| format!("{bind:?} is over the limit"));
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
                    assert!(interface.workgroup_bytes <= caps.workgroup_bytes, "{name}: workgroup memory");
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

/// They count what they declare, to the byte: with a byte less, another tile or another kernel takes over.
#[test]
fn kernels_on_matrix_units_know_their_workgroup_memory() {
    let mut seen: HashSet<Shader> = HashSet::new();
    for (adapter, caps) in adapters().into_iter().filter(|(_, caps)| caps.cooperative.is_some()) {
        for case in ops::cases() {
            let shaders_within = |workgroup_bytes: u32| -> Vec<Shader> {
                let variants = variants(&case, &Caps { workgroup_bytes, ..caps.clone() });
                let dispatches = variants.into_iter().flat_map(|variant| variant.dispatches);
                dispatches.map(|dispatch| dispatch.shader).collect()
            };
            for shader in shaders_within(caps.workgroup_bytes) {
                if !shader.file.ends_with("_cooperative") || !seen.insert(shader.clone()) {
                    continue;
                }
                let bytes = Interface::of(&parse(&shader, Target::NAGA).0).workgroup_bytes;
                assert!(shaders_within(bytes).contains(&shader), "{shader:?} on {adapter} takes {bytes}");
                assert!(
                    !shaders_within(bytes - 1).contains(&shader),
                    "{shader:?} on {adapter} takes {bytes}"
                );
            }
        }
    }
    let files: BTreeSet<&str> = seen.iter().map(|shader| shader.file).collect();
    assert_eq!(files.into_iter().collect::<Vec<_>>(), ["attention_cooperative", "matmul_cooperative"]);
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

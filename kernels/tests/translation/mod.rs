//! What naga makes of a shader for each API, and which shaders there are. Shared by tests of two crates.

use std::io::Write as _;
use std::process::{Command, Stdio};

use naga::Module;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use photogram_kernels::{Caps, Case, OpError, Shader, Subgroups, Target, Variant};

/// Adapters that differ in what kernels look at.
pub(crate) fn adapters() -> Vec<(&'static str, Caps)> {
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
        ("an integrated GPU", Caps { cores: Caps::INTEGRATED_CORES, ..Caps::webgpu() }),
        ("software", Caps { subgroups: subgroups(8), software: true, ..Caps::webgpu() }),
        ("software without subgroups", Caps { software: true, ..Caps::webgpu() }),
        ("bindings of 16 KiB", Caps { max_binding_bytes: 16 << 10, ..Caps::webgpu() }),
        ("bindings of 2 KiB", Caps { max_binding_bytes: 2 << 10, binding_alignment: 32, ..Caps::webgpu() }),
        ("short dispatches", Caps { max_dispatch_flops: 20_000, ..Caps::webgpu() }),
        ("grids of 64", Caps { max_groups_per_axis: 64, ..Caps::webgpu() }),
    ]
}

/// The variants, or none if the case does not fit the adapter.
pub(crate) fn variants(case: &Case, caps: &Caps) -> Vec<Variant> {
    match case.op.variants(&case.inputs, caps) {
        Ok(variants) => variants,
        Err(OpError::TooLarge { .. }) => Vec::new(),
        Err(error) => panic!("{case:?}: {error}"),
    }
}

pub(crate) fn parse(shader: &Shader, target: Target) -> (Module, ModuleInfo) {
    let text = shader.wgsl(target);
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|e| panic!("{shader:?}\n{}", e.emit_to_string(&text)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{shader:?}\n{}", e.emit_to_string(&text)));
    (module, info)
}

pub(crate) fn uses_cooperative_matrices(module: &Module) -> bool {
    module.types.iter().any(|(_, ty)| matches!(ty.inner, naga::TypeInner::CooperativeMatrix { .. }))
}

pub(crate) fn spirv(module: &Module, info: &ModuleInfo) -> Result<Vec<u32>, String> {
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    naga::back::spv::write_vec(module, info, &options, None).map_err(|e| format!("SPIR-V: {e}"))
}

pub(crate) fn msl(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let options = naga::back::msl::Options { lang_version: (2, 4), ..Default::default() };
    naga::back::msl::write_string(module, info, &options, &Default::default())
        .map_err(|e| format!("MSL: {e}"))?;
    Ok(())
}

/// Not for cooperative matrices: naga has no words for them in HLSL.
pub(crate) fn hlsl(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    use naga::back::hlsl;
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        immediates_target: Some(hlsl::BindTarget::default()),
        ..hlsl::Options::default()
    };
    let (pipeline, mut text) = (hlsl::PipelineOptions::default(), String::new());
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

/// Khronos's validator: naga is no judge of itself.
pub(crate) struct SpirvVal {
    /// As it says it, such as `2023.1`.
    pub(crate) version: String,
}

impl SpirvVal {
    /// The one that is installed.
    ///
    /// `REQUIRE_SPIRV_VAL=1`, as `.ci/run` sets it, makes a missing one fail.
    pub(crate) fn find() -> Option<SpirvVal> {
        let Ok(output) = Command::new("spirv-val").arg("--version").output() else {
            assert!(
                std::env::var("REQUIRE_SPIRV_VAL").as_deref() != Ok("1"),
                "REQUIRE_SPIRV_VAL=1, but no spirv-val"
            );
            println!("skipped: no spirv-val");
            return None;
        };
        // SPIRV-Tools v2023.1 unknown hash, 2023-02-10
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().find_map(|word| word.strip_prefix('v'));
        Some(SpirvVal { version: version.expect("it says its version").to_owned() })
    }

    /// Whether it knows all of the module's instructions: of cooperative matrices it learned in 2023.4.
    pub(crate) fn knows(&self, module: &Module) -> bool {
        let number: f64 = self.version.parse().unwrap_or(0.0);
        !uses_cooperative_matrices(module) || number >= 2023.4
    }

    pub(crate) fn check(&self, words: &[u32]) -> Result<(), String> {
        match judge(words, "vulkan1.1") {
            // Newer ones mind strides in workgroup memory, which naga 30 writes, say so first and stop: the rest is then held to
            // SPIR-V's rules without Vulkan's, to which older ones hold it.
            Err(said) if said.contains(WORKGROUP_LAYOUT) && said.contains("Workgroup") => {
                judge(words, "spv1.3")
            }
            judged => judged,
        }
    }
}

/// What a type with an explicit layout breaks that is used where Vulkan 1.1 lays out by itself.
const WORKGROUP_LAYOUT: &str = "VUID-StandaloneSpirv-None-10684";

fn judge(words: &[u32], environment: &str) -> Result<(), String> {
    let mut child = Command::new("spirv-val")
        .args(["--target-env", environment, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it ran before");
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    child.stdin.take().expect("piped").write_all(&bytes).expect("it reads all of it");
    let output = child.wait_with_output().expect("it ends");
    let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    if output.status.success() { Ok(()) } else { Err(format!("spirv-val: {said}{complained}")) }
}

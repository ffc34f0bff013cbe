//! What tests share: a device that is opened once, data that may be absent, and a failure's line.

pub mod recording;
pub mod stable_diffusion_1;
mod tiny;

pub use tiny::{draw_tiny, tiny_request};

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use engine::device::{AdapterChoice, Gpu, GpuOptions, Program};
use engine::graph::{Graph, Rate};
use engine::plan::{Choice, build_plan};
use engine::validate::Verdict;
use kernels::{Case, HostTensor};

/// The device of the tests, or `None` with a line printed when this machine has no adapter.
///
/// `PHOTOGRAM_ADAPTER` chooses one, as `--adapter` does. With `REQUIRE_GPU=1` a missing adapter fails the test.
pub fn gpu() -> Option<Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| open(GpuOptions::default())).clone()
}

/// Another device on the same adapter, opened with `options`.
pub fn gpu_with(options: GpuOptions) -> Option<Gpu> {
    open(options)
}

fn open(options: GpuOptions) -> Option<Gpu> {
    let adapter = std::env::var("PHOTOGRAM_ADAPTER").map_or(AdapterChoice::Auto, |name| {
        name.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
    });
    // Those that are claimed fail their probe.
    let may_have_units = !options.webgpu_only && options.claimed_cooperative.is_none();
    let needs_units = may_have_units && std::env::var("REQUIRE_MATRIX_UNITS").as_deref() == Ok("1");
    match pollster::block_on(Gpu::open_with(GpuOptions { adapter, ..options })) {
        Ok(gpu) => {
            // Units that fail their probe stay idle, and kernels for them would go unseen.
            assert!(
                !needs_units || gpu.caps().cooperative.is_some(),
                "REQUIRE_MATRIX_UNITS=1: {:?}",
                gpu.notes()
            );
            Some(gpu)
        }
        Err(error) if std::env::var_os("REQUIRE_GPU").is_some_and(|v| v == "1") => {
            panic!("REQUIRE_GPU=1, but: {error}")
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// What each variant makes of `operands`.
pub fn run_variants(gpu: &Gpu, case: &Case, operands: &[HostTensor]) -> Vec<HostTensor> {
    let mut graph = Graph::new();
    let ids: Vec<_> = case.inputs.iter().map(|ty| graph.input("operand", ty.clone(), Rate::Step)).collect();
    let result = graph.apply_arc(case.op.name(), case.op.clone(), &ids).expect("a valid case");
    graph.output(result);
    let variants = case.op.variants(&case.inputs, gpu.caps()).expect("the case fits").len();
    pollster::block_on(async {
        let mut found = Vec::new();
        for number in 0..variants {
            let plan = build_plan(&graph, gpu.caps(), Choice::Number(number)).expect("a plan");
            let program = Program::compile(gpu, plan, Vec::new()).expect("pipelines");
            let mut uploaded = Vec::new();
            for operand in operands {
                uploaded.push(gpu.upload_new("operand", operand).await.expect("an upload"));
            }
            let to = gpu.allocate("result", graph.ty(result).clone()).expect("memory");
            program.run(gpu, &[Rate::Step], &uploaded, std::slice::from_ref(&to)).await.expect("a run");
            found.push(gpu.read(&to).await.expect("a result"));
        }
        found
    })
}

/// A verdict as a failure's line.
pub fn described(verdict: &Verdict) -> String {
    let types: Vec<String> = verdict.inputs.iter().map(ToString::to_string).collect();
    format!(
        "{} on {} ({}; {}): {:?}, padding zero: {}",
        verdict.variant,
        types.join(" "),
        verdict.attributes,
        verdict.hard.name(),
        verdict.comparison,
        verdict.padding_is_zero
    )
}

/// A folder of the test data, or `None` with a line printed when it is not there.
///
/// `PHOTOGRAM_DATA` names the data, `../shared/data` beside the workspace otherwise.
pub fn data(folder: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("PHOTOGRAM_DATA").map_or_else(|| workspace().join("../shared/data"), PathBuf::from);
    let path = root.join(folder);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {} (PHOTOGRAM_DATA names the data)", path.display());
    None
}

/// A file or folder of `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    workspace().join("tests/fixtures").join(path)
}

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(PathBuf::from)
        .expect("tests/ lies in the workspace")
}

/// Copies everything in `from` into the folder `to`, which is made if it is not there.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("a folder") {
        let path = entry.expect("its entries can be listed").path();
        let target = to.join(path.file_name().expect("entries have names"));
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("a file")),
        }
    }
}

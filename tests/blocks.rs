//! Every block of every network against PyTorch, on the CPU reference and on this machine's adapter.
//!
//! A failure names the first diverging block by PyTorch's module path. `BLOCKS=sd1_layout` runs one fixture alone.

use engine::device::Gpu;
use engine::graph::{Rate, ValueId};
use engine::reference::run_reference;
use kernels::check::{Class, compare};
use kernels::{DType, HostTensor};
use photogram_tests::gpu;
use photogram_tests::recording::{Network, Recording, on_host, recordings};
use pollster::block_on;

#[test]
fn every_block_agrees_on_the_cpu_reference() {
    for recording in chosen() {
        check(&recording, &|network, wanted| {
            let given = on_host(&network.net.graph, network.net.weights(), &network.given);
            run_reference(&network.net.graph, &given, wanted)
        });
    }
}

#[test]
fn every_block_agrees_on_the_adapter() {
    let Some(gpu) = gpu() else { return };
    for recording in chosen() {
        check(&recording, &|network, wanted| on_device(&gpu, network, wanted));
    }
}

type Run<'a> = &'a dyn Fn(&Network<'_>, &[ValueId]) -> Vec<HostTensor>;

fn check(recording: &Recording, run: Run<'_>) {
    let model = recording.model();
    let mut compared = 0;
    for network in recording.networks(&model) {
        let graph = &network.net.graph;
        let find = |name: &String| graph.find(name).unwrap_or_else(|| panic!("our graph has no '{name}'"));
        let wanted: Vec<ValueId> = network.blocks.iter().map(find).collect();
        for (name, found) in network.blocks.iter().zip(run(&network, &wanted)) {
            let expected = recording.tensor(name, found.ty());
            let comparison = compare(&expected, &found, Class::Network, DType::F32);
            println!("{} {name} {:.1e}", recording.name, comparison.centred_nmse);
            assert!(
                comparison.pass,
                "{}: '{name}' is the first block that differs: {comparison:?}",
                recording.name
            );
            compared += 1;
        }
    }
    assert_eq!(compared, recording.n_blocks(), "{}: blocks compared", recording.name);
}

fn on_device(gpu: &Gpu, network: &Network<'_>, wanted: &[ValueId]) -> Vec<HostTensor> {
    let mut graph = network.net.graph.clone();
    wanted.iter().for_each(|id| graph.output(*id));
    let inputs = graph.inputs();
    block_on(async {
        let program =
            engine::compile(gpu, &graph, network.net.weights()).await.expect("fixtures fit every adapter");
        let mut uploaded = Vec::new();
        for id in &inputs {
            uploaded.push(gpu.upload_new("input", &network.given[id]).await.expect("small"));
        }
        let outputs: Vec<_> =
            wanted.iter().map(|id| gpu.allocate("output", graph.ty(*id).clone()).expect("small")).collect();
        program.run(gpu, &[Rate::Load, Rate::Prompt, Rate::Step], &uploaded, &outputs).await.expect("runs");
        let mut read = Vec::new();
        for output in &outputs {
            read.push(gpu.read(output).await.expect("runs"));
        }
        read
    })
}

fn chosen() -> Vec<Recording> {
    let only = std::env::var("BLOCKS").ok();
    let mut chosen = recordings();
    chosen.retain(|recording| only.as_deref().is_none_or(|only| recording.name == only));
    assert!(!chosen.is_empty(), "there are recordings");
    chosen
}

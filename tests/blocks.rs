//! Every block of every network against PyTorch, on the CPU reference and on this machine's adapter.
//!
//! A failure names the first diverging block by PyTorch's module path. `BLOCKS=sd1_layout` runs one fixture alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engine::device::Gpu;
use engine::graph::{Rate, ValueId};
use engine::models::{ClipText, UNet, VaeKl};
use engine::nn::Net;
use engine::pipelines::{Model, Precision};
use engine::reference::run_reference;
use kernels::check::{Class, compare};
use kernels::{DType, HostTensor, TensorType};
use loaders::Checkpoint;
use loaders::safetensors::Limits;
use photogram_tests::{fixture, gpu};
use pollster::block_on;

#[test]
fn every_block_agrees_on_the_cpu_reference() {
    for recording in recordings() {
        check(&recording, &|net, given, wanted| on_host(net, given, wanted));
    }
}

#[test]
fn every_block_agrees_on_the_adapter() {
    let Some(gpu) = gpu() else { return };
    for recording in recordings() {
        check(&recording, &|net, given, wanted| on_device(&gpu, net, given, wanted));
    }
}

/// Tensors that PyTorch recorded while one model ran.
struct Recording {
    name: String,
    tensors: Checkpoint,
    order: Vec<String>,
    model: PathBuf,
}

/// Module paths that are no value of our graphs: time embeddings' sinusoids and token embeddings are made on the host and
/// checked as inputs, and an activation after a norm has no name of its own.
const ON_HOST: [&str; 3] = ["unet.time_proj", "text_encoder.embeddings", "conv_act"];

type Run<'a> = &'a dyn Fn(&Net<'_>, &HashMap<ValueId, HostTensor>, &[ValueId]) -> Vec<HostTensor>;

fn check(recording: &Recording, run: Run<'_>) {
    let model = block_on(Model::open(&recording.model, Precision::F32)).expect("fixtures are sound");
    let mut compared = Vec::new();
    for (parts, (net, given)) in [
        (["text_encoder."; 2], text_net(recording, &model.text)),
        (["unet."; 2], unet_net(recording, &model.unet)),
        (["vae.encoder.", "vae.quant_conv"], encoder_net(recording, &model.vae)),
        (["vae.decoder.", "vae.post_quant_conv"], decoder_net(recording, &model.vae)),
    ] {
        let names: Vec<&String> = recording
            .order
            .iter()
            .filter(|n| parts.iter().any(|part| n.starts_with(part)))
            .filter(|n| !ON_HOST.iter().any(|host| n.ends_with(host)))
            .collect();
        let wanted: Vec<ValueId> = names
            .iter()
            .map(|n| {
                net.graph.find(n).unwrap_or_else(|| panic!("{}: our graph has no '{n}'", recording.name))
            })
            .collect();
        for (name, found) in names.iter().zip(run(&net, &given, &wanted)) {
            let expected = recording.tensor(name, found.ty());
            let comparison = compare(&expected, &found, Class::Network, DType::F32);
            println!("{} {name} {:.1e}", recording.name, comparison.centred_nmse);
            assert!(
                comparison.pass,
                "{}: '{name}' is the first block that differs: {comparison:?}",
                recording.name
            );
            compared.push((*name).clone());
        }
    }
    let expected = recording.order.iter().filter(|n| !ON_HOST.iter().any(|host| n.ends_with(host))).count();
    assert_eq!(compared.len(), expected, "{}: blocks compared", recording.name);
}

fn on_host(net: &Net<'_>, given: &HashMap<ValueId, HostTensor>, wanted: &[ValueId]) -> Vec<HostTensor> {
    let mut given = given.clone();
    for (id, param) in net.graph.params() {
        let tensor = block_on(net.weights().on_host(param, net.graph.ty(id))).expect("fixtures are sound");
        given.insert(id, tensor);
    }
    run_reference(&net.graph, &given, wanted)
}

fn on_device(
    gpu: &Gpu,
    net: &Net<'_>,
    given: &HashMap<ValueId, HostTensor>,
    wanted: &[ValueId],
) -> Vec<HostTensor> {
    let mut graph = net.graph.clone();
    wanted.iter().for_each(|id| graph.output(*id));
    let inputs = graph.inputs();
    block_on(async {
        let program = engine::compile(gpu, &graph, net.weights()).await.expect("fixtures fit every adapter");
        let mut uploaded = Vec::new();
        for id in &inputs {
            uploaded.push(gpu.upload_new("input", &given[id]).await.expect("small"));
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

fn text_net<'m>(recording: &Recording, text: &'m ClipText) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
    let ids = recording.ids("input.text_encoder.input_ids");
    let embedded = block_on(text.embed(&ids)).expect("fixtures are sound");
    let (net, _) = text.build(ids.len(), ids[0].len(), DType::F32).expect("fixtures are sound");
    let ty = TensorType::f32([ids.len(), ids[0].len(), text.config.width]);
    let embedded = HostTensor::new(ty, embedded);
    let expected = recording.tensor("text_encoder.embeddings", embedded.ty());
    assert!(compare(&expected, &embedded, Class::Move, DType::F32).pass, "{}: embeddings", recording.name);
    let given = HashMap::from([(net.graph.inputs()[0], embedded)]);
    (net, given)
}

fn unet_net<'m>(recording: &Recording, unet: &'m UNet) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
    let x = recording.images("input.unet.sample");
    let context = recording.plain("input.unet.encoder_hidden_states");
    let timestep = recording.plain("input.unet.timestep").at(0);
    let config = &unet.config;
    let features = config.time_features();
    let time = kernels::host::time_embedding(timestep, features, config.flip_sin_to_cos, config.freq_shift);
    let time = HostTensor::f32([x.shape()[0], features], time.repeat(x.shape()[0]));
    let expected = recording.tensor("unet.time_proj", time.ty());
    assert!(compare(&expected, &time, Class::Elementwise, DType::F32).pass, "{}: time_proj", recording.name);

    let mut net = unet.net();
    let x_id = net.input("x", x.ty().clone(), Rate::Step);
    let context_id = net.input("context", context.ty().clone(), Rate::Prompt);
    unet.forward(&mut net, x_id, context_id).expect("fixtures are sound");
    let time_id = net.graph.inputs()[2];
    (net, HashMap::from([(x_id, x), (context_id, context), (time_id, time)]))
}

fn decoder_net<'m>(recording: &Recording, vae: &'m VaeKl) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
    let sample = recording.images("input.vae.decoder.sample");
    let scale = vae.config.scaling_factor;
    let latent = HostTensor::from_fn(sample.ty().clone(), |i| sample.at(i) * scale);
    let (net, _) = vae.build_decoder(latent.ty().clone(), DType::F32).expect("fixtures are sound");
    let given = HashMap::from([(net.graph.inputs()[0], latent)]);
    (net, given)
}

fn encoder_net<'m>(recording: &Recording, vae: &'m VaeKl) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
    let pixels = recording.images("input.vae.encoder.sample");
    let (net, _) = vae.build_encoder(pixels.ty().clone(), DType::F32).expect("fixtures are sound");
    let given = HashMap::from([(net.graph.inputs()[0], pixels)]);
    (net, given)
}

impl Recording {
    fn open(json: &Path) -> Self {
        let text = std::fs::read(json).expect("fixtures are readable");
        let json_value: serde_json::Value = serde_json::from_slice(&text).expect("fixtures are JSON");
        let strings = |key: &str| json_value[key].as_array().into_iter().flatten().filter_map(|v| v.as_str());
        let folder = json.parent().expect("in a folder");
        Recording {
            name: json.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            tensors: block_on(Checkpoint::open(json.with_extension("safetensors"), &Limits::default()))
                .expect("fixtures are sound"),
            order: strings("order").map(str::to_owned).collect(),
            model: folder.join(json_value["model"].as_str().expect("names its model")),
        }
    }

    fn values(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let entry = self.tensors.require(name).unwrap_or_else(|e| panic!("{e}"));
        (entry.shape.clone(), block_on(self.tensors.read(entry)).expect("fixtures are readable"))
    }

    fn plain(&self, name: &str) -> HostTensor {
        let (shape, bytes) = self.values(name);
        let word = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        HostTensor::f32(shape, bytes.chunks_exact(4).map(word).collect())
    }

    /// `[B, C, H, W]` as `[B, H, W, C]`.
    fn images(&self, name: &str) -> HostTensor {
        let x = self.plain(name);
        let &[b, c, h, w] = &**x.shape() else { panic!("{name}: {} is no image", x.shape()) };
        HostTensor::from_fn(TensorType::f32([b, h, w, c]), |i| {
            let (channel, pixel, batch) = (i % c, i / c % (h * w), i / (c * h * w));
            x.at((batch * c + channel) * h * w + pixel)
        })
    }

    /// A recorded tensor as one of ours of type `ty`.
    fn tensor(&self, name: &str, ty: &TensorType) -> HostTensor {
        let found = if ty.shape.len() == 4 { self.images(name) } else { self.plain(name) };
        assert_eq!(found.shape(), &ty.shape, "{}: {name}", self.name);
        found
    }

    fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let (shape, bytes) = self.values(name);
        let size = bytes.len() / shape.iter().product::<usize>();
        let ids: Vec<u32> =
            bytes.chunks_exact(size).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        ids.chunks_exact(shape[1]).map(<[u32]>::to_vec).collect()
    }
}

fn recordings() -> Vec<Recording> {
    let only = std::env::var("BLOCKS").ok();
    let folder = fixture("blocks");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("fixtures are readable").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "json"));
    files.sort();
    let all: Vec<Recording> = files.iter().map(|p| Recording::open(p)).collect();
    let chosen: Vec<Recording> =
        all.into_iter().filter(|r| only.as_deref().is_none_or(|only| r.name == only)).collect();
    assert!(!chosen.is_empty(), "there are recordings");
    chosen
}

//! What PyTorch recorded while a model ran, block by block, and our networks on the same inputs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engine::graph::{Graph, Rate, ValueId};
use engine::models::{HiddenState, TextOutputs, UNet, VaeKl};
use engine::nn::Net;
use engine::pipelines::{Model, Precision, TextEncoder};
use engine::weights::Weights;
use kernels::check::{Class, compare};
use kernels::{DType, HostTensor, TensorType};
use loaders::Checkpoint;
use loaders::safetensors::Limits;
use pollster::block_on;

use crate::fixture;

/// Tensors that PyTorch recorded while one model ran.
pub struct Recording {
    /// Its file's stem.
    pub name: String,
    tensors: Checkpoint,
    order: Vec<String>,
    model: PathBuf,
}

/// One of our networks on a recording's inputs.
pub struct Network<'m> {
    /// `text_encoder`, `unet`, `vae.encoder` or `vae.decoder`.
    pub part: &'static str,
    /// The network, in f32.
    pub net: Net<'m>,
    /// Its inputs.
    pub given: HashMap<ValueId, HostTensor>,
    /// The recorded blocks in the order they ran, by PyTorch's module paths.
    pub blocks: Vec<String>,
}

/// Module paths that are no value of our graphs: time embeddings' sinusoids and token embeddings are made on the host and
/// checked as inputs, an activation after a norm has no name of its own, and the pooled token is picked on the host, after every
/// token's projection (`golden.rs` compares it).
const ON_HOST: [&str; 5] = [
    "unet.time_proj",
    "text_encoder.embeddings",
    "text_encoder_2.embeddings",
    "text_encoder_2.text_projection",
    "conv_act",
];

/// Every recording of `fixtures/blocks`, by name.
pub fn recordings() -> Vec<Recording> {
    let folder = fixture("blocks");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("fixtures are readable").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "json"));
    files.sort();
    files.iter().map(|p| Recording::open(p)).collect()
}

/// Inputs and weights of `graph` in host memory.
pub fn on_host(
    graph: &Graph,
    weights: &Weights,
    given: &HashMap<ValueId, HostTensor>,
) -> HashMap<ValueId, HostTensor> {
    let mut given = given.clone();
    for (id, param) in graph.params() {
        let tensor = block_on(weights.on_host(param, graph.ty(id))).expect("fixtures are sound");
        given.insert(id, tensor);
    }
    given
}

impl Recording {
    /// The model that was run.
    pub fn model(&self) -> Model {
        block_on(Model::open(&self.model, None, Precision::F32)).expect("fixtures are sound")
    }

    /// Number of recorded blocks that are values of our graphs.
    pub fn n_blocks(&self) -> usize {
        self.order.iter().filter(|name| !is_on_host(name)).count()
    }

    /// The networks of `model`, this recording's own, in the order they ran.
    pub fn networks<'m>(&self, model: &'m Model) -> Vec<Network<'m>> {
        let text = model.text.iter().map(|text| {
            let part = text.network.part();
            (part, vec![format!("{part}.")], self.text(text))
        });
        let others = [
            ("unet", ["unet."].map(str::to_owned).to_vec(), self.unet(&model.unet)),
            (
                "vae.encoder",
                ["vae.encoder.", "vae.quant_conv"].map(str::to_owned).to_vec(),
                self.encoder(&model.vae),
            ),
            (
                "vae.decoder",
                ["vae.decoder.", "vae.post_quant_conv"].map(str::to_owned).to_vec(),
                self.decoder(&model.vae),
            ),
        ];
        text.chain(others)
            .map(|(part, prefixes, (net, given))| {
                let blocks = self
                    .order
                    .iter()
                    .filter(|name| {
                        prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())) && !is_on_host(name)
                    })
                    .cloned()
                    .collect();
                Network { part, net, given, blocks }
            })
            .collect()
    }

    /// A recorded tensor as one of ours of type `ty`.
    ///
    /// # Panics
    /// If it is not there or has another shape.
    pub fn tensor(&self, name: &str, ty: &TensorType) -> HostTensor {
        let found = if ty.shape.len() == 4 { self.images(name) } else { self.plain(name) };
        assert_eq!(found.shape(), &ty.shape, "{}: {name}", self.name);
        found
    }

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

    fn text<'m>(&self, text: &'m TextEncoder) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
        let (network, part) = (&text.network, text.network.part());
        let ids = self.ids(&format!("input.{part}.input_ids"));
        let embedded = block_on(network.embed(&ids)).expect("fixtures are sound");
        // Every block was recorded, those too that the pipeline does not need.
        let whole = TextOutputs { context: HiddenState::Last, ..text.outputs };
        let (net, _) = network.build(ids.len(), ids[0].len(), DType::F32, whole).expect("fixtures are sound");
        let ty = TensorType::f32([ids.len(), ids[0].len(), network.config.width]);
        let embedded = HostTensor::new(ty, embedded);
        let expected = self.tensor(&format!("{part}.embeddings"), embedded.ty());
        assert!(compare(&expected, &embedded, Class::Move, DType::F32).pass, "{}: embeddings", self.name);
        let given = HashMap::from([(net.graph.inputs()[0], embedded)]);
        (net, given)
    }

    fn unet<'m>(&self, unet: &'m UNet) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
        let x = self.images("input.unet.sample");
        let context = self.plain("input.unet.encoder_hidden_states");
        let timestep = self.plain("input.unet.timestep").at(0);
        let time = unet.config.time_input(timestep, x.shape()[0], DType::F32);
        let expected = self.tensor("unet.time_proj", time.ty());
        assert!(compare(&expected, &time, Class::Elementwise, DType::F32).pass, "{}: time_proj", self.name);

        let mut net = unet.net();
        let x_id = net.input("x", x.ty().clone(), Rate::Step);
        let context_id = net.input("context", context.ty().clone(), Rate::Prompt);
        unet.forward(&mut net, x_id, context_id).expect("fixtures are sound");
        let mut given = HashMap::from([(x_id, x), (context_id, context)]);
        let inputs = net.graph.inputs();
        given.insert(inputs[2], time);
        if let Some(id) = inputs.get(3) {
            let (pooled, numbers) = (self.plain("input.unet.text_embeds"), self.plain("input.unet.time_ids"));
            let added = unet.config.added_input(&pooled, &numbers, DType::F32);
            given.insert(*id, added.expect("it has such an input"));
        }
        (net, given)
    }

    fn decoder<'m>(&self, vae: &'m VaeKl) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
        let sample = self.images("input.vae.decoder.sample");
        let scale = vae.config.scaling_factor;
        let latent = HostTensor::from_fn(sample.ty().clone(), |i| sample.at(i) * scale);
        let (net, _) = vae.build_decoder(latent.ty().clone(), DType::F32).expect("fixtures are sound");
        let given = HashMap::from([(net.graph.inputs()[0], latent)]);
        (net, given)
    }

    fn encoder<'m>(&self, vae: &'m VaeKl) -> (Net<'m>, HashMap<ValueId, HostTensor>) {
        let pixels = self.images("input.vae.encoder.sample");
        let (net, _) = vae.build_encoder(pixels.ty().clone(), DType::F32).expect("fixtures are sound");
        let given = HashMap::from([(net.graph.inputs()[0], pixels)]);
        (net, given)
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

    fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let (shape, bytes) = self.values(name);
        let size = bytes.len() / shape.iter().product::<usize>();
        let ids: Vec<u32> =
            bytes.chunks_exact(size).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        ids.chunks_exact(shape[1]).map(<[u32]>::to_vec).collect()
    }
}

fn is_on_host(name: &str) -> bool {
    ON_HOST.iter().any(|host| name.ends_with(host))
}

//! What a picture's making takes on a device, before any of it is there: from a model's headers and an adapter's limits.
//!
//! [`Pipeline`] works by the same [`Residency`] that [`Pipeline::budget`] foretells.

use super::denoiser::build_denoiser;
use super::pipeline::{ALL, Pipeline};
use super::request::Request;
use super::stack::{Stack, texts};
use crate::compile::plan_for;
use crate::device::Gpu;
use crate::error::Error;
use crate::graph::Rate;
use crate::plan::Plan;

/// Latents of a run that may be alive beside a denoiser's own: the present one, noise, and what samplers keep.
const LATENTS: u64 = 6;
/// Edges of the decoder's tiles in latent pixels, the best first: larger ones have fewer borders.
pub(super) const TILES: [usize; 5] = [96, 64, 48, 32, 24];

/// What stays on the device, and how pictures are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Whether text encoders stay beside the denoiser.
    pub keeps_text: bool,
    /// Whether the denoiser stays beside the decoder; where it does not, it is uploaded again for each picture.
    pub keeps_denoiser: bool,
    /// Edge of the decoder's tiles in latent pixels, where a picture is not decoded as a whole.
    pub tile: Option<usize>,
}

/// One network at work.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// `text_encoder`, `denoiser`, `decoder`, ...
    pub name: String,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Bytes of the buffers between its operations.
    pub buffer_bytes: u64,
    /// Bytes of what it is given and gives.
    pub operand_bytes: u64,
    /// Dispatches once for a prompt.
    pub prompt_dispatches: usize,
    /// Dispatches of each run, or of each step.
    pub dispatches: usize,
    /// Floating-point operations of each run, or of each step.
    pub flops: u64,
    /// Bytes of its largest binding.
    pub largest_binding: u64,
    /// Bytes of the largest tensor that is uploaded for it.
    pub largest_upload: u64,
}

impl Phase {
    fn of(name: impl Into<String>, plan: &Plan) -> Self {
        let sum = |values: &[(String, kernels::TensorType)]| {
            values.iter().map(|(_, ty)| allocated(ty.bytes())).sum::<u64>()
        };
        let bindings = plan.steps.iter().flat_map(|step| {
            let binds = step.variant.dispatches.iter().flat_map(|dispatch| &dispatch.binds);
            binds.map(|bind| step.window(bind).1)
        });
        let uploads = plan.params.iter().map(|(param, ty)| ty.bytes() / param.tensors.len().max(1) as u64);
        let inputs = plan.inputs.iter().map(|(_, ty)| ty.bytes());
        Phase {
            name: name.into(),
            weight_bytes: plan.params.iter().map(|(_, ty)| allocated(ty.bytes())).sum(),
            buffer_bytes: plan.slots.iter().map(|bytes| allocated(*bytes)).sum(),
            operand_bytes: sum(&plan.inputs) + sum(&plan.outputs),
            prompt_dispatches: plan.dispatches(Rate::Load) + plan.dispatches(Rate::Prompt),
            dispatches: plan.dispatches(Rate::Step),
            flops: ALL.iter().map(|rate| plan.flops(*rate)).sum(),
            largest_binding: bindings.max().unwrap_or(0),
            largest_upload: uploads.chain(inputs).max().unwrap_or(0),
        }
    }

    /// Bytes that it holds while it can run.
    fn held(&self) -> u64 {
        self.weight_bytes + self.buffer_bytes
    }
}

/// Bytes that a buffer of `bytes` takes.
fn allocated(bytes: u64) -> u64 {
    bytes.next_multiple_of(16).max(16)
}

/// What a picture takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Text encoders, an initial picture's encoder, denoiser, decoder (of a tile, where there are tiles), a refiner's networks.
    pub phases: Vec<Phase>,
    /// How it will be done.
    pub residency: Residency,
    /// The most bytes that are on the device at once.
    pub peak_bytes: u64,
    /// The phase that takes them.
    pub peak_phase: String,
    /// The limit that it was planned for.
    pub limit: Option<u64>,
}

impl Budget {
    /// Whether it fits its limit.
    pub fn fits(&self) -> bool {
        self.limit.is_none_or(|limit| self.peak_bytes <= limit)
    }
}

/// The networks of one model, and of a request's size.
struct Networks {
    texts: Vec<Phase>,
    text_bytes: u64,
    denoiser: Phase,
    latent_bytes: u64,
}

impl Pipeline {
    /// What `request` takes, and how it will be done within the limit that was given: [`Pipeline::limit`]. Nothing is uploaded.
    ///
    /// # Errors
    /// As [`Pipeline::condition`]; [`Error::Plan`] if an operation exceeds the adapter's limits whatever is done.
    pub fn budget(&self, request: &Request) -> Result<Budget, Error> {
        self.model().check(request)?;
        let base = networks(&self.gpu, &self.base, request)?;
        let refiner = self.refiner.as_ref().map(|stack| networks(&self.gpu, stack, request)).transpose()?;
        let encoder = match &request.init {
            Some(_) => Some(Phase::of("encoder", &plan_for(&self.gpu, &self.encoder_graph(request.size)?)?)),
            None => None,
        };
        let [height, width] = self.latent_extent(request.size);
        let whole = self.decoder_phase([height, width]);
        let mut last_error = None;
        let mut least: Option<Budget> = None;
        for residency in self.residencies([height, width]) {
            let decoder = match residency.tile {
                None => match &whole {
                    Ok(phase) => phase.clone(),
                    Err(_) => continue,
                },
                Some(tile) => match self.decoder_phase([tile.min(height), tile.min(width)]) {
                    Ok(phase) => phase,
                    Err(error) => {
                        last_error = Some(error);
                        continue;
                    }
                },
            };
            let budget = self.summed(&base, refiner.as_ref(), encoder.as_ref(), decoder, residency, request);
            if budget.fits() {
                return Ok(budget);
            }
            if least.as_ref().is_none_or(|least| budget.peak_bytes < least.peak_bytes) {
                least = Some(budget);
            }
        }
        match (least, whole) {
            (Some(least), _) => Ok(least),
            (None, Err(error)) => Err(last_error.unwrap_or(error)),
            (None, Ok(_)) => unreachable!("a decoder that can be planned makes a budget"),
        }
    }

    fn decoder_phase(&self, extent: [usize; 2]) -> Result<Phase, Error> {
        Ok(Phase::of("decoder", &plan_for(&self.gpu, &self.decoder_graph(extent)?)?))
    }

    /// Ways to work, the fastest first.
    fn residencies(&self, [height, width]: [usize; 2]) -> Vec<Residency> {
        let keeps_text = self.base.keeps_text();
        let tiles = TILES.into_iter().filter(|tile| *tile < height.max(width));
        if let Some(tile) = self.forced_tile {
            let tile = Some(tile).filter(|tile| *tile < height.max(width));
            return [(keeps_text, true), (false, true), (false, false)]
                .map(|(keeps_text, keeps_denoiser)| Residency { keeps_text, keeps_denoiser, tile })
                .to_vec();
        }
        let mut ways = vec![
            Residency { keeps_text, keeps_denoiser: true, tile: None },
            Residency { keeps_text: false, keeps_denoiser: true, tile: None },
            Residency { keeps_text: false, keeps_denoiser: false, tile: None },
        ];
        ways.extend(tiles.map(|tile| Residency {
            keeps_text: false,
            keeps_denoiser: false,
            tile: Some(tile),
        }));
        // Where the whole is more than an adapter can bind, tiles are for that alone.
        ways.extend(TILES.first().map(|tile| Residency {
            keeps_text,
            keeps_denoiser: true,
            tile: Some(*tile),
        }));
        ways
    }

    fn summed(
        &self,
        base: &Networks,
        refiner: Option<&Networks>,
        encoder: Option<&Phase>,
        decoder: Phase,
        residency: Residency,
        request: &Request,
    ) -> Budget {
        let size = request.size;
        let read_back = 4 * 4 * (size.width * size.height) as u64;
        let mut moments: Vec<(String, u64)> = Vec::new();
        let decoder_waits = if residency.keeps_denoiser { decoder.held() } else { 0 };
        // An initial picture's encoder stays beside everything that comes after it.
        let encoder_held = encoder.map_or(0, Phase::held);
        for (i, networks) in [Some(base), refiner].into_iter().flatten().enumerate() {
            let of = |name: &str| if i == 0 { name.to_owned() } else { format!("refiner's {name}") };
            let kept = if residency.keeps_text { networks.text_bytes } else { 0 };
            let held =
                networks.denoiser.held() + networks.denoiser.operand_bytes + LATENTS * networks.latent_bytes;
            let others = kept + decoder_waits + encoder_held;
            let encoding = networks.text_peak(residency.keeps_text);
            moments.push((of("text encoders"), if i == 0 { encoding } else { encoding + others }));
            moments.push((of("denoiser"), held + others));
            let beside = if residency.keeps_denoiser { held } else { LATENTS * networks.latent_bytes };
            let tiles = if residency.tile.is_some() { networks.latent_bytes } else { 0 };
            let decoding =
                decoder.held() + decoder.operand_bytes + read_back.min(2 * decoder.operand_bytes) + tiles;
            moments.push((of("decoder"), kept + beside + encoder_held + decoding));
        }
        if let Some(encoder) = encoder {
            let beside = base.denoiser.held() + decoder_waits;
            moments.push((
                "initial picture's encoder".to_owned(),
                beside + encoder.held() + encoder.operand_bytes,
            ));
        }
        let (peak_phase, peak) = moments.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
        let mut phases = base.texts.clone();
        phases.extend(encoder.cloned());
        phases.push(base.denoiser.clone());
        if let Some(refiner) = refiner {
            let renamed =
                |phase: &Phase| Phase { name: format!("refiner's {}", phase.name), ..phase.clone() };
            phases.extend(refiner.texts.iter().chain([&refiner.denoiser]).map(renamed));
        }
        phases.push(decoder);
        let largest_upload = phases.iter().map(|phase| phase.largest_upload).max().unwrap_or(0);
        let staging = Gpu::staging_bytes(largest_upload);
        Budget { phases, residency, peak_bytes: peak + staging, peak_phase, limit: self.limit }
    }
}

impl Networks {
    /// The most bytes of text encoders at once: together if they stay, else one after the other.
    fn text_peak(&self, stay: bool) -> u64 {
        let with_operands = |phase: &Phase| phase.held() + phase.operand_bytes;
        match stay {
            true => self.texts.iter().map(with_operands).sum(),
            false => self.texts.iter().map(with_operands).max().unwrap_or(0),
        }
    }
}

fn networks(gpu: &Gpu, stack: &Stack, request: &Request) -> Result<Networks, Error> {
    let batch = texts(request).len();
    let mut phases = Vec::new();
    for place in 0..stack.model.text.len() {
        let plan = plan_for(gpu, &stack.text_graph(place, batch)?)?;
        let name = if place == 0 { "text_encoder".to_owned() } else { format!("text_encoder_{}", place + 1) };
        phases.push(Phase::of(name, &plan));
    }
    let shape = stack.denoiser_shape(request);
    let channels = stack.model.unet.config.in_channels as u64;
    Ok(Networks {
        text_bytes: phases.iter().map(Phase::held).sum(),
        texts: phases,
        denoiser: Phase::of("denoiser", &plan_for(gpu, &build_denoiser(&stack.model.unet, shape)?)?),
        latent_bytes: allocated(4 * (shape.height * shape.width) as u64 * channels.next_multiple_of(4)),
    })
}

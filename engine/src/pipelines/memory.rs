//! What a picture's making takes on a device, before any of it is there: from a model's headers and an adapter's limits.
//!
//! [`Pipeline`] works by the same [`Residency`] that [`Pipeline::budget`] foretells.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernels::{DType, TensorType};

use super::autoencoder::Autoencoder;
use super::denoiser::build_denoiser;
use super::numbers::Counter;
use super::picture::PixelSize;
use super::pipeline::{ALL, Pipeline};
use super::request::Request;
use super::stack::{Stack, texts};
use crate::compile::plan_for;
use crate::device::Gpu;
use crate::error::Error;
use crate::graph::Rate;
use crate::plan::Plan;
use crate::samplers::Trajectory;

/// Latents of every run that are alive beside what a denoiser is given: those before and after a step, as measured until the
/// picture is decoded, and in a step one more.
const LATENTS: usize = 2;
/// How many sizes a larger one that takes less may be away.
const UNEVEN: usize = 4;
/// Bytes of all that is as small for the largest picture: counts, coefficients, a canary.
const SMALL: u64 = 8 << 10;
/// Counts of what is not finite that are read at once: of the step that is queued, and of the one before it.
const READBACKS: u64 = 2;
/// Edges of the autoencoder's tiles in latent pixels, the best first: the larger they are, the less is done twice.
pub(super) const TILES: [usize; 6] = [96, 64, 48, 32, 24, Pipeline::LEAST_TILE];

/// What stays on the device, and how pictures are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Whether text encoders stay beside the denoiser.
    pub keeps_text: bool,
    /// Whether the denoiser stays beside the decoder; where it does not, it is uploaded again for each picture.
    pub keeps_denoiser: bool,
    /// Edge in latent pixels of the tiles that pictures are encoded and decoded in, where that is not done as a whole.
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
    /// Bytes of the largest of its results, which are read back.
    pub largest_result: u64,
}

impl Phase {
    pub(super) fn of(name: impl Into<String>, gpu: &Gpu, plan: &Plan) -> Self {
        let launches = ALL.iter().map(|rate| plan.dispatches(*rate)).sum();
        let sum =
            |values: &[(String, TensorType)]| values.iter().map(|(_, ty)| allocated(ty.bytes())).sum::<u64>();
        let bindings = plan.steps.iter().flat_map(|step| {
            let binds = step.variant.dispatches.iter().flat_map(|dispatch| &dispatch.binds);
            binds.map(|bind| step.window(bind).1)
        });
        let uploads = plan.params.iter().flat_map(|(param, ty)| param.parts(ty)).map(|part| part.bytes());
        let inputs = plan.inputs.iter().map(|(_, ty)| ty.bytes());
        Phase {
            name: name.into(),
            weight_bytes: plan.params.iter().map(|(_, ty)| allocated(ty.bytes())).sum(),
            buffer_bytes: slot_bytes(plan) + gpu.params_bytes(launches),
            operand_bytes: sum(&plan.inputs) + sum(&plan.outputs),
            prompt_dispatches: plan.dispatches(Rate::Load) + plan.dispatches(Rate::Prompt),
            dispatches: plan.dispatches(Rate::Step),
            flops: ALL.iter().map(|rate| plan.flops(*rate)).sum(),
            largest_binding: bindings.max().unwrap_or(0),
            largest_upload: uploads.chain(inputs).max().unwrap_or(0),
            largest_result: plan.outputs.iter().map(|(_, ty)| allocated(ty.bytes())).max().unwrap_or(0),
        }
    }

    /// A network that runs as `pieces`, one after the other, each so many times: the bytes are those of the largest piece.
    pub(super) fn of_pieces(name: &str, gpu: &Gpu, pieces: &[(Plan, usize)]) -> Self {
        let phases: Vec<(Phase, u64)> =
            pieces.iter().map(|(plan, runs)| (Phase::of(name, gpu, plan), *runs as u64)).collect();
        let params: BTreeMap<_, _> =
            pieces.iter().flat_map(|(plan, _)| plan.params.iter().cloned()).collect();
        let at_work = |phase: &Phase| phase.buffer_bytes + phase.operand_bytes + phase.largest_result;
        let each = || phases.iter().map(|(phase, _)| phase);
        let largest = each().max_by_key(|phase| at_work(phase)).cloned().expect("there are pieces");
        Phase {
            weight_bytes: params.values().map(|ty| allocated(ty.bytes())).sum(),
            prompt_dispatches: 0,
            dispatches: phases
                .iter()
                .map(|(p, runs)| (p.prompt_dispatches + p.dispatches) * *runs as usize)
                .sum(),
            flops: phases.iter().map(|(phase, runs)| phase.flops * runs).sum(),
            largest_binding: each().map(|phase| phase.largest_binding).max().unwrap_or(0),
            largest_upload: each().map(|phase| phase.largest_upload).max().unwrap_or(0),
            ..largest
        }
    }

    /// Bytes that it holds while it can run.
    fn held(&self) -> u64 {
        self.weight_bytes + self.buffer_bytes
    }
}

fn slot_bytes(plan: &Plan) -> u64 {
    plan.slots.iter().map(|bytes| allocated(*bytes)).sum()
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

/// Latents that are alive at once beside the present one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Latents {
    /// In a step.
    running: usize,
    /// While a picture is decoded: those of the last step are not let go by then.
    kept: usize,
}

/// The autoencoder's networks that a request needs.
struct Images {
    encoder: Option<Phase>,
    decoder: Phase,
}

/// A picture for which there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its size.
    pub size: PixelSize,
    /// The most bytes that it has on the device at once.
    pub peak_bytes: u64,
}

/// The networks of one model, and of a request's size.
struct Networks {
    texts: Vec<Phase>,
    text_bytes: u64,
    denoiser: Phase,
    /// Bytes of the latents that are alive at once beside the present one: in a step, and while it is decoded.
    running_bytes: u64,
    kept_bytes: u64,
    /// Bytes of what counts values that are not finite.
    counter_bytes: u64,
}

impl Pipeline {
    /// What `request` takes, and how it will be done within the limit that was given: [`Pipeline::limit`]. Nothing is uploaded.
    ///
    /// # Errors
    /// As [`Pipeline::condition`]; [`Error::Plan`] if an operation exceeds the adapter's limits whatever is done.
    pub fn budget(&self, request: &Request) -> Result<Budget, Error> {
        self.foretold(request, self.latents(request)?, &self.autoencoder)
    }

    /// [`Pipeline::budget`] where the autoencoder has overflowed f16 and is run once more in f32; `None` where it is in f32 anyway.
    ///
    /// # Errors
    /// As [`Pipeline::budget`].
    pub fn budget_in_f32(&self, request: &Request) -> Result<Option<Budget>, Error> {
        if self.autoencoder.dtype == DType::F32 {
            return Ok(None);
        }
        self.foretold(request, self.latents(request)?, &Autoencoder::new(DType::F32)).map(Some)
    }

    /// The largest picture of the shape of `request`'s, and smaller than that, for which the limit has room.
    pub fn largest_with_room(&self, request: &Request) -> Option<Room> {
        let (multiple, least) = (self.model().edge_multiple(), self.model().least_edge());
        let PixelSize { width, height } = request.size;
        let units = width.max(height) / multiple;
        let latents = self.latents(request).ok()?;
        let mut smaller = request.clone();
        let mut room = |unit: usize| {
            let edge = |edge: usize| edge * unit / units.max(1) / multiple * multiple;
            let size = PixelSize { width: edge(width), height: edge(height) };
            smaller.size = size;
            if size.width < least || size.height < least {
                return (false, None);
            }
            let budget = self.foretold(&smaller, latents, &self.autoencoder).ok().filter(Budget::fits);
            (true, budget.map(|budget| Room { size, peak_bytes: budget.peak_bytes }))
        };
        let (mut low, mut high, mut found) = (1, units, None);
        while low < high {
            let unit = low.midpoint(high);
            match room(unit) {
                (false, _) => low = unit + 1,
                (true, Some(room)) => (low, found) = (unit + 1, Some(room)),
                (true, None) => high = unit,
            }
        }
        // A size whose tiles divide it well may take less than a smaller one.
        (low + 1..units.min(low + 1 + UNEVEN)).rev().find_map(|unit| room(unit).1).or(found)
    }

    /// Latents that may be alive at once while `request` is drawn, which is checked.
    pub(super) fn latents(&self, request: &Request) -> Result<Latents, Error> {
        let planned = self.model().check_with(self.refiner.as_ref().map(|stack| &stack.model), request)?;
        let trajectories = [Some(&planned.trajectory), planned.refinement.as_ref()];
        let of = |trajectory: &Trajectory| {
            let steps = || trajectory.steps.iter();
            let sums =
                || steps().flat_map(|step| step.store.iter().map(|kept| &kept.value).chain([&step.next]));
            // A sum before it is clamped.
            let clamped = usize::from(sums().any(|sum| sum.clamp.is_some()));
            // Few steps fill fewer slots than there are.
            let filled: BTreeSet<usize> =
                steps().flat_map(|step| step.store.iter().map(|kept| kept.slot)).collect();
            [clamped, filled.len()]
        };
        let most = trajectories.into_iter().flatten().map(of);
        let [passing, slots] = most.fold([0, 0], |a, b| [a[0].max(b[0]), a[1].max(b[1])]);
        let kept = slots + usize::from(request.init.is_some());
        Ok(Latents { running: LATENTS + 1 + passing + kept, kept: LATENTS + kept })
    }

    /// [`Pipeline::budget`] of a request that makes sense, but for the size of its initial picture.
    fn foretold(
        &self,
        request: &Request,
        latents: Latents,
        autoencoder: &Autoencoder,
    ) -> Result<Budget, Error> {
        let base = networks(&self.gpu, &self.base, request, latents)?;
        let refiner = self.refiner.as_ref().map(|stack| networks(&self.gpu, stack, request, latents));
        let refiner = refiner.transpose()?;
        let mut refused = None;
        let mut least: Option<Budget> = None;
        // What a size of tiles takes is the same whatever else stays on the device.
        let mut known: HashMap<Option<usize>, Option<Images>> = HashMap::new();
        for residency in self.residencies(self.latent_extent(request.size)) {
            let images = match known.entry(residency.tile) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let images = self.images(request, residency.tile, autoencoder);
                    unknown.insert(images.map_err(|error| refused = Some(error)).ok())
                }
            };
            let Some(images) = images else { continue };
            let budget = self.summed(&base, refiner.as_ref(), images, residency);
            if budget.fits() {
                return Ok(budget);
            }
            if least.as_ref().is_none_or(|least| budget.peak_bytes < least.peak_bytes) {
                least = Some(budget);
            }
        }
        least.ok_or_else(|| refused.expect("there are ways to work, and each is planned or refused"))
    }

    /// What the networks between pictures and latents take for tiles of a size, or without.
    fn images(
        &self,
        request: &Request,
        tile: Option<usize>,
        autoencoder: &Autoencoder,
    ) -> Result<Images, Error> {
        let (gpu, vae) = (&self.gpu, &self.base.model.vae);
        let encoder = request.init.as_ref();
        let encoder = encoder.map(|_| autoencoder.encoder_phase(gpu, vae, request.size, tile));
        let extent = self.latent_extent(request.size);
        let decoder = autoencoder.decoder_phase(gpu, vae, extent, tile)?;
        Ok(Images { encoder: encoder.transpose()?, decoder })
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
        // Where the whole is more than an adapter can bind, tiles are for that alone.
        ways.extend([(keeps_text, true), (false, true)].into_iter().flat_map(
            |(keeps_text, keeps_denoiser)| {
                tiles.clone().take(1).map(move |tile| Residency {
                    keeps_text,
                    keeps_denoiser,
                    tile: Some(tile),
                })
            },
        ));
        ways.extend(tiles.map(|tile| Residency {
            keeps_text: false,
            keeps_denoiser: false,
            tile: Some(tile),
        }));
        ways
    }

    fn summed(
        &self,
        base: &Networks,
        refiner: Option<&Networks>,
        images: &Images,
        residency: Residency,
    ) -> Budget {
        let Images { encoder, decoder } = images;
        let mut moments: Vec<(String, u64)> = Vec::new();
        // What stays on the device once it was used: whole networks, or the weights of those that run piece by piece.
        let waiting = |phase: &Phase| match (residency.keeps_denoiser, residency.tile) {
            (false, _) => 0,
            (true, None) => phase.held(),
            (true, Some(_)) => phase.weight_bytes,
        };
        let at_work = |phase: &Phase| phase.held() + phase.operand_bytes + phase.largest_result;
        let (decoder_waits, encoder_held) = (waiting(decoder), encoder.as_ref().map_or(0, waiting));
        for (i, networks) in [Some(base), refiner].into_iter().flatten().enumerate() {
            let of = |name: &str| if i == 0 { name.to_owned() } else { format!("refiner's {name}") };
            let kept = if residency.keeps_text { networks.text_bytes } else { 0 };
            let operands = networks.denoiser.operand_bytes + networks.counter_bytes;
            let held = networks.denoiser.held() + operands + networks.running_bytes;
            let others = kept + decoder_waits + encoder_held;
            let encoding = networks.text_peak(residency.keeps_text);
            moments.push((of("text encoders"), if i == 0 { encoding } else { encoding + others }));
            moments.push((of("denoiser"), held + others));
            let kept_denoiser = if residency.keeps_denoiser { networks.denoiser.held() } else { 0 };
            let beside = kept_denoiser + operands + networks.kept_bytes;
            moments.push((of("decoder"), kept + beside + encoder_held + at_work(decoder)));
        }
        if let Some(encoder) = encoder {
            let beside = if residency.keeps_denoiser { base.denoiser.held() + decoder_waits } else { 0 };
            moments.push(("initial picture's encoder".to_owned(), beside + at_work(encoder)));
        }
        let (peak_phase, peak) = moments.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
        let mut phases = base.texts.clone();
        phases.extend(encoder.clone());
        phases.push(base.denoiser.clone());
        if let Some(refiner) = refiner {
            let renamed =
                |phase: &Phase| Phase { name: format!("refiner's {}", phase.name), ..phase.clone() };
            phases.extend(refiner.texts.iter().chain([&refiner.denoiser]).map(renamed));
        }
        phases.push(decoder.clone());
        let largest_upload = phases.iter().map(|phase| phase.largest_upload).max().unwrap_or(0);
        let staging = Gpu::staging_bytes(largest_upload);
        let peak_bytes = peak + staging + SMALL;
        Budget { phases, residency, peak_bytes, peak_phase, limit: self.limit }
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

fn networks(gpu: &Gpu, stack: &Stack, request: &Request, latents: Latents) -> Result<Networks, Error> {
    let batch = texts(request).len();
    let mut phases = Vec::new();
    for place in 0..stack.model.text.len() {
        let plan = plan_for(gpu, &stack.text_graph(place, batch)?)?;
        let name = if place == 0 { "text_encoder".to_owned() } else { format!("text_encoder_{}", place + 1) };
        phases.push(Phase::of(name, gpu, &plan));
    }
    let shape = stack.denoiser_shape(request);
    let latent = TensorType::f32([1, shape.height, shape.width, stack.model.unet.config.in_channels]);
    let denoiser = plan_for(gpu, &build_denoiser(&stack.model.unet, shape)?)?;
    let tally_bytes = denoiser.tallies.map_or(0, |slot| denoiser.slots[slot]);
    Ok(Networks {
        text_bytes: phases.iter().map(Phase::held).sum(),
        texts: phases,
        denoiser: Phase::of("denoiser", gpu, &denoiser),
        running_bytes: latents.running as u64 * allocated(latent.bytes()),
        kept_bytes: latents.kept as u64 * allocated(latent.bytes()),
        counter_bytes: slot_bytes(&Counter::plan(gpu, &latent)?) + READBACKS * tally_bytes,
    })
}

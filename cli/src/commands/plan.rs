//! `photogram plan`: whether a picture can be drawn here, before anything is uploaded.

use engine::Error;
use engine::pipelines::{Absent, Budget, Inspection, Model, Phase, Pipeline, inspect};
use serde_json::{Value, json};

use crate::adapter::{Adapter, open_tuned};
use crate::args::{ModelArgs, PlanArgs};
use crate::failure::{Code, Failure, one_line, room_hint};
use crate::report::{Report, Verbosity, print, print_json};
use crate::request::{check_start, limit_memory, open_model, planned_request};
use crate::tables::{bytes, table};

/// Prints what a picture takes.
///
/// # Errors    [`Code::OutOfMemory`] if it does not fit; those of a model that is not complete
pub(crate) async fn run(args: &PlanArgs) -> Result<(), Failure> {
    check_start(&args.start)?;
    let report = Report::new(Verbosity::Quiet);
    let inspection = match &args.source.model {
        Some(path) => Some(inspect(path).await?),
        None => None,
    };
    let Opened { mut model, mut absent, mut problem } = match open(&args.source).await {
        Ok(opened) => opened,
        Err(failure) => return Err(incomplete(args, inspection.as_ref(), failure)?),
    };
    if let Some(path) = &args.refiner {
        let source = ModelArgs { model: Some(path.clone()), vae: None, ..args.source.clone() };
        let refiner = open(&source).await?;
        model = model.with_refiner(refiner.model)?;
        absent.extend(
            refiner
                .absent
                .into_iter()
                .map(|part| Absent { part: format!("refiner's {}", part.part), ..part }),
        );
        problem = problem.or(refiner.problem);
    }
    let request = planned_request(args, &model)?;
    let planned = model.check(&request)?;
    let Adapter { gpu, .. } = open_tuned(&args.source.adapter, &report).await?;
    let mut pipeline = Pipeline::new(gpu.clone(), model);
    limit_memory(&mut pipeline, &args.memory);
    let budget = pipeline.budget(&request)?;
    let repeated = pipeline.budget_in_f32(&request)?;

    let facts = Facts {
        adapter: gpu.adapter_name().to_owned(),
        driver: gpu.driver(),
        model: pipeline.model().name.clone(),
        family: pipeline.model().family.name(),
        size: request.size.to_string(),
        steps: planned.trajectory.steps.len(),
        refiner_steps: planned.refinement.map_or(0, |refinement| refinement.steps.len()),
        is_guided: request.guidance.is_on(),
        dtype: pipeline.dtype().to_string(),
        vae_dtype: pipeline.vae_dtype().to_string(),
        max_binding: gpu.caps().max_binding_bytes,
        absent,
        budget,
        repeated,
    };
    if args.json {
        print_json(&facts.as_json())?;
    } else {
        let text = facts.described();
        print(&text, &text)?;
    }
    if facts.budget.fits() {
        return problem.map_or(Ok(()), Err);
    }
    let limit = facts.budget.limit.unwrap_or_default();
    let message =
        format!("does not fit: {} at least, {} are allowed", bytes(facts.budget.peak_bytes), bytes(limit));
    let smaller = pipeline.largest_with_room(&request);
    let hint = room_hint(request.size, facts.budget.peak_bytes, smaller.as_ref(), pipeline.dtype());
    Err(Failure::new(Code::OutOfMemory, message).with_hint(hint))
}

/// A model as far as it can be planned with.
struct Opened {
    model: Model,
    /// Parts whose weights are not there.
    absent: Vec<Absent>,
    /// Why it cannot be drawn with.
    problem: Option<Failure>,
}

/// Opens the model that the words name, or what there is of it.
///
/// # Errors    those of reading it, where it is a folder without all configurations, or no folder
async fn open(source: &ModelArgs) -> Result<Opened, Failure> {
    let failure = match open_model(source).await {
        Ok(model) => return Ok(Opened { model, absent: Vec::new(), problem: None }),
        Err(failure) => failure,
    };
    let Some(path) = source.model.as_ref().filter(|path| path.is_dir()) else { return Err(failure) };
    match Model::open_incomplete(path, source.vae.as_deref(), source.precision.into()).await {
        Ok((model, absent)) => Ok(Opened { model, absent, problem: Some(failure) }),
        // No download sets right what is there and cannot be read.
        Err(Error::Load(error)) if !error.is_incomplete() => Err(error.into()),
        Err(_) => Err(failure),
    }
}

/// What there is of a model that cannot be opened, and the failure that ends the command.
fn incomplete(
    args: &PlanArgs,
    inspection: Option<&Inspection>,
    failure: Failure,
) -> Result<Failure, Failure> {
    let Some(inspection) = inspection else { return Ok(failure) };
    let parts = inspection.parts.iter().filter(|part| part.is_used || part.problem.is_some());
    let broken: Vec<&str> = parts
        .clone()
        .filter(|part| matches!(&part.problem, Some(Error::Load(error)) if !error.is_incomplete()))
        .map(|part| part.name.as_str())
        .collect();
    let unknown: Vec<&str> =
        parts.clone().filter(|part| !part.is_described).map(|part| part.name.as_str()).collect();
    if args.json {
        let parts: Vec<Value> = parts
            .map(|part| {
                let problem = part.problem.as_ref().map(ToString::to_string);
                json!({
                    "name": part.name,
                    "bytes": part.bytes(),
                    "problem": problem,
                    "foretellable": part.is_described,
                })
            })
            .collect();
        print_json(
            &json!({ "family": inspection.family, "fits": false, "problem": failure.message, "parts": parts }),
        )?;
    } else {
        let family = inspection.family.as_deref().unwrap_or("unknown family");
        let mut rows = vec![["part", "bytes", "state"].map(str::to_owned).to_vec()];
        rows.extend(parts.map(|part| {
            let state = part
                .problem
                .as_ref()
                .map_or_else(|| "there".to_owned(), |problem| one_line(&problem.to_string()));
            let size = if part.encodings.is_empty() { "-".to_owned() } else { bytes(part.bytes()) };
            vec![part.name.clone(), size, state]
        }));
        let unknown = match unknown.is_empty() {
            true => String::new(),
            false => format!("cannot be foretold without a configuration: {}\n", unknown.join(", ")),
        };
        let verdict = match broken.is_empty() {
            true => "the model is not complete".to_owned(),
            false => format!("what is there of {} cannot be used", broken.join(", ")),
        };
        let text = format!("{}\n\n{}\n{unknown}no: {verdict}\n", one_line(family), table(&rows));
        print(&text, &text)?;
    }
    Ok(failure)
}

/// What is told.
struct Facts {
    adapter: String,
    driver: String,
    model: String,
    family: &'static str,
    size: String,
    steps: usize,
    refiner_steps: usize,
    is_guided: bool,
    dtype: String,
    vae_dtype: String,
    max_binding: u64,
    /// Parts whose weights are assumed.
    absent: Vec<Absent>,
    budget: Budget,
    /// Where the autoencoder overflows f16 and is run once more.
    repeated: Option<Budget>,
}

impl Facts {
    /// Floating-point operations of the whole picture.
    fn flops(&self) -> f64 {
        let of = |phase: &Phase| {
            let runs = match phase.name.as_str() {
                "denoiser" => self.steps,
                name if name.ends_with("denoiser") => self.refiner_steps,
                _ => 1,
            };
            phase.flops as f64 * runs as f64
        };
        self.budget.phases.iter().map(of).sum()
    }

    fn largest_binding(&self) -> u64 {
        self.budget.phases.iter().map(|phase| phase.largest_binding).max().unwrap_or(0)
    }

    fn described(&self) -> String {
        let head =
            ["network", "weights", "buffers", "dispatches", "once a prompt", "TFLOP", "largest binding"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.budget.phases.iter().map(|phase| {
            vec![
                phase.name.clone(),
                bytes(phase.weight_bytes),
                bytes(phase.buffer_bytes + phase.operand_bytes),
                phase.dispatches.to_string(),
                phase.prompt_dispatches.to_string(),
                format!("{:.3}", phase.flops as f64 / 1e12),
                bytes(phase.largest_binding),
            ]
        }));
        let Budget { residency, peak_bytes, peak_phase, limit, .. } = &self.budget;
        let mut ways = Vec::new();
        if !residency.keeps_text {
            ways.push("text encoders leave the device after the prompt".to_owned());
        }
        if !residency.keeps_denoiser {
            ways.push("the denoiser leaves the device for the decoder".to_owned());
        }
        if let Some(tile) = residency.tile {
            ways.push(format!("pictures are encoded and decoded in tiles of {tile} latent pixels"));
        }
        let ways =
            if ways.is_empty() { "everything stays on the device".to_owned() } else { ways.join("; ") };
        let then = match limit {
            Some(limit) if !self.budget.fits() => format!("no: {} are allowed", bytes(*limit)),
            Some(limit) if self.repeated.as_ref().is_some_and(|repeated| !repeated.fits()) => {
                format!("yes, within {}, unless the autoencoder overflows f16", bytes(*limit))
            }
            Some(limit) => format!("yes, within {}", bytes(*limit)),
            None => "yes, if the device has that".to_owned(),
        };
        let (missing, verdict) = self.missing(then);
        let repeated = self.repeated.as_ref().map_or_else(String::new, |budget| {
            format!("; {} where the autoencoder overflows f16", bytes(budget.peak_bytes))
        });
        let steps = match self.refiner_steps {
            0 => format!("{} steps", self.steps),
            refiner => format!("{} steps and {refiner} of the refiner", self.steps),
        };
        let guided = if self.is_guided { "with guidance" } else { "without guidance" };
        format!(
            "{}, {}\n{} ({}), {}, {steps} {guided}, {}, decoder {}\n\n{}\n{ways}\npeak: {} ({peak_phase}{repeated}); largest binding {} of {}; \
             {:.1} TFLOP for the picture\n{missing}{verdict}\n",
            self.adapter,
            self.driver,
            one_line(&self.model),
            self.family,
            self.size,
            self.dtype,
            self.vae_dtype,
            table(&rows),
            bytes(*peak_bytes),
            bytes(self.largest_binding()),
            bytes(self.max_binding),
            self.flops() / 1e12,
        )
    }

    /// A table of what is not there, and the verdict, where `then` is that on the complete model.
    fn missing(&self, then: String) -> (String, String) {
        if self.absent.is_empty() {
            return (String::new(), then);
        }
        let mut rows =
            vec![["not there", "weights", "assumed", "to come", "why"].map(str::to_owned).to_vec()];
        rows.extend(self.absent.iter().map(|part| {
            vec![
                part.part.clone(),
                bytes(part.bytes),
                part.encoding.to_string(),
                bytes(part.bytes_to_come),
                one_line(&part.problem.to_string()),
            ]
        }));
        let to_come = self.absent.iter().map(|part| part.bytes_to_come).fold(0, u64::saturating_add);
        let verdict = format!("no: the model is not complete, {} are to come; then {then}", bytes(to_come));
        (format!("\n{}\n", table(&rows)), verdict)
    }

    fn as_json(&self) -> Value {
        let absent = |part: &Absent| {
            json!({
                "name": part.part,
                "problem": part.problem.to_string(),
                "assumed": part.encoding.to_string(),
                "weight_bytes": part.bytes,
                "bytes_to_come": part.bytes_to_come,
            })
        };
        let phase = |phase: &Phase| {
            json!({
                "name": phase.name,
                "weight_bytes": phase.weight_bytes,
                "buffer_bytes": phase.buffer_bytes,
                "operand_bytes": phase.operand_bytes,
                "dispatches": phase.dispatches,
                "dispatches_once_a_prompt": phase.prompt_dispatches,
                "flops": phase.flops,
                "largest_binding": phase.largest_binding,
            })
        };
        let Budget { phases, residency, peak_bytes, peak_phase, limit } = &self.budget;
        json!({
            "adapter": self.adapter,
            "driver": self.driver,
            "model": self.model,
            "family": self.family,
            "size": self.size,
            "steps": self.steps,
            "refiner_steps": self.refiner_steps,
            "guided": self.is_guided,
            "dtype": self.dtype,
            "vae_dtype": self.vae_dtype,
            "phases": phases.iter().map(phase).collect::<Vec<_>>(),
            "keeps_text_encoders": residency.keeps_text,
            "keeps_denoiser": residency.keeps_denoiser,
            "tile": residency.tile,
            "peak_bytes": peak_bytes,
            "peak_phase": peak_phase,
            "peak_bytes_in_f32": self.repeated.as_ref().map(|budget| budget.peak_bytes),
            "limit": limit,
            "largest_binding": self.largest_binding(),
            "max_binding_bytes": self.max_binding,
            "flops": self.flops(),
            "fits": self.budget.fits(),
            "complete": self.absent.is_empty(),
            "absent": self.absent.iter().map(absent).collect::<Vec<_>>(),
        })
    }
}

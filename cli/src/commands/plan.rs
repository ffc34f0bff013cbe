//! `photogram plan`: whether a picture can be drawn here, before anything is uploaded.

use engine::pipelines::{Budget, Inspection, Phase, Pipeline, inspect};
use serde_json::{Value, json};

use crate::adapter::{Adapter, open_tuned};
use crate::args::PlanArgs;
use crate::failure::{Code, Failure, one_line, room_hint};
use crate::report::{Report, Verbosity, print, print_json};
use crate::request::{limit_memory, open_model, plain_request};
use crate::tables::{bytes, table};

/// Prints what a picture takes.
///
/// # Errors    [`Code::OutOfMemory`] if it does not fit; those of a model that is not complete
pub(crate) async fn run(args: &PlanArgs) -> Result<(), Failure> {
    let report = Report::new(Verbosity::Quiet);
    let inspection = match &args.source.model {
        Some(path) => Some(inspect(path).await?),
        None => None,
    };
    let model = match open_model(&args.source).await {
        Ok(model) => model,
        Err(failure) => return Err(incomplete(args, inspection.as_ref(), failure)?),
    };
    let request = plain_request("", &args.source, &args.shape, &model);
    model.check(&request)?;
    let Adapter { gpu, .. } = open_tuned(&args.source.adapter, &report).await?;
    let mut pipeline = Pipeline::new(gpu.clone(), model);
    limit_memory(&mut pipeline, &args.memory);
    let budget = pipeline.budget(&request)?;

    let facts = Facts {
        adapter: gpu.adapter_name().to_owned(),
        driver: gpu.driver(),
        model: pipeline.model().name.clone(),
        family: pipeline.model().family.name(),
        size: request.size.to_string(),
        steps: request.steps,
        is_guided: request.guidance.is_on(),
        dtype: pipeline.dtype().to_string(),
        vae_dtype: pipeline.vae_dtype().to_string(),
        max_binding: gpu.caps().max_binding_bytes,
        budget,
    };
    if args.json {
        print_json(&facts.as_json())?;
    } else {
        let text = facts.described();
        print(&text, &text)?;
    }
    if facts.budget.fits() {
        return Ok(());
    }
    let limit = facts.budget.limit.unwrap_or_default();
    let message =
        format!("does not fit: {} at least, {} are allowed", bytes(facts.budget.peak_bytes), bytes(limit));
    let smaller = pipeline.largest_with_room(&request);
    let hint = room_hint(request.size, facts.budget.peak_bytes, smaller.as_ref());
    Err(Failure::new(Code::OutOfMemory, message).with_hint(hint))
}

/// What there is of a model that cannot be opened, and the failure that ends the command.
fn incomplete(
    args: &PlanArgs,
    inspection: Option<&Inspection>,
    failure: Failure,
) -> Result<Failure, Failure> {
    let Some(inspection) = inspection else { return Ok(failure) };
    let parts = inspection.parts.iter().filter(|part| part.is_used || part.problem.is_some());
    if args.json {
        let parts: Vec<Value> = parts
            .map(|part| {
                let problem = part.problem.as_ref().map(ToString::to_string);
                json!({ "name": part.name, "bytes": part.bytes(), "problem": problem })
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
        let text = format!("{}\n\n{}\nno: the model is not complete\n", one_line(family), table(&rows));
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
    is_guided: bool,
    dtype: String,
    vae_dtype: String,
    max_binding: u64,
    budget: Budget,
}

impl Facts {
    /// Floating-point operations of the whole picture.
    fn flops(&self) -> f64 {
        let of = |phase: &Phase| {
            let runs = if phase.name.ends_with("denoiser") { self.steps } else { 1 };
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
        let verdict = match limit {
            Some(limit) if !self.budget.fits() => format!("no: {} are allowed", bytes(*limit)),
            Some(limit) => format!("yes, within {}", bytes(*limit)),
            None => "yes, if the device has that".to_owned(),
        };
        let guided = if self.is_guided { "with guidance" } else { "without guidance" };
        format!(
            "{}, {}\n{} ({}), {}, {} steps {guided}, {}, decoder {}\n\n{}\n{ways}\npeak: {} ({peak_phase}); largest binding {} of {}; \
             {:.1} TFLOP for the picture\n{verdict}\n",
            self.adapter,
            self.driver,
            one_line(&self.model),
            self.family,
            self.size,
            self.steps,
            self.dtype,
            self.vae_dtype,
            table(&rows),
            bytes(*peak_bytes),
            bytes(self.largest_binding()),
            bytes(self.max_binding),
            self.flops() / 1e12,
        )
    }

    fn as_json(&self) -> Value {
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
            "guided": self.is_guided,
            "dtype": self.dtype,
            "vae_dtype": self.vae_dtype,
            "phases": phases.iter().map(phase).collect::<Vec<_>>(),
            "keeps_text_encoders": residency.keeps_text,
            "keeps_denoiser": residency.keeps_denoiser,
            "tile": residency.tile,
            "peak_bytes": peak_bytes,
            "peak_phase": peak_phase,
            "limit": limit,
            "largest_binding": self.largest_binding(),
            "max_binding_bytes": self.max_binding,
            "flops": self.flops(),
            "fits": self.budget.fits(),
        })
    }
}

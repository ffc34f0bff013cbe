//! `photogram tune`: which variants are the fastest on this adapter.

use std::path::Path;

use engine::device::Gpu;
use engine::pipelines::{Model, Pipeline, PixelSize, Request};
use engine::profile::Clock;
use engine::tuning::{Identity, Measured, RUNS, Tuned, Tuner};
use engine::validate::Against;
use kernels::DType;
use serde_json::{Value, json};

use crate::adapter::{Adapter, CACHE, cache_folder, open_tuned};
use crate::args::TuneArgs;
use crate::failure::{Code, Failure};
use crate::metadata::SOFTWARE;
use crate::output::{check_writable, write_json};
use crate::report::{Report, Verbosity, print, print_json};
use crate::request::{open_model, plain_request};
use crate::tables::table;

/// Measures, keeps and prints which variants are the fastest.
///
/// # Errors    [`Code::Unsupported`] on a software adapter and where CI is set; [`Code::CheckFailed`] if a variant is wrong
pub(crate) async fn run(args: &TuneArgs) -> Result<(), Failure> {
    if std::env::var_os("CI").is_some_and(|value| !value.is_empty()) {
        return Err(Failure::new(Code::Unsupported, "CI is set: nothing is tuned where runs have to repeat"));
    }
    let report = Report::new(if args.quiet { Verbosity::Quiet } else { Verbosity::Normal });
    report.stage("opening the model");
    let model = open_model(&args.source).await?;
    let request = plain_request("", &args.source, &args.shape, &model);
    model.check(&request)?;
    let Adapter { gpu, notes } = open_tuned(&args.source.adapter, &report).await?;
    if gpu.caps().software {
        let message = format!("{}: software adapters are not tuned", gpu.adapter_name());
        let hint = "their variants stand in the order that was measured; --adapter takes a GPU";
        return Err(Failure::new(Code::Unsupported, message).with_hint(hint));
    }
    let folder = cache_folder().ok_or_else(|| Failure::usage(CACHE, "a folder", "none"))?;
    let tuning = tune(&gpu, Tuner::new(gpu.clone()), model, &request, &folder, &report).await?;
    let tuning = Tuning { notes, ..tuning };
    if args.json {
        print_json(&tuning.as_json())?;
    } else {
        let text = tuning.described();
        print(&text, &text)?;
    }
    tuning.check()
}

/// Measures the variants that `request` takes, and keeps the fastest in the adapter's file in `folder`, beside what is there.
///
/// # Errors    [`Code::Output`], known before anything is measured; those of the device
async fn tune(
    gpu: &Gpu,
    mut tuner: Tuner,
    model: Model,
    request: &Request,
    folder: &Path,
    report: &Report,
) -> Result<Tuning, Failure> {
    let identity = Identity::of(gpu);
    loaders::create_folder(folder)?;
    let path = folder.join(identity.file_name());
    check_writable(&path)?;

    let pipeline = Pipeline::new(gpu.clone(), model);
    let tasks = pipeline.tuning_tasks(request)?;
    report.steps("measuring", tasks.len());
    let mut tuned = Vec::with_capacity(tasks.len());
    for task in &tasks {
        tuned.push(tuner.tune(task).await?);
        report.step();
    }
    report.clear();

    let mut choices = gpu.choices().clone();
    tuned.iter().for_each(|tuned| tuned.choose(&mut choices));
    write_json(&path, &identity.to_json(&choices))?;
    report.note(&format!("{}: {} choices written", path.display(), choices.len()));
    Ok(Tuning {
        identity,
        notes: Vec::new(),
        model: pipeline.model().name.clone(),
        size: request.size,
        is_guided: request.guidance.is_on(),
        dtype: pipeline.dtype(),
        clock: tuner.clock(),
        file: path.display().to_string(),
        tuned,
    })
}

/// What was measured, and for what.
struct Tuning {
    identity: Identity,
    notes: Vec<String>,
    model: String,
    size: PixelSize,
    is_guided: bool,
    dtype: DType,
    clock: Clock,
    file: String,
    tuned: Vec<Tuned>,
}

impl Tuning {
    /// # Errors    [`Code::CheckFailed`] if a variant is wrong
    fn check(&self) -> Result<(), Failure> {
        let mut wrong: Vec<&str> = self.wrong().map(|(_, measured, _)| measured.variant).collect();
        wrong.sort_unstable();
        wrong.dedup();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Code::CheckFailed,
            format!("wrong on this adapter, not chosen: {}", wrong.join(", ")),
        ))
    }

    fn wrong(&self) -> impl Iterator<Item = (&Tuned, &Measured, &str)> {
        let variants = self.tuned.iter().flat_map(|tuned| tuned.variants.iter().map(move |v| (tuned, v)));
        variants.filter_map(|(tuned, measured)| Some((tuned, measured, measured.wrong.as_deref()?)))
    }

    fn described(&self) -> String {
        let Identity { adapter, driver, .. } = &self.identity;
        let timing = match self.clock {
            Clock::Timestamps => "timestamps of the adapter",
            Clock::Wall => "wall time of repeated dispatches: this adapter has no timestamps",
        };
        let guided = if self.is_guided { "with guidance" } else { "without guidance" };
        let head = ["operation", "operands", "calls", "chosen", "gain", "ms of each"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.tuned.iter().map(|tuned| {
            let operands: Vec<String> = tuned.task.inputs.iter().map(ToString::to_string).collect();
            let ms: Vec<String> = tuned.variants.iter().map(ms_described).collect();
            vec![
                tuned.task.op.name().to_owned(),
                operands.join(" "),
                tuned.task.calls.to_string(),
                tuned.chosen().map_or("-", |chosen| chosen.variant).to_owned(),
                tuned.gain().map_or_else(|| "-".to_owned(), |gain| format!("{gain:.2}x")),
                ms.join(", "),
            ]
        }));
        let mut text = format!(
            "{adapter}, {driver}\n{}, {}, {guided}, {}\n{timing}; the shortest of {RUNS}\n\n{}",
            self.model,
            self.size,
            self.dtype,
            table(&rows)
        );
        for (tuned, measured, why) in self.wrong() {
            text.push_str(&format!("\n{} is wrong, {}: {why}\n", measured.variant, tuned.task.key()));
        }
        text
    }

    fn as_json(&self) -> Value {
        let variant = |measured: &Measured| {
            json!({
                "variant": measured.variant,
                "ms": measured.ns.map(|ns| ns / 1e6),
                "pass": measured.wrong.is_none(),
                "reason": measured.wrong,
            })
        };
        let operation = |tuned: &Tuned| {
            let operands: Vec<String> = tuned.task.inputs.iter().map(ToString::to_string).collect();
            let attributes = tuned.task.op.attributes();
            let attributes: Vec<String> =
                attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            json!({
                "operation": tuned.task.op.name(),
                "attributes": attributes.join(" "),
                "operands": operands,
                "calls": tuned.task.calls,
                "compared_with": match tuned.against {
                    Against::Reference => "reference",
                    Against::Samples => "samples of the reference",
                    Against::Variant => "first right variant",
                },
                "usual": tuned.usual().variant,
                "chosen": tuned.chosen().map(|chosen| chosen.variant),
                "gain": tuned.gain(),
                "variants": tuned.variants.iter().map(variant).collect::<Vec<_>>(),
            })
        };
        json!({
            "version": SOFTWARE,
            "adapter": self.identity.adapter,
            "driver": self.identity.driver,
            "shaders": self.identity.shaders,
            "notes": self.notes,
            "model": self.model,
            "width": self.size.width,
            "height": self.size.height,
            "guided": self.is_guided,
            "dtype": self.dtype.to_string(),
            "clock": match self.clock {
                Clock::Timestamps => "timestamps",
                Clock::Wall => "wall",
            },
            "statistic": "minimum",
            "file": self.file,
            "operations": self.tuned.iter().map(operation).collect::<Vec<_>>(),
        })
    }
}

fn ms_described(measured: &Measured) -> String {
    match (&measured.wrong, measured.ns) {
        (Some(_), _) => format!("{} wrong", measured.variant),
        (None, Some(ns)) => format!("{} {:.3}", measured.variant, ns / 1e6),
        (None, None) => format!("{} -", measured.variant),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use engine::device::AdapterChoice;
    use engine::tuning::{Task, read_choices};
    use kernels::TensorType;
    use kernels::ops::MatMul;

    use super::*;
    use crate::args::{Cli, Command};

    fn tuning(wrong: Option<&str>) -> Tuning {
        let measured = |variant, ms: f64, wrong: Option<&str>| Measured {
            variant,
            ns: wrong.is_none().then_some(1e6 * ms),
            wrong: wrong.map(str::to_owned),
        };
        let inputs = vec![TensorType::f32([8, 8]); 2];
        Tuning {
            identity: Identity { adapter: "GPU".into(), driver: "driver 1".into(), shaders: "0".into() },
            notes: vec!["a note".to_owned()],
            model: "model".to_owned(),
            size: PixelSize { width: 64, height: 64 },
            is_guided: true,
            dtype: DType::F16,
            clock: Clock::Timestamps,
            file: "tuning.json".to_owned(),
            tuned: vec![Tuned {
                task: Task { op: Arc::new(MatMul::default()), inputs, calls: 3 },
                against: Against::Samples,
                variants: vec![measured("fast", 0.5, wrong), measured("usual", 1.0, None)],
            }],
        }
    }

    /// On whatever adapter there is: what is behind the refusals of [`run`].
    #[test]
    fn what_is_measured_is_kept_for_later_runs() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/pipelines/sd1_layout/model");
        let words = ["photogram", "tune", "-m", model, "-W", "16", "-H", "16", "--cfg-scale", "1"];
        let Ok(Cli { command: Command::Tune(args) }) = Cli::try_parse_from(words) else {
            panic!("words of ours")
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = folder.path().join("cache");
        let mut choices = gpu.choices().clone();
        choices.distrust("an earlier one");
        let gpu = gpu.with_choices(choices);
        let measured = |cache: &Path| {
            pollster::block_on(async {
                let model = open_model(&args.source).await?;
                let request = plain_request("", &args.source, &args.shape, &model);
                let tuner = Tuner::new(gpu.clone()).with_runs(1);
                tune(&gpu, tuner, model, &request, cache, &Report::new(Verbosity::Quiet)).await
            })
        };
        // What cannot be written is known before anything is measured.
        let full = folder.path().join("full");
        loaders::create_folder(&full.join(Identity::of(&gpu).file_name())).expect("a folder");
        let failure = measured(&full).err().expect("a folder is no file");
        assert_eq!((failure.code, gpu.counts()[1]), (Code::Output, 0));

        let tuning = measured(&cache).expect("a sound model");
        assert!(tuning.check().is_ok() && tuning.tuned.len() > 10, "{}", tuning.described());
        let identity = Identity::of(&gpu);
        let path = cache.join(identity.file_name());
        assert_eq!(tuning.file, path.display().to_string());
        let kept = pollster::block_on(read_choices(&path, &identity)).expect("its own file");
        for tuned in &tuning.tuned {
            let chosen = tuned.chosen().expect("one is right").variant;
            assert_eq!(kept.get(tuned.task.op.as_ref(), &tuned.task.inputs), Some(chosen));
        }
        assert_eq!(kept.len(), tuning.tuned.len());
        assert_eq!(kept.distrusted().collect::<Vec<_>>(), ["an earlier one"], "beside what was there");
    }

    #[test]
    fn a_row_says_what_was_chosen_and_what_it_gains() {
        let row = |tuning: &Tuning| {
            let text = tuning.described();
            let row = text.lines().find(|line| line.starts_with("matmul ")).expect("a row");
            row.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        let right = tuning(None);
        assert_eq!(row(&right), "matmul f32[8, 8] f32[8, 8] 3 fast 2.00x fast 0.500, usual 1.000");
        assert!(right.check().is_ok());
        let json = right.as_json();
        let operation = &json["operations"][0];
        assert_eq!((&operation["chosen"], &operation["gain"]), (&"fast".into(), &2.0.into()));
        assert_eq!(json["notes"][0], "a note");

        let wrong = tuning(Some("nmse 1"));
        assert_eq!(row(&wrong), "matmul f32[8, 8] f32[8, 8] 3 usual 1.00x fast wrong, usual 1.000");
        assert!(wrong.described().contains("\nfast is wrong, matmul "), "{}", wrong.described());
        let failure = wrong.check().unwrap_err();
        assert_eq!(
            (failure.code, &*failure.message),
            (Code::CheckFailed, "wrong on this adapter, not chosen: fast")
        );
        assert_eq!(wrong.as_json()["operations"][0]["variants"][0]["pass"], false);
    }
}

//! The kernels of a model at its own shapes.

use ::kernels::check::Comparison;
use engine::pipelines::Pipeline;
use engine::tuning::Task;
use engine::validate::{Verdict, validate_task};
use serde_json::{Value, json};

use super::marks::Marks;
use super::{check, comparison_as_json, figure, pass_or_fail, worse};
use crate::adapter::{Adapter, open_tuned};
use crate::args::{ModelArgs, PrecisionArg, ValidateArgs};
use crate::failure::Failure;
use crate::report::{Report, print, print_json};
use crate::request::{open_model, plain_request};
use crate::tables::table;

/// A kernel at a shape, in one variant.
struct Checked<'t> {
    task: &'t Task,
    verdicts: Vec<Verdict>,
}

impl Checked<'_> {
    fn variant(&self) -> &'static str {
        self.verdicts[0].variant
    }

    fn is_right(&self) -> bool {
        self.verdicts.iter().all(Verdict::pass)
    }

    fn worst(&self, figure: fn(&Comparison) -> f64) -> f64 {
        self.verdicts.iter().map(|verdict| figure(&verdict.comparison)).fold(0.0, worse)
    }

    fn operands(&self) -> Vec<String> {
        self.task.inputs.iter().map(ToString::to_string).collect()
    }
}

/// Runs the variants that a picture of this size takes. One that is wrong is passed over from here on, and the next is tried.
pub(super) async fn validate(args: &ValidateArgs, report: &Report) -> Result<(), Failure> {
    let source = ModelArgs {
        model: args.model.clone(),
        vae: None,
        precision: args.precision.unwrap_or(PrecisionArg::Auto),
        adapter: args.adapter.clone(),
    };
    report.stage("opening the model");
    let model = open_model(&source).await?;
    let request = plain_request("", &source, &args.shape, &model);
    model.check(&request)?;
    let Adapter { mut gpu, notes } = open_tuned(&args.adapter, report).await?;
    let pipeline = Pipeline::new(gpu.clone(), model);
    let tasks = pipeline.tasks(&request)?;
    report.steps("checking", tasks.len());
    let mut marks = Marks::new(&gpu);
    let mut checked: Vec<Checked<'_>> = Vec::with_capacity(tasks.len());
    for task in &tasks {
        loop {
            let verdicts = validate_task(&gpu, task).await?;
            if verdicts.is_empty() {
                break;
            }
            let found = Checked { task, verdicts };
            let is_new = gpu.choices().trusts(found.variant());
            let is_over = found.is_right() || !is_new;
            if !is_over {
                marks.note(found.variant(), true);
                gpu = marks.applied(gpu);
            }
            checked.push(found);
            if is_over {
                break;
            }
        }
        report.step();
    }
    report.clear();
    marks.write(&gpu, report);

    if args.json {
        let checked: Vec<Value> = checked.iter().map(as_json).collect();
        print_json(&json!({
            "adapter": gpu.adapter_name(),
            "driver": gpu.driver(),
            "notes": notes,
            "model": pipeline.model().name,
            "width": request.size.width,
            "height": request.size.height,
            "dtype": pipeline.dtype().to_string(),
            "kernels": checked,
        }))?;
    } else {
        let head = format!(
            "{}, {}\n{}, {}, {}\n",
            gpu.adapter_name(),
            gpu.driver(),
            pipeline.model().name,
            request.size,
            pipeline.dtype()
        );
        let text = format!("{head}\n{}", described(&checked));
        print(&text, &text)?;
    }
    let failed = checked.iter().filter(|checked| !checked.is_right()).count();
    check(failed == 0, || {
        format!("{failed} of {} kernels at these shapes are wrong on this adapter", checked.len())
    })
}

fn described(checked: &[Checked<'_>]) -> String {
    let head = ["operation", "operands", "calls", "variant", "max abs", "max rel", "nmse", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(checked.iter().map(|checked| {
        vec![
            checked.task.op.name().to_owned(),
            checked.operands().join(" "),
            checked.task.calls.to_string(),
            checked.variant().to_owned(),
            figure(checked.worst(|comparison| comparison.max_abs)),
            figure(checked.worst(|comparison| comparison.max_rel)),
            figure(checked.worst(|comparison| comparison.nmse)),
            pass_or_fail(checked.is_right()).to_owned(),
        ]
    }));
    table(&rows)
}

fn as_json(checked: &Checked<'_>) -> Value {
    let kinds = checked.verdicts.iter().map(|verdict| {
        json!({
            "values": verdict.hard.name(),
            "padding_is_zero": verdict.padding_is_zero,
            "comparison": comparison_as_json(&verdict.comparison),
        })
    });
    json!({
        "operation": checked.task.op.name(),
        "attributes": checked.verdicts[0].attributes,
        "operands": checked.operands(),
        "calls": checked.task.calls,
        "variant": checked.variant(),
        "pass": checked.is_right(),
        "checks": kinds.collect::<Vec<_>>(),
    })
}

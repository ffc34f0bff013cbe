//! The kernels of a model at its own shapes.

use std::path::Path;

use ::kernels::check::Comparison;
use engine::device::Gpu;
use engine::pipelines::Pipeline;
use engine::tuning::Task;
use engine::validate::{Verdict, validate_task};
use serde_json::{Value, json};

use super::marks::Marks;
use super::{check, comparison_as_json, figure, pass_or_fail, worse};
use crate::adapter::{Adapter, cache_folder, open_tuned};
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

/// Runs the variants that a picture of this size takes.
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
    let Adapter { gpu, notes } = open_tuned(&args.adapter, report).await?;
    let pipeline = Pipeline::new(gpu.clone(), model);
    let tasks = pipeline.tasks(&request)?;
    let checked = check_tasks(gpu.clone(), &tasks, cache_folder().as_deref(), report).await?;

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

/// Runs the variant that each task takes. One that is wrong is passed over from here on, in `folder` also for later runs, and
/// the next is tried.
async fn check_tasks<'t>(
    mut gpu: Gpu,
    tasks: &'t [Task],
    folder: Option<&Path>,
    report: &Report,
) -> Result<Vec<Checked<'t>>, Failure> {
    report.steps("checking", tasks.len());
    let mut marks = Marks::new(&gpu);
    let mut checked = Vec::with_capacity(tasks.len());
    for task in tasks {
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
    marks.write(folder, &gpu, report);
    Ok(checked)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::kernels::TensorType;
    use ::kernels::ops::MatMul;
    use engine::device::{AdapterChoice, FaultPlan};
    use engine::tuning::{Identity, read_choices};

    use super::*;
    use crate::report::Verbosity;

    #[test]
    fn what_is_wrong_at_a_models_shape_is_kept_for_later_runs() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let inputs = vec![TensorType::f32([4, 64]), TensorType::f32([64, 64])];
        let tasks = [Task { op: Arc::new(MatMul::default()), inputs, calls: 1 }];
        let identity = Identity::of(&gpu);
        // The variant, whether it was right, and who is distrusted later, where the device leaves a submission undone.
        let after = |skip_submission: Option<u64>| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            gpu.arm(FaultPlan { skip_submission, ..FaultPlan::default() });
            let report = Report::new(Verbosity::Quiet);
            let checked = pollster::block_on(check_tasks(gpu.clone(), &tasks, Some(folder.path()), &report));
            let checked = checked.unwrap_or_else(|failure| panic!("{}", failure.message));
            let path = folder.path().join(identity.file_name());
            let later = pollster::block_on(read_choices(&path, &identity));
            let distrusted =
                later.map_or(Vec::new(), |choices| choices.distrusted().map(str::to_owned).collect());
            // What was passed over is not tried again.
            assert_eq!(checked.len(), 1 + distrusted.len());
            assert!(checked.len() == 1 || checked[1].variant() != checked[0].variant());
            (checked[0].variant(), checked[0].is_right(), distrusted)
        };
        let (variant, right, none) = after(None);
        assert!(right && none.is_empty(), "{variant}: {none:?}");
        let [_, submissions] = gpu.counts();
        let mut wrong = 0;
        for skipped in 0..submissions {
            let (_, right, distrusted) = after(Some(skipped));
            assert_eq!(distrusted, if right { vec![] } else { vec![variant] }, "submission {skipped}");
            wrong += usize::from(!right);
        }
        println!("{wrong} of {submissions} submissions left undone: wrong");
        assert!(wrong >= 4, "one for each kind of values");
    }
}

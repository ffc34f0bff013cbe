//! `photogram profile`: where the time of a picture goes.

use engine::pipelines::{Pipeline, PixelSize};
use engine::profile::{Clock, Operation, Profile, ProfileOptions, Section, Total};
use kernels::DType;
use serde_json::{Value, json};

use crate::adapter::{Adapter, open_tuned};
use crate::args::ProfileArgs;
use crate::failure::Failure;
use crate::metadata::SOFTWARE;
use crate::output::{check_writable, write_json};
use crate::report::{Report, Verbosity, print, print_json};
use crate::request::{open_model, plain_request};
use crate::tables::{bytes, table};
use crate::trace::trace;

/// The most runs: a figure gains nothing from more.
const MAX_REPEAT: usize = 1000;

/// Prints what every kernel and layer takes.
///
/// Whatever can be wrong with a flag is found before a weight is read.
pub(crate) async fn run(args: &ProfileArgs) -> Result<(), Failure> {
    check_args(args)?;
    let report = Report::new(if args.quiet { Verbosity::Quiet } else { Verbosity::Normal });
    report.stage("opening the model");
    let model = open_model(&args.source).await?;
    let request = plain_request(&args.prompt, &args.source, &args.shape, &model);
    model.check(&request)?;
    let Adapter { gpu, notes } = open_tuned(&args.source.adapter, &report).await?;

    report.stage("compiling kernels, loading weights, measuring");
    let mut pipeline = Pipeline::new(gpu.clone(), model);
    let options = ProfileOptions { repeat: args.repeat, clock: args.wall.then_some(Clock::Wall) };
    let profile = pipeline.profile(&request, options).await?;
    report.clear();

    let profiled = Profiled {
        has_timestamps: gpu.clock() == Clock::Timestamps,
        adapter: gpu.adapter_name().to_owned(),
        driver: gpu.driver(),
        notes,
        model: pipeline.model().name.clone(),
        size: request.size,
        is_guided: request.guidance.is_on(),
        dtype: pipeline.dtype(),
        vae_dtype: pipeline.vae_dtype(),
        profile,
    };
    if let Some(path) = &args.trace {
        write_json(path, &trace(&profiled.profile, args.depth))?;
        report.note(&format!("{}: written", path.display()));
    }
    if args.json {
        print_json(&profiled.as_json(args.depth))
    } else {
        let text = profiled.described(args.depth, args.top);
        print(&text, &text)
    }
}

/// Checks what depends on no model.
///
/// # Errors    [`crate::failure::Code::Usage`], [`crate::failure::Code::Output`]
fn check_args(args: &ProfileArgs) -> Result<(), Failure> {
    if !(1..=MAX_REPEAT).contains(&args.repeat) {
        return Err(Failure::usage("--repeat", format!("1 to {MAX_REPEAT}"), args.repeat));
    }
    for (flag, count) in [("--depth", args.depth), ("--top", args.top)] {
        if count == 0 {
            return Err(Failure::usage(flag, "1 or more", count));
        }
    }
    args.trace.as_deref().map_or(Ok(()), check_writable)
}

/// A profile and what it is of.
struct Profiled {
    profile: Profile,
    has_timestamps: bool,
    adapter: String,
    driver: String,
    notes: Vec<String>,
    model: String,
    size: PixelSize,
    is_guided: bool,
    dtype: DType,
    vae_dtype: DType,
}

impl Profiled {
    fn described(&self, depth: usize, top: usize) -> String {
        let Profile { clock, repeat, roof, peak_bytes, sections } = &self.profile;
        let timing = match (clock, self.has_timestamps) {
            (Clock::Timestamps, _) => "timestamps of the adapter",
            (Clock::Wall, true) => "wall time of repeated dispatches",
            (Clock::Wall, false) => "wall time of repeated dispatches: this adapter has no timestamps",
        };
        let guided = if self.is_guided { "with guidance" } else { "without guidance" };
        let mut text = format!(
            "{}, {}\n{}, {}, {guided}, {}, decoder {}\n{timing}; medians of {repeat}\n\
             peak: {} GFLOP/s by a matrix product, {} GB/s by a sum; {} of buffers at most\n",
            self.adapter,
            self.driver,
            self.model,
            self.size,
            self.dtype,
            self.vae_dtype,
            figure(roof.flops_per_s / 1e9),
            figure(roof.bytes_per_s / 1e9),
            bytes(*peak_bytes),
        );
        for section in sections {
            let total = section.total(roof);
            text.push_str(&format!("\n{}\n\n", summary(section)));
            text.push_str(&totals_described("kernel", &total, section.by_kernel(roof), top));
            text.push('\n');
            text.push_str(&totals_described("layer", &total, section.by_layer(roof, depth), top));
        }
        text
    }

    fn as_json(&self, depth: usize) -> Value {
        let Profile { clock, repeat, roof, peak_bytes, sections } = &self.profile;
        json!({
            "version": SOFTWARE,
            "model": self.model,
            "adapter": self.adapter,
            "driver": self.driver,
            "notes": self.notes,
            "width": self.size.width,
            "height": self.size.height,
            "guided": self.is_guided,
            "dtype": self.dtype.to_string(),
            "vae_dtype": self.vae_dtype.to_string(),
            "clock": match clock {
                Clock::Timestamps => "timestamps",
                Clock::Wall => "wall",
            },
            "repeat": repeat,
            "statistic": "median",
            "peak": {
                "gflops_per_s": roof.flops_per_s / 1e9,
                "gbytes_per_s": roof.bytes_per_s / 1e9,
            },
            "peak_bytes": peak_bytes,
            "sections": sections.iter().map(|section| self.section_as_json(section, depth)).collect::<Vec<_>>(),
        })
    }

    fn section_as_json(&self, section: &Section, depth: usize) -> Value {
        let roof = &self.profile.roof;
        let totals = |key: &str, totals: Vec<Total>| {
            let with_name = |total: &Total| {
                let mut value = total_as_json(total, section.ns());
                value[key] = total.name.clone().into();
                value
            };
            totals.iter().map(with_name).collect::<Vec<_>>()
        };
        let operation = |operation: &Operation| {
            let mut value = total_as_json(&Total::of_operation(operation, roof), section.ns());
            value["layer"] = operation.path.clone().into();
            value["kernel"] = operation.kernel.into();
            value["operands"] = operation.inputs.iter().map(ToString::to_string).collect();
            value["result"] = operation.output.to_string().into();
            value["dispatches"] = operation
                .dispatches
                .iter()
                .map(|timed| json!({ "shader": timed.shader, "grid": timed.grid, "ms": timed.ns / 1e6 }))
                .collect();
            value
        };
        let mut value = total_as_json(&section.total(roof), section.ns());
        value["section"] = section.name.clone().into();
        value["submissions"] = section.host.submissions.into();
        value["recording_ms"] = (1e3 * section.host.recording.as_secs_f64()).into();
        value["submitting_ms"] = (1e3 * section.host.submitting.as_secs_f64()).into();
        value["wall_ms"] = (1e3 * section.host.wall.as_secs_f64()).into();
        value["idle_ms"] = (1e3 * section.idle().as_secs_f64()).into();
        value["kernels"] = totals("kernel", section.by_kernel(roof)).into();
        value["layers"] = totals("layer", section.by_layer(roof, depth)).into();
        value["operations"] = section.operations.iter().map(operation).collect();
        value
    }
}

/// Figures of a section as a whole.
fn summary(section: &Section) -> String {
    let host = &section.host;
    let ms = |duration: std::time::Duration| 1e3 * duration.as_secs_f64();
    format!(
        "{}: {:.2} ms of wall time, {:.2} ms in kernels, {:.2} ms idle; {:.2} ms recording, {:.2} ms handing over to the driver, {} dispatches in {} \
         submission{}",
        section.name,
        ms(host.wall),
        section.ns() / 1e6,
        ms(section.idle()),
        ms(host.recording),
        ms(host.submitting),
        section.dispatches(),
        host.submissions,
        if host.submissions == 1 { "" } else { "s" },
    )
}

fn totals_described(what: &str, whole: &Total, mut totals: Vec<Total>, top: usize) -> String {
    let rest = totals.split_off(top.min(totals.len()));
    if !rest.is_empty() {
        totals.push(Total::of(format!("{} more", rest.len()), &rest));
    }
    let head = [what, "calls", "dispatches", "ms", "share", "GFLOP/s", "GB/s", "of peak"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(totals.iter().chain([&Total { name: "all".to_owned(), ..whole.clone() }]).map(|total| {
        vec![
            total.name.clone(),
            total.calls.to_string(),
            total.dispatches.to_string(),
            format!("{:.3}", total.ns / 1e6),
            format!("{:.1}%", 100.0 * share(total, whole.ns)),
            figure(total.flops_per_s() / 1e9),
            figure(total.bytes_per_s() / 1e9),
            format!("{:.1}%", 100.0 * total.of_roof()),
        ]
    }));
    table(&rows)
}

fn total_as_json(total: &Total, of_ns: f64) -> Value {
    json!({
        "calls": total.calls,
        "dispatches": total.dispatches,
        "ms": total.ns / 1e6,
        "share": share(total, of_ns),
        "flops": total.cost.flops,
        "bytes": total.cost.bytes,
        "gflops_per_s": total.flops_per_s() / 1e9,
        "gbytes_per_s": total.bytes_per_s() / 1e9,
        "of_peak": total.of_roof(),
    })
}

/// Three digits, or all of a whole number's.
fn figure(value: f64) -> String {
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// The part of `of_ns` that `total` is, 1 being all.
fn share(total: &Total, of_ns: f64) -> f64 {
    if of_ns > 0.0 { total.ns / of_ns } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_after_the_top_are_added_up() {
        let total = |name: &str, ms: f64| Total {
            ns: 1e6 * ms,
            calls: 1,
            dispatches: 2,
            ns_at_roof: 5e5 * ms,
            ..Total::of(name, &[])
        };
        let totals = vec![total("a", 3.0), total("b", 2.0), total("c", 1.0)];
        let whole = Total::of("step", &totals);
        let text = totals_described("kernel", &whole, totals.clone(), 1);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["a", "1", "2", "3.000", "50.0%", "0.000", "0.000", "50.0%"]);
        assert_eq!(words[2], ["2", "more", "2", "4", "3.000", "50.0%", "0.000", "0.000", "50.0%"]);
        assert_eq!(words[3], ["all", "3", "6", "6.000", "100.0%", "0.000", "0.000", "50.0%"]);
        assert_eq!((words.len(), totals_described("kernel", &whole, totals, 3).lines().count()), (4, 5));
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(
            [0.0, 0.0214, 2.345, 23.45, 234.5, 23456.7].map(figure),
            ["0.000", "0.021", "2.35", "23.4", "234", "23457"]
        );
    }
}

//! `photogram inspect`: what a checkpoint is.

use engine::pipelines::{Inspection, Layout, PartReport, inspect};
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::failure::{Failure, one_line};
use crate::report::{print, print_json};
use crate::tables::{bytes, table};

/// Prints what is at a path.
///
/// A checkpoint that photogram knows and cannot run is no failure; one of an unknown family is.
pub(crate) async fn run(args: &InspectArgs) -> Result<(), Failure> {
    let inspection = inspect(&args.path).await?;
    if args.json {
        print_json(&as_json(&inspection))?;
    } else {
        let text = described(&inspection);
        print(&text, &text)?;
    }
    match inspection.problem {
        Some(error) if inspection.family.is_none() => Err(error.into()),
        _ => Ok(()),
    }
}

fn described(inspection: &Inspection) -> String {
    let layout = match inspection.layout {
        Layout::DiffusersFolder => "diffusers folder",
        Layout::SingleFile => "single file",
    };
    let family = inspection.family.as_deref().unwrap_or("unknown family");
    let mut rows =
        vec![["part", "class", "tensors", "bytes", "stored as", "state"].map(str::to_owned).to_vec()];
    rows.extend(inspection.parts.iter().map(|part| {
        vec![
            part.name.clone(),
            part.class.clone().unwrap_or_else(|| "-".to_owned()),
            if part.encodings.is_empty() { "-".to_owned() } else { part.n_tensors().to_string() },
            if part.encodings.is_empty() { "-".to_owned() } else { bytes(part.bytes()) },
            stored_as(part),
            match (&part.problem, part.is_used) {
                (Some(_), _) => "not usable",
                (None, true) => "complete",
                (None, false) => "not used",
            }
            .to_owned(),
        ]
    }));
    let training = inspection.training.map_or_else(String::new, |training| {
        let snr = if training.zero_terminal_snr { ", zero terminal SNR" } else { "" };
        format!(", predicts {}{snr}", training.prediction.name())
    });
    let mut text = format!("{layout}, {}{training}\n\n{}\n", one_line(family), table(&rows));
    for part in &inspection.parts {
        if let Some(problem) = &part.problem {
            text.push_str(&format!("{}: {}\n", part.name, one_line(&problem.to_string())));
        }
    }
    if let Some(problem) = &inspection.problem {
        text.push_str(&format!("{}\n", one_line(&problem.to_string())));
    }
    text.push_str(if inspection.is_runnable() {
        "photogram can run it\n"
    } else {
        "photogram cannot run it\n"
    });
    text
}

fn stored_as(part: &PartReport) -> String {
    let encodings: Vec<String> = part.encodings.iter().map(|total| total.encoding.to_string()).collect();
    if encodings.is_empty() { "-".to_owned() } else { encodings.join(", ") }
}

fn as_json(inspection: &Inspection) -> Value {
    json!({
        "layout": match inspection.layout {
            Layout::DiffusersFolder => "diffusers",
            Layout::SingleFile => "single file",
        },
        "family": inspection.family,
        "prediction_type": inspection.training.map(|training| training.prediction.name()),
        "zero_terminal_snr": inspection.training.map(|training| training.zero_terminal_snr),
        "runnable": inspection.is_runnable(),
        "problem": inspection.problem.as_ref().map(ToString::to_string),
        "parts": inspection.parts.iter().map(part_as_json).collect::<Vec<_>>(),
    })
}

fn part_as_json(part: &PartReport) -> Value {
    let encodings = part.encodings.iter().map(|total| {
        json!({ "encoding": total.encoding.name(), "tensors": total.n_tensors, "bytes": total.bytes })
    });
    json!({
        "name": part.name,
        "class": part.class,
        "tensors": part.n_tensors(),
        "bytes": part.bytes(),
        "encodings": encodings.collect::<Vec<_>>(),
        "used": part.is_used,
        "problem": part.problem.as_ref().map(ToString::to_string),
    })
}

//! `--trace-ranges`: what every operation's results lie within.

use std::path::Path;

use engine::device::{Gpu, Traced};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::metadata::SOFTWARE;
use crate::output::write_json;
use crate::report::Report;

/// A trace under way; its file is written when it ends, also where a picture does not come about.
pub(crate) struct Ranges<'a> {
    gpu: Gpu,
    path: &'a Path,
    report: &'a Report,
    is_written: bool,
}

impl<'a> Ranges<'a> {
    /// Traces what runs on `gpu` from here on.
    pub(crate) fn begin(gpu: &Gpu, path: &'a Path, report: &'a Report) -> Self {
        gpu.trace(false);
        Ranges { gpu: gpu.clone(), path, report, is_written: false }
    }

    /// Ends the trace.
    ///
    /// # Errors    [`crate::failure::Code::Output`]
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        self.write()
    }

    fn write(&mut self) -> Result<(), Failure> {
        self.is_written = true;
        let ranges: Vec<Value> = self.gpu.end_trace().iter().map(as_json).collect();
        let value = json!({
            "version": SOFTWARE,
            "adapter": self.gpu.adapter_name(),
            "driver": self.gpu.driver(),
            "ranges": ranges,
        });
        write_json(self.path, &value)?;
        self.report.note(&format!("{}: {} results", self.path.display(), ranges.len()));
        Ok(())
    }
}

impl Drop for Ranges<'_> {
    /// The command ends with another failure, which comes first.
    fn drop(&mut self) {
        if !self.is_written
            && let Err(failure) = self.write()
        {
            self.report.note(&failure.message);
        }
    }
}

fn as_json(traced: &Traced) -> Value {
    let finite = |value: f32| value.is_finite().then_some(value);
    json!({
        "stage": traced.stage,
        "name": traced.name,
        "operation": traced.op,
        "variant": traced.variant,
        "type": traced.ty.to_string(),
        "min": finite(traced.output.min),
        "max": finite(traced.output.max),
        "non_finite": traced.output.non_finite,
        "values": traced.output.count,
    })
}

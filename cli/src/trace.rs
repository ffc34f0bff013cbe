//! A profile as Chrome's trace events, which Perfetto and chrome://tracing open.
//!
//! Source: Trace Event Format, <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>

use engine::profile::{Operation, Profile, Section, Total, layer};
use serde_json::{Value, json};

/// The row of a section that shows layers.
const LAYERS: usize = 1;
/// The row of a section that shows kernels.
const KERNELS: usize = 2;

/// A process for each section, one after the other; in each a row of layers, `depth` names deep, and a row with an event for
/// each dispatch. Times are in microseconds, without the gaps between dispatches, which timing them would distort.
pub(crate) fn trace(profile: &Profile, depth: usize) -> Value {
    let (mut events, mut at) = (Vec::new(), 0.0);
    for (section, pid) in profile.sections.iter().zip(1..) {
        events.push(named("process_name", pid, 0, &section.name));
        events.push(named("thread_name", pid, LAYERS, "layers"));
        events.push(named("thread_name", pid, KERNELS, "kernels"));
        add_layers(&mut events, section, pid, at, depth);
        for operation in &section.operations {
            let arguments = arguments(operation, profile);
            for dispatch in &operation.dispatches {
                let mut arguments = arguments.clone();
                arguments["shader"] = dispatch.shader.into();
                arguments["grid"] = dispatch.grid.to_vec().into();
                events.push(complete(operation.kernel, [pid, KERNELS], at, dispatch.ns, arguments));
                at += dispatch.ns;
            }
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn add_layers(events: &mut Vec<Value>, section: &Section, pid: usize, mut at: f64, depth: usize) {
    let name = |operation: &Operation| layer(&operation.path, depth).to_owned();
    for operations in section.operations.chunk_by(|a, b| name(a) == name(b)) {
        let ns = operations.iter().map(Operation::ns).sum();
        let arguments = json!({ "operations": operations.len() });
        events.push(complete(&name(&operations[0]), [pid, LAYERS], at, ns, arguments));
        at += ns;
    }
}

fn arguments(operation: &Operation, profile: &Profile) -> Value {
    let total = Total::of_operation(operation, &profile.roof);
    json!({
        "layer": operation.path,
        "variant": operation.kernel,
        "operands": operation.inputs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "shape": operation.output.to_string(),
        "GFLOP/s": total.flops_per_s() / 1e9,
        "GB/s": total.bytes_per_s() / 1e9,
        "of peak": total.of_roof(),
    })
}

fn complete(name: &str, [pid, tid]: [usize; 2], at_ns: f64, ns: f64, arguments: Value) -> Value {
    json!({
        "ph": "X", "name": name, "pid": pid, "tid": tid, "ts": at_ns / 1e3, "dur": ns / 1e3, "args": arguments,
    })
}

fn named(what: &str, pid: usize, tid: usize, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } })
}

//! `photogram validate` on what was recorded elsewhere.

use std::path::Path;

use loaders::safetensors::{Data, Tensor, write};
use serde_json::Value;

use crate::support::{check_refusals, edit, fixture, has_adapter, run, text};

/// Cases of torch's that no operation of photogram's computes.
const SKIPPED: [&str; 2] = ["bicubic interpolate", "embedding of a norm"];

fn validated(folder: &Path, file: &str) -> (Option<i32>, Vec<Value>) {
    let output = run(folder, &["validate", "--cases", file, "--json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (output.status.code(), report["cases"].as_array().expect("a list").clone())
}

fn named<'a>(cases: &'a [Value], verdict: &str) -> Vec<&'a str> {
    cases.iter().filter(|case| case["verdict"] == verdict).filter_map(|case| case["name"].as_str()).collect()
}

#[test]
fn operations_that_torch_recorded_pass_or_say_why_they_are_skipped() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |name: &str| {
        std::fs::copy(fixture("cases").join(name), folder.path().join(name)).expect("a fixture");
    };
    copy("torch.json");
    copy("torch.safetensors");
    let (code, cases) = validated(folder.path(), "torch.json");
    assert_eq!(code, Some(0));
    assert!(cases.len() > 60 && named(&cases, "pass").len() + SKIPPED.len() == cases.len(), "{cases:#?}");
    assert_eq!(named(&cases, "skipped"), SKIPPED);
    assert!(cases.iter().all(|case| (case["verdict"] == "skipped") == case["reason"].is_string()));
    // More than one way is tried on every adapter.
    for op in ["linear", "conv2d"] {
        let case = cases.iter().find(|case| case["op"] == op).expect("one of torch's functions");
        assert!(case["variants"].as_array().map(Vec::len) > Some(1), "{case:#}");
    }

    // Each result spoiled by one value.
    edit(&folder.path().join("torch.safetensors"), |parts| {
        let outputs: Vec<String> =
            parts.header.keys().filter(|name| name.ends_with(".output")).cloned().collect();
        for output in outputs {
            let entry = &parts.header[&output];
            let start = entry["data_offsets"][0].as_u64().expect("an offset") as usize;
            // The sign of the first value, which is the last byte of its word.
            let size = if entry["dtype"] == "F16" { 2 } else { 4 };
            parts.data[start..start + size].copy_from_slice(&[0x00, 0x48, 0x00, 0x48][4 - size..]);
        }
    });
    let (code, cases) = validated(folder.path(), "torch.json");
    assert_eq!(code, Some(1));
    assert_eq!(named(&cases, "pass"), [""; 0]);
    assert_eq!(named(&cases, "skipped"), SKIPPED);
}

/// `slope * x + (1 - slope) * max(x, 0)` cancels beyond a slope of 1.
#[test]
fn slopes_that_would_cancel_are_skipped() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for (slope, verdict) in [
        (0.0, "pass"),
        (0.5, "pass"),
        (0.999, "pass"),
        (1.0, "skipped"),
        (1.5, "skipped"),
        (1e4, "skipped"),
        (-0.1, "skipped"),
    ] {
        let x = [-2.0_f32, -0.5, 0.0, 3.0];
        let y = x.map(|x| if x < 0.0 { (slope * f64::from(x)) as f32 } else { x });
        let tensors = [
            Tensor { name: "x", shape: &[1, 4], data: Data::F32(&x) },
            Tensor { name: "y", shape: &[1, 4], data: Data::F32(&y) },
        ];
        write(&path("case.safetensors"), &tensors, &Default::default()).expect("written");
        let case = serde_json::json!([{ "name": "c", "op": "leaky_relu", "attributes": { "negative_slope": slope },
            "inputs": { "input": "x" }, "outputs": ["y"] }]);
        std::fs::write(path("case.json"), case.to_string()).expect("written");
        let (code, cases) = validated(folder.path(), "case.json");
        assert_eq!((code, &cases[0]["verdict"]), (Some(0), &verdict.into()), "{slope}: {cases:#?}");
        let reason = cases[0]["reason"].as_str().unwrap_or_default();
        assert_eq!(reason.ends_with("is not from 0 up to 1"), verdict == "skipped", "{reason}");
    }
}

#[test]
fn what_is_not_finite_in_a_recording_is_counted() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for (name, x, value) in [
        ("one.json", [1.0, 3.0], f32::INFINITY),
        ("none.json", [1.0, 3.0], 1.0),
        ("alike.json", [f32::INFINITY, f32::INFINITY], f32::INFINITY),
        ("unlike.json", [f32::INFINITY, 3.0], 1.0),
    ] {
        let tensors = [
            Tensor { name: "x", shape: &[1, 4], data: Data::F32(&[x[0], 2.0, 0.5, x[1]]) },
            Tensor { name: "y", shape: &[1, 4], data: Data::F32(&[value, 2.0, 0.5, value.max(3.0)]) },
        ];
        let file = path(name).with_extension("safetensors");
        write(&file, &tensors, &Default::default()).expect("written");
        let case = r#"[{"name": "c", "op": "relu", "inputs": {"input": "x"}, "outputs": ["y"]}]"#;
        std::fs::write(path(name), case).expect("written");
    }
    let row = |name: &str| {
        let output = run(folder.path(), &["validate", "--cases", name]);
        let stdout = text(&output.stdout);
        let row = stdout.lines().find(|line| line.starts_with("c  ")).expect("a row").to_owned();
        row.split_whitespace().skip(3).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("none.json"), "0 0 0 0 pass");
    assert_eq!(row("one.json"), "0 0 0 2 FAIL");
    // Torch has infinities where their operands are; where we have the same, we agree.
    assert_eq!(row("alike.json"), "0 0 0 0 pass");
    assert_eq!(row("unlike.json"), "0 0 0 1 FAIL");
    let (code, cases) = validated(folder.path(), "one.json");
    assert_eq!((code, &cases[0]["variants"][0]["comparison"]["non_finite"]), (Some(1), &2.into()));
}

#[test]
fn cases_that_are_not_described_as_they_should_be_are_refused() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("written");
    let tensors = std::fs::read(fixture("cases/torch.safetensors")).expect("a fixture");
    for (name, json) in [
        ("object", "{}"),
        ("cut", "[{"),
        ("nameless", r#"[{"op": "silu", "inputs": {"input": "silu.input"}, "outputs": ["silu.output"]}]"#),
        (
            "absent",
            r#"[{"name": "x", "op": "silu", "inputs": {"input": "no such"}, "outputs": ["silu.output"]}]"#,
        ),
        ("none", r#"[{"name": "x", "op": "silu", "inputs": {"input": "silu.input"}, "outputs": []}]"#),
    ] {
        write(&format!("{name}.json"), json.as_bytes());
        write(&format!("{name}.safetensors"), &tensors);
    }
    write("alone.json", b"[]");
    check_refusals(
        folder.path(),
        &["validate", "--cases"],
        &[
            (&["object.json"][..], 3, &["object.json", "a list of cases"][..]),
            (&["cut.json"], 3, &["cut.json"]),
            (&["nameless.json"], 3, &["case 0", "'name'"]),
            (&["absent.json"], 3, &["no such"]),
            (&["none.json"], 3, &["case 0", "'outputs'"]),
            (&["alone.json"], 2, &["alone.safetensors"]),
        ],
    );
}

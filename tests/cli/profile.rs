//! `photogram profile`.

use std::path::Path;

use serde_json::Value;

use crate::support::{draw, has_adapter, list, succeed, text, workplace};

/// Profiles a tiny model, quickly.
const PROFILE: [&str; 7] = ["profile", "-W", "32", "-H", "32", "--repeat", "1"];

fn profiled(folder: &Path, words: &[&str]) -> Value {
    let output = succeed(folder, &[&PROFILE, words, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn sum(values: &[Value], key: &str) -> f64 {
    values.iter().map(|value| value[key].as_f64().unwrap_or_else(|| panic!("'{key}': {value:#}"))).sum()
}

/// Sums of the same numbers in another order.
fn is_sum(sum: f64, of: &Value) -> bool {
    let of = of.as_f64().expect("a number");
    (sum - of).abs() <= 1e-9 * of.abs()
}

fn check_sums(profile: &Value) {
    for peak in ["gflops_per_s", "gbytes_per_s"] {
        assert!(profile["peak"][peak].as_f64() > Some(0.0), "{peak}");
    }
    for section in list(profile, "sections") {
        let name = &section["section"];
        let operations = list(section, "operations");
        for parts in [list(section, "kernels"), list(section, "layers"), operations] {
            for key in ["ms", "flops", "bytes", "calls"] {
                assert!(is_sum(sum(parts, key), &section[key]), "{name}: {key}");
            }
            assert!((sum(parts, "share") - 1.0).abs() < 1e-9, "{name}");
        }
        for parts in [list(section, "kernels"), list(section, "layers")] {
            assert_eq!(sum(parts, "dispatches"), section["dispatches"].as_f64().expect("a count"), "{name}");
            assert!(parts.is_sorted_by(|a, b| a["ms"].as_f64() >= b["ms"].as_f64()), "{name}");
        }
        let dispatches: usize = operations.iter().map(|operation| list(operation, "dispatches").len()).sum();
        assert_eq!(dispatches, section["dispatches"].as_u64().expect("a count") as usize, "{name}");
        for operation in operations {
            let dispatches = list(operation, "dispatches");
            assert!(dispatches.iter().all(|dispatch| dispatch["ms"].as_f64() >= Some(0.0)), "{operation:#}");
            assert!(is_sum(sum(dispatches, "ms"), &operation["ms"]), "{operation:#}");
        }
        for key in ["ms", "wall_ms", "recording_ms", "submitting_ms", "submissions"] {
            assert!(section[key].as_f64() > Some(0.0), "{name}: {key}");
        }
    }
}

#[test]
fn a_profile_adds_up() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    draw(folder.path(), &["-p", "x", "--stats", "stats.json", "-o", "out.png"]);
    let stats = std::fs::read(folder.path().join("stats.json")).expect("written");
    let stats: Value = serde_json::from_slice(&stats).expect("JSON");
    let has_timestamps = || {
        let output = succeed(folder.path(), &["devices", "--json"]);
        let devices: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        devices.as_array().expect("a list").iter().any(|d| d["auto"] == true && d["timestamps"] == true)
    };
    for (words, is_wall) in [(&[][..], !has_timestamps()), (&["--wall"], true)] {
        let profile = profiled(folder.path(), &[&["-m", "model"], words].concat());
        check_sums(&profile);
        assert_eq!(profile["clock"], if is_wall { "wall" } else { "timestamps" });
        assert_eq!((&profile["repeat"], &profile["statistic"]), (&1.into(), &"median".into()));
        assert!(profile["peak_bytes"].as_u64() > Some(0), "{}", profile["peak_bytes"]);
        let sections: Vec<_> = list(&profile, "sections")
            .iter()
            .map(|section| (section["section"].as_str().expect("a name"), &section["dispatches"]))
            .collect();
        assert_eq!(sections[0].0, "text_encoder");
        let counts = &stats["dispatches"];
        let planned = [
            ("prompt", &counts["denoiser_once_per_prompt"]),
            ("step", &counts["denoiser"]),
            ("decode", &counts["decoder"]),
        ];
        assert_eq!(sections[1..], planned);
    }
    let xl = profiled(folder.path(), &["-m", "xl", "--cfg-scale", "1"]);
    check_sums(&xl);
    let names: Vec<&Value> = list(&xl, "sections").iter().map(|section| &section["section"]).collect();
    assert_eq!(names, ["text_encoder", "text_encoder_2", "prompt", "step", "decode"]);
}

#[test]
fn a_profile_reads_as_tables() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let described = |words: &[&str]| {
        text(&succeed(folder.path(), &[&PROFILE[..], &["-m", "model"], words].concat()).stdout)
    };
    let tables = described(&[]);
    for says in ["GFLOP/s", "of peak", "peak: ", "medians of 1", "ms idle", "\nstep: ", "unet.down_blocks.0."]
    {
        assert!(tables.contains(says), "'{says}': {tables}");
    }
    let rows = |tables: &str| {
        let step = tables.split("\nstep: ").nth(1).expect("a step");
        let layers = step.split("\nlayer ").nth(1).expect("layers");
        layers.lines().skip(1).take_while(|line| !line.is_empty()).count()
    };
    // Twelve rows, those after them, and all.
    assert_eq!(rows(&tables), 14, "{tables}");
    assert_eq!(rows(&described(&["--depth", "1"])), 2, "the UNet, and all");
    assert_eq!(rows(&described(&["--top", "1"])), 3);
    assert!(described(&["--wall"]).contains("wall time of repeated dispatches"));
}

#[test]
fn a_trace_is_a_list_of_events_one_after_the_other() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let profile = profiled(folder.path(), &["-m", "model", "--trace", "trace.json"]);
    let trace = std::fs::read(folder.path().join("trace.json")).expect("written");
    let trace: Value = serde_json::from_slice(&trace).expect("JSON");
    // Microseconds that decimal numbers may be off.
    const ROUNDING: f64 = 1e-3;
    let of_row = |pid: usize, tid: usize| -> Vec<&Value> {
        let is_it = |event: &&Value| event["ph"] == "X" && event["pid"] == pid && event["tid"] == tid;
        list(&trace, "traceEvents").iter().filter(is_it).collect()
    };
    let mut at = 0.0;
    for (section, pid) in list(&profile, "sections").iter().zip(1..) {
        for tid in [1, 2] {
            let mut end = at;
            for event in of_row(pid, tid) {
                let [from, length] = ["ts", "dur"].map(|key| event[key].as_f64().expect("a number"));
                assert!(length >= 0.0 && (from - end).abs() < ROUNDING, "{event:#} after {end}");
                end = from + length;
            }
            let length = 1e3 * section["ms"].as_f64().expect("a number");
            assert!(
                (end - at - length).abs() < ROUNDING,
                "{}: {} for {length}",
                section["section"],
                end - at
            );
            if tid == 2 {
                at = end;
            }
        }
        let kernels = of_row(pid, 2);
        assert_eq!(kernels.len() as u64, section["dispatches"].as_u64().expect("a count"));
        let first = &list(section, "operations")[0];
        assert_eq!(kernels[0]["name"], first["kernel"]);
        assert_eq!(kernels[0]["args"]["variant"], first["kernel"]);
        assert_eq!(kernels[0]["args"]["shape"], first["result"]);
        assert!(kernels[0]["args"]["GFLOP/s"].is_number(), "{:#}", kernels[0]);
    }
}

//! Indices of shards; what is accepted reads each tensor's own value, and only from the folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use photogram_loaders::safetensors::{Data, Limits, Tensor, to_bytes};
use photogram_loaders::{Checkpoint, Error};
use pollster::block_on;
use tempfile::TempDir;

use super::random::{NUMBERS, Random, STRINGS, mutated_text};
use super::run;

const INDEX: &str = "model.safetensors.index.json";

/// A folder of shards. The tensor `t7` has the value 7.
struct Shards {
    place: TempDir,
    /// The shard of each tensor.
    map: Vec<(String, String)>,
}

impl Shards {
    /// Writes shards, and a tensor outside the folder.
    fn new(random: &mut Random) -> Self {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("model");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        let n_shards = 1 + random.below(4);
        let name = |idx: usize| format!("{}s{idx}.safetensors", if idx == 3 { "sub/" } else { "" });
        let mut map = Vec::new();
        for idx in 0..n_shards + random.below(5) {
            map.push((format!("t{idx}"), name(if idx < n_shards { idx } else { random.below(n_shards) })));
        }
        for idx in 0..n_shards {
            let shard = name(idx);
            let tensors: Vec<_> = map.iter().filter(|(_, other)| *other == shard).collect();
            let values: Vec<[f32; 1]> = tensors.iter().map(|(tensor, _)| [value_of(tensor)]).collect();
            let tensors: Vec<_> = tensors
                .iter()
                .zip(&values)
                .map(|((name, _), value)| Tensor { name, shape: &[], data: Data::F32(value) })
                .collect();
            std::fs::write(folder.join(shard), to_bytes(&tensors, &BTreeMap::new()).unwrap()).unwrap();
        }
        let outside = Tensor { name: "t0", shape: &[], data: Data::F32(&[-1.0]) };
        std::fs::write(place.path().join("x"), to_bytes(&[outside], &BTreeMap::new()).unwrap()).unwrap();
        Self { place, map }
    }

    fn folder(&self) -> PathBuf {
        self.place.path().join("model")
    }
}

fn value_of(tensor: &str) -> f32 {
    tensor.trim_start_matches('t').parse().unwrap()
}

/// An index of these members, keys and values being JSON text.
fn json(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!(r#"{{"metadata": {{"total_size": 4}}, "weight_map": {{{}}}}}"#, members.join(", "))
}

fn members(shards: &Shards) -> Vec<(String, String)> {
    shards.map.iter().map(|(tensor, shard)| (format!("\"{tensor}\""), format!("\"{shard}\""))).collect()
}

fn break_one(random: &mut Random, shards: &Shards) -> String {
    let mut members = members(shards);
    let at = random.below(members.len());
    let other = members[random.below(members.len())].clone();
    match random.below(10) {
        0 => members[at].1 = random.pick(&STRINGS).into(),
        1 => members[at].1 = random.pick(&NUMBERS).into(),
        2 => {
            let hostile = [
                "\"../x\"",
                "\"sub/../../x\"",
                "\"./s0.safetensors\"",
                "\"s0.safetensors/\"",
                "\"s9.safetensors\"",
                "\"model.safetensors.index.json\"",
                "\"sub\"",
                "\"S0.safetensors\"",
                "\"s0.safetensors \"",
            ];
            members[at].1 = random.pick(&hostile).into();
        }
        3 => members[at].1 = other.1,
        4 => members[at].0 = random.pick(&STRINGS).into(),
        5 => members.push(other),
        6 => drop(members.remove(at)),
        7 => members.push(("\"t9\"".into(), other.1)),
        8 => {
            let at = format!("\"{}\"", "\u{732b}".repeat(random.below(1_000)));
            members.push((at, other.1));
        }
        _ => {
            let text = json(&members);
            let whole = [
                (r#""weight_map""#, r#""weight_maps""#),
                (r#""metadata""#, r#""weight_map""#),
                (r#"{"total_size": 4}"#, "[[[[[[[["),
                (r#"{"total_size": 4}"#, "NaN"),
                (r#"{"metadata""#, r#"[{"metadata""#),
                (r#"}}"#, "}"),
            ];
            let (from, to) = random.pick(&whole);
            return text.replacen(from, to, 1);
        }
    }
    json(&members)
}

fn check(shards: &Shards, text: &[u8]) -> Result<(), (String, Error)> {
    let folder = shards.folder();
    let path = folder.join(INDEX);
    std::fs::write(&path, text).unwrap();
    let opened = block_on(Checkpoint::open(&path, &Limits::default()));
    let checkpoint = opened.map_err(|error| {
        // The index, or the shard that it names and that is none: itself.
        (path.display().to_string(), error)
    })?;
    for (name, entry) in checkpoint.tensors() {
        assert!(Path::new(entry.source.label()).starts_with(&folder), "{}", entry.source.label());
        assert!(entry.offset + entry.bytes <= entry.source.len());
        let bytes = block_on(checkpoint.read(entry)).unwrap();
        assert_eq!(bytes, value_of(name).to_le_bytes(), "{name}");
    }
    Ok(())
}

/// Runs `read` with shards that change every now and then.
fn run_with_shards(
    format: &str,
    share: std::ops::RangeInclusive<u64>,
    mut read: impl FnMut(&mut Random, u64, &Shards) -> Result<(), (String, Error)>,
) {
    let mut shards: Option<(u64, Shards)> = None;
    run(format, share, |random, idx| {
        let round = idx / 100;
        if shards.as_ref().is_none_or(|(of, _)| *of != round) {
            shards = Some((round, Shards::new(&mut Random::of(!round))));
        }
        let (_, shards) = shards.as_ref().unwrap();
        read(random, idx, shards)
    });
}

#[test]
fn indices_with_one_thing_broken() {
    run_with_shards("index JSON, one thing broken", 13..=40, |random, idx, shards| {
        let is_sound = idx % 8 == 0;
        let text = if is_sound { json(&members(shards)) } else { break_one(random, shards) };
        let read = check(shards, text.as_bytes());
        assert!(!is_sound || read.is_ok(), "{read:?}");
        read
    });
}

#[test]
fn indices_mutated_blindly() {
    run_with_shards("index JSON, blind", 2..=60, |random, _, shards| {
        check(shards, &mutated_text(json(&members(shards)).as_bytes(), random))
    });
}

//! What lies in the folder of caches.

use std::process::Output;
use std::time::{Duration, SystemTime};

use engine::device::{AdapterChoice, Gpu};
use engine::tuning::{Choices, Identity, read_choices};
use serde_json::Value;

use crate::support::{
    check_refusals, draw, has_adapter, list, names, photogram, succeed, taken, text, workplace,
};

#[test]
fn nothing_is_tuned_in_ci_nor_on_a_software_driver() {
    let folder = workplace();
    let listing = names(folder.path());
    let words = ["tune", "-m", "model", "-W", "32", "-H", "32"];
    let in_ci = photogram(folder.path(), &words).env("CI", "true").output().expect("the program starts");
    assert_eq!(in_ci.status.code(), Some(4));
    assert_eq!(text(&in_ci.stderr), "error: CI is set: nothing is tuned where runs have to repeat\n");
    if has_adapter() && taken(folder.path())["kind"] == "software" {
        check_refusals(folder.path(), &words, &[(&[], 4, &["software adapters are not tuned"])]);
    }
    assert_eq!(names(folder.path()), listing);
}

#[test]
fn what_was_measured_is_used_and_what_was_not_is_told_once() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let gpu = pollster::block_on(Gpu::open(AdapterChoice::Auto)).expect("there is one");
    let identity = Identity::of(&gpu);
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).expect("a folder");
    let path = cache.join(identity.file_name());
    let mut choices = Choices::default();
    choices.insert("matmul on f32[1, 1], f32[4, 1]", "matmul_register");
    let sound = identity.to_json(&choices);
    let mut foreign = sound.clone();
    foreign["driver"] = "another".into();
    for (stored, says) in [
        ("{".to_owned(), "JSON: expected an object"),
        (foreign.to_string(), "key 'driver': expected"),
        (sound.to_string(), ""),
    ] {
        std::fs::write(&path, &stored).expect("written");
        let output = draw(folder.path(), &["-p", "x", "-v", "--stats", "stats.json", "-o", "out.png"]);
        let stderr = text(&output.stderr);
        let is_note = |line: &&str| line.contains("; not used, ");
        let notes: Vec<&str> = stderr.lines().filter(is_note).collect();
        assert_eq!(notes.len(), usize::from(!says.is_empty()), "{stderr}");
        assert!(notes.iter().all(|note| note.contains(says)), "{stderr}");
        assert_eq!(stderr.contains("1 measured choices"), says.is_empty(), "{stderr}");
        let stats = std::fs::read(folder.path().join("stats.json")).expect("written");
        let stats: Value = serde_json::from_slice(&stats).expect("JSON");
        assert_eq!(list(&stats, "notes").len(), notes.len() + gpu.notes().len(), "{stats:#}");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), stored);
    }
}

#[test]
fn a_variant_that_was_found_wrong_is_passed_over_with_a_line() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let gpu = pollster::block_on(Gpu::open(AdapterChoice::Auto)).expect("there is one");
    let identity = Identity::of(&gpu);
    std::fs::create_dir(folder.path().join("cache")).expect("a folder");
    let mut choices = Choices::default();
    // What a software driver takes for products.
    choices.distrust("matmul_broadcast");
    let path = folder.path().join("cache").join(identity.file_name());
    std::fs::write(&path, identity.to_json(&choices).to_string()).expect("written");
    let output = draw(folder.path(), &["-p", "x", "-o", "out.png"]);
    let line = "not used, for `photogram validate` found them wrong here: matmul_broadcast\n";
    assert!(text(&output.stderr).contains(line), "{output:?}");
    let words = ["validate", "-m", "model", "-W", "32", "-H", "32", "--json"];
    let output = succeed(folder.path(), &words);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let kernels = list(&found, "kernels");
    assert!(kernels.iter().all(|kernel| kernel["pass"] == true), "{found:#}");
    let taken: Vec<&str> = kernels.iter().filter_map(|kernel| kernel["variant"].as_str()).collect();
    assert!(taken.contains(&"matmul_register") && !taken.contains(&"matmul_broadcast"), "{taken:?}");

    // What every adapter has, and is right by now: all variants are tried on their own cases, and later runs take it again.
    let mut choices = Choices::default();
    choices.distrust("matmul_register");
    std::fs::write(&path, identity.to_json(&choices).to_string()).expect("written");
    let output = succeed(folder.path(), &["validate", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let variants = list(&found, "variants");
    assert!(variants.iter().any(|variant| variant["variant"] == "matmul_register"), "none is passed over");
    let wrong: Vec<&Value> = variants.iter().filter(|variant| variant["pass"] != true).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let stderr = text(&output.stderr);
    assert!(stderr.ends_with(": variants that later runs pass over: none\n"), "{stderr}");
    let choices = pollster::block_on(read_choices(&path, &identity)).expect("its own file");
    assert!(choices.trusts("matmul_register"));
}

#[test]
fn stored_pipelines_are_written_once_and_anew_where_they_changed() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let gpu = pollster::block_on(Gpu::open(AdapterChoice::Auto)).expect("there is one");
    let path = folder.path().join("cache").join(Identity::of(&gpu).pipelines_file_name());
    let refused = |output: &Output| text(&output.stderr).contains("not what was written; not used");
    let draw = || draw(folder.path(), &["-p", "x", "-v", "-o", "out.png"]);
    assert!(!refused(&draw()));
    if !gpu.use_stored_pipelines(None) {
        assert!(!path.exists(), "this backend stores none");
        return;
    }
    let stored = std::fs::read(&path).expect("written");
    let written = path.metadata().and_then(|file| file.modified()).expect("a time");
    assert!(!refused(&draw()));
    assert_eq!(path.metadata().and_then(|file| file.modified()).expect("a time"), written);
    // What processes left that were killed while they wrote here goes as it is written anew.
    let [old, fresh] = [".photogram-old.tmp", ".photogram-fresh.tmp"].map(|name| path.with_file_name(name));
    for (path, days) in [(&old, 2), (&fresh, 0)] {
        let file = std::fs::File::create(path).expect("a file");
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60)).expect("a time");
    }
    for changed in [&stored[..stored.len() - 1], b"", b"something else"] {
        std::fs::write(&path, changed).expect("written");
        assert!(refused(&draw()));
        assert_eq!(std::fs::read(&path).expect("written"), stored);
    }
    assert_eq!((old.exists(), fresh.exists()), (false, true));
}

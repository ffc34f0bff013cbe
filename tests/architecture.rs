//! What the architecture fixes for good, as far as sources show it: which crate may name what, and that nothing lies unused.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kernels::{Caps, Subgroups};
use photogram_tests::workspace;

/// Folders that hold the program.
const PROGRAM: [&str; 4] = ["kernels/src", "loaders/src", "engine/src", "cli/src"];
/// Folders that hold Rust.
const ALL: [&str; 10] = [
    "kernels/src",
    "kernels/build.rs",
    "kernels/tests",
    "loaders/src",
    "loaders/tests",
    "engine/src",
    "cli/src",
    "tests",
    "benches",
    "cli/tests",
];

#[test]
fn only_the_device_layer_says_wgpu() {
    refuse(&ALL, &["wgpu"], &["engine/src/device/"]);
}

#[test]
fn only_loaders_opens_files() {
    refuse(&PROGRAM, &["fs::", "File::", "OpenOptions", "Mmap"], &["loaders/src/"]);
}

#[test]
fn only_the_trusted_module_is_unsafe() {
    refuse(&ALL, &["unsafe"], &["engine/src/device/trusted.rs"]);
}

#[test]
fn graphs_plans_and_samplers_hold_no_device() {
    let pure = ["graph", "plan", "nn", "models", "samplers", "noise", "reference.rs", "tuning/choices.rs"];
    let pure: Vec<String> = pure.iter().map(|module| format!("engine/src/{module}")).collect();
    let pure: Vec<&str> = pure.iter().map(String::as_str).collect();
    refuse(&pure, &["crate::device", "DeviceTensor", "Gpu"], &[]);
}

#[test]
fn shaders_stand_in_their_own_files() {
    refuse(&PROGRAM, &["@compute"], &[]);
}

#[test]
fn no_test_is_ignored() {
    refuse(&ALL, &["#[ignore"], &[]);
}

#[test]
fn crates_depend_downhill() {
    let siblings = ["kernels", "loaders", "engine", "photogram", "photogram-tests", "benches"];
    for (name, allowed) in [
        ("kernels", &[] as &[&str]),
        ("loaders", &[]),
        ("engine", &["kernels", "loaders"]),
        ("cli", &["engine", "kernels", "loaders"]),
    ] {
        let found: Vec<String> =
            dependencies(name).into_iter().filter(|d| siblings.contains(&d.as_str())).collect();
        let uphill: Vec<&String> = found.iter().filter(|d| !allowed.contains(&d.as_str())).collect();
        assert!(uphill.is_empty(), "{name} depends on {uphill:?}");
        assert!(allowed.is_empty() || !found.is_empty(), "{name}/Cargo.toml was read");
    }
    let gpu: Vec<&str> = ["kernels", "loaders", "cli"]
        .into_iter()
        .filter(|name| dependencies(name).iter().any(|d| d == "wgpu"))
        .collect();
    assert!(gpu.is_empty(), "{gpu:?} depend on wgpu");
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let text = fs::read_to_string(workspace().join("Cargo.lock")).expect("the lock file is committed");
    let packages: Vec<&str> = text.split("[[package]]").skip(1).collect();
    let own = packages.iter().filter(|package| !package.contains("\nsource = ")).count();
    assert_eq!(own, 6, "crates of the workspace");
    for package in packages.iter().filter(|package| package.contains("\nsource = ")) {
        let source = package.lines().find(|line| line.starts_with("source = ")).expect("counted above");
        let is_known =
            source.starts_with("source = \"registry+https://") && source.ends_with("/crates.io-index\"");
        assert!(is_known && package.contains("\nchecksum = "), "{package}");
    }
    assert!(packages.len() > 100);
}

#[test]
fn every_operation_is_compared_with_its_reference() {
    let compared: BTreeSet<&str> = kernels::ops::cases().iter().map(|case| case.op.name()).collect();
    let mut operations = 0;
    for path in sources("kernels/src/ops") {
        let text = fs::read_to_string(&path).expect("sources are readable");
        for body in text.split("impl Op for ").skip(1) {
            let name = body.split('"').nth(1).expect("an operation's name is its first string");
            operations += 1;
            // What is always a view dispatches nothing.
            let is_view = body.contains("Ok(Vec::new())");
            assert!(is_view || compared.contains(name), "{}: '{name}' has no case", path.display());
        }
    }
    assert!(operations >= compared.len() && !compared.is_empty(), "operations were found");
}

#[test]
fn variants_of_an_operation_have_names_of_their_own() {
    for caps in adapters() {
        for case in kernels::ops::cases() {
            let variants = case.op.variants(&case.inputs, &caps).unwrap_or_default();
            let names: BTreeSet<&str> = variants.iter().map(|variant| variant.name).collect();
            assert_eq!(names.len(), variants.len(), "{case:?}");
        }
    }
}

#[test]
fn every_shader_is_dispatched_and_every_import_imported() {
    let used: BTreeSet<&str> = adapters()
        .iter()
        .flat_map(|caps| {
            let cases = kernels::ops::cases();
            let variants = cases.iter().filter_map(|case| case.op.variants(&case.inputs, caps).ok());
            variants.flatten().flat_map(|v| v.dispatches).map(|d| d.shader.file).collect::<Vec<_>>()
        })
        .collect();
    let folder = workspace().join("kernels/wgsl");
    let files = stems(&folder);
    assert!(!files.is_empty(), "shaders were found");
    for (stem, _) in &files {
        assert!(used.contains(stem.as_str()), "no variant dispatches {stem}.wgsl");
    }
    let shared = stems(&folder.join("shared"));
    // Stands before every shader that declares how its operands are stored.
    let mut imported = BTreeSet::from(["encodings"]);
    for (_, text) in files.iter().chain(&shared) {
        imported.extend(text.lines().filter_map(|line| line.strip_prefix("#import ")).map(str::trim));
    }
    for (stem, _) in &shared {
        assert!(imported.contains(stem.as_str()), "nothing imports shared/{stem}.wgsl");
    }
}

/// Caps for which operations have different variants.
fn adapters() -> [Caps; 4] {
    let subgroups = |lanes| Some(Subgroups { min: lanes, max: lanes });
    [
        Caps::webgpu(),
        Caps { subgroups: subgroups(8), software: true, ..Caps::webgpu() },
        Caps { subgroups: subgroups(32), ..Caps::webgpu() },
        Caps { subgroups: subgroups(32), cooperative: Some(8), ..Caps::webgpu() },
    ]
}

/// Fails if the code below one of `folders` names one of `words` outside `allowed`, or if nothing is named there: then the
/// word is not what is meant any more.
fn refuse(folders: &[&str], words: &[&str], allowed: &[&str]) {
    let (mut found, mut seen, mut files) = (Vec::new(), 0, 0);
    for path in folders.iter().flat_map(|folder| sources(folder)) {
        let name =
            path.strip_prefix(workspace()).expect("in the workspace").to_string_lossy().replace('\\', "/");
        let is_allowed = allowed.iter().any(|a| name.starts_with(a));
        files += 1;
        let text = fs::read_to_string(&path).expect("sources are readable");
        for (number, line) in text.lines().enumerate() {
            let Some(word) = words.iter().find(|word| names(code(line), word)) else { continue };
            match is_allowed {
                true => seen += 1,
                false => found.push(format!("{name}:{}: {word}", number + 1)),
            }
        }
    }
    assert!(files > 0, "sources were found in {folders:?}");
    assert!(found.is_empty(), "named outside {allowed:?}:\n{}", found.join("\n"));
    assert!(allowed.is_empty() || seen > 0, "{words:?} are not even named in {allowed:?}");
}

/// A line without its comment. A string with two slashes ends there too: it names no more than it seems to.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether `code` has `word` as a word of its own.
fn names(code: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + word.len()..].chars().next());
        let begins = !before.is_some_and(is_letter);
        begins && (!word.ends_with(is_letter) || !after.is_some_and(is_letter))
    })
}

/// Every Rust file at or below `path` but this one, which names what it forbids.
fn sources(path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![workspace().join(path)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("sources are readable");
            open.extend(entries.map(|entry| entry.expect("sources are readable").path()));
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with(file!()) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Stem and text of every shader in `folder`.
fn stems(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).expect("shaders are readable");
    entries
        .map(|entry| entry.expect("shaders are readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "wgsl"))
        .map(|path| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (stem, fs::read_to_string(&path).expect("shaders are UTF-8"))
        })
        .collect()
}

/// What a crate is built with, by the names of the workspace: tests may lean on the harness.
fn dependencies(name: &str) -> Vec<String> {
    let manifest = workspace().join(name).join("Cargo.toml");
    let text = fs::read_to_string(manifest).expect("every crate has a manifest");
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if section.ends_with("dependencies") && section != "dev-dependencies" {
            found.extend(line.split(['.', ' ', '=']).next().filter(|key| !key.is_empty()).map(str::to_owned));
        }
    }
    found
}

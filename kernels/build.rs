//! Embeds the WGSL files and puts every `// variant:` line of each through naga, so that a broken shader fails the build.
//!
//! A file declares the specialisations to check in its head: `// variant: x=f32 w=f16 TILE=8 BIAS` names encodings of
//! operands, constants, and flags.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use assembly::{Specialisation, Target, assemble};
use types::DType;

#[allow(dead_code, unreachable_pub, reason = "the build script needs a part of the module")]
#[path = "src/types.rs"]
mod types;

#[allow(unreachable_pub, reason = "the module is public in the crate")]
#[path = "src/wgsl/assembly.rs"]
mod assembly;

fn main() {
    println!("cargo::rerun-if-changed=wgsl");
    println!("cargo::rerun-if-changed=build.rs");
    let root =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("wgsl");
    let mut files = BTreeMap::new();
    collect(&root, "", &mut files);

    let mut table = String::from("const FILES: &[(&str, &str)] = &[\n");
    for name in files.keys() {
        let path = root.join(format!("{name}.wgsl"));
        let _ = writeln!(table, "    ({name:?}, include_str!({path:?})),");
    }
    table.push_str("];\n");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("wgsl_files.rs"), table).expect("OUT_DIR is writable");

    let mut failures = String::new();
    for (name, text) in files.iter().filter(|(name, _)| !name.contains('/')) {
        let variants: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("// variant:")).collect();
        if variants.is_empty() {
            let _ = writeln!(failures, "{name}.wgsl: no `// variant:` line");
        }
        for variant in variants {
            if let Err(message) = check(name, variant, &files) {
                let _ = writeln!(failures, "{name}.wgsl,{variant}: {message}");
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("wgsl/ is readable") {
        let path = entry.expect("wgsl/ is readable").path();
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("shader names are UTF-8").to_owned();
        if path.is_dir() {
            collect(&path, &format!("{prefix}{stem}/"), files);
        } else if path.extension().is_some_and(|e| e == "wgsl") {
            files.insert(format!("{prefix}{stem}"), fs::read_to_string(&path).expect("shaders are UTF-8"));
        }
    }
}

fn check(name: &str, variant: &str, files: &BTreeMap<String, String>) -> Result<(), String> {
    let specialisation = parse(variant)?;
    let find = |name: &str| files.get(name).map(String::as_str);
    for target in [Target::NAGA, Target { immediates: false, enable_subgroups: false }] {
        let text = assemble(name, &specialisation, target, &find)?;
        let module = naga::front::wgsl::parse_str(&text).map_err(|e| e.emit_to_string(&text))?;
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
            .validate(&module)
            .map_err(|e| e.emit_to_string(&text))?;
    }
    Ok(())
}

fn parse(variant: &str) -> Result<Specialisation, String> {
    let mut specialisation = Specialisation::default();
    for word in variant.split_whitespace() {
        match word.split_once('=') {
            None => {
                specialisation.flags.insert(word.to_owned());
            }
            Some((name, "f32")) => specialisation.encodings.push((name.to_owned(), DType::F32)),
            Some((name, "f16")) => specialisation.encodings.push((name.to_owned(), DType::F16)),
            Some((name, "bf16")) => specialisation.encodings.push((name.to_owned(), DType::Bf16)),
            Some((name, value)) => {
                let value = value.parse().map_err(|_| format!("{word}: neither a dtype nor a number"))?;
                specialisation.constants.push((name.to_owned(), value));
            }
        }
    }
    Ok(specialisation)
}

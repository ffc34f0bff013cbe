//! Running the program, and folders with models to run it on.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use assert_cmd::Command;
use loaders::read_png_text;
use loaders::safetensors::Data;
use loaders::safetensors::Tensor;
use loaders::safetensors::write;
use serde_json::Map;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use photogram_tests::{copy_folder, fixture};

/// The program in `folder`.
pub(crate) fn photogram(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_photogram"));
    // Mesa's Vulkan layers complain on stderr without it.
    command.env("XDG_RUNTIME_DIR", folder).env_remove("RUST_BACKTRACE");
    // What this machine's user has measured changes no test.
    command.env("PHOTOGRAM_CACHE", folder.join("cache")).env_remove("CI");
    command.current_dir(folder).args(words).timeout(Duration::from_secs(600));
    command
}

pub(crate) fn run(folder: &Path, words: &[&str]) -> Output {
    photogram(folder, words).output().expect("the program starts")
}

pub(crate) fn succeed(folder: &Path, words: &[&str]) -> Output {
    let output = run(folder, words);
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    output
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

pub(crate) fn has_adapter() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = run(Path::new("."), &["devices", "--json"]).status.success();
        assert!(found || std::env::var("REQUIRE_GPU").as_deref() != Ok("1"), "REQUIRE_GPU=1, but no adapter");
        if !found {
            println!("skipped: no adapter");
        }
        found
    })
}

/// Everything below `folder`.
pub(crate) fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in folder.read_dir().expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

/// A safetensors file taken apart.
pub(crate) struct Parts {
    pub(crate) header: Map<String, Value>,
    pub(crate) data: Vec<u8>,
}

/// Changes the safetensors file at `path`, which stays a sound one.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Parts)) {
    let bytes = std::fs::read(path).expect("a file");
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
    let header = serde_json::from_slice(&rest[..length]).expect("a header");
    let mut parts = Parts { header, data: rest[length..].to_vec() };
    change(&mut parts);
    let mut header = serde_json::to_vec(&parts.header).expect("JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &parts.data].concat();
    std::fs::write(path, bytes).expect("written");
}

/// A folder with a sound tiny model in `model` and many broken ones.
pub(crate) fn workplace() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let sound = fixture("pipelines/sd1_layout/model");
    let broken = |name: &str| {
        copy_folder(&sound, &path(name));
        path(name).join("unet/diffusion_pytorch_model.safetensors")
    };
    copy_folder(&sound, &path("model"));
    edit(&broken("missing"), |parts| parts.rename("conv_in.bias", "conv_in.bia\u{1b}"));
    edit(&broken("misshapen"), |parts| {
        let shape = parts.header["conv_in.weight"]["shape"].as_array_mut().expect("a shape");
        shape.swap(0, 1);
    });
    edit(&broken("integers"), |parts| parts.header["conv_in.bias"]["dtype"] = integer_of(parts));
    edit(&broken("not-finite"), |parts| parts.fill("conv_in.bias", 0xff));
    let cut = broken("truncated");
    let bytes = std::fs::read(&cut).expect("a file");
    std::fs::write(&cut, &bytes[..bytes.len() - 4]).expect("written");
    broken("no-vae");
    std::fs::remove_dir_all(path("no-vae/vae")).expect("removed");
    broken("pads-one-side");
    change_json(&path("pads-one-side/unet/config.json"), "downsample_padding", 0.into());
    broken("pickled");
    std::fs::remove_file(path("pickled/unet/diffusion_pytorch_model.safetensors")).expect("removed");
    std::fs::write(path("pickled/unet/diffusion_pytorch_model.bin"), b"PK\x03\x04").expect("written");
    broken("flux");
    std::fs::write(path("flux/model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).expect("written");
    let xl = fixture("pipelines/sdxl_layout/model");
    for name in ["xl", "xl-no-tokenizer", "xl-one-encoder", "xl-other-numbers", "xl-short-prompt"] {
        copy_folder(&xl, &path(name));
    }
    copy_folder(&fixture("pipelines/sdxl_refiner/model"), &path("refiner"));
    std::fs::remove_dir_all(path("xl-no-tokenizer/tokenizer_2")).expect("removed");
    std::fs::remove_dir_all(path("xl-one-encoder/text_encoder_2")).expect("removed");
    change_json(&path("xl-other-numbers/model_index.json"), "requires_aesthetics_score", true.into());
    change_json(&path("xl-short-prompt/tokenizer_2/tokenizer_config.json"), "model_max_length", 12.into());
    copy_folder(&fixture("pipelines/latent_8/model/vae"), &path("vae-8"));
    broken("unknown-scheduler");
    let scheduler = path("unknown-scheduler/scheduler/scheduler_config.json");
    std::fs::write(scheduler, r#"{"_class_name": "LCMScheduler"}"#).expect("written");
    broken("bad-json");
    std::fs::write(path("bad-json/unet/config.json"), "{").expect("written");

    let tensor = |name: &str, file: &str| {
        let tensors = [Tensor { name, shape: &[1, 2, 2, 2], data: Data::F32(&[0.0; 8]) }];
        write(&path(file), &tensors, &Default::default()).expect("written");
    };
    tensor("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "lora.safetensors");
    tensor("double_blocks.0.img_attn.norm.key_norm.scale", "flux.safetensors");
    tensor("what", "unknown.safetensors");
    tensor("noise", "small-noise.safetensors");
    for (name, bytes) in [
        ("empty.safetensors", &b""[..]),
        ("zip.safetensors", b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0"),
        ("pickle.safetensors", b"\x80\x02}q\0X\x05\0\0\0statesq\x01"),
        ("gguf.safetensors", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("huge-header.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"),
        ("text.png", b"this is no picture"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    ] {
        std::fs::write(path(name), bytes).expect("written");
    }
    std::fs::create_dir(path("nothing")).expect("a folder");
    std::fs::create_dir(path("taken.png")).expect("a folder");
    folder
}

/// Sets a key of a JSON object in a file.
pub(crate) fn change_json(path: &Path, key: &str, value: Value) {
    let mut object: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    object[key] = value;
    std::fs::write(path, object.to_string()).expect("written");
}

impl Parts {
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let entry = self.header.remove(from).expect("a tensor");
        self.header.insert(to.to_owned(), entry);
    }

    pub(crate) fn fill(&mut self, name: &str, byte: u8) {
        let offset =
            |idx: usize| self.header[name]["data_offsets"][idx].as_u64().expect("an offset") as usize;
        let range = offset(0)..offset(1);
        self.data[range].fill(byte);
    }
}

/// The integer type as wide as `conv_in.bias`.
pub(crate) fn integer_of(parts: &Parts) -> Value {
    if parts.header["conv_in.bias"]["dtype"] == "F32" { "I32".into() } else { "I16".into() }
}

/// The words, the exit code, and what the line on stderr has to contain.
pub(crate) type Row<'a> = (&'a [&'a str], i32, &'a [&'a str]);

pub(crate) fn check_refusals(folder: &Path, before: &[&str], rows: &[Row<'_>]) {
    let listing = names(folder);
    for (words, code, says) in rows {
        let words = [before, words].concat();
        let started = Instant::now();
        let output = run(folder, &words);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(*code), "{words:?}: {stderr}");
        assert!(stdout.is_empty(), "{words:?} printed {stdout}");
        let lines: Vec<&str> = stderr.lines().collect();
        assert!((1..=2).contains(&lines.len()), "{words:?}: {stderr}");
        assert!(lines[0].starts_with("error: "), "{words:?}: {stderr}");
        assert!(lines[1..].iter().all(|line| line.starts_with("hint: ")), "{words:?}: {stderr}");
        assert!(!lines.iter().any(|line| line.contains(char::is_control)), "{words:?}: {stderr:?}");
        for part in *says {
            assert!(lines[0].contains(part), "{words:?} does not say '{part}': {stderr}");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{words:?} took {:?}", started.elapsed());
        assert_eq!(names(folder), listing, "{words:?} left files");
    }
}

/// Draws with the tiny model, quickly.
pub(crate) const TINY: [&str; 11] =
    ["generate", "-m", "model", "-W", "32", "-H", "32", "--steps", "2", "--sampler", "euler"];

pub(crate) fn draw(folder: &Path, words: &[&str]) -> Output {
    succeed(folder, &[&TINY, words].concat())
}

pub(crate) fn parameters(path: &Path) -> Option<String> {
    let texts = read_png_text(path).expect("a PNG");
    texts.into_iter().find(|(keyword, _)| keyword == "parameters").map(|(_, text)| text)
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("'{key}' is a list: {value:#}"))
}

/// What `devices` says about the adapter that is taken.
pub(crate) fn taken(folder: &Path) -> Value {
    let output = succeed(folder, &["devices", "--json"]);
    let devices: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let devices = devices.as_array().expect("a list").clone();
    devices.into_iter().find(|device| device["auto"] == true).expect("one is taken")
}

//! The program as a user starts it: one process for each row.
//!
//! Rows that draw use a tiny random model, or the built-in one for a step or two; without an adapter they print a skip, with
//! `REQUIRE_GPU=1` they fail.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use engine::device::{AdapterChoice, Gpu};
use engine::tuning::{Choices, Identity};
use loaders::read_png_text;
use loaders::safetensors::{Data, Tensor, write};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The program in `folder`.
fn photogram(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_photogram"));
    // Mesa's Vulkan layers complain on stderr without it.
    command.env("XDG_RUNTIME_DIR", folder).env_remove("RUST_BACKTRACE");
    // What this machine's user has measured changes no test.
    command.env("PHOTOGRAM_CACHE", folder.join("cache")).env_remove("CI");
    command.current_dir(folder).args(words).timeout(Duration::from_secs(120));
    command
}

fn run(folder: &Path, words: &[&str]) -> Output {
    photogram(folder, words).output().expect("the program starts")
}

fn succeed(folder: &Path, words: &[&str]) -> Output {
    let output = run(folder, words);
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

fn has_adapter() -> bool {
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

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

/// Everything below `folder`.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
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

fn copy_folder(from: &Path, to: &Path) {
    for path in names(from) {
        let target = to.join(path.strip_prefix(from).expect("below it"));
        match path.is_dir() {
            true => std::fs::create_dir_all(&target).expect("a folder"),
            false => drop(
                std::fs::create_dir_all(target.parent().expect("a parent"))
                    .and_then(|()| std::fs::copy(&path, &target)),
            ),
        }
    }
}

/// A safetensors file taken apart.
struct Parts {
    header: Map<String, Value>,
    data: Vec<u8>,
}

/// Changes the safetensors file at `path`, which stays a sound one.
fn edit(path: &Path, change: impl FnOnce(&mut Parts)) {
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
fn workplace() -> TempDir {
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
fn change_json(path: &Path, key: &str, value: Value) {
    let mut object: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    object[key] = value;
    std::fs::write(path, object.to_string()).expect("written");
}

impl Parts {
    fn rename(&mut self, from: &str, to: &str) {
        let entry = self.header.remove(from).expect("a tensor");
        self.header.insert(to.to_owned(), entry);
    }

    fn fill(&mut self, name: &str, byte: u8) {
        let offset =
            |idx: usize| self.header[name]["data_offsets"][idx].as_u64().expect("an offset") as usize;
        let range = offset(0)..offset(1);
        self.data[range].fill(byte);
    }
}

/// The integer type as wide as `conv_in.bias`.
fn integer_of(parts: &Parts) -> Value {
    if parts.header["conv_in.bias"]["dtype"] == "F32" { "I32".into() } else { "I16".into() }
}

/// The words, the exit code, and what the line on stderr has to contain.
type Row<'a> = (&'a [&'a str], i32, &'a [&'a str]);

/// Words that come before each row's of a table about `generate`: what is wrong with flags and files' headers is found
/// before a device is looked for.
const GENERATE: [&str; 5] = ["generate", "-p", "x", "--adapter", "no such adapter"];

fn check_refusals(folder: &Path, before: &[&str], rows: &[Row<'_>]) {
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

#[test]
fn flags_that_make_no_sense_are_refused() {
    let folder = workplace();
    let long = "9".repeat(10_000);
    let rows: &[Row<'_>] = &[
        (&["-W", "0"], 2, &["--width", "multiple of 8", "found 0"]),
        (&["-W", "4"], 2, &["--width", "multiple of 8 from 8 up", "found 4"]),
        (&["-m", "pads-one-side", "-W", "32"], 2, &["--width", "multiple of 8 from 64 up", "found 32"]),
        (&["-W", "100"], 2, &["--width", "multiple of 8", "found 100"]),
        (&["-W", "-8"], 2, &["--width", "-8", "whole number"]),
        (&["-H", "1000000"], 2, &["--height", "16384", "found 1000000"]),
        (&["--height", "x"], 2, &["--height", "'x'"]),
        (&["--steps", "0"], 2, &["--steps", "1 to 1000", "found 0"]),
        (&["--steps", "1000000"], 2, &["--steps", "1 to 1000", "found 1000000"]),
        (&["--steps", "1.5"], 2, &["--steps", "'1.5'"]),
        (&["--steps", &long], 2, &["--steps", "whole number"]),
        (&["--steps", "\u{202e}4"], 2, &["--steps", "\\u{202e}4"]),
        (&["--sampler", "heun"], 2, &["--sampler", "'heun'", "dpm++2m"]),
        (&["--schedule", "cosine"], 2, &["--schedule", "'cosine'", "karras"]),
        (&["--schedule", "karras"], 2, &["--schedule", "ddim", "karras"]),
        (&["--sampler", "pndm", "--schedule", "karras"], 2, &["--schedule", "pndm", "karras"]),
        (&["--cfg-scale", "nan"], 2, &["--cfg-scale", "finite", "NaN"]),
        (&["--cfg-scale", "1e999"], 2, &["--cfg-scale", "finite", "inf"]),
        (&["--seed", "9223372036854775808"], 2, &["--seed"]),
        (&["-b", "0"], 2, &["--batch-count", "found 0"]),
        (&["--precision", "f8"], 2, &["--precision", "'f8'"]),
        (&["--prediction", "x0"], 2, &["--prediction", "'x0'"]),
        (&["--rng", "mtl"], 2, &["--rng", "'mtl'"]),
        (&["--strength", "0.5"], 2, &["--strength", "--init-img"]),
        (&["--stesp", "4"], 2, &["--stesp"]),
        (&["-q", "-v"], 2, &["--quiet", "--verbose"]),
        (&["-o", "out.jpg"], 2, &["--output", ".png", "out.jpg"]),
        (&["-b", "2", "--latents", "small-noise.safetensors"], 2, &["--latents", "--batch-count 2"]),
    ];
    check_refusals(folder.path(), &GENERATE, rows);
    let rows: &[Row<'_>] = &[
        (&["draw"], 2, &["draw"]),
        (&["generate"], 2, &["--prompt"]),
        (&["inspect"], 2, &["<PATH>"]),
        (&["validate", "--precision", "f16"], 2, &["--reference"]),
    ];
    check_refusals(folder.path(), &[], rows);
    let rows: &[Row<'_>] = &[
        (&["-W", "100"], 2, &["--width", "multiple of 8", "found 100"]),
        (&["-H", "0"], 2, &["--height", "multiple of 8", "found 0"]),
        (&["-W", "x"], 2, &["--width", "'x'"]),
        (&["--cfg-scale", "nan"], 2, &["--cfg-scale", "finite", "NaN"]),
        (&["--repeat", "0"], 2, &["--repeat", "1 to 1000", "found 0"]),
        (&["--repeat", "1001"], 2, &["--repeat", "1 to 1000", "found 1001"]),
        (&["--depth", "0"], 2, &["--depth", "1 or more"]),
        (&["--top", "0"], 2, &["--top", "1 or more"]),
        (&["--top", "-1"], 2, &["--top", "whole number"]),
        (&["--steps", "4"], 2, &["--steps"]),
        (&["--precision", "f8"], 2, &["--precision", "'f8'"]),
        (&["-m", "absent"], 2, &["absent", "no such file or folder"]),
        (&["-m", "refiner"], 2, &["--model", "a refiner alone"]),
        (&["-m", "bad-json"], 3, &["bad-json/unet/config.json"]),
        (&["--trace", "absent/trace.json"], 8, &["absent/trace.json", "no folder 'absent'"]),
    ];
    check_refusals(folder.path(), &["profile", "--adapter", "no such adapter"], rows);
    let rows: &[Row<'_>] = &[
        (&["-W", "100"], 2, &["--width", "multiple of 8", "found 100"]),
        (&["--cfg-scale", "nan"], 2, &["--cfg-scale", "finite", "NaN"]),
        (&["--prompt", "x"], 2, &["--prompt"]),
        (&["-m", "absent"], 2, &["absent", "no such file or folder"]),
        (&["-m", "bad-json"], 3, &["bad-json/unet/config.json"]),
    ];
    check_refusals(folder.path(), &["tune", "--adapter", "no such adapter"], rows);
}

#[test]
fn files_that_cannot_be_used_are_refused() {
    let folder = workplace();
    let init = fixture("pipelines/sd1_layout/pndm_img2img/init.png");
    let init = init.to_str().expect("UTF-8");
    let rows: &[Row<'_>] = &[
        (&["-m", "absent"], 2, &["absent", "no such file or folder"]),
        (&["-m", "nothing"], 3, &["nothing", "model_index.json"]),
        (&["-m", "model/unet"], 3, &["model/unet", "model_index.json"]),
        (&["-m", "no-vae"], 3, &["no-vae", "vae"]),
        (&["-m", "bad-json"], 3, &["bad-json/unet/config.json"]),
        (&["-m", "truncated"], 3, &["truncated/unet/diffusion_pytorch_model.safetensors"]),
        (&["-m", "empty.safetensors"], 3, &["empty.safetensors"]),
        (&["-m", "huge-header.safetensors"], 3, &["huge-header.safetensors"]),
        (&["-m", "zip.safetensors"], 4, &["zip.safetensors"]),
        (&["-m", "pickle.safetensors"], 4, &["pickle.safetensors"]),
        (&["-m", "gguf.safetensors"], 4, &["gguf.safetensors", "GGUF"]),
        (&["-m", "lora.safetensors"], 4, &["lora.safetensors", "LoRA"]),
        (&["-m", "flux.safetensors"], 4, &["flux.safetensors", "FLUX.1"]),
        (&["-m", "unknown.safetensors"], 4, &["unknown.safetensors"]),
        (&["-m", "pickled"], 4, &["pickled/unet/diffusion_pytorch_model.bin", "pickle"]),
        (&["-m", "flux"], 4, &["flux/model_index.json", "FluxPipeline"]),
        (&["-m", "xl-no-tokenizer"], 3, &["xl-no-tokenizer", "tokenizer_2/"]),
        (&["-m", "xl-one-encoder"], 3, &["xl-one-encoder", "text_encoder_2/"]),
        (&["-m", "xl-other-numbers"], 3, &["projection_class_embeddings_input_dim", "expected 60, found 68"]),
        (&["-m", "xl-short-prompt"], 3, &["tokens of a prompt to text_encoder_2", "found 12"]),
        (&["-m", "refiner"], 2, &["--model", "--refiner"]),
        (&["-m", "refiner", "--refiner", "refiner"], 2, &["--model", "a refiner"]),
        (&["-m", "xl", "--refiner", "lora.safetensors"], 4, &["lora.safetensors", "LoRA"]),
        (&["-m", "xl", "--refiner", "vae-8"], 3, &["vae-8", "model_index.json"]),
        (&["--refiner", "refiner"], 2, &["--refiner", "8 latent channels", "4 at 1/8"]),
        (&["-m", "model", "--crop", "3x3"], 2, &["--crop", "a model of Stable Diffusion XL"]),
        (&["-m", "model", "--refiner", "refiner"], 2, &["--refiner", "beside Stable Diffusion,", "XL"]),
        (&["-m", "xl", "--refiner", "model"], 2, &["--refiner", "beside Stable Diffusion XL,"]),
        (&["-m", "xl", "--refiner-start", "0.5"], 2, &["--refiner-start", "--refiner beside it"]),
        (&["-m", "xl", "--refiner", "refiner", "--refiner-start", "1"], 2, &["--refiner-start", "found 1"]),
        (&["-m", "xl", "--vae", "vae-8"], 3, &["vae-8", "latent channels", "found 8"]),
        (&["-m", "xl", "--vae", "lora.safetensors"], 3, &["lora.safetensors", "encoder.conv_in.weight"]),
        (&["-m", "xl", "--vae", "absent"], 2, &["absent"]),
        (&["-m", "xl", "--original-size", "big"], 2, &["--original-size", "1024x768"]),
        (&["-m", "xl", "--guidance-rescale", "2"], 2, &["--guidance-rescale", "0 to 1"]),
        (&["-m", "unknown-scheduler"], 4, &["unknown-scheduler/scheduler", "LCMScheduler"]),
        (&["--init-img", "absent.png"], 2, &["absent.png"]),
        (&["--init-img", "text.png"], 4, &["text.png", "PNG"]),
        (&["--init-img", "cut.png"], 3, &["cut.png"]),
        (&["--init-img", init, "--strength", "2"], 2, &["--strength", "found 2"]),
        (&["--init-img", init, "--strength", "0"], 2, &["--strength", "found 0"]),
        (&["--init-img", init, "--strength", "nan"], 2, &["--strength", "NaN"]),
        (&["--init-img", init, "-W", "33"], 2, &["--width", "found 33"]),
        (&["--latents", "absent.safetensors"], 2, &["absent.safetensors"]),
        (&["--latents", "small-noise.safetensors"], 3, &["'noise'", "F32[1, 8, 16, 16]", "F32[1, 2, 2, 2]"]),
        (&["-o", "taken.png"], 8, &["taken.png", "directory"]),
        (&["-o", "absent/out.png"], 8, &["absent/out.png", "no folder 'absent'"]),
        (&["--stats", "absent/stats.json"], 8, &["absent/stats.json"]),
        (&["--dump", "absent"], 8, &["absent"]),
    ];
    check_refusals(folder.path(), &GENERATE, rows);
    let rows: &[Row<'_>] = &[
        (&["inspect", "absent"], 2, &["absent"]),
        (&["inspect", "gguf.safetensors"], 4, &["GGUF"]),
        (&["inspect", "empty.safetensors"], 3, &["empty.safetensors"]),
    ];
    check_refusals(folder.path(), &[], rows);
}

#[test]
fn models_that_cannot_draw_are_refused() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let rows: &[Row<'_>] = &[
        (&["-m", "missing"], 3, &["missing/unet/", "'conv_in.bias'"]),
        (&["-m", "misshapen"], 3, &["misshapen/unet/", "'conv_in.weight'", "expected", "found"]),
        (&["-m", "integers"], 4, &["integers/unet/", "'conv_in.bias'", "dtype I"]),
        (&["-m", "not-finite", "--steps", "1"], 7, &["not finite"]),
        (&["-m", "model", "--adapter", "no such adapter"], 6, &["no such adapter"]),
    ];
    check_refusals(folder.path(), &["generate", "-p", "x"], rows);
    let rows: &[Row<'_>] = &[
        (&["validate", "--reference", "absent"], 2, &["absent/reference.json"]),
        (&["profile", "-m", "missing"], 3, &["missing/unet/", "'conv_in.bias'"]),
        (&["profile", "-m", "model", "--adapter", "no such adapter"], 6, &["no such adapter"]),
        (&["tune", "-m", "model", "--adapter", "no such adapter"], 6, &["no such adapter"]),
    ];
    check_refusals(folder.path(), &[], rows);
}

/// Draws with the tiny model, quickly.
const TINY: [&str; 11] =
    ["generate", "-m", "model", "-W", "32", "-H", "32", "--steps", "2", "--sampler", "euler"];

fn draw(folder: &Path, words: &[&str]) -> Output {
    succeed(folder, &[&TINY, words].concat())
}

fn parameters(path: &Path) -> Option<String> {
    let texts = read_png_text(path).expect("a PNG");
    texts.into_iter().find(|(keyword, _)| keyword == "parameters").map(|(_, text)| text)
}

#[test]
fn any_prompt_draws_and_is_found_in_the_picture() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let out = folder.path().join("out.png");
    let long = "lighthouse ".repeat(1_000);
    for prompt in ["", "🍎 猫 e\u{301}\u{200d}", "--help", "a, b: \"c\"", "\u{1b}[2J\u{202e}", &long] {
        let output = draw(folder.path(), &["-p", prompt, "-o", "out.png"]);
        assert!(output.stdout.is_empty());
        let text = parameters(&out).expect("parameters");
        assert_eq!(text.split("\nSteps: 2, Sampler: Euler,").next(), Some(prompt));
        assert!(
            text.contains("Seed: 42, Size: 32x32, Model: model, RNG: CPU, Version: photogram "),
            "{text}"
        );
    }
    draw(folder.path(), &["-p", "x", "-n", "blurry", "--cfg-scale", "2.5", "--rng", "cuda", "-o", "out.png"]);
    let text = parameters(&out).expect("parameters");
    assert!(text.starts_with("x\nNegative prompt: blurry\nSteps: 2, "), "{text}");
    assert!(text.contains("CFG scale: 2.5") && text.contains("RNG: NV"), "{text}");
    draw(folder.path(), &["-p", "x", "--no-metadata", "-o", "out.png"]);
    assert_eq!(read_png_text(&out).expect("a PNG"), []);
}

#[test]
fn the_same_seed_draws_the_same_file() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let file = |name: &str| std::fs::read(folder.path().join(name)).expect("written");
    draw(folder.path(), &["-p", "x", "-s", "7", "-b", "3", "-o", "batch.png"]);
    draw(folder.path(), &["-p", "x", "-s", "8", "-o", "single-%02d.png"]);
    assert_eq!(file("batch_1.png"), file("single-00.png"));
    assert_ne!(file("batch_0.png"), file("batch_1.png"));
    assert!(folder.path().join("batch_2.png").exists() && !folder.path().join("batch.png").exists());

    let output = draw(folder.path(), &["-p", "x", "-s", "-1", "-o", "random.png"]);
    let seed = text(&output.stderr).lines().find_map(|line| line.strip_prefix("seed ").map(str::to_owned));
    draw(folder.path(), &["-p", "x", "-s", &seed.expect("the seed is printed"), "-o", "again.png"]);
    assert_eq!(file("random.png"), file("again.png"));
}

#[test]
fn a_refiner_follows_its_own_scheduler_and_predictions_are_as_asked() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let path = |name: &str| folder.path().join(name);
    copy_folder(&path("refiner"), &path("other-refiner"));
    let scheduler = path("other-refiner/scheduler/scheduler_config.json");
    change_json(&scheduler, "prediction_type", "v_prediction".into());
    let drawn = |name: &str, words: &[&str]| {
        let model =
            ["generate", "-m", "xl", "-W", "56", "-H", "56", "--steps", "3", "--no-metadata", "-p", "x"];
        succeed(folder.path(), &[&model, words, &["-o", name]].concat());
        std::fs::read(path(name)).expect("written")
    };
    let [own, other] = ["refiner", "other-refiner"]
        .map(|refiner| drawn("r.png", &["--refiner", refiner, "--refiner-start", "0.5"]));
    assert!(own != other, "the refiner's scheduler counts");
    let [noise, velocity] = ["eps", "v"].map(|prediction| drawn("p.png", &["--prediction", prediction]));
    assert!(noise != velocity, "--prediction counts");
}

#[test]
fn a_dump_is_a_recorded_run() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let reference = |prompt: &str| {
        json!({
            "model": "../model", "prompt": prompt, "negative_prompt": "", "width": 32, "height": 32, "steps": 2,
            "cfg_scale": 7, "sampler": "euler_a", "schedule": "karras", "seed": 42, "prediction_type": "epsilon",
        })
    };
    let dump = folder.path().join("dump");
    std::fs::create_dir(&dump).expect("a folder");
    let words =
        ["--sampler", "euler_a", "--schedule", "karras", "-p", "x", "--dump", "dump", "-o", "first.png"];
    succeed(folder.path(), &[&TINY[..9], &words].concat());
    let validate = |prompt: &str| {
        std::fs::write(dump.join("reference.json"), reference(prompt).to_string()).expect("written");
        run(folder.path(), &["validate", "--reference", "dump", "--json"])
    };
    let output = validate("x");
    let stages: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success(), "{stages:#}");
    let names: Vec<&str> = stages["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .filter_map(|stage| stage["stage"].as_str())
        .collect();
    assert_eq!(names, ["context", "latent.0", "latent.1", "image", "image from the recorded latent"]);

    let output = validate("y");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("'context' is the first stage that differs"), "{output:?}");

    let words = [
        "-p",
        "x",
        "-s",
        "1",
        "--latents",
        "dump/reference.safetensors",
        "-o",
        "second.png",
        "--no-metadata",
    ];
    draw(folder.path(), &words);
    draw(folder.path(), &["-p", "x", "-o", "third.png", "--no-metadata"]);
    let file = |name: &str| std::fs::read(folder.path().join(name)).expect("written");
    assert_eq!(file("second.png"), file("third.png"), "the noise of seed 42, whatever the seed");
}

#[test]
fn an_initial_picture_is_stretched_and_drawn_on() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let init = fixture("pipelines/sd1_layout/pndm_img2img/init.png");
    let init = init.to_str().expect("UTF-8");
    for (words, size) in [(&["-W", "40"][..], "40x64"), (&["-W", "24", "-H", "32"], "24x32"), (&[], "64x64")]
    {
        let before = ["generate", "-m", "model", "-p", "x", "--steps", "2", "-i", init, "--strength", "0.6"];
        succeed(folder.path(), &[&before, words, &["-o", "out.png"]].concat());
        let text = parameters(&folder.path().join("out.png")).expect("parameters");
        assert!(
            text.contains(&format!("Size: {size}, ")) && text.contains("Denoising strength: 0.6"),
            "{text}"
        );
    }
}

#[test]
fn the_built_in_model_draws() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let prompt = "blob emoji of a cat face";
    succeed(folder.path(), &["generate", "-p", prompt, "--steps", "1", "--stats", "stats.json", "-q"]);
    let text = parameters(&folder.path().join("output.png")).expect("parameters");
    assert!(text.contains("Size: 128x128, Model: photogram-builtin"), "{text}");
    let stats = std::fs::read(folder.path().join("stats.json")).expect("written");
    let stats: Value = serde_json::from_slice(&stats).expect("JSON");
    assert_eq!(stats["seconds"]["steps"].as_array().map(Vec::len), Some(1));
    for stage in ["load", "encode", "decode", "total"] {
        assert!(stats["seconds"][stage].as_f64() > Some(0.0), "{stage}: {stats:#}");
    }
    assert!((1..=30).contains(&stats["pipelines"].as_u64().expect("a count")), "{stats:#}");
    for count in [&stats["dispatches"]["denoiser"], &stats["dispatches"]["decoder"], &stats["peak_bytes"]] {
        assert!(count.as_u64() > Some(0), "{stats:#}");
    }
    assert!(["adapter", "driver", "version"].iter().all(|key| stats[key].is_string()), "{stats:#}");
}

#[test]
fn an_autoencoder_that_leaves_the_range_of_f16_runs_in_f32() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let path = |name: &str| folder.path().join(name);
    let sound = fixture("pipelines/sd1_layout/model");
    for name in ["careful", "fits", "overflows"] {
        copy_folder(&sound, &path(name));
    }
    for name in ["fits", "overflows"] {
        change_json(&path(name).join("vae/config.json"), "force_upcast", false.into());
    }
    // 0x7b7b is 61,280 in f16: sums of products with it leave f16's range.
    let weights = path("overflows/vae/diffusion_pytorch_model.safetensors");
    edit(&weights, |parts| parts.fill("decoder.conv_in.weight", 0x7b));
    for (model, says) in [
        ("careful", Some("models of its kind overflow f16 (force_upcast")),
        ("fits", None),
        ("overflows", Some("left f16's range: it runs in f32 from here on")),
    ] {
        let words = ["-m", model, "-p", "x", "--precision", "f16", "--steps", "1", "-W", "32", "-H", "32"];
        let output = succeed(folder.path(), &[&["generate"], &words[..]].concat());
        let stderr = text(&output.stderr);
        assert_eq!(stderr.contains("in f32"), says.is_some(), "{model}: {stderr}");
        assert!(says.is_none_or(|says| stderr.contains(says)), "{model}: {stderr}");
    }
}

#[test]
fn a_model_without_an_autoencoder_draws_with_another() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let file = |name: &str| std::fs::read(folder.path().join(name)).expect("written");
    draw(folder.path(), &["-p", "x", "--no-metadata", "-o", "own.png"]);
    let model = ["generate", "-m", "no-vae", "--vae", "model/vae"];
    let words = ["-p", "x", "--no-metadata", "-o", "given.png"];
    succeed(folder.path(), &[&model, &TINY[3..], &words].concat());
    assert_eq!(file("own.png"), file("given.png"));
}

/// Profiles a tiny model, quickly.
const PROFILE: [&str; 7] = ["profile", "-W", "32", "-H", "32", "--repeat", "1"];

fn profiled(folder: &Path, words: &[&str]) -> Value {
    let output = succeed(folder, &[&PROFILE, words, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("'{key}' is a list: {value:#}"))
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
        for key in ["ms", "wall_ms", "recording_ms", "submissions"] {
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

/// What `devices` says about the adapter that is taken.
fn taken(folder: &Path) -> Value {
    let output = succeed(folder, &["devices", "--json"]);
    let devices: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let devices = devices.as_array().expect("a list").clone();
    devices.into_iter().find(|device| device["auto"] == true).expect("one is taken")
}

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
        let is_note = |line: &&str| line.contains("`photogram tune` writes it anew");
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
fn devices_say_which_one_is_taken() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = succeed(folder.path(), &["devices", "--json"]);
    let devices: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let devices = devices.as_array().expect("a list");
    assert_eq!(devices.iter().filter(|device| device["auto"] == true).count(), 1);
    let table = text(&succeed(folder.path(), &["devices"]).stdout);
    for device in devices {
        assert!(table.contains(device["name"].as_str().expect("a name")), "{table}");
        assert!(table.contains(device["reason"].as_str().expect("a reason")), "{table}");
    }
}

#[test]
fn a_checkpoint_is_described() {
    let folder = workplace();
    let described = |name: &str| text(&succeed(folder.path(), &["inspect", name]).stdout);
    let sound = described("model");
    assert!(
        sound.contains("StableDiffusionPipeline") && sound.ends_with("\nphotogram can run it\n"),
        "{sound}"
    );
    for name in ["xl", "refiner"] {
        let sound = described(name);
        assert!(sound.contains("text_encoder_2") && sound.ends_with("\nphotogram can run it\n"), "{sound}");
    }
    for (name, says) in [
        ("missing", "unet: missing/unet/diffusion_pytorch_model.safetensors: tensor 'conv_in.bias'"),
        ("misshapen", "tensor 'conv_in.weight': expected"),
        ("truncated", "unet: truncated/unet/diffusion_pytorch_model.safetensors"),
        ("no-vae", "vae: no-vae: files: expected vae/"),
        ("unknown-scheduler", "scheduler: unknown-scheduler/scheduler/scheduler_config.json"),
        ("pickled", "unet: pickled/unet/diffusion_pytorch_model.bin: a pickle"),
        ("flux", "FluxPipeline"),
        ("xl-no-tokenizer", "tokenizer_2: xl-no-tokenizer: files: expected tokenizer_2/"),
        ("xl-one-encoder", "text_encoder_2: xl-one-encoder: files: expected text_encoder_2/"),
        ("xl-other-numbers", "projection_class_embeddings_input_dim"),
        ("lora.safetensors", "a LoRA"),
        ("flux.safetensors", "FLUX.1"),
    ] {
        let described = described(name);
        assert!(described.contains(says) && described.ends_with("photogram cannot run it\n"), "{described}");
    }
    let output = run(folder.path(), &["inspect", "unknown.safetensors", "--json"]);
    assert_eq!(output.status.code(), Some(4));
    let inspection: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&inspection["family"], &inspection["runnable"]), (&Value::Null, &false.into()));
    assert_eq!(inspection["parts"][0]["bytes"], 32);
}

#[test]
fn a_recording_says_which_value_makes_no_sense() {
    let folder = workplace();
    for (key, value) in [
        ("guidance_rescale", json!(2)),
        ("refiner_start", json!(1)),
        ("prediction_type", json!("sample")),
        ("sampler", json!("unipc")),
        ("timestep_spacing", json!("last")),
        ("crop", json!([65_537, 3])),
        ("original_size", json!([0, 3])),
    ] {
        let recording = folder.path().join(key);
        copy_folder(&fixture("pipelines/sdxl_layout"), &recording);
        change_json(&recording.join("euler/reference.json"), key, value);
        let output = run(folder.path(), &["validate", "--reference", &format!("{key}/euler")]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{message}");
        assert!(message.contains("reference.json") && message.contains(&format!("key '{key}'")), "{message}");
    }
    for (key, value, says) in [
        ("steps", json!(100_000), "steps: expected 1 to 1000"),
        ("refiner", json!("../../model"), "--refiner: expected"),
    ] {
        let recording = folder.path().join(format!("model-{key}"));
        copy_folder(&fixture("pipelines/sdxl_layout"), &recording);
        change_json(&recording.join("euler/reference.json"), key, value);
        let output = run(folder.path(), &["validate", "--reference", &format!("model-{key}/euler")]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{message}");
        assert!(message.contains("reference.json") && message.contains(says), "{message}");
    }
}

/// The program, with signals that end it even if this process was started with them ignored, as `nohup` does.
#[cfg(unix)]
fn interruptible() -> std::process::Command {
    let program = env!("CARGO_BIN_EXE_photogram");
    if !cfg!(target_os = "linux") {
        return std::process::Command::new(program);
    }
    let mut command = std::process::Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", program]);
    command
}

#[cfg(unix)]
#[test]
fn an_interruption_ends_at_once_and_leaves_nothing() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let before = names(folder.path());
    for (signal, milliseconds) in [("-INT", 0), ("-INT", 200), ("-INT", 800), ("-TERM", 400)] {
        let mut child = interruptible()
            .args(["generate", "-p", "x", "-m", "model", "--steps", "900", "-o", "out.png", "-v"])
            .current_dir(folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("PHOTOGRAM_CACHE", folder.path().join("cache"))
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("a line");
        assert!(line.starts_with("adapter: "), "{line}");
        std::thread::sleep(Duration::from_millis(milliseconds));
        let interrupted = Instant::now();
        let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
        let status = child.wait().expect("it ends");
        assert!(interrupted.elapsed() < Duration::from_secs(1), "{signal} took {:?}", interrupted.elapsed());
        assert_eq!(status.code(), Some(130), "{signal} after {milliseconds} ms");
        assert_eq!(names(folder.path()), before);
    }
}

#[test]
fn help_teaches() {
    for words in [
        &["--help"][..],
        &["generate", "--help"],
        &["devices", "--help"],
        &["inspect", "--help"],
        &["profile", "--help"],
        &["tune", "--help"],
        &["validate", "--help"],
    ] {
        let output = succeed(Path::new("."), words);
        let name = words.join(" ").replace([' ', '-'], "_");
        insta::assert_snapshot!(name, text(&output.stdout));
    }
    let alone = run(Path::new("."), &[]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(text(&alone.stderr).contains("Usage: photogram"), "{alone:?}");
}

//! Pictures, and what is told with them.

use loaders::read_png_text;
use serde_json::Value;
use serde_json::json;

use crate::support::{
    TINY, change_json, check_refusals, copy_folder, draw, edit, fixture, has_adapter, parameters, run,
    succeed, text, workplace,
};

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
            text.contains(
                "Seed: 42, Size: 32x32, Model: model, RNG: CPU, Precision: f32, Version: photogram "
            ),
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
    for name in ["careful", "fits", "overflows", "encodes"] {
        copy_folder(&sound, &path(name));
    }
    for name in ["fits", "overflows", "encodes"] {
        change_json(&path(name).join("vae/config.json"), "force_upcast", false.into());
    }
    // 0x7b7b is 61,280 in f16: sums of products with it leave f16's range.
    let weights = path("overflows/vae/diffusion_pytorch_model.safetensors");
    edit(&weights, |parts| parts.fill("decoder.conv_in.weight", 0x7b));
    let weights = path("encodes/vae/diffusion_pytorch_model.safetensors");
    edit(&weights, |parts| parts.fill("encoder.conv_in.weight", 0x7b));
    draw(folder.path(), &["-p", "x", "-o", "in.png"]);
    for (model, says) in [
        ("careful", Some("models of its kind overflow f16 (force_upcast")),
        ("fits", None),
        ("overflows", Some("left f16's range: it runs in f32 from here on")),
        ("encodes", Some("left f16's range: it runs in f32 from here on")),
    ] {
        let words = ["-m", model, "-p", "x", "--precision", "f16", "--steps", "2", "-i", "in.png"];
        let output = succeed(folder.path(), &[&["generate"], &words[..]].concat());
        let stderr = text(&output.stderr);
        assert_eq!(stderr.contains("in f32"), says.is_some(), "{model}: {stderr}");
        assert!(says.is_none_or(|says| stderr.contains(says)), "{model}: {stderr}");
    }

    // Within what is foretold for f16, too: then in tiles.
    let shape = ["-m", "overflows", "-W", "128", "-H", "128", "--precision", "f16", "--steps", "1"];
    let plan = succeed(folder.path(), &[&["plan", "--json"], &shape[..]].concat());
    let plan: Value = serde_json::from_slice(&plan.stdout).expect("JSON");
    let bytes = |key: &str| plan[key].as_u64().expect("bytes");
    let limit = bytes("peak_bytes").div_ceil(1024);
    assert!(bytes("peak_bytes_in_f32") > 1024 * limit, "{plan:#}");
    let words = ["generate", "-p", "x", "--stats", "stats.json", "--max-vram", &format!("{limit}K")];
    let output = succeed(folder.path(), &[&words, &shape[..]].concat());
    assert!(text(&output.stderr).contains("it runs in f32 from here on"), "{output:?}");
    let stats = std::fs::read(path("stats.json")).expect("written");
    let stats: Value = serde_json::from_slice(&stats).expect("JSON");
    assert!(stats["peak_bytes"].as_u64() <= Some(1024 * limit), "{stats:#}");

    // And beside an initial picture, whose encoder counts: within the least that both forecasts keep.
    for size in [["-W", "48", "-H", "152"], ["-W", "272", "-H", "112"]] {
        let shape = ["-m", "overflows", "--precision", "f16", "--steps", "2", "-i", "in.png"];
        let shape = [&shape[..], &size].concat();
        let plan = run(folder.path(), &[&["plan", "--json", "--max-vram", "1K"], &shape[..]].concat());
        let plan: Value = serde_json::from_slice(&plan.stdout).expect("JSON");
        let least = ["peak_bytes", "peak_bytes_in_f32"].map(|key| plan[key].as_u64().expect("bytes"));
        let [narrow, wide] = least.map(|bytes| bytes.div_ceil(1024));
        assert!(narrow < wide, "{plan:#}");
        for (limit, may_not) in [(narrow, true), (wide, false)] {
            let plan = ["plan", "--max-vram", &format!("{limit}K")];
            let plan = text(&succeed(folder.path(), &[&plan, &shape[..]].concat()).stdout);
            let verdict = plan.lines().find(|line| line.starts_with("yes, within ")).expect("a verdict");
            assert_eq!(verdict.ends_with(", unless the autoencoder overflows f16"), may_not, "{verdict}");
        }
        let limit = format!("{wide}K");
        let words = ["generate", "-p", "x", "--max-vram", &limit];
        let output = succeed(folder.path(), &[&words, &shape[..]].concat());
        assert!(text(&output.stderr).contains("it runs in f32 from here on"), "{output:?}");
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

#[test]
fn a_picture_is_drawn_again_from_its_settings() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let settings =
        ["-n", "blurry, dark", "--cfg-scale", "3.5", "-s", "7", "--rng", "cuda", "--precision", "f16"];
    draw(folder.path(), &[&["-p", "a\nprompt: of two, lines", "-o", "out.png"][..], &settings].concat());
    let again = succeed(folder.path(), &["reproduce", "out.png", "-m", "model", "-o", "again.png"]);
    assert_eq!(text(&again.stdout), "the same file, byte for byte\n");
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
    assert_eq!(read("out.png"), read("again.png"));

    // Its settings with the pixels of another.
    draw(folder.path(), &["-p", "something else", "-s", "8", "-o", "other.png"]);
    let parameters = parameters(&folder.path().join("out.png")).expect("settings");
    let other = loaders::read_rgb(folder.path().join("other.png")).expect("a picture");
    let forged = folder.path().join("forged.png");
    loaders::write_png(&forged, &other, &[("parameters", &parameters)]).expect("written");
    let output = run(folder.path(), &["reproduce", "forged.png", "-m", "model", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(found["same_bytes"] == false && found["psnr"].as_f64() < Some(40.0), "{found:#}");

    loaders::write_png(folder.path().join("bare.png"), &other, &[]).expect("written");
    loaders::write_png(folder.path().join("odd.png"), &other, &[("parameters", "x\ny")]).expect("written");
    let smaller = loaders::RgbPicture::new(8, 16, vec![0; 8 * 16 * 3]).expect("as many bytes");
    loaders::write_png(folder.path().join("cut.png"), &smaller, &[("parameters", &parameters)])
        .expect("written");
    check_refusals(
        folder.path(),
        &["reproduce"],
        &[
            (&["out.png"][..], 2, &["--model", "'model'"][..]),
            (&["bare.png", "-m", "model"], 3, &["bare.png", "'parameters'"]),
            (&["odd.png", "-m", "model"], 3, &["odd.png", "key: value"]),
            (&["cut.png", "-m", "model"], 3, &["cut.png", "8x16", "found 32x32"]),
            (&["text.png", "-m", "model"], 3, &["text.png"]),
            (&["absent.png", "-m", "model"], 2, &["absent.png"]),
        ],
    );
}

#[test]
fn a_picture_is_drawn_again_whatever_its_words_and_files_are() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let path = |name: &str| folder.path().join(name);
    for name in ["\"x", "photogram-builtin"] {
        // No file of Windows has a quotation mark in its name.
        if cfg!(unix) || !name.contains('"') {
            copy_folder(&path("model"), &path(name));
        }
    }
    std::fs::create_dir(path("dump")).expect("a folder");
    draw(folder.path(), &["-p", "x", "-s", "1", "--dump", "dump"]);
    let noise = "dump/reference.safetensors";
    for (words, model, files) in [
        (&["-p", "a cat\nNegative prompt: a dog"][..], "model", &[][..]),
        (&["-p", "a cat", "-n", "blur\nNegative prompt: a dog"], "model", &[]),
        (&["-p", "Steps: 20, Seed: 1\nPrompt: \"x\"", "-n", ""], "model", &[]),
        (&["-p", "x"], "model", &["--latents", noise]),
        (&["-p", "x"], "\"x", &[]),
        (&["-p", "x"], "photogram-builtin", &[]),
    ] {
        if !path(model).exists() {
            continue;
        }
        let drawn = [&["generate", "-m", model], &TINY[3..], words, files, &["-o", "out.png"]].concat();
        succeed(folder.path(), &drawn);
        let again = [&["reproduce", "out.png", "-m", model], files].concat();
        let output = run(folder.path(), &again);
        assert_eq!(text(&output.stdout), "the same file, byte for byte\n", "{drawn:?} {output:?}");
        // Each file has to be given.
        let named: &[&str] =
            if files.is_empty() { &["--model"] } else { &["--latents", "'reference.safetensors'"] };
        let lacking = if files.is_empty() { 2 } else { again.len() - files.len() };
        check_refusals(folder.path(), &[], &[(&again[..lacking], 2, named)]);
    }
}

#[test]
fn pictures_are_compared() {
    let folder = workplace();
    let picture = |name: &str, pixels: Vec<u8>, width: u32| {
        let height = pixels.len() as u32 / 3 / width;
        let picture = loaders::RgbPicture::new(width, height, pixels).expect("whole rows");
        loaders::write_png(folder.path().join(name), &picture, &[]).expect("written");
    };
    let pixels: Vec<u8> = (0..16 * 12 * 3).map(|i| (i * 7 % 256) as u8).collect();
    picture("a.png", pixels.clone(), 16);
    let mut changed = pixels.clone();
    changed[5] = changed[5].wrapping_add(16);
    picture("b.png", changed, 16);
    picture("c.png", pixels, 12);
    let same = succeed(folder.path(), &["compare", "a.png", "a.png"]);
    assert_eq!(text(&same.stdout), "the pictures are equal\n");
    let words = ["compare", "a.png", "b.png", "--json", "--difference", "d.png"];
    let found: Value = serde_json::from_slice(&succeed(folder.path(), &words).stdout).expect("JSON");
    // 10 log10(255^2 / (16^2 / 576))
    assert!((found["psnr"].as_f64().expect("a number") - 51.652).abs() < 1e-3, "{found:#}");
    assert_eq!((&found["max_difference"], &found["different_pixels"]), (&16.into(), &1.into()));
    let difference = loaders::read_rgb(folder.path().join("d.png")).expect("a picture");
    assert_eq!(difference.pixels().iter().position(|value| *value > 0), Some(5));
    assert_eq!(difference.pixels()[5], 255);
    let low = run(folder.path(), &["compare", "a.png", "b.png", "--min-psnr", "60"]);
    assert_eq!(low.status.code(), Some(1));
    check_refusals(
        folder.path(),
        &["compare", "a.png"],
        &[
            (&["c.png"][..], 2, &["c.png", "16x12", "12x16"][..]),
            (&["text.png"], 4, &["text.png"]),
            (&["absent.png"], 2, &["absent.png"]),
            (&["a.png", "--min-psnr", "nan"], 2, &["--min-psnr", "'nan'", "expected a number"]),
            (&["b.png", "--min-psnr=-NaN"], 2, &["--min-psnr", "expected a number"]),
        ],
    );
    succeed(folder.path(), &["compare", "a.png", "a.png", "--min-psnr", "inf"]);
}

#[test]
fn the_first_operation_that_gives_no_number_is_named() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let spoiled = |name: &str, file: &str, tensor: &str| {
        copy_folder(&folder.path().join("model"), &folder.path().join(name));
        edit(&folder.path().join(name).join(file), |parts| parts.fill(tensor, 0xff));
        let words = ["generate", "-m", name, "-p", "x", "--steps", "3", "-i", "in.png", "-o", "out.png"];
        let output = run(folder.path(), &words);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert!(!folder.path().join("out.png").exists());
        text(&output.stderr).lines().next().unwrap_or_default().to_owned()
    };
    draw(folder.path(), &["-p", "x", "-o", "in.png"]);
    let unet = "unet/diffusion_pytorch_model.safetensors";
    // Its convolution has the residual added in its epilogue, and so the name of the whole block.
    let message = spoiled("bad-conv", unet, "mid_block.resnets.0.conv2.weight");
    for part in ["step 0, unet.mid_block.resnets.0 (conv2d as conv2d_", "operands within ", " not finite, "] {
        assert!(message.contains(part), "'{part}' in {message}");
    }
    let attention = spoiled("bad-key", unet, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight");
    // What is computed once for a prompt.
    assert!(attention.contains("step 0, unet.") && attention.contains("attn2.to_k"), "{attention}");
    let vae = "vae/diffusion_pytorch_model.safetensors";
    let decoder = spoiled("bad-decoder", vae, "decoder.conv_norm_out.bias");
    assert!(decoder.starts_with("error: decoder, vae."), "{decoder}");
    let encoder = spoiled("bad-encoder", vae, "encoder.conv_in.weight");
    assert!(encoder.starts_with("error: encoder, vae.encoder.conv_in (conv2d"), "{encoder}");
    let text_encoder =
        spoiled("bad-text", "text_encoder/model.safetensors", "text_model.final_layer_norm.weight");
    assert!(
        text_encoder.starts_with("error: text_encoder, text_encoder.final_layer_norm (layer_norm"),
        "{text_encoder}"
    );
    // The pooled prompt, which no context has.
    copy_folder(&folder.path().join("xl"), &folder.path().join("bad-pooled"));
    let weights = folder.path().join("bad-pooled/text_encoder_2/model.safetensors");
    edit(&weights, |parts| parts.fill("text_projection.weight", 0xff));
    let output = run(folder.path(), &["generate", "-m", "bad-pooled", "-p", "x", "--steps", "1"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(stderr.starts_with("error: text_encoder_2, text_encoder_2.text_projection (matmul"), "{stderr}");
}

#[test]
fn ranges_are_traced_also_where_no_picture_comes_of_it() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let ranges = |name: &str| -> Vec<Value> {
        let bytes = std::fs::read(folder.path().join(name)).expect("written");
        let traced: Value = serde_json::from_slice(&bytes).expect("JSON");
        traced["ranges"].as_array().expect("a list").clone()
    };
    draw(folder.path(), &["-p", "x", "-o", "plain.png"]);
    draw(folder.path(), &["-p", "x", "-o", "traced.png", "--trace-ranges", "ranges.json"]);
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("written");
    assert_eq!(read("plain.png"), read("traced.png"));
    let found = ranges("ranges.json");
    for stage in ["text_encoder", "step 0", "step 1", "decoder"] {
        assert!(found.iter().any(|range| range["stage"] == stage), "{stage}");
    }
    assert!(
        found.iter().all(|range| range["non_finite"] == 0 && range["min"].as_f64() <= range["max"].as_f64())
    );

    let words = [
        "generate",
        "-m",
        "not-finite",
        "-p",
        "x",
        "--steps",
        "1",
        "--trace-ranges",
        "bad.json",
        "-o",
        "out.png",
    ];
    let output = run(folder.path(), &words);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let first = ranges("bad.json").into_iter().find(|range| range["non_finite"] != 0).expect("one");
    assert_eq!(first["name"], "unet.conv_in", "{first:#}");
}

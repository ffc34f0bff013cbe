//! Adapters, checkpoints and recordings described.

use serde_json::Value;
use serde_json::json;

use crate::support::{
    change_json, check_refusals, copy_folder, edit, fixture, has_adapter, list, run, succeed, text, workplace,
};

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

#[test]
fn a_plan_foretells_what_a_picture_takes() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let shape = ["-m", "model", "-W", "64", "-H", "64"];
    let planned = |words: &[&str]| {
        let output = run(folder.path(), &[&["plan"][..], &shape, words, &["--json"]].concat());
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), plan, text(&output.stderr))
    };
    let (code, whole, _) = planned(&["--steps", "2"]);
    assert_eq!((code, &whole["fits"], &whole["keeps_denoiser"]), (Some(0), &true.into(), &true.into()));
    let names: Vec<&str> = list(&whole, "phases").iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["text_encoder", "denoiser", "decoder"]);
    let drawn =
        [&["generate", "-p", "x", "--steps", "2", "--stats", "stats.json", "-o", "out.png"][..], &shape]
            .concat();
    succeed(folder.path(), &drawn);
    let stats = std::fs::read(folder.path().join("stats.json")).expect("written");
    let stats: Value = serde_json::from_slice(&stats).expect("JSON");
    let (foretold, found) = (whole["peak_bytes"].as_f64(), stats["peak_bytes"].as_f64());
    let ratio = foretold.expect("a number") / found.expect("a number");
    assert!((ratio - 1.0).abs() < 0.05, "{foretold:?} {found:?}");
    assert_eq!(list(&whole, "phases")[1]["dispatches"], stats["dispatches"]["denoiser"]);

    // A step of pndm is evaluated twice, and it keeps what others need not.
    let of_sampler = |name: &str| {
        let (_, plan, _) = planned(&["--steps", "4", "--sampler", name]);
        ["steps", "flops", "peak_bytes"].map(|key| plan[key].as_f64().expect("a number"))
    };
    let (pndm, euler) = (of_sampler("pndm"), of_sampler("euler"));
    assert_eq!([pndm[0], euler[0]], [5.0, 4.0]);
    assert!(pndm[1] > euler[1] && pndm[2] > euler[2], "{pndm:?} {euler:?}");

    let (code, less, stderr) = planned(&["--max-vram", "200K"]);
    assert_eq!((code, &less["fits"]), (Some(5), &false.into()));
    assert!(stderr.starts_with("error: does not fit: "), "{stderr}");
    check_refusals(
        folder.path(),
        &[&["generate", "-p", "x"][..], &shape].concat(),
        &[(&["--max-vram", "200K"][..], 5, &["out of GPU memory", "204800 are allowed"][..])],
    );
    // What the hint says works.
    for limit in ["300K", "2M"] {
        let size = ["-m", "model", "-W", "256", "-H", "128"];
        let output =
            run(folder.path(), &[&["plan"][..], &size, &["--steps", "1", "--max-vram", limit]].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{stderr}");
        let drawn = run(
            folder.path(),
            &[&["generate", "-p", "x", "--steps", "1", "--max-vram", limit][..], &size].concat(),
        );
        let hint = text(&drawn.stderr).lines().nth(1).expect("a hint").to_owned();
        assert!(stderr.ends_with(&format!("{hint}\n")), "{stderr} {hint}");
        let hint = hint.strip_prefix("hint: ").expect("a hint");
        let (smaller, needed) = hint.split_once("; ").expect("two things to do");
        let needed =
            [smaller, needed].into_iter().find_map(|part| part.strip_prefix("256x128 needs --max-vram "));
        println!("{limit}: {hint}");
        let drawn = |limit: &str, width: &str, height: &str| {
            let words = ["-m", "model", "-W", width, "-H", height, "--max-vram", limit, "-o", "fits.png"];
            run(folder.path(), &[&["generate", "-p", "x", "--steps", "1"][..], &words].concat())
        };
        let all = drawn(needed.expect("a limit"), "256", "128");
        assert!(all.status.success(), "{hint}: {all:?}");
        if limit == "2M" {
            let (size, _) = smaller.split_once(" would fit in ").expect("a size");
            let (width, height) = size.split_once('x').expect("two edges");
            let less = drawn(limit, width, height);
            assert!(less.status.success(), "{hint}: {less:?}");
            let more: Vec<String> = [width, height]
                .map(|edge| (edge.parse::<usize>().expect("a number") + 16).to_string())
                .into();
            assert_eq!(drawn(limit, &more[0], &more[1]).status.code(), Some(5), "{hint}");
        }
    }

    // A folder that is not complete yet.
    for (model, code, says) in [("no-vae", 3, "vae"), ("truncated", 3, "unet")] {
        let output = run(folder.path(), &["plan", "-m", model]);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(stdout.contains("\nno: the model is not complete"), "{stdout}");
        assert!(stdout.lines().any(|line| line.starts_with(says)), "{stdout}");
        assert_eq!(output.status.code(), Some(code), "{stderr}");
    }
}

#[test]
fn f16_is_a_hint_only_where_f32_runs() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    for command in [&["plan"][..], &["generate", "-p", "x"]] {
        for (precision, is_hint) in [("f32", true), ("f16", false)] {
            let words = ["-m", "model", "--max-vram", "1K", "--precision", precision];
            let output = run(folder.path(), &[command, &words].concat());
            assert_eq!(output.status.code(), Some(5), "{output:?}");
            let stderr = text(&output.stderr);
            assert_eq!(stderr.contains("--precision f16 takes less"), is_hint, "{stderr}");
        }
    }
}

#[test]
fn a_folder_that_is_not_complete_is_planned_as_it_will_be() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let planned = |words: &[&str]| {
        let output = run(folder.path(), &[&["plan", "-W", "64", "-H", "64", "--json"][..], words].concat());
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), plan, text(&output.stderr))
    };
    let (code, whole, _) = planned(&["-m", "model", "--precision", "f16"]);
    assert_eq!((code, &whole["complete"]), (Some(0), &true.into()));

    // Half a file under its own name, under a download's, half a header, an index without its shards, half of one, nothing.
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let bytes = std::fs::read(folder.path().join("model").join(weights)).expect("a file");
    let half = &bytes[..bytes.len() / 2];
    let to_come_of_half = bytes.len() - half.len();
    let header_bytes = 8 + bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)) as usize;
    let all = bytes.len() - header_bytes;
    let index = json!({ "metadata": {}, "weight_map": { "conv_in.bias": "a-00001-of-00002.safetensors" } });
    let index = index.to_string();
    for (name, file, content) in [
        ("half", weights, half),
        ("incomplete", "unet/diffusion_pytorch_model.safetensors.incomplete", half),
        ("begun", weights, &bytes[..header_bytes / 2]),
        ("sharded", "unet/diffusion_pytorch_model.safetensors.index.json", index.as_bytes()),
        ("cut-index", "unet/diffusion_pytorch_model.safetensors.index.json", &index.as_bytes()[..20]),
        ("none", "unet/readme", &b""[..]),
    ] {
        copy_folder(&folder.path().join("model"), &folder.path().join(name));
        std::fs::remove_file(folder.path().join(name).join(weights)).expect("removed");
        std::fs::write(folder.path().join(name).join(file), content).expect("written");
        let (code, plan, stderr) = planned(&["-m", name, "--precision", "f16"]);
        assert_eq!(
            (code, &plan["complete"], &plan["fits"]),
            (Some(3), &false.into(), &true.into()),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for key in ["phases", "peak_bytes", "flops", "largest_binding", "keeps_denoiser"] {
            assert_eq!(plan[key], whole[key], "{name}: {key}");
        }
        let [absent] = list(&plan, "absent") else { panic!("{plan:#}") };
        assert_eq!((&absent["name"], &absent["assumed"]), (&"unet".into(), &"F16".into()));
        assert_eq!(absent["weight_bytes"], all, "{absent:#}");
        let to_come = match name {
            // A header that is there says how long the file will be.
            "half" | "incomplete" => to_come_of_half,
            "begun" => all - content.len(),
            _ => all,
        };
        assert_eq!(absent["bytes_to_come"], to_come, "{absent:#}");
        let output = run(folder.path(), &["plan", "-W", "64", "-H", "64", "-m", name, "--precision", "f16"]);
        let stdout = text(&output.stdout);
        let [all, to_come] = [all, to_come].map(|bytes| format!("{:.1} KiB", bytes as f64 / 1024.0));
        let row = stdout.lines().find(|line| line.starts_with("unet ") && line.contains(" F16 "));
        let cells: Vec<&str> = row.unwrap_or_default().split("  ").map(str::trim).collect();
        let cells: Vec<&str> = cells.into_iter().filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells[..4], ["unet", &all, "F16", &to_come], "{stdout}");
        let verdict = format!("\nno: the model is not complete, {to_come} are to come; then yes");
        assert!(stdout.contains(&verdict), "{stdout}");
    }
    // A header that is there says how the rest will be stored: here in f32, which --precision did not ask for.
    copy_folder(&folder.path().join("model"), &folder.path().join("wide"));
    let wide = folder.path().join("wide").join(weights);
    edit(&wide, |parts| {
        for tensor in parts.header.values_mut().filter(|tensor| tensor["dtype"] == "F16") {
            let ends = [0, 1].map(|end| tensor["data_offsets"][end].as_u64().expect("a number"));
            tensor["dtype"] = "F32".into();
            tensor["data_offsets"] = json!(ends.map(|end| 2 * end));
        }
        // Indices, as checkpoints of text encoders have them, more than any tensor; and one tensor in f16 beside f32.
        let (end, indices) = (2 * parts.data.len(), 1 << 20);
        let positions =
            json!({ "dtype": "I64", "shape": [indices / 8], "data_offsets": [end, end + indices] });
        parts.header.insert("position_ids".to_owned(), positions);
        parts.data = vec![0; end + indices];
        let name = parts.header.iter().max_by_key(|(name, tensor)| {
            let is_last = tensor["data_offsets"][1] == end;
            (is_last, name.len())
        });
        let (name, last) = name.map(|(name, tensor)| (name.clone(), tensor.clone())).expect("tensors");
        let ends = [0, 1].map(|end| last["data_offsets"][end].as_u64().expect("a number") as usize);
        let half = (ends[1] - ends[0]) / 2;
        parts.header[&name]["dtype"] = "F16".into();
        parts.header[&name]["data_offsets"] = json!([ends[0], ends[0] + half]);
        parts.header["position_ids"]["data_offsets"] = json!([end - half, end - half + indices]);
        parts.data.truncate(end - half + indices);
    });
    let (_, whole, _) = planned(&["-m", "wide"]);
    let bytes = std::fs::read(&wide).expect("a file");
    // Half of the weights.
    let there = (bytes.len() - (1 << 20)) / 2;
    std::fs::remove_file(&wide).expect("removed");
    std::fs::write(wide.with_extension("safetensors.incomplete"), &bytes[..there]).expect("written");
    let (_, plan, stderr) = planned(&["-m", "wide"]);
    for key in ["phases", "peak_bytes", "dtype"] {
        assert_eq!(plan[key], whole[key], "{key}: {stderr}");
    }
    let [absent] = list(&plan, "absent") else { panic!("{plan:#}") };
    let to_come = Some((bytes.len() - there) as u64);
    assert_eq!((&absent["assumed"], absent["bytes_to_come"].as_u64()), (&"F32".into(), to_come));
    // Another of the same kind, of which there is nothing yet, is passed over.
    let nothing = wide.with_file_name("a.safetensors.incomplete");
    std::fs::write(&nothing, "").expect("written");
    let (_, plan, _) = planned(&["-m", "wide"]);
    assert_eq!(plan["phases"], whole["phases"]);
    std::fs::remove_file(nothing).expect("removed");
    // Beside one in f16 it is the one that --precision prefers.
    std::fs::write(wide.with_extension("fp16.safetensors.incomplete"), half).expect("written");
    let of_half = to_come_of_half as u64;
    for (precision, assumed, to_come) in [("auto", "F16", Some(of_half)), ("f32", "F32", to_come)] {
        let (_, plan, _) = planned(&["-m", "wide", "--precision", precision]);
        let [absent] = list(&plan, "absent") else { panic!("{plan:#}") };
        assert_eq!(absent["assumed"], assumed);
        assert_eq!(absent["bytes_to_come"].as_u64(), to_come, "{absent:#}");
    }

    // What is there and cannot be read is not still to come, also where something else is.
    let path = |name: &str| folder.path().join(name);
    let index = "unet/diffusion_pytorch_model.safetensors.index.json";
    let hole = |file: &std::path::Path| {
        edit(file, |parts| parts.header["conv_in.bias"]["shape"] = json!([1, 1]));
    };
    let shards =
        |first: &str| json!({ "weight_map": { "a": first, "conv_in.bias": "x.safetensors" } }).to_string();
    for (name, file, content, says) in [
        ("no-json", weights, "\x02\0\0\0\0\0\0\0[]", "'{' first"),
        ("claims-much", weights, "\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f{}", "of JSON, found a file of 10 bytes"),
        ("wrong-shape", weights, "", "conv_in.bias"),
        ("index-no-json", index, "xyz", "weight_map"),
        ("index-no-object", index, "[]", "weight_map"),
        ("index-leads-out", index, &shards("../x"), "a relative path inside the folder"),
        ("index-of-broken", index, &shards("absent.safetensors"), "unet/x.safetensors: header"),
    ] {
        copy_folder(&path("model"), &path(name));
        if content.is_empty() {
            hole(&path(name).join(file));
        } else {
            std::fs::remove_file(path(name).join(weights)).expect("removed");
            std::fs::write(path(name).join("unet/x.safetensors"), [0; 16]).expect("written");
            std::fs::write(path(name).join(file), content).expect("written");
        }
        std::fs::remove_file(path(name).join("text_encoder/model.safetensors")).expect("removed");
        let output = run(folder.path(), &["plan", "-m", name]);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(3), "{name}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(says), "{name}: {stderr}");
        assert!(stdout.ends_with("\nno: what is there of unet cannot be used\n"), "{name}: {stdout}");
        assert!(stdout.lines().any(|line| line.starts_with("unet ") && line.contains(says)), "{stdout}");
        let (code, plan, _) = planned(&["-m", name]);
        assert_eq!((code, &plan["fits"]), (Some(3), &false.into()), "{plan:#}");
    }
    // Nor is what a header says that is there, of one file among several: the file, the tensor and its name in it are told.
    copy_folder(&path("model"), &path("parts"));
    let weights = path("parts").join("text_encoder/model.safetensors");
    let name = "text_model.encoder.layers.0.self_attn.q_proj.weight";
    edit(&weights, |parts| {
        let shape = parts.header[name]["shape"].as_array().expect("two extents");
        let extents: Vec<u64> = shape.iter().filter_map(Value::as_u64).collect();
        parts.header[name]["shape"] = json!([extents[0] / 2, 2 * extents[1]]);
        parts.data.truncate(100);
    });
    std::fs::rename(&weights, path("parts").join("text_encoder/b.safetensors.incomplete")).expect("renamed");
    std::fs::write(path("parts").join("text_encoder/a.safetensors.incomplete"), "").expect("written");
    let output = run(folder.path(), &["plan", "-m", "parts"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let says = format!("text_encoder/b.safetensors.incomplete: tensor '{name}': expected [");
    assert!(stderr.lines().count() == 1 && stderr.contains(&says), "{stderr}");
    // What the only file lacks by its header, it will lack.
    copy_folder(&path("model"), &path("lacking"));
    let weights = path("lacking").join("unet/diffusion_pytorch_model.safetensors");
    edit(&weights, |parts| {
        parts.rename("conv_in.bias", "conv_in.bass");
        parts.data.truncate(100);
    });
    let output = run(folder.path(), &["plan", "-m", "lacking"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let says =
        "unet/diffusion_pytorch_model.safetensors: tensor 'conv_in.bias': expected a tensor, found none";
    assert!(stderr.lines().count() == 1 && stderr.contains(says), "{stderr}");
    // What there will be of f32 is twice as much, and more than a limit that it knows of allows.
    let (code, plan, stderr) = planned(&["-m", "none", "--precision", "f32", "--max-vram", "300K"]);
    assert_eq!((code, &plan["fits"]), (Some(5), &false.into()), "{stderr}");
    let [single] = list(&plan, "absent") else { panic!("{plan:#}") };
    let (_, half, _) = planned(&["-m", "none"]);
    let [half] = list(&half, "absent") else { panic!("{half:#}") };
    assert_eq!(single["weight_bytes"].as_u64(), half["weight_bytes"].as_u64().map(|bytes| 2 * bytes));

    // Every network of two models, and an initial picture's encoder.
    for name in ["xl", "refiner"] {
        for part in ["text_encoder", "text_encoder_2", "unet", "vae"] {
            let _ = std::fs::remove_file(folder.path().join(name).join(part).join("model.safetensors"));
            let unet = folder.path().join(name).join(part).join("diffusion_pytorch_model.safetensors");
            let _ = std::fs::remove_file(unet);
        }
    }
    let init = fixture("pipelines/sd1_layout/pndm_img2img/init.png");
    let init = init.to_str().expect("UTF-8");
    let (code, plan, stderr) = planned(&["-m", "xl", "--refiner", "refiner", "--init-img", init]);
    assert_eq!(code, Some(3), "{stderr}");
    let names = |key: &str| -> Vec<&str> {
        list(&plan, key).iter().filter_map(|entry| entry["name"].as_str()).collect()
    };
    assert_eq!(
        names("phases"),
        [
            "text_encoder",
            "text_encoder_2",
            "encoder",
            "denoiser",
            "refiner's text_encoder",
            "refiner's denoiser",
            "decoder"
        ]
    );
    assert_eq!(
        names("absent"),
        [
            "text_encoder",
            "text_encoder_2",
            "vae",
            "unet",
            "refiner's text_encoder_2",
            "refiner's vae",
            "refiner's unet"
        ]
    );
    assert!(plan["refiner_steps"].as_u64() > Some(0), "{plan:#}");

    // What has no configuration cannot be foretold.
    let output = run(folder.path(), &["plan", "-m", "no-vae"]);
    let stdout = text(&output.stdout);
    assert!(stdout.contains("\ncannot be foretold without a configuration: vae\nno: "), "{stdout}");
    assert_eq!(output.status.code(), Some(3));
    // Nothing is assumed where something is there that is not supported.
    let output = run(folder.path(), &["plan", "-m", "pickled"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

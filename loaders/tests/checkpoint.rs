//! Checkpoints in shards, by other names, and in a diffusers folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use photogram_loaders::safetensors::{Data, Limits, Tensor, to_bytes};
use photogram_loaders::{BytesSource, Checkpoint, DiffusersFolder, Error, Folder, Prefer, Rename};
use pollster::block_on;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A safetensors file of scalars, one for each name.
fn scalars(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<_> =
        names.iter().map(|name| Tensor { name, shape: &[], data: Data::F32(&[1.0]) }).collect();
    to_bytes(&tensors, &BTreeMap::new()).unwrap()
}

/// A folder of these files.
fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

fn json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

const INDEX: &str = "model.safetensors.index.json";

/// Two shards, `one` with a and b, `two` with c, and an index with this map.
fn sharded(weight_map: Value) -> Result<Checkpoint, Error> {
    let folder = folder(&[
        ("model/one.safetensors", scalars(&["a", "b"])),
        ("model/two.safetensors", scalars(&["c"])),
        (&format!("model/{INDEX}"), json(&json!({"metadata": {"total_size": 12}, "weight_map": weight_map}))),
    ]);
    block_on(Checkpoint::open(folder.path().join("model").join(INDEX), &Limits::default()))
}

#[test]
fn shards_read_as_one() {
    let checkpoint =
        sharded(json!({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(checkpoint.require("c").unwrap().source.label().ends_with("/two.safetensors"));
    assert!(checkpoint.label().ends_with(INDEX));
    let error = checkpoint.require("d\u{1b}").unwrap_err().to_string();
    assert!(
        error.ends_with("tensor 'd\\u{1b}': expected a tensor, found none of that name among 3"),
        "{error}"
    );
}

#[test]
fn a_path_that_is_not_there_is_not_found() {
    let folder = folder(&[]);
    for name in ["absent.safetensors", INDEX, "absent/x.safetensors"] {
        let error = block_on(Checkpoint::open(folder.path().join(name), &Limits::default())).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}

fn single(names: &[&str]) -> Checkpoint {
    let folder = folder(&[("x.safetensors", scalars(names))]);
    block_on(Checkpoint::open(folder.path().join("x.safetensors"), &Limits::default())).unwrap()
}

#[test]
fn rules_give_tensors_other_names() {
    let checkpoint = single(&["unet.in.0.weight", "unet.in.1.weight", "unet.in.10.weight", "vae.w", "ema.w"]);
    let rules = [
        Rename::prefix("unet.in.", "down."),
        Rename::prefix("unet.in.1.", "mid."),
        Rename::prefix("vae.", ""),
        Rename::tensor("vae.w", "decoder.w"),
        Rename::tensor("vae.w", "ignored"),
        Rename::tensor("absent", "absent"),
    ];
    let renamed = checkpoint.renamed(&rules).unwrap();
    let names: Vec<_> = renamed.names().collect();
    assert_eq!(names, ["decoder.w", "down.0.weight", "down.10.weight", "mid.weight"]);
    assert_eq!(renamed.require("mid.weight").unwrap().name, "unet.in.1.weight");
    let error = renamed.require("mid.weight").unwrap().unexpected("F32[2]").to_string();
    assert!(error.ends_with("tensor 'unet.in.1.weight': expected F32[2], found F32[]"), "{error}");

    let scoped = checkpoint.scoped("unet.in.");
    assert_eq!(scoped.names().collect::<Vec<_>>(), ["0.weight", "1.weight", "10.weight"]);
    assert_eq!(checkpoint.scoped("none.").names().len(), 0);
    assert_eq!(checkpoint.renamed(&[]).unwrap().names().len(), 0);
}

#[test]
fn two_tensors_may_not_get_one_name() {
    let checkpoint = single(&["a.w", "b.w"]);
    let error =
        checkpoint.renamed(&[Rename::prefix("a.", ""), Rename::prefix("b.", "")]).unwrap_err().to_string();
    assert!(error.ends_with("tensor 'w': expected one tensor, found 'a.w' and 'b.w'"), "{error}");
}

/// A file with these tensors, whose values count on from tensor to tensor.
fn counting(tensors: &[(&str, &[usize])]) -> Checkpoint {
    let mut counter = (0u16..).map(f32::from);
    let values: Vec<Vec<f32>> =
        tensors.iter().map(|(_, shape)| counter.by_ref().take(shape.iter().product()).collect()).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .zip(&values)
        .map(|((name, shape), values)| Tensor { name, shape, data: Data::F32(values) })
        .collect();
    let bytes = to_bytes(&tensors, &BTreeMap::new()).unwrap();
    block_on(Checkpoint::from_source(Arc::new(BytesSource::new("x", bytes)), &Limits::default())).unwrap()
}

/// `in_proj_*` into three, everything else as it is.
fn thirds(name: &str) -> Vec<String> {
    match name.strip_suffix("in_proj_weight") {
        Some(head) => ["q", "k", "v"].map(|part| format!("{head}{part}.weight")).into(),
        None => vec![name.to_owned()],
    }
}

#[test]
fn rows_are_read_as_tensors_of_their_own() {
    let file =
        counting(&[("a", &[2, 2]), ("x.in_proj_weight", &[6, 2]), ("y.in_proj_weight", &[3]), ("z", &[])]);
    let split = file.split_with(thirds).unwrap();
    let names: Vec<_> = split.names().collect();
    assert_eq!(
        names,
        ["a", "x.k.weight", "x.q.weight", "x.v.weight", "y.k.weight", "y.q.weight", "y.v.weight", "z"]
    );
    assert_eq!(split.bytes(), file.bytes());
    for (name, shape, expected) in [
        ("a", &[2, 2][..], vec![0.0, 1.0, 2.0, 3.0]),
        ("x.q.weight", &[2, 2], vec![4.0, 5.0, 6.0, 7.0]),
        ("x.k.weight", &[2, 2], vec![8.0, 9.0, 10.0, 11.0]),
        ("x.v.weight", &[2, 2], vec![12.0, 13.0, 14.0, 15.0]),
        ("y.k.weight", &[1], vec![17.0]),
        ("z", &[], vec![19.0]),
    ] {
        let entry = split.require(name).unwrap();
        assert_eq!(entry.shape, shape, "{name}");
        assert_eq!(entry.n_values(), expected.len() as u64, "{name}");
        let bytes: Vec<u8> = expected.iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
        assert_eq!(block_on(split.read(entry)).unwrap(), bytes, "{name}");
        let mut last = [0; 4];
        let end = entry.bytes;
        block_on(split.read_into(entry, end - 4..end, &mut last)).unwrap();
        assert_eq!(last, bytes[bytes.len() - 4..], "{name}");
        assert!(block_on(split.read_into(entry, end..end + 4, &mut last)).is_err(), "{name}");
    }
    let error = split.require("x.v.weight").unwrap().unexpected("[4, 4]").to_string();
    assert_eq!(error, "x: tensor 'x.in_proj_weight': expected [4, 4], found F32[2, 2] (rows 4..6)");

    let again = split.split_with(|name| match name {
        "x.v.weight" => vec!["first".to_owned(), "second".to_owned()],
        _ => Vec::new(),
    });
    let again = again.unwrap();
    assert_eq!(again.names().collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(again.require("second").unwrap().to_string(), "F32[1, 2] (rows 5..6)");
    assert_eq!(
        block_on(again.read(again.require("second").unwrap())).unwrap(),
        [[0, 0, 96, 65], [0, 0, 112, 65]].concat()
    );
}

#[test]
fn rows_that_cannot_be_shared_out_are_malformed() {
    for (shape, found) in [(&[4, 3][..], "F32[4, 3]"), (&[1], "F32[1]"), (&[], "F32[]")] {
        let error = counting(&[("x.in_proj_weight", shape)]).split_with(thirds).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        let expected = format!(
            "x: tensor 'x.in_proj_weight': expected a number of rows that is a multiple of 3, found {found}"
        );
        assert_eq!(error.to_string(), expected);
    }
    let empty = counting(&[("x.in_proj_weight", &[0, 2])]).split_with(thirds).unwrap();
    assert_eq!(empty.require("x.k.weight").unwrap().to_string(), "F32[0, 2] (rows 0..0)");
    let error = counting(&[("x.in_proj_weight", &[3]), ("x.k.weight", &[1])]).split_with(thirds).unwrap_err();
    let expected = "x: tensor 'x.k.weight': expected one tensor, found 'x.in_proj_weight' and 'x.k.weight'";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_is_not_all_there_is_told_from_what_is_broken() {
    let whole = scalars(&["a", "b"]);
    let is_incomplete = |files: &[(&str, Vec<u8>)]| {
        let weight_map = json!({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"});
        let index = (INDEX, json(&json!({ "weight_map": weight_map })));
        let folder = folder(&[files, &[index]].concat());
        let error = block_on(Checkpoint::open(folder.path().join(INDEX), &Limits::default())).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        error.is_incomplete()
    };
    let (one, two) = ("one.safetensors", "two.safetensors");
    assert!(is_incomplete(&[(one, whole.clone())]));
    assert!(is_incomplete(&[]));
    for end in 0..whole.len() {
        assert!(is_incomplete(&[(one, whole[..end].to_vec()), (two, scalars(&["c"]))]), "{end} bytes");
    }
    for broken in [vec![0; 16], [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), [&whole[..], &[0]].concat()] {
        assert!(!is_incomplete(&[(one, broken.clone()), (two, scalars(&["c"]))]));
        // Also where another shard has not come yet, before it or after it.
        assert!(!is_incomplete(&[(one, broken.clone())]));
        assert!(!is_incomplete(&[(two, broken.clone())]));
        assert!(!is_incomplete(&[(one, whole[..20].to_vec()), (two, broken)]));
    }
    assert!(!is_incomplete(&[(one, whole), (two, scalars(&["d"]))]));
}

fn index() -> Value {
    json!({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "requires_safety_checker": false,
        "unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [null, null], "sizes": [1, 2, 3],
    })
}

fn diffusers(files: &[(&str, Vec<u8>)]) -> (TempDir, Result<DiffusersFolder, Error>) {
    let mut files = files.to_vec();
    files.push(("model_index.json", json(&index())));
    let folder = folder(&files);
    let opened = Folder::on_disk(folder.path()).and_then(|folder| block_on(DiffusersFolder::open(folder)));
    (folder, opened)
}

#[test]
fn the_index_names_parts() {
    let (_folder, model) = diffusers(&[
        ("unet/config.json", b"{\"in_channels\": 4}".to_vec()),
        ("scheduler/scheduler_config.json", b"{\"steps_offset\": 1}".to_vec()),
        ("text_encoder/model.safetensors", scalars(&["t"])),
    ]);
    let model = model.unwrap();
    assert_eq!(model.class(), "StableDiffusionPipeline");
    let parts: Vec<_> = model.parts().collect();
    assert_eq!(
        parts,
        [("scheduler", "DDIMScheduler"), ("text_encoder", "CLIPTextModel"), ("unet", "UNet2DConditionModel")]
    );
    assert_eq!(model.part("unet"), Some("UNet2DConditionModel"));
    assert!(model.part("safety_checker").is_none() && model.part("requires_safety_checker").is_none());
    assert!(!model.index().require::<bool>("requires_safety_checker").unwrap());
    assert_eq!(block_on(model.config("unet")).unwrap().require::<usize>("in_channels").unwrap(), 4);
    assert_eq!(block_on(model.config("scheduler")).unwrap().require::<usize>("steps_offset").unwrap(), 1);

    let error = block_on(model.config("text_encoder")).unwrap_err().to_string();
    let expected =
        "/text_encoder: files: expected config.json or scheduler_config.json, found model.safetensors";
    assert!(error.ends_with(expected), "{error}");
    let error = block_on(model.config("vae")).unwrap_err().to_string();
    assert!(
        error.contains("files: expected vae/, found model_index.json, scheduler/, text_encoder/, unet/"),
        "{error}"
    );
    let error = block_on(model.checkpoint("unet", Prefer::Full, &Limits::default())).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }));
    let expected =
        "/unet: files: expected diffusion_pytorch_model.safetensors or model.safetensors, found config.json";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert!(matches!(block_on(model.config("../unet")), Err(Error::Malformed { .. })));
}

/// The file that the weights of a unet folder with these files come from.
fn chosen(names: &[&str], prefer: Prefer) -> Result<String, Error> {
    let files: Vec<_> = names
        .iter()
        .map(|name| {
            let bytes = match *name {
                name if name.ends_with(".json") => json(&json!({"weight_map": {"w": "shard.safetensors"}})),
                _ => scalars(&["w"]),
            };
            (format!("unet/{name}"), bytes)
        })
        .collect();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let (folder, model) = diffusers(&files);
    let checkpoint = block_on(model?.checkpoint("unet", prefer, &Limits::default()))?;
    let label = Path::new(checkpoint.label());
    assert!(label.starts_with(folder.path()));
    Ok(label.file_name().unwrap().to_str().unwrap().to_owned())
}

#[test]
fn the_preferred_weights_are_taken_or_what_there_is() {
    let (full, fp16) = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors");
    let shards = "diffusion_pytorch_model.safetensors.index.json";
    let fp16_shards = "diffusion_pytorch_model.safetensors.index.fp16.json";
    let encoder = "model.safetensors";
    let cases = [
        (vec![full, fp16], Prefer::Full, full),
        (vec![full, fp16], Prefer::Fp16, fp16),
        (vec![full], Prefer::Fp16, full),
        (vec![fp16], Prefer::Full, fp16),
        (vec![full, "diffusion_pytorch_model.bin"], Prefer::Full, full),
        (vec![shards, "shard.safetensors"], Prefer::Full, shards),
        (vec![shards, fp16_shards, "shard.safetensors"], Prefer::Fp16, fp16_shards),
        (vec![fp16_shards, "shard.safetensors"], Prefer::Full, fp16_shards),
        (vec![encoder, "model.fp16.safetensors"], Prefer::Full, encoder),
        (vec![encoder, "model.fp16.safetensors"], Prefer::Fp16, "model.fp16.safetensors"),
    ];
    for (names, prefer, expected) in cases {
        assert_eq!(chosen(&names, prefer).unwrap(), expected, "{names:?} {prefer:?}");
    }
}

#[test]
fn a_folder_of_pickles_is_unsupported() {
    for pickle in ["diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt"] {
        let error = chosen(&["config.txt", pickle], Prefer::Full).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("/unet/{pickle}: a pickle")) && text.contains("save_pretrained"),
            "{text}"
        );
    }
}

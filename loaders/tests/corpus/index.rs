//! Indices of shards, and model_index.json.

use std::collections::BTreeMap;
use std::path::Path;

use photogram_loaders::safetensors::{Data, Limits, Tensor, to_bytes};
use photogram_loaders::{Checkpoint, DiffusersFolder, Error, Folder};
use pollster::block_on;
use serde_json::{Value, json};

use super::Outcome::{self, Accepted, Malformed, Unsupported};
use super::{Row, check};

const INDEX: &str = "model.safetensors.index.json";

const ONE: &str = "one.safetensors";

const TWO: &str = "two.safetensors";

/// A safetensors file of scalars, one for each name.
fn scalars(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<_> =
        names.iter().map(|name| Tensor { name, shape: &[], data: Data::F32(&[1.0]) }).collect();
    to_bytes(&tensors, &BTreeMap::new()).unwrap()
}

/// Where each tensor is, and how much metadata there is.
fn read_index(folder: &Path) -> Result<String, Error> {
    let checkpoint = block_on(Checkpoint::open(folder.join(INDEX), &Limits::default()))?;
    let places: Vec<_> = checkpoint
        .tensors()
        .map(|(name, entry)| {
            let label = Path::new(entry.source.label()).strip_prefix(folder).unwrap().display();
            format!("{name} in {label}")
        })
        .collect();
    Ok(places.join(", "))
}

/// An index of two shards, `one` with a and b, `two` with c.
fn row(name: &'static str, index: impl Into<Vec<u8>>, outcome: Outcome, text: &str) -> Row {
    Row::file(name, outcome, INDEX, index, text)
        .beside(ONE, scalars(&["a", "b"]))
        .beside(TWO, scalars(&["c"]))
        .beside("../secret.safetensors", scalars(&["c"]))
        .beside("folder/x.safetensors", scalars(&["d"]))
}

fn index_rows() -> Vec<Row> {
    let inside = "weight_map: expected a relative path inside the folder, found";
    let mapped = |name: &'static str, weight_map: Value, outcome: Outcome, text: &str| {
        row(name, json!({"metadata": {}, "weight_map": weight_map}).to_string(), outcome, text)
    };
    // The first two tensors are where they belong.
    let third = |name: &'static str, shard: Value, outcome: Outcome, text: &str| {
        mapped(name, json!({"a": ONE, "b": ONE, "c": shard}), outcome, text)
    };
    let object = "weight_map: expected an object from tensors to files";
    let deep = format!(r#"{{"weight_map": {{}}, "metadata": {}"#, "[".repeat(100_000));
    let long = format!("{}.safetensors", "s".repeat(2_000));
    let many: BTreeMap<String, &str> = (0..65_537).map(|idx| (idx.to_string(), TWO)).collect();
    let million = format!(r#"{{"weight_map": {{"a": "{}"}}}}"#, "x".repeat(16 << 20));
    let mut rows = vec![
        row("empty", "", Malformed, object),
        row("array", "[]", Malformed, object),
        row("null", "null", Malformed, object),
        row("cut", r#"{"weight_map": {"a": "one.safe"#, Malformed, object),
        row("no UTF-8", b"{\"weight_map\": {\"a\xff\": \"one\"}}".to_vec(), Malformed, object),
        row("two objects", r#"{"weight_map": {}}{}"#, Malformed, "trailing characters"),
        row("no weight_map", r#"{"metadata": {}}"#, Malformed, "missing field `weight_map`"),
        row("weight_map twice", r#"{"weight_map": {}, "weight_map": {}}"#, Malformed, "duplicate field"),
        row("deep", deep, Malformed, object),
        row("over 16 MiB", million, Unsupported, "at most 16777216 bytes are read here"),
        row(
            "tensor twice",
            r#"{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}"#,
            Malformed,
            "key 'a' twice",
        ),
        row(
            "hostile tensor twice",
            r#"{"weight_map": {"\u001b[2J": "x", "\u001b[2J": "y"}}"#,
            Malformed,
            r"key '\u{1b}[2J' twice",
        ),
        mapped("weight_map is a list", json!(["a"]), Malformed, object),
        mapped("weight_map is null", json!(null), Malformed, object),
        third("number for a shard", json!(1), Malformed, object),
        third("null for a shard", json!(null), Malformed, object),
        third("list for a shard", json!([TWO]), Malformed, object),
        third("climbs", json!("../secret.safetensors"), Malformed, inside),
        third("climbs out of a folder", json!("folder/../../secret.safetensors"), Malformed, inside),
        third("absolute", json!("/etc/passwd"), Malformed, "found '/etc/passwd'"),
        third("backslash", json!("..\\secret.safetensors"), Malformed, inside),
        third("drive", json!("C:\\secret.safetensors"), Malformed, inside),
        third("network path", json!("\\\\host\\share\\x.safetensors"), Malformed, inside),
        third("URL", json!("https://example.org/x.safetensors"), Malformed, inside),
        third("stream", json!("two.safetensors:x"), Malformed, inside),
        third("device", json!("NUL.safetensors"), Malformed, inside),
        third("dot", json!("."), Malformed, inside),
        third("itself by a dot", json!("./two.safetensors"), Malformed, inside),
        third("no name", json!(""), Malformed, "found ''"),
        third("NUL byte", json!("two.safetensors\0"), Malformed, "found 'two.safetensors\\u{0}'"),
        third("escape", json!("\u{1b}]0;x\u{7}"), Malformed, "found '\\u{1b}]0;x\\u{7}'"),
        third("long name", json!(long), Malformed, inside),
        third(
            "percent is no escape",
            json!("%2e%2e/two.safetensors"),
            Malformed,
            "expected shard '%2e%2e/two",
        ),
        third(
            "missing shard",
            json!("three.safetensors"),
            Malformed,
            "expected shard 'three.safetensors', found",
        ),
        third("missing shard among long names", json!("猫".repeat(80)), Malformed, "expected shard '猫")
            .beside(&format!("{}1", "猫".repeat(84)), "")
            .beside(&format!("{}2", "猫".repeat(84)), "")
            .beside(&format!("{}3", "猫".repeat(84)), "")
            .beside(&format!("{}4", "猫".repeat(84)), ""),
        third("folder for a shard", json!("folder"), Malformed, "expected shard 'folder'"),
        third("below a file", json!("one.safetensors/x"), Malformed, "expected shard 'one.safetensors/x'"),
        third("index in itself", json!(INDEX), Malformed, "header: expected"),
        third("shard without the tensor", json!(ONE), Malformed, "tensor 'c' in shard 'one.safetensors'"),
        third(
            "shard in a folder without it",
            json!("folder/x.safetensors"),
            Malformed,
            "expected tensor 'c'",
        ),
        mapped("no tensors", json!({}), Accepted, ""),
        mapped("half a shard", json!({"a": ONE}), Malformed, "found tensor 'b' in shard 'one.safetensors'"),
        mapped("tensor in no shard", json!({"d": TWO}), Malformed, "expected tensor 'd' in shard"),
        mapped(
            "long hostile names",
            json!({"\u{202e}".repeat(900): format!("{}/x", "\u{2066}".repeat(80)), "a": ONE}),
            Malformed,
            "weight_map: expected",
        ),
        mapped("65,537 tensors", json!(many), Unsupported, "an index of over 65536 tensors"),
        third(
            "two shards",
            json!(TWO),
            Accepted,
            "a in one.safetensors, b in one.safetensors, c in two.safetensors",
        ),
        mapped("folder inside", json!({"d": "folder/x.safetensors"}), Accepted, "d in folder/x.safetensors"),
        third("pickle for a shard", json!("p.safetensors"), Unsupported, "a pickle, which can run code")
            .beside("p.safetensors", b"\x80\x02}q\x00.0123".to_vec())
            .at("p.safetensors"),
        third("broken shard", json!("p.safetensors"), Malformed, "header: expected at least 8 bytes")
            .beside("p.safetensors", b"{}".to_vec())
            .at("p.safetensors"),
        third(
            "empty shard",
            json!("p.safetensors"),
            Malformed,
            "header: expected at least 8 bytes, found 0 bytes",
        )
        .beside("p.safetensors", vec![])
        .at("p.safetensors"),
        third("same tensor in two shards", json!("p.safetensors"), Malformed, "every tensor of its shards")
            .beside("p.safetensors", scalars(&["a", "c"])),
        third("index for a shard", json!("other.safetensors.index.json"), Malformed, "header: expected")
            .beside("other.safetensors.index.json", json!({"weight_map": {"c": INDEX}}).to_string())
            .at("other.safetensors.index.json"),
    ];
    let header = |first: &str, text: usize, n: usize| {
        let tensors: String = (0..n)
            .map(|idx| format!(r#","{first}{idx}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
            .collect();
        let json = format!(r#"{{"__metadata__":{{"{first}":"{}"}}{tensors}}}"#, "x".repeat(text));
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
    };
    let pair = json!({"a0": ONE, "b0": TWO});
    let mut crowded =
        mapped("shards of 80,000 tensors", pair.clone(), Unsupported, "with over 65536 tensors");
    crowded.files[1].1 = header("a", 0, 40_000);
    crowded.files[2].1 = header("b", 0, 40_000);
    let mut wordy =
        mapped("shards of 10 MiB of metadata", pair, Unsupported, "over 8388608 bytes of metadata");
    wordy.files[1].1 = header("a", 5 << 20, 1);
    wordy.files[2].1 = header("b", 5 << 20, 1);
    rows.extend([crowded, wordy]);
    let shards = (0..1_025).map(|idx| (format!("{idx}.safetensors"), scalars(&[&format!("t{idx}")])));
    let map: BTreeMap<_, _> =
        (0..1_025).map(|idx| (format!("t{idx}"), format!("{idx}.safetensors"))).collect();
    let mut crowd = mapped("1,025 shards", json!(map), Unsupported, "an index of over 1024 shards");
    crowd.files.extend(shards);
    rows.push(crowd);
    rows
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_are_no_shards() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::os::unix::fs::symlink(at(TWO), at(ONE)).unwrap();
    std::os::unix::fs::symlink(at(ONE), at(TWO)).unwrap();
    std::fs::write(at(INDEX), json!({"weight_map": {"a": ONE}}).to_string()).unwrap();
    let error = read_index(place.path()).unwrap_err();
    assert_eq!(Outcome::of::<()>(&Err(error)), Outcome::Io);
}

#[test]
fn indices_of_shards() {
    check("*.index.json", 20, &index_rows(), read_index);
}

fn read_model_index(folder: &Path) -> Result<String, Error> {
    let model = block_on(DiffusersFolder::open(Folder::on_disk(folder)?))?;
    Ok(format!("{} {:?}", model.class(), model.parts().collect::<Vec<_>>()))
}

fn model_index_rows() -> Vec<Row> {
    let file = DiffusersFolder::INDEX;
    let table: Vec<(&'static str, &[u8], Outcome, &str)> = vec![
        ("empty", b"", Malformed, "JSON: expected an object"),
        ("array", b"[]", Malformed, "JSON: expected an object, found []"),
        ("cut", b"{\"_class_name\": \"P", Malformed, "JSON"),
        ("no class", b"{}", Malformed, "key '_class_name': expected a string, found nothing"),
        ("class is a list", b"{\"_class_name\": [\"P\"]}", Malformed, "key '_class_name'"),
        (
            "class twice",
            b"{\"_class_name\": \"P\", \"_class_name\": \"Q\"}",
            Malformed,
            "'_class_name' twice",
        ),
        (
            "part twice",
            b"{\"_class_name\": \"P\", \"unet\": [\"a\", \"B\"], \"unet\": [null, null]}",
            Malformed,
            "key 'unet' twice",
        ),
        (
            "part that climbs",
            b"{\"_class_name\": \"P\", \"../x\": [\"a\", \"B\"]}",
            Accepted,
            "(\"../x\", \"B\")",
        ),
        ("part of three", b"{\"_class_name\": \"P\", \"unet\": [\"a\", \"B\", \"C\"]}", Accepted, "P []"),
    ];
    let mut rows: Vec<_> = table
        .into_iter()
        .map(|(name, bytes, outcome, text)| Row::file(name, outcome, file, bytes, text))
        .collect();
    rows.push(
        Row::file("no index", Malformed, "README.md", b"", "expected model_index.json, found README.md")
            .at(""),
    );
    rows
}

#[test]
fn model_indices() {
    check("model_index.json", 8, &model_index_rows(), read_model_index);
}

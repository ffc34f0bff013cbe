//! config.json and scheduler_config.json, read with the getters that networks and samplers use.

use std::path::Path;

use photogram_loaders::{Config, Error, FileSource, OneOrMany};
use pollster::block_on;

use super::Outcome::{self, Accepted, Io, Malformed, NotFound, Unsupported};
use super::{Row, check};

const NETWORK: &str = "config.json";

const SCHEDULER: &str = "scheduler_config.json";

/// What a network asks of its configuration.
fn read_network(folder: &Path) -> Result<String, Error> {
    let config = block_on(Config::read(&FileSource::open(folder.join(NETWORK))?))?;
    let channels = config.require_count("in_channels", 1..=1_024)?;
    let layers = config.count("layers_per_block", 1..=64)?;
    let heads = config.get::<OneOrMany<usize>>("attention_head_dim")?;
    let blocks = config.get::<Vec<usize>>("block_out_channels")?;
    let types = config.get::<Vec<String>>("down_block_types")?;
    let scale = config.or("scaling_factor", 0.25)?;
    let act = config.get::<String>("act_fn")?;
    let flip = config.get::<bool>("flip_sin_to_cos")?;
    let width = config.object("text_config")?.map(|text| text.require::<usize>("width")).transpose()?;
    Ok(format!(
        "{channels} {layers:?} {heads:?} {blocks:?} {types:?} {scale} {act:?} {flip:?} {width:?}, unread {:?}",
        config.unread_keys()
    ))
}

/// What a sampler asks of its configuration.
fn read_scheduler(folder: &Path) -> Result<String, Error> {
    let config = block_on(Config::read(&FileSource::open(folder.join(SCHEDULER))?))?;
    let timesteps = config.require_count("num_train_timesteps", 1..=1_000_000)?;
    let beta = config.or("beta_start", 0.5)?;
    let betas = config.get::<Vec<f64>>("trained_betas")?;
    let prediction = config.or("prediction_type", "epsilon".to_owned())?;
    let offset = config.get::<i64>("steps_offset")?;
    let clip = config.get::<bool>("clip_sample")?;
    let lambda = config.get::<f64>("lambda_min_clipped")?;
    Ok(format!("{timesteps} {beta} {betas:?} {prediction} {offset:?} {clip:?} {lambda:?}"))
}

/// An object with `"a"` under `levels` arrays.
fn deep(levels: usize) -> String {
    format!(r#"{{"in_channels": 4, "a": {}{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

fn network_rows() -> Vec<Row> {
    let object = "JSON: expected an object, found";
    let of = |json: &str| format!(r#"{{"in_channels": 4, {json}}}"#).into_bytes();
    let table: Vec<(&'static str, Vec<u8>, Outcome, &str)> = vec![
        ("empty", vec![], Malformed, "JSON: expected an object, found EOF"),
        ("spaces", b" \n ".to_vec(), Malformed, "JSON: expected an object, found EOF"),
        ("array", b"[]".to_vec(), Malformed, "JSON: expected an object, found []"),
        ("null", b"null".to_vec(), Malformed, "JSON: expected an object, found null"),
        ("string", b"\"\\u001b[2J\"".to_vec(), Malformed, r#"found "\u001b[2J""#),
        ("number", b"1e999".to_vec(), Malformed, "number out of range"),
        ("cut", b"{\"in_channels\": 4".to_vec(), Malformed, object),
        ("cut in a string", b"{\"in_chan".to_vec(), Malformed, object),
        ("two objects", b"{\"in_channels\": 4}{}".to_vec(), Malformed, "trailing characters"),
        ("trailing comma", of("\"a\": 1,"), Malformed, "trailing comma"),
        ("comment", of("/* 4 */ \"a\": 1"), Malformed, object),
        ("single quotes", b"{'in_channels': 4}".to_vec(), Malformed, object),
        ("Python", of("\"a\": None"), Malformed, object),
        ("byte order mark", b"\xef\xbb\xbf{\"in_channels\": 4}".to_vec(), Malformed, object),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec(), Malformed, object),
        ("no UTF-8", b"{\"in_channels\xff\": 4}".to_vec(), Malformed, "invalid unicode code point"),
        ("lone surrogate", of(r#""a": "\ud800""#), Malformed, object),
        ("raw control character", of("\"a\": \"\u{1b}[2J\""), Malformed, "control character"),
        ("NaN", of("\"scaling_factor\": NaN"), Malformed, object),
        ("Infinity", of("\"scaling_factor\": Infinity"), Malformed, object),
        ("1e999", of("\"scaling_factor\": 1e999"), Malformed, "number out of range"),
        ("hexadecimal", of("\"a\": 0x10"), Malformed, object),
        ("leading zero", of("\"a\": 08"), Malformed, object),
        ("128 levels", deep(127).into_bytes(), Malformed, "recursion limit exceeded"),
        ("100,000 levels", deep(100_000).into_bytes(), Malformed, "recursion limit exceeded"),
        (
            "key twice",
            b"{\"in_channels\": 4, \"in_channels\": 8}".to_vec(),
            Malformed,
            "JSON: expected each key once, found key 'in_channels' twice at line 1 column 32",
        ),
        (
            "key twice, once escaped",
            of(r#""in\u005fchannels": 8"#),
            Malformed,
            "found key 'in_channels' twice",
        ),
        ("key twice below", of(r#""text_config": {"width": 1, "width": 2}"#), Malformed, "key 'width' twice"),
        ("key twice in an array", of(r#""a": [{"k": 1, "k": 1}]"#), Malformed, "key 'k' twice"),
        (
            "hostile key twice",
            of(r#""\u001b]52;c\u0007": 1, "\u001b]52;c\u0007": 2"#),
            Malformed,
            r"key '\u{1b}]52;c\u{7}' twice",
        ),
        (
            "over 1 MiB",
            [&b"{\"in_channels\": 4}"[..], &[b' '; 1 << 20]].concat(),
            Unsupported,
            "1048594 bytes",
        ),
        ("key is absent", b"{}".to_vec(), Malformed, "key 'in_channels': expected 1 to 1024, found nothing"),
        ("key is null", b"{\"in_channels\": null}".to_vec(), Malformed, "key 'in_channels'"),
        ("no channels", b"{\"in_channels\": 0}".to_vec(), Malformed, "expected 1 to 1024, found 0"),
        ("negative", b"{\"in_channels\": -4}".to_vec(), Malformed, "expected a whole number, not negative"),
        ("fraction", b"{\"in_channels\": 4.5}".to_vec(), Malformed, "key 'in_channels'"),
        ("4.0", b"{\"in_channels\": 4.0}".to_vec(), Malformed, "found 4.0"),
        ("2^64", b"{\"in_channels\": 18446744073709551616}".to_vec(), Malformed, "key 'in_channels'"),
        ("2^64-1", b"{\"in_channels\": 18446744073709551615}".to_vec(), Malformed, "key 'in_channels'"),
        ("10^9 layers", of("\"layers_per_block\": 1000000000"), Malformed, "expected 1 to 64"),
        ("a number in quotes", of("\"layers_per_block\": \"2\""), Malformed, "found \"2\""),
        ("a word for a boolean", of("\"flip_sin_to_cos\": \"true\""), Malformed, "expected true or false"),
        ("1 for a boolean", of("\"flip_sin_to_cos\": 1"), Malformed, "expected true or false, found 1"),
        ("a string for an array", of("\"block_out_channels\": \"320\""), Malformed, "expected an array"),
        ("mixed array", of("\"block_out_channels\": [320, \"640\"]"), Malformed, "key 'block_out_channels'"),
        ("negative in an array", of("\"block_out_channels\": [320, -1]"), Malformed, "found [320,-1]"),
        ("nested array", of("\"attention_head_dim\": [[8]]"), Malformed, "key 'attention_head_dim'"),
        ("numbers for names", of("\"down_block_types\": [1]"), Malformed, "key 'down_block_types'"),
        ("object for a number", of("\"scaling_factor\": {}"), Malformed, "a finite number, found an object"),
        (
            "array for an object",
            of("\"text_config\": [1]"),
            Malformed,
            "key 'text_config': expected an object",
        ),
        (
            "wrong below",
            of(r#""text_config": {"width": "x\u001b"}"#),
            Malformed,
            r#"key 'text_config.width': expected a whole number, not negative, found "x\u001b""#,
        ),
        (
            "hostile string",
            of(r#""scaling_factor": "\u202e\u2066\u009b""#),
            Malformed,
            r"\u{202e}\u{2066}\u{9b}",
        ),
        (
            "a thousand escapes in a string",
            of(&format!("\"scaling_factor\": \"{}\"", "\u{202e}".repeat(1_000))),
            Malformed,
            "key 'scaling_factor'",
        ),
        (
            "long array",
            of(&format!("\"act_fn\": [{}1]", "1,".repeat(99))),
            Malformed,
            "found an array of 100",
        ),
        ("127 levels", deep(126).into_bytes(), Accepted, "unread [\"a\"]"),
        ("auto_map", of("\"auto_map\": {\"AutoModel\": \"evil.py\"}"), Accepted, "unread [\"auto_map\"]"),
        ("-Infinity", of("\"scaling_factor\": -Infinity"), Accepted, "0.25"),
        ("empty key", of("\"\": 1"), Accepted, "unread [\"\"]"),
        ("exponent", of("\"scaling_factor\": 1.8e-1"), Accepted, "0.18"),
    ];
    let rows =
        table.into_iter().map(|(name, bytes, outcome, text)| Row::file(name, outcome, NETWORK, bytes, text));
    let others = [
        Row::file("absent", NotFound, "other.json", "{}", "no such file or folder").at(NETWORK),
        Row::file("folder", Io, "config.json/y", "", "cannot read: ").at(NETWORK),
    ];
    rows.chain(others).collect()
}

fn scheduler_rows() -> Vec<Row> {
    let of = |json: &str| format!(r#"{{"num_train_timesteps": 1000, {json}}}"#).into_bytes();
    let timesteps = |number: &str| format!(r#"{{"num_train_timesteps": {number}}}"#).into_bytes();
    let table: Vec<(&'static str, Vec<u8>, Outcome, &str)> = vec![
        ("empty", vec![], Malformed, "JSON: expected an object, found EOF"),
        ("array", b"[1000]".to_vec(), Malformed, "JSON: expected an object, found [1000]"),
        ("cut", b"{\"num_train_timesteps\": 1000,".to_vec(), Malformed, "JSON"),
        ("no UTF-8", b"{\"\xc3(\": 1}".to_vec(), Malformed, "JSON"),
        ("key twice", of("\"num_train_timesteps\": 1"), Malformed, "found key 'num_train_timesteps' twice"),
        ("deep", of(&format!("\"a\": {}", "{\"a\":".repeat(1_000))), Malformed, "recursion limit exceeded"),
        ("over 1 MiB", vec![b'['; (1 << 20) + 1], Unsupported, "a file of 1048577 bytes is not supported"),
        ("no timesteps", timesteps("0"), Malformed, "expected 1 to 1000000, found 0"),
        ("10^9 timesteps", timesteps("1000000000"), Malformed, "found 1000000000"),
        ("negative timesteps", timesteps("-1000"), Malformed, "found -1000"),
        ("timesteps in quotes", timesteps("\"1000\""), Malformed, "found \"1000\""),
        ("NaN beta", of("\"beta_start\": NaN"), Malformed, "JSON: expected an object"),
        ("beta over f64", of("\"beta_start\": 1e400"), Malformed, "number out of range"),
        ("beta is a string", of("\"beta_start\": \"0.1\""), Malformed, "expected a finite number"),
        ("betas hold a string", of("\"trained_betas\": [0.1, \"x\"]"), Malformed, "key 'trained_betas'"),
        ("betas hold null", of("\"trained_betas\": [0.1, null]"), Malformed, "key 'trained_betas'"),
        ("prediction is a number", of("\"prediction_type\": 0"), Malformed, "expected a string, found 0"),
        (
            "offset is a fraction",
            of("\"steps_offset\": 0.5"),
            Malformed,
            "expected a whole number, found 0.5",
        ),
        ("offset 2^63", of("\"steps_offset\": 9223372036854775808"), Malformed, "key 'steps_offset'"),
        ("clip is null", of("\"clip_sample\": null"), Accepted, "None"),
        ("-Infinity as diffusers writes it", of("\"lambda_min_clipped\": -Infinity"), Accepted, "None"),
        ("-Infinity in quotes", of("\"prediction_type\": \"-Infinity\""), Accepted, "-Infinity"),
        ("-Infinity cut", of("\"lambda_min_clipped\": -Infinit"), Malformed, "JSON"),
        ("-Infinity twice", of("\"lambda_min_clipped\": -Infinity-Infinity"), Malformed, "JSON"),
        ("unknown class", of("\"_class_name\": \"../../evil\""), Accepted, "1000"),
    ];
    table
        .into_iter()
        .map(|(name, bytes, outcome, text)| Row::file(name, outcome, SCHEDULER, bytes, text))
        .collect()
}

#[test]
fn network_configurations() {
    check("config.json", 25, &network_rows(), read_network);
}

#[test]
fn scheduler_configurations() {
    check("scheduler_config.json", 15, &scheduler_rows(), read_scheduler);
}

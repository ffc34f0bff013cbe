//! tokenizer.json; vocab.json and merges.txt; what stands beside them.

use std::path::Path;

use photogram_loaders::{Error, Folder, Tokenizer};
use pollster::block_on;
use serde_json::{Value, json};

use super::Outcome::{self, Accepted, Malformed, Unsupported};
use super::tokenizer_files::tokenizer_json;
use super::{Row, check};

/// Tokens and ids: two letters, one merge, the two special tokens.
const VOCABULARY: &str =
    r#"{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": 6}"#;

/// The one merge.
const MERGES: &str = "#version: 0.2\na b</w>\n";

fn read(folder: &Path) -> Result<String, Error> {
    let tokenizer = block_on(Tokenizer::open(&Folder::on_disk(folder)?))?;
    let n = tokenizer.n_tokens();
    let ids = tokenizer.encode("ab b <|endoftext|>");
    assert!(ids.iter().all(|id| (*id as usize) < n), "{ids:?} of {n}");
    Ok(format!("{n} tokens, pad {}, length {:?}, {ids:?}", tokenizer.pad(), tokenizer.max_length()))
}

fn sound() -> Value {
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    tokenizer_json(
        serde_json::from_str(VOCABULARY).unwrap(),
        json!([["a", "b</w>"]]),
        json!([added(5, "<|startoftext|>"), added(6, "<|endoftext|>")]),
    )
}

const TOKENIZER: &str = "tokenizer.json";

/// `tokenizer.json` with the value at `pointer` replaced.
fn with(name: &'static str, outcome: Outcome, pointer: &str, value: Value, text: &str) -> Row {
    let mut json = sound();
    *json.pointer_mut(pointer).unwrap() = value;
    Row::file(name, outcome, TOKENIZER, json.to_string(), text)
}

fn tokenizer_json_rows() -> Vec<Row> {
    let bytes = |name, outcome, bytes: &[u8], text: &str| Row::file(name, outcome, TOKENIZER, bytes, text);
    let clip = "only CLIP's tokenizer is implemented";
    let whole = sound().to_string();
    let twice = whole.replacen(r#""a":0"#, r#""a":0,"a":1"#, 1);
    let long = "x".repeat(1 << 20);
    let many: Vec<_> = (0..70_000).map(|idx| json!({"id": 7 + idx, "content": format!("<{idx}>")})).collect();
    let pointers = [
        (
            "no vocabulary",
            Malformed,
            "/model/vocab",
            json!({}),
            "merge 1: expected token 'a' in the vocabulary",
        ),
        (
            "vocabulary is a list",
            Malformed,
            "/model/vocab",
            json!([]),
            "key 'model.vocab': expected an object",
        ),
        ("vocabulary of pairs", Malformed, "/model/vocab", json!([["a", -1.0]]), "key 'model.vocab'"),
        ("id 2^32-1", Malformed, "/model/vocab/a", json!(u32::MAX), "token 'a': expected an id below 1038"),
        ("id 2^32", Malformed, "/model/vocab/a", json!(1_u64 << 32), "expected an id from 0 to 4294967295"),
        ("negative id", Malformed, "/model/vocab/a", json!(-1), "token 'a': expected an id"),
        ("fraction for an id", Malformed, "/model/vocab/a", json!(0.5), "found 0.5"),
        ("id in quotes", Malformed, "/model/vocab/a", json!("0"), "token 'a'"),
        ("id is an object", Malformed, "/model/vocab/a", json!({"\u{1b}": 0}), "token 'a'"),
        ("one id twice", Malformed, "/model/vocab/a", json!(1), "expected an id of its own, found 1"),
        ("id with a gap", Accepted, "/model/vocab/a", json!(1_037), "1038 tokens"),
        ("merges are an object", Malformed, "/model/merges", json!({}), "key 'model.merges'"),
        ("merges are null", Malformed, "/model/merges", json!(null), "key 'model.merges'"),
        ("merge of one", Malformed, "/model/merges/0", json!(["a"]), "merge 1: expected two tokens"),
        (
            "merge of three",
            Malformed,
            "/model/merges/0",
            json!(["a", "b", "c"]),
            "merge 1: expected two tokens",
        ),
        (
            "merge with a number",
            Malformed,
            "/model/merges/0",
            json!(["a", 1]),
            "merge 1: expected two tokens",
        ),
        ("merge without a space", Malformed, "/model/merges/0", json!("ab"), "found 'ab'"),
        (
            "merge of nothing",
            Malformed,
            "/model/merges/0",
            json!(["", ""]),
            "expected token '' in the vocabulary",
        ),
        (
            "merge longer than its tokens",
            Malformed,
            "/model/merges/0",
            json!(["ab</w>", "ab</w>"]),
            "expected token 'ab</w>ab</w>' in the vocabulary",
        ),
        (
            "hostile merge",
            Malformed,
            "/model/merges/0",
            json!(["\u{1b}]0;x", "a"]),
            r"expected token '\u{1b}]0;x' in the vocabulary",
        ),
        (
            "long hostile merge",
            Malformed,
            "/model/merges/0",
            json!(["\u{202e}".repeat(9_999), "a"]),
            "found no such token",
        ),
        (
            "merge twice",
            Malformed,
            "/model/merges",
            json!(["a b</w>", ["a", "b</w>"]]),
            "expected each pair once",
        ),
        ("model is a list", Malformed, "/model", json!([]), "key 'model'"),
        ("model is null", Malformed, "/model", json!(null), "key 'model'"),
        ("Unigram", Unsupported, "/model/type", json!("Unigram"), clip),
        ("WordPiece", Unsupported, "/model/type", json!("WordPiece"), clip),
        ("hostile type", Unsupported, "/model/type", json!("\u{1b}[2J"), clip),
        ("dropout", Unsupported, "/model/dropout", json!(0.1), "key 'model.dropout' = 0.1 is not supported"),
        ("byte_fallback", Unsupported, "/model/byte_fallback", json!(true), clip),
        ("ignore_merges", Unsupported, "/model/ignore_merges", json!(true), clip),
        ("fuse_unk", Unsupported, "/model/fuse_unk", json!(true), clip),
        (
            "prefix longer than tokens",
            Unsupported,
            "/model/continuing_subword_prefix",
            json!("##########"),
            clip,
        ),
        ("no suffix", Unsupported, "/model/end_of_word_suffix", json!(""), clip),
        ("no normalizer", Unsupported, "/normalizer", json!(null), clip),
        ("BertNormalizer", Unsupported, "/normalizer", json!({"type": "BertNormalizer"}), clip),
        (
            "Precompiled map of 4 GiB",
            Unsupported,
            "/normalizer/normalizers/0",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
            clip,
        ),
        ("NFKC", Unsupported, "/normalizer/normalizers/0", json!({"type": "NFKC"}), clip),
        ("replaces spaces", Unsupported, "/normalizer/normalizers/1/content", json!("_"), clip),
        ("Whitespace", Unsupported, "/pre_tokenizer", json!({"type": "Whitespace"}), clip),
        (
            "slow pattern",
            Unsupported,
            "/pre_tokenizer/pretokenizers/0/pattern",
            json!({"Regex": "(a+)+$"}),
            clip,
        ),
        ("inverted split", Unsupported, "/pre_tokenizer/pretokenizers/0/invert", json!(false), clip),
        ("prefix space", Unsupported, "/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), clip),
        ("added tokens are an object", Malformed, "/added_tokens", json!({}), "key 'added_tokens'"),
        ("added token is a string", Malformed, "/added_tokens/0", json!("x"), "key 'added_tokens'"),
        ("added token is null", Malformed, "/added_tokens/0", json!(null), "key 'added_tokens'"),
        ("added id is negative", Malformed, "/added_tokens/0/id", json!(-1), "key 'added_tokens'"),
        ("added id far off", Malformed, "/added_tokens/0/id", json!(300_000_000), "expected id 5"),
        (
            "added id of another",
            Malformed,
            "/added_tokens/0/id",
            json!(0),
            "expected id 5, as in the vocabulary",
        ),
        ("added content is a number", Malformed, "/added_tokens/0/content", json!(5), "key 'added_tokens'"),
        (
            "added content of another id",
            Malformed,
            "/added_tokens/0/content",
            json!("x"),
            "added token '<|startoftext|>': expected an id of its own, found 5 twice",
        ),
        ("normalized is a word", Malformed, "/added_tokens/0/normalized", json!("yes"), "key 'added_tokens'"),
        (
            "long added token",
            Unsupported,
            "/added_tokens",
            json!([{"id": 7, "content": long}]),
            "added tokens of 1048604 bytes is not supported (hint: at most 65536 bytes are read)",
        ),
        (
            "long normalised token",
            Unsupported,
            "/added_tokens",
            json!([{"id": 7, "content": "\u{130}".repeat(22_000), "normalized": true}]),
            "added tokens of 66000 bytes is not supported",
        ),
        ("70,000 added tokens", Unsupported, "/added_tokens", json!(many), "at most 65536 bytes are read"),
        ("no added tokens", Accepted, "/added_tokens", json!([]), "7 tokens, pad 6"),
        ("empty added token", Accepted, "/added_tokens/0", json!({"id": 7, "content": ""}), "8 tokens"),
        (
            "padding of 3e8",
            Accepted,
            "/padding",
            json!({"strategy": {"Fixed": 300_000_000}, "pad_id": 0}),
            "7 tokens",
        ),
        ("padding to nothing", Accepted, "/padding", json!({"strategy": {"Fixed": 0}}), "7 tokens"),
        ("stride over length", Accepted, "/truncation", json!({"max_length": 1, "stride": 2}), "7 tokens"),
        (
            "template without its tokens",
            Accepted,
            "/post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "X", "type_id": 0}}]}),
            "7 tokens",
        ),
    ];
    let pointers =
        pointers.into_iter().map(|(name, outcome, at, value, text)| with(name, outcome, at, value, text));
    let mut rows = vec![
        bytes("empty", Malformed, b"", "JSON: expected an object"),
        bytes("array", Malformed, b"[]", "JSON: expected an object, found []"),
        bytes("cut", Malformed, &whole.as_bytes()[..whole.len() - 1], "JSON: expected an object, found EOF"),
        bytes("no UTF-8", Malformed, b"{\"model\xff\": 0}", "JSON"),
        bytes(
            "token twice",
            Malformed,
            twice.as_bytes(),
            "JSON: expected each key once, found key 'a' twice",
        ),
        bytes(
            "model twice",
            Malformed,
            whole.replacen("{", r#"{"model":{},"#, 1).as_bytes(),
            "key 'model' twice",
        ),
        bytes("deep", Malformed, "{\"model\":".repeat(100_000).as_bytes(), "recursion limit exceeded"),
        bytes("over 32 MiB", Unsupported, &vec![b' '; (32 << 20) + 1], "a file of 33554433 bytes"),
        bytes(
            "16 million numbers",
            Unsupported,
            format!("{{\"a\":[{}0]}}", "0,".repeat((16 << 20) - 8)).as_bytes(),
            "JSON of 1048576 values or more is not supported",
        ),
        bytes(
            "ten million arrays",
            Unsupported,
            format!("{{\"a\":[{}0]}}", "[],".repeat(10 << 20)).as_bytes(),
            "JSON of 1048576 values or more is not supported",
        ),
        bytes("sound", Accepted, whole.as_bytes(), "7 tokens, pad 6, length None, [5, 4, 3, 6, 6]"),
    ];
    rows.extend(pointers);
    rows
}

#[test]
fn tokenizer_files() {
    check("tokenizer.json", 35, &tokenizer_json_rows(), read);
}

fn vocabulary_rows() -> Vec<Row> {
    let vocabulary = |name, json: &[u8], text: &str| {
        Row::file(name, Malformed, "vocab.json", json, text).beside("merges.txt", MERGES)
    };
    let merges = |name, text: &[u8], said: &str| {
        Row::file(name, Malformed, "merges.txt", text, said).beside("vocab.json", VOCABULARY)
    };
    let accepted = |row: Row| Row { outcome: Accepted, ..row };
    vec![
        vocabulary("empty vocabulary", b"", "JSON: expected an object"),
        vocabulary("vocabulary is a list", b"[]", "JSON: expected an object, found []"),
        vocabulary("vocabulary cut", b"{\"a\": 0, \"b", "JSON"),
        vocabulary("vocabulary without UTF-8", b"{\"a\xff\": 0}", "JSON"),
        vocabulary(
            "negative id",
            br#"{"a": -1}"#,
            "token 'a': expected an id from 0 to 4294967295, found -1",
        ),
        vocabulary("fraction for an id", br#"{"a": 1.5}"#, "token 'a'"),
        vocabulary("id in quotes", br#"{"a": "0"}"#, "token 'a'"),
        vocabulary("id 2^32", br#"{"a": 4294967296}"#, "token 'a'"),
        vocabulary("id 2^32-1", br#"{"a": 4294967295}"#, "token 'a': expected an id below 1026"),
        vocabulary("one id twice", br#"{"a": 7, "b": 7}"#, "expected an id of its own, found 7"),
        vocabulary("token twice", br#"{"a": 0, "b": 1, "a": 2}"#, "found key 'a' twice"),
        vocabulary("hostile token", br#"{"\u001b[2J": -1}"#, r"token '\u{1b}[2J'"),
        vocabulary(
            "no start token",
            br#"{"a": 0, "b</w>": 1, "ab</w>": 2}"#,
            "bos_token '<|startoftext|>': expected a token of the vocabulary, found none",
        ),
        vocabulary(
            "no end token",
            br#"{"a": 0, "b</w>": 1, "ab</w>": 2, "<|startoftext|>": 3}"#,
            "eos_token '<|endoftext|>'",
        ),
        merges("merge of three", b"a b</w> c\n", "line 1: expected two tokens and a space between"),
        merges("merge of one", b"#version: 0.2\na\n", "line 2: expected two tokens"),
        merges("merge of spaces", b"a b</w>\n a\n", "line 2: expected two tokens"),
        merges(
            "merge by a tab",
            b"a\tb</w>\n",
            r"line 1: expected two tokens and a space between, found 'a\u{9}b",
        ),
        merges("unknown token", b"a b</w>\n\nx y\n", "line 3: expected token 'x' in the vocabulary"),
        merges("unknown merged token", b"b a\n", "expected token 'ba' in the vocabulary"),
        merges("merge twice", b"a b</w>\na b</w>\n", "line 2: expected each pair once"),
        merges("merges without UTF-8", b"a b</w>\n\xff\xff\n", "line 2: expected UTF-8"),
        merges("hostile merge", b"\x1b[2J a\n", r"line 1: expected token '\u{1b}[2J' in the vocabulary"),
        merges("version in the middle", b"a b</w>\n#version: 0.2\n", "line 2: expected token '#version:'"),
        merges("endless line", &vec![b'x'; 1 << 20], "line 1: expected two tokens"),
        Row {
            outcome: Unsupported,
            ..merges("merges over 32 MiB", &vec![b'\n'; (32 << 20) + 1], "33554433 bytes")
        },
        accepted(merges("no merges", b"", "7 tokens, pad 6, length None, [5, 0, 3, 3, 6, 6]")),
        accepted(merges("line ends of Windows", b"#version: 0.2\r\na b</w>\r\n", "[5, 4, 3, 6, 6]")),
        Row::file("vocabulary alone", Malformed, "vocab.json", VOCABULARY, "found vocab.json").at(""),
        Row::file(
            "merges alone",
            Malformed,
            "merges.txt",
            MERGES,
            "vocab.json and merges.txt, found merges.txt",
        )
        .at(""),
        Row::file("folder for a file", Malformed, "tokenizer.json/x", b"", "found tokenizer.json/").at(""),
    ]
}

#[test]
fn vocabularies_and_merges() {
    check("vocab.json and merges.txt", 20, &vocabulary_rows(), read);
}

fn beside_rows() -> Vec<Row> {
    let config = |name, outcome, json: Value, text: &str| {
        Row::file(name, outcome, "tokenizer_config.json", json.to_string(), text)
            .beside("vocab.json", VOCABULARY)
            .beside("merges.txt", MERGES)
    };
    let special = |name, json: &str, text: &str| {
        Row::file(name, Malformed, "special_tokens_map.json", json, text)
            .beside("vocab.json", VOCABULARY)
            .beside("merges.txt", MERGES)
    };
    let decoder = |id: &str, content: &str| json!({"added_tokens_decoder": {id: {"content": content}}});
    let length = |length: Value| json!({"model_max_length": length});
    let wrong_length = "key 'model_max_length': expected a number of tokens";
    let decoder_key = "key 'added_tokens_decoder'";
    vec![
        config("config is a list", Malformed, json!([]), "JSON: expected an object, found []"),
        config("declared tokens are a list", Malformed, json!({"added_tokens_decoder": []}), decoder_key),
        config(
            "declared token is a string",
            Malformed,
            json!({"added_tokens_decoder": {"7": "x"}}),
            decoder_key,
        ),
        config("declared id is negative", Malformed, decoder("-1", "x"), decoder_key),
        config("declared id is no number", Malformed, decoder("\u{1b}", "x"), decoder_key),
        config("declared id 2^32", Malformed, decoder("4294967296", "x"), decoder_key),
        config(
            "declared id far off",
            Malformed,
            decoder("7000000", "new"),
            "added token 'new': expected an id below",
        ),
        config("declared id of another", Malformed, decoder("3", "new"), "which an added token has"),
        config(
            "declared token with another id",
            Malformed,
            decoder("3", "a"),
            "expected id 0, as in the vocabulary",
        ),
        config("declared token that is new", Accepted, decoder("7", "new"), "8 tokens"),
        config(
            "pad token is a number",
            Malformed,
            json!({"pad_token": 3}),
            "key 'pad_token': expected a token",
        ),
        config("pad content is a number", Malformed, json!({"pad_token": {"content": 3}}), "key 'pad_token'"),
        config("length is a string", Malformed, length(json!("77")), wrong_length),
        config("length is negative", Malformed, length(json!(-77)), wrong_length),
        config("length is a fraction", Malformed, length(json!(0.5)), wrong_length),
        config("length is a list", Malformed, length(json!([77])), wrong_length),
        config("length is 1e30", Accepted, length(json!(1e30)), "length None"),
        config(
            "length as transformers writes it",
            Accepted,
            length(json!(10_u128.pow(30) as f64)),
            "length None",
        ),
        config("length is 2^64-1", Accepted, length(json!(u64::MAX)), "length Some(18446744073709551615)"),
        config("length is null", Accepted, length(json!(null)), "length None"),
        config(
            "remote code",
            Accepted,
            json!({"auto_map": {"AutoTokenizer": ["evil.py", null]}}),
            "7 tokens",
        ),
        special("map is a list", "[]", "JSON: expected an object"),
        special("map cut", "{\"pad_token\": \"a", "JSON"),
        special("role twice", r#"{"pad_token": "a", "pad_token": "b"}"#, "key 'pad_token' twice"),
        special("role is a number", r#"{"bos_token": 5}"#, "key 'bos_token': expected a token, found 5"),
        special("pad token is absent", r#"{"pad_token": "absent"}"#, "pad_token 'absent'"),
        special("hostile unknown token", r#"{"unk_token": "\u001b]52"}"#, r"unk_token '\u{1b}]52'"),
        Row { outcome: Accepted, ..special("no roles", "{}", "7 tokens, pad 6") },
        Row::file(
            "token the vocabulary lacks",
            Unsupported,
            "added_tokens.json",
            r#"{"<new>": 7}"#,
            "the token '<new>'",
        )
        .beside("vocab.json", VOCABULARY)
        .beside("merges.txt", MERGES),
    ]
}

#[test]
fn what_stands_beside_a_vocabulary() {
    check("tokenizer_config.json and others", 15, &beside_rows(), read);
}

#[test]
fn a_tokenizer_cut_anywhere_is_malformed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join(TOKENIZER);
    let whole = serde_json::to_string_pretty(&sound()).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole.as_bytes()[..cut]).unwrap();
        let error = read(place.path()).expect_err("cut");
        assert!(matches!(error, Error::Malformed { .. }), "{cut}: {error}");
        assert!(
            error.to_string().contains("tokenizer.json: JSON: expected an object, found "),
            "{cut}: {error}"
        );
    }
}

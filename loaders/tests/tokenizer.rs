//! The tokenizer against transformers, and against hostile files.

use std::path::{Path, PathBuf};

use photogram_loaders::{Error, Folder, Tokenizer};
use pollster::block_on;
use serde_json::{Value, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(fixture().join(name)).unwrap()
}

/// A folder of these files, and the tokenizer in it.
fn open(files: &[(&str, &[u8])]) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    block_on(Tokenizer::open(&Folder::on_disk(folder.path()).unwrap()))
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_are_those_of_transformers() {
    let recorded: Value = serde_json::from_str(&read("ids.json")).unwrap();
    let length = usize::try_from(recorded["length"].as_u64().unwrap()).unwrap();
    let texts = recorded["texts"].as_array().unwrap();
    let (vocabulary, merges) = (read("vocab.json"), read("merges.txt"));
    let from_json = block_on(Tokenizer::open(&Folder::on_disk(fixture()).unwrap())).unwrap();
    let from_merges =
        open(&[("vocab.json", vocabulary.as_bytes()), ("merges.txt", merges.as_bytes())]).unwrap();
    for case in texts {
        let text = case["text"].as_str().unwrap();
        for tokenizer in [&from_json, &from_merges] {
            assert_eq!(tokenizer.encode(text), ids(&case["ids"]), "{text:?}");
            assert_eq!(tokenizer.encode_padded(text, length), ids(&case["padded"]), "{text:?}");
        }
    }
    assert_eq!(texts.len(), 200);
    assert_eq!((from_json.max_length(), from_merges.max_length()), (Some(32), None));
    assert_eq!((from_json.n_tokens(), from_json.pad()), (1_990, from_json.end()));

    let token = |content: &str| json!({"content": content, "normalized": true});
    let roles = json!({"bos_token": token("<|startoftext|>"), "eos_token": token("<|endoftext|>"),
                       "pad_token": "!", "unk_token": token("<|endoftext|>")});
    let padding_with_zero = open(&[
        ("vocab.json", vocabulary.as_bytes()),
        ("merges.txt", merges.as_bytes()),
        ("special_tokens_map.json", roles.to_string().as_bytes()),
    ]);
    let padding_with_zero = padding_with_zero.unwrap();
    assert_eq!(padding_with_zero.pad(), 0);
    for (case, padded) in texts.iter().zip(recorded["sd2"].as_array().unwrap()) {
        let text = case["text"].as_str().unwrap();
        assert_eq!(padding_with_zero.encode_padded(text, length), ids(padded), "{text:?}");
    }
}

/// Which of transformers' readings of `<|ENDOFTEXT|>` holds when files or roles disagree on it and on padding.
#[test]
fn roles_override_each_other_as_in_transformers() {
    const END: &str = "<|endoftext|>";
    let normalised = json!({"content": END, "normalized": true});
    let cases = [
        // Stable Diffusion 1: pad_token is a plain string.
        (json!({"eos_token": normalised, "unk_token": normalised, "pad_token": END}), false),
        (json!({"eos_token": END, "unk_token": normalised, "pad_token": normalised}), true),
        (json!({"eos_token": normalised, "unk_token": END, "pad_token": normalised}), false),
    ];
    let (vocabulary, merges) = (read("vocab.json"), read("merges.txt"));
    for (roles, is_normalised) in cases {
        let tokenizer = open(&[
            ("vocab.json", vocabulary.as_bytes()),
            ("merges.txt", merges.as_bytes()),
            ("tokenizer_config.json", br#"{"pad_token": "!"}"#),
            ("special_tokens_map.json", roles.to_string().as_bytes()),
        ])
        .unwrap();
        assert_eq!(tokenizer.pad(), tokenizer.end(), "{roles}");
        assert_eq!(tokenizer.encode("<|ENDOFTEXT|>").len() == 3, is_normalised, "{roles}");
    }
}

#[test]
fn clip_ids_are_those_of_the_golden_file() {
    let data = std::env::var_os("PHOTOGRAM_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let golden = data.join("tokenizers/golden.json");
    let Ok(golden) = std::fs::read(&golden) else {
        println!("skipped: no {}", golden.display());
        return;
    };
    let golden: Vec<Value> = serde_json::from_slice(&golden).unwrap();
    let file = std::fs::read(data.join("tokenizers/clip_tokenizer.json")).unwrap();
    let (built_in, from_json) = (Tokenizer::clip().unwrap(), open(&[("tokenizer.json", &file)]).unwrap());
    assert_eq!(golden.len(), 39);
    for case in golden {
        let text = case["text"].as_str().unwrap();
        assert_eq!(built_in.encode(text), ids(&case["clip"]), "{text:?}");
        assert_eq!(from_json.encode(text), ids(&case["clip"]), "{text:?}");
    }
}

#[test]
fn a_padded_text_has_the_length_asked_for() {
    let clip = Tokenizer::clip().unwrap();
    for text in ["", "a cat", &"cat ".repeat(200), "<|endoftext|>", "\u{202e}\u{0}\u{10ffff}"] {
        for length in [0, 1, 2, 3, 77, 200] {
            let ids = clip.encode_padded(text, length);
            assert_eq!(ids.len(), length);
            assert!(length < 1 || ids[0] == clip.begin());
            assert!(length < 2 || ids[1..].contains(&clip.end()));
        }
    }
}

#[test]
fn a_megabyte_of_anything_is_encoded_in_seconds() {
    let clip = Tokenizer::clip().unwrap();
    let n = 1 << 20;
    for text in [
        "a".repeat(n),
        "ab ".repeat(n / 3),
        "猫".repeat(n / 3),
        "e\u{301}\u{323}".repeat(n / 5),
        "!".repeat(n),
    ] {
        let started = std::time::Instant::now();
        assert!(clip.encode(&text).len() > 2);
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}

const VOCABULARY: &str =
    r#"{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": 6}"#;
const MERGES_TXT: &str = "#version: 0.2\na b</w>\n";

#[test]
fn hostile_vocabularies_and_merges_are_refused_with_their_place() {
    let cases: &[(&[u8], &[u8], &str)] = &[
        (b"", MERGES_TXT.as_bytes(), "vocab.json: JSON"),
        (b"[]", MERGES_TXT.as_bytes(), "vocab.json: JSON: expected an object, found []"),
        (
            br#"{"a": -1}"#,
            MERGES_TXT.as_bytes(),
            "vocab.json: token 'a': expected an id from 0 to 4294967295, found -1",
        ),
        (br#"{"a": 1.5}"#, b"", "token 'a'"),
        (br#"{"a": "0"}"#, b"", "token 'a'"),
        (br#"{"a": 4294967296}"#, b"", "token 'a'"),
        (br#"{"a": 4294967295}"#, b"", "token 'a': expected an id below 1026"),
        (br#"{"a": 7, "b": 7}"#, b"", "expected an id of its own, found 7"),
        (b"{\"a\xff\": 0}", b"", "vocab.json: JSON"),
        (br#"{"a": 0}"#, b"", "bos_token '<|startoftext|>': expected a token of the vocabulary, found none"),
        (br#"{"<|startoftext|>": 0}"#, b"", "eos_token '<|endoftext|>'"),
        (
            VOCABULARY.as_bytes(),
            b"a b</w> c\n",
            "merges.txt: line 1: expected two tokens and a space between",
        ),
        (VOCABULARY.as_bytes(), b"#version: 0.2\na\n", "merges.txt: line 2"),
        (VOCABULARY.as_bytes(), b"a b</w>\n a\n", "merges.txt: line 2"),
        (
            VOCABULARY.as_bytes(),
            b"a b</w>\n\nx y\n",
            "merges.txt: line 3: expected token 'x' in the vocabulary",
        ),
        (VOCABULARY.as_bytes(), b"b a\n", "expected token 'ba' in the vocabulary"),
        (VOCABULARY.as_bytes(), b"a b</w>\na b</w>\n", "merges.txt: line 2: expected each pair once"),
        (VOCABULARY.as_bytes(), b"a b</w>\n\xff\xff\n", "merges.txt: line 2: expected UTF-8"),
        (VOCABULARY.as_bytes(), b"\x1b[2J a\n", "line 1: expected token '\\u{1b}[2J' in the vocabulary"),
    ];
    assert!(open(&[("vocab.json", VOCABULARY.as_bytes()), ("merges.txt", MERGES_TXT.as_bytes())]).is_ok());
    for (vocabulary, merges, expected) in cases {
        let error = open(&[("vocab.json", vocabulary), ("merges.txt", merges)]).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}\nlacks {expected}");
    }
    let missing = open(&[("vocab.json", VOCABULARY.as_bytes())]).unwrap_err().to_string();
    assert!(
        missing.ends_with("expected tokenizer.json, or vocab.json and merges.txt, found vocab.json"),
        "{missing}"
    );
}

#[test]
fn hostile_special_tokens_are_refused() {
    let with = |name, json: Value| {
        let json = json.to_string();
        open(&[
            ("vocab.json", VOCABULARY.as_bytes()),
            ("merges.txt", MERGES_TXT.as_bytes()),
            (name, json.as_bytes()),
        ])
    };
    let decoder = |id: &str, content: &str| json!({"added_tokens_decoder": {id: {"content": content}}});
    assert!(
        with("tokenizer_config.json", decoder("7", "new")).is_ok_and(|tokenizer| tokenizer.n_tokens() == 8)
    );
    let cases = [
        ("tokenizer_config.json", decoder("7000000", "new"), "added token 'new': expected an id below"),
        ("tokenizer_config.json", decoder("3", "new"), "which an added token has"),
        ("tokenizer_config.json", decoder("3", "a"), "expected id 0, as in the vocabulary, found 3"),
        ("tokenizer_config.json", decoder("-1", "new"), "key 'added_tokens_decoder'"),
        ("tokenizer_config.json", decoder("4294967296", "new"), "key 'added_tokens_decoder'"),
        ("tokenizer_config.json", json!({"added_tokens_decoder": []}), "key 'added_tokens_decoder'"),
        (
            "tokenizer_config.json",
            json!({"added_tokens_decoder": {"7": "new"}}),
            "key 'added_tokens_decoder'",
        ),
        ("tokenizer_config.json", json!({"pad_token": 3}), "key 'pad_token'"),
        ("tokenizer_config.json", json!({"pad_token": {"content": 3}}), "key 'pad_token'"),
        ("tokenizer_config.json", json!([]), "JSON"),
        ("special_tokens_map.json", json!({"pad_token": "absent"}), "pad_token 'absent'"),
        ("special_tokens_map.json", json!({"unk_token": "\u{1b}]52"}), "unk_token '\\u{1b}]52'"),
    ];
    for (name, json, expected) in cases {
        let error = with(name, json.clone()).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{json}: {error}");
        assert!(error.to_string().contains(expected), "{error}\nlacks {expected}");
    }
    let error = with("added_tokens.json", json!({"<new>": 7})).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

/// `tokenizer.json` with the value at `pointer` replaced.
fn tokenizer_with(pointer: &str, value: Value) -> Result<Tokenizer, Error> {
    let mut json: Value = serde_json::from_str(&read("tokenizer.json")).unwrap();
    *json.pointer_mut(pointer).unwrap() = value;
    open(&[("tokenizer.json", json.to_string().as_bytes())])
}

#[test]
fn another_kind_of_tokenizer_is_unsupported() {
    let cases = [
        ("/normalizer", json!(null)),
        ("/normalizer", json!({"type": "BertNormalizer"})),
        ("/normalizer/normalizers/0", json!({"type": "NFKC"})),
        ("/normalizer/normalizers/0", json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
        ("/normalizer/normalizers/1/content", json!("_")),
        ("/pre_tokenizer", json!({"type": "Whitespace"})),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": "(a+)+$"})),
        ("/pre_tokenizer/pretokenizers/0/invert", json!(false)),
        ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true)),
        ("/model/type", json!("Unigram")),
        ("/model/type", json!("WordPiece")),
        ("/model/dropout", json!(0.1)),
        ("/model/byte_fallback", json!(true)),
        ("/model/ignore_merges", json!(true)),
        ("/model/fuse_unk", json!(true)),
        ("/model/continuing_subword_prefix", json!("##########")),
        ("/model/end_of_word_suffix", json!("")),
    ];
    for (pointer, value) in cases {
        let error = tokenizer_with(pointer, value.clone()).expect_err(pointer);
        assert!(matches!(error, Error::Unsupported { .. }), "{pointer} = {value}: {error}");
    }
}

#[test]
fn a_hostile_tokenizer_file_is_malformed() {
    let cases = [
        ("/model", json!([]), "key 'model'"),
        ("/model/vocab", json!([]), "key 'model.vocab'"),
        ("/model/vocab", json!({}), "merge 1"),
        ("/model/vocab", json!({"a": 4_294_967_295_u32}), "token 'a'"),
        ("/model/merges", json!({}), "key 'model.merges'"),
        ("/model/merges/3", json!("a"), "merge 4: expected two tokens and a space between, found 'a'"),
        ("/model/merges/3", json!("a b c"), "merge 4"),
        ("/model/merges/3", json!(["a"]), "merge 4: expected two tokens"),
        ("/model/merges/3", json!(["a", "b", "c"]), "merge 4"),
        ("/model/merges/3", json!(["a", 1]), "merge 4"),
        ("/model/merges/3", json!(["", ""]), "merge 4: expected token '' in the vocabulary"),
        ("/model/merges/3", json!(["aaaaaaaaaaaaaaa", "a"]), "merge 4"),
        ("/added_tokens", json!({}), "key 'added_tokens'"),
        ("/added_tokens/0", json!("x"), "key 'added_tokens'"),
        ("/added_tokens/0/id", json!(-1), "key 'added_tokens'"),
        ("/added_tokens/0/id", json!(300_000_000), "added token"),
        ("/added_tokens/0/id", json!(0), "added token '<|startoftext|>': expected id 1988"),
        ("/added_tokens/0/normalized", json!("yes"), "key 'added_tokens'"),
    ];
    for (pointer, value, expected) in cases {
        let error = tokenizer_with(pointer, value.clone()).expect_err(pointer);
        assert!(matches!(error, Error::Malformed { .. }), "{pointer} = {value}: {error}");
        assert!(error.to_string().contains(expected), "{error}\nlacks {expected}");
    }
    // Settings that transformers sets anew for each call take no memory.
    assert!(tokenizer_with("/padding", json!({"strategy": {"Fixed": 300_000_000}, "pad_id": 0})).is_ok());
    assert!(tokenizer_with("/truncation", json!({"max_length": 1, "stride": 2})).is_ok());

    let file = read("tokenizer.json");
    for cut in (0..file.len() - 1).step_by(997) {
        let error = open(&[("tokenizer.json", &file.as_bytes()[..cut])]).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }
}

//! The tokenizer against transformers.

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

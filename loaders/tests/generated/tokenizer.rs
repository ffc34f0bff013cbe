//! Tokenizers; what is accepted gives ids that its vocabulary has.

use std::path::Path;

use photogram_loaders::{Error, Folder, Tokenizer};
use pollster::block_on;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::random::{NUMBERS, Random, STRINGS, mutated_text};
use super::run;
use super::tokenizer_files::tokenizer_json;

const BEGIN: &str = "<|startoftext|>";

const END: &str = "<|endoftext|>";

/// A tokenizer in parts; keys and values are JSON text.
struct Parts {
    /// Tokens and ids.
    vocabulary: Vec<(String, String)>,
    merges: Vec<Vec<String>>,
    /// Added tokens: id and content.
    added: Vec<(String, String)>,
    /// A member in front of those of the file.
    more: String,
    config: String,
}

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

impl Parts {
    /// Some letters, merges of tokens that exist by then, and the special tokens at the end.
    fn sound(random: &mut Random) -> Self {
        let letters = 2 + random.below(6);
        let mut tokens: Vec<String> = Vec::new();
        for letter in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().take(letters) {
            tokens.extend([letter.to_owned(), format!("{letter}</w>")]);
        }
        let mut merges = Vec::new();
        for _ in 0..random.below(12) {
            let (left, right) = (random.pick(&tokens), random.pick(&tokens));
            let merged = format!("{left}{right}");
            if !left.ends_with("</w>") && !tokens.contains(&merged) {
                merges.push(vec![left, right]);
                tokens.push(merged);
            }
        }
        random.shuffle(&mut tokens);
        let n = tokens.len();
        tokens.extend([BEGIN.to_owned(), END.to_owned()]);
        let vocabulary = tokens.iter().enumerate();
        let quoted_merges = merges.iter().map(|merge| merge.iter().map(|part| quoted(part)).collect());
        Self {
            vocabulary: vocabulary.map(|(id, token)| (quoted(token), id.to_string())).collect(),
            merges: quoted_merges.collect(),
            added: vec![(n.to_string(), quoted(BEGIN)), ((n + 1).to_string(), quoted(END))],
            more: String::new(),
            config: json!({"model_max_length": 77, "pad_token": END}).to_string(),
        }
    }

    fn break_one(&mut self, random: &mut Random) {
        let (number, string) = (random.pick(&NUMBERS), random.pick(&STRINGS));
        let at = random.below(self.vocabulary.len());
        let other = self.vocabulary[random.below(self.vocabulary.len())].clone();
        let merge = random.below(self.merges.len().max(1));
        match random.below(18) {
            0 => self.vocabulary[at].1 = number.into(),
            1 => self.vocabulary[at].1 = other.1,
            2 => self.vocabulary[at].0 = string.into(),
            3 => drop(self.vocabulary.remove(at)),
            4 => self.vocabulary.push((other.0, self.vocabulary.len().to_string())),
            5 => self.vocabulary.push((quoted(&"x".repeat(random.below(70_000))), "900".into())),
            6 if !self.merges.is_empty() => {
                let part = random.below(2);
                self.merges[merge][part] = string.into();
            }
            7 if !self.merges.is_empty() => self.merges[merge].push(other.0),
            8 if !self.merges.is_empty() => drop(self.merges[merge].pop()),
            9 if !self.merges.is_empty() => self.merges.push(self.merges[merge].clone()),
            6..=10 => self.merges.push(vec![other.0, quoted("zz")]),
            11 => self.added[random.below(2)].0 = number.into(),
            12 => self.added[random.below(2)].1 = string.into(),
            13 => {
                let content = [string.to_owned(), quoted(&"y".repeat(random.below(70_000))), other.0];
                self.added.push((self.vocabulary.len().to_string(), random.pick(&content)));
            }
            14 => {
                let more = [
                    r#""model": {}"#,
                    r#""normalizer": null"#,
                    r#""added_tokens": []"#,
                    r#""padding": {"strategy": {"Fixed": 300000000}}"#,
                    r#""truncation": {"max_length": 1, "stride": 2}"#,
                    r#""a": [[[[[["#,
                ];
                self.more = format!("{}, ", random.pick(&more));
            }
            15 => self.config = format!("{{\"model_max_length\": {number}}}"),
            16 => {
                let roles = ["bos_token", "eos_token", "unk_token", "pad_token"];
                self.config = format!("{{\"{}\": {string}}}", random.pick(&roles));
            }
            _ => {
                self.config =
                    format!("{{\"added_tokens_decoder\": {{\"{number}\": {{\"content\": {string}}}}}}}")
                        .replace("\"\"", "\"");
            }
        }
    }

    fn vocabulary_json(&self) -> String {
        let members: Vec<_> = self.vocabulary.iter().map(|(token, id)| format!("{token}: {id}")).collect();
        format!("{{{}}}", members.join(", "))
    }

    fn tokenizer_json(&self) -> String {
        let merges: Vec<_> = self.merges.iter().map(|merge| format!("[{}]", merge.join(", "))).collect();
        let added: Vec<_> = self
            .added
            .iter()
            .map(|(id, content)| format!(r#"{{"id": {id}, "content": {content}}}"#))
            .collect();
        // The parts are text, sound or not, and take the place of words that stand for them.
        let whole = tokenizer_json(json!("VOCAB"), json!("MERGES"), json!("ADDED")).to_string();
        whole
            .replacen("{", &format!("{{{}", self.more), 1)
            .replacen("\"VOCAB\"", &self.vocabulary_json(), 1)
            .replacen("\"MERGES\"", &format!("[{}]", merges.join(", ")), 1)
            .replacen("\"ADDED\"", &format!("[{}]", added.join(", ")), 1)
    }

    /// The merges as lines; text that is no JSON stands as it is.
    fn merges_txt(&self) -> String {
        let plain = |part: &String| match serde_json::from_str(part) {
            Ok(Value::String(text)) => text,
            _ => part.clone(),
        };
        let lines = self.merges.iter().map(|merge| merge.iter().map(plain).collect::<Vec<_>>().join(" "));
        format!("#version: 0.2\n{}\n", lines.collect::<Vec<_>>().join("\n"))
    }
}

/// What a tokenizer promises for any text.
fn assert_sound(tokenizer: &Tokenizer, texts: &[&str]) {
    let n = tokenizer.n_tokens();
    assert!(n <= 4_096, "{n} tokens");
    let is_known = |id: u32| (id as usize) < n;
    assert!(is_known(tokenizer.begin()) && is_known(tokenizer.end()) && is_known(tokenizer.pad()));
    for text in texts {
        let ids = tokenizer.encode(text);
        assert!(ids.iter().all(|id| is_known(*id)), "{ids:?} of {n}");
        assert_eq!((ids[0], *ids.last().unwrap()), (tokenizer.begin(), tokenizer.end()));
        // A lower case letter has at most three times the bytes of its capital.
        assert!(ids.len() <= 3 * text.len() + 2, "{text:?}: {ids:?}");
        for length in [2, 9] {
            let padded = tokenizer.encode_padded(text, length);
            assert_eq!(padded.len(), length);
            assert!(padded.iter().all(|id| is_known(*id)));
        }
    }
}

const TEXTS: [&str; 4] = ["abcdefgh bad ab", "<|startoftext|>a<|ENDOFTEXT|>", "", "\u{732b}\u{0}a\u{130}!"];

/// Reads the tokenizer of these files.
fn check(place: &Path, files: &[(&str, &[u8])]) -> Result<(), (String, Error)> {
    for (name, bytes) in files {
        std::fs::write(place.join(name), bytes).unwrap();
    }
    let read = block_on(Tokenizer::open(&Folder::on_disk(place).unwrap()));
    let tokenizer = read.map_err(|error| {
        // Which of the files is at fault, the message says.
        let text = error.to_string();
        let named = files.iter().map(|(name, _)| place.join(name).display().to_string());
        (named.into_iter().find(|file| text.starts_with(file.as_str())).unwrap_or_default(), error)
    })?;
    assert_sound(&tokenizer, &TEXTS);
    Ok(())
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn tokenizer_files_with_one_thing_broken() {
    let place = folder();
    run("tokenizer.json, one thing broken", 20..=70, |random, idx| {
        let mut parts = Parts::sound(random);
        let is_sound = idx % 8 == 0;
        if !is_sound {
            parts.break_one(random);
        }
        let (json, config) = (parts.tokenizer_json(), parts.config);
        let read = check(
            place.path(),
            &[("tokenizer.json", json.as_bytes()), ("tokenizer_config.json", config.as_bytes())],
        );
        assert!(!is_sound || read.is_ok(), "{read:?}");
        read
    });
}

#[test]
fn vocabularies_with_one_thing_broken() {
    let place = folder();
    run("vocab.json and merges.txt, one thing broken", 20..=70, |random, idx| {
        let mut parts = Parts::sound(random);
        let is_sound = idx % 8 == 0;
        if !is_sound {
            parts.break_one(random);
        }
        let (vocabulary, merges) = (parts.vocabulary_json(), parts.merges_txt());
        let read = check(
            place.path(),
            &[
                ("vocab.json", vocabulary.as_bytes()),
                ("merges.txt", merges.as_bytes()),
                ("tokenizer_config.json", parts.config.as_bytes()),
            ],
        );
        assert!(!is_sound || read.is_ok(), "{read:?}");
        read
    });
}

#[test]
fn tokenizer_files_mutated_blindly() {
    let place = folder();
    run("tokenizer.json, blind", 2..=60, |random, _| {
        let json = Parts::sound(random).tokenizer_json();
        check(place.path(), &[("tokenizer.json", &mutated_text(json.as_bytes(), random))])
    });
}

#[test]
fn vocabularies_mutated_blindly() {
    let place = folder();
    run("vocab.json and merges.txt, blind", 2..=70, |random, _| {
        let parts = Parts::sound(random);
        let files = [parts.vocabulary_json(), parts.merges_txt(), parts.config];
        let changed = random.below(3);
        let mut files = files.map(String::into_bytes);
        files[changed] = mutated_text(&files[changed], random);
        let [vocabulary, merges, config] = &files;
        check(
            place.path(),
            &[("vocab.json", vocabulary), ("merges.txt", merges), ("tokenizer_config.json", config)],
        )
    });
}

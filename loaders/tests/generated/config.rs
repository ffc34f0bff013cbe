//! Configurations; what is accepted is what serde_json reads, less its leniency.

use std::fmt::Write;

use photogram_loaders::{Config, Error, OneOrMany};
use serde_json::Value;

use super::random::{NUMBERS, Random, STRINGS, mutated_text};
use super::run;

const FILE: &str = "config.json";

/// Where in a text a value or a key stands.
#[derive(Default)]
struct Places {
    numbers: Vec<std::ops::Range<usize>>,
    strings: Vec<std::ops::Range<usize>>,
    /// Members of objects, key and value.
    members: Vec<std::ops::Range<usize>>,
}

/// Appends a value, noting the places of its parts.
fn push_value(random: &mut Random, depth: usize, text: &mut String, places: &mut Places) {
    let start = text.len();
    match random.below(if depth < 4 { 8 } else { 5 }) {
        0 => text.push_str(if random.one_in(2) { "true" } else { "null" }),
        1 => {
            write!(text, "{}", random.below(2_000)).unwrap();
            places.numbers.push(start..text.len());
        }
        2 => {
            write!(text, "{:?}", random.below(2_000) as f64 / 64.0).unwrap();
            places.numbers.push(start..text.len());
        }
        3 | 4 => {
            text.push_str(random.pick(&[
                "\"silu\"",
                "\"\"",
                "\"\u{732b}\"",
                "\"-Infinity\"",
                "\"\\\"\\\\\"",
            ]));
            places.strings.push(start..text.len());
        }
        5 | 6 => {
            text.push('[');
            for idx in 0..random.below(5) {
                text.push_str(if idx > 0 { ", " } else { "" });
                push_value(random, depth + 1, text, places);
            }
            text.push(']');
        }
        _ => push_object(random, depth, text, places),
    }
}

fn push_object(random: &mut Random, depth: usize, text: &mut String, places: &mut Places) {
    text.push('{');
    for idx in 0..random.below(5) + usize::from(depth == 0) {
        text.push_str(if idx > 0 { ", " } else { "" });
        let start = text.len();
        write!(text, "\"k{idx}\"").unwrap();
        places.strings.push(start..text.len());
        text.push_str(": ");
        push_value(random, depth + 1, text, places);
        places.members.push(start..text.len());
    }
    text.push('}');
}

fn sound(random: &mut Random) -> (String, Places) {
    let (mut text, mut places) = (String::new(), Places::default());
    push_object(random, 0, &mut text, &mut places);
    (text, places)
}

fn break_one(random: &mut Random, mut text: String, places: &Places) -> String {
    match random.below(8) {
        0 | 1 if !places.numbers.is_empty() => {
            text.replace_range(random.pick(&places.numbers), random.pick(&NUMBERS));
        }
        0..=2 if !places.strings.is_empty() => {
            text.replace_range(random.pick(&places.strings), random.pick(&STRINGS));
        }
        3 => {
            let member = random.pick(&places.members);
            let copy = format!("{}, ", &text[member.clone()]);
            text.insert_str(member.start, &copy);
        }
        4 => {
            let levels = random.pick(&[100, 125, 126, 127, 128, 129, 10_000]);
            let deep = format!("\"deep\": {}{}, ", "[".repeat(levels), "]".repeat(levels));
            text.insert_str(1, &deep);
        }
        5 => {
            let at = (0..text.len()).filter(|at| text.is_char_boundary(*at)).collect::<Vec<_>>();
            text.truncate(random.pick(&at));
        }
        6 => text.insert_str(if random.one_in(2) { 0 } else { text.len() }, random.pick(&STRINGS)),
        _ => {
            let member = random.pick(&places.members).start;
            text.insert_str(
                member,
                random.pick(&[",", "\u{feff}", "//\n", "-Infinity", "}", "'k': 1, ", "0x"]),
            );
        }
    }
    text
}

/// Whether some object in `text` has a key twice; `text` is JSON.
fn n_keys(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(n_keys).sum(),
        Value::Object(members) => members.len() + members.values().map(n_keys).sum::<usize>(),
        _ => 0,
    }
}

/// Reads a configuration and asks for each key with each getter.
fn check(text: &[u8]) -> Result<(), (String, Error)> {
    let config = Config::parse(FILE, text).map_err(|error| (FILE.into(), error))?;
    let keys: Vec<String> = config.entries().map(|(key, _)| key.to_owned()).collect();
    assert_eq!(config.unread_keys(), keys);
    // Only a bare -Infinity is read that serde_json refuses.
    match serde_json::from_slice::<Value>(text) {
        Ok(value) => {
            let object = value.as_object().unwrap();
            assert!(config.entries().eq(object.iter().map(|(key, value)| (key.as_str(), value))));
            // Outside strings a colon follows each key.
            let (mut in_string, mut is_escaped, mut colons) = (false, false, 0);
            for byte in text {
                colons += usize::from(!in_string && *byte == b':');
                in_string ^= *byte == b'"' && !is_escaped;
                is_escaped = in_string && *byte == b'\\' && !is_escaped;
            }
            assert_eq!(n_keys(&value), colons, "a key stands twice");
        }
        Err(error) => assert!(text.windows(9).any(|part| part == b"-Infinity"), "{error}"),
    }
    for key in &keys {
        let errors = [
            config.get::<bool>(key).err(),
            config.get::<String>(key).err(),
            config.get::<i64>(key).err(),
            config.get::<Vec<f64>>(key).err(),
            config.get::<OneOrMany<usize>>(key).err(),
            config.get::<Vec<String>>(key).err(),
            config.object(key).err(),
        ];
        for error in errors.into_iter().flatten() {
            let text = error.to_string();
            assert!(text.starts_with("config.json: key '") && text.len() < 1_024, "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        assert!(config.get::<f64>(key).ok().flatten().is_none_or(f64::is_finite));
        assert!(config.count(key, 3..=5).ok().flatten().is_none_or(|count| (3..=5).contains(&count)));
    }
    assert!(config.unread_keys().is_empty());
    Ok(())
}

#[test]
fn configurations_with_one_thing_broken() {
    run("config JSON, one thing broken", 20..=70, |random, idx| {
        let (text, places) = sound(random);
        let is_sound = idx % 8 == 0;
        let text = if is_sound { text } else { break_one(random, text, &places) };
        let read = check(text.as_bytes());
        assert!(!is_sound || read.is_ok(), "{read:?}");
        read
    });
}

#[test]
fn configurations_mutated_blindly() {
    run("config JSON, blind", 2..=60, |random, _| {
        let (text, _) = sound(random);
        check(&mutated_text(text.as_bytes(), random))
    });
}

//! safetensors files.

use std::path::Path;

use photogram_loaders::safetensors::{Header, Limits, read_header};
use photogram_loaders::{BytesSource, Checkpoint, Error};
use pollster::block_on;

use super::Outcome::{Accepted, Io, Malformed, NotFound, Unsupported};
use super::{Row, check};

const FILE: &str = "x.safetensors";

/// A file of a header that says how long it is, and `n_data` bytes.
fn file(json: impl AsRef<[u8]>, n_data: usize) -> Vec<u8> {
    let json = json.as_ref();
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.resize(bytes.len() + n_data, 0x5a);
    bytes
}

fn read(bytes: Vec<u8>) -> Result<Header, Error> {
    block_on(read_header(&BytesSource::new(FILE, bytes), &Limits::default()))
}

/// Each tensor with its place.
fn read_checkpoint(folder: &Path) -> Result<String, Error> {
    let checkpoint = block_on(Checkpoint::open(folder.join(FILE), &Limits::default()))?;
    let mut tensors = Vec::new();
    for (name, entry) in checkpoint.tensors() {
        let n_values: usize = entry.shape.iter().product();
        assert_eq!(entry.bytes, n_values as u64 * entry.encoding.bytes());
        assert_eq!(block_on(checkpoint.read(entry))?.len() as u64, entry.bytes);
        tensors.push(format!("{name} {entry} of {} at {}", entry.bytes, entry.offset));
    }
    Ok(format!("{}; metadata {:?}", tensors.join(", "), checkpoint.metadata()))
}

/// One tensor's entry.
fn tensor(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn header(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

fn two(first: String, second: String, n_data: usize) -> Vec<u8> {
    file(header(&[first, second]), n_data)
}

fn one(dtype: &str, shape: &str, begin: u64, end: u64, n_data: usize) -> Vec<u8> {
    file(header(&[tensor("w", dtype, shape, begin, end)]), n_data)
}

/// A header of exactly `json` that claims to be `claimed` bytes long.
fn claiming(claimed: u64, json: &[u8]) -> Vec<u8> {
    let mut bytes = file(json, 0);
    bytes[..8].copy_from_slice(&claimed.to_le_bytes());
    bytes
}

/// Files that are malformed, and a part of what the message says.
fn malformed() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let f32s = |name: &str, begin, end| tensor(name, "F32", "[1]", begin, end);
    let deep = format!(r#"{{"w":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let deep_metadata = format!(r#"{{"__metadata__":{{"k":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    vec![
        ("empty", vec![], "header: expected at least 8 bytes, found 0 bytes"),
        ("seven bytes", vec![0; 7], "expected at least 8 bytes, found 7 bytes"),
        ("header of no bytes", vec![0; 8], "expected '{' first, found nothing"),
        ("length 2^64-1", claiming(u64::MAX, b"{}"), "expected 18446744073709551615 bytes of JSON"),
        ("length 2^63", claiming(1 << 63, b"{}"), "found a file of 10 bytes"),
        (
            "length over the file by one",
            claiming(3, b"{}"),
            "expected 3 bytes of JSON, found a file of 10 bytes",
        ),
        ("length one short", claiming(1, b"{}"), "header"),
        ("array", file("[]", 0), "expected '{' first, found '['"),
        ("byte order mark", file("\u{feff}{}", 0), "expected '{' first"),
        ("leading space", file(" {}", 0), "expected '{' first, found ' '"),
        ("escape first", file("\u{1b}{}", 0), "found '\\u{1b}'"),
        ("no UTF-8", file(b"{\"a\xff\":0}", 0), "expected UTF-8, found another byte at 3"),
        ("UTF-16", file(b"{\0}\0", 0), "header"),
        ("unclosed", file("{", 0), "header"),
        ("trailing JSON", file("{}{}", 0), "header"),
        ("trailing comma", file(format!("{{{},}}", f32s("w", 0, 4)), 4), "header"),
        ("deep", file(deep, 0), "tensor 'w'"),
        ("deep metadata", file(deep_metadata, 0), "__metadata__"),
        (
            "tensor is null",
            file(r#"{"w":null}"#, 0),
            "tensor 'w': expected the fields dtype, shape and data_offsets",
        ),
        ("tensor is a number", file(r#"{"w":NaN}"#, 0), "tensor 'w'"),
        ("no dtype", file(r#"{"w":{"shape":[1],"data_offsets":[0,4]}}"#, 4), "tensor 'w'"),
        ("no shape", file(r#"{"w":{"dtype":"F32","data_offsets":[0,4]}}"#, 4), "tensor 'w'"),
        ("no offsets", file(r#"{"w":{"dtype":"F32","shape":[1]}}"#, 4), "tensor 'w'"),
        ("dtype is a number", file(r#"{"w":{"dtype":1,"shape":[1],"data_offsets":[0,4]}}"#, 4), "tensor 'w'"),
        (
            "three offsets",
            file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#, 4),
            "tensor 'w'",
        ),
        ("one offset", file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[4]}}"#, 4), "tensor 'w'"),
        (
            "negative offset",
            file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}"#, 4),
            "tensor 'w'",
        ),
        ("shape is a number", one("F32", "1", 0, 4, 4), "tensor 'w'"),
        ("negative dimension", one("F32", "[-1]", 0, 4, 4), "tensor 'w'"),
        ("dimension is a float", one("F32", "[1.0]", 0, 4, 4), "tensor 'w'"),
        ("dimension is NaN", one("F32", "[NaN]", 0, 4, 4), "tensor 'w'"),
        ("dimension is a string", one("F32", "[\"1\"]", 0, 4, 4), "tensor 'w'"),
        ("dimension 2^64", one("F32", "[18446744073709551616]", 0, 4, 4), "tensor 'w'"),
        (
            "unknown field",
            file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]}}"#, 4),
            "field 'strides'",
        ),
        (
            "field twice",
            file(r#"{"w":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#, 4),
            "field 'dtype' twice",
        ),
        (
            "offsets twice",
            file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}}"#, 4),
            "field 'data_offsets' twice",
        ),
        (
            "tensor twice",
            two(f32s("w", 0, 4), f32s("w", 0, 4), 4),
            "tensor 'w': expected one entry, found two",
        ),
        (
            "tensor twice, once escaped",
            two(f32s("w", 0, 4), f32s("\\u0077", 4, 8), 8),
            "tensor 'w': expected one entry",
        ),
        (
            "metadata twice",
            file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
            "__metadata__: expected one entry",
        ),
        ("metadata key twice", file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0), "key 'a' twice"),
        (
            "metadata is null",
            file(r#"{"__metadata__":null}"#, 0),
            "__metadata__: expected an object of strings",
        ),
        ("metadata is a list", file(r#"{"__metadata__":["a"]}"#, 0), "__metadata__"),
        ("metadata value is a number", file(r#"{"__metadata__":{"a":1}}"#, 0), "__metadata__"),
        ("empty name", file(header(&[tensor("", "F32", "[1]", 0, 4)]), 4), "expected at least one character"),
        ("hole before", one("F32", "[1]", 4, 8, 8), "tensor 'w': expected bytes from 0 on, found bytes 4..8"),
        ("hole between", two(f32s("a", 0, 4), f32s("b", 8, 12), 12), "tensor 'b': expected bytes from 4 on"),
        (
            "overlap",
            two(f32s("a", 0, 4), f32s("b", 2, 6), 6),
            "tensor 'b': expected bytes from 4 on, found bytes 2..6",
        ),
        ("same bytes", two(f32s("a", 0, 4), f32s("b", 0, 4), 4), "tensor 'b': expected bytes from 4 on"),
        ("begin after end", one("F32", "[1]", 4, 0, 4), "tensor 'w'"),
        (
            "size too small",
            one("F32", "[2]", 0, 4, 4),
            "tensor 'w': expected 8 bytes for F32[2], found bytes 0..4",
        ),
        (
            "size too large",
            one("F16", "[1]", 0, 4, 4),
            "tensor 'w': expected 2 bytes for F16[1], found bytes 0..4",
        ),
        ("past the end", one("F32", "[2]", 0, 8, 7), "tensor 'w': expected bytes 0..8 after the header"),
        ("far past the end", one("U8", "[9223372036854775807]", 0, i64::MAX as u64, 4), "tensor 'w'"),
        (
            "trailing data",
            one("F32", "[1]", 0, 4, 5),
            "end: expected 4 bytes of tensors after the header, found 5 bytes",
        ),
        ("data without tensors", file("{}", 1), "end: expected 0 bytes"),
        ("2^32 by 2^32", one("F32", "[4294967296,4294967296]", 0, 4, 4), "expected a size below 2^63 bytes"),
        ("0 by 2^63", one("U8", "[0,9223372036854775808]", 0, 0, 0), "2^63"),
        ("0 by 2^63 by 2^63", one("F32", "[0,9223372036854775808,9223372036854775808]", 0, 0, 0), "2^63"),
        ("2^63 by 2^63 by 0", one("F32", "[9223372036854775808,9223372036854775808,0]", 0, 0, 0), "2^63"),
        (
            "sizes that sum to 2^64",
            two(
                tensor("a", "U8", "[9223372036854775807]", 0, 9_223_372_036_854_775_807),
                tensor(
                    "b",
                    "U8",
                    "[9223372036854775807]",
                    9_223_372_036_854_775_807,
                    18_446_744_073_709_551_614,
                ),
                2,
            ),
            "tensor 'a'",
        ),
        ("offsets at 2^64", one("U8", "[1]", u64::MAX, u64::MAX, 1), "tensor 'w'"),
        ("name with an escape", file(r#"{"\u001b[2J":1}"#, 0), "tensor '\\u{1b}[2J'"),
        ("lone surrogate", file(r#"{"\ud800":1}"#, 0), "header"),
        (
            "a thousand escapes in a name",
            file(header(&[tensor(&"\u{202e}".repeat(341), "F32", "[1]", 4, 8)]), 8),
            "expected bytes from 0 on, found bytes 4..8",
        ),
        (
            "a thousand escapes in a field",
            file(format!(r#"{{"w":{{"{}":1}}}}"#, "\u{202e}".repeat(1_000)), 0),
            "tensor 'w': expected the fields dtype, shape and data_offsets, found field '",
        ),
        (
            "a thousand escapes in a key twice",
            file(format!(r#"{{"__metadata__":{{"{0}":"","{0}":""}}}}"#, "\u{202e}".repeat(1_000)), 0),
            "__metadata__: expected an object of strings, found key '",
        ),
        (
            "wide characters in a name and a field",
            file(format!(r#"{{"{0}":{{"{0}":1}}}}"#, "猫".repeat(300)), 0),
            "expected the fields dtype, shape and data_offsets, found field '猫",
        ),
        ("web page", b"<!DOCTYPE html><html><body>404</body></html>".to_vec(), "header: expected"),
        ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "header"),
        ("JSON without its length", b"{\"__metadata__\":{}}      ".to_vec(), "header: expected"),
        ("length in the other order", [&2_u64.to_be_bytes()[..], b"{}"].concat(), "header: expected"),
    ]
}

/// Files that ask for what is not implemented.
fn unsupported() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut many = String::from("{");
    for idx in 0..65_537 {
        many.push_str(&format!(
            "{}{}",
            if idx > 0 { "," } else { "" },
            tensor(&idx.to_string(), "U8", "[0]", 0, 0)
        ));
    }
    many.push('}');
    let long_metadata_key = format!(r#"{{"__metadata__":{{"{}":"x"}}}}"#, "a".repeat(8 << 20));
    let long_metadata = format!(r#"{{"__metadata__":{{"a":"{}"}}}}"#, "x".repeat((8 << 20) + 1));
    let rank_9 = format!("[{}]", ["1"; 9].join(","));
    let endless_rank = format!("[{}1]", "1,".repeat(1 << 20));
    let mut huge = file("{}", 0);
    huge[..8].copy_from_slice(&((16_u64 << 20) + 1).to_le_bytes());
    huge.resize(8 + (16 << 20) + 1, b' ');
    let mut zip = b"PK\x03\x04\x14\x00\x00\x08\x08\x00".to_vec();
    zip.resize(400, 0);
    vec![
        (
            "unknown dtype",
            one("F8_E4M3FN", "[1]", 0, 1, 1),
            "dtype 'F8_E4M3FN' of tensor 'w' is not supported",
        ),
        (
            "a thousand escapes in a dtype",
            one(&"\u{202e}".repeat(1_000), "[1]", 0, 1, 1),
            "re-save the tensor as F32, F16 or BF16",
        ),
        ("four bits", one("F4", "[2]", 0, 1, 1), "dtype 'F4' of tensor 'w'"),
        ("dtype with an escape", one("\\u001b]0;", "[1]", 0, 1, 1), "dtype '\\u{1b}]0;'"),
        ("rank 9", one("F32", &rank_9, 0, 4, 4), "tensor 'w' of over 8 dimensions"),
        ("a million dimensions", one("F32", &endless_rank, 0, 4, 4), "tensor 'w' of over 8 dimensions"),
        (
            "long name",
            file(header(&[tensor(&"n".repeat(1_025), "F32", "[1]", 0, 4)]), 4),
            "a tensor name of 1025 bytes",
        ),
        ("65,537 tensors", file(many, 0), "a header of over 65536 tensors"),
        ("header over 16 MiB", huge, "a header of 16777217 bytes"),
        ("zip", zip, "a zip archive"),
        ("pickle 2", b"\x80\x02}q\x00X\x01\x00\x00\x00w".to_vec(), "a pickle"),
        ("pickle 5", b"\x80\x05\x95\x10\x00\x00\x00\x00\x00\x00".to_vec(), "a pickle"),
        ("short pickle", b"\x80\x04N.".to_vec(), "a pickle"),
        ("GGUF", b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00".to_vec(), "the GGUF format"),
        ("long metadata", file(long_metadata, 0), "metadata of over 8388608 bytes"),
        ("long metadata key", file(long_metadata_key, 0), "metadata of over 8388608 bytes"),
    ]
}

#[test]
fn pickles_say_how_to_convert_them() {
    let error = read(b"\x80\x02}q\x00.".to_vec()).unwrap_err().to_string();
    assert!(error.contains("(hint: convert it: load it with torch.load"), "{error}");
}

/// Odd files that are sound, and a part of what is read.
fn accepted() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    vec![
        ("no tensors", file("{}", 0), "; metadata {}"),
        ("padded with spaces", file("{}      ", 0), "; metadata {}"),
        ("metadata alone", file(r#"{"__metadata__":{"a":"\u001b"}}"#, 0), "; metadata {\"a\": \"\\u{1b}\"}"),
        ("scalar", one("F32", "[]", 0, 4, 4), "w F32[] of 4 at 61"),
        ("no values", one("F32", "[0,3]", 0, 0, 0), "w F32[0, 3] of 0"),
        (
            "no values between",
            two(tensor("b", "F32", "[1]", 0, 4), tensor("a", "U8", "[0]", 4, 4), 4),
            "a U8[0] of 0 at 118, b F32[1] of 4 at 114",
        ),
        (
            "two without values at one place",
            two(tensor("a", "U8", "[0]", 0, 0), tensor("b", "U8", "[0]", 0, 0), 0),
            "a U8[0] of 0 at 113, b U8[0] of 0 at 113",
        ),
        (
            "against the order of names",
            two(tensor("b", "BF16", "[2]", 0, 4), tensor("a", "F64", "[1]", 4, 12), 12),
            "a F64[1] of 8 at 121, b BF16[2] of 4 at 117",
        ),
        ("rank 8", one("U8", "[1,1,1,1,1,1,1,1]", 0, 1, 1), "w U8[1, 1, 1, 1, 1, 1, 1, 1] of 1"),
        ("a bool that is neither", one("BOOL", "[1]", 0, 1, 1), "w BOOL[1] of 1"),
        ("I32 for F32", one("I32", "[1]", 0, 4, 4), "w I32[1] of 4"),
        ("name that climbs", file(header(&[tensor("../../w", "U8", "[1]", 0, 1)]), 1), "../../w U8[1]"),
        (
            "name of 1,024 bytes",
            file(header(&[tensor(&"n".repeat(1_024), "U8", "[1]", 0, 1)]), 1),
            "nnn U8[1]",
        ),
        // 66,176 is 0x10280: the first bytes look like a pickle's.
        ("length like a pickle", file(format!("{{}}{}", " ".repeat(66_174)), 0), "; metadata {}"),
    ]
}

#[test]
fn checkpoints() {
    let kinds = [(malformed(), Malformed), (unsupported(), Unsupported), (accepted(), Accepted)];
    let rows: Vec<_> = kinds
        .into_iter()
        .flat_map(|(table, outcome)| {
            table.into_iter().map(move |(name, bytes, text)| Row::file(name, outcome, FILE, bytes, text))
        })
        .collect();
    let others = [
        Row::file("absent", NotFound, "other.safetensors", file("{}", 0), "no such file or folder").at(FILE),
        Row::file("folder", Io, "x.safetensors/y", "", "cannot read: ").at(FILE),
    ];
    let rows: Vec<_> = rows.into_iter().chain(others).collect();
    check("safetensors", 45, &rows, read_checkpoint);
}

#[test]
fn a_file_cut_anywhere_is_malformed() {
    let entries = [tensor("a.weight", "F32", "[2,3]", 0, 24), tensor("b.bias", "F16", "[4]", 24, 32)];
    let whole = file(header(&entries), 32);
    assert!(read(whole.clone()).is_ok());
    for cut in 0..whole.len() {
        let error = read(whole[..cut].to_vec()).expect_err("cut");
        assert!(matches!(error, Error::Malformed { .. }), "{cut}: {error}");
        let in_data = cut >= whole.len() - 32;
        assert!(!in_data || error.to_string().contains("tensor '"), "{cut}: {error}");
    }
}

/// A file whose header is `json` and spaces, as long as a header may be.
fn largest(json: String) -> Vec<u8> {
    let most = Limits::default().header_bytes as usize;
    assert!(json.len() > most - (4 << 20) && json.len() <= most, "{} bytes", json.len());
    let mut json = json.into_bytes();
    json.resize(most, b' ');
    file(json, 0)
}

/// Reads a header in a debug build in less than five seconds, and in a release build in one.
fn read_in_time(bytes: Vec<u8>) -> Header {
    let most = if cfg!(debug_assertions) { 5.0 } else { 1.0 };
    let started = std::time::Instant::now();
    let header = read(bytes).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!("{seconds:.2} s");
    assert!(seconds < most, "{seconds:.2} s");
    header
}

#[test]
fn the_largest_header_of_tensors_is_read_in_a_second() {
    let entries: Vec<_> =
        (0..65_536).map(|idx| tensor(&format!("{idx:0197}"), "U8", "[0,1,2]", 0, 0)).collect();
    assert_eq!(read_in_time(largest(header(&entries))).tensors.len(), 65_536);
}

#[test]
fn the_largest_header_of_metadata_is_read_in_a_second() {
    let texts: Vec<_> = (0..1_190_000).map(|idx| format!("\"{idx:07}\":\"\"")).collect();
    let json = format!(r#"{{"__metadata__":{{{}}}}}"#, texts.join(","));
    assert_eq!(read_in_time(largest(json)).metadata.len(), texts.len());
}

#[test]
fn the_largest_header_of_nothing_is_read_in_a_second() {
    assert_eq!(read_in_time(largest(format!("{{{}}}", " ".repeat(15 << 20)))).tensors.len(), 0);
}

/// The reference reader accepts what is accepted here; these are the files on which it is laxer.
#[test]
fn strictness_beyond_the_reference_reader_is_listed() {
    let mut laxer = Vec::new();
    for (name, bytes, _) in malformed() {
        // The reference reader's sum of these sizes overflows, which panics where overflow is checked.
        if name == "sizes that sum to 2^64" {
            continue;
        }
        let reference = safetensors::SafeTensors::read_metadata(&bytes);
        if reference.is_ok_and(|(n, metadata)| 8 + n + metadata.data_len() == bytes.len()) {
            laxer.push(name);
        }
    }
    let listed = [
        "leading space",
        "unknown field",
        "tensor twice",
        "metadata key twice",
        "metadata is null",
        "empty name",
        "0 by 2^63",
        "0 by 2^63 by 2^63",
        "a thousand escapes in a key twice",
    ];
    assert_eq!(laxer, listed);
}

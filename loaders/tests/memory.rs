//! What files take that are made to take much: the memory of this process, which has one test for that.
#![cfg(target_os = "linux")]

#[path = "made/png.rs"]
mod png_file;
#[path = "made/tokenizer.rs"]
mod tokenizer_files;

use std::io::Write;
use std::path::Path;

use photogram_loaders::{Error, Folder, Tokenizer, read_png_text, read_rgb};
use png::text_metadata::ZTXtChunk;
use png_file::{header, png as chunks, zlib};
use pollster::block_on;
use serde_json::json;
use tokenizer_files::tokenizer_json;

/// Bytes that any of the files here may take, this test's own included.
const MAX_BYTES: u64 = 320 << 20;

/// The most that this process ever took.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A zlib stream of 512 MiB of zeros, which is half a megabyte.
fn bomb() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1 << 20, 1 << 9);
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    let mut rows = writer.stream_writer().unwrap();
    for _ in 0..1 << 9 {
        rows.write_all(&vec![0; 1 << 20]).unwrap();
    }
    rows.finish().unwrap();
    drop(writer);
    let mut stream = Vec::new();
    let mut rest = &file[8..];
    while let Some(length) = rest.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize) {
        if &rest[4..8] == b"IDAT" {
            stream.extend(&rest[8..8 + length]);
        }
        rest = &rest[12 + length..];
    }
    stream
}

/// A PNG of one pixel with one more chunk.
fn with(kind: &[u8; 4], data: Vec<u8>) -> Vec<u8> {
    chunks(&[(b"IHDR", header(1, 1, 8, 0)), (kind, data), (b"IDAT", zlib(&[0, 7])), (b"IEND", vec![])])
}

/// A PNG of 10,000 texts of 64 KiB, compressed.
fn many_texts() -> Vec<u8> {
    let mut info = png::Info::with_size(1, 1);
    let text = ZTXtChunk::new("k", "a".repeat(64 << 10));
    let mut once = Vec::new();
    info.compressed_latin1_text.push(text);
    let mut writer = png::Encoder::with_info(&mut once, info).unwrap().write_header().unwrap();
    writer.write_image_data(&[7]).unwrap();
    writer.finish().unwrap();
    // The text's chunk stands between the header and the data, in the file as often as it is repeated.
    let start = once.windows(4).position(|kind| kind == b"zTXt").unwrap() - 4;
    let end = once.windows(4).position(|kind| kind == b"IDAT").unwrap() - 4;
    [&once[..start], &once[start..end].repeat(10_000), &once[end..]].concat()
}

#[test]
fn hostile_files_take_little_memory() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("picture.png");
    let read_tokenizer = |json: String| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
        block_on(Tokenizer::open(&Folder::on_disk(folder.path()).unwrap())).map(|_| ())
    };
    let write = |bytes: Vec<u8>| std::fs::write(&path, bytes).unwrap();
    let said = |name: &str, result: Result<(), Error>| {
        let peak = peak_bytes();
        println!(
            "{name}: {} MiB; {}",
            peak >> 20,
            result.map_or_else(|error| error.to_string(), |()| "read".into())
        );
        assert!(peak < MAX_BYTES, "{name}: {} MiB", peak >> 20);
    };

    let bomb = bomb();
    write(with(b"iCCP", [&b"p\0\0"[..], &bomb].concat()));
    said("profile, pixels", read_rgb(&path).map(|_| ()));
    said("profile, texts", read_png_text(&path).map(|_| ()));
    write(with(b"zTXt", [&b"k\0\0"[..], &bomb].concat()));
    said("text, pixels", read_rgb(&path).map(|_| ()));
    said("text, texts", read_png_text(&path).map(|_| ()));
    write(many_texts());
    said("many texts, pixels", read_rgb(&path).map(|_| ()));
    said("many texts, texts", read_png_text(&path).map(|_| ()));
    write(chunks(&[(b"IHDR", header(16_384, 16_384, 16, 6)), (b"IDAT", bomb), (b"IEND", vec![])]));
    said("giant, pixels", read_rgb(&path).map(|_| ()));
    said("giant, texts", read_png_text(&path).map(|_| ()));
    said("many numbers", read_tokenizer(format!("{{\"a\":[{}0]}}", "0,".repeat(15 << 20))));
    let token = "x".repeat(8 << 20);
    let vocabulary = json!({"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2});
    let added = tokenizer_json(vocabulary, json!([]), json!([{"id": 3, "content": token}]));
    said("long added token", read_tokenizer(added.to_string()));
    sparse_file_is_refused_unread(&path);
}

fn sparse_file_is_refused_unread(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(b"\xff\xd8\xff").unwrap();
    file.set_len(1 << 32).unwrap();
    let error = read_rgb(path).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(peak_bytes() < MAX_BYTES);
}

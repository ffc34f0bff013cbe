//! PNG, JPEG and WebP files, and what is mistaken for them.

use std::borrow::Cow;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use photogram_loaders::{Error, read_png_text, read_rgb};
use png::text_metadata::{ITXtChunk, ZTXtChunk};

use super::Outcome::{self, Accepted, Malformed, Unsupported};
use super::png_file::{header, png as chunks, zlib};
use super::{Row, check};

const PNG: &str = "picture.png";

/// A picture's size and its first and last pixel.
fn read(folder: &Path) -> Result<String, Error> {
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let picture = read_rgb(file)?;
    let pixels = picture.pixels();
    assert_eq!(pixels.len(), picture.width() as usize * picture.height() as usize * 3);
    Ok(format!(
        "{}x{}, {:?} to {:?}",
        picture.width(),
        picture.height(),
        &pixels[..3],
        &pixels[pixels.len() - 3..]
    ))
}

/// The keywords and lengths of a file's texts.
fn read_text(folder: &Path) -> Result<String, Error> {
    let texts = read_png_text(folder.join(PNG))?;
    let texts: Vec<_> = texts.iter().map(|(keyword, text)| format!("{keyword}: {}", text.len())).collect();
    Ok(texts.join(", "))
}

/// A PNG of one grey pixel with `more` chunks before its data.
fn grey(more: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut all = vec![(b"IHDR", header(1, 1, 8, 0))];
    all.extend(more.iter().cloned());
    all.extend([(b"IDAT", zlib(&[0, 7])), (b"IEND", vec![])]);
    chunks(&all)
}

/// A PNG of this header and these rows, filters included.
fn with(header: Vec<u8>, rows: &[u8]) -> Vec<u8> {
    chunks(&[(b"IHDR", header), (b"IDAT", zlib(rows)), (b"IEND", vec![])])
}

/// `bytes` with one bit of the byte at `at` turned.
fn turned(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

/// A zlib stream of a zero and `n` times `a`, about a thousandth of that.
fn bomb(n: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, n, 1);
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![b'a'; n as usize]).unwrap();
    writer.finish().unwrap();
    let mut stream = Vec::new();
    let mut rest = &bytes[8..];
    while let Some(length) = rest.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize) {
        if &rest[4..8] == b"IDAT" {
            stream.extend(&rest[8..8 + length]);
        }
        rest = &rest[12 + length..];
    }
    stream
}

/// A PNG of one pixel with what `set` adds to it.
fn encoded(set: impl FnOnce(&mut png::Info<'static>)) -> Vec<u8> {
    let mut info = png::Info::with_size(1, 1);
    info.color_type = png::ColorType::Grayscale;
    info.bit_depth = png::BitDepth::Eight;
    set(&mut info);
    let mut bytes = Vec::new();
    let mut writer = png::Encoder::with_info(&mut bytes, info).unwrap().write_header().unwrap();
    writer.write_image_data(&[7]).unwrap();
    writer.finish().unwrap();
    bytes
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels: Vec<u8> = (0..width * height * 3).map(|idx| (idx * 37 % 251) as u8).collect();
    JpegEncoder::new(&mut bytes).write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// Where the data of a JPEG's first segment of this marker begins, its length included.
fn segment(jpeg: &[u8], marker: u8) -> usize {
    jpeg.windows(2).position(|window| window == [0xff, marker]).unwrap() + 2
}

/// A JPEG whose frame is `width` by `height` and whose data are not.
fn jpeg_of(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = jpeg(16, 16);
    let frame = segment(&bytes, 0xc0);
    bytes[frame + 3..frame + 5].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 5..frame + 7].copy_from_slice(&width.to_be_bytes());
    bytes
}

fn webp() -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels: Vec<u8> = (0..16 * 16 * 3).map(|idx| (idx * 37 % 251) as u8).collect();
    WebPEncoder::new_lossless(&mut bytes).write_image(&pixels, 16, 16, ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// A RIFF file of these chunks, each with the length it claims.
fn riff(chunks: &[(&[u8; 4], u32, &[u8])]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (kind, length, data) in chunks {
        body.extend(*kind);
        body.extend(length.to_le_bytes());
        body.extend(*data);
        body.extend(std::iter::repeat_n(0, data.len() % 2));
    }
    [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// The data of a VP8X chunk.
fn extended(flags: u8, width: u32, height: u32) -> Vec<u8> {
    [&[flags, 0, 0, 0], &(width - 1).to_le_bytes()[..3], &(height - 1).to_le_bytes()[..3]].concat()
}

fn png_rows() -> Vec<(&'static str, Vec<u8>, Outcome, &'static str)> {
    let whole = "picture: expected a whole PNG, JPEG or WebP file, found";
    let size =
        "a picture of this size is not supported (hint: at most 16384 pixels a side and 256 MiB are read)";
    let plte = "chunk 'PLTE': expected 3 bytes for each of 1 to 256 colours";
    let sound = grey(&[]);
    let palette = |chunk: Option<Vec<u8>>, index: u8| {
        let mut all = vec![(b"IHDR", header(1, 1, 8, 3))];
        all.extend(chunk.map(|data| (b"PLTE", data)));
        all.extend([(b"IDAT", zlib(&[0, index])), (b"IEND", vec![])]);
        chunks(&all)
    };
    let interlaced = |method: u8| {
        let mut data = header(1, 1, 8, 0);
        data[12] = method;
        data
    };
    let method = |at: usize, value: u8| {
        let mut data = header(1, 1, 8, 0);
        data[at] = value;
        data
    };
    let animated = {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_animated(2, 0).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[7]).unwrap();
        writer.write_image_data(&[9]).unwrap();
        writer.finish().unwrap();
        bytes
    };
    let no_frames = grey(&[(b"acTL", vec![0; 8])]);
    let profile = |data: Vec<u8>| grey(&[(b"iCCP", [&b"p\0\0"[..], &data].concat())]);
    vec![
        ("one grey pixel", sound.clone(), Accepted, "1x1, [7, 7, 7]"),
        ("signature alone", sound[..8].to_vec(), Malformed, whole),
        ("half a signature", sound[..4].to_vec(), Unsupported, "a picture other than PNG, JPEG or WebP"),
        ("signature after a transfer as text", b"\x89PNG\n\x1a\n".to_vec(), Unsupported, "other than PNG"),
        ("giant in 67 bytes", with(header(30_000, 30_000, 8, 2), &[]), Unsupported, size),
        ("2^31-1 by 2^31-1", with(header(i32::MAX as u32, i32::MAX as u32, 16, 6), &[]), Unsupported, size),
        ("2^32-1 wide", with(header(u32::MAX, 1, 8, 2), &[]), Unsupported, size),
        ("16,384 by 16,384 in 67 bytes", with(header(16_384, 16_384, 16, 6), &[]), Unsupported, size),
        ("256 MiB and a row", with(header(16_384, 16_385, 8, 0), &[]), Unsupported, size),
        ("16,385 wide", with(header(16_385, 1, 8, 2), &[]), Unsupported, size),
        ("16,385 high", with(header(1, 16_385, 8, 2), &[]), Unsupported, size),
        ("256 MiB of nothing", with(header(16_384, 16_384, 8, 0), &[]), Malformed, whole),
        ("no width", with(header(0, 1, 8, 0), &[]), Malformed, whole),
        ("no height", with(header(1, 0, 8, 0), &[]), Malformed, whole),
        ("depth 3", with(header(1, 1, 3, 0), &[0, 7]), Malformed, whole),
        ("depth 16 of a palette", with(header(1, 1, 16, 3), &[0, 7]), Malformed, whole),
        ("colour type 1", with(header(1, 1, 8, 1), &[0, 7]), Malformed, whole),
        ("compression method 1", with(method(10, 1), &[0, 7]), Malformed, whole),
        ("filter method 1", with(method(11, 1), &[0, 7]), Malformed, whole),
        ("interlace method 2", with(interlaced(2), &[0, 7]), Malformed, whole),
        ("interlaced", with(interlaced(1), &[0, 7]), Accepted, "1x1, [7, 7, 7]"),
        ("16 bits", with(header(1, 1, 16, 2), &[0, 0, 0, 0x80, 0x80, 0xff, 0xff]), Accepted, "[0, 128, 255]"),
        ("filter 5", with(header(1, 1, 8, 0), &[5, 7]), Malformed, whole),
        ("too few rows", with(header(1, 2, 8, 0), &[0, 7]), Malformed, whole),
        ("row cut", with(header(2, 1, 8, 0), &[0, 7]), Malformed, whole),
        ("rows to spare", with(header(1, 1, 8, 0), &[0, 7, 0, 8, 0, 9]), Accepted, "1x1, [7, 7, 7]"),
        ("header cut", sound[..20].to_vec(), Malformed, whole),
        ("data cut", sound[..45].to_vec(), Malformed, whole),
        ("header's CRC", turned(sound.clone(), 29), Malformed, whole),
        ("data's CRC", turned(sound.clone(), 8 + 25 + 8 + 13), Malformed, whole),
        (
            "data's checksum",
            {
                let mut stream = zlib(&[0, 7]);
                *stream.last_mut().unwrap() ^= 1;
                chunks(&[(b"IHDR", header(1, 1, 8, 0)), (b"IDAT", stream), (b"IEND", vec![])])
            },
            Accepted,
            "1x1, [7, 7, 7]",
        ),
        ("no header", chunks(&[(b"IDAT", zlib(&[0, 7])), (b"IEND", vec![])]), Malformed, whole),
        ("header twice", grey(&[(b"IHDR", header(1, 1, 8, 0))]), Malformed, whole),
        ("short header", chunks(&[(b"IHDR", vec![0; 4]), (b"IEND", vec![])]), Malformed, whole),
        ("no data", chunks(&[(b"IHDR", header(1, 1, 8, 0)), (b"IEND", vec![])]), Malformed, whole),
        (
            "chunk of 2^32-1 bytes",
            {
                let mut bytes = sound.clone();
                bytes[33..37].fill(0xff);
                bytes
            },
            Malformed,
            whole,
        ),
        ("unknown critical chunk", grey(&[(b"EVIL", vec![1])]), Malformed, whole),
        ("palette without colours", palette(None, 0), Malformed, whole),
        ("palette of no colours", palette(Some(vec![]), 0), Malformed, plte),
        ("palette of a byte", palette(Some(vec![1]), 0), Malformed, plte),
        ("palette of two bytes", palette(Some(vec![1, 2]), 0), Malformed, "1 to 256 colours, found 2 bytes"),
        ("palette of 257 colours", palette(Some(vec![1; 771]), 0), Malformed, "colours, found 771 bytes"),
        ("index over the palette", palette(Some(vec![1, 2, 3]), 200), Accepted, "1x1, [0, 0, 0]"),
        ("animation", animated, Accepted, "1x1, [7, 7, 7]"),
        ("animation of no frames", no_frames, Accepted, "1x1, [7, 7, 7]"),
        ("profile that is a bomb", profile(bomb(64 << 20)), Accepted, "1x1, [7, 7, 7]"),
        ("profile that is no stream", profile(vec![1, 2, 3]), Accepted, "1x1"),
        (
            "text that is a bomb",
            grey(&[(b"zTXt", [&b"k\0\0"[..], &bomb(64 << 20)].concat())]),
            Accepted,
            "1x1",
        ),
        ("hostile EXIF", grey(&[(b"eXIf", b"MM\0\x2a\xff\xff\xff\xff".to_vec())]), Accepted, "1x1"),
        (
            "EXIF of 65,535 entries",
            grey(&[(b"eXIf", b"MM\0\x2a\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0\0\x01\0\x09\0\0".to_vec())]),
            Accepted,
            "1x1",
        ),
        ("page after the end", [&sound[..], b"<script>alert(1)</script>"].concat(), Accepted, "1x1"),
    ]
}

fn other_rows() -> Vec<(&'static str, &'static str, Vec<u8>, Outcome, &'static str)> {
    let whole = "picture: expected a whole PNG, JPEG or WebP file, found";
    let size =
        "a picture of this size is not supported (hint: at most 16384 pixels a side and 256 MiB are read)";
    let format = "a picture other than PNG, JPEG or WebP is not supported";
    let sound = jpeg(16, 16);
    let scan = segment(&sound, 0xda);
    let replaced = |marker: u8| {
        let mut bytes = sound.clone();
        let frame = segment(&bytes, 0xc0);
        bytes[frame - 1] = marker;
        bytes
    };
    let exif = |claimed: u32| {
        let lossless = &webp()[20..];
        riff(&[
            (b"VP8X", 10, &extended(0x08, 16, 16)),
            (b"VP8L", lossless.len() as u32, lossless),
            (b"EXIF", claimed, b"MM\0\x2a"),
        ])
    };
    // A frame's place, its size less one, its duration and its flags.
    let frame_header = [0, 0, 0, 0, 0, 0, 15, 0, 0, 15, 0, 0, 0, 0, 0, 0];
    let animated = |side: u32| {
        let frame = [&frame_header[..], &webp()[12..]].concat();
        riff(&[
            (b"VP8X", 10, &extended(0x02, side, side)),
            (b"ANIM", 6, &[0; 6]),
            (b"ANMF", frame.len() as u32, &frame),
        ])
    };
    let hidden = {
        let frame = [&frame_header[..], b"EXIF\xf0\xff\xff\xff", &webp()[12..]].concat();
        riff(&[
            (b"VP8X", 10, &extended(0x02, 16, 16)),
            (b"ANIM", 6, &[0; 6]),
            (b"ANMF", frame.len() as u32, &frame),
        ])
    };
    let nested = {
        let n = 200_000_u32;
        let mut chunks = riff(&[(b"VP8X", 10, &extended(0x02, 16, 16)), (b"ANIM", 6, &[0; 6])]);
        for depth in 0..n {
            chunks.extend(b"ANMF");
            chunks.extend((16 + 24 * (n - 1 - depth)).to_le_bytes());
            chunks.extend(frame_header);
        }
        let length = chunks.len() as u32 - 8;
        chunks[4..8].copy_from_slice(&length.to_le_bytes());
        chunks
    };
    vec![
        ("empty", "x.png", vec![], Unsupported, format),
        ("SVG", "x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), Unsupported, format),
        ("web page", "x.jpg", b"<!DOCTYPE html><html></html>".to_vec(), Unsupported, format),
        ("GIF", "x.gif", b"GIF89a\x01\0\x01\0\0\0\0".to_vec(), Unsupported, format),
        ("BMP", "x.png", b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0".to_vec(), Unsupported, format),
        ("TIFF", "x.jpg", b"II\x2a\0\x08\0\0\0\0\0".to_vec(), Unsupported, format),
        ("TIFF of the other order", "x.png", b"MM\0\x2a\0\0\0\x08\0\0".to_vec(), Unsupported, format),
        ("icon", "x.png", b"\0\0\x01\0\x01\0\0\0".to_vec(), Unsupported, format),
        ("AVIF", "x.webp", b"\0\0\0\x20ftypavif\0\0\0\0".to_vec(), Unsupported, format),
        ("PDF", "x.jpg", b"%PDF-1.7\n".to_vec(), Unsupported, format),
        ("JSON", "x.png", b"{}".to_vec(), Unsupported, format),
        ("wave", "x.webp", b"RIFF\x24\0\0\0WAVEfmt ".to_vec(), Unsupported, format),
        ("pickle", "x.png", b"\x80\x02}q\x00.".to_vec(), Unsupported, format),
        ("PNG called JPEG", "x.jpg", grey(&[]), Accepted, "1x1, [7, 7, 7]"),
        ("JPEG called PNG", "x.png", jpeg(16, 16), Accepted, "16x16"),
        ("JPEG called text", "x.txt", jpeg(16, 16), Accepted, "16x16"),
        ("start of a JPEG", "x.jpg", b"\xff\xd8\xff".to_vec(), Malformed, whole),
        ("JPEG segment cut", "x.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF".to_vec(), Malformed, whole),
        ("JPEG segment of no bytes", "x.jpg", b"\xff\xd8\xff\xe0\0\0\xff\xd9".to_vec(), Malformed, whole),
        ("JPEG without a frame", "x.jpg", b"\xff\xd8\xff\xd9".to_vec(), Malformed, whole),
        ("JPEG without data", "x.jpg", sound[..scan].to_vec(), Malformed, whole),
        ("JPEG data cut", "x.jpg", sound[..(scan + sound.len()) / 2].to_vec(), Malformed, whole),
        ("JPEG without its end", "x.jpg", sound[..sound.len() - 2].to_vec(), Malformed, whole),
        ("JPEG of no width", "x.jpg", jpeg_of(0, 16), Malformed, whole),
        ("JPEG of no height", "x.jpg", jpeg_of(16, 0), Malformed, whole),
        ("JPEG of 65,535 by 65,535", "x.jpg", jpeg_of(65_535, 65_535), Unsupported, size),
        ("JPEG of 16,384 by 16,384", "x.jpg", jpeg_of(16_384, 16_384), Unsupported, size),
        ("JPEG of 4,096 by 4,096 without data", "x.jpg", jpeg_of(4_096, 4_096), Accepted, "4096x4096"),
        ("arithmetic JPEG", "x.jpg", replaced(0xc9), Malformed, whole),
        ("lossless JPEG", "x.jpg", replaced(0xc3), Malformed, whole),
        ("JPEG, progressive by name alone", "x.jpg", replaced(0xc2), Accepted, "16x16"),
        ("WebP without chunks", "x.webp", riff(&[]), Malformed, whole),
        ("WebP cut", "x.webp", webp()[..webp().len() / 2].to_vec(), Malformed, "picture: expected"),
        ("WebP of an unknown chunk", "x.webp", riff(&[(b"EVIL", 0, b"")]), Malformed, whole),
        (
            "WebP chunk of 4 GiB",
            "x.webp",
            riff(&[(b"VP8L", u32::MAX, &[0x2f, 0, 0, 0, 0])]),
            Malformed,
            "chunk 'VP8L': expected at most 6 bytes, found 4294967295 bytes",
        ),
        (
            "WebP of a wrong version",
            "x.webp",
            riff(&[(b"VP8L", 5, &[0x2f, 0, 0, 0, 0xe0])]),
            Malformed,
            whole,
        ),
        (
            "WebP of 16,383 by 16,383",
            "x.webp",
            riff(&[(b"VP8L", 5, &[0x2f, 0xfe, 0xbf, 0xff, 0x0f])]),
            Unsupported,
            size,
        ),
        (
            "WebP of 2^24 by 2^24",
            "x.webp",
            riff(&[(b"VP8X", 10, &extended(0, 1 << 24, 1 << 24)), (b"VP8L", 5, &[0x2f, 0, 0, 0, 0])]),
            Malformed,
            whole,
        ),
        ("WebP with EXIF", "x.webp", exif(4), Accepted, "16x16"),
        (
            "WebP with 4 GiB of EXIF",
            "x.webp",
            exif(u32::MAX - 1),
            Malformed,
            "chunk 'EXIF': expected at most 4 bytes, found 4294967294 bytes",
        ),
        ("WebP animation", "x.webp", animated(16), Accepted, "16x16"),
        ("WebP animation of 16,384 by 16,384", "x.webp", animated(16_384), Unsupported, size),
        (
            "WebP animation with hidden EXIF of 4 GiB",
            "x.webp",
            hidden,
            Malformed,
            "chunk 'EXIF': expected at most",
        ),
        ("WebP frames in frames", "x.webp", nested, Malformed, whole),
        ("WebP without its alpha", "x.webp", riff(&[(b"VP8X", 10, &extended(0x10, 1, 1))]), Malformed, whole),
    ]
}

#[test]
fn pictures() {
    let png =
        png_rows().into_iter().map(|(name, bytes, outcome, text)| Row::file(name, outcome, PNG, bytes, text));
    let others = other_rows()
        .into_iter()
        .map(|(name, file, bytes, outcome, text)| Row::file(name, outcome, file, bytes, text));
    check("pictures", 60, &png.chain(others).collect::<Vec<_>>(), read);
}

fn text_rows() -> Vec<Row> {
    let whole = "PNG: expected a whole PNG file, found";
    let long = "is not supported (hint: at most 64 KiB of a text";
    let text = |kind: &'static [u8; 4], data: &[u8]| grey(&[(kind, data.to_vec())]);
    let ztxt = |n: usize| {
        let chunk = ZTXtChunk::new("parameters", "a".repeat(n));
        encoded(|info| info.compressed_latin1_text.push(chunk))
    };
    let itxt = |n: usize| {
        let mut chunk = ITXtChunk::new("parameters", "猫".repeat(n));
        chunk.compressed = true;
        encoded(|info| info.utf8_text.push(chunk))
    };
    let crowd = |n: usize| {
        encoded(|info| {
            for idx in 0..n {
                info.compressed_latin1_text.push(ZTXtChunk::new(idx.to_string(), "a".repeat(64 << 10)));
            }
        })
    };
    let utf8_crowd = |n: usize| {
        encoded(|info| {
            for idx in 0..n {
                let mut chunk = ITXtChunk::new(idx.to_string(), "a".repeat(64 << 10));
                chunk.compressed = true;
                info.utf8_text.push(chunk);
            }
        })
    };
    let profile = encoded(|info| info.icc_profile = Some(Cow::Owned(vec![0; 64 << 20])));
    let table: Vec<(&'static str, Vec<u8>, Outcome, &str)> = vec![
        ("no text", grey(&[]), Accepted, ""),
        ("empty", vec![], Malformed, whole),
        ("JPEG", jpeg(16, 16), Malformed, whole),
        ("cut before its end", grey(&[])[..57].to_vec(), Malformed, whole),
        ("text's CRC", turned(text(b"tEXt", b"k\0v"), 43), Malformed, whole),
        ("text without a keyword", text(b"tEXt", b"\0value"), Accepted, ""),
        ("text without its zero", text(b"tEXt", b"value"), Accepted, ""),
        ("keyword of 80 bytes", text(b"tEXt", &[&[b'k'; 80][..], b"\0v"].concat()), Accepted, ""),
        ("compressed by method 1", text(b"zTXt", b"k\0\x01xx"), Accepted, ""),
        ("compressed without a stream", text(b"zTXt", b"k\0\0xx"), Malformed, whole),
        ("compressed without a method", text(b"zTXt", b"k\0"), Accepted, ""),
        ("international without a flag", text(b"iTXt", b"k\0"), Accepted, ""),
        ("international with flag 2", text(b"iTXt", b"k\0\x02\0\0\0v"), Accepted, ""),
        ("international without UTF-8", text(b"iTXt", b"k\0\0\0\0\0\xff\xfe"), Accepted, ""),
        ("text of 64 KiB", ztxt(64 << 10), Accepted, "parameters: 65536"),
        ("zTXt bomb", ztxt((64 << 10) + 1), Unsupported, long),
        ("large zTXt bomb", ztxt(64 << 20), Unsupported, long),
        ("iTXt bomb", itxt(1 << 20), Unsupported, long),
        (
            "plain text of 65,537 bytes",
            text(b"tEXt", &[b"k\0", &[b'a'; 65_537][..]].concat()),
            Unsupported,
            long,
        ),
        (
            "parameters of 100 MiB",
            text(b"tEXt", &[b"parameters\0", &vec![b'a'; 100 << 20][..]].concat()),
            Unsupported,
            "the size of its texts is not supported",
        ),
        (
            "twenty zTXt bombs",
            crowd(20),
            Unsupported,
            "hint: at most 64 KiB of a text and 1024 KiB of all are read",
        ),
        ("twenty iTXt bombs", utf8_crowd(20), Unsupported, "1024 KiB of all are read"),
        ("profile that is a bomb", profile, Accepted, ""),
        (
            "wide picture",
            with(header(i32::MAX as u32, 1, 16, 6), &[]),
            Unsupported,
            "the size of its texts is not supported",
        ),
        ("hostile keyword", text(b"tEXt", b"\x1b[2J\0v"), Accepted, "\u{1b}[2J: 1"),
        ("hostile text", text(b"tEXt", b"parameters\0\x1b]52;c;x\x07"), Accepted, "parameters: 9"),
        (
            "keyword twice",
            grey(&[(b"tEXt", b"k\0a".to_vec()), (b"tEXt", b"k\0bc".to_vec())]),
            Accepted,
            "k: 1, k: 2",
        ),
    ];
    table.into_iter().map(|(name, bytes, outcome, text)| Row::file(name, outcome, PNG, bytes, text)).collect()
}

#[test]
fn texts_of_png_files() {
    check("texts in PNG", 20, &text_rows(), read_text);
}

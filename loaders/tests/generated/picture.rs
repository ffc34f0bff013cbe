//! Pictures; what is accepted has the pixels that its header says.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use photogram_loaders::{Error, read_png_text, read_rgb};
use tempfile::TempDir;

use super::png_file::{header, png, zlib};
use super::random::{Random, mutated_bytes};
use super::run;

/// Numbers at the borders of what lengths and sides may be.
const SIDES: [u32; 12] =
    [0, 1, 2, 255, 4_096, 16_384, 16_385, 65_535, 65_536, 0x7fff_ffff, 0x8000_0000, u32::MAX];

/// A PNG in parts.
struct Parts {
    width: u32,
    height: u32,
    chunks: Vec<([u8; 4], Vec<u8>)>,
    /// The three bytes of a pixel as RGB, if all pixels are alike.
    pixel: [u8; 3],
    /// Bytes behind the chunks' own: where, and what instead.
    patch: Option<(usize, Vec<u8>)>,
}

impl Parts {
    /// A picture of one colour, of any colour type, with a few chunks that are not needed.
    fn sound(random: &mut Random) -> Self {
        let (width, height) = (1 + random.below(9) as u32, 1 + random.below(9) as u32);
        let (depth, colour, pixel, value): (u8, u8, [u8; 3], Vec<u8>) = match random.below(7) {
            0 => (8, 0, [77; 3], vec![77]),
            1 => (16, 0, [77; 3], vec![77, 77]),
            2 => (8, 2, [1, 2, 3], vec![1, 2, 3]),
            3 => (16, 2, [1, 2, 3], vec![1, 1, 2, 2, 3, 3]),
            4 => (8, 3, [4, 5, 6], vec![1]),
            5 => (8, 4, [77; 3], vec![77, 255]),
            _ => (8, 6, [1, 2, 3], vec![1, 2, 3, 255]),
        };
        let mut chunks = vec![(*b"IHDR", header(width, height, depth, colour))];
        if colour == 3 {
            chunks.push((*b"PLTE", vec![9, 9, 9, 4, 5, 6]));
        }
        let text = zlib(&vec![b'z'; random.below(200)]);
        let more = [
            (*b"tEXt", b"parameters\0a cat".to_vec()),
            (*b"zTXt", [&b"k\0\0"[..], &text].concat()),
            (*b"iTXt", [&b"k\0\x01\0en\0k\0"[..], &text].concat()),
            (*b"pHYs", vec![0, 0, 0, 1, 0, 0, 0, 1, 0]),
            (*b"gAMA", 45_455_u32.to_be_bytes().to_vec()),
            (*b"iCCP", [&b"p\0\0"[..], &text].concat()),
        ];
        for chunk in more {
            if random.one_in(3) {
                chunks.push(chunk);
            }
        }
        let row = [&[0][..], &value.repeat(width as usize)].concat();
        let data = zlib(&row.repeat(height as usize));
        let cut = random.below(data.len());
        chunks.extend([(*b"IDAT", data[..cut].to_vec()), (*b"IDAT", data[cut..].to_vec())]);
        chunks.push((*b"IEND", Vec::new()));
        Self { width, height, chunks, pixel, patch: None }
    }

    /// Where the chunk `idx` begins in the file.
    fn place(&self, idx: usize) -> usize {
        8 + self.chunks[..idx].iter().map(|(_, data)| 12 + data.len()).sum::<usize>()
    }

    fn break_one(&mut self, random: &mut Random) {
        let at = random.below(self.chunks.len());
        let other = random.below(self.chunks.len());
        match random.below(14) {
            0 => {
                let length = random.pick(&SIDES).to_be_bytes().to_vec();
                self.patch = Some((self.place(at), length));
            }
            1 => self.patch = Some((self.place(at) + 8 + self.chunks[at].1.len(), vec![random.next() as u8])),
            2 => self.patch = Some((self.place(at) + 4 + random.below(4), vec![random.next() as u8])),
            3 | 4 => {
                let start = 4 * random.below(2);
                self.chunks[0].1[start..start + 4].copy_from_slice(&random.pick(&SIDES).to_be_bytes());
            }
            5 => self.chunks[0].1[8 + random.below(5)] = random.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 255]),
            6 => self.chunks.swap(at, other),
            7 => self.chunks.push(self.chunks[at].clone()),
            8 => self.chunks.insert(at, self.chunks[other].clone()),
            9 => drop(self.chunks.remove(at)),
            10 => {
                let (_, data) = &mut self.chunks[at];
                let length = random.below(data.len() + 1);
                data.truncate(length);
            }
            11 => {
                let (_, data) = &mut self.chunks[at];
                if !data.is_empty() {
                    let at = random.below(data.len());
                    data[at] = random.next() as u8;
                }
            }
            12 => self.chunks[at].1.extend(vec![random.next() as u8; random.below(70_000)]),
            _ => {
                let hostile = [
                    (*b"tEXt", [&b"k\0"[..], &vec![b'x'; 65_530 + random.below(12)]].concat()),
                    (*b"zTXt", [&b"k\0\0"[..], &zlib(&vec![b'x'; 65_530 + random.below(12)])].concat()),
                    (*b"tEXt", b"\0".to_vec()),
                    (*b"eXIf", b"MM\0\x2a\xff\xff\xff\xff".to_vec()),
                    (*b"acTL", vec![0xff; 8]),
                    (*b"fcTL", vec![0xff; 26]),
                    (*b"fdAT", vec![0; 4]),
                    (*b"tRNS", vec![0; 300]),
                    (*b"PLTE", vec![1; 4]),
                    (*b"sBIT", vec![0xff; 4]),
                ];
                self.chunks.insert(at, random.pick(&hostile));
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let chunks: Vec<_> = self.chunks.iter().map(|(kind, data)| (kind, data.clone())).collect();
        let mut bytes = png(&chunks);
        if let Some((at, patch)) = &self.patch {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        bytes
    }
}

/// A file that one test writes again and again.
struct Scratch {
    _place: TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { path: place.path().join("picture"), _place: place }
    }

    fn write(&self, bytes: &[u8]) -> &Path {
        std::fs::write(&self.path, bytes).unwrap();
        &self.path
    }
}

fn named(path: &Path) -> impl Fn(Error) -> (String, Error) {
    move |error| (path.display().to_string(), error)
}

/// Reads pixels and texts; -> the picture's size.
fn check(path: &Path, is_png: bool) -> Result<(u32, u32), (String, Error)> {
    if is_png {
        match read_png_text(path) {
            Ok(texts) => {
                assert!(texts.iter().all(|(_, text)| text.chars().count() <= 64 << 10));
                assert!(texts.iter().map(|(_, text)| text.len()).sum::<usize>() <= 1 << 20);
            }
            Err(error) => {
                assert!(matches!(error, Error::Malformed { .. } | Error::Unsupported { .. }), "{error}");
                let text = error.to_string();
                assert!(text.starts_with(&path.display().to_string()) && text.len() < 1_024, "{text}");
            }
        }
    }
    let picture = read_rgb(path).map_err(named(path))?;
    let (width, height) = (picture.width(), picture.height());
    assert_eq!(picture.pixels().len() as u64, u64::from(width) * u64::from(height) * 3);
    assert!(width.max(height) <= 16_384 && width.min(height) > 0, "{width}x{height}");
    Ok((width, height))
}

#[test]
fn png_files_with_one_thing_broken() {
    let scratch = Scratch::new();
    run("PNG, one thing broken", 20..=70, |random, idx| {
        let mut parts = Parts::sound(random);
        let is_sound = idx % 8 == 0;
        if !is_sound {
            parts.break_one(random);
        }
        let path = scratch.write(&parts.bytes());
        let read = check(path, true);
        if is_sound {
            assert_eq!(read.as_ref().ok(), Some(&(parts.width, parts.height)), "{read:?}");
            let pixels = parts.pixel.repeat((parts.width * parts.height) as usize);
            assert_eq!(read_rgb(path).unwrap().pixels(), pixels);
            assert!(read_png_text(path).is_ok());
        }
        read.map(|_| ())
    });
}

#[test]
fn png_files_mutated_blindly() {
    let scratch = Scratch::new();
    run("PNG, blind", 1..=60, |random, _| {
        let bytes = mutated_bytes(&Parts::sound(random).bytes(), random);
        check(scratch.write(&bytes), true).map(|_| ())
    });
}

/// A picture of these sides that is not of one colour.
fn pixels(width: u32, height: u32, channels: u32) -> Vec<u8> {
    (0..width * height * channels).map(|idx| (idx * 37 % 251) as u8).collect()
}

const SIZES: [(u32, u32); 4] = [(1, 1), (8, 8), (17, 5), (33, 20)];

#[test]
fn jpeg_files_mutated_blindly() {
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let sound = SIZES.map(|(width, height)| {
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 50);
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        encoder.write_image(&pixels(width, height, 3), width, height, ExtendedColorType::Rgb8).unwrap();
        bytes
    });
    let scratch = Scratch::new();
    run("JPEG, blind", 5..=95, |random, _| {
        let bytes = mutated_bytes(&random.pick(&sound), random);
        check(scratch.write(&bytes), false).map(|_| ())
    });
}

#[test]
fn webp_files_mutated_blindly() {
    let sound = SIZES.map(|(width, height)| {
        let mut bytes = Vec::new();
        let encoder = WebPEncoder::new_lossless(&mut bytes);
        encoder.write_image(&pixels(width, height, 4), width, height, ExtendedColorType::Rgba8).unwrap();
        bytes
    });
    let scratch = Scratch::new();
    run("WebP, blind", 2..=95, |random, _| {
        let mut bytes = mutated_bytes(&random.pick(&sound), random);
        // In half of the files the container fits what is in it.
        if random.one_in(2) && bytes.len() > 20 {
            let length = bytes.len() as u32;
            bytes[4..8].copy_from_slice(&(length - 8).to_le_bytes());
            bytes[16..20].copy_from_slice(&(length - 20).to_le_bytes());
        }
        check(scratch.write(&bytes), false).map(|_| ())
    });
}

#[test]
fn a_png_cut_anywhere_is_malformed() {
    let scratch = Scratch::new();
    let parts = Parts::sound(&mut Random::of(0));
    let whole = parts.bytes();
    let data_end = whole.len() - 12;
    for cut in 8..data_end {
        let path = scratch.write(&whole[..cut]);
        let errors = [read_png_text(path).unwrap_err(), read_rgb(path).unwrap_err()];
        for error in errors {
            assert!(matches!(error, Error::Malformed { .. }), "{cut}: {error}");
        }
    }
    // Pixels are whole where only the end chunk is missing; texts may follow them.
    for cut in data_end..whole.len() {
        let path = scratch.write(&whole[..cut]);
        assert!(matches!(read_png_text(path), Err(Error::Malformed { .. })), "{cut}");
        match read_rgb(path) {
            Ok(picture) => assert_eq!(picture.pixels()[..3], parts.pixel, "{cut}"),
            Err(error) => assert!(matches!(error, Error::Malformed { .. }), "{cut}: {error}"),
        }
    }
    for cut in 0..8 {
        let path = scratch.write(&whole[..cut]);
        assert!(matches!(read_png_text(path), Err(Error::Malformed { .. })), "{cut}");
        assert!(matches!(read_rgb(path), Err(Error::Unsupported { .. })), "{cut}");
    }
}

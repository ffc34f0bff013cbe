//! Pictures in and out.

use std::path::{Path, PathBuf};

use image::{ImageEncoder, Rgba, RgbaImage};
use photogram_loaders::{Error, RgbPicture, read_png_text, read_rgb, write_png};
use tempfile::TempDir;

fn picture(width: u32, height: u32) -> RgbPicture {
    let pixels = (0..width * height * 3).map(|idx| (idx * 37 % 251) as u8).collect();
    RgbPicture::new(width, height, pixels).unwrap()
}

fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.txt");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// A PNG of these chunks after its signature.
fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(*kind);
        bytes.extend(data);
        bytes.extend(crc32(&[&kind[..], data].concat()).to_be_bytes());
    }
    bytes
}

/// The CRC of PNG, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn header(width: u32, height: u32) -> Vec<u8> {
    [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat()
}

/// One black pixel: a zlib stream with a stored block.
fn black_pixel() -> Vec<u8> {
    vec![0x78, 0x01, 1, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 4, 0, 1]
}

#[test]
fn pixels_and_text_survive_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.png");
    let long = "word ".repeat(2_000);
    let text = [
        ("parameters", "a red apple\nNegative prompt: \nSteps: 20, Size: 3x2"),
        ("latin", "café ½"),
        ("unicode", "猫 🍎 \u{202e}"),
        ("control", "a\u{1b}[2J\tb"),
        ("empty", ""),
        ("long", &long),
    ];
    for (width, height) in [(3, 2), (1, 1), (128, 65)] {
        let written = picture(width, height);
        write_png(&path, &written, &text).unwrap();
        assert_eq!(read_rgb(&path).unwrap(), written);
        let mut read = read_png_text(&path).unwrap();
        let mut expected = text.map(|(key, value)| (key.to_owned(), value.to_owned()));
        read.sort();
        expected.sort();
        assert_eq!(read, expected);
    }
    let bytes = std::fs::read(&path).unwrap();
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(has(b"tEXtparameters\0a red apple") && has(b"tEXtlatin\0caf\xe9 \xbd") && has(b"iTXtunicode\0"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_same_picture_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.png", "b.png"].map(|name| folder.path().join(name));
    for path in &paths {
        write_png(path, &picture(64, 64), &[("parameters", "x")]).unwrap();
    }
    assert_eq!(std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(300, 300);
    let long = "k".repeat(80);
    let bad_keywords = ["", &long, "猫"];
    for keyword in bad_keywords {
        let error = write_png(folder.path().join("x.png"), &picture, &[(keyword, "v")]).unwrap_err();
        assert!(matches!(error, Error::Output { .. }), "{error}");
    }
    for path in [folder.path().to_owned(), folder.path().join("absent/x.png")] {
        let error = write_png(&path, &picture, &[]).unwrap_err();
        assert!(matches!(&error, Error::Output { path: named, .. } if Path::new(named) == path), "{error}");
    }
    #[cfg(target_os = "linux")]
    assert!(matches!(write_png("/proc/x.png", &picture, &[]), Err(Error::Output { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Does not apply to root, whom no permission stops.
#[cfg(unix)]
#[test]
fn a_read_only_folder_is_an_output_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(folder.path().join("probe"), b"").is_ok() {
        println!("skipped: this user may write to a read-only folder");
        return;
    }
    assert!(matches!(write_png(folder.path().join("x.png"), &picture(1, 1), &[]), Err(Error::Output { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_picture_has_the_pixels_it_says() {
    assert!(RgbPicture::new(0, 1, vec![]).is_none());
    assert!(RgbPicture::new(2, 1, vec![0; 5]).is_none());
    assert!(RgbPicture::new(u32::MAX, u32::MAX, vec![0; 3]).is_none());
    assert!(RgbPicture::new(2, 1, vec![0; 6]).is_some());
}

/// A red pixel left of a half transparent black one.
fn red_and_shadow() -> RgbaImage {
    RgbaImage::from_fn(2, 1, |x, _| if x == 0 { Rgba([255, 0, 0, 255]) } else { Rgba([0, 0, 0, 128]) })
}

#[test]
fn transparency_is_laid_over_white() {
    let image = red_and_shadow();
    let mut png = Vec::new();
    let mut webp = Vec::new();
    image::codecs::png::PngEncoder::new(&mut png)
        .write_image(image.as_raw(), 2, 1, image::ExtendedColorType::Rgba8)
        .unwrap();
    image::codecs::webp::WebPEncoder::new_lossless(&mut webp)
        .write_image(image.as_raw(), 2, 1, image::ExtendedColorType::Rgba8)
        .unwrap();
    for bytes in [png, webp] {
        // The extension says nothing; the bytes do.
        let (_folder, path) = file(&bytes);
        assert_eq!(read_rgb(path).unwrap().pixels(), [255, 0, 0, 127, 127, 127]);
    }
}

#[test]
fn grey_and_16_bit_pictures_become_rgb() {
    let mut grey = Vec::new();
    image::codecs::png::PngEncoder::new(&mut grey)
        .write_image(&[7, 200], 2, 1, image::ExtendedColorType::L8)
        .unwrap();
    let (_folder, path) = file(&grey);
    assert_eq!(read_rgb(path).unwrap().pixels(), [7, 7, 7, 200, 200, 200]);
    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_raw(1, 1, vec![0_u16, 0x8080, 0xffff]).unwrap();
    let (_folder, path) = file(&[]);
    deep.save_with_format(&path, image::ImageFormat::Png).unwrap();
    assert_eq!(read_rgb(path).unwrap().pixels(), [0, 0x80, 255]);
}

#[test]
fn an_exif_orientation_is_applied() {
    // TIFF in Motorola order: one entry, tag 0x112 (orientation), type SHORT, value 6: rotate by 90 degrees.
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 100);
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    let pixels: Vec<u8> =
        (0..16 * 8).flat_map(|idx| if idx % 16 < 8 { [0, 0, 0] } else { [255, 255, 255] }).collect();
    encoder.write_image(&pixels, 16, 8, image::ExtendedColorType::Rgb8).unwrap();
    let (_folder, path) = file(&jpeg);
    let read = read_rgb(path).unwrap();
    assert_eq!((read.width(), read.height()), (8, 16));
    let (first, last) = (read.pixels()[0], *read.pixels().last().unwrap());
    assert!(first < 20 && last > 235, "{first} {last}");
}

#[test]
fn hostile_pictures_are_refused() {
    let giant = png(&[(b"IHDR", header(100_000, 100_000)), (b"IDAT", black_pixel()), (b"IEND", vec![])]);
    let wide = png(&[(b"IHDR", header(16_385, 1)), (b"IDAT", black_pixel()), (b"IEND", vec![])]);
    let high = png(&[(b"IHDR", header(1, 16_385)), (b"IDAT", black_pixel()), (b"IEND", vec![])]);
    let no_pixels = png(&[(b"IHDR", header(0, 1)), (b"IDAT", black_pixel()), (b"IEND", vec![])]);
    let truncated = png(&[(b"IHDR", header(8, 8)), (b"IDAT", black_pixel()), (b"IEND", vec![])]);
    let mut bad_crc = png(&[(b"IHDR", header(1, 1)), (b"IDAT", black_pixel()), (b"IEND", vec![])]);
    let (_folder, path) = file(&bad_crc);
    assert_eq!(read_rgb(path).unwrap().pixels(), [0, 0, 0]);
    bad_crc[29] ^= 1;
    let cases: [(&[u8], bool); 13] = [
        (b"", false),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", false),
        (b"GIF89a\x01\0\x01\0\0\0\0", false),
        (b"BM\0\0", false),
        (&giant, false),
        (&wide, false),
        (&high, false),
        (b"\x89PNG\r\n\x1a\n", true),
        (&no_pixels, true),
        (&truncated, true),
        (&bad_crc, true),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", true),
        (b"RIFF\xff\xff\xff\xffWEBPVP8L", true),
    ];
    for (bytes, is_malformed) in cases {
        let (_folder, path) = file(bytes);
        let error = read_rgb(&path).unwrap_err();
        assert_eq!(matches!(error, Error::Malformed { .. }), is_malformed, "{bytes:02x?}: {error}");
        assert!(is_malformed || matches!(error, Error::Unsupported { .. }), "{bytes:02x?}: {error}");
        assert!(error.to_string().contains("picture.txt: "), "{error}");
    }
    assert!(matches!(read_rgb("absent.png"), Err(Error::NotFound { .. })));
    assert!(matches!(read_rgb(tempfile::tempdir().unwrap().path()), Err(Error::Io { .. })));
}

#[test]
fn a_picture_cut_anywhere_is_refused_or_shown_without_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.png");
    write_png(&path, &picture(5, 4), &[("parameters", "x")]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let pixels = read_rgb(&path);
        assert!(pixels.is_err() || pixels.is_ok_and(|read| read == picture(5, 4)), "{cut}");
        // Only IEND may be missing from what still reads.
        let text = read_png_text(&path);
        assert!(text.is_err(), "{cut}");
    }
}

#[test]
fn texts_are_decompressed_within_a_limit() {
    // A deflate stream that repeats "a": written by the png crate itself.
    let bomb = |n: usize| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.add_ztxt_chunk("bomb".into(), "a".repeat(n)).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0, 0, 0]).unwrap();
        writer.finish().unwrap();
        bytes
    };
    let (_folder, path) = file(&bomb(64 << 10));
    assert_eq!(read_png_text(path).unwrap()[0].1.len(), 64 << 10);
    for n in [(64 << 10) + 1, 32 << 20] {
        let bytes = bomb(n);
        let (_folder, path) = file(&bytes);
        let error = read_png_text(path).unwrap_err();
        assert!(!matches!(error, Error::Io { .. }), "{error}");
    }

    let plain = |n: usize| {
        let text = [b"parameters\0".to_vec(), vec![b'a'; n]].concat();
        png(&[(b"IHDR", header(1, 1)), (b"tEXt", text), (b"IDAT", black_pixel()), (b"IEND", vec![])])
    };
    let (_folder, path) = file(&plain(64 << 10));
    assert_eq!(read_png_text(path).unwrap().len(), 1);
    for n in [(64 << 10) + 1, 100 << 20] {
        let (_folder, path) = file(&plain(n));
        let error = read_png_text(path).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{n}: {error}");
    }
}

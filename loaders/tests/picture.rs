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
fn what_is_no_file_is_told_apart_from_bad_files() {
    assert!(matches!(read_rgb("absent.png"), Err(Error::NotFound { .. })));
    assert!(matches!(read_png_text("absent.png"), Err(Error::NotFound { .. })));
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

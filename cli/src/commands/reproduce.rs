//! `photogram reproduce`: a picture drawn again from the settings in its file.

use std::path::Path;
use std::time::Instant;

use loaders::{FileSource, encode_png, read_png_text, read_rgb, read_whole};
use serde_json::json;

use super::compare::{compared, finite};
use super::generate;
use crate::args::{ReproduceArgs, parse_generate};
use crate::builtin;
use crate::failure::{Code, Failure};
use crate::metadata::{KEYWORD, SOFTWARE};
use crate::output::{check_writable, picture_paths, write_picture};
use crate::parameters::Parameters;
use crate::report::{Report, Verbosity, print, print_json};
use crate::request::check_args;

/// Below it, another picture was drawn: other adapters stay above.
const LEAST_PSNR: f64 = 40.0;

/// Draws the picture again and compares.
///
/// # Errors    [`Code::Usage`] where the settings name a file that is not given; [`Code::CheckFailed`] for another picture
pub(crate) async fn run(args: &ReproduceArgs) -> Result<(), Failure> {
    let texts = read_png_text(&args.picture)?;
    let Some((_, parameters)) = texts.iter().find(|(keyword, _)| keyword == KEYWORD) else {
        let message = format!("{}: expected a text '{KEYWORD}', found none", args.picture.display());
        return Err(Failure::new(Code::Malformed, message).with_hint("`photogram generate` writes one"));
    };
    let malformed = |problem: String| {
        Failure::new(Code::Malformed, format!("{}: text '{KEYWORD}': {problem}", args.picture.display()))
    };
    let parsed = Parameters::parse(parameters).map_err(malformed)?;
    let mut words = parsed.words().map_err(malformed)?;
    words.extend(given_words(args, &parsed)?);
    if let Some(path) = &args.output {
        check_writable(&picture_paths(path, 1)?[0])?;
    }
    let generate = parse_generate(words)?;
    check_args(&generate)?;
    let before = read_rgb(&args.picture)?;
    let (width, height) = (before.width() as usize, before.height() as usize);
    if (generate.shape.width, generate.shape.height) != (Some(width), Some(height)) {
        let found = parsed.field("Size").unwrap_or("none");
        return Err(malformed(format!("expected the picture's size, {width}x{height}, found {found}")));
    }
    let file = read_whole(&FileSource::open(&args.picture)?, u64::MAX).await?;
    let report = Report::new(if args.quiet { Verbosity::Quiet } else { Verbosity::Normal });
    let (mut is_same_file, mut after) = (false, None);
    generate::draw(&generate, &report, Instant::now(), |_, drawn| {
        is_same_file = encode_png(&drawn.picture, &drawn.texts())? == file;
        after = compared(&before, &drawn.picture);
        match &args.output {
            Some(path) => {
                write_picture(path, &drawn.picture, &drawn.texts()).map(|()| path.display().to_string())
            }
            None => Ok("drawn again".to_owned()),
        }
    })
    .await?;
    report.clear();
    let found = after.expect("of the size that was asked for");
    if args.json {
        print_json(&json!({
            "same_bytes": is_same_file,
            "psnr": finite(found.psnr),
            "ssim": found.ssim,
            "max_difference": found.max_difference,
            "version": parsed.field("Version"),
            "this_version": SOFTWARE,
        }))?;
    } else {
        let text = match (is_same_file, found.max_difference) {
            (true, _) => "the same file, byte for byte\n".to_owned(),
            (false, 0) => "the same picture, in a file of other bytes\n".to_owned(),
            (false, _) => {
                format!("{:.1} dB PSNR, largest difference {} of 255\n", found.psnr, found.max_difference)
            }
        };
        print(&text, &text)?;
    }
    check_likeness(found.psnr, parsed.field("Version"))
}

/// Whether a picture that has `psnr` in decibels to the one before is the same; that was drawn by `version`.
fn check_likeness(psnr: f64, version: Option<&str>) -> Result<(), Failure> {
    if psnr >= LEAST_PSNR {
        return Ok(());
    }
    let message = format!("another picture: {psnr:.1} dB PSNR, less than {LEAST_PSNR}");
    let failure = Failure::new(Code::CheckFailed, message);
    Err(match version {
        Some(version) if version != SOFTWARE => failure.with_hint(format!("it was drawn by {version}")),
        _ => failure,
    })
}

/// What has to be given because only its name is in the settings.
fn given_words(args: &ReproduceArgs, parsed: &Parameters) -> Result<Vec<String>, Failure> {
    let built_in = parsed.field("Model") == Some(builtin::NAME);
    let needed = [
        ("--model", &args.model, parsed.field("Model").filter(|_| !built_in)),
        ("--vae", &args.vae, parsed.field("VAE")),
        ("--refiner", &args.refiner, parsed.field("Refiner")),
        ("--latents", &args.latents, parsed.field("Latents")),
        ("--init-img", &args.init_img, parsed.field("Denoising strength").map(|_| "initial picture")),
    ];
    let mut words = vec!["--adapter".to_owned(), args.adapter.clone()];
    for (flag, given, name) in needed {
        match (given, name) {
            (Some(path), _) => words.extend([flag.to_owned(), text(path)]),
            (None, Some(name)) => {
                let path = format!("the path of '{name}', which is all that the picture says of it");
                return Err(Failure::usage(flag, path, "none"));
            }
            (None, None) => {}
        }
    }
    Ok(words)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_less_than_40_decibels_is_another() {
        for psnr in [40.0, 62.5, f64::INFINITY] {
            assert!(check_likeness(psnr, Some(SOFTWARE)).is_ok(), "{psnr}");
        }
        for (version, hint) in
            [(None, None), (Some(SOFTWARE), None), (Some("photogram 0"), Some("it was drawn by photogram 0"))]
        {
            let failure = check_likeness(39.99, version).expect_err("another");
            assert_eq!((failure.code, failure.hint.as_deref()), (Code::CheckFailed, hint));
        }
    }

    #[test]
    fn every_file_that_settings_name_is_asked_for() {
        let path = |name: &str| Some(Path::new(name).to_path_buf());
        let args = |model, vae, refiner, init_img, latents| ReproduceArgs {
            picture: "out.png".into(),
            model,
            vae,
            refiner,
            adapter: "auto".to_owned(),
            init_img,
            latents,
            output: None,
            json: false,
            quiet: true,
        };
        let settings = "x\nSteps: 2, Seed: 1, Size: 8x8, Model: m, VAE: v, Refiner: r, Denoising strength: 0.5, Latents: l";
        let parsed = Parameters::parse(settings).expect("settings of ours");
        let missing = |args: &ReproduceArgs| given_words(args, &parsed).err().map(|failure| failure.message);
        let named = |flag: &str, message: Option<String>| message.is_some_and(|m| m.starts_with(flag));
        assert!(named("--model", missing(&args(None, path("v"), path("r"), path("i"), path("l")))));
        assert!(named("--vae", missing(&args(path("m"), None, path("r"), path("i"), path("l")))));
        assert!(named("--refiner", missing(&args(path("m"), path("v"), None, path("i"), path("l")))));
        assert!(named("--init-img", missing(&args(path("m"), path("v"), path("r"), None, path("l")))));
        assert!(named("--latents", missing(&args(path("m"), path("v"), path("r"), path("i"), None))));
        assert_eq!(missing(&args(path("m"), path("v"), path("r"), path("i"), path("l"))), None);
    }
}

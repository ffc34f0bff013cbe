//! `photogram compare`: how alike two pictures are.

use engine::similarity::{Similarity, compare_pictures};
use loaders::RgbPicture;
use serde_json::json;

use crate::args::CompareArgs;
use crate::failure::{Code, Failure};
use crate::output::write_picture;
use crate::report::{print, print_json};

/// Compares, and writes a picture of the differences where that is asked for.
///
/// # Errors    [`Code::Usage`] if the sizes differ; [`Code::CheckFailed`] below the PSNR that is asked for
pub(crate) async fn run(args: &CompareArgs) -> Result<(), Failure> {
    let (first, second) = (loaders::read_rgb(&args.first)?, loaders::read_rgb(&args.second)?);
    let found = compared(&first, &second).ok_or_else(|| {
        let size = |picture: &RgbPicture| format!("{}x{}", picture.width(), picture.height());
        let message = format!(
            "{}: expected {} pixels as in {}, found {}",
            args.second.display(),
            size(&first),
            args.first.display(),
            size(&second)
        );
        Failure::new(Code::Usage, message)
    })?;
    if let Some(path) = &args.difference {
        write_picture(path, &difference(&first, &second, found.max_difference), &[])?;
    }
    if args.json {
        print_json(&json!({
            "equal": found.max_difference == 0,
            "psnr": finite(found.psnr),
            "ssim": found.ssim,
            "max_difference": found.max_difference,
            "different_pixels": found.different_pixels,
            "pixels": first.pixels().len() / 3,
        }))?;
    } else {
        let text = described(&found, first.pixels().len() / 3);
        print(&text, &text)?;
    }
    match args.min_psnr {
        Some(least) if found.psnr < least => {
            Err(Failure::new(Code::CheckFailed, format!("{:.1} dB PSNR, less than {least}", found.psnr)))
        }
        _ => Ok(()),
    }
}

/// How alike the pictures are; `None` if their sizes differ.
pub(crate) fn compared(first: &RgbPicture, second: &RgbPicture) -> Option<Similarity> {
    let is_same_size = (first.width(), first.height()) == (second.width(), second.height());
    is_same_size.then(|| compare_pictures(first.pixels(), second.pixels(), first.width() as usize))
}

/// A number that JSON can hold.
pub(crate) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn described(found: &Similarity, pixels: usize) -> String {
    if found.max_difference == 0 {
        return "the pictures are equal\n".to_owned();
    }
    let ssim = found.ssim.map_or_else(|| "too small a picture".to_owned(), |ssim| format!("{ssim:.4}"));
    format!(
        "PSNR {:.1} dB\nSSIM {ssim}\nlargest difference {} of 255\n{} of {pixels} pixels differ\n",
        found.psnr, found.max_difference, found.different_pixels
    )
}

fn difference(first: &RgbPicture, second: &RgbPicture, largest: u8) -> RgbPicture {
    let scaled = |(a, b): (&u8, &u8)| (u32::from(a.abs_diff(*b)) * 255 / u32::from(largest.max(1))) as u8;
    let pixels = first.pixels().iter().zip(second.pixels()).map(scaled).collect();
    RgbPicture::new(first.width(), first.height(), pixels).expect("as large as the first")
}

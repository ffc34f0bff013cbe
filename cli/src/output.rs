//! Where results go: known to be writable before the work begins, written whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use loaders::{RgbPicture, write_bytes, write_png, write_with};

use crate::failure::{Code, Failure};

/// The file of each picture of a batch.
///
/// # Errors    [`Code::Usage`] if `output` names a file of another kind than PNG
pub(crate) fn picture_paths(output: &Path, n_pictures: usize) -> Result<Vec<PathBuf>, Failure> {
    if let Some(extension) = output.extension()
        && !extension.eq_ignore_ascii_case("png")
    {
        let found = format!("'{}'", output.display());
        return Err(Failure::usage("--output", "a name that ends in .png", found));
    }
    let text = output.to_string_lossy();
    let path_of = |image_idx: usize| match numbered(&text, image_idx) {
        Some(path) => PathBuf::from(path),
        None if n_pictures == 1 => output.to_owned(),
        None => {
            let stem = output.file_stem().unwrap_or_default().to_string_lossy();
            let extension =
                output.extension().map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()));
            output.with_file_name(format!("{stem}_{image_idx}{extension}"))
        }
    };
    Ok((0..n_pictures).map(path_of).collect())
}

/// `pattern` with its `%d`, or `%03d` with any width, replaced by `number`; `None` if there is none.
fn numbered(pattern: &str, number: usize) -> Option<String> {
    for (start, _) in pattern.match_indices('%') {
        let rest = &pattern[start + 1..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let width =
            if digits == 0 { Some(0) } else { rest[..digits].parse().ok().filter(|width| *width <= 20) };
        if let (Some(width), true) = (width, rest[digits..].starts_with('d')) {
            return Some(format!("{}{number:0width$}{}", &pattern[..start], &rest[digits + 1..]));
        }
    }
    None
}

/// Whether a file can be written at `path`; nothing is left there, nor what processes left that were killed long ago.
///
/// # Errors    [`Code::Output`]
pub(crate) fn check_writable(path: &Path) -> Result<(), Failure> {
    let mut opened = false;
    loaders::remove_abandoned(path);
    // Failing after the temporary file is open removes it and leaves what stands at `path`.
    let result = write_with(path, |_| {
        opened = true;
        Err(io::ErrorKind::Interrupted.into())
    });
    match result {
        Err(error) if !opened => Err(missing_folder(path).unwrap_or_else(|| error.into())),
        _ => Ok(()),
    }
}

fn missing_folder(path: &Path) -> Option<Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())?;
    let message = format!("{}: cannot write: there is no folder '{}'", path.display(), folder.display());
    Some(Failure::new(Code::Output, message))
}

/// Writes a picture with its texts, pairs of a keyword and a value.
///
/// # Errors    [`Code::Output`]
pub(crate) fn write_picture(
    path: &Path,
    picture: &RgbPicture,
    texts: &[(&str, &str)],
) -> Result<(), Failure> {
    Ok(write_png(path, picture, texts)?)
}

/// Writes JSON.
///
/// # Errors    [`Code::Output`]
pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Failure> {
    Ok(write_bytes(path, format!("{value:#}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(output: &str, n_pictures: usize) -> Vec<String> {
        let paths = picture_paths(Path::new(output), n_pictures).unwrap();
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn pictures_of_a_batch_are_numbered() {
        assert_eq!(paths("out.png", 1), ["out.png"]);
        assert_eq!(paths("a.b/out.PNG", 2), ["a.b/out_0.PNG", "a.b/out_1.PNG"]);
        assert_eq!(paths("out", 2), ["out_0", "out_1"]);
    }

    #[test]
    fn a_pattern_places_the_number() {
        assert_eq!(paths("x%dy.png", 2), ["x0y.png", "x1y.png"]);
        assert_eq!(paths("x%03d.png", 1), ["x000.png"]);
        assert_eq!(paths("50% of %d.png", 1), ["50% of 0.png"]);
        assert_eq!(paths("%999999999999d%.png", 1), ["%999999999999d%.png"]);
        assert_eq!(paths("é%é%2d.png", 1), ["é%é00.png"]);
    }

    #[test]
    fn another_format_is_refused() {
        for output in ["out.jpg", "out.png.webp", "out.safetensors"] {
            assert_eq!(picture_paths(Path::new(output), 1).unwrap_err().code, Code::Usage, "{output}");
        }
    }

    #[test]
    fn checking_leaves_the_folder_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.png");
        check_writable(&path).unwrap();
        assert!(!path.exists());
        write_bytes(&path, b"old").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        let absent = check_writable(&folder.path().join("absent/out.png")).unwrap_err();
        assert_eq!(absent.code, Code::Output);
        assert!(absent.message.contains("there is no folder"), "{absent:?}");
        assert_eq!(check_writable(folder.path()).unwrap_err().code, Code::Output);
    }
}

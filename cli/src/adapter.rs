//! Opening an adapter, with what was measured on it.

use std::path::PathBuf;

use engine::device::{AdapterChoice, Gpu};
use engine::tuning::{Identity, read_choices};
use etcetera::BaseStrategy;
use etcetera::base_strategy::choose_native_strategy;

use crate::failure::Failure;
use crate::report::Report;

/// The variable that names the folder of measured choices.
pub(crate) const CACHE: &str = "PHOTOGRAM_CACHE";

/// An open adapter.
pub(crate) struct Adapter {
    pub(crate) gpu: Gpu,
    /// What a user should know about it, a line each.
    pub(crate) notes: Vec<String>,
}

/// Opens an adapter and says what there is to know about it.
///
/// # Errors    [`crate::failure::Code::Gpu`]
pub(crate) async fn open(choice: &AdapterChoice, report: &Report) -> Result<Adapter, Failure> {
    let gpu = Gpu::open(choice.clone()).await?;
    let notes = gpu.notes().to_vec();
    notes.iter().for_each(|note| report.note(note));
    Ok(Adapter { gpu, notes })
}

/// [`open`], and graphs will be compiled with the choices that `photogram tune` and `photogram validate` left for it. A file that cannot be used is no
/// failure.
///
/// # Errors    [`crate::failure::Code::Gpu`]
pub(crate) async fn open_tuned(choice: &AdapterChoice, report: &Report) -> Result<Adapter, Failure> {
    let Adapter { gpu, mut notes } = open(choice, report).await?;
    let identity = Identity::of(&gpu);
    let Some(path) = cache_folder().map(|folder| folder.join(identity.file_name())) else {
        return Ok(Adapter { gpu, notes });
    };
    match read_choices(&path, &identity).await {
        Ok(choices) => {
            report.detail(&format!("{}: {} measured choices", path.display(), choices.len()));
            let wrong: Vec<&str> = choices.distrusted().collect();
            if !wrong.is_empty() {
                let note =
                    format!("not used, for `photogram validate` found them wrong here: {}", wrong.join(", "));
                report.note(&note);
                notes.push(note);
            }
            Ok(Adapter { gpu: gpu.with_choices(choices), notes })
        }
        Err(loaders::Error::NotFound { .. }) => Ok(Adapter { gpu, notes }),
        Err(error) => {
            // Nobody tunes a CPU.
            let remedy = if gpu.caps().software { "remove it" } else { "`photogram tune` writes it anew" };
            let note = format!("{error}; not used, {remedy}");
            report.note(&note);
            notes.push(note);
            Ok(Adapter { gpu, notes })
        }
    }
}

/// Where measured choices are kept; `None` where the platform names no folder.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    match std::env::var_os(CACHE).filter(|given| !given.is_empty()) {
        Some(given) => Some(given.into()),
        None => Some(choose_native_strategy().ok()?.cache_dir().join("photogram")),
    }
}

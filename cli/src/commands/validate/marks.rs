//! Variants that were found wrong on this adapter, in the file of its choices.

use std::path::Path;

use engine::device::Gpu;
use engine::tuning::{Choices, Identity};

use crate::output::write_json;
use crate::report::Report;

/// What is known of variants, and whether that changed.
pub(super) struct Marks {
    choices: Choices,
    is_changed: bool,
}

impl Marks {
    /// What plans for `gpu` are made with by now.
    pub(super) fn new(gpu: &Gpu) -> Self {
        Marks { choices: gpu.choices().clone(), is_changed: false }
    }

    /// Notes that a variant is wrong, or that it is right.
    pub(super) fn note(&mut self, variant: &str, is_wrong: bool) {
        if is_wrong == self.choices.trusts(variant) {
            self.is_changed = true;
            match is_wrong {
                true => self.choices.distrust(variant),
                false => drop(self.choices.trust(variant)),
            }
        }
    }

    /// The same device, for which plans pass over what is wrong.
    pub(super) fn applied(&self, gpu: Gpu) -> Gpu {
        gpu.with_choices(self.choices.clone())
    }

    /// Leaves them in `folder` for later runs, and says so, where they changed.
    pub(super) fn write(&self, folder: Option<&Path>, gpu: &Gpu, report: &Report) {
        let Some(folder) = folder else { return };
        if !self.is_changed {
            return;
        }
        let identity = Identity::of(gpu);
        let path = folder.join(identity.file_name());
        let written = loaders::create_folder(folder).map_err(Into::into);
        match written.and_then(|()| write_json(&path, &identity.to_json(&self.choices))) {
            Ok(()) => {
                let wrong: Vec<&str> = self.choices.distrusted().collect();
                let wrong = if wrong.is_empty() { "none".to_owned() } else { wrong.join(", ") };
                report.note(&format!("{}: variants that later runs pass over: {wrong}", path.display()));
            }
            Err(failure) => report.note(&format!("{}; later runs do not know", failure.message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::device::AdapterChoice;
    use engine::tuning::read_choices;

    use super::*;
    use crate::report::Verbosity;

    #[test]
    fn later_runs_find_what_was_wrong() {
        let Ok(gpu) = pollster::block_on(Gpu::open(AdapterChoice::Auto)) else {
            return println!("skipped: no adapter");
        };
        let mut marks = Marks::new(&gpu);
        let folder = tempfile::tempdir().expect("a temporary folder");
        marks.write(Some(folder.path()), &gpu, &Report::new(Verbosity::Quiet));
        assert_eq!(folder.path().read_dir().expect("a folder").count(), 0, "nothing to tell later runs");
        marks.note("matmul_tiled_64x64", true);
        marks.write(Some(folder.path()), &gpu, &Report::new(Verbosity::Quiet));
        let identity = Identity::of(&gpu);
        let path = folder.path().join(identity.file_name());
        let choices = pollster::block_on(read_choices(&path, &identity)).expect("its own file");
        assert_eq!(choices.distrusted().collect::<Vec<_>>(), ["matmul_tiled_64x64"]);
    }

    #[test]
    fn only_what_is_new_changes_the_file() {
        let mut marks = Marks { choices: Choices::default(), is_changed: false };
        marks.note("right", false);
        assert!(!marks.is_changed);
        marks.note("wrong", true);
        assert!(marks.is_changed && !marks.choices.trusts("wrong") && marks.choices.trusts("right"));
        marks.is_changed = false;
        marks.note("wrong", true);
        assert!(!marks.is_changed);
        marks.note("wrong", false);
        assert!(marks.is_changed && marks.choices.trusts("wrong"));
    }
}

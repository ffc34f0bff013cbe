//! The driver's pipelines in the folder of caches, from one run to the next.

use std::path::PathBuf;

use engine::device::Gpu;
use engine::tuning::Identity;
use loaders::{Error, FileSource, read_whole};

use crate::adapter::cache_folder;
use crate::report::Report;

/// No driver's pipelines for these kernels are larger.
const MAX_BYTES: u64 = 256 << 20;

/// The file of an adapter's pipelines.
pub(crate) struct StoredPipelines {
    path: PathBuf,
    /// What it had when this run began.
    found: Option<Vec<u8>>,
}

impl StoredPipelines {
    /// Gives the driver what an earlier run stored. What cannot be read or used is written anew by [`StoredPipelines::save`];
    /// `None` where the platform names no folder for caches.
    pub(crate) async fn load(gpu: &Gpu, report: &Report) -> Option<Self> {
        let path = cache_folder()?.join(Identity::of(gpu).pipelines_file_name());
        let found = match FileSource::open(&path) {
            Ok(source) => read_whole(&source, MAX_BYTES).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &found
            && !matches!(error, Error::NotFound { .. })
        {
            report.detail(&format!("{error}; not used"));
        }
        let found = found.ok();
        if gpu.use_stored_pipelines(found.as_deref()) {
            return Some(StoredPipelines { path, found });
        }
        if found.is_some() {
            report.detail(&format!("{}: not what was written; not used", path.display()));
        }
        gpu.use_stored_pipelines(None);
        Some(StoredPipelines { path, found: None })
    }

    /// Writes what the driver has now, if it is something else. A failure costs the next run some time, and nothing else.
    pub(crate) fn save(&self, gpu: &Gpu, report: &Report) {
        let Some(bytes) = gpu.stored_pipelines().filter(|bytes| Some(bytes) != self.found.as_ref()) else {
            return;
        };
        loaders::remove_abandoned(&self.path);
        let folder = self.path.parent().map_or(Ok(()), loaders::create_folder);
        if let Err(error) = folder.and_then(|()| loaders::write_bytes(&self.path, &bytes)) {
            report.detail(&format!("{error}; pipelines are not stored"));
        }
    }
}

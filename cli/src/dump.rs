//! The intermediate tensors of a run, in the layout in which PyTorch's runs are recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::Error;
use engine::pipelines::{Image, Progress, Run};
use loaders::safetensors::{self, Data, Tensor};

use crate::failure::Failure;
use crate::metadata::SOFTWARE;
use crate::noise::Noise;

/// Tensors on their way into a file.
pub(crate) struct Dump {
    path: PathBuf,
    latent_shape: [usize; 3],
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    /// Whether a refiner has taken over.
    is_refined: bool,
}

/// The file of picture `image_idx` of `n_pictures` in `folder`.
pub(crate) fn dump_path(folder: &Path, image_idx: usize, n_pictures: usize) -> PathBuf {
    match n_pictures {
        1 => folder.join("reference.safetensors"),
        _ => folder.join(format!("reference_{image_idx}.safetensors")),
    }
}

impl Dump {
    /// A dump to `path` of a run whose latents have the shape `[C, h, w]`.
    pub(crate) fn new(path: PathBuf, latent_shape: [usize; 3]) -> Self {
        Dump { path, latent_shape, tensors: Vec::new(), is_refined: false }
    }

    /// What a run starts from.
    pub(crate) async fn start(&mut self, run: &Run<'_>, noise: &Noise) -> Result<(), Error> {
        self.told("", run);
        self.latent("noise", noise.first.clone());
        for (idx, values) in noise.steps.iter().enumerate() {
            self.latent(&format!("step_noise.{idx}"), values.clone());
        }
        if let Some(encoded) = run.encoded().await? {
            self.latent("encoded", encoded);
        }
        Ok(())
    }

    /// What the denoiser at work is told.
    fn told(&mut self, prefix: &str, run: &Run<'_>) {
        for (name, tensor) in run.conditioning().tensors() {
            self.tensors.push((format!("{prefix}{name}"), tensor.shape().to_vec(), tensor.data().to_vec()));
        }
    }

    /// The latent after the step `step`; with the first of a refiner's steps, what it is told.
    pub(crate) async fn step(&mut self, run: &Run<'_>, progress: Progress) -> Result<(), Error> {
        let Progress { step, is_refined, .. } = progress;
        if is_refined && !std::mem::replace(&mut self.is_refined, true) {
            self.told("refiner.", run);
        }
        let latent = run.latent().await?;
        self.latent(&format!("latent.{step}"), latent);
        Ok(())
    }

    /// Writes the file, with `image` as the last tensor.
    pub(crate) fn write(mut self, image: &Image) -> Result<(), Failure> {
        let size = image.size();
        let shape = vec![3, size.height, size.width];
        self.tensors.push(("image".to_owned(), shape, image.to_channels_first()));
        let tensors: Vec<Tensor<'_>> = self
            .tensors
            .iter()
            .map(|(name, shape, values)| Tensor { name, shape, data: Data::F32(values) })
            .collect();
        let metadata = BTreeMap::from([("software".to_owned(), SOFTWARE.to_owned())]);
        Ok(safetensors::write(&self.path, &tensors, &metadata)?)
    }

    fn latent(&mut self, name: &str, values: Vec<f32>) {
        let [channels, height, width] = self.latent_shape;
        self.tensors.push((name.to_owned(), vec![1, channels, height, width], values));
    }
}

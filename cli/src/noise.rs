//! The noise of a picture: drawn from its seed, or read from a file.

use std::path::Path;

use engine::noise::{Generator, RngKind, Seed};
use engine::pipelines::{NoiseSource, Planned};
use loaders::safetensors::Limits;
use loaders::terminal::escaped;
use loaders::{Checkpoint, Encoding, Error};

use crate::failure::Failure;

/// Names under which noise is looked for.
const NAMES: [&str; 2] = ["noise", "latents"];

/// All the noise of a picture, each tensor in PyTorch's layout `[1, C, h, w]`.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    /// What the picture starts from.
    pub(crate) first: Vec<f32>,
    /// What each step adds that adds some.
    pub(crate) steps: Vec<Vec<f32>>,
}

impl Noise {
    /// The noise that `seed` stands for; `first` replaces the initial one, which is then not drawn.
    pub(crate) fn draw(planned: &Planned, rng: RngKind, seed: Seed, first: Option<Vec<f32>>) -> Self {
        let n = planned.latent_shape.iter().product();
        let mut generator = Generator::new(rng, seed);
        let first = first.unwrap_or_else(|| generator.normal(n));
        let drawing = planned.steps().filter(|step| step.draws_noise);
        Noise { first, steps: drawing.map(|_| generator.normal(n)).collect() }
    }

    /// The noise as a run takes it.
    pub(crate) fn source(&self) -> NoiseSource {
        NoiseSource::recorded(self.first.clone(), self.steps.clone())
    }
}

/// Reads initial noise of the shape `[1, C, h, w]` from a safetensors file.
///
/// # Errors    [`Code::Malformed`](crate::failure::Code) for another shape or values that are not finite,
/// [`Code::Unsupported`](crate::failure::Code) for another dtype
pub(crate) async fn read_latents(
    path: &Path,
    [channels, height, width]: [usize; 3],
) -> Result<Vec<f32>, Failure> {
    let file = Checkpoint::open(path, &Limits::default()).await?;
    let entry = NAMES.iter().find_map(|name| file.get(name)).or_else(|| {
        let mut tensors = file.tensors();
        tensors.next().filter(|_| tensors.next().is_none()).map(|(_, entry)| entry)
    });
    let entry = entry.ok_or_else(|| {
        let found = format!("{} tensors of other names", file.names().len());
        Error::malformed(file.label(), "tensors", "one, or one named 'noise' or 'latents'", found)
    })?;
    if entry.shape != [1, channels, height, width] {
        return Err(entry.unexpected(format!("F32[1, {channels}, {height}, {width}]")).into());
    }
    if entry.encoding != Encoding::F32 {
        let what = format!("tensor '{}' of dtype {}", escaped(&entry.name), entry.encoding);
        return Err(Error::unsupported(file.label(), what, "--latents takes F32").into());
    }
    let bytes = file.read(entry).await?;
    let (words, _) = bytes.as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(idx) => {
            let what = format!("tensor '{}'", escaped(&entry.name));
            Err(Error::malformed(file.label(), what, "finite values", format!("{} at {idx}", values[idx]))
                .into())
        }
        None => Ok(values),
    }
}

//! Noise from a seed, as PyTorch draws it: the same seed gives the same picture.
//!
//! Everything here is integer arithmetic, IEEE f32 and `libm`, which is compiled in, so that
//! every machine draws the same bits.

mod mt19937;
mod philox;
mod torch_cpu;

pub use mt19937::Mt19937;
pub use philox::{Philox, philox4x32};
pub use torch_cpu::TorchCpu;

/// What a generator starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of image `image_idx` of a batch, as the A1111 web UI and sd.cpp count.
    pub fn of_image(self, image_idx: usize) -> Self {
        Self(self.0.wrapping_add(image_idx as u64))
    }
}

/// torch reads a negative seed as its two's complement.
impl From<i64> for Seed {
    fn from(seed: i64) -> Self {
        Self(seed.cast_unsigned())
    }
}

/// Whose noise is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RngKind {
    /// `torch.Generator("cpu")`, as in diffusers and ComfyUI.
    Cpu,
    /// `torch.Generator("cuda")`, as the A1111 web UI draws it on any device.
    Cuda,
}

/// A stream of noise.
#[derive(Debug, Clone)]
pub enum Generator {
    /// See [`RngKind::Cpu`].
    Cpu(TorchCpu),
    /// See [`RngKind::Cuda`].
    Cuda(Philox),
}

impl Generator {
    /// The start of the stream that `seed` stands for.
    pub fn new(kind: RngKind, seed: Seed) -> Self {
        match kind {
            RngKind::Cpu => Self::Cpu(TorchCpu::new(seed)),
            RngKind::Cuda => Self::Cuda(Philox::new(seed)),
        }
    }

    /// `torch.randn(n)`: the next tensor of the stream. Two halves are not one whole.
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        match self {
            Self::Cpu(generator) => generator.normal(n),
            Self::Cuda(generator) => generator.normal(n),
        }
    }
}

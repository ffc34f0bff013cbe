//! PyTorch's CPU generator and the order in which its distributions consume it.
//!
//! Source: ATen's CPUGeneratorImpl, DistributionsHelper.h and native/cpu/DistributionTemplates.h.

use std::f64::consts::TAU;

use super::{Mt19937, Seed};

/// Normals are drawn in blocks of this many, if there is at least one block.
const BLOCK: usize = 16;

/// `torch.Generator("cpu").manual_seed(seed)`
///
/// # Numerics  integers and uniforms are torch's bits. Normals are within 2.3e-6 of torch's,
/// which differs from itself by that much between machines with and without AVX2;
/// with AVX2 within 5e-7.
#[derive(Debug, Clone)]
pub struct TorchCpu {
    engine: Mt19937,
    /// The second of a pair of normals drawn singly. Tensors of a block and more leave it alone.
    spare_normal: Option<f64>,
}

impl TorchCpu {
    /// Of a seed's 64 bits, torch uses the lower 32.
    pub fn new(seed: Seed) -> Self {
        Self { engine: Mt19937::new(seed.0 as u32), spare_normal: None }
    }

    /// `random()`: 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.engine.next_u32()
    }

    /// `random64()`: 64 random bits, the upper half drawn first.
    pub fn next_u64(&mut self) -> u64 {
        let upper = u64::from(self.next_u32());
        (upper << 32) | u64::from(self.next_u32())
    }

    /// An element of `torch.rand(n)`, from [0, 1) in steps of 2^-24.
    pub fn next_uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// An element of `torch.rand(n, dtype=torch.float64)`, from [0, 1) in steps of 2^-53.
    pub fn next_uniform_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// `torch.randn(n)`
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.next_normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..n).map(|_| self.next_uniform_f32()).collect();
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if !rest.is_empty()
            && let Some(last) = values.last_chunk_mut::<BLOCK>()
        {
            last.fill_with(|| self.next_uniform_f32());
            box_muller(last);
        }
        values
    }

    /// Two normals at a time, of which the second is kept.
    fn next_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        let angle = TAU * self.next_uniform_f64();
        let radius = libm::sqrt(-2.0 * libm::log1p(-self.next_uniform_f64()));
        self.spare_normal = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }
}

/// Uniforms to normals: elements `j` and `j + 8` make a pair.
///
/// # Numerics  each function is rounded to f32, as in torch's AVX2 code
fn box_muller(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let log = libm::log(f64::from(1.0 - *first)) as f32;
        let radius = libm::sqrtf(-2.0 * log);
        let angle = f64::from(TAU as f32 * *second);
        *first = radius * libm::cos(angle) as f32;
        *second = radius * libm::sin(angle) as f32;
    }
}

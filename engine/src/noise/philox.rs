//! Philox4x32-10, Salmon et al. 2011, as the A1111 web UI draws noise with it.

use super::Seed;

const ROUNDS: u32 = 10;
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// The golden ratio and the square root of three, as fractions of 2^32.
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// 128 random bits that depend on nothing but `counter` and `key`.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = counter;
        let product0 = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let product1 = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        counter = [
            (product1 >> 32) as u32 ^ c1 ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ c3 ^ key[1],
            product0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// `torch.Generator("cuda").manual_seed(seed)`, one counter for each element.
///
/// # Numerics  within 1e-6 of cuRAND, which computes in f32
///
/// A GPU gives every thread a counter and lets it draw four elements, so torch itself agrees
/// only while a tensor has no more elements than the GPU starts threads.
#[derive(Debug, Clone)]
pub struct Philox {
    key: [u32; 2],
    /// Tensors drawn so far.
    n_drawn: u32,
}

impl Philox {
    /// The seed is the key.
    pub fn new(seed: Seed) -> Self {
        Self { key: [seed.0 as u32, (seed.0 >> 32) as u32], n_drawn: 0 }
    }

    /// `torch.randn(n, device="cuda")`
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        let offset = self.n_drawn;
        self.n_drawn = self.n_drawn.wrapping_add(1);
        (0..n)
            .map(|i| box_muller(philox4x32([offset, 0, i as u32, (i as u64 >> 32) as u32], self.key)))
            .collect()
    }
}

/// The sine branch of Box & Muller 1958, in f64, from the middles of 2^32 intervals as in cuRAND.
fn box_muller(bits: [u32; 4]) -> f32 {
    const STEP: f64 = 1.0 / 4_294_967_296.0;
    let radius = (f64::from(bits[0]) + 0.5) * STEP;
    let angle = (f64::from(bits[1]) + 0.5) * STEP * std::f64::consts::TAU;
    (libm::sqrt(-2.0 * libm::log(radius)) * libm::sin(angle)) as f32
}

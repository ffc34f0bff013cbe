//! The shaders that [`MatMul`](super::MatMul) and [`Conv2d`](super::Conv2d) share: `wgsl/matmul_*.wgsl`.

use super::Epilogue;
use crate::op::{Bind, Caps, Dispatch, Operand, Subgroups, Variant, fold_grid};
use crate::types::{DType, LANES, TensorType};
use crate::wgsl::{COOPERATIVE, Shader};

/// Cores of the GPU that variants are ordered for. No adapter tells its number; large GPUs have 64 to 128.
const ASSUMED_CORES: usize = 128;
/// Tiles from which on `matmul_tiled` takes its larger tile: the largest with at least twice as many tiles as cores. With
/// fewer, some cores would wait for others at the end; smaller tiles spread better. What is measured goes before it.
const TILES_OF_128_ROWS: usize = 2 * ASSUMED_CORES;

/// `y = epilogue(A * w)`, where `A` is a matrix or the patches of an image, and how its rows are split.
pub(super) struct Contraction<'a> {
    /// Types of `a`, `w` and the epilogue's operands.
    pub inputs: &'a [TensorType],
    /// Type of the result.
    pub y: TensorType,
    /// What follows the sums.
    pub epilogue: &'a Epilogue,
    /// Rows of the result that share one row of the epilogue's batch bias.
    pub batch_rows: usize,
    /// Products with a `w` of their own in each band.
    pub batches: usize,
    /// Whether `A` is the patches of an image.
    pub conv: bool,
    /// Cover the rows of the result once.
    pub bands: Vec<Band>,
}

/// The rows of the result that one dispatch computes.
pub(super) struct Band {
    /// First row and rows of the result.
    pub y: (usize, usize),
    /// First row and rows of `a` that they need.
    pub a: (usize, usize),
    /// Words of `Params` from `batches` (a matrix) or `first_pixel` (patches) on.
    pub addressing: Vec<u32>,
}

/// One of the shaders.
#[derive(Clone, Copy)]
enum Algorithm {
    /// Registers alone.
    Register,
    /// Registers and subgroup shuffles, for software Vulkan.
    Broadcast,
    /// Registers and workgroup memory; rows of a tile.
    Tiled(usize),
    /// Matrix units; extent of their tiles and invocations of a subgroup.
    Cooperative(u32, u32),
}

/// Rows and columns of a workgroup with matrix units, in their tiles.
const COOPERATIVE_TILES: usize = 8;

impl Algorithm {
    fn name(self, conv: bool) -> &'static str {
        match (self, conv) {
            (Algorithm::Register, false) => "matmul_register",
            (Algorithm::Register, true) => "conv2d_register",
            (Algorithm::Broadcast, false) => "matmul_broadcast",
            (Algorithm::Broadcast, true) => "conv2d_broadcast",
            (Algorithm::Cooperative(..), false) => "matmul_cooperative",
            (Algorithm::Cooperative(..), true) => "conv2d_cooperative",
            (Algorithm::Tiled(64), false) => "matmul_tiled_64",
            (Algorithm::Tiled(64), true) => "conv2d_tiled_64",
            (Algorithm::Tiled(_), false) => "matmul_tiled_128",
            (Algorithm::Tiled(_), true) => "conv2d_tiled_128",
        }
    }

    fn shader(self) -> Shader {
        match self {
            Algorithm::Register => Shader::new("matmul_register"),
            Algorithm::Broadcast => Shader::new("matmul_broadcast").with_subgroups(),
            Algorithm::Tiled(rows) => Shader::new("matmul_tiled").constant("ROW_THREADS", rows as u32 / 8),
            Algorithm::Cooperative(tile, subgroup) => Shader::new("matmul_cooperative")
                .with_subgroups()
                .flag(COOPERATIVE, true)
                .flag("COOPERATIVE_16", tile == 16)
                .constant("SUBGROUP", subgroup),
        }
    }

    /// Workgroups for `batches` products of `m` rows and `quads` quads of columns.
    fn grid(self, m: usize, batches: usize, quads: usize, caps: &Caps) -> [u32; 3] {
        let fold = |blocks: usize| fold_grid(blocks as u64, caps.max_groups_per_axis);
        match self {
            Algorithm::Register => {
                let [y, z, _] = fold((m.div_ceil(8) * batches).div_ceil(4));
                [quads.div_ceil(16) as u32, y, z]
            }
            Algorithm::Cooperative(tile, _) => {
                let block = COOPERATIVE_TILES * tile as usize;
                let [x, y, _] = fold(m.div_ceil(block) * batches);
                [x, y, quads.div_ceil(block / LANES) as u32]
            }
            Algorithm::Broadcast | Algorithm::Tiled(_) => {
                let rows = if let Algorithm::Tiled(rows) = self { rows } else { 16 };
                let [x, y, _] = fold(m.div_ceil(rows) * batches);
                [x, y, quads.div_ceil(16) as u32]
            }
        }
    }
}

impl Contraction<'_> {
    /// Every way to compute it: on a CPU the register tile beats workgroup memory, and shuffles beat both.
    pub(super) fn variants(&self, caps: &Caps) -> Vec<Variant> {
        let (m, quads) = (self.y.rows(), self.y.quads());
        let (small, large) = (Algorithm::Tiled(64), Algorithm::Tiled(128));
        let many = m.div_ceil(128) * quads.div_ceil(16) >= TILES_OF_128_ROWS;
        let mut algorithms = if many { vec![small, large] } else { vec![large, small] };
        if caps.software {
            algorithms.push(Algorithm::Register);
        } else {
            algorithms.insert(0, Algorithm::Register);
        }
        let subgroups_of_8 = caps.subgroups == Some(Subgroups { min: 8, max: 8 });
        if caps.software && subgroups_of_8 && self.y.channels().is_multiple_of(8) {
            algorithms.push(Algorithm::Broadcast);
        }
        if let Some(cooperative) = self.cooperative(caps) {
            // On a CPU it is there to be tested.
            let at = if caps.software { 1 } else { algorithms.len() };
            algorithms.insert(at, cooperative);
        }
        algorithms.into_iter().map(|algorithm| self.variant(algorithm, caps)).collect()
    }

    /// Matrix units take f16 operands, and subgroups of one known size.
    fn cooperative(&self, caps: &Caps) -> Option<Algorithm> {
        let (tile, subgroups) = (caps.cooperative?, caps.subgroups?);
        let is_f16 = self.inputs[..2].iter().all(|ty| ty.dtype == DType::F16);
        // As matmul_cooperative.wgsl declares it: two slabs of f16 with padding, a tile of sums for each of four subgroups.
        let block = COOPERATIVE_TILES as u32 * tile;
        let bytes = 2 * (block * 40 + 32 * (block + 8)) + 4 * (block + 4 * tile * tile);
        let fits = subgroups.min == subgroups.max && bytes <= caps.workgroup_bytes;
        (is_f16 && fits).then_some(Algorithm::Cooperative(tile, subgroups.max))
    }

    fn variant(&self, algorithm: Algorithm, caps: &Caps) -> Variant {
        let (a, w) = (&self.inputs[0], &self.inputs[1]);
        let shader = algorithm
            .shader()
            .flag("CONV", self.conv)
            .encoding("a", a.dtype)
            .encoding("w", w.dtype)
            .encoding("y", self.y.dtype);
        let shader = self.epilogue.specialise(shader, self.inputs, 2, &self.y);
        let dispatches = self
            .bands
            .iter()
            .map(|band| {
                let (first, rows) = band.y;
                let m = rows / self.batches;
                let mut binds = vec![
                    Bind::read(0, Operand::Input(0)).rows(a, band.a.0, band.a.1),
                    Bind::read(1, Operand::Input(1)),
                    Bind::write(5, Operand::Output).rows(&self.y, first, rows),
                ];
                binds.extend(self.epilogue.binds(self.inputs, 2, band.y, Operand::Input(1)));
                let mut params =
                    [m, self.y.channels(), a.quads(), self.batch_rows].map(|v| v as u32).to_vec();
                params.extend([self.epilogue.word(), first as u32, w.strip_quads() as u32]);
                params.extend(&band.addressing);
                let grid = algorithm.grid(m, self.batches, self.y.quads(), caps);
                Dispatch { shader: shader.clone(), binds, params, grid }
            })
            .collect();
        Variant { name: algorithm.name(self.conv), dispatches, scratch: Vec::new() }
    }
}

//! The shaders that [`MatMul`](super::MatMul) and [`Conv2d`](super::Conv2d) share: `wgsl/matmul_*.wgsl`.

use super::Epilogue;
use crate::op::{Bind, Caps, Dispatch, OpError, Operand, Subgroups, Variant, fold_grid};
use crate::types::{DType, LANES, TensorType};
use crate::wgsl::{COOPERATIVE, Shader};

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
    /// Registers and workgroup memory; rows of a tile of 64 columns.
    Tiled(usize),
    /// The same in tiles of 128 rows and columns.
    Square,
    /// Matrix units; extent of their tiles and invocations of a subgroup.
    Cooperative(u32, u32),
}

/// Rows and columns of a workgroup with matrix units, in their tiles.
const COOPERATIVE_TILES: usize = 8;
/// Columns of most workgroups without.
const COLUMNS: usize = 64;
/// Rows and columns of the largest workgroup without.
const SQUARE: usize = 128;
/// Terms of k that a part of a split sum has at least: with fewer, writing and reading the parts' sums would not pay.
const PART_TERMS: usize = 1536;
/// The most parts of a sum.
const MAX_PARTS: usize = 16;
/// Quads of k by which sums are split: a multiple of every kernel's slab, as in contraction.wgsl.
const PART_QUADS: usize = 8;
/// Bit of the epilogue's word that says that w lies in strips, as in contraction.wgsl.
const STRIPS: u32 = 1 << 12;
/// Rows of an invocation that holds them in registers.
const REGISTER_ROWS: usize = 8;

impl Algorithm {
    fn name(self, conv: bool) -> &'static str {
        match (self, conv) {
            (Algorithm::Register, false) => "matmul_register",
            (Algorithm::Register, true) => "conv2d_register",
            (Algorithm::Broadcast, false) => "matmul_broadcast",
            (Algorithm::Broadcast, true) => "conv2d_broadcast",
            (Algorithm::Cooperative(..), false) => "matmul_cooperative",
            (Algorithm::Cooperative(..), true) => "conv2d_cooperative",
            (Algorithm::Tiled(64), false) => "matmul_tiled_64x64",
            (Algorithm::Tiled(64), true) => "conv2d_tiled_64x64",
            (Algorithm::Tiled(_), false) => "matmul_tiled_128x64",
            (Algorithm::Tiled(_), true) => "conv2d_tiled_128x64",
            (Algorithm::Square, false) => "matmul_tiled_128x128",
            (Algorithm::Square, true) => "conv2d_tiled_128x128",
        }
    }

    fn shader(self) -> Shader {
        match self {
            Algorithm::Register => Shader::new("matmul_register"),
            Algorithm::Broadcast => Shader::new("matmul_broadcast").with_subgroups(),
            Algorithm::Square => Shader::new("matmul_square"),
            Algorithm::Tiled(rows) => Shader::new("matmul_tiled").constant("ROW_THREADS", rows as u32 / 8),
            Algorithm::Cooperative(tile, subgroup) => Shader::new("matmul_cooperative")
                .with_subgroups()
                .flag(COOPERATIVE, true)
                .flag("COOPERATIVE_16", tile == 16)
                .constant("SUBGROUP", subgroup),
        }
    }

    /// The name of the same with sums split into parts, where there is one.
    fn split_name(self, conv: bool) -> &'static str {
        match (self, conv) {
            (Algorithm::Cooperative(..), false) => "matmul_cooperative_split",
            (Algorithm::Cooperative(..), true) => "conv2d_cooperative_split",
            (_, false) => "matmul_tiled_split",
            (_, true) => "conv2d_tiled_split",
        }
    }

    /// Rows, columns and terms of k of a workgroup's tile, as the shaders have them.
    fn tile(self) -> [usize; 3] {
        match self {
            Algorithm::Register => [4 * REGISTER_ROWS, COLUMNS, LANES],
            Algorithm::Broadcast => [16, COLUMNS, LANES],
            Algorithm::Tiled(rows) => [rows, COLUMNS, 4 * LANES],
            Algorithm::Square => [SQUARE, SQUARE, 2 * LANES],
            Algorithm::Cooperative(tile, _) => {
                let edge = COOPERATIVE_TILES * tile as usize;
                [edge, edge, PART_QUADS * LANES]
            }
        }
    }

    /// Workgroups side by side that have all rows of some products of `m` rows.
    fn groups(self, products: usize, m: usize) -> usize {
        match self {
            // Rows of one may be those of several products.
            Algorithm::Register => (products * m.div_ceil(REGISTER_ROWS)).div_ceil(4),
            _ => products * m.div_ceil(self.tile()[0]),
        }
    }

    /// A dispatch's workgroups: `groups` side by side, each with as many as `columns` take.
    fn grid(self, groups: usize, columns: usize) -> [u32; 3] {
        let (groups, columns) = (groups as u32, columns.div_ceil(self.tile()[1]) as u32);
        match self {
            Algorithm::Register => [columns, groups, 1],
            _ => [groups, columns, 1],
        }
    }
}

impl Contraction<'_> {
    /// Every way to compute it: on a CPU the register tile beats workgroup memory, and shuffles beat both.
    ///
    /// # Errors
    /// [`OpError::TooMany`] if `w` has more columns than an axis of workgroups takes.
    pub(super) fn variants(&self, op: &'static str, caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let (count, limit) = (self.w().channels(), caps.max_groups_per_axis);
        if count.div_ceil(COLUMNS) > limit as usize {
            let limit = limit.saturating_mul(COLUMNS as u32);
            return Err(OpError::TooMany { op, what: "columns", count, limit });
        }
        // The largest tile of which there are enough goes last; tiles that are too few go before, the larger the earlier.
        let small = Algorithm::Tiled(64);
        let sizes = [small, Algorithm::Tiled(128), Algorithm::Square];
        // Half of a tile that is twice as wide as the result would be idle.
        let is_wide = |tile: &Algorithm| matches!(tile, Algorithm::Square) && self.w().channels() <= COLUMNS;
        let (enough, few): (Vec<_>, Vec<_>) =
            sizes.into_iter().partition(|tile| self.tiles(*tile) >= 2 * caps.cores && !is_wide(tile));
        let tiled = few.into_iter().rev().chain(enough);
        let split = |algorithm| self.split(algorithm, caps);
        let whole = |algorithm| self.whole(algorithm, caps);
        // On a CPU split sums and matrix units are there to be tested.
        let mut exotic: Vec<Variant> = split(small).into_iter().collect();
        if let Some(cooperative) = self.cooperative(caps) {
            exotic.push(whole(cooperative));
            exotic.extend(split(cooperative));
        }
        if !caps.software {
            return Ok([Algorithm::Register].into_iter().chain(tiled).map(whole).chain(exotic).collect());
        }
        let mut variants: Vec<Variant> = tiled.map(whole).collect();
        variants.splice(1..1, exotic);
        variants.push(whole(Algorithm::Register));
        let subgroups_of_8 = caps.subgroups == Some(Subgroups { min: 8, max: 8 });
        if subgroups_of_8 && self.w().channels().is_multiple_of(8) {
            variants.push(whole(Algorithm::Broadcast));
        }
        Ok(variants)
    }

    fn w(&self) -> &TensorType {
        &self.inputs[1]
    }

    /// Workgroups that it takes.
    fn tiles(&self, algorithm: Algorithm) -> usize {
        let [_, columns, _] = algorithm.tile();
        self.groups(algorithm, self.y.rows()) * self.w().channels().div_ceil(columns)
    }

    /// Workgroups side by side that have `rows` rows of the result.
    fn groups(&self, algorithm: Algorithm, rows: usize) -> usize {
        algorithm.groups(self.batches, rows / self.batches.max(1))
    }

    /// Floating-point operations of a workgroup and of those with its rows' other columns: rows, columns and terms that tiles have
    /// take time, whether there are such or not.
    fn group_flops(&self, algorithm: Algorithm) -> u64 {
        let [rows, columns, terms] = algorithm.tile();
        let terms = self.taps() * self.inputs[0].channels().next_multiple_of(terms);
        2 * (rows * terms * self.w().channels().next_multiple_of(columns)) as u64
    }

    fn taps(&self) -> usize {
        if self.conv { self.w().shape[..2].iter().product() } else { 1 }
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

    fn whole(&self, algorithm: Algorithm, caps: &Caps) -> Variant {
        let shader = self.epilogue.specialise(self.shader(algorithm), self.inputs, 2, &self.y);
        let shader = shader.encoding("y", self.y.dtype);
        let group_flops = self.group_flops(algorithm);
        let most = (caps.max_dispatch_flops / group_flops.max(1)).clamp(1, caps.max_groups_per_axis.into());
        let most = most as usize;
        let dispatches = self
            .bands
            .iter()
            .flat_map(|band| {
                let (first, rows) = band.y;
                let mut binds = self.operands(band).to_vec();
                binds.push(Bind::write(5, Operand::Output).rows(&self.y, first, rows));
                binds.extend(self.epilogue.binds(self.inputs, 2, band.y, Operand::Input(1)));
                let (groups, shader) = (self.groups(algorithm, rows), &shader);
                (0..groups).step_by(most).map(move |first| {
                    let own = most.min(groups - first);
                    Dispatch {
                        shader: shader.clone(),
                        binds: binds.clone(),
                        params: self.params(band, self.epilogue, 1, first),
                        grid: algorithm.grid(own, self.w().channels()),
                        tile_flops: own as u64 * group_flops,
                    }
                })
            })
            .collect();
        Variant { name: algorithm.name(self.conv), dispatches, scratch: Vec::new() }
    }

    /// The same with the terms of k split into parts that are summed in order by a second dispatch, if `algorithm` has tiles for
    /// less than half of a GPU's cores and sums are long.
    fn split(&self, algorithm: Algorithm, caps: &Caps) -> Option<Variant> {
        let [band] = self.bands.as_slice() else { return None };
        let (a, w) = (&self.inputs[0], self.w());
        let slabs = a.quads().div_ceil(PART_QUADS);
        let long_enough = self.taps() * slabs * PART_QUADS * LANES / PART_TERMS;
        let (rows, columns) = (self.y.rows(), w.channels());
        let (groups, tiles) = (self.groups(algorithm, rows), self.tiles(algorithm).max(1));
        let tile_flops = groups as u64 * self.group_flops(algorithm);
        if tiles > caps.cores / 2 || tile_flops > caps.max_dispatch_flops {
            return None;
        }
        let parts = (2 * caps.cores / tiles).min(MAX_PARTS).min(long_enough);
        // Every part has as many slabs as the first: there are none for more parts.
        let parts = slabs.div_ceil(slabs.div_ceil(parts.max(1)));
        let sums = TensorType::f32([parts * rows, columns]);
        let fits =
            sums.bytes() <= caps.max_binding_bytes && groups * parts <= caps.max_groups_per_axis as usize;
        if parts < 2 || !fits {
            return None;
        }
        let plain = Epilogue::default();
        let shader =
            plain.specialise(self.shader(algorithm), self.inputs, 2, &sums).encoding("y", DType::F32);
        let mut binds = self.operands(band).to_vec();
        binds.push(Bind::write(5, Operand::Scratch(0)));
        binds.extend(plain.binds(self.inputs, 2, band.y, Operand::Input(1)));
        let grid = algorithm.grid(groups * parts, columns);
        let first = Dispatch { shader, binds, params: self.params(band, &plain, parts, 0), grid, tile_flops };

        let shader = Shader::new("matmul_parts")
            .flag("CONV", self.conv)
            .encoding("a", a.dtype)
            .encoding("y", self.y.dtype);
        let shader = self.epilogue.specialise(shader, self.inputs, 2, &self.y);
        // a is declared and not read.
        let [a, _] = self.operands(band);
        let mut binds = vec![a, Bind::read(1, Operand::Scratch(0)), Bind::write(5, Operand::Output)];
        binds.extend(self.epilogue.binds(self.inputs, 2, band.y, Operand::Scratch(0)));
        let pairs = rows * w.quads().div_ceil(2);
        let grid = fold_grid((pairs as u64).div_ceil(64), caps.max_groups_per_axis);
        let params = self.params(band, self.epilogue, parts, 0);
        let second = Dispatch { shader, binds, params, grid, tile_flops: 0 };
        let name = algorithm.split_name(self.conv);
        Some(Variant { name, dispatches: vec![first, second], scratch: vec![sums] })
    }

    fn shader(&self, algorithm: Algorithm) -> Shader {
        let shader = algorithm.shader().flag("CONV", self.conv);
        shader.encoding("a", self.inputs[0].dtype).encoding("w", self.w().dtype)
    }

    /// Bindings 0 and 1.
    fn operands(&self, band: &Band) -> [Bind; 2] {
        let a = Bind::read(0, Operand::Input(0)).rows(&self.inputs[0], band.a.0, band.a.1);
        [a, Bind::read(1, Operand::Input(1))]
    }

    /// The words of `Params` in contraction.wgsl.
    fn params(&self, band: &Band, epilogue: &Epilogue, parts: usize, first_group: usize) -> Vec<u32> {
        let (first, rows) = band.y;
        let w = self.w();
        let extents = [rows / self.batches, w.channels(), self.inputs[0].quads(), self.batch_rows];
        let mut params: Vec<u32> = extents.map(|v| v as u32).to_vec();
        let strips = if w.strips { STRIPS } else { 0 };
        let word = epilogue.word() | strips | (parts as u32) << 16;
        params.extend([
            word,
            first as u32,
            epilogue.batch_word(self.inputs, 2),
            first_group as u32,
            epilogue.scale_word(),
        ]);
        params.extend(&band.addressing);
        params
    }
}

//! Scaled dot-product attention by an online softmax: the matrix of scores never lies in memory.

use std::any::Any;

use super::{check_count, check_float, check_shape, check_whole, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{
    Attributes, Bind, Caps, Case, Cost, Dispatch, Op, OpError, Operand, Subgroups, Variant, fold_grid,
};
use crate::types::{DType, LANES, TensorType};
use crate::wgsl::{COOPERATIVE, Shader};

/// Scaled dot-product attention; heads lie side by side in a row.
///
/// `y[b, s, h] = sum_t softmax_t(scale * q[b, s, h] . k[b, t, h / (heads / kv_heads)] + mask[b, h, s, t]) * v[b, t, ..]`
///
/// # Shapes    `q: [B, S, heads * D]`, `k, v: [B, T, kv_heads * D]` f32 | f16, `D` up to 512; if `mask`,
/// `[B | 1, heads | 1, S | 1, T]` f32 -> `y` as `q`
/// # Units     mask: added to scores; from -1e30 down, a key is not seen. A query that sees none gets zeros
/// # Numerics  scores, softmax and sums in f32; class Contraction over T
/// # Errors    [`OpError::NotDivisible`] if `heads % kv_heads != 0` or `heads` does not divide `q`'s channels
/// # Source    Vaswani et al. 2017, eq. 1; Dao et al. 2022; torch.nn.functional.scaled_dot_product_attention
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Heads of `q` and `y`.
    pub heads: usize,
    /// Heads of `k` and `v`; each serves `heads / kv_heads` heads of `q`.
    pub kv_heads: usize,
    /// Whether query `s` sees keys `0 ..= s` alone.
    pub causal: bool,
    /// Factor of the scores; `1 / sqrt(D)` if `None`.
    pub scale: Option<f64>,
    /// Whether a mask is the last operand.
    pub mask: bool,
}

/// The score of keys that are not seen, and less than the total of any query that sees one: as mask.wgsl has them.
const MASKED: f64 = -1e30;
const LEAST_TOTAL: f64 = 1e-30;

/// Largest `D`.
const MAX_FEATURES: usize = 512;

/// Queries to a workgroup of `attention_lanes`.
const LANES_QUERIES: usize = 32;
/// Keys whose scores are in registers there, and tiles of them to a block: as many as 16 KiB of weights allow.
const TILE: usize = 16;
const TILES: usize = 7;
/// Quads of sums in registers there: divides heads of 40, 80 and 160.
const CHUNK: usize = 5;
/// Quads that are summed there before they join the score, against rounding.
const DOT: usize = 16;
/// Invocations of its subgroup.
const SUBGROUP: usize = 8;

/// Tiles of a head's features that a workgroup of `attention_cooperative` has sums of: as many as it has variables for.
const COOPERATIVE_D_TILES: u32 = 10;

/// Iterations that one invocation may do: gallivm, which compiles shaders for the CPU, counts those of all loops together and
/// leaves every loop when they are used up, without a word.
///
/// Source: `LP_MAX_TGSI_LOOP_ITERATIONS` and `loop_limiter` of Mesa's gallivm.
const MAX_ITERATIONS: usize = 65_535;

/// Queries, keys and quads of a tile of `attention_tiled`; groups of 4 queries and quads of the result to a lane. They decide
/// registers (32 quads of sums at most) and workgroup memory (16 KiB at most).
fn tile(quads: usize) -> [usize; 5] {
    if quads <= 48 { [32, 32, 10, 2, quads.div_ceil(16)] } else { [16, 64, 8, 4, 2] }
}

/// Iterations that `attention_tiled` does, its innermost loops of fixed length unrolled, and a tenth more.
fn iterations_of_tiles(e: &Extents) -> usize {
    const INVOCATIONS: usize = 64;
    let quads = e.d.div_ceil(LANES);
    let [queries, keys, slice, groups, lane_quads] = tile(quads);
    let loads = (queries * slice).div_ceil(INVOCATIONS) + (keys * slice).div_ceil(INVOCATIONS);
    let scores = quads.div_ceil(slice) * (1 + loads) + quads + keys / 4;
    let sums = keys + groups * (1 + lane_quads);
    e.keys.div_ceil(keys) * (1 + scores + sums) * 11 / 10
}

/// Iterations that `attention_lanes` does for a block, no loop of it unrolled, with `quads` quads to a head.
fn iterations_of_block(quads: usize) -> usize {
    let scores = quads * (1 + SUBGROUP) + quads.div_ceil(DOT) * (1 + TILE) + 3 * TILE;
    let tile_sums = TILE / SUBGROUP * (1 + CHUNK + SUBGROUP * (1 + CHUNK));
    let sums = quads.div_ceil(CHUNK) * (1 + 2 * CHUNK + TILES * (1 + tile_sums));
    1 + TILES * (1 + scores) + sums
}

/// Sizes of one problem; `d` is the number of features of a head.
struct Extents {
    batch: usize,
    queries: usize,
    keys: usize,
    d: usize,
}

/// A shader and how its workgroups share the work.
struct Kernel {
    shader: Shader,
    /// Queries to a workgroup.
    queries: usize,
    /// Workgroups that share a head's features of a block of queries: each needs all of the scores.
    slices: usize,
    /// That of a query's scores, as often as they are computed.
    scores: Product,
    /// That of its result.
    result: Product,
}

/// A product with keys, or with their values, of a query of one head, as tiles do it.
struct Product {
    /// Keys to a tile: those beyond the last take time, too.
    keys: usize,
    /// Features that tiles have.
    features: usize,
}

impl Product {
    /// Floating-point operations with `keys` keys.
    fn flops(&self, keys: usize) -> u64 {
        2 * (keys.next_multiple_of(self.keys) * self.features) as u64
    }
}

/// `q, k, v, y` with heads that start at quads: the operands themselves, or copies with wider heads.
struct Aligned {
    types: [TensorType; 3],
    operands: [Operand; 4],
    /// As the kernels' `Params` have them.
    mask_strides: [u32; 3],
    /// The copies.
    scratch: Vec<TensorType>,
    /// What makes the copies.
    before: Vec<Dispatch>,
    /// What makes the result from its copy.
    after: Vec<Dispatch>,
}

impl Attention {
    /// Attention with `heads` heads of everything, in which every query sees every key.
    pub fn new(heads: usize) -> Self {
        Attention { heads, kv_heads: heads, causal: false, scale: None, mask: false }
    }

    fn extents(&self, inputs: &[TensorType]) -> Extents {
        let (q, k) = (&inputs[0], &inputs[1]);
        Extents { batch: q.shape[0], queries: q.shape[1], keys: k.shape[1], d: q.channels() / self.heads }
    }

    fn check_mask(
        &self,
        mask: &TensorType,
        [batch, heads, queries, keys]: [usize; 4],
    ) -> Result<(), OpError> {
        if mask.dtype != DType::F32 {
            let (op, operand) = (self.name(), "mask");
            return Err(OpError::DType { op, operand, expected: "f32", found: mask.dtype });
        }
        let broadcasts = |found: usize, extent: usize| found == extent || found == 1;
        let fits = mask.shape.len() == 4
            && broadcasts(mask.shape[0], batch)
            && broadcasts(mask.shape[1], heads)
            && broadcasts(mask.shape[2], queries)
            && mask.shape[3] == keys
            && !mask.strips;
        let expected = || format!("[{batch} or 1, {heads} or 1, {queries} or 1, {keys}]");
        if fits { Ok(()) } else { Err(shape_error(self, "mask", expected(), mask)) }
    }

    /// Where the first key and value of a row of one head are: rows are counted over batches, queries and heads.
    fn first_key(&self, e: &Extents, row: usize) -> usize {
        let (head, batch) = (row % self.heads, row / self.heads / e.queries);
        batch * e.keys * self.kv_heads * e.d + head / (self.heads / self.kv_heads) * e.d
    }

    /// The weights of the keys that the query of such a row sees, in f64.
    fn softmax(&self, inputs: &[&HostTensor], e: &Extents, row: usize) -> Vec<f64> {
        let (q, k) = (inputs[0], inputs[1]);
        let (head, query) = (row % self.heads, row / self.heads % e.queries);
        let batch = row / self.heads / e.queries;
        // By the mask's own shape, not by the strides that kernels are given.
        let mask_at = inputs.get(3).map_or(0, |mask| {
            let place = |place: usize, d: usize| if mask.shape()[d] == 1 { 0 } else { place };
            ((place(batch, 0) * mask.shape()[1] + place(head, 1)) * mask.shape()[2] + place(query, 2))
                * e.keys
        });
        let (first_key, scale) = (self.first_key(e, row), self.scale(e.d));
        let seen = if self.causal { e.keys.min(query + 1) } else { e.keys };
        let score = |t: usize| {
            let key = first_key + t * self.kv_heads * e.d;
            let dot: f64 = (0..e.d).map(|c| q.at(row * e.d + c) * k.at(key + c)).sum();
            scale * dot + inputs.get(3).map_or(0.0, |mask| mask.at(mask_at + t))
        };
        let mut weights: Vec<f64> = (0..seen).map(score).collect();
        let highest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |score: f64| if score <= MASKED { 0.0 } else { libm::exp(score - highest) };
        weights.iter_mut().for_each(|score| *score = weight(*score));
        let total = f64::max(weights.iter().sum(), LEAST_TOTAL);
        weights.iter_mut().for_each(|weight| *weight /= total);
        weights
    }

    fn scale(&self, d: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (d as f64).sqrt())
    }

    fn aligned(&self, e: &Extents, inputs: &[TensorType], caps: &Caps) -> Result<Aligned, OpError> {
        for (operand, ty) in ["q", "k", "v", "mask"].into_iter().zip(inputs) {
            check_whole(self.name(), operand, ty, caps)?;
        }
        for (what, count) in [("batches", e.batch), ("heads", self.heads)] {
            if count > caps.max_groups_per_axis as usize {
                return Err(OpError::TooMany {
                    op: self.name(),
                    what,
                    count,
                    limit: caps.max_groups_per_axis,
                });
            }
        }
        let mask_strides = self.mask_strides(inputs).map(|stride| stride as u32);
        let narrow = [0, 1, 2].map(|i| inputs[i].clone());
        if e.d.is_multiple_of(LANES) {
            return Ok(Aligned {
                types: narrow,
                operands: [Operand::Input(0), Operand::Input(1), Operand::Input(2), Operand::Output],
                mask_strides,
                scratch: Vec::new(),
                before: Vec::new(),
                after: Vec::new(),
            });
        }
        let padded = e.d.next_multiple_of(LANES);
        let heads = [self.heads, self.kv_heads, self.kv_heads];
        let types = [0, 1, 2].map(|i| {
            let ty = &narrow[i];
            TensorType::new(ty.dtype, [ty.shape[0], ty.shape[1], heads[i] * padded])
        });
        for ty in &types {
            check_whole(self.name(), "heads padded to quads", ty, caps)?;
        }
        let before = (0..3)
            .map(|i| {
                let pair = [(&narrow[i], Operand::Input(i)), (&types[i], Operand::Scratch(i))];
                repitch(pair, heads[i], [e.d, padded], caps)
            })
            .collect();
        let y = [(&types[0], Operand::Scratch(3)), (&narrow[0], Operand::Output)];
        Ok(Aligned {
            operands: [0, 1, 2, 3].map(Operand::Scratch),
            mask_strides,
            scratch: types.iter().chain([&types[0]]).cloned().collect(),
            before,
            after: vec![repitch(y, self.heads, [padded, e.d], caps)],
            types,
        })
    }

    /// Elements of the mask from one batch, head and query to the next, 0 where they share them.
    fn mask_strides(&self, inputs: &[TensorType]) -> [usize; 3] {
        let Some(mask) = inputs.get(3) else { return [0; 3] };
        let [batch, heads, queries] = [0, 1, 2].map(|d| mask.shape[d]);
        let row = mask.pitch();
        let own = |extent: usize, stride: usize| if extent > 1 { stride } else { 0 };
        [own(batch, heads * queries * row), own(heads, queries * row), own(queries, row)]
    }

    fn tiled(&self, e: &Extents, aligned: &Aligned, caps: &Caps) -> Variant {
        let quads = e.d.div_ceil(LANES);
        let sizes = tile(quads);
        let [queries, keys, slice, groups, lane_quads] = sizes.map(|size| size as u32);
        let shader = Shader::new("attention_tiled")
            .constant("QUERIES", queries)
            .constant("KEYS", keys)
            .constant("SLICE", slice)
            .constant("LANE_GROUPS", groups)
            .constant("LANE_QUADS", lane_quads);
        let [queries, keys, _, groups, lane_quads] = sizes;
        let scores = Product { keys, features: quads * LANES };
        // The result's quads are as many as 64 lanes have in groups of 4 queries.
        let result = Product { keys: 1, features: 64 * groups / (queries / 4) * lane_quads * LANES };
        let kernel = Kernel { shader, queries, slices: 1, scores, result };
        aligned.variant("attention_tiled", self.dispatches(&kernel, e, e.keys, aligned, caps).collect())
    }

    /// On matrix units: f16 operands, and subgroups of one known size.
    fn cooperative(&self, e: &Extents, aligned: &Aligned, caps: &Caps) -> Option<Variant> {
        let (tile, subgroups) = (caps.cooperative?, caps.subgroups?);
        let is_f16 = aligned.types.iter().all(|ty| ty.dtype == DType::F16);
        if !is_f16 || subgroups.min != subgroups.max || subgroups.max < tile {
            return None;
        }
        // As attention_cooperative.wgsl declares it.
        let queries = 4 * tile;
        let bytes = |d_tiles: u32| {
            let (keys, pitch) = (32, d_tiles * tile + 8);
            let halves = queries * pitch + keys * pitch + queries * (keys + 8);
            2 * halves + 4 * queries * keys + 8 * 4 * subgroups.max
        };
        let d_tiles = e.d.div_ceil(tile as usize) as u32;
        let slices = (1..=d_tiles).find(|slices| {
            let of_slice = d_tiles.div_ceil(*slices);
            of_slice <= COOPERATIVE_D_TILES && bytes(of_slice) <= caps.workgroup_bytes
        })?;
        if self.heads as u64 * u64::from(slices) > u64::from(caps.max_groups_per_axis) {
            return None;
        }
        let shader = Shader::new("attention_cooperative")
            .with_subgroups()
            .flag(COOPERATIVE, true)
            .flag("COOPERATIVE_16", tile == 16)
            .constant("SUBGROUP", subgroups.max)
            .constant("D_TILES", d_tiles.div_ceil(slices))
            .constant("SLICES", slices);
        let features = (slices * d_tiles.div_ceil(slices) * tile) as usize;
        let (queries, slices) = (queries as usize, slices as usize);
        // Every slice takes all of the scores twice and its part of the result once.
        let scores = Product { keys: 32, features: 2 * slices * features };
        let result = Product { keys: 32, features };
        let kernel = Kernel { shader, queries, slices, scores, result };
        let dispatches = self.dispatches(&kernel, e, e.keys, aligned, caps).collect();
        Some(aligned.variant("attention_cooperative", dispatches))
    }

    /// For adapters whose subgroups are 8 lanes wide.
    fn lanes(&self, e: &Extents, aligned: &Aligned, caps: &Caps) -> Result<Variant, OpError> {
        let shader = Shader::new("attention_lanes")
            .with_subgroups()
            .constant("TILE", TILE as u32)
            .constant("TILES", TILES as u32)
            .constant("CHUNK", CHUNK as u32)
            .constant("DOT", DOT as u32);
        let quads = e.d.div_ceil(LANES);
        let scores = Product { keys: TILE, features: quads * LANES };
        let result = Product { keys: TILE, features: quads.next_multiple_of(CHUNK) * LANES };
        let kernel = Kernel { shader, queries: LANES_QUERIES, slices: 1, scores, result };
        let rows = e.batch * self.heads * e.queries.next_multiple_of(LANES_QUERIES);
        // Sums, and in a quad more the highest scores and the totals.
        let sums = TensorType::f32([rows, (quads + 1) * LANES]);
        check_whole(self.name(), "sums", &sums, caps)?;
        let scratch = Operand::Scratch(aligned.scratch.len());
        let blocks = ((MAX_ITERATIONS - quads) / iterations_of_block(quads)).max(1);
        let keys = blocks * TILES * TILE;
        let kernel = &kernel;
        // All queries take one part of the keys after the other.
        let parts = (0..e.keys).step_by(keys).flat_map(|first| {
            let end = e.keys.min(first + keys);
            self.dispatches(kernel, e, end - first, aligned, caps).map(move |mut part| {
                part.binds.push(Bind::write(4, scratch));
                part.params.extend([first, end].map(|key| key as u32));
                part
            })
        });
        let mut variant = aligned.variant("attention_lanes", parts.collect());
        variant.scratch.push(sums);
        Ok(variant)
    }

    /// Dispatches of `kernel` for all queries and `keys` of the keys: each has as many blocks of queries as its work allows.
    fn dispatches(
        &self,
        kernel: &Kernel,
        e: &Extents,
        keys: usize,
        aligned: &Aligned,
        caps: &Caps,
    ) -> impl Iterator<Item = Dispatch> {
        let [q, k, v] = &aligned.types;
        let shader = kernel.shader.clone();
        let shader = shader
            .encoding("q", q.dtype)
            .encoding("k", k.dtype)
            .encoding("v", v.dtype)
            .encoding("y", q.dtype)
            .flag("MASK", self.mask);
        let heads_per_kv = self.heads / self.kv_heads;
        let extents = [e.queries, e.keys, e.d.div_ceil(LANES), q.quads(), k.quads(), heads_per_kv];
        let mut params: Vec<u32> = extents.iter().map(|v| *v as u32).collect();
        params.extend([(self.scale(e.d) as f32).to_bits(), u32::from(self.causal)]);
        params.extend(aligned.mask_strides);
        let [q, k, v, y] = aligned.operands;
        let blocks = e.queries.div_ceil(kernel.queries);
        let query_flops = kernel.scores.flops(keys) + kernel.result.flops(keys);
        let block_flops = (e.batch * self.heads * kernel.queries) as u64 * query_flops;
        let most =
            (caps.max_dispatch_flops / block_flops.max(1)).clamp(1, u64::from(caps.max_groups_per_axis));
        let most = most as usize;
        let mut binds = vec![Bind::read(0, q), Bind::read(1, k), Bind::read(2, v), Bind::write(3, y)];
        binds.extend(self.mask.then(|| Bind::read(5, Operand::Input(3))));
        let beside = [(self.heads * kernel.slices) as u32, e.batch as u32];
        (0..blocks).step_by(most).map(move |first| {
            let own = most.min(blocks - first);
            Dispatch {
                shader: shader.clone(),
                binds: binds.clone(),
                params: params.iter().copied().chain([first as u32]).collect(),
                grid: [own as u32, beside[0], beside[1]],
                tile_flops: own as u64 * block_flops,
            }
        })
    }
}

impl Aligned {
    /// A variant that attends with `kernels`.
    fn variant(&self, name: &'static str, kernels: Vec<Dispatch>) -> Variant {
        let (before, after) = (self.before.iter().cloned(), self.after.iter().cloned());
        let dispatches = before.chain(kernels).chain(after).collect();
        Variant { name, dispatches, scratch: self.scratch.clone() }
    }
}

/// The dispatch that moves heads of `x_d` features to heads of `y_d` features: the excess is cut off, or zero.
fn repitch(
    [x, y]: [(&TensorType, Operand); 2],
    heads: usize,
    [x_d, y_d]: [usize; 2],
    caps: &Caps,
) -> Dispatch {
    let ((x, from), (y, to)) = (x, y);
    let quads = y.rows() * y.quads();
    Dispatch {
        shader: Shader::new("attention_repitch").encoding("x", x.dtype).encoding("y", y.dtype),
        binds: vec![Bind::read(0, from), Bind::write(1, to)],
        params: [quads, x.quads(), y.quads(), x_d, y_d, heads].map(|v| v as u32).to_vec(),
        grid: fold_grid(quads.div_ceil(64) as u64, caps.max_groups_per_axis),
        tile_flops: 0,
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn attributes(&self) -> Attributes {
        let mut attributes = vec![
            ("heads", self.heads.into()),
            ("kv_heads", self.kv_heads.into()),
            ("causal", self.causal.into()),
        ];
        attributes.extend(self.scale.map(|scale| ("scale", scale.into())));
        attributes.extend(self.mask.then_some(("mask", true.into())));
        attributes
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 3 + usize::from(self.mask))?;
        let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
        for (operand, ty) in [("q", q), ("k", k), ("v", v)] {
            check_float(self, operand, ty)?;
            if ty.shape.len() != 3 {
                return Err(shape_error(self, operand, "[B, tokens, heads * D]", ty));
            }
        }
        let divides = |what, value: usize, divisor: usize| {
            if divisor > 0 && value.is_multiple_of(divisor) {
                return Ok(());
            }
            Err(OpError::NotDivisible { op: self.name(), what, value, divisor })
        };
        divides("heads", self.heads, self.kv_heads)?;
        divides("channels of q", q.channels(), self.heads)?;
        let d = q.channels() / self.heads;
        if d == 0 || d > MAX_FEATURES {
            return Err(shape_error(self, "q", format!("1 to {MAX_FEATURES} features a head"), q));
        }
        let tokens = k.shape[1];
        if tokens == 0 {
            return Err(shape_error(self, "k", "at least one key", k));
        }
        for (operand, ty) in [("k", k), ("v", v)] {
            check_shape(self, operand, ty, &[q.shape[0], tokens, self.kv_heads * d])?;
        }
        if self.mask {
            self.check_mask(&inputs[3], [q.shape[0], self.heads, q.shape[1], tokens])?;
        }
        Ok(q.clone())
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
        let e = self.extents(&types);
        let (q, v) = (inputs[0], inputs[2]);
        let mut data = vec![0.0f32; q.shape().elements()];
        let mut sums = vec![0.0f64; e.d];
        for (row, out) in data.chunks_exact_mut(e.d).enumerate() {
            let start = self.first_key(&e, row);
            sums.fill(0.0);
            for (t, weight) in self.softmax(inputs, &e, row).iter().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum += weight * v.at(start + t * self.kv_heads * e.d + c);
                }
            }
            out.iter_mut().zip(&sums).for_each(|(y, sum)| *y = *sum as f32);
        }
        HostTensor::new(q.ty().clone(), data)
    }

    fn reference_at(&self, inputs: &[&HostTensor], positions: &[usize]) -> Option<Vec<f32>> {
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
        let e = self.extents(&types);
        let v = inputs[2];
        let mut row = None;
        let mut softmax = Vec::new();
        let element = |at: &usize| {
            // Neighbours share a head's row.
            if row != Some(at / e.d) {
                row = Some(at / e.d);
                softmax = self.softmax(inputs, &e, at / e.d);
            }
            let start = self.first_key(&e, at / e.d) + at % e.d;
            let terms = softmax.iter().enumerate();
            let sum: f64 = terms.map(|(t, weight)| weight * v.at(start + t * self.kv_heads * e.d)).sum();
            v.ty().dtype.round(sum as f32)
        };
        Some(positions.iter().map(element).collect())
    }

    fn operand_scales(&self, inputs: &[TensorType]) -> Vec<f64> {
        // Where rows stand off from zero, scores are of the size of D times the offset's square.
        let d = self.extents(inputs).d;
        vec![1.0 / (d as f64).sqrt()]
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        let e = self.extents(inputs);
        let aligned = self.aligned(&e, inputs, caps)?;
        let iterations = iterations_of_tiles(&e);
        let mut variants = Vec::new();
        if !caps.software || iterations <= MAX_ITERATIONS {
            variants.push(self.tiled(&e, &aligned, caps));
        }
        // On a CPU it is there to be tested.
        variants.extend(self.cooperative(&e, &aligned, caps));
        if caps.software && caps.subgroups == Some(Subgroups { min: SUBGROUP as u32, max: SUBGROUP as u32 }) {
            match self.lanes(&e, &aligned, caps) {
                Ok(lanes) => variants.push(lanes),
                // The others keep no sums in memory.
                Err(_) if !variants.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        if variants.is_empty() {
            return Err(OpError::TooLong {
                op: self.name(),
                operand: "k",
                iterations,
                limit: MAX_ITERATIONS,
            });
        }
        Ok(variants)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let e = self.extents(inputs);
        let flops = 4 * (e.batch * self.heads * e.queries * e.keys * e.d) as u64;
        Cost::new(if self.causal { flops / 2 } else { flops }, inputs, &inputs[0])
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        Class::Contraction { k: inputs[1].shape[1] }
    }

    fn cases(&self) -> Vec<Case> {
        let plain = Attention::new;
        let mut cases = Vec::new();
        for (batch, queries, keys, heads, d) in [
            (1, 1, 1, 1, 1),
            (1, 3, 5, 2, 4),
            (2, 7, 9, 3, 5),
            (2, 33, 31, 2, 8),
            (1, 65, 77, 3, 10),
            (1, 32, 64, 4, 12),
            (2, 70, 65, 2, 40),
            (1, 31, 33, 2, 64),
            (1, 17, 77, 2, 80),
            (1, 9, 66, 1, 160),
            // Three blocks of attention_lanes in one dispatch.
            (2, 7, 240, 2, 20),
            (1, 35, 67, 1, 509),
            (1, 19, 65, 1, 512),
            // As in an autoencoder at 512x512: several dispatches, one after the other.
            (1, 9, 4099, 1, 512),
        ] {
            // Rows on a common offset have scores of offset^2 * sqrt(D), of which f32 would keep no fraction for large D.
            let scale = (d >= 40).then_some(1.0 / d as f64);
            let kv = f32([batch, keys, heads * d]);
            let op = Attention { scale, ..plain(heads) };
            cases.push(Case::new(op, [f32([batch, queries, heads * d]), kv.clone(), kv]));
        }
        for d in [6, 40] {
            let causal = Attention { causal: true, scale: Some(0.1), ..plain(2) };
            let x = f32([2, 77, 2 * d]);
            cases.push(Case::new(causal, [x.clone(), x.clone(), x]));
        }
        let causal = Attention { causal: true, ..plain(1) };
        cases.push(Case::new(causal, [f32([1, 70, 8]), f32([1, 40, 8]), f32([1, 40, 8])]));
        for d in [7, 16] {
            let grouped = Attention { kv_heads: 2, scale: Some(0.25), ..plain(6) };
            let kv = f32([1, 37, 2 * d]);
            cases.push(Case::new(grouped, [f32([1, 21, 6 * d]), kv.clone(), kv]));
        }
        for d in [10, 40, 512] {
            let kv = f16([1, 35, 2 * d]);
            let op = Attention { scale: Some(1.0 / d as f64), ..plain(2) };
            cases.push(Case::new(op, [f16([1, 9, 2 * d]), kv.clone(), kv]));
        }
        // Matrix units: several blocks of queries and keys, masks, shared heads, padded features.
        for (d, causal) in
            [(40, false), (40, true), (64, false), (80, true), (160, false), (330, true), (512, false)]
        {
            let op = Attention { kv_heads: 2, causal, ..plain(4) };
            let kv = f16([2, 99, 2 * d]);
            cases.push(Case::new(op, [f16([2, 77, 4 * d]), kv.clone(), kv]));
        }
        for (mask, d, causal) in [
            ([1, 1, 1, 37], 8, false),
            ([2, 1, 1, 37], 10, false),
            ([1, 4, 70, 37], 40, false),
            ([2, 1, 70, 37], 40, true),
            ([2, 4, 70, 37], 40, false),
            ([2, 4, 1, 37], 64, false),
        ] {
            for dtype in [DType::F32, DType::F16] {
                let op =
                    Attention { kv_heads: 2, causal, mask: true, scale: Some(1.0 / d as f64), ..plain(4) };
                let kv = TensorType::new(dtype, [2, 37, 2 * d]);
                cases
                    .push(Case::new(op, [TensorType::new(dtype, [2, 70, 4 * d]), kv.clone(), kv, f32(mask)]));
            }
        }
        let kv = f16([1, 35, 40]);
        cases.push(Case::new(Attention { scale: Some(0.1), ..plain(1) }, [f32([1, 9, 40]), kv.clone(), kv]));
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(shape: [usize; 3], phase: f64) -> HostTensor {
        HostTensor::from_fn(f32(shape), |i| libm::sin(i as f64 + phase))
    }

    #[test]
    fn reference_agrees_with_torch() {
        // torch.nn.functional.scaled_dot_product_attention in f64, heads moved to and from the second dimension.
        let (q, k, v) = (operand([1, 2, 4], 0.0), operand([1, 3, 4], 1.0), operand([1, 3, 4], 2.0));
        let (k1, v1) = (operand([1, 3, 2], 1.0), operand([1, 3, 2], 2.0));
        let plain = Attention::new(2);
        let causal = Attention { causal: true, ..plain.clone() };
        let grouped = Attention { kv_heads: 1, scale: Some(0.25), ..plain.clone() };
        let cases = [
            (
                plain,
                [&q, &k, &v],
                [0.283382, 0.022904, 0.197099, -0.021972, -0.250434, 0.061067, 0.115237, 0.104481],
            ),
            (
                causal,
                [&q, &k, &v],
                [0.909297, 0.141120, -0.756802, -0.958924, -0.106331, 0.581873, 0.413545, -0.039996],
            ),
            (
                grouped,
                [&q, &k1, &v1],
                [0.063895, -0.009126, 0.050298, -0.086678, -0.197146, -0.057530, 0.016164, -0.004361],
            ),
        ];
        for (op, operands, expected) in cases {
            for (found, expected) in op.reference(&operands).data().iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{op:?}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn a_mask_is_torchs_and_a_query_that_sees_nothing_gets_zeros() {
        let (q, k, v) = (operand([1, 2, 4], 0.0), operand([1, 3, 4], 1.0), operand([1, 3, 4], 2.0));
        let hidden = f32::NEG_INFINITY;
        // The second query sees nothing; lowest finite values hide as infinities do.
        let mask = HostTensor::f32([1, 1, 2, 3], vec![0.5, hidden, -1.0, hidden, hidden, f32::MIN]);
        let y = Attention { mask: true, ..Attention::new(2) }.reference(&[&q, &k, &v, &mask]);
        let expected = [0.784455, 0.043097, -0.735065, -0.822804, 0.0, 0.0, 0.0, 0.0];
        for (found, expected) in y.data().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} for {expected}");
        }
    }

    #[test]
    fn masks_of_every_batch_head_and_query_are_torchs() {
        let (q, k, v) = (operand([2, 2, 4], 0.0), operand([2, 3, 4], 1.0), operand([2, 3, 4], 2.0));
        let op = Attention { mask: true, ..Attention::new(2) };
        // torch.nn.functional.scaled_dot_product_attention(.., attn_mask=sin(i + 0.5)), in f64
        for (shape, expected) in [
            (
                [2, 2, 2, 3],
                [
                    0.182435, 0.091416, 0.406302, 0.154607, -0.192775, -0.025109, -0.075758, -0.12727,
                    0.13025, -0.368065, -0.667971, -0.095927, 0.430354, 0.341937, 0.055768, -0.377227,
                ],
            ),
            (
                [2, 1, 1, 3],
                [
                    0.182435, 0.091416, 0.392247, 0.097029, -0.266856, 0.192236, 0.297918, 0.184779,
                    0.489371, 0.04116, -0.55589, -0.307113, 0.293847, 0.178706, 0.076847, -0.238724,
                ],
            ),
        ] {
            let mask = HostTensor::from_fn(f32(shape), |i| libm::sin(i as f64 + 0.5));
            for (found, expected) in op.reference(&[&q, &k, &v, &mask]).data().iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-6, "{shape:?}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn a_mask_that_does_not_broadcast_is_refused() {
        let kv = f32([2, 5, 4]);
        let infer = |mask| {
            Attention { mask: true, ..Attention::new(2) }.infer(&[
                f32([2, 3, 4]),
                kv.clone(),
                kv.clone(),
                mask,
            ])
        };
        assert!(infer(f32([1, 2, 1, 5])).is_ok());
        let error = infer(f32([1, 1, 3, 4])).expect_err("four keys of five");
        assert_eq!(
            error.to_string(),
            "attention: mask: expected [2 or 1, 2 or 1, 3 or 1, 5], found [1, 1, 3, 4]"
        );
    }

    /// Of a CPU's driver, which would end the loops of `attention_tiled`: measured, it is right with 9216 keys of 512 features,
    /// and wrong with 12288.
    #[test]
    fn software_is_not_given_loops_that_it_would_leave() {
        let op = Attention::new(1);
        let names = |keys, d, subgroups, software| {
            let kv = f32([1, keys, d]);
            let inputs = [f32([1, 3, d]), kv.clone(), kv];
            let caps = Caps { subgroups, software, ..Caps::webgpu() };
            let variants = op.variants(&inputs, &caps)?;
            Ok::<_, OpError>(variants.into_iter().map(|variant| variant.name).collect::<Vec<_>>())
        };
        let eight = Some(Subgroups { min: 8, max: 8 });
        assert_eq!(names(16_384, 512, None, false).ok(), Some(vec!["attention_tiled"]));
        assert_eq!(names(9_216, 512, eight, false).ok(), Some(vec!["attention_tiled"]), "lanes are for CPUs");
        assert_eq!(names(9_216, 512, None, true).ok(), Some(vec!["attention_tiled"]));
        assert_eq!(names(12_288, 512, eight, true).ok(), Some(vec!["attention_lanes"]));
        for (keys, d) in [(12_288, 512), (16_384, 160), (65_537, 8)] {
            let error = names(keys, d, None, true).expect_err("too many iterations");
            assert!(matches!(error, OpError::TooLong { .. }), "{error}");
        }
        assert!(names(16_384, 40, None, true).is_ok());
        // Two blocks of 112 keys are as many as an invocation may do.
        let kv = f32([1, 16_384, 512]);
        let caps = Caps { subgroups: eight, software: true, ..Caps::webgpu() };
        let lanes = op.variants(&[f32([1, 3, 512]), kv.clone(), kv.clone()], &caps).expect("fits");
        assert_eq!(lanes[0].dispatches.len(), 74);
        // Sums have a quad more than queries: where no binding holds them, the other is left, if it is not too long.
        for (tokens, is_left) in [(32, true), (12_288, false)] {
            let tokens = f32([1, tokens, 512]);
            let caps = Caps { max_binding_bytes: tokens.bytes(), ..caps.clone() };
            let variants = op.variants(&[tokens.clone(), tokens.clone(), tokens], &caps);
            match variants {
                Ok(variants) => {
                    assert!(is_left && variants.len() == 1 && variants[0].name == "attention_tiled")
                }
                Err(error) => {
                    assert!(!is_left && matches!(error, OpError::TooLarge { operand: "sums", .. }), "{error}")
                }
            }
        }
    }

    #[test]
    fn matrix_units_need_subgroups_of_one_size_and_a_lane_for_each_row_of_a_tile() {
        let offered = |min, max| {
            let tokens = f16([1, 64, 80]);
            let subgroups = Some(Subgroups { min, max });
            let caps = Caps { cooperative: Some(16), subgroups, workgroup_bytes: 48 << 10, ..Caps::webgpu() };
            let variants = Attention::new(2).variants(&[tokens.clone(), tokens.clone(), tokens], &caps);
            variants.expect("fits").iter().any(|variant| variant.name == "attention_cooperative")
        };
        assert!(offered(16, 16) && offered(32, 32));
        assert!(!offered(16, 32) && !offered(8, 8));
    }

    #[test]
    fn dispatches_keep_to_their_work_and_the_adapters_axes() {
        let op = Attention::new(1);
        let q = f16([1, 4096, 512]);
        let inputs = [q.clone(), q.clone(), q];
        let caps = Caps {
            subgroups: Some(Subgroups { min: 32, max: 32 }),
            cooperative: Some(16),
            workgroup_bytes: 48 << 10,
            ..Caps::webgpu()
        };
        let variants = op.variants(&inputs, &caps).expect("fits");
        let cooperative = variants.iter().find(|v| v.name == "attention_cooperative").expect("offered");
        // Four slices of ten tiles at most, each of which takes the scores twice and its part of the result once.
        let block = 2 * 64 * 4096 * 512 * 9_u64;
        let most = caps.max_dispatch_flops / block;
        assert_eq!(cooperative.dispatches.len() as u64, 64_u64.div_ceil(most));
        assert!(cooperative.dispatches.iter().all(|d| u64::from(d.grid[0]) <= most && d.grid[1] == 4));

        let many = f32([70_000, 2, 4]);
        let error = op.variants(&[many.clone(), many.clone(), many], &caps).expect_err("too many batches");
        assert_eq!(error.to_string(), "attention: 70000 batches, the adapter takes 65535 at most");
        let many = f32([1, 2, 280_000]);
        let error = Attention::new(70_000).variants(&[many.clone(), many.clone(), many], &caps);
        assert_eq!(
            error.expect_err("too many heads").to_string(),
            "attention: 70000 heads, the adapter takes 65535 at most"
        );
        // As many as there is room for are taken.
        let (batches, heads) = (f32([65_535, 1, 4]), f32([1, 1, 262_140]));
        for (heads_of, x) in [(1, batches), (65_535, heads)] {
            assert!(Attention::new(heads_of).variants(&[x.clone(), x.clone(), x], &caps).is_ok());
        }
        // Of 32,768 heads, an axis has room for one slice each, not for two.
        let offered = |d: usize| {
            let many = f16([1, 2, 32_768 * d]);
            let variants = Attention::new(32_768).variants(&[many.clone(), many.clone(), many], &caps);
            variants.expect("fits").iter().any(|v| v.name == "attention_cooperative")
        };
        assert_eq!([40, 330].map(offered), [true, false]);
        let (q, kv) = (f32([1, 2_100_001, 4]), f32([1, 1, 4]));
        let variants = op.variants(&[q, kv.clone(), kv], &caps).expect("fits");
        assert!(variants.iter().flat_map(|v| &v.dispatches).all(|d| d.grid[0] <= caps.max_groups_per_axis));
    }

    #[test]
    fn heads_must_divide() {
        let op = Attention { kv_heads: 2, ..Attention::new(3) };
        let x = f32([1, 2, 6]);
        let error = op.infer(&[x.clone(), x.clone(), x]).expect_err("2 does not divide 3");
        assert_eq!(error.to_string(), "attention: heads 3 is not a multiple of 2");
    }
}

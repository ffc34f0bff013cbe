// matmul_cooperative.wgsl: y = epilogue(A * w), A a matrix or (CONV) the patches of an image, on matrix units.
// Work:      one workgroup of four subgroups per 8 * TILE rows and columns, and part of k where it is split, each subgroup
//            4 x 4 tiles; slabs of 32 terms of k pass through workgroup memory as f16, sums leave through it as f32.
// Precision: products of f16 values, f32 sums in the order of the matrix unit.
// Traffic:   a read N / (8 * TILE) times, w read M / (8 * TILE) times, y written once.
// variant: COOPERATIVE COOPERATIVE_16 a=f16 w=f16 y=f16 bias=f32 batch_bias=f16 residual=f16 SUBGROUP=32
// variant: COOPERATIVE COOPERATIVE_16 CONV a=f16 w=f16 y=f16 bias=f32 batch_bias=f16 residual=f16 SUBGROUP=64
// variant: COOPERATIVE a=f16 w=f16 y=f16 bias=f32 batch_bias=f16 residual=f16 SUBGROUP=32
// variant: COOPERATIVE CONV a=f16 w=f16 y=f16 bias=f32 batch_bias=f16 residual=f16 SUBGROUP=8
#import contraction

@group(0) @binding(1) var<storage, read>       w: array<W4>;            // [products or 1, taps * K, N]

#import cooperative

const THREADS: u32 = 4u * SUBGROUP;
const BLOCK: u32 = 8u * TILE;
const SLAB_QUADS: u32 = 8u;
// Eight more than there are: the rows that a subgroup loads then begin in different banks.
const A_PITCH: u32 = 4u * SLAB_QUADS + 8u;
const W_PITCH: u32 = BLOCK + 8u;

var<workgroup> starts: array<u32, BLOCK>;                               // where the part of each row of A lies
var<workgroup> a_slab: array<f16, BLOCK * A_PITCH>;                     // [BLOCK, 32]
var<workgroup> w_slab: array<f16, 4u * SLAB_QUADS * W_PITCH>;           // [32, BLOCK]
var<workgroup> sums: array<f32, 4u * TILE * TILE>;                      // a tile of each subgroup

struct Place {
    product: u32,
    first: u32,         // row of the bound y that the product starts at
    part_row: u32,      // the same in the results of all parts
    row: u32,           // row of the product that the subgroup starts at
    quad: u32,          // quad of the columns that it starts at
    subgroup: u32,
    lane: u32,
}

// Stores the tile `i` rows and `j` columns of tiles from the subgroup's first. Every invocation has to call it.
fn store_tile(tile: SumTile, i: u32, j: u32, place: Place) {
    let stage = place.subgroup * TILE * TILE;
    let pitch = TILE;
    coopStoreT(tile, &sums[stage], pitch);
    workgroupBarrier();
    let n_quads = (p.n + 3u) / 4u;
    for (var at = place.lane; at < TILE * TILE / 8u; at += SUBGROUP) {
        let row = place.row + i * TILE + at / (TILE / 8u);
        let quad = place.quad + j * TILE / 4u + at % (TILE / 8u) * 2u;
        if (row < p.m && quad < n_quads) {
            let source = stage + at * 8u;
            let left = vec4<f32>(sums[source], sums[source + 1u], sums[source + 2u], sums[source + 3u]);
            let right = vec4<f32>(sums[source + 4u], sums[source + 5u], sums[source + 6u], sums[source + 7u]);
            let batch = (place.first + row + p.first_row) / p.batch_rows;
            store_pair(left, right, place.product, place.part_row + row, quad, batch);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let row_blocks = (p.m + BLOCK - 1u) / BLOCK;
    let block = p.first_group + group.x;
    let part = block / row_blocks / batches();
    if (part >= parts()) { return; }
    let product = block / row_blocks % batches();
    let terms = terms_of(part);
    let n_quads = (p.n + 3u) / 4u;
    let row = block % row_blocks * BLOCK;
    let first_quad = group.y * (BLOCK / 4u);
    let tile_row = subgroup / 2u * 4u * TILE;
    let tile_column = subgroup % 2u * 4u * TILE;

    var s00 = SumTile(); var s01 = SumTile(); var s02 = SumTile(); var s03 = SumTile();
    var s10 = SumTile(); var s11 = SumTile(); var s12 = SumTile(); var s13 = SumTile();
    var s20 = SumTile(); var s21 = SumTile(); var s22 = SumTile(); var s23 = SumTile();
    var s30 = SumTile(); var s31 = SumTile(); var s32 = SumTile(); var s33 = SumTile();
    // An invocation loads from one column of quads: THREADS is a multiple of BLOCK / 4.
    let w_quad = min(first_quad + thread % (BLOCK / 4u), n_quads - 1u);
    let w_column = column_at(product, w_quad);
    let w_step = column_step(w_quad);
    for (var tap = 0u; tap < taps(); tap++) {
        for (var r = thread; r < BLOCK; r += THREADS) {
            // Rows and columns beyond the last repeat it: loads stay in bounds, and nothing of them is stored.
            starts[r] = part_at(row_at(product, min(row + r, p.m - 1u)), tap);
        }
        workgroupBarrier();
        for (var k = terms.first; k < terms.end; k += SLAB_QUADS) {
            for (var i = thread; i < BLOCK * SLAB_QUADS; i += THREADS) {
                // Terms beyond K are zero, so that those of w_slab, which repeat the last row, add nothing.
                let quad = k + i % SLAB_QUADS;
                let found = load_part(starts[i / SLAB_QUADS], min(quad, p.k_quads - 1u));
                let v = vec4<f16>(select(vec4<f32>(), found, quad < p.k_quads));
                let at = i / SLAB_QUADS * A_PITCH + i % SLAB_QUADS * 4u;
                a_slab[at] = v.x; a_slab[at + 1u] = v.y; a_slab[at + 2u] = v.z; a_slab[at + 3u] = v.w;
            }
            for (var i = thread; i < SLAB_QUADS * BLOCK; i += THREADS) {
                let w_row = tap * p.k_quads * 4u + min(k * 4u + i / (BLOCK / 4u), p.k_quads * 4u - 1u);
                let v = vec4<f16>(decode_w(w[w_column + w_row * w_step]));
                let at = i / (BLOCK / 4u) * W_PITCH + i % (BLOCK / 4u) * 4u;
                w_slab[at] = v.x; w_slab[at + 1u] = v.y; w_slab[at + 2u] = v.z; w_slab[at + 3u] = v.w;
            }
            workgroupBarrier();
            for (var term = 0u; term < 4u * SLAB_QUADS; term += TILE) {
                let a_at = tile_row * A_PITCH + term;
                let w_at = term * W_PITCH + tile_column;
                let a1_at = a_at + TILE * A_PITCH;
                let a2_at = a1_at + TILE * A_PITCH;
                let a3_at = a2_at + TILE * A_PITCH;
                let w1_at = w_at + TILE;
                let w2_at = w1_at + TILE;
                let w3_at = w2_at + TILE;
                let a0 = coopLoadT<LeftTile>(&a_slab[a_at], A_PITCH);
                let a1 = coopLoadT<LeftTile>(&a_slab[a1_at], A_PITCH);
                let a2 = coopLoadT<LeftTile>(&a_slab[a2_at], A_PITCH);
                let a3 = coopLoadT<LeftTile>(&a_slab[a3_at], A_PITCH);
                let w0 = coopLoadT<RightTile>(&w_slab[w_at], W_PITCH);
                s00 = coopMultiplyAdd(a0, w0, s00); s10 = coopMultiplyAdd(a1, w0, s10);
                s20 = coopMultiplyAdd(a2, w0, s20); s30 = coopMultiplyAdd(a3, w0, s30);
                let w1 = coopLoadT<RightTile>(&w_slab[w1_at], W_PITCH);
                s01 = coopMultiplyAdd(a0, w1, s01); s11 = coopMultiplyAdd(a1, w1, s11);
                s21 = coopMultiplyAdd(a2, w1, s21); s31 = coopMultiplyAdd(a3, w1, s31);
                let w2 = coopLoadT<RightTile>(&w_slab[w2_at], W_PITCH);
                s02 = coopMultiplyAdd(a0, w2, s02); s12 = coopMultiplyAdd(a1, w2, s12);
                s22 = coopMultiplyAdd(a2, w2, s22); s32 = coopMultiplyAdd(a3, w2, s32);
                let w3 = coopLoadT<RightTile>(&w_slab[w3_at], W_PITCH);
                s03 = coopMultiplyAdd(a0, w3, s03); s13 = coopMultiplyAdd(a1, w3, s13);
                s23 = coopMultiplyAdd(a2, w3, s23); s33 = coopMultiplyAdd(a3, w3, s33);
            }
            workgroupBarrier();
        }
    }

    let part_row = (part * batches() + product) * p.m;
    let place = Place(product, product * p.m, part_row, row + tile_row, first_quad + tile_column / 4u, subgroup, lane);
    store_tile(s00, 0u, 0u, place); store_tile(s01, 0u, 1u, place);
    store_tile(s02, 0u, 2u, place); store_tile(s03, 0u, 3u, place);
    store_tile(s10, 1u, 0u, place); store_tile(s11, 1u, 1u, place);
    store_tile(s12, 1u, 2u, place); store_tile(s13, 1u, 3u, place);
    store_tile(s20, 2u, 0u, place); store_tile(s21, 2u, 1u, place);
    store_tile(s22, 2u, 2u, place); store_tile(s23, 2u, 3u, place);
    store_tile(s30, 3u, 0u, place); store_tile(s31, 3u, 1u, place);
    store_tile(s32, 3u, 2u, place); store_tile(s33, 3u, 3u, place);
}

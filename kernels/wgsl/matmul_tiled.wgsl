// matmul_tiled.wgsl: y = epilogue(A * w), A a matrix or (CONV) the patches of an image.
// Work:      one workgroup per 8 * ROW_THREADS rows x 64 columns, and part of k where it is split, each invocation 8 rows x
//            8 columns in registers; slabs of 16 terms of k pass through workgroup memory.
// Precision: f32 sums in the order of k.
// Traffic:   a read N/64 times, w read M / (8 * ROW_THREADS) times, y written once.
// variant: a=f32 w=f16 y=f32 bias=f32 batch_bias=f32 residual=f32 ROW_THREADS=16
// variant: a=f16 w=bf16 y=f16 bias=f32 batch_bias=f16 residual=f16 ROW_THREADS=8
// variant: CONV a=f32 w=f32 y=f32 bias=f16 batch_bias=f32 residual=f32 ROW_THREADS=16
// variant: CONV a=f16 w=f16 y=f16 bias=f32 batch_bias=f32 residual=f32 ROW_THREADS=16
#import contraction

@group(0) @binding(1) var<storage, read>       w: array<W4>;            // [products or 1, taps * K, N]

const TILE_M = 8u * ROW_THREADS;
// Quads from one row of a_tile to the next: odd, so that the rows which a subgroup reads lie in different banks.
const A_PITCH = 5u;

var<workgroup> a_tile: array<vec4<f32>, TILE_M * A_PITCH>;              // [TILE_M, 16]
var<workgroup> w_tile: array<vec4<f32>, 256>;                           // [16, 64], in a row the even quads before the odd ones

@compute @workgroup_size(8, ROW_THREADS)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let row_blocks = (p.m + TILE_M - 1u) / TILE_M;
    let block = p.first_group + group.x;
    let part = block / row_blocks / batches();
    if (part >= parts()) { return; }
    let batch = block / row_blocks % batches();
    let terms = terms_of(part);
    let n_quads = (p.n + 3u) / 4u;
    let first_quad = group.y * 16u;
    // Rows and columns beyond the last repeat it: loads stay in bounds, and nothing of them is stored.
    let row = block % row_blocks * TILE_M;
    let first = batch * p.m + row;
    // An invocation loads one quad of four rows of a_tile and a column of quads of w_tile.
    let load_row = thread / 4u;
    let load_quad = thread % 4u;
    let r0 = row_at(batch, min(row + load_row + 0u * ROW_THREADS, p.m - 1u));
    let r1 = row_at(batch, min(row + load_row + 2u * ROW_THREADS, p.m - 1u));
    let r2 = row_at(batch, min(row + load_row + 4u * ROW_THREADS, p.m - 1u));
    let r3 = row_at(batch, min(row + load_row + 6u * ROW_THREADS, p.m - 1u));
    var s0l = vec4<f32>(); var s0r = vec4<f32>();
    var s1l = vec4<f32>(); var s1r = vec4<f32>();
    var s2l = vec4<f32>(); var s2r = vec4<f32>();
    var s3l = vec4<f32>(); var s3r = vec4<f32>();
    var s4l = vec4<f32>(); var s4r = vec4<f32>();
    var s5l = vec4<f32>(); var s5r = vec4<f32>();
    var s6l = vec4<f32>(); var s6r = vec4<f32>();
    var s7l = vec4<f32>(); var s7r = vec4<f32>();
    let w_quad = min(first_quad + thread % 16u, n_quads - 1u);
    let w_place = thread % 2u * 8u + thread % 16u / 2u;
    let w_slab = column_at(batch, w_quad);
    let w_step = column_step(w_quad);
    for (var tap = 0u; tap < taps(); tap++) {
        let p0 = part_at(r0, tap);
        let p1 = part_at(r1, tap);
        let p2 = part_at(r2, tap);
        let p3 = part_at(r3, tap);
        for (var k = terms.first; k < terms.end; k += 4u) {
            // Terms beyond K are zero in a_tile, so that those of w_tile, which repeat the last row, add nothing.
            let inside = k + load_quad < p.k_quads;
            let quad = min(k + load_quad, p.k_quads - 1u);
            let at = load_row * A_PITCH + load_quad;
            workgroupBarrier();
            a_tile[at + 0u * ROW_THREADS * A_PITCH] = select(vec4<f32>(), load_part(p0, quad), inside);
            a_tile[at + 2u * ROW_THREADS * A_PITCH] = select(vec4<f32>(), load_part(p1, quad), inside);
            a_tile[at + 4u * ROW_THREADS * A_PITCH] = select(vec4<f32>(), load_part(p2, quad), inside);
            a_tile[at + 6u * ROW_THREADS * A_PITCH] = select(vec4<f32>(), load_part(p3, quad), inside);
            for (var i = thread / 16u; i < 16u; i += ROW_THREADS / 2u) {
                let w_row = tap * p.k_quads * 4u + min(k * 4u + i, p.k_quads * 4u - 1u);
                w_tile[i * 16u + w_place] = decode_w(w[w_slab + w_row * w_step]);
            }
            workgroupBarrier();
            for (var q = 0u; q < 4u; q++) {
                let at = q * 64u + local.x;
                let left = mat4x4<f32>(w_tile[at], w_tile[at + 16u], w_tile[at + 32u], w_tile[at + 48u]);
                let right = mat4x4<f32>(w_tile[at + 8u], w_tile[at + 24u], w_tile[at + 40u], w_tile[at + 56u]);
                let x0 = a_tile[(local.y + 0u * ROW_THREADS) * A_PITCH + q];
                s0l = fma4(x0, left, s0l); s0r = fma4(x0, right, s0r);
                let x1 = a_tile[(local.y + 1u * ROW_THREADS) * A_PITCH + q];
                s1l = fma4(x1, left, s1l); s1r = fma4(x1, right, s1r);
                let x2 = a_tile[(local.y + 2u * ROW_THREADS) * A_PITCH + q];
                s2l = fma4(x2, left, s2l); s2r = fma4(x2, right, s2r);
                let x3 = a_tile[(local.y + 3u * ROW_THREADS) * A_PITCH + q];
                s3l = fma4(x3, left, s3l); s3r = fma4(x3, right, s3r);
                let x4 = a_tile[(local.y + 4u * ROW_THREADS) * A_PITCH + q];
                s4l = fma4(x4, left, s4l); s4r = fma4(x4, right, s4r);
                let x5 = a_tile[(local.y + 5u * ROW_THREADS) * A_PITCH + q];
                s5l = fma4(x5, left, s5l); s5r = fma4(x5, right, s5r);
                let x6 = a_tile[(local.y + 6u * ROW_THREADS) * A_PITCH + q];
                s6l = fma4(x6, left, s6l); s6r = fma4(x6, right, s6r);
                let x7 = a_tile[(local.y + 7u * ROW_THREADS) * A_PITCH + q];
                s7l = fma4(x7, left, s7l); s7r = fma4(x7, right, s7r);
            }
        }
    }
    var sums = array<vec4<f32>, 16>(
        s0l, s0r, s1l, s1r, s2l, s2r, s3l, s3r,
        s4l, s4r, s5l, s5r, s6l, s6r, s7l, s7r,
    );
    let quad = first_quad + 2u * local.x;
    if (quad >= n_quads) { return; }
    let part_row = part * batches() * p.m + first;
    for (var i = 0u; i < 8u; i++) {
        let tile_row = local.y + i * ROW_THREADS;
        if (row + tile_row >= p.m) { return; }
        let bias_row = (first + tile_row + p.first_row) / p.batch_rows;
        store_pair(sums[i * 2u], sums[i * 2u + 1u], batch, part_row + tile_row, quad, bias_row);
    }
}

// matmul_square.wgsl: y = epilogue(A * w), A a matrix or (CONV) the patches of an image.
// Work:      one workgroup of 16 x 16 invocations per 128 rows x 128 columns, each 8 rows x 8 columns in registers; slabs of 8 terms of
//            k pass through workgroup memory, of which an invocation loads a quad of A and one of w.
// Precision: f32 sums in the order of k.
// Traffic:   a read N/128 times, w read M/128 times, y written once.
// variant: a=f32 w=f16 y=f32 bias=f32 batch_bias=f32 residual=f32
// variant: a=f16 w=bf16 y=f16 bias=f32 batch_bias=f16 residual=f16
// variant: CONV a=f32 w=f32 y=f32 bias=f16 batch_bias=f32 residual=f32
// variant: CONV a=f16 w=f16 y=f16 bias=f32 batch_bias=f32 residual=f32
#import contraction

@group(0) @binding(1) var<storage, read>       w: array<W4>;            // [products or 1, taps * K, N]

const TILE = 128u;
// Quads from one row of a_tile to the next: odd, so that the rows which a subgroup reads lie in different banks.
const A_PITCH = 3u;

var<workgroup> a_tile: array<vec4<f32>, TILE * A_PITCH>;                // [128, 8]
var<workgroup> w_tile: array<vec4<f32>, 256>;                           // [8, 128], in a row the even quads before the odd ones

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let row_blocks = (p.m + TILE - 1u) / TILE;
    let block = p.first_group + group.x;
    let batch = block / row_blocks;
    if (batch >= batches()) { return; }
    let n_quads = (p.n + 3u) / 4u;
    let first_quad = group.y * (TILE / 4u);
    // Rows and columns beyond the last repeat it: loads stay in bounds, and nothing of them is stored.
    let row = block % row_blocks * TILE;
    let first = batch * p.m + row;
    let load_row = thread / 2u;
    let load_quad = thread % 2u;
    let own_row = row_at(batch, min(row + load_row, p.m - 1u));
    let w_row = thread / 32u;
    let w_quad = min(first_quad + thread % 32u, n_quads - 1u);
    let w_place = w_row * 32u + thread % 2u * 16u + thread % 32u / 2u;
    let w_slab = column_at(batch, w_quad);
    let w_step = column_step(w_quad);
    var s0l = vec4<f32>(); var s0r = vec4<f32>();
    var s1l = vec4<f32>(); var s1r = vec4<f32>();
    var s2l = vec4<f32>(); var s2r = vec4<f32>();
    var s3l = vec4<f32>(); var s3r = vec4<f32>();
    var s4l = vec4<f32>(); var s4r = vec4<f32>();
    var s5l = vec4<f32>(); var s5r = vec4<f32>();
    var s6l = vec4<f32>(); var s6r = vec4<f32>();
    var s7l = vec4<f32>(); var s7r = vec4<f32>();
    for (var tap = 0u; tap < taps(); tap++) {
        let part = part_at(own_row, tap);
        for (var k = 0u; k < p.k_quads; k += 2u) {
            // Terms beyond K are zero in a_tile, so that those of w_tile, which repeat the last row, add nothing.
            let inside = k + load_quad < p.k_quads;
            let loaded = select(vec4<f32>(), load_part(part, min(k + load_quad, p.k_quads - 1u)), inside);
            let term = tap * p.k_quads * 4u + min(k * 4u + w_row, p.k_quads * 4u - 1u);
            let weights = decode_w(w[w_slab + term * w_step]);
            workgroupBarrier();
            a_tile[load_row * A_PITCH + load_quad] = loaded;
            w_tile[w_place] = weights;
            workgroupBarrier();
            for (var q = 0u; q < 2u; q++) {
                let at = q * 128u + local.x;
                let left = mat4x4<f32>(w_tile[at], w_tile[at + 32u], w_tile[at + 64u], w_tile[at + 96u]);
                let right = mat4x4<f32>(w_tile[at + 16u], w_tile[at + 48u], w_tile[at + 80u], w_tile[at + 112u]);
                let x0 = a_tile[(local.y + 0u * 16u) * A_PITCH + q];
                s0l = fma4(x0, left, s0l); s0r = fma4(x0, right, s0r);
                let x1 = a_tile[(local.y + 1u * 16u) * A_PITCH + q];
                s1l = fma4(x1, left, s1l); s1r = fma4(x1, right, s1r);
                let x2 = a_tile[(local.y + 2u * 16u) * A_PITCH + q];
                s2l = fma4(x2, left, s2l); s2r = fma4(x2, right, s2r);
                let x3 = a_tile[(local.y + 3u * 16u) * A_PITCH + q];
                s3l = fma4(x3, left, s3l); s3r = fma4(x3, right, s3r);
                let x4 = a_tile[(local.y + 4u * 16u) * A_PITCH + q];
                s4l = fma4(x4, left, s4l); s4r = fma4(x4, right, s4r);
                let x5 = a_tile[(local.y + 5u * 16u) * A_PITCH + q];
                s5l = fma4(x5, left, s5l); s5r = fma4(x5, right, s5r);
                let x6 = a_tile[(local.y + 6u * 16u) * A_PITCH + q];
                s6l = fma4(x6, left, s6l); s6r = fma4(x6, right, s6r);
                let x7 = a_tile[(local.y + 7u * 16u) * A_PITCH + q];
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
    for (var i = 0u; i < 8u; i++) {
        let tile_row = local.y + i * 16u;
        if (row + tile_row >= p.m) { return; }
        let bias_row = (first + tile_row + p.first_row) / p.batch_rows;
        store_pair(sums[i * 2u], sums[i * 2u + 1u], batch, first + tile_row, quad, bias_row);
    }
}

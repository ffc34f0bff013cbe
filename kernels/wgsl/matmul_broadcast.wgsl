// matmul_broadcast.wgsl: y = epilogue(A * w), A a matrix or (CONV) the patches of an image. For software Vulkan.
// Work:      one subgroup of 8 per 16 rows x 64 columns, each lane 16 rows x 8 columns in registers; each element of A is
//            loaded by one lane and shuffled to the others. On a CPU a storage access is a scalar loop over the lanes and a
//            barrier splits the kernel: neither stands where a shuffle will do.
// Precision: f32 sums in the order of k.
// Traffic:   a read N/64 times, w read M/16 times, y written once. Needs N % 8 == 0.
// variant: a=f32 w=f16 y=f32 bias=f32 batch_bias=f32 residual=f32
// variant: a=f16 w=bf16 y=f16 bias=f32 batch_bias=f16 residual=f16
// variant: CONV a=f32 w=f32 y=f32 bias=f16 batch_bias=f32 residual=f32
// variant: CONV a=f16 w=f16 y=f16 bias=f32 batch_bias=f32 residual=f32
#import contraction

#ifdef W_F32
@group(0) @binding(1) var<storage, read>       w: array<W4>;            // [products or 1, taps * K, N]
#else
@group(0) @binding(1) var<storage, read>       w: array<vec4<u32>>;     // [products or 1, taps * K, N / 8]
#endif

struct Columns { left: vec4<f32>, right: vec4<f32> }

fn load_columns(at: u32) -> Columns {
#ifdef W_F32
    return Columns(decode_w(w[at * 2u]), decode_w(w[at * 2u + 1u]));
#else
    let packed = w[at];
    return Columns(decode_w(packed.xy), decode_w(packed.zw));
#endif
}

@compute @workgroup_size(8)
fn main(
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let row_blocks = (p.m + 15u) / 16u;
    let block = p.first_group + group.x;
    let batch = block / row_blocks;
    if (batch >= batches()) { return; }
    let columns = p.n / 8u;
    let column = group.y * 8u + lane;
    // Rows and columns beyond the last repeat it: loads stay in bounds, and nothing of them is stored.
    let row = block % row_blocks * 16u;
    let first = batch * p.m + row;
    // Of a tile of 16 rows x 8 terms of k a lane loads 4 quads: quad lane % 2 of rows lane / 2 + 0, 4, ..
    let r0 = row_at(batch, min(row + lane / 2u + 0u, p.m - 1u));
    let r1 = row_at(batch, min(row + lane / 2u + 4u, p.m - 1u));
    let r2 = row_at(batch, min(row + lane / 2u + 8u, p.m - 1u));
    let r3 = row_at(batch, min(row + lane / 2u + 12u, p.m - 1u));
    var s0l = vec4<f32>(); var s0r = vec4<f32>();
    var s1l = vec4<f32>(); var s1r = vec4<f32>();
    var s2l = vec4<f32>(); var s2r = vec4<f32>();
    var s3l = vec4<f32>(); var s3r = vec4<f32>();
    var s4l = vec4<f32>(); var s4r = vec4<f32>();
    var s5l = vec4<f32>(); var s5r = vec4<f32>();
    var s6l = vec4<f32>(); var s6r = vec4<f32>();
    var s7l = vec4<f32>(); var s7r = vec4<f32>();
    var s8l = vec4<f32>(); var s8r = vec4<f32>();
    var s9l = vec4<f32>(); var s9r = vec4<f32>();
    var s10l = vec4<f32>(); var s10r = vec4<f32>();
    var s11l = vec4<f32>(); var s11r = vec4<f32>();
    var s12l = vec4<f32>(); var s12r = vec4<f32>();
    var s13l = vec4<f32>(); var s13r = vec4<f32>();
    var s14l = vec4<f32>(); var s14r = vec4<f32>();
    var s15l = vec4<f32>(); var s15r = vec4<f32>();
    let w_quad = min(column, columns - 1u) * 2u;
    var at = column_at(batch, w_quad) / 2u;
    let step = column_step(w_quad) / 2u;
    for (var tap = 0u; tap < taps(); tap++) {
        let p0 = part_at(r0, tap);
        let p1 = part_at(r1, tap);
        let p2 = part_at(r2, tap);
        let p3 = part_at(r3, tap);
        for (var k = 0u; k < p.k_quads; k += 2u) {
            let quad = min(k + lane % 2u, p.k_quads - 1u);
            let a0 = load_part(p0, quad);
            let a1 = load_part(p1, quad);
            let a2 = load_part(p2, quad);
            let a3 = load_part(p3, quad);
            for (var half = 0u; half < min(p.k_quads - k, 2u); half++) {
                let w0 = load_columns(at);
                let w1 = load_columns(at + step);
                let w2 = load_columns(at + 2u * step);
                let w3 = load_columns(at + 3u * step);
                at += 4u * step;
                let left = mat4x4<f32>(w0.left, w1.left, w2.left, w3.left);
                let right = mat4x4<f32>(w0.right, w1.right, w2.right, w3.right);
                let x0 = subgroupShuffle(a0, half);
                s0l = fma4(x0, left, s0l); s0r = fma4(x0, right, s0r);
                let x1 = subgroupShuffle(a0, 2u + half);
                s1l = fma4(x1, left, s1l); s1r = fma4(x1, right, s1r);
                let x2 = subgroupShuffle(a0, 4u + half);
                s2l = fma4(x2, left, s2l); s2r = fma4(x2, right, s2r);
                let x3 = subgroupShuffle(a0, 6u + half);
                s3l = fma4(x3, left, s3l); s3r = fma4(x3, right, s3r);
                let x4 = subgroupShuffle(a1, half);
                s4l = fma4(x4, left, s4l); s4r = fma4(x4, right, s4r);
                let x5 = subgroupShuffle(a1, 2u + half);
                s5l = fma4(x5, left, s5l); s5r = fma4(x5, right, s5r);
                let x6 = subgroupShuffle(a1, 4u + half);
                s6l = fma4(x6, left, s6l); s6r = fma4(x6, right, s6r);
                let x7 = subgroupShuffle(a1, 6u + half);
                s7l = fma4(x7, left, s7l); s7r = fma4(x7, right, s7r);
                let x8 = subgroupShuffle(a2, half);
                s8l = fma4(x8, left, s8l); s8r = fma4(x8, right, s8r);
                let x9 = subgroupShuffle(a2, 2u + half);
                s9l = fma4(x9, left, s9l); s9r = fma4(x9, right, s9r);
                let x10 = subgroupShuffle(a2, 4u + half);
                s10l = fma4(x10, left, s10l); s10r = fma4(x10, right, s10r);
                let x11 = subgroupShuffle(a2, 6u + half);
                s11l = fma4(x11, left, s11l); s11r = fma4(x11, right, s11r);
                let x12 = subgroupShuffle(a3, half);
                s12l = fma4(x12, left, s12l); s12r = fma4(x12, right, s12r);
                let x13 = subgroupShuffle(a3, 2u + half);
                s13l = fma4(x13, left, s13l); s13r = fma4(x13, right, s13r);
                let x14 = subgroupShuffle(a3, 4u + half);
                s14l = fma4(x14, left, s14l); s14r = fma4(x14, right, s14r);
                let x15 = subgroupShuffle(a3, 6u + half);
                s15l = fma4(x15, left, s15l); s15r = fma4(x15, right, s15r);
            }
        }
    }
    if (column >= columns) { return; }
    var sums = array<vec4<f32>, 32>(
        s0l, s0r, s1l, s1r, s2l, s2r, s3l, s3r,
        s4l, s4r, s5l, s5r, s6l, s6r, s7l, s7r,
        s8l, s8r, s9l, s9r, s10l, s10r, s11l, s11r,
        s12l, s12r, s13l, s13r, s14l, s14r, s15l, s15r,
    );
    for (var i = 0u; i < min(p.m - row, 16u); i++) {
        let bias_row = (first + i + p.first_row) / p.batch_rows;
        store_pair(sums[i * 2u], sums[i * 2u + 1u], batch, first + i, column * 2u, bias_row);
    }
}

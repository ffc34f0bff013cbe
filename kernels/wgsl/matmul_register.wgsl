// matmul_register.wgsl: y = epilogue(A * w), A a matrix or (CONV) the patches of an image.
// Work:      one invocation per 8 rows x 8 columns, held in registers; no workgroup memory.
// Precision: f32 sums in the order of k.
// Traffic:   a read N/8 times, w read M/8 times, y written once.
// variant: a=f32 w=f16 y=f32 bias=f32 batch_bias=f32 residual=f32
// variant: a=f16 w=bf16 y=f16 bias=f32 batch_bias=f16 residual=f16
// variant: CONV a=f32 w=f32 y=f32 bias=f16 batch_bias=f32 residual=f32
// variant: CONV a=f16 w=f16 y=f16 bias=f32 batch_bias=f32 residual=f32
#import contraction

@group(0) @binding(1) var<storage, read>       w: array<W4>;            // [products or 1, taps * K, N]

// Lanes hold neighbouring column blocks of one row block: a is then loaded from one address by the whole subgroup.
@compute @workgroup_size(8, 4)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let n_quads = (p.n + 3u) / 4u;
    let row_blocks = (p.m + 7u) / 8u;
    let quad = (group.x * 8u + local.x) * 2u;
    let block = (p.first_group + group.y) * 4u + local.y;
    let batch = block / row_blocks;
    if (quad >= n_quads || batch >= batches()) { return; }
    let second = min(quad + 1u, n_quads - 1u);
    // Rows beyond the last repeat it: loads stay in bounds, and nothing of them is stored.
    let row = block % row_blocks * 8u;
    let first = batch * p.m + row;
    let r0 = row_at(batch, row);
    let r1 = row_at(batch, min(row + 1u, p.m - 1u));
    let r2 = row_at(batch, min(row + 2u, p.m - 1u));
    let r3 = row_at(batch, min(row + 3u, p.m - 1u));
    let r4 = row_at(batch, min(row + 4u, p.m - 1u));
    let r5 = row_at(batch, min(row + 5u, p.m - 1u));
    let r6 = row_at(batch, min(row + 6u, p.m - 1u));
    let r7 = row_at(batch, min(row + 7u, p.m - 1u));
    var s0l = vec4<f32>(); var s0r = vec4<f32>();
    var s1l = vec4<f32>(); var s1r = vec4<f32>();
    var s2l = vec4<f32>(); var s2r = vec4<f32>();
    var s3l = vec4<f32>(); var s3r = vec4<f32>();
    var s4l = vec4<f32>(); var s4r = vec4<f32>();
    var s5l = vec4<f32>(); var s5r = vec4<f32>();
    var s6l = vec4<f32>(); var s6r = vec4<f32>();
    var s7l = vec4<f32>(); var s7r = vec4<f32>();
    var at = column_at(batch, quad);
    let step = column_step(quad);
    let beside = second - quad;
    for (var tap = 0u; tap < taps(); tap++) {
        let p0 = part_at(r0, tap);
        let p1 = part_at(r1, tap);
        let p2 = part_at(r2, tap);
        let p3 = part_at(r3, tap);
        let p4 = part_at(r4, tap);
        let p5 = part_at(r5, tap);
        let p6 = part_at(r6, tap);
        let p7 = part_at(r7, tap);
        for (var k = 0u; k < p.k_quads; k++) {
            let w0 = at;
            let w1 = w0 + step;
            let w2 = w1 + step;
            let w3 = w2 + step;
            at = w3 + step;
            let left = mat4x4<f32>(
                decode_w(w[w0]), decode_w(w[w1]), decode_w(w[w2]), decode_w(w[w3]));
            let right = mat4x4<f32>(
                decode_w(w[w0 + beside]), decode_w(w[w1 + beside]), decode_w(w[w2 + beside]), decode_w(w[w3 + beside]));
            let x0 = load_part(p0, k); s0l = fma4(x0, left, s0l); s0r = fma4(x0, right, s0r);
            let x1 = load_part(p1, k); s1l = fma4(x1, left, s1l); s1r = fma4(x1, right, s1r);
            let x2 = load_part(p2, k); s2l = fma4(x2, left, s2l); s2r = fma4(x2, right, s2r);
            let x3 = load_part(p3, k); s3l = fma4(x3, left, s3l); s3r = fma4(x3, right, s3r);
            let x4 = load_part(p4, k); s4l = fma4(x4, left, s4l); s4r = fma4(x4, right, s4r);
            let x5 = load_part(p5, k); s5l = fma4(x5, left, s5l); s5r = fma4(x5, right, s5r);
            let x6 = load_part(p6, k); s6l = fma4(x6, left, s6l); s6r = fma4(x6, right, s6r);
            let x7 = load_part(p7, k); s7l = fma4(x7, left, s7l); s7r = fma4(x7, right, s7r);
        }
    }
    var sums = array<vec4<f32>, 16>(
        s0l, s0r, s1l, s1r, s2l, s2r, s3l, s3r,
        s4l, s4r, s5l, s5r, s6l, s6r, s7l, s7r,
    );
    for (var i = 0u; i < min(p.m - row, 8u); i++) {
        let bias_row = (first + i + p.first_row) / p.batch_rows;
        store_pair(sums[i * 2u], sums[i * 2u + 1u], batch, first + i, quad, bias_row);
    }
}

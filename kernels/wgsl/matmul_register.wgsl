// matmul_register.wgsl: y = epilogue(a * b), per batch.
// Work:      one invocation per 8 rows x 8 columns, held in registers; no workgroup memory.
// Precision: f32 sums in the order of k.
// Traffic:   a read N/8 times, b read M/8 times, y written once.
// variant: a=f32 w=f16 y=f32
// variant: a=f16 w=bf16 y=f16 bias=f32 BIAS residual=f16 RESIDUAL
// variant: a=f32 w=f32 y=f32 bias=f32 BIAS batch_bias=f32 BATCH_BIAS
struct Params {
    m: u32,             // rows of a and y in one batch
    n: u32,             // columns of b and y
    k_quads: u32,       // quads in a row of a
    batch_rows: u32,    // rows of y that share one row of batch_bias
    b_stride: u32,      // quads from one batch's b to the next; 0 if all share it
    activation: u32,
    row_blocks: u32,    // blocks of 8 rows in one batch
    first_row: u32,     // row of the whole y that the bound window starts at
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       a: array<A4>;            // [batch, M, K]
@group(0) @binding(1) var<storage, read>       w: array<W4>;            // [batch or 1, K, N]
#ifdef BIAS
@group(0) @binding(2) var<storage, read>       bias: array<BIAS4>;      // [N]
#endif
#ifdef BATCH_BIAS
@group(0) @binding(3) var<storage, read>       batch_bias: array<BATCH_BIAS4>; // [M / batch_rows, N]
#endif
#ifdef RESIDUAL
@group(0) @binding(4) var<storage, read>       residual: array<RESIDUAL4>;     // [batch, M, N]
#endif
@group(0) @binding(5) var<storage, read_write> y: array<Y4>;            // [batch, M, N]

#import epilogue

// Lanes hold neighbouring column blocks of one row block: a is then loaded from one address by the whole workgroup.
@compute @workgroup_size(8, 4)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n_quads = (p.n + 3u) / 4u;
    let quad = id.x * 2u;
    let block = id.y % p.row_blocks;
    let batch = id.y / p.row_blocks;
    let row = block * 8u;
    if (quad >= n_quads || row >= p.m) { return; }
    let second = min(quad + 1u, n_quads - 1u);
    let k4 = p.k_quads;
    // Rows beyond the last repeat it: loads stay in bounds, and nothing of them is stored.
    let base = batch * p.m;
    let last = p.m - 1u;
    let a0 = (base + row) * k4;
    let a1 = (base + min(row + 1u, last)) * k4;
    let a2 = (base + min(row + 2u, last)) * k4;
    let a3 = (base + min(row + 3u, last)) * k4;
    let a4 = (base + min(row + 4u, last)) * k4;
    let a5 = (base + min(row + 5u, last)) * k4;
    let a6 = (base + min(row + 6u, last)) * k4;
    let a7 = (base + min(row + 7u, last)) * k4;
    var s00 = vec4<f32>(); var s01 = vec4<f32>();
    var s10 = vec4<f32>(); var s11 = vec4<f32>();
    var s20 = vec4<f32>(); var s21 = vec4<f32>();
    var s30 = vec4<f32>(); var s31 = vec4<f32>();
    var s40 = vec4<f32>(); var s41 = vec4<f32>();
    var s50 = vec4<f32>(); var s51 = vec4<f32>();
    var s60 = vec4<f32>(); var s61 = vec4<f32>();
    var s70 = vec4<f32>(); var s71 = vec4<f32>();
    var b = batch * p.b_stride;
    for (var k = 0u; k < k4; k++) {
        let x0 = decode_a(a[a0 + k]);
        let x1 = decode_a(a[a1 + k]);
        let x2 = decode_a(a[a2 + k]);
        let x3 = decode_a(a[a3 + k]);
        let x4 = decode_a(a[a4 + k]);
        let x5 = decode_a(a[a5 + k]);
        let x6 = decode_a(a[a6 + k]);
        let x7 = decode_a(a[a7 + k]);
        for (var i = 0u; i < 4u; i++) {
            let w0 = decode_w(w[b + quad]);
            let w1 = decode_w(w[b + second]);
            b += n_quads;
            s00 = fma(vec4<f32>(x0[i]), w0, s00); s01 = fma(vec4<f32>(x0[i]), w1, s01);
            s10 = fma(vec4<f32>(x1[i]), w0, s10); s11 = fma(vec4<f32>(x1[i]), w1, s11);
            s20 = fma(vec4<f32>(x2[i]), w0, s20); s21 = fma(vec4<f32>(x2[i]), w1, s21);
            s30 = fma(vec4<f32>(x3[i]), w0, s30); s31 = fma(vec4<f32>(x3[i]), w1, s31);
            s40 = fma(vec4<f32>(x4[i]), w0, s40); s41 = fma(vec4<f32>(x4[i]), w1, s41);
            s50 = fma(vec4<f32>(x5[i]), w0, s50); s51 = fma(vec4<f32>(x5[i]), w1, s51);
            s60 = fma(vec4<f32>(x6[i]), w0, s60); s61 = fma(vec4<f32>(x6[i]), w1, s61);
            s70 = fma(vec4<f32>(x7[i]), w0, s70); s71 = fma(vec4<f32>(x7[i]), w1, s71);
        }
    }
    let y_row = base + row;
    let rows = min(p.m - row, 8u);
    let two = quad + 1u < n_quads;
    store_pair(s00, s01, y_row, quad, two);
    if (rows > 1u) { store_pair(s10, s11, y_row + 1u, quad, two); }
    if (rows > 2u) { store_pair(s20, s21, y_row + 2u, quad, two); }
    if (rows > 3u) { store_pair(s30, s31, y_row + 3u, quad, two); }
    if (rows > 4u) { store_pair(s40, s41, y_row + 4u, quad, two); }
    if (rows > 5u) { store_pair(s50, s51, y_row + 5u, quad, two); }
    if (rows > 6u) { store_pair(s60, s61, y_row + 6u, quad, two); }
    if (rows > 7u) { store_pair(s70, s71, y_row + 7u, quad, two); }
}

fn store_pair(left: vec4<f32>, right: vec4<f32>, row: u32, quad: u32, two: bool) {
    let batch = (row + p.first_row) / p.batch_rows;
    store_sum(left, row, quad, batch);
    if (two) { store_sum(right, row, quad + 1u, batch); }
}

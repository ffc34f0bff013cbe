// matmul_parts.wgsl: y = epilogue(sum of parts), the parts being results of one contraction over a share of k each.
// Work:      one invocation per row and pair of quads.
// Precision: f32 sums, from the first part to the last.
// Traffic:   sums read once, y written once.
// variant: a=f32 y=f32 bias=f32 batch_bias=f32 residual=f32
// variant: CONV a=f16 y=f16 bias=f32 batch_bias=f16 residual=f16
#import contraction

@group(0) @binding(1) var<storage, read>       sums: array<vec4<f32>>;  // [parts, rows, N]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let quads = (p.n + 3u) / 4u;
    let pairs = (quads + 1u) / 2u;
    let rows = batches() * p.m;
    let at = id.x + id.y * groups.x * 64u;
    let row = at / pairs;
    if (row >= rows) { return; }
    let quad = at % pairs * 2u;
    let second = min(quad + 1u, quads - 1u);
    var left = vec4<f32>();
    var right = vec4<f32>();
    for (var part = 0u; part < parts(); part++) {
        let start = (part * rows + row) * quads;
        left += sums[start + quad];
        right += sums[start + second];
    }
    store_pair(left, right, row / p.m, row, quad, row / p.batch_rows);
}

// match_deviation_apply.wgsl: y = x * the factor of its batch.
// Work:      one invocation per quad.
// Precision: f32 arithmetic; loads and stores as encoded.
// Traffic:   x read once, y written once, 1 value per batch read.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    quads: u32,         // quads of the bound window
    channels: u32,      // C
    first_row: u32,     // row of the whole x that the window begins with
    batch_rows: u32,    // rows of one batch
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;              // [B, R, C]
@group(0) @binding(1) var<storage, read>       factors: array<vec4<f32>>; // [B, 1]
@group(0) @binding(2) var<storage, read_write> y: array<Y4>;              // [B, R, C]

#import flat
#import lanes

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let row_quads = (p.channels + 3u) / 4u;
    let batch = (p.first_row + i / row_quads) / p.batch_rows;
    // A negative factor would make a row's padding -0.
    y[i] = encode_y(zero_outside(decode_x(x[i]) * factors[batch].x, i % row_quads, p.channels));
}

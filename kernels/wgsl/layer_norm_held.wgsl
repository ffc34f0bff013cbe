// layer_norm_held.wgsl: y = (x - mean) / sqrt(variance + eps) * scale + bias, per row of at most 64 * HELD quads.
// Work:      p.row_lanes lanes per row, which they hold in registers; 64 / p.row_lanes rows to a workgroup.
// Precision: f32; the mean relative to the row's first value, then squared deviations from it.
// Traffic:   x read once, y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    rows: u32,          // rows of the bound window
    channels: u32,      // C
    eps: f32,
    row_lanes: u32,     // 8, 16, 32 or 64
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;            // [rows, C]
@group(0) @binding(1) var<storage, read>       scale: array<vec4<f32>>; // [C]
@group(0) @binding(2) var<storage, read>       bias: array<vec4<f32>>;  // [C]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;            // [rows, C]

#import held_row

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let quads = (p.channels + 3u) / 4u;
    let lane = index % p.row_lanes;
    let row = ((workgroup.x + workgroup.y * workgroups.x) * 64u + index) / p.row_lanes;
    // Rows beyond the last repeat it up to the last barrier, which every invocation has to reach.
    let first = min(row, p.rows - 1u) * quads;
    let origin = decode_x(x[first]).x;

    // Elements after a row's end are held as zero.
    var held = array<vec4<f32>, HELD>();
    var sum = vec4<f32>();
    for (var i = 0u; i < HELD; i++) {
        let quad = lane + i * p.row_lanes;
        if (quad < quads) {
            held[i] = zero_outside(decode_x(x[first + quad]) - origin, quad, p.channels);
            sum += held[i];
        }
    }
    let mean = row_sum(sum, index) / f32(p.channels);
    var squares = vec4<f32>();
    for (var i = 0u; i < HELD; i++) {
        let quad = lane + i * p.row_lanes;
        if (quad < quads) {
            held[i] = zero_outside(held[i] - mean, quad, p.channels);
            squares += held[i] * held[i];
        }
    }
    let multiplier = 1.0 / sqrt(row_sum(squares, index) / f32(p.channels) + p.eps);
    if (row >= p.rows) { return; }
    for (var i = 0u; i < HELD; i++) {
        let quad = lane + i * p.row_lanes;
        if (quad < quads) {
            let v = fma(held[i] * multiplier, scale[quad], bias[quad]);
            y[first + quad] = encode_y(zero_outside(v, quad, p.channels));
        }
    }
}

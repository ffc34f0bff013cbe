// rms_norm.wgsl: y = x / sqrt(mean of x^2 + eps) * scale, per row.
// Work:      8 lanes per row, 8 rows to a workgroup; a lane strides over the row's quads.
// Precision: f32
// Traffic:   x read twice, the second time from cache; y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    rows: u32,          // rows of the bound window
    channels: u32,      // C
    eps: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;            // [rows, C]
@group(0) @binding(1) var<storage, read>       scale: array<vec4<f32>>; // [C]
@group(0) @binding(2) var<storage, read_write> y: array<Y4>;            // [rows, C]

#import lanes

const ROW_LANES: u32 = 8u;
var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let quads = (p.channels + 3u) / 4u;
    let lane = index % ROW_LANES;
    let row = (workgroup.x + workgroup.y * workgroups.x) * 8u + index / ROW_LANES;
    // Rows beyond the last repeat it up to the barrier, which every invocation has to reach.
    let first = min(row, p.rows - 1u) * quads;

    // Elements after a row's end are zero: they add nothing.
    var sum = vec4<f32>();
    for (var quad = lane; quad < quads; quad += ROW_LANES) {
        let v = decode_x(x[first + quad]);
        sum += v * v;
    }
    partials[index] = (sum.x + sum.y) + (sum.z + sum.w);
    workgroupBarrier();
    if (row >= p.rows) { return; }

    let first_lane = index - lane;
    var all = 0.0;
    for (var i = 0u; i < ROW_LANES; i++) {
        all += partials[first_lane + i];
    }
    let multiplier = 1.0 / sqrt(all / f32(p.channels) + p.eps);
    for (var quad = lane; quad < quads; quad += ROW_LANES) {
        let v = decode_x(x[first + quad]) * multiplier * scale[quad];
        y[first + quad] = encode_y(zero_outside(v, quad, p.channels));
    }
}

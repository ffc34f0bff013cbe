// layer_norm.wgsl: y = (x - mean) / sqrt(variance + eps) * scale + bias, per row.
// Work:      8 lanes per row, 8 rows to a workgroup; a lane strides over the row's quads.
// Precision: f32, relative to the row's first value (Welford per lane, Chan across lanes).
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
@group(0) @binding(2) var<storage, read>       bias: array<vec4<f32>>;  // [C]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;            // [rows, C]

#import lanes
#import moments

const ROW_LANES: u32 = 8u;
var<workgroup> partials: array<Moments, 64>;

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
    let origin = decode_x(x[first]).x;

    var count = vec4<f32>();
    var mean = vec4<f32>();
    var m2 = vec4<f32>();
    for (var quad = lane; quad < quads; quad += ROW_LANES) {
        let inside = lanes_inside(quad, p.channels);
        let delta = select(vec4<f32>(), (decode_x(x[first + quad]) - origin) - mean, inside);
        let share = 1.0 / (count + 1.0);
        m2 += delta * delta * count * share;
        mean += delta * share;
        count += select(vec4<f32>(), vec4<f32>(1.0), inside);
    }
    var own = Moments(count.x, mean.x, m2.x);
    own = merge(own, Moments(count.y, mean.y, m2.y));
    own = merge(own, Moments(count.z, mean.z, m2.z));
    partials[index] = merge(own, Moments(count.w, mean.w, m2.w));
    workgroupBarrier();
    if (row >= p.rows) { return; }

    let first_lane = index - lane;
    var all = partials[first_lane];
    for (var i = 1u; i < ROW_LANES; i++) {
        all = merge(all, partials[first_lane + i]);
    }
    let multiplier = 1.0 / sqrt(all.m2 / all.count + p.eps);
    for (var quad = lane; quad < quads; quad += ROW_LANES) {
        let centred = (decode_x(x[first + quad]) - origin) - all.mean;
        let v = fma(centred * multiplier, scale[quad], bias[quad]);
        y[first + quad] = encode_y(zero_outside(v, quad, p.channels));
    }
}

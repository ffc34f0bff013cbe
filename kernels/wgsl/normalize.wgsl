// normalize.wgsl: y = (x - mean) / deviation * scale + bias, then SiLU if asked for, with statistics that are given.
// Work:      one invocation per quad.
// Precision: f32 arithmetic; loads and stores as encoded.
// Traffic:   x read once, y written once; a group's statistics come from cache.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    quads: u32,         // quads of the bound window
    channels: u32,      // C
    groups: u32,
    batch_rows: u32,    // rows of one batch
    first_row: u32,     // row of the whole x that the window starts with
    silu: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;                 // [B, R, C]
@group(0) @binding(1) var<storage, read>       scale: array<vec4<f32>>;      // [C]
@group(0) @binding(2) var<storage, read>       bias: array<vec4<f32>>;       // [C]
@group(0) @binding(3) var<storage, read>       statistics: array<vec4<f32>>; // [B, groups, 2]: mean, deviation
@group(0) @binding(4) var<storage, read_write> y: array<Y4>;                 // [B, R, C]

#import flat
#import lanes

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let row_quads = (p.channels + 3u) / 4u;
    let quad = i % row_quads;
    let first = (p.first_row + i / row_quads) / p.batch_rows * p.groups;
    // The last quad's excess lanes are not stored.
    let channel = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.channels - 1u));
    let group = vec4<u32>(first) + channel / (p.channels / p.groups);
    let a = statistics[group.x];
    let b = statistics[group.y];
    let c = statistics[group.z];
    let d = statistics[group.w];
    let multiplier = scale[quad] / vec4<f32>(a.y, b.y, c.y, d.y);
    var v = fma(decode_x(x[i]) - vec4<f32>(a.x, b.x, c.x, d.x), multiplier, bias[quad]);
    if (p.silu == 1u) { v = v / (1.0 + exp(-v)); }
    y[i] = encode_y(zero_outside(v, quad, p.channels));
}

// to_rgb.wgsl: y = clamp(x / 2 + 1/2, 0, 1).
// Work:      one invocation per quad.
// Precision: f32; values that are not finite are kept.
// Traffic:   x read once, y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f32
struct Params {
    quads: u32,         // quads of the bound window
    channels: u32,      // C
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;   // [B, H, W, C]
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;   // [B, H, W, C]

#import flat
#import lanes
#import unit_range

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let quad = i % ((p.channels + 3u) / 4u);
    y[i] = encode_y(zero_outside(unit_range(decode_x(x[i])), quad, p.channels));
}

// activate.wgsl: y = factor * activation(x).
// Work:      one invocation per quad.
// Precision: f32 arithmetic; loads and stores as encoded.
// Traffic:   x read once, y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    quads: u32,         // quads of the bound window
    channels: u32,      // C
    activation: u32,    // 0: none
    factor: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;   // [.., C]
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;   // [.., C]

#import activation
#import flat
#import lanes

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let quad = i % ((p.channels + 3u) / 4u);
    // A negative factor would make a row's padding -0.
    y[i] = encode_y(zero_outside(p.factor * activate(decode_x(x[i]), p.activation), quad, p.channels));
}

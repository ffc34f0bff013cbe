// clamp.wgsl: y = min(max(x, -limit), limit).
// Work:      one invocation per quad.
// Precision: f32; values that are not finite are kept.
// Traffic:   x read once, y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    quads: u32,         // quads of the bound window
    limit: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;   // [.., C]
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;   // [.., C]

#import flat

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let v = decode_x(x[i]);
    // WGSL may take it that no value is NaN: those are told by their bits.
    let finite = (bitcast<vec4<u32>>(v) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u);
    let inside = clamp(v, vec4<f32>(-p.limit), vec4<f32>(p.limit));
    y[i] = encode_y(bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(v), bitcast<vec4<u32>>(inside), finite)));
}

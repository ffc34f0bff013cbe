// non_finite_count.wgsl: how many values of each invocation's share of x have an exponent of ones.
// Work:      invocations stride over the quads of x and keep one count per lane.
// Precision: exact.
// Traffic:   x read once.
// variant: x=f32
// variant: x=f16
// variant: x=bf16
struct Params {
    quads: u32,         // quads of the bound window
    stride: u32,        // invocations
    first_row: u32,     // row of the whole x that the window starts at; from the second window on counts are added
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;               // any
@group(0) @binding(1) var<storage, read_write> counts: array<vec4<f32>>;   // [counts, 4]

#import non_finite

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var count = vec4<u32>();
    if (p.first_row > 0u) { count = vec4<u32>(counts[id.x]); }
    for (var i = id.x; i < p.quads; i += p.stride) {
        count += non_finite(x[i]);
    }
    counts[id.x] = vec4<f32>(count);
}

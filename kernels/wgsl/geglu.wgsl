// geglu.wgsl: y[row, n] = x[row, n] * gelu(x[row, N + n]), or (ALTERNATING) with quads of x's halves alternating.
// Work:      one invocation per quad of y.
// Precision: f32 arithmetic; loads and stores as encoded.
// Traffic:   x read once (the gate twice where N is not a multiple of 4), y written once.
// variant: x=f32 y=f32
// variant: ALTERNATING x=f16 y=f16
struct Params {
    quads: u32,     // quads of the bound window of y
    n: u32,         // N
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;   // [rows, 2 N]
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;   // [rows, N]

#import activation
#import flat
#import lanes

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let row_quads = (p.n + 3u) / 4u;
    let x_quads = (2u * p.n + 3u) / 4u;
    let quad = i % row_quads;
    let row_at = i / row_quads * x_quads;
#ifdef ALTERNATING
    let hidden = decode_x(x[row_at + 2u * quad]);
    let gate = decode_x(x[row_at + 2u * quad + 1u]);
#else
    let hidden = decode_x(x[row_at + quad]);
    let gate_quad = p.n / 4u + quad;
    var gate = decode_x(x[row_at + gate_quad]);
    if (p.n % 4u != 0u) {
        let next = decode_x(x[row_at + min(gate_quad + 1u, x_quads - 1u)]);
        gate = lanes_from(gate, next, p.n % 4u);
    }
#endif
    y[i] = encode_y(zero_outside(hidden * gelu(gate), quad, p.n));
}

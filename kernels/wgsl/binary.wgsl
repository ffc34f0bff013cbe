// binary.wgsl: y = a + b or a * b, extents of 1 repeated.
// Work:      one invocation per quad of y.
// Precision: f32 arithmetic; loads and stores as encoded.
// Traffic:   a and b read once (a repeated operand from cache), y written once.
// variant: a=f32 b=f32 y=f32 ADD
// variant: a=f16 b=f16 y=f16 MUL
struct Params {
    quads: u32,                         // quads of the bound window of y
    channels: u32,                      // C of y
    first_row: u32,                     // row of the whole y that the window starts at
    d1: u32, d2: u32,                   // inner outer extents of y
    a0: u32, a1: u32, a2: u32,          // quads per index of a's outer dimensions, 0 where repeated
    b0: u32, b1: u32, b2: u32,
    a_origin: u32, b_origin: u32,       // quads of the whole operand before its bound window
    a_repeats_channels: u32, b_repeats_channels: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       a: array<A4>;   // [D0, D1, D2, C], extents of 1 repeated
@group(0) @binding(1) var<storage, read>       b: array<B4>;   // [D0, D1, D2, C], extents of 1 repeated
@group(0) @binding(2) var<storage, read_write> y: array<Y4>;   // [D0, D1, D2, C]

#import flat
#import lanes

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let row_quads = (p.channels + 3u) / 4u;
    let quad = i % row_quads;
    let row = i / row_quads + p.first_row;
    let i2 = row % p.d2;
    let i1 = row / p.d2 % p.d1;
    let i0 = row / (p.d2 * p.d1);

    let a_row = i0 * p.a0 + i1 * p.a1 + i2 * p.a2 - p.a_origin;
    let b_row = i0 * p.b0 + i1 * p.b1 + i2 * p.b2 - p.b_origin;
    var left = decode_a(a[a_row + select(quad, 0u, p.a_repeats_channels == 1u)]);
    var right = decode_b(b[b_row + select(quad, 0u, p.b_repeats_channels == 1u)]);
    if (p.a_repeats_channels == 1u) { left = left.xxxx; }
    if (p.b_repeats_channels == 1u) { right = right.xxxx; }
#ifdef ADD
    let v = left + right;
#else
    let v = left * right;
#endif
    y[i] = encode_y(zero_outside(v, quad, p.channels));
}

// strided_copy.wgsl: y[i0, i1, i2, c] = x at offset + i0 * s0 + i1 * s1 + i2 * s2 + c * s3.
// Work:      one invocation per quad of y.
// Precision: values are moved.
// Traffic:   x read once (up to four times where quads of y do not lie in quads of x), y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    quads: u32,                             // quads of the bound window of y
    channels: u32,                          // C of y
    first_row: u32,                         // row of the whole y that the window starts at
    d1: u32, d2: u32,                       // inner outer extents of y
    s0: u32, s1: u32, s2: u32, s3: u32,     // elements of x per index of y
    offset: u32,                            // element of x's window that comes first, modulo 2^32
    by_quads: u32,                          // 1 if every quad of y lies in one quad of x
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;   // any
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;   // [D0, D1, D2, C]

#import flat
#import lanes

fn element(c: u32, row_at: u32) -> f32 {
    // Lanes beyond the row repeat its last element: loads stay in bounds.
    let at = row_at + min(c, p.channels - 1u) * p.s3;
    return decode_x(x[at / 4u])[at % 4u];
}

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
    let row_at = p.offset + i0 * p.s0 + i1 * p.s1 + i2 * p.s2;

    let c = quad * 4u;
    if (p.by_quads == 1u && c + 4u <= p.channels) {
        y[i] = x[row_at / 4u + quad];
        return;
    }
    let v = vec4<f32>(element(c, row_at), element(c + 1u, row_at), element(c + 2u, row_at), element(c + 3u, row_at));
    y[i] = encode_y(zero_outside(v, quad, p.channels));
}

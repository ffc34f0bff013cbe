// attention_repitch.wgsl: y[row, head, c] = x[row, head, c], zero where c lies outside x's head.
// Work:      one invocation per quad of y.
// Precision: values are moved.
// Traffic:   x read once, y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    quads: u32,         // quads of y
    x_quads: u32,       // quads in a row of x
    y_quads: u32,       // quads in a row of y
    x_features: u32,    // D of x
    y_features: u32,    // D of y
    heads: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;   // [rows, heads * x_features]
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;   // [rows, heads * y_features]

#import flat

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let row = i / p.y_quads;
    let first = i % p.y_quads * 4u;
    let v = vec4<f32>(
        element(row, first), element(row, first + 1u), element(row, first + 2u), element(row, first + 3u));
    y[i] = encode_y(v);
}

fn element(row: u32, column: u32) -> f32 {
    let head = column / p.y_features;
    let c = column % p.y_features;
    if (head >= p.heads || c >= p.x_features) { return 0.0; }
    let at = head * p.x_features + c;
    return decode_x(x[row * p.x_quads + at / 4u])[at % 4u];
}

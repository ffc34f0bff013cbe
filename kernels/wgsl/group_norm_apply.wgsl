// group_norm_apply.wgsl: y = (x - mean) * multiplier + bias, then SiLU if asked for.
// Work:      one invocation per quad of channels and slab of rows.
// Precision: f32 arithmetic; loads and stores as encoded.
// Traffic:   x read once, y written once, 4 values per channel and slab read.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    channels: u32,      // C
    batch_rows: u32,    // rows of one batch in the bound window
    batches: u32,       // batches in the bound window
    first_row: u32,     // row of the bound window where the first batch starts
    slab_rows: u32,
    slabs: u32,         // slabs of one batch in the bound window
    first_batch: u32,   // batch of the whole x that the first batch is
    silu: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;                   // [B, R, C]
@group(0) @binding(1) var<storage, read>       coefficients: array<vec4<f32>>; // [B, 3, C]: origin, mean - origin, multiplier
@group(0) @binding(2) var<storage, read>       bias: array<vec4<f32>>;         // [C]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;                   // [B, R, C]

#import flat
#import lanes

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let quads = (p.channels + 3u) / 4u;
    let i = flat_index(id, groups);
    let quad = i % quads;
    let slab = i / quads % p.slabs;
    let batch = i / quads / p.slabs;
    if (batch >= p.batches) { return; }
    let coefficient = (p.first_batch + batch) * 3u * quads + quad;
    let origin = coefficients[coefficient];
    let mean = coefficients[coefficient + quads];
    let multiplier = coefficients[coefficient + 2u * quads];
    let offset = bias[quad];

    let begin = slab * p.slab_rows;
    let rows = min(p.slab_rows, p.batch_rows - begin);
    var at = (p.first_row + batch * p.batch_rows + begin) * quads + quad;
    for (var row = 0u; row < rows; row++) {
        var v = fma((decode_x(x[at]) - origin) - mean, multiplier, offset);
        if (p.silu == 1u) { v = v / (1.0 + exp(-v)); }
        y[at] = encode_y(zero_outside(v, quad, p.channels));
        at += quads;
    }
}

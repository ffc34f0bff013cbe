// slab_moments.wgsl: mean and sum of squared deviations of each channel over a slab of rows.
// Work:      one invocation per quad of channels and slab.
// Precision: f32, relative to the slab's first row, four rows at a time (Chan's formula).
// Traffic:   x read once; 3 values per channel and slab written.
// variant: x=f32
// variant: x=f16
struct Params {
    channels: u32,      // C
    batch_rows: u32,    // rows of one batch in the bound window
    batches: u32,       // batches in the bound window
    first_row: u32,     // row of the bound window where the first batch starts
    slab_rows: u32,
    slabs: u32,         // slabs of one batch in the bound window
    first_batch: u32,   // batch of the partials that the first batch is
    first_slab: u32,    // slab of its batch that the first slab is
    batch_slabs: u32,   // slabs of one whole batch
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;               // [B, R, C]
@group(0) @binding(1) var<storage, read_write> partials: array<vec4<f32>>; // [B, slabs, 3, C]: first row, mean - first row, m2

#import flat
#import quad_moments

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let quads = (p.channels + 3u) / 4u;
    let i = flat_index(id, groups);
    let quad = i % quads;
    let slab = i / quads % p.slabs;
    let batch = i / quads / p.slabs;
    if (batch >= p.batches) { return; }
    let begin = slab * p.slab_rows;
    let rows = min(p.slab_rows, p.batch_rows - begin);
    let at = (p.first_row + batch * p.batch_rows + begin) * quads + quad;

    let origin = decode_x(x[at]);
    let found = quad_moments(at, quads, rows, origin);

    let partial = ((p.first_batch + batch) * p.batch_slabs + p.first_slab + slab) * 3u * quads + quad;
    partials[partial] = origin;
    partials[partial + quads] = found.mean;
    partials[partial + 2u * quads] = found.m2;
}

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
    var at = (p.first_row + batch * p.batch_rows + begin) * quads + quad;

    let origin = decode_x(x[at]);
    var mean = vec4<f32>();
    var m2 = vec4<f32>();
    var row = 0u;
    for (; row + 4u <= rows; row += 4u) {
        let a = decode_x(x[at]) - origin;
        let b = decode_x(x[at + quads]) - origin;
        let c = decode_x(x[at + 2u * quads]) - origin;
        let d = decode_x(x[at + 3u * quads]) - origin;
        at += 4u * quads;
        let four_mean = 0.25 * ((a + b) + (c + d));
        let da = a - four_mean;
        let db = b - four_mean;
        let dc = c - four_mean;
        let dd = d - four_mean;
        let delta = four_mean - mean;
        let share = 4.0 / f32(row + 4u);
        mean += delta * share;
        m2 += da * da + db * db + dc * dc + dd * dd + delta * delta * (f32(row) * share);
    }
    for (; row < rows; row++) {
        let delta = decode_x(x[at]) - origin - mean;
        at += quads;
        let share = 1.0 / f32(row + 1u);
        mean += delta * share;
        m2 += delta * delta * (f32(row) * share);
    }

    let partial = ((p.first_batch + batch) * p.batch_slabs + p.first_slab + slab) * 3u * quads + quad;
    partials[partial] = origin;
    partials[partial + quads] = mean;
    partials[partial + 2u * quads] = m2;
}

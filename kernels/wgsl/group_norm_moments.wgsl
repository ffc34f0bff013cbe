// group_norm_moments.wgsl: mean and sum of squared deviations of each group over a slab of rows.
// Work:      one workgroup per batch, slab and span of groups.
// Precision: f32, relative to the group's first value in the slab, four rows at a time (Chan's formula).
// Traffic:   x read once; 4 values per group and slab written. If some of x is not finite, it is read once more.
// variant: x=f32
// variant: x=f16
struct Params {
    channels: u32,      // C
    groups: u32,
    span_groups: u32,
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
@group(0) @binding(1) var<storage, read_write> partials: array<vec4<f32>>; // [B, slabs, groups, 4]: origin, mean - origin, m2, count
@group(0) @binding(2) var<storage, read_write> tally: atomic<u32>;         // values of x that are not finite are added

const LANES: u32 = 64u;
#import tally
#import group_moments

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Excess workgroups of a folded grid repeat the last one's work, so that every barrier is reached by all.
    let own = workgroup.x + workgroup.y * workgroups.x;
    let index = min(own, p.batches * p.slabs * span_count() - 1u);
    let span = index % span_count();
    let slab = index / span_count() % p.slabs;
    let batch = index / span_count() / p.slabs;
    let begin = slab * p.slab_rows;
    let rows = min(p.slab_rows, p.batch_rows - begin);
    let first = (p.first_row + batch * p.batch_rows + begin) * row_quads();

    let all = span_moments(first, rows, span, lane);
    if (own == index) { add_to_tally(); }
    let group = span * p.span_groups + lane / group_lanes();
    if (lane % group_lanes() == 0u && group < p.groups) {
        let at = ((p.first_batch + batch) * p.batch_slabs + p.first_slab + slab) * p.groups + group;
        partials[at] = vec4<f32>(group_origin(first, group), all.mean, all.m2, all.count);
    }
}

// group_norm_apply.wgsl: y = (x - mean) / deviation * scale + bias, then SiLU if asked for, from the moments of slabs.
// Work:      one workgroup per batch, block of rows and span of groups; each merges the moments of its groups first.
// Precision: f32 arithmetic, relative to the group's first value (Chan's formula); loads and stores as encoded.
// Traffic:   x read once, y written once; 4 values per slab and group read for each block.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    channels: u32,      // C
    groups: u32,
    span_groups: u32,
    batch_rows: u32,    // rows of one batch in the bound window
    batches: u32,       // batches in the bound window
    first_row: u32,     // row of the bound window where the first batch starts
    block_rows: u32,
    blocks: u32,        // blocks of one batch in the bound window
    first_batch: u32,   // batch of the whole x that the first batch is
    batch_slabs: u32,   // slabs of one whole batch
    eps: f32,
    silu: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;               // [B, R, C]
@group(0) @binding(1) var<storage, read>       partials: array<vec4<f32>>; // [B, slabs, groups, 4]: origin, mean - origin, m2, count
@group(0) @binding(2) var<storage, read>       scale: array<vec4<f32>>;    // [C]
@group(0) @binding(3) var<storage, read>       bias: array<vec4<f32>>;     // [C]
@group(0) @binding(4) var<storage, read_write> y: array<Y4>;               // [B, R, C]

const LANES: u32 = 64u;
#import group_moments

// Its moments come from elsewhere, and were looked at there.
fn look_again(found: QuadMoments, first: u32, step: u32, rows: u32) {}

#import group_apply

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Excess workgroups of a folded grid repeat the last one's work, so that every barrier is reached by all.
    let index = min(workgroup.x + workgroup.y * workgroups.x, p.batches * p.blocks * span_count() - 1u);
    let span = index % span_count();
    let block = index / span_count() % p.blocks;
    let batch = index / span_count() / p.blocks;

    let group = span * p.span_groups + lane / group_lanes();
    let first_partial = (p.first_batch + batch) * p.batch_slabs * p.groups + min(group, p.groups - 1u);
    let origin = partials[first_partial].x;
    var own = Moments(0.0, 0.0, 0.0);
    for (var slab = lane % group_lanes(); slab < p.batch_slabs; slab += group_lanes()) {
        let partial = partials[first_partial + slab * p.groups];
        own = merge(own, Moments(partial.w, (partial.x - origin) + partial.y, partial.z));
    }
    let all = merge_parts(own, lane);
    if (lane % group_lanes() == 0u) {
        statistics[lane / group_lanes()] =
            vec4<f32>(origin, all.mean, 1.0 / sqrt(all.m2 / max(all.count, 1.0) + p.eps), 0.0);
    }
    workgroupBarrier();

    let begin = block * p.block_rows;
    let rows = min(p.block_rows, p.batch_rows - begin);
    apply_span((p.first_row + batch * p.batch_rows + begin) * row_quads(), rows, span, lane);
}

// group_norm_whole.wgsl: y = (x - mean) / deviation * scale + bias, then SiLU if asked for, in one dispatch.
// Work:      one workgroup per batch and span of groups, for groups small enough to be read twice from cache.
// Precision: f32, relative to the group's first value (Chan's formula); loads and stores as encoded.
// Traffic:   x read twice, the second time from cache; y written once. If some of x is not finite, it is read once more.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    channels: u32,      // C
    groups: u32,
    span_groups: u32,
    batch_rows: u32,    // rows of one batch
    batches: u32,       // B
    eps: f32,
    silu: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;               // [B, R, C]
@group(0) @binding(1) var<storage, read>       scale: array<vec4<f32>>;    // [C]
@group(0) @binding(2) var<storage, read>       bias: array<vec4<f32>>;     // [C]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;               // [B, R, C]
@group(0) @binding(4) var<storage, read_write> tally: atomic<u32>;         // values of x that are not finite are added

const LANES: u32 = 256u;
#import tally
#import group_moments
#import group_apply

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Excess workgroups of a folded grid repeat the last one's work, so that every barrier is reached by all.
    let own = workgroup.x + workgroup.y * workgroups.x;
    let index = min(own, p.batches * span_count() - 1u);
    let span = index % span_count();
    let first = index / span_count() * p.batch_rows * row_quads();

    let all = span_moments(first, p.batch_rows, span, lane);
    if (own == index) { add_to_tally(); }
    if (lane % group_lanes() == 0u) {
        let origin = group_origin(first, span * p.span_groups + lane / group_lanes());
        statistics[lane / group_lanes()] =
            vec4<f32>(origin, all.mean, 1.0 / sqrt(all.m2 / max(all.count, 1.0) + p.eps), 0.0);
    }
    workgroupBarrier();
    apply_span(first, p.batch_rows, span, lane);
}

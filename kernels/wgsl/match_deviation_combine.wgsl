// match_deviation_combine.wgsl: from the moments of x and of the reference to what each batch of x is multiplied by.
// Work:      one workgroup per batch; lanes stride over slabs and channels, then merge in a tree, first x, then the reference.
// Precision: f32, relative to the first value of the batch (Chan's formula).
// Traffic:   3 values per channel and slab read from each; 1 value per batch written.
// variant:
struct Params {
    channels: u32,      // C
    batch_rows: u32,    // rows of one batch
    slab_rows: u32,
    slabs: u32,         // slabs of one batch
    batches: u32,       // B
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       partials: array<f32>;              // [2 B, slabs, 3, C]: x's, then the reference's
@group(0) @binding(1) var<storage, read>       coefficients: array<vec4<f32>, 2>; // [8]: phi, ..
@group(0) @binding(2) var<storage, read_write> factors: array<vec4<f32>>;         // [B, 1]

#import merge_slabs

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Excess workgroups of a folded grid repeat the last one's work, so that every barrier is reached by all.
    let batch = min(workgroup.x + workgroup.y * workgroups.x, p.batches - 1u);
    let own = merge_slabs(batch, 0u, p.channels, lane).m2;
    let wanted = merge_slabs(p.batches + batch, 0u, p.channels, lane).m2;
    if (lane == 0u) {
        let phi = coefficients[0].x;
        // Without any deviation there is nothing to match.
        var ratio = 1.0;
        if (own > 0.0) { ratio = sqrt(wanted) / sqrt(own); }
        factors[batch] = vec4<f32>(phi * ratio + (1.0 - phi), 0.0, 0.0, 0.0);
    }
}

// group_norm_combine.wgsl: from the moments of slabs and channels to the mean and the multiplier of each channel.
// Work:      one workgroup per batch and group; lanes stride over slabs and channels, then merge in a tree.
// Precision: f32, relative to the first value of the group (Chan's formula).
// Traffic:   3 values per channel and slab read; 3 values per channel written.
// variant:
struct Params {
    channels: u32,      // C
    groups: u32,
    batch_rows: u32,    // rows of one batch
    slab_rows: u32,
    slabs: u32,         // slabs of one batch
    eps: f32,
    batches: u32,       // B
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       partials: array<f32>;     // [B, slabs, 3, C]: first row, mean - first row, m2
@group(0) @binding(1) var<storage, read>       scale: array<f32>;        // [C]
@group(0) @binding(2) var<storage, read_write> coefficients: array<f32>; // [B, 3, C]: origin, mean - origin, multiplier

#import merge_slabs

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pitch = (p.channels + 3u) / 4u * 4u;
    let width = p.channels / p.groups;
    // Excess workgroups of a folded grid repeat the last one's work, so that every barrier is reached by all.
    let index = min(workgroup.x + workgroup.y * workgroups.x, p.batches * p.groups - 1u);
    let batch = index / p.groups;
    let first_channel = index % p.groups * width;
    let all = merge_slabs(batch, first_channel, width, lane);

    let origin = partials[batch * p.slabs * 3u * pitch + first_channel];
    let deviation = sqrt(all.m2 / all.count + p.eps);
    for (var c = lane; c < width; c += LANES) {
        let at = batch * 3u * pitch + first_channel + c;
        coefficients[at] = origin;
        coefficients[at + pitch] = all.mean;
        coefficients[at + 2u * pitch] = scale[first_channel + c] / deviation;
    }
}

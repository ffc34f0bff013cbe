// The moments of a batch's channels `first_channel ..+ width` from those of its slabs; the mean is relative to the first row's
// first channel. Needs `p.channels`, `p.batch_rows`, `p.slab_rows`, `p.slabs` and `partials: array<f32>` as slab_moments.wgsl
// writes them. One workgroup: every one of its LANES invocations has to call it.
#import moments

const LANES: u32 = 64u;
var<workgroup> merged: array<Moments, LANES>;

fn merge_slabs(batch: u32, first_channel: u32, width: u32, lane: u32) -> Moments {
    let pitch = (p.channels + 3u) / 4u * 4u;
    let first = batch * p.slabs * 3u * pitch + first_channel;
    let origin = partials[first];
    var own = Moments(0.0, 0.0, 0.0);
    for (var i = lane; i < p.slabs * width; i += LANES) {
        let slab = i / width;
        let at = first + slab * 3u * pitch + i % width;
        let rows = min(p.slab_rows, p.batch_rows - slab * p.slab_rows);
        let mean = (partials[at] - origin) + partials[at + pitch];
        own = merge(own, Moments(f32(rows), mean, partials[at + 2u * pitch]));
    }
    // What an earlier call left there has been read by all.
    workgroupBarrier();
    merged[lane] = own;
    workgroupBarrier();
    for (var stride = LANES / 2u; stride > 0u; stride /= 2u) {
        if (lane < stride) {
            own = merge(own, merged[lane + stride]);
            merged[lane] = own;
        }
        workgroupBarrier();
    }
    return merged[0];
}

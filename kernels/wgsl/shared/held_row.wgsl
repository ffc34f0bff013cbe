// A row in the registers of p.row_lanes lanes of a workgroup of 64, a power of two, which lie side by side: HELD quads each.
// Needs `p.row_lanes` and `p.channels`.
#import lanes

const HELD: u32 = 8u;
var<workgroup> partials: array<f32, 64>;

// The sum of what the lanes of a row have, in each of them. Every invocation has to call it.
fn row_sum(own: vec4<f32>, index: u32) -> f32 {
    let lane = index % p.row_lanes;
    partials[index] = (own.x + own.y) + (own.z + own.w);
    workgroupBarrier();
    for (var stride = p.row_lanes / 2u; stride > 0u; stride /= 2u) {
        if (lane < stride) { partials[index] += partials[index + stride]; }
        workgroupBarrier();
    }
    let sum = partials[index - lane];
    // The next call's sums are written once all have read this one's.
    workgroupBarrier();
    return sum;
}

// non_finite_sum.wgsl: y[0] = the sum of all counts.
// Work:      one workgroup; invocations stride over the counts, the first adds up what they found.
// Precision: exact up to 2^24.
// Traffic:   counts read once.
// variant:
struct Params {
    counts: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       counts: array<vec4<f32>>;   // [counts, 4]
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;        // [1]

var<workgroup> sums: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0u;
    for (var i = lane; i < p.counts; i += 64u) {
        let v = vec4<u32>(counts[i]);
        sum += v.x + v.y + v.z + v.w;
    }
    sums[lane] = sum;
    workgroupBarrier();
    if (lane == 0u) {
        var total = 0u;
        for (var i = 0u; i < 64u; i++) { total += sums[i]; }
        y[0] = vec4<f32>(f32(total), 0.0, 0.0, 0.0);
    }
}

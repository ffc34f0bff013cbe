// How many values of x are not finite, by their bits, where moments of them say that some may be: where one is not, neither are they.
// The including file binds `tally`, which has grown by their number after every invocation has called add_to_tally.
#import non_finite

var<private> not_finite: vec4<u32> = vec4<u32>();

fn is_spoiled(v: vec4<f32>) -> bool {
    let exponent = vec4<u32>(0x7f800000u);
    return any((bitcast<vec4<u32>>(v) & exponent) == exponent);
}

// Looks at the quads of which quad_moments, given the same, has found `found`.
fn look_again(found: QuadMoments, first: u32, step: u32, rows: u32) {
    if (!is_spoiled(found.mean) && !is_spoiled(found.m2)) { return; }
    for (var row = 0u; row < rows; row++) { not_finite += non_finite(x[first + row * step]); }
}

fn add_to_tally() {
    let count = not_finite.x + not_finite.y + not_finite.z + not_finite.w;
    if (count > 0u) { atomicAdd(&tally, count); }
}

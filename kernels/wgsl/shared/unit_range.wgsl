// From -1 ..= 1 to 0 ..= 1. WGSL may take it that no value is NaN and clamp one to a number, so values that are not finite are
// told by their bits and passed on.
fn unit_range(v: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(v);
    let exponent = vec4<u32>(0x7f800000u);
    let inside = clamp(0.5 * v + 0.5, vec4<f32>(0.0), vec4<f32>(1.0));
    return bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(inside), bits, (bits & exponent) == exponent));
}

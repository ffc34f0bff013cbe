// Which of four values of x have an exponent of ones, by their bits as stored: WGSL may take it that no value is NaN.
#ifdef X_F32
fn non_finite(v: X4) -> vec4<u32> {
    let exponent = vec4<u32>(0x7f800000u);
    return vec4<u32>((bitcast<vec4<u32>>(v) & exponent) == exponent);
}
#else
#ifdef X_F16
const EXPONENT: u32 = 0x7c00u;
#else
const EXPONENT: u32 = 0x7f80u;
#endif
fn non_finite(v: X4) -> vec4<u32> {
    let bits = vec4<u32>(v.x, v.x >> 16u, v.y, v.y >> 16u);
    return vec4<u32>((bits & vec4<u32>(EXPONENT)) == vec4<u32>(EXPONENT));
}
#endif

// Activations by their number in `Activation`: 0 none, 1 SiLU, 2 GELU by erf, 3 GELU by tanh, 4 quick GELU.

// erf by Abramowitz & Stegun 7.1.28 would miss f32 by three digits; this is Cody's split: a Taylor-like rational near zero,
// and 1 - exp(-x^2) * P(1/(1 + x/2)) beyond (Numerical Recipes' erfc with fractional error below 1.2e-7).
fn erf(x: vec4<f32>) -> vec4<f32> {
    let z = abs(x);
    let t = 1.0 / (1.0 + 0.5 * z);
    let poly = -z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    let far = 1.0 - t * exp(poly);
    // Below 0.5 the subtraction loses relative precision: the Maclaurin series to x^11 has 1e-9 there.
    let s = x * x;
    let near = 1.1283791670955126 * z * (1.0 + s * (-0.33333333333 + s * (0.1 + s * (-0.0238095238095
        + s * (0.00462962962963 + s * (-0.000757575757576 + s * 0.000106837606838))))));
    return sign(x) * select(far, near, z < vec4<f32>(0.5));
}

fn activate(x: vec4<f32>, activation: u32) -> vec4<f32> {
    switch activation {
        case 1u: { return x / (1.0 + exp(-x)); }
        case 2u: { return 0.5 * x * (1.0 + erf(x * 0.70710678118654752)); }
        case 3u: {
            // tanh overflows to NaN on some drivers for large arguments: it is 1 in f32 from 10 on.
            let inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
            return 0.5 * x * (1.0 + tanh(clamp(inner, vec4<f32>(-10.0), vec4<f32>(10.0))));
        }
        case 4u: { return x / (1.0 + exp(-1.702 * x)); }
        default: { return x; }
    }
}

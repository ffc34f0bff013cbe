// Activations by their number in `Activation`: 0 none, 1 SiLU, 2 GELU by erf, 3 GELU by tanh, 4 quick GELU, 5 ReLU, 6 sigmoid,
// 7 tanh.

// x / 2 * erfc(-x / sqrt 2). The upper tail erfc(z) = t * exp(-z^2 + P(t)), t = 1 / (1 + z / 2), has a fractional error below
// 1.2e-7 (Numerical Recipes, erfcc), and for x < 0 it is used as it is: 1 + erf would cancel there.
fn gelu(x: vec4<f32>) -> vec4<f32> {
    let z = abs(x) * 0.70710678118654752;
    let t = 1.0 / (1.0 + 0.5 * z);
    let poly = -z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    let tail = 0.5 * t * exp(poly);
    return x * select(1.0 - tail, tail, x < vec4<f32>(0.0));
}

fn activate(x: vec4<f32>, activation: u32) -> vec4<f32> {
    switch activation {
        case 1u: { return x / (1.0 + exp(-x)); }
        case 2u: { return gelu(x); }
        case 3u: {
            // tanh overflows to NaN on some drivers for large arguments: it is 1 in f32 from 10 on.
            let inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
            return 0.5 * x * (1.0 + tanh(clamp(inner, vec4<f32>(-10.0), vec4<f32>(10.0))));
        }
        case 4u: { return x / (1.0 + exp(-1.702 * x)); }
        case 5u: { return max(x, vec4<f32>()); }
        case 6u: { return 1.0 / (1.0 + exp(-x)); }
        case 7u: { return tanh(clamp(x, vec4<f32>(-10.0), vec4<f32>(10.0))); }
        default: { return x; }
    }
}

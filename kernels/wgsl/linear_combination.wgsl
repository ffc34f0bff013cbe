// linear_combination.wgsl: y = sum of coefficients[i] * t_i over the first p.terms.
// Work:      one invocation per quad.
// Precision: f32 sums in the order of the terms; loads and stores as encoded.
// Traffic:   each term read once, y written once.
// variant: t0=f32 t1=f32 t2=f32 t3=f32 t4=f32 t5=f32 y=f32
// variant: t0=f16 t1=f32 t2=f16 t3=f16 t4=f16 t5=f16 y=f16
struct Params {
    quads: u32,         // quads of the bound window
    channels: u32,      // C
    terms: u32,         // 1 ..= 6; what is bound for the others is not read
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       t0: array<T04>;                      // [.., C]
@group(0) @binding(1) var<storage, read>       t1: array<T14>;                      // [.., C]
@group(0) @binding(2) var<storage, read>       t2: array<T24>;                      // [.., C]
@group(0) @binding(3) var<storage, read>       t3: array<T34>;                      // [.., C]
@group(0) @binding(4) var<storage, read>       t4: array<T44>;                      // [.., C]
@group(0) @binding(5) var<storage, read>       t5: array<T54>;                      // [.., C]
@group(0) @binding(6) var<storage, read>       coefficients: array<vec4<f32>, 2>;   // [8]
@group(0) @binding(7) var<storage, read_write> y: array<Y4>;                        // [.., C]

#import flat
#import lanes

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let low = coefficients[0];
    let high = coefficients[1];
    var sum = low.x * decode_t0(t0[i]);
    if (p.terms > 1u) { sum = fma(vec4<f32>(low.y), decode_t1(t1[i]), sum); }
    if (p.terms > 2u) { sum = fma(vec4<f32>(low.z), decode_t2(t2[i]), sum); }
    if (p.terms > 3u) { sum = fma(vec4<f32>(low.w), decode_t3(t3[i]), sum); }
    if (p.terms > 4u) { sum = fma(vec4<f32>(high.x), decode_t4(t4[i]), sum); }
    if (p.terms > 5u) { sum = fma(vec4<f32>(high.y), decode_t5(t5[i]), sum); }
    // A negative coefficient would make a row's padding -0.
    y[i] = encode_y(zero_outside(sum, i % ((p.channels + 3u) / 4u), p.channels));
}

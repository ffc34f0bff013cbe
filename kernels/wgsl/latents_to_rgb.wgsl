// latents_to_rgb.wgsl: y = clamp((z * factors + bias) / 2 + 1/2, 0, 1), pixel by pixel.
// Work:      one invocation per pixel.
// Precision: f32 sums in the order of the channels; values that are not finite are kept.
// Traffic:   z read once, factors once per pixel from cache, y written once.
// variant: z=f32 factors=f32 bias=f32 y=f32
// variant: z=f16 factors=bf16 bias=f16 y=f32
struct Params {
    pixels: u32,        // pixels of the bound window
    z_quads: u32,       // quads in a pixel of z
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       z: array<Z4>;               // [B, h, w, C]
@group(0) @binding(1) var<storage, read>       factors: array<FACTORS4>;   // [C', 3]
@group(0) @binding(2) var<storage, read>       bias: array<BIAS4>;         // [3]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;               // [B, h, w, 3]

#import flat
#import lanes
#import unit_range

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let pixel = flat_index(id, groups);
    if (pixel >= p.pixels) { return; }
    var sum = vec4<f32>();
    for (var quad = 0u; quad < p.z_quads; quad++) {
        let v = decode_z(z[pixel * p.z_quads + quad]);
        for (var lane = 0u; lane < 4u; lane++) {
            sum = fma(vec4<f32>(v[lane]), decode_factors(factors[quad * 4u + lane]), sum);
        }
    }
    y[pixel] = encode_y(zero_outside(unit_range(sum + decode_bias(bias[0])), 0u, 3u));
}

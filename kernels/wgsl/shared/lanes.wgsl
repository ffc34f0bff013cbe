// The lanes of quad `quad` that lie inside a row of `channels` elements; the rest of a row's last quad is stored as zero.
fn lanes_inside(quad: u32, channels: u32) -> vec4<bool> {
    return vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(channels);
}

fn zero_outside(v: vec4<f32>, quad: u32, channels: u32) -> vec4<f32> {
    return select(vec4<f32>(), v, lanes_inside(quad, channels));
}

// Lanes `first` .. `first + 4` of eight that lie in two quads; `first` is 1, 2 or 3.
fn lanes_from(low: vec4<f32>, high: vec4<f32>, first: u32) -> vec4<f32> {
    switch first {
        case 1u: { return vec4<f32>(low.yzw, high.x); }
        case 2u: { return vec4<f32>(low.zw, high.xy); }
        default: { return vec4<f32>(low.w, high.xyz); }
    }
}

// The lanes of quad `quad` that lie inside a row of `channels` elements; the rest of a row's last quad is stored as zero.
fn lanes_inside(quad: u32, channels: u32) -> vec4<bool> {
    return vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(channels);
}

fn zero_outside(v: vec4<f32>, quad: u32, channels: u32) -> vec4<f32> {
    return select(vec4<f32>(), v, lanes_inside(quad, channels));
}

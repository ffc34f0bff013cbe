// Four elements as they lie in a buffer, to and from f32. The lower half of a word is the earlier element.

fn decode_f32(v: vec4<f32>) -> vec4<f32> { return v; }
fn encode_f32(v: vec4<f32>) -> vec4<f32> { return v; }

fn decode_f16(v: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
}
fn encode_f16(v: vec4<f32>) -> vec2<u32> {
    return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
}

// bf16 is the upper half of an f32.
fn decode_bf16(v: vec2<u32>) -> vec4<f32> {
    let low = v << vec2<u32>(16u);
    let high = v & vec2<u32>(0xffff0000u);
    return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
}
fn encode_bf16(v: vec4<f32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(v);
    let rounded = (bits + 0x7fffu + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) >> vec4<u32>(16u);
    return vec2<u32>(rounded.x | (rounded.y << 16u), rounded.z | (rounded.w << 16u));
}

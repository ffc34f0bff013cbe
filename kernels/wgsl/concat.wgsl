// concat.wgsl: a, b, c and d one after the other along one dimension; fewer of them if the later parts are empty.
// Work:      one invocation per quad of y.
// Precision: values are moved.
// Traffic:   operands read once (up to four times where their quads do not lie in quads of y), y written once.
// variant: a=f32 b=f32 c=f32 d=f32 y=f32
// variant: a=f16 b=f16 c=f16 d=f16 y=f16
struct Params {
    quads: u32,                                                     // quads of the bound window of y
    channels: u32,                                                  // C of y
    first_row: u32,                                                 // row of the whole y that the window starts at
    inner: u32,                                                     // rows of y per index of the joined dimension
    total: u32,                                                     // extent of the joined dimension of y
    innermost: u32,                                                 // 1 if that is C
    b_begin: u32, c_begin: u32, d_begin: u32,                       // index in y at which a part starts
    a_origin: u32, b_origin: u32, c_origin: u32, d_origin: u32,     // quads of the whole operand before its window
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       a: array<A4>;    // [.., A, .., C]
@group(0) @binding(1) var<storage, read>       b: array<B4>;    // [.., B, .., C]
@group(0) @binding(2) var<storage, read>       c: array<C4>;    // [.., C, .., C]
@group(0) @binding(3) var<storage, read>       d: array<D4>;    // [.., D, .., C]
@group(0) @binding(4) var<storage, read_write> y: array<Y4>;    // [.., A + B + C + D, .., C]

#import flat
#import lanes

// A part of the joined dimension: the indices of y from begin to end.
struct Part {
    number: u32,
    begin: u32,
    end: u32,
}

fn part_at(index: u32) -> Part {
    if (index < p.b_begin) { return Part(0u, 0u, p.b_begin); }
    if (index < p.c_begin) { return Part(1u, p.b_begin, p.c_begin); }
    if (index < p.d_begin) { return Part(2u, p.c_begin, p.d_begin); }
    return Part(3u, p.d_begin, p.total);
}

fn quad_of(part: u32, at: u32) -> Y4 {
    switch part {
        case 0u: { return a[at - p.a_origin]; }
        case 1u: { return b[at - p.b_origin]; }
        case 2u: { return c[at - p.c_origin]; }
        default: { return d[at - p.d_origin]; }
    }
}

// Channel `channel` of a row of y, when channels are what is joined.
fn element(row: u32, channel: u32) -> f32 {
    let index = min(channel, p.channels - 1u);
    let part = part_at(index);
    let own = index - part.begin;
    return decode_a(quad_of(part.number, row * ((part.end - part.begin + 3u) / 4u) + own / 4u))[own % 4u];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let row_quads = (p.channels + 3u) / 4u;
    let quad = i % row_quads;
    let row = i / row_quads + p.first_row;

    if (p.innermost == 0u) {
        let index = row / p.inner % p.total;
        let part = part_at(index);
        let block = row / (p.inner * p.total);
        let own_row = (block * (part.end - part.begin) + index - part.begin) * p.inner + row % p.inner;
        y[i] = quad_of(part.number, own_row * row_quads + quad);
        return;
    }
    let first = quad * 4u;
    let part = part_at(first);
    let own = first - part.begin;
    let whole = first + 4u <= part.end || part.end == p.channels;
    if (own % 4u == 0u && whole) {
        y[i] = quad_of(part.number, row * ((part.end - part.begin + 3u) / 4u) + own / 4u);
        return;
    }
    let v = vec4<f32>(element(row, first), element(row, first + 1u), element(row, first + 2u), element(row, first + 3u));
    y[i] = encode_y(zero_outside(v, quad, p.channels));
}

// Moments of the groups of a span: neighbouring groups that begin and end at quads, or with the row. One workgroup of LANES
// works on one span of one batch; lanes lie side by side over its quads, and over rows where quads are fewer.
// Needs `p.channels`, `p.groups`, `p.span_groups` (a power of two, at most 16), `x: array<X4>` and look_again.
#import moments
#import quad_moments

var<workgroup> by_channel: array<Moments, LANES * 4u>;
var<workgroup> by_part: array<Moments, LANES>;

fn row_quads() -> u32 { return (p.channels + 3u) / 4u; }
fn group_width() -> u32 { return p.channels / p.groups; }
fn span_quads() -> u32 { return p.span_groups * group_width() / 4u; }
fn span_count() -> u32 { return (p.groups + p.span_groups - 1u) / p.span_groups; }
// Lanes that merge what belongs to one group.
fn group_lanes() -> u32 { return LANES / p.span_groups; }

// The first value of a group in the row that starts at quad `row`: what its moments are relative to.
fn group_origin(row: u32, group: u32) -> f32 {
    let channel = min(group, p.groups - 1u) * group_width();
    return decode_x(x[row + channel / 4u])[channel % 4u];
}

// Numbers of the groups that the four channels of a quad belong to.
fn groups_of(quad: u32) -> vec4<u32> {
    let channels = min(vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.channels - 1u));
    return channels / group_width();
}

// Moments of group_lanes() parts, the first lane's own and those after it, in the first lane.
fn merge_parts(own: Moments, lane: u32) -> Moments {
    let part = lane % group_lanes();
    var merged = own;
    var left = group_lanes();
    while (left > 1u) {
        // What an earlier round left there has been read by all.
        workgroupBarrier();
        by_part[lane] = merged;
        workgroupBarrier();
        let next = (left + 7u) / 8u;
        if (part < next) {
            for (var other = part + next; other < left; other += next) {
                merged = merge(merged, by_part[lane + other - part]);
            }
        }
        left = next;
    }
    return merged;
}

// Moments of group `span * p.span_groups + lane / group_lanes()` over `rows` rows, the first of which starts at quad `first`,
// relative to group_origin(first, group); in the first lane of each group. Every invocation has to call it.
fn span_moments(first: u32, rows: u32, span: u32, lane: u32) -> Moments {
    let width = group_width();
    let first_quad = span * span_quads();
    let quads = min(span_quads(), row_quads() - first_quad);
    let row_lanes = max(LANES / quads, 1u);
    let group = span * p.span_groups + lane / group_lanes();
    var own = Moments(0.0, 0.0, 0.0);
    for (var chunk = 0u; chunk < quads; chunk += LANES) {
        let chunk_quads = min(quads - chunk, LANES);
        let row_lane = lane / chunk_quads;
        if (row_lane < row_lanes) {
            let quad = first_quad + chunk + lane % chunk_quads;
            let owner = groups_of(quad);
            let origin = vec4<f32>(
                group_origin(first, owner.x), group_origin(first, owner.y),
                group_origin(first, owner.z), group_origin(first, owner.w));
            let step = row_lanes * row_quads();
            let count = (rows + row_lanes - 1u - row_lane) / row_lanes;
            let from_quad = first + row_lane * row_quads() + quad;
            let found = quad_moments(from_quad, step, count, origin);
            look_again(found, from_quad, step, count);
            for (var i = 0u; i < 4u; i++) {
                by_channel[lane * 4u + i] = Moments(f32(count), found.mean[i], found.m2[i]);
            }
        }
        workgroupBarrier();
        // The channels of the group in this chunk, counted from the chunk's first.
        let begin = (first_quad + chunk) * 4u;
        let from_channel = clamp(group * width, begin, begin + chunk_quads * 4u) - begin;
        let to_channel = clamp(group * width + width, begin, begin + chunk_quads * 4u) - begin;
        let channels = to_channel - from_channel;
        if (group < p.groups && channels > 0u) {
            for (var i = lane % group_lanes(); i < channels * row_lanes; i += group_lanes()) {
                let channel = from_channel + i % channels;
                own = merge(own, by_channel[i / channels * chunk_quads * 4u + channel]);
            }
        }
        workgroupBarrier();
    }
    return merge_parts(own, lane);
}

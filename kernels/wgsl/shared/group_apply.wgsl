// y = (x - mean) * multiplier + bias, then SiLU if asked for, on a span's rows once its groups' statistics are in `statistics`.
// Needs group_moments, `p.silu`, `scale`, `bias: array<vec4<f32>>` and `y: array<Y4>`.
#import lanes

// Of each group of the span: origin, mean - origin, 1 / deviation.
var<workgroup> statistics: array<vec4<f32>, 16>;

// The rows start at quad `first` of x and y.
fn apply_span(first: u32, rows: u32, span: u32, lane: u32) {
    let first_quad = span * span_quads();
    let quads = min(span_quads(), row_quads() - first_quad);
    let row_lanes = max(LANES / quads, 1u);
    for (var chunk = 0u; chunk < quads; chunk += LANES) {
        let chunk_quads = min(quads - chunk, LANES);
        let row_lane = lane / chunk_quads;
        if (row_lane >= row_lanes) { continue; }
        let quad = first_quad + chunk + lane % chunk_quads;
        let owner = groups_of(quad) - vec4<u32>(span * p.span_groups);
        let a = statistics[owner.x];
        let b = statistics[owner.y];
        let c = statistics[owner.z];
        let d = statistics[owner.w];
        let origin = vec4<f32>(a.x, b.x, c.x, d.x);
        let mean = vec4<f32>(a.y, b.y, c.y, d.y);
        let multiplier = vec4<f32>(a.z, b.z, c.z, d.z) * scale[quad];
        let offset = bias[quad];
        for (var row = row_lane; row < rows; row += row_lanes) {
            let at = first + row * row_quads() + quad;
            var v = fma((decode_x(x[at]) - origin) - mean, multiplier, offset);
            if (p.silu == 1u) { v = v / (1.0 + exp(-v)); }
            y[at] = encode_y(zero_outside(v, quad, p.channels));
        }
    }
}

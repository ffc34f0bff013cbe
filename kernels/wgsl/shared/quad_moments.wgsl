// Mean and sum of squared deviations of each of four channels over `rows` rows, relative to `origin`: the first row has them at
// quad `first` of x, the next ones `step` quads later each. Four rows at a time, by Chan's formula.
struct QuadMoments { mean: vec4<f32>, m2: vec4<f32> }

fn quad_moments(first: u32, step: u32, rows: u32, origin: vec4<f32>) -> QuadMoments {
    var at = first;
    var mean = vec4<f32>();
    var m2 = vec4<f32>();
    var row = 0u;
    for (; row + 4u <= rows; row += 4u) {
        let a = decode_x(x[at]) - origin;
        let b = decode_x(x[at + step]) - origin;
        let c = decode_x(x[at + 2u * step]) - origin;
        let d = decode_x(x[at + 3u * step]) - origin;
        at += 4u * step;
        let four_mean = 0.25 * ((a + b) + (c + d));
        let da = a - four_mean;
        let db = b - four_mean;
        let dc = c - four_mean;
        let dd = d - four_mean;
        let delta = four_mean - mean;
        let share = 4.0 / f32(row + 4u);
        mean += delta * share;
        m2 += da * da + db * db + dc * dc + dd * dd + delta * delta * (f32(row) * share);
    }
    for (; row < rows; row++) {
        let delta = decode_x(x[at]) - origin - mean;
        at += step;
        let share = 1.0 / f32(row + 1u);
        mean += delta * share;
        m2 += delta * delta * (f32(row) * share);
    }
    return QuadMoments(mean, m2);
}

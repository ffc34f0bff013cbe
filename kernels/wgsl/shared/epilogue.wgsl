// What follows a contraction while its sums are still in registers:
// y = activate(sum + bias[n] + batch_bias[b, n]) + residual[m, n], stored in Y4 with the row's padding zeroed.
// The including file binds w, bias, batch_bias, residual and y, and has p.n and p.activation.
#import activation
#import lanes

fn store_sum(sum: vec4<f32>, row: u32, quad: u32, batch: u32) {
    let pitch = (p.n + 3u) / 4u;
    var v = sum;
#ifdef BIAS
    v += decode_bias(bias[quad]);
#endif
#ifdef BATCH_BIAS
    v += decode_batch_bias(batch_bias[batch * pitch + quad]);
#endif
    v = activate(v, p.activation);
    let at = row * pitch + quad;
#ifdef RESIDUAL
    v += decode_residual(residual[at]);
#endif
    y[at] = encode_y(zero_outside(v, quad, p.n));
}

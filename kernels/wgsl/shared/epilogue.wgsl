// What follows a contraction while its sums are still in registers:
// y = activate(sum + bias[n] + batch_bias[b, n]) + residual[m, n], stored in Y4 with the row's padding zeroed.
// The including file says where a product's bias starts, binds bias, batch_bias, residual and y, and has p.n and p.epilogue: the activation's number, and a bit
// for each operand that is present.
#import activation
#import lanes

const BIAS = 0x100u;
const BATCH_BIAS = 0x200u;
const RESIDUAL = 0x400u;

fn has(operand: u32) -> bool { return (p.epilogue & operand) != 0u; }

fn store_sum(sum: vec4<f32>, product: u32, row: u32, quad: u32, batch: u32) {
    let pitch = (p.n + 3u) / 4u;
    let at = row * pitch + quad;
    var v = sum;
    if (has(BIAS)) { v += decode_bias(bias[bias_start(product) + quad]); }
    if (has(BATCH_BIAS)) { v += decode_batch_bias(batch_bias[batch * pitch + quad]); }
    v = activate(v, p.epilogue & 0xffu);
    if (has(RESIDUAL)) { v += decode_residual(residual[at]); }
    y[at] = encode_y(zero_outside(v, quad, p.n));
}

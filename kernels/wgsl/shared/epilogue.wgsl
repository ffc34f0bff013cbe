// What follows a contraction while its sums are still in registers:
// y = scale * (activate(sum + bias[n] + batch_bias[b, n]) + residual[m, n]), or with GEGLU y = scale * hidden * gelu(gate), where
// quads of w's columns alternate: hidden, gate. Stored in Y4 with the row's padding zeroed.
// The including file says where a product's bias starts, binds bias, batch_bias, residual and y, and has p.n, p.scale,
// p.batch_columns and p.epilogue: the activation's number, and a bit for each operand that is present.
#import activation
#import lanes

const BIAS = 0x100u;
const BATCH_BIAS = 0x200u;
const RESIDUAL = 0x400u;
const GEGLU = 0x800u;

fn has(part: u32) -> bool { return (p.epilogue & part) != 0u; }

fn biased(sum: vec4<f32>, product: u32, quad: u32) -> vec4<f32> {
    if (has(BIAS)) { return sum + decode_bias(bias[bias_start(product) + quad]); }
    return sum;
}

fn store_sum(sum: vec4<f32>, product: u32, row: u32, quad: u32, batch: u32) {
    let pitch = (p.n + 3u) / 4u;
    let at = row * pitch + quad;
    var v = biased(sum, product, quad);
    if (has(BATCH_BIAS)) {
        let first = batch * (p.batch_columns >> 16u) + (p.batch_columns & 0xffffu);
        v += decode_batch_bias(batch_bias[first + quad]);
    }
    v = activate(v, p.epilogue & 0xffu);
    if (has(RESIDUAL)) { v += decode_residual(residual[at]); }
    y[at] = encode_y(zero_outside(p.scale * v, quad, p.n));
}

// The sums of quads `quad`, an even one, and `quad + 1`, as far as they are columns.
fn store_pair(left: vec4<f32>, right: vec4<f32>, product: u32, row: u32, quad: u32, batch: u32) {
    let pitch = (p.n + 3u) / 4u;
    if (has(GEGLU)) {
        let v = biased(left, product, quad) * gelu(biased(right, product, quad + 1u));
        y[row * (pitch / 2u) + quad / 2u] = encode_y(p.scale * v);
        return;
    }
    store_sum(left, product, row, quad, batch);
    if (quad + 1u < pitch) { store_sum(right, product, row, quad + 1u, batch); }
}

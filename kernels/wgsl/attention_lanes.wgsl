// attention_lanes.wgsl: y = softmax(scale * q * k^T + mask) * v, per batch and head.
// Work:      one subgroup of 8 lanes per 32 queries, 4 to a lane, and no barrier: a lane loads a quad of one key, and
//            shuffles give it to all. Blocks of keys are finished one after the other, sums waiting in memory between;
//            so do highest scores and totals between dispatches, of which each does the keys FIRST .. LAST.
// Precision: f32 scores, softmax and sums.
// Traffic:   k and v read S/32 times, q T/16 times, sums T/BLOCK times; y written once.
// variant: q=f32 k=f32 v=f32 y=f32 TILE=16 TILES=7 CHUNK=5 DOT=16
// variant: MASK q=f16 k=f16 v=f16 y=f16 TILE=16 TILES=7 CHUNK=5 DOT=16
struct Params {
    queries: u32,       // S
    keys: u32,          // T
    head_quads: u32,    // D / 4
    q_quads: u32,       // quads in a row of q and y
    kv_quads: u32,      // quads in a row of k and v
    heads_per_kv: u32,  // heads that share one head of k and v
    scale: f32,
    causal: u32,        // whether query i sees keys 0 ..= i alone
    mask_batch: u32,    // elements of the mask from one batch to the next, 0 if they share it
    mask_head: u32,     // from one head to the next
    mask_query: u32,    // from one query to the next
    first_block: u32,   // block of 32 queries that the dispatch starts with
    first_key: u32,     // of this dispatch, at the beginning of a block
    end_key: u32,       // of this dispatch; T in the last one
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       q: array<Q4>;            // [B, S, heads * D]
@group(0) @binding(1) var<storage, read>       k: array<K4>;            // [B, T, kv_heads * D]
@group(0) @binding(2) var<storage, read>       v: array<V4>;            // [B, T, kv_heads * D]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;            // [B, S, heads * D]
@group(0) @binding(4) var<storage, read_write> sums: array<vec4<f32>>;  // [B, heads, blocks of 32 queries, D / 4 + 1, 4, 8]

const LANES: u32 = 8u;
const BLOCK: u32 = TILE * TILES;
#import mask

// Every lane reads what it wrote itself, a vector over its 4 queries.
var<workgroup> weights: array<vec4<f32>, BLOCK * LANES>;    // [key, lane], relative to the tile's highest score
var<workgroup> highests: array<vec4<f32>, TILES * LANES>;   // [tile, lane]

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let block = p.first_block + workgroup.x;
    let blocks = (p.queries + 31u) / 32u;
    let head = workgroup.y;
    let batch = workgroup.z;
    let d = p.head_quads;
    let kv = batch * p.keys * p.kv_quads + head / p.heads_per_kv * d;
    let last_query = p.queries - 1u;
    let last_key = p.keys - 1u;
    // Queries and keys beyond the last repeat it: loads stay in bounds, masks and guarded stores discard the rest.
    let query = vec4<u32>(block * 32u + lane) + vec4<u32>(0u, 8u, 16u, 24u);
    let masks = masks_at(batch, head, min(query, vec4<u32>(last_query)));
    let q_row = (batch * p.queries + min(query, vec4<u32>(last_query))) * p.q_quads + head * d;
    let seen = select(vec4<u32>(last_key), min(query, vec4<u32>(last_key)), p.causal == 1u);
    var end = p.end_key;
    if (p.causal == 1u) { end = min(end, block * 32u + 32u); }
    let own_sums = ((batch * workgroups.y + head) * blocks + block) * (d + 1u) * 4u * LANES + lane;
    let own_state = own_sums + d * 4u * LANES;

    var highest = vec4<f32>(MASKED);
    var total = vec4<f32>();
    if (p.first_key > 0u) {
        highest = sums[own_state];
        total = sums[own_state + LANES];
    }
    for (var block = p.first_key; block < end; block += BLOCK) {
        let tiles = (min(end - block, BLOCK) + TILE - 1u) / TILE;
        let before = highest;
        for (var tile = 0u; tile < tiles; tile++) {
            let first = block + tile * TILE;
            let k0 = kv + min(first + lane, last_key) * p.kv_quads;
            let k1 = kv + min(first + lane + LANES, last_key) * p.kv_quads;
            var s = array<vec4<f32>, TILE>();
            for (var start = 0u; start < d; start += DOT) {
                var part = array<vec4<f32>, TILE>();
                let stop = min(start + DOT, d);
                for (var i = start; i < stop; i++) {
                    let queries = mat4x4<f32>(
                        decode_q(q[q_row.x + i]), decode_q(q[q_row.y + i]),
                        decode_q(q[q_row.z + i]), decode_q(q[q_row.w + i]));
                    let a = decode_k(k[k0 + i]);
                    let b = decode_k(k[k1 + i]);
                    for (var key = 0u; key < LANES; key++) {
                        part[key] += subgroupShuffle(a, key) * queries;
                        part[key + LANES] += subgroupShuffle(b, key) * queries;
                    }
                }
                for (var key = 0u; key < TILE; key++) { s[key] += part[key]; }
            }
            let old = highest;
            for (var key = 0u; key < TILE; key++) {
                let score = scores_of(s[key], masks, min(first + key, last_key));
                s[key] = select(vec4<f32>(MASKED), score, vec4<u32>(first + key) <= seen);
                highest = max(highest, s[key]);
            }
            total *= exp(old - highest);
            for (var key = 0u; key < TILE; key++) {
                let weight = weights_of(s[key], highest);
                total += weight;
                weights[(tile * TILE + key) * LANES + lane] = weight;
            }
            highests[tile * LANES + lane] = highest;
        }

        let decay = exp(before - highest);
        for (var chunk = 0u; chunk < d; chunk += CHUNK) {
            var sum = array<mat4x4<f32>, CHUNK>();     // a column per query
            for (var c = 0u; c < CHUNK; c++) {
                let at = own_sums + min(chunk + c, d - 1u) * 4u * LANES;
                sum[c] = mat4x4<f32>(
                    waiting(at, block) * decay.x, waiting(at + LANES, block) * decay.y,
                    waiting(at + 2u * LANES, block) * decay.z, waiting(at + 3u * LANES, block) * decay.w);
            }
            for (var tile = 0u; tile < tiles; tile++) {
                let relative = exp(highests[tile * LANES + lane] - highest);
                for (var half = 0u; half < TILE; half += LANES) {
                    let key = tile * TILE + half;
                    let row = kv + min(block + key + lane, last_key) * p.kv_quads;
                    var value = array<vec4<f32>, CHUNK>();
                    for (var c = 0u; c < CHUNK; c++) {
                        value[c] = decode_v(v[row + min(chunk + c, d - 1u)]);
                    }
                    for (var i = 0u; i < LANES; i++) {
                        let weight = weights[(key + i) * LANES + lane] * relative;
                        for (var c = 0u; c < CHUNK; c++) {
                            let x = subgroupShuffle(value[c], i);
                            sum[c] = mat4x4<f32>(
                                fma(x, weight.xxxx, sum[c][0]), fma(x, weight.yyyy, sum[c][1]),
                                fma(x, weight.zzzz, sum[c][2]), fma(x, weight.wwww, sum[c][3]));
                        }
                    }
                }
            }
            for (var c = 0u; c < CHUNK; c++) {
                if (chunk + c < d) {
                    let at = own_sums + (chunk + c) * 4u * LANES;
                    sums[at] = sum[c][0];
                    sums[at + LANES] = sum[c][1];
                    sums[at + 2u * LANES] = sum[c][2];
                    sums[at + 3u * LANES] = sum[c][3];
                }
            }
        }
    }

    if (p.end_key < p.keys) {
        sums[own_state] = highest;
        sums[own_state + LANES] = total;
        return;
    }
    let divisor = max(total, vec4<f32>(LEAST_TOTAL));
    for (var i = 0u; i < d; i++) {
        let at = own_sums + i * 4u * LANES;
        let y_quad = batch * p.queries * p.q_quads + head * d + i;
        if (query.x < p.queries) { y[y_quad + query.x * p.q_quads] = encode_y(sums[at] / divisor.x); }
        if (query.y < p.queries) { y[y_quad + query.y * p.q_quads] = encode_y(sums[at + LANES] / divisor.y); }
        if (query.z < p.queries) { y[y_quad + query.z * p.q_quads] = encode_y(sums[at + 2u * LANES] / divisor.z); }
        if (query.w < p.queries) { y[y_quad + query.w * p.q_quads] = encode_y(sums[at + 3u * LANES] / divisor.w); }
    }
}

// The sum of the blocks before `block`.
fn waiting(at: u32, block: u32) -> vec4<f32> {
    return select(vec4<f32>(), sums[at], block > 0u);
}

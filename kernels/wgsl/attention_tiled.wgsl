// attention_tiled.wgsl: y = softmax(scale * q * k^T + mask) * v, per batch and head.
// Work:      one workgroup per QUERIES queries, online softmax over tiles of KEYS keys. A lane has the scores of
//            4 queries x 4 keys, then the result of 4 * LANE_GROUPS queries x LANE_QUADS quads.
// Precision: f32 scores, softmax and sums; scores are summed in slices, against rounding.
// Traffic:   k and v read S/QUERIES times, q T/KEYS times, y written once.
// variant: q=f32 k=f32 v=f32 y=f32 QUERIES=32 KEYS=32 SLICE=10 LANE_GROUPS=2 LANE_QUADS=1
// variant: MASK q=f16 k=f16 v=f16 y=f16 QUERIES=16 KEYS=64 SLICE=8 LANE_GROUPS=4 LANE_QUADS=2
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
    first_block: u32,   // block of QUERIES queries that the dispatch starts with
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       q: array<Q4>;   // [B, S, heads * D]
@group(0) @binding(1) var<storage, read>       k: array<K4>;   // [B, T, kv_heads * D]
@group(0) @binding(2) var<storage, read>       v: array<V4>;   // [B, T, kv_heads * D]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;   // [B, S, heads * D]

const LANES: u32 = 64u;
const QUERY_GROUPS: u32 = QUERIES / 4u;
const KEY_GROUPS: u32 = KEYS / 4u;                             // QUERY_GROUPS * KEY_GROUPS == LANES
const QUAD_LANES: u32 = LANES * LANE_GROUPS / QUERY_GROUPS;    // lanes side by side along D
// One more column than a slice has: lanes that store a row, and lanes that load a column, then use different banks.
const QUERY_PITCH: u32 = QUERIES + 1u;
const KEY_PITCH: u32 = KEYS + 1u;

#import mask

// Constants keep the sum of these within 16 KiB.
var<workgroup> query_slice: array<vec4<f32>, SLICE * QUERY_PITCH>;  // [quad, query]
var<workgroup> key_slice: array<vec4<f32>, SLICE * KEY_PITCH>;      // [quad, key]
var<workgroup> weights: array<vec4<f32>, KEYS * QUERY_GROUPS>;      // [key, query group]
var<workgroup> partials: array<vec4<f32>, LANES>;                   // [query group, key group]
var<workgroup> decays: array<vec4<f32>, QUERY_GROUPS>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first_query = (p.first_block + workgroup.x) * QUERIES;
    let head = workgroup.y;
    let batch = workgroup.z;
    let d = p.head_quads;
    let kv = batch * p.keys * p.kv_quads + head / p.heads_per_kv * d;
    let last_query = p.queries - 1u;
    let last_key = p.keys - 1u;

    // Queries and keys beyond the last repeat it: loads stay in bounds, masks and guarded stores discard the rest.
    let query_group = lane / KEY_GROUPS;
    let key_lane = lane % KEY_GROUPS;
    let q_head = batch * p.queries * p.q_quads + head * d;
    let query = queries_of(first_query, query_group);
    let seen = select(vec4<u32>(last_key), min(query, vec4<u32>(last_key)), p.causal == 1u);
    let masks = masks_at(batch, head, min(query, vec4<u32>(last_query)));
    var end = p.keys;
    if (p.causal == 1u) { end = min(end, first_query + QUERIES); }

    let group = lane / QUAD_LANES * LANE_GROUPS;
    let quad_lane = lane % QUAD_LANES;
    var sums = array<mat4x4<f32>, LANE_GROUPS * LANE_QUADS>();    // a column per query
    var highest = vec4<f32>(MASKED);
    var total = vec4<f32>();

    for (var tile = 0u; tile < end; tile += KEYS) {
        let key0 = tile + key_lane;
        let key1 = key0 + KEY_GROUPS;
        let key2 = key1 + KEY_GROUPS;
        let key3 = key2 + KEY_GROUPS;
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var start = 0u; start < d; start += SLICE) {
            workgroupBarrier();
            for (var i = lane; i < QUERIES * SLICE; i += LANES) {
                let row = min(first_query + i / SLICE, last_query);
                let quad = min(start + i % SLICE, d - 1u);
                query_slice[i % SLICE * QUERY_PITCH + i / SLICE] = decode_q(q[q_head + row * p.q_quads + quad]);
            }
            for (var i = lane; i < KEYS * SLICE; i += LANES) {
                let row = min(tile + i / SLICE, last_key);
                let quad = min(start + i % SLICE, d - 1u);
                key_slice[i % SLICE * KEY_PITCH + i / SLICE] = decode_k(k[kv + row * p.kv_quads + quad]);
            }
            workgroupBarrier();
            var part0 = vec4<f32>();
            var part1 = vec4<f32>();
            var part2 = vec4<f32>();
            var part3 = vec4<f32>();
            let quads = min(SLICE, d - start);
            for (var i = 0u; i < quads; i++) {
                let query_at = i * QUERY_PITCH + query_group;
                let queries = mat4x4<f32>(
                    query_slice[query_at], query_slice[query_at + QUERY_GROUPS],
                    query_slice[query_at + 2u * QUERY_GROUPS], query_slice[query_at + 3u * QUERY_GROUPS]);
                let key_at = i * KEY_PITCH + key_lane;
                part0 += key_slice[key_at] * queries;
                part1 += key_slice[key_at + KEY_GROUPS] * queries;
                part2 += key_slice[key_at + 2u * KEY_GROUPS] * queries;
                part3 += key_slice[key_at + 3u * KEY_GROUPS] * queries;
            }
            s0 += part0;
            s1 += part1;
            s2 += part2;
            s3 += part3;
        }
        s0 = select(vec4<f32>(MASKED), scores_of(s0, masks, min(key0, last_key)), vec4<u32>(key0) <= seen);
        s1 = select(vec4<f32>(MASKED), scores_of(s1, masks, min(key1, last_key)), vec4<u32>(key1) <= seen);
        s2 = select(vec4<f32>(MASKED), scores_of(s2, masks, min(key2, last_key)), vec4<u32>(key2) <= seen);
        s3 = select(vec4<f32>(MASKED), scores_of(s3, masks, min(key3, last_key)), vec4<u32>(key3) <= seen);

        partials[lane] = max(max(s0, s1), max(s2, s3));
        workgroupBarrier();
        let before = highest;
        for (var i = 0u; i < KEY_GROUPS; i++) {
            highest = max(highest, partials[query_group * KEY_GROUPS + i]);
        }
        let decay = exp(before - highest);
        s0 = weights_of(s0, highest);
        s1 = weights_of(s1, highest);
        s2 = weights_of(s2, highest);
        s3 = weights_of(s3, highest);
        total = total * decay + ((s0 + s1) + (s2 + s3));
        weights[(key0 - tile) * QUERY_GROUPS + query_group] = s0;
        weights[(key1 - tile) * QUERY_GROUPS + query_group] = s1;
        weights[(key2 - tile) * QUERY_GROUPS + query_group] = s2;
        weights[(key3 - tile) * QUERY_GROUPS + query_group] = s3;
        if (key_lane == 0u) { decays[query_group] = decay; }
        workgroupBarrier();

        for (var g = 0u; g < LANE_GROUPS; g++) {
            let decay = decays[group + g];
            for (var c = 0u; c < LANE_QUADS; c++) {
                let s = sums[g * LANE_QUADS + c];
                sums[g * LANE_QUADS + c] =
                    mat4x4<f32>(s[0] * decay.x, s[1] * decay.y, s[2] * decay.z, s[3] * decay.w);
            }
        }
        let keys = min(KEYS, end - tile);
        for (var key = 0u; key < keys; key++) {
            var values = array<vec4<f32>, LANE_QUADS>();
            let row = kv + (tile + key) * p.kv_quads;
            for (var c = 0u; c < LANE_QUADS; c++) {
                values[c] = decode_v(v[row + min(quad_lane + c * QUAD_LANES, d - 1u)]);
            }
            for (var g = 0u; g < LANE_GROUPS; g++) {
                let weight = weights[key * QUERY_GROUPS + group + g];
                for (var c = 0u; c < LANE_QUADS; c++) {
                    let s = sums[g * LANE_QUADS + c];
                    let value = values[c];
                    sums[g * LANE_QUADS + c] = mat4x4<f32>(
                        fma(value, weight.xxxx, s[0]), fma(value, weight.yyyy, s[1]),
                        fma(value, weight.zzzz, s[2]), fma(value, weight.wwww, s[3]));
                }
            }
        }
    }

    workgroupBarrier();
    partials[lane] = total;
    workgroupBarrier();
    for (var g = 0u; g < LANE_GROUPS; g++) {
        var all = vec4<f32>();
        for (var i = 0u; i < KEY_GROUPS; i++) {
            all += partials[(group + g) * KEY_GROUPS + i];
        }
        all = max(all, vec4<f32>(LEAST_TOTAL));
        let row = queries_of(first_query, group + g);
        for (var c = 0u; c < LANE_QUADS; c++) {
            let quad = quad_lane + c * QUAD_LANES;
            let s = sums[g * LANE_QUADS + c];
            store(s[0] / all.x, row.x, batch, head, quad);
            store(s[1] / all.y, row.y, batch, head, quad);
            store(s[2] / all.z, row.z, batch, head, quad);
            store(s[3] / all.w, row.w, batch, head, quad);
        }
    }
}

// The queries of a query group; neighbouring groups have neighbouring queries.
fn queries_of(first_query: u32, group: u32) -> vec4<u32> {
    return vec4<u32>(first_query + group) + vec4<u32>(0u, QUERY_GROUPS, 2u * QUERY_GROUPS, 3u * QUERY_GROUPS);
}

fn store(value: vec4<f32>, query: u32, batch: u32, head: u32, quad: u32) {
    if (query >= p.queries || quad >= p.head_quads) { return; }
    y[(batch * p.queries + query) * p.q_quads + head * p.head_quads + quad] = encode_y(value);
}

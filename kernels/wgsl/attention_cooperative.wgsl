// attention_cooperative.wgsl: y = softmax(scale * q * k^T + mask) * v, per batch and head, on matrix units.
// Work:      one workgroup of four subgroups per 4 * TILE queries, a tile of them to a subgroup; keys in blocks of 32. Matrix units
//            cannot scale a row, so that sums cannot follow a growing maximum: the keys are gone through twice, first for
//            the highest score and the total of each query, then for the result. Heads of more than ten tiles have workgroups
//            for SLICES of their features each; all of them need the whole scores, and gather them slice by slice.
// Precision: products of f16 values, f32 scores, softmax and sums; weights are rounded to f16.
// Traffic:   k read SLICES * S / (2 * TILE) times, v S / (4 * TILE) times, q once, or T / 16 times for several slices; y written
//            once.
// variant: COOPERATIVE COOPERATIVE_16 q=f16 k=f16 v=f16 y=f16 SUBGROUP=32 D_TILES=3 SLICES=1
// variant: COOPERATIVE MASK q=f16 k=f16 v=f16 y=f16 SUBGROUP=8 D_TILES=10 SLICES=7
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
    first_block: u32,   // block of 4 * TILE queries that the dispatch starts with
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       q: array<Q4>;   // [B, S, heads * D]
@group(0) @binding(1) var<storage, read>       k: array<K4>;   // [B, T, kv_heads * D]
@group(0) @binding(2) var<storage, read>       v: array<V4>;   // [B, T, kv_heads * D]
@group(0) @binding(3) var<storage, read_write> y: array<Y4>;   // [B, S, heads * D]

#import cooperative

const THREADS: u32 = 4u * SUBGROUP;
const QUERIES: u32 = 4u * TILE;
const KEYS: u32 = 32u;
const KEY_TILES: u32 = KEYS / TILE;
const D_QUADS: u32 = D_TILES * TILE / 4u;
// Eight more than a slice has: the rows that a subgroup loads then begin in different banks.
const D_PITCH: u32 = D_TILES * TILE + 8u;
const KEY_PITCH: u32 = KEYS + 8u;
// Lanes that share a query.
const PARTS: u32 = SUBGROUP / TILE;

#import mask

var<workgroup> query_rows: array<f16, QUERIES * D_PITCH>;       // [QUERIES, slice of D]
var<workgroup> rows: array<f16, KEYS * D_PITCH>;                // [KEYS, slice of D] of k, then of v
var<workgroup> scores: array<f32, QUERIES * KEYS>;              // [QUERIES, KEYS]; a tile of the result at the end
var<workgroup> weights: array<f16, QUERIES * KEY_PITCH>;        // [QUERIES, KEYS]
var<workgroup> partials: array<vec2<f32>, THREADS>;             // highest score and total

struct Place {
    subgroup: u32,
    lane: u32,
    thread: u32,
    q: u32,             // quad that the head starts at in the first query's row
    last_query: u32,    // queries after the first that there are at most
    kv: u32,            // quad that the head's first key starts at
    query: u32,         // of this lane
    masks: vec4<u32>,   // where its mask starts, four times
}

// Queries beyond the last repeat it, and are not stored.
fn load_queries(slice: u32, place: Place) {
    for (var i = place.thread; i < QUERIES * D_QUADS; i += THREADS) {
        let quad = slice * D_QUADS + i % D_QUADS;
        let row = min(i / D_QUADS, place.last_query);
        let found = decode_q(q[place.q + row * p.q_quads + min(quad, p.head_quads - 1u)]);
        let half = vec4<f16>(select(vec4<f32>(), found, quad < p.head_quads));
        let at = i / D_QUADS * D_PITCH + i % D_QUADS * 4u;
        query_rows[at] = half.x; query_rows[at + 1u] = half.y; query_rows[at + 2u] = half.z; query_rows[at + 3u] = half.w;
    }
}

fn load_keys(first: u32, slice: u32, place: Place) {
    for (var i = place.thread; i < KEYS * D_QUADS; i += THREADS) {
        let quad = slice * D_QUADS + i % D_QUADS;
        let row = min(first + i / D_QUADS, p.keys - 1u);
        let found = decode_k(k[place.kv + row * p.kv_quads + min(quad, p.head_quads - 1u)]);
        let half = vec4<f16>(select(vec4<f32>(), found, quad < p.head_quads));
        let at = i / D_QUADS * D_PITCH + i % D_QUADS * 4u;
        rows[at] = half.x; rows[at + 1u] = half.y; rows[at + 2u] = half.z; rows[at + 3u] = half.w;
    }
}

// As load_keys; values of keys beyond the last are not used, for their weights are zero.
fn load_values(first: u32, slice: u32, place: Place) {
    for (var i = place.thread; i < KEYS * D_QUADS; i += THREADS) {
        let quad = slice * D_QUADS + i % D_QUADS;
        let row = min(first + i / D_QUADS, p.keys - 1u);
        let found = decode_v(v[place.kv + row * p.kv_quads + min(quad, p.head_quads - 1u)]);
        let half = vec4<f16>(select(vec4<f32>(), found, quad < p.head_quads));
        let at = i / D_QUADS * D_PITCH + i % D_QUADS * 4u;
        rows[at] = half.x; rows[at + 1u] = half.y; rows[at + 2u] = half.z; rows[at + 3u] = half.w;
    }
}

// What a slice of features adds to the scores of the subgroup's queries with the keys in `rows`, before their scale; of a
// single slice, the scores themselves.
fn add_scores(place: Place) {
    for (var tile = 0u; tile < KEY_TILES; tile++) {
        let at = place.subgroup * TILE * KEYS + tile * TILE;
        let pitch = KEYS;
        var sum = SumTile();
        if (SLICES > 1u) { sum = coopLoadT<SumTile>(&scores[at], pitch); }
        for (var d = 0u; d < D_TILES; d++) {
            let left = place.subgroup * TILE * D_PITCH + d * TILE;
            let right = tile * TILE * D_PITCH + d * TILE;
            let a = coopLoadT<LeftTile>(&query_rows[left], D_PITCH);
            // Columns are keys: a column of the right matrix is a row of k.
            let b = coopLoad<RightTile>(&rows[right], D_PITCH);
            sum = coopMultiplyAdd(a, b, sum);
        }
        coopStoreT(sum, &scores[at], pitch);
    }
}

// The scores of the subgroup's queries with a block of keys. Of a single slice, nobody may be reading `rows` any more.
fn score(first: u32, place: Place) {
    if (SLICES > 1u) {
        workgroupBarrier();
        for (var i = place.thread; i < QUERIES * KEYS; i += THREADS) { scores[i] = 0.0; }
    }
    for (var slice = 0u; slice < SLICES; slice++) {
        if (SLICES > 1u) {
            workgroupBarrier();
            load_queries(slice, place);
        }
        load_keys(first, slice, place);
        workgroupBarrier();
        add_scores(place);
    }
    workgroupBarrier();
}

// The score of key `first + i`, whose product with the lane's query is at `at`.
fn score_of(at: u32, first: u32, i: u32, place: Place) -> f32 {
    let key = first + i;
    let is_seen = key < p.keys && (p.causal == 0u || key <= place.query);
    let score = scores_of(vec4<f32>(scores[at + i]), place.masks, min(key, p.keys - 1u)).x;
    return select(MASKED, score, is_seen);
}

// Unlike weights_of, zero for what is not seen whatever else is.
fn weight_of(score: f32, highest: f32) -> f32 {
    return select(exp(score - highest), 0.0, score <= MASKED);
}

fn store_result(tile: SumTile, column: u32, factor: f32, batch: u32, head: u32, place: Place) {
    let stage = place.subgroup * TILE * KEYS;
    let pitch = TILE;
    coopStoreT(tile, &scores[stage], pitch);
    workgroupBarrier();
    let row = place.lane % TILE;
    for (var i = place.lane / TILE; i < TILE / 4u; i += PARTS) {
        let quad = column * TILE / 4u + i;
        if (place.query < p.queries && quad < p.head_quads) {
            let at = stage + row * TILE + i * 4u;
            let sum = vec4<f32>(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            y[(batch * p.queries + place.query) * p.q_quads + head * p.head_quads + quad] = encode_y(sum * factor);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let first_query = (p.first_block + workgroup.x) * QUERIES;
    let head = workgroup.y / SLICES;
    let slice = workgroup.y % SLICES;
    let batch = workgroup.z;
    let kv = batch * p.keys * p.kv_quads + head / p.heads_per_kv * p.head_quads;
    let query = first_query + subgroup * TILE + lane % TILE;
    let masks = masks_at(batch, head, vec4<u32>(min(query, p.queries - 1u)));
    let q_at = (batch * p.queries + first_query) * p.q_quads + head * p.head_quads;
    let place = Place(subgroup, lane, thread, q_at, p.queries - 1u - first_query, kv, query, masks);
    var end = p.keys;
    if (p.causal == 1u) { end = min(end, first_query + QUERIES); }

    if (SLICES == 1u) { load_queries(0u, place); }
    let own_scores = (subgroup * TILE + lane % TILE) * KEYS;
    var highest = MASKED;
    var total = 0.0;
    for (var first = 0u; first < end; first += KEYS) {
        score(first, place);
        var peak = highest;
        for (var i = lane / TILE; i < KEYS; i += PARTS) {
            peak = max(peak, score_of(own_scores, first, i, place));
        }
        total *= exp(highest - peak);
        highest = peak;
        for (var i = lane / TILE; i < KEYS; i += PARTS) {
            total += weight_of(score_of(own_scores, first, i, place), highest);
        }
    }
    partials[thread] = vec2<f32>(highest, total);
    workgroupBarrier();
    let row_partials = subgroup * SUBGROUP + lane % TILE;
    highest = MASKED;
    for (var part = 0u; part < PARTS; part++) { highest = max(highest, partials[row_partials + part * TILE].x); }
    total = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        let partial = partials[row_partials + part * TILE];
        total += partial.y * exp(partial.x - highest);
    }

    var s0 = SumTile(); var s1 = SumTile(); var s2 = SumTile(); var s3 = SumTile(); var s4 = SumTile();
    var s5 = SumTile(); var s6 = SumTile(); var s7 = SumTile(); var s8 = SumTile(); var s9 = SumTile();
    let own_weights = (subgroup * TILE + lane % TILE) * KEY_PITCH;
    for (var first = 0u; first < end; first += KEYS) {
        workgroupBarrier();
        score(first, place);
        for (var i = lane / TILE; i < KEYS; i += PARTS) {
            weights[own_weights + i] = f16(weight_of(score_of(own_scores, first, i, place), highest));
        }
        load_values(first, slice, place);
        workgroupBarrier();
        for (var tile = 0u; tile < KEY_TILES; tile++) {
            let left = subgroup * TILE * KEY_PITCH + tile * TILE;
            let right = tile * TILE * D_PITCH;
            let a = coopLoadT<LeftTile>(&weights[left], KEY_PITCH);
            let b0 = coopLoadT<RightTile>(&rows[right], D_PITCH);
            s0 = coopMultiplyAdd(a, b0, s0);
            if (D_TILES > 1u) {
                let at = right + 1u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s1 = coopMultiplyAdd(a, b, s1);
            }
            if (D_TILES > 2u) {
                let at = right + 2u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s2 = coopMultiplyAdd(a, b, s2);
            }
            if (D_TILES > 3u) {
                let at = right + 3u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s3 = coopMultiplyAdd(a, b, s3);
            }
            if (D_TILES > 4u) {
                let at = right + 4u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s4 = coopMultiplyAdd(a, b, s4);
            }
            if (D_TILES > 5u) {
                let at = right + 5u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s5 = coopMultiplyAdd(a, b, s5);
            }
            if (D_TILES > 6u) {
                let at = right + 6u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s6 = coopMultiplyAdd(a, b, s6);
            }
            if (D_TILES > 7u) {
                let at = right + 7u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s7 = coopMultiplyAdd(a, b, s7);
            }
            if (D_TILES > 8u) {
                let at = right + 8u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s8 = coopMultiplyAdd(a, b, s8);
            }
            if (D_TILES > 9u) {
                let at = right + 9u * TILE;
                let b = coopLoadT<RightTile>(&rows[at], D_PITCH);
                s9 = coopMultiplyAdd(a, b, s9);
            }
        }
    }
    workgroupBarrier();
    let factor = 1.0 / max(total, LEAST_TOTAL);
    let first_tile = slice * D_TILES;
    store_result(s0, first_tile + 0u, factor, batch, head, place);
    if (D_TILES > 1u) { store_result(s1, first_tile + 1u, factor, batch, head, place); }
    if (D_TILES > 2u) { store_result(s2, first_tile + 2u, factor, batch, head, place); }
    if (D_TILES > 3u) { store_result(s3, first_tile + 3u, factor, batch, head, place); }
    if (D_TILES > 4u) { store_result(s4, first_tile + 4u, factor, batch, head, place); }
    if (D_TILES > 5u) { store_result(s5, first_tile + 5u, factor, batch, head, place); }
    if (D_TILES > 6u) { store_result(s6, first_tile + 6u, factor, batch, head, place); }
    if (D_TILES > 7u) { store_result(s7, first_tile + 7u, factor, batch, head, place); }
    if (D_TILES > 8u) { store_result(s8, first_tile + 8u, factor, batch, head, place); }
    if (D_TILES > 9u) { store_result(s9, first_tile + 9u, factor, batch, head, place); }
}

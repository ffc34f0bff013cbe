// What a mask adds to scores, and the weights of scores. The including file has p.scale, and p.mask_batch, p.mask_head and
// p.mask_query: elements of the mask from one batch, head and query to the next, 0 where they share them.

// The score of keys that are not seen. A query that sees none gets zero.
const MASKED: f32 = -1e30;
// Less than any total but that of such a query: what is highest has weight 1.
const LEAST_TOTAL: f32 = 1e-30;

#ifdef MASK
@group(0) @binding(5) var<storage, read>       mask: array<f32>;        // [B or 1, heads or 1, S or 1, T]
#endif

// Where the masks of four queries start.
fn masks_at(batch: u32, head: u32, queries: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(batch * p.mask_batch + head * p.mask_head) + queries * p.mask_query;
}

// The scores of a key with four queries whose masks start at `masks`, from its products with them.
fn scores_of(products: vec4<f32>, masks: vec4<u32>, key: u32) -> vec4<f32> {
#ifdef MASK
    let added = vec4<f32>(mask[masks.x + key], mask[masks.y + key], mask[masks.z + key], mask[masks.w + key]);
    return max(fma(products, vec4<f32>(p.scale), added), vec4<f32>(MASKED));
#else
    return products * p.scale;
#endif
}

// The weights of scores beside the highest ones so far.
fn weights_of(scores: vec4<f32>, highest: vec4<f32>) -> vec4<f32> {
#ifdef MASK
    // While nothing has been seen, the highest score is that of what is not.
    return select(exp(scores - highest), vec4<f32>(), scores <= vec4<f32>(MASKED));
#else
    return exp(scores - highest);
#endif
}

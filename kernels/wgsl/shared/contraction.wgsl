// y = epilogue(A * w): parameters, operands, and where a row of A lies.
// For a matrix product A is a. With CONV, A is the patches of an image, [B*OH*OW, KH*KW*C], never materialised: row m is the
// patch under output pixel m, and its part under one tap of the kernel is the C channels of one input pixel, or zero.
// The including file declares w.
struct Params {
    m: u32,                             // rows of A and y, in one batch if w is batched, in the bound window
    n: u32,                             // columns of w
    k_quads: u32,                       // quads in a row of a
    batch_rows: u32,                    // rows of y that share one row of batch_bias
    epilogue: u32,                      // activation and operands of the epilogue; STRIPS; from bit 16 on, parts()
    first_row: u32,                     // row of the whole y that the bound window starts at
    batch_columns: u32,                 // quad of batch_bias that is the first, and quads of its rows in the upper half
    first_group: u32,                   // workgroup along the rows that the dispatch starts with
    scale: f32,                         // factor of the result
#ifdef CONV
    first_pixel: u32,                   // pixel of the whole a that the bound window starts at
    height: u32, width: u32,            // H, W
    out_width: u32,                     // OW
    kernel: u32,                        // rows, and columns in the upper half; so the next two
    stride: u32,
    padding: u32,                       // at the top and at the left
#else
    batches: u32,                       // products in the bound window; 1 if all rows share w
    a_rows: u32,                        // rows from one product's a to the next, 0 if they share it
    w_stride: u32,                      // quads from one product's w to the next
    bias_stride: u32,                   // quads from one product's bias to the next, 0 if they share it
    first_product: u32,                 // product that the bound window starts with
#endif
}
var<immediate> p: Params;

#ifdef CONV
@group(0) @binding(0) var<storage, read>       a: array<A4>;            // [B, H, W, C]
#else
@group(0) @binding(0) var<storage, read>       a: array<A4>;            // [products or 1, M, K]
#endif
@group(0) @binding(2) var<storage, read>       bias: array<BIAS4>;      // [products or 1, N]
@group(0) @binding(3) var<storage, read>       batch_bias: array<BATCH_BIAS4>; // [rows / batch_rows, N or more]
@group(0) @binding(4) var<storage, read>       residual: array<RESIDUAL4>;     // [rows, N]
@group(0) @binding(5) var<storage, read_write> y: array<Y4>;            // [rows, N], with GEGLU [rows, N / 2], of each part

#import epilogue

#ifdef CONV
// The patch of an output pixel: its corner in image coordinates, and pixel (0, 0) of its image in the window of a.
struct Row { image: i32, top: i32, left: i32 }

const OUTSIDE = 0xffffffffu;

fn taps() -> u32 { return (p.kernel & 0xffffu) * (p.kernel >> 16u); }

fn row_at(product: u32, row: u32) -> Row {
    let pixel = row + p.first_row;
    let inside = pixel % p.batch_rows;
    return Row(
        i32(pixel / p.batch_rows * p.height * p.width) - i32(p.first_pixel),
        i32(inside / p.out_width * (p.stride & 0xffffu)) - i32(p.padding & 0xffffu),
        i32(inside % p.out_width * (p.stride >> 16u)) - i32(p.padding >> 16u));
}

// Where the part of a row under a tap starts in a, in quads.
fn part_at(row: Row, tap: u32) -> u32 {
    let iy = row.top + i32(tap / (p.kernel >> 16u));
    let ix = row.left + i32(tap % (p.kernel >> 16u));
    // A negative coordinate is a large unsigned one.
    let inside = u32(iy) < p.height && u32(ix) < p.width;
    return select(OUTSIDE, u32(row.image + iy * i32(p.width) + ix) * p.k_quads, inside);
}

fn load_part(start: u32, k: u32) -> vec4<f32> {
    let inside = start != OUTSIDE;
    return select(vec4<f32>(), decode_a(a[select(0u, start, inside) + k]), inside);
}

fn batches() -> u32 { return 1u; }
fn w_start(product: u32) -> u32 { return 0u; }
fn bias_start(product: u32) -> u32 { return 0u; }
#else
struct Row { start: u32 }

fn taps() -> u32 { return 1u; }
fn row_at(product: u32, row: u32) -> Row { return Row((product * p.a_rows + row) * p.k_quads); }
fn part_at(row: Row, tap: u32) -> u32 { return row.start; }
fn load_part(start: u32, k: u32) -> vec4<f32> { return decode_a(a[start + k]); }
fn batches() -> u32 { return p.batches; }
fn w_start(product: u32) -> u32 { return (p.first_product + product) * p.w_stride; }
fn bias_start(product: u32) -> u32 { return (p.first_product + product) * p.bias_stride; }
#endif

// Whether w's columns lie in strips of STRIP_QUADS, one strip after the other; else its rows are one strip.
const STRIPS = 0x1000u;
const STRIP_QUADS = 16u;

fn strip_start(quad: u32) -> u32 { return select(0u, quad / STRIP_QUADS * STRIP_QUADS, has(STRIPS)); }

// Where row 0 of a product's w has the quad of columns `quad`, and how many quads later the next row has it.
fn column_at(product: u32, quad: u32) -> u32 {
    let first = strip_start(quad);
    return w_start(product) + first * taps() * p.k_quads * 4u + quad - first;
}
fn column_step(quad: u32) -> u32 {
    let rest = (p.n + 3u) / 4u - strip_start(quad);
    return select(rest, min(STRIP_QUADS, rest), has(STRIPS));
}

// Ways that the terms of k are split, each with a result of its own.
fn parts() -> u32 { return p.epilogue >> 16u; }

// The quads of k that a part of the sums takes: whole slabs of 8, so that no slab of a kernel is in two parts.
struct Terms { first: u32, end: u32 }

fn terms_of(part: u32) -> Terms {
    let quads = (p.k_quads + 8u * parts() - 1u) / (8u * parts()) * 8u;
    return Terms(min(part * quads, p.k_quads), min((part + 1u) * quads, p.k_quads));
}

// sum + x * w for four terms of k: x holds one row's terms, w four columns of each.
fn fma4(x: vec4<f32>, w: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(x.wwww, w[3], fma(x.zzzz, w[2], fma(x.yyyy, w[1], fma(x.xxxx, w[0], sum))));
}

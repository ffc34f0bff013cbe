// upsample.wgsl: y[b, i, j, c] = x[b, source(i), source(j), c], the nearest source above or left.
// Work:      one invocation per quad of y.
// Precision: values are moved; source positions in f32, rounded as torch rounds them.
// Traffic:   x read once (repeats from cache), y written once.
// variant: x=f32 y=f32
// variant: x=f16 y=f16
struct Params {
    quads: u32,                             // quads of the bound window of y
    row_quads: u32,                         // quads of one pixel
    first_row: u32,                         // pixel of the whole y that the window starts at
    height: u32, width: u32,                // H and W of y
    x_height: u32, x_width: u32,            // h and w of x
    scale_height: f32, scale_width: f32,    // h / H and w / W
    x_origin: u32,                          // quads of the whole x before its window
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read>       x: array<X4>;   // [B, h, w, C]
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;   // [B, H, W, C]

#import flat

fn source(at: u32, scale: f32, extent: u32) -> u32 {
    return min(u32(floor(f32(at) * scale)), extent - 1u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= p.quads) { return; }
    let quad = i % p.row_quads;
    let pixel = i / p.row_quads + p.first_row;
    let line = pixel / p.width;
    let batch = line / p.height;
    let x_line = batch * p.x_height + source(line % p.height, p.scale_height, p.x_height);
    let x_pixel = x_line * p.x_width + source(pixel % p.width, p.scale_width, p.x_width);
    y[i] = x[x_pixel * p.row_quads + quad - p.x_origin];
}

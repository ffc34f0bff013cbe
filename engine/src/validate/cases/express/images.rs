//! Images, and what changes their size.

use kernels::ops::{Epilogue, MatMul, Reshape, Upsample};
use kernels::{DType, HostTensor, LANES, TensorType};
use serde_json::Value;

use super::super::{MAX_TENSOR_BYTES, Recorded, host, is_at_most};
use super::{Arguments, Expressed, ResultShape, Sketch, Skip, as_it_is, single};

/// `[B, C, H, W]` or `[C, H, W]` as `[B, H, W, C]`.
pub(super) fn image(recorded: &Recorded) -> Result<HostTensor, Skip> {
    let [batch, channels, height, width] = match recorded.shape.as_slice() {
        [b, c, h, w] => [*b, *c, *h, *w],
        [c, h, w] => [1, *c, *h, *w],
        shape => return Err(format!("an image of shape {shape:?}")),
    };
    let dtype = host(recorded, &recorded.shape)?.ty().dtype;
    Ok(HostTensor::from_fn(TensorType::new(dtype, [batch, height, width, channels]), |i| {
        let (pixel, channel) = (i / channels, i % channels);
        let (b, position) = (pixel / (height * width), pixel % (height * width));
        f64::from(recorded.values[(b * channels + channel) * height * width + position])
    }))
}

/// Our `[B, .., C]` as PyTorch's `[B, C, ..]`.
pub(super) fn channels_first(result: &HostTensor) -> Vec<f32> {
    let shape = result.shape();
    let (channels, pixels) = (shape.channels(), shape.rows() / shape[0].max(1));
    let at = |i: usize| {
        let (b, channel, pixel) = (i / pixels / channels, i / pixels % channels, i % pixels);
        result.data()[(b * pixels + pixel) * channels + channel]
    };
    (0..result.data().len()).map(at).collect()
}

/// What an image is resized to.
struct Resize {
    from: [usize; 2],
    to: [usize; 2],
    /// Pixels of the image per pixel of the result, where that is not what the sizes say.
    step: Option<[f64; 2]>,
}

impl Resize {
    fn of(arguments: &mut Arguments<'_>) -> Result<Self, Skip> {
        let recomputed = arguments.flag("recompute_scale_factor")?;
        let factors = arguments.attribute("scale_factor").cloned();
        let has_size = arguments.attribute("size").is_some();
        let &[.., height, width] = arguments.tensor("input")?.shape.as_slice() else {
            return Err("an image of one dimension".to_owned());
        };
        let from = [height, width];
        let factors = match (has_size, factors) {
            (true, _) => return Ok(Resize { from, to: arguments.pair("size", 1)?, step: None }),
            (false, Some(Value::Array(both))) if both.len() == 2 => [both[0].as_f64(), both[1].as_f64()],
            (false, Some(one)) => [one.as_f64(); 2],
            (false, None) => return Err("neither 'size' nor 'scale_factor'".to_owned()),
        };
        let [Some(y), Some(x)] = factors else { return Err("'scale_factor' is not understood".to_owned()) };
        let is_size = |size: &f64| (1.0..65_536.0).contains(size);
        let [Some(height), Some(width)] =
            [height as f64 * y, width as f64 * x].map(|size| Some(size.floor()).filter(is_size))
        else {
            return Err(format!("factors {:?} of {from:?}", [y, x]));
        };
        let step = (!recomputed).then_some([1.0 / y, 1.0 / x]);
        Ok(Resize { from, to: [height as usize, width as usize], step })
    }

    /// Pixels of the image per pixel of the result along an axis.
    fn step(&self, axis: usize) -> f64 {
        self.step.map_or(self.from[axis] as f64 / self.to[axis] as f64, |step| step[axis])
    }

    /// The two neighbours of each index of the result along an axis, and how much the second weighs.
    fn neighbours(&self, axis: usize, align_corners: bool) -> Vec<(usize, usize, f64)> {
        let (from, to, step) = (self.from[axis], self.to[axis], self.step(axis));
        if from == to {
            // As in torch, whatever the factor.
            return (0..to).map(|i| (i, i, 0.0)).collect();
        }
        let last = from - 1;
        let place = |i: usize| match align_corners {
            true => i as f64 * if to > 1 { last as f64 / (to - 1) as f64 } else { 0.0 },
            false => ((i as f64 + 0.5) * step - 0.5).max(0.0),
        };
        let neighbours = |at: f64| {
            let first = (at as usize).min(last);
            (first, (first + 1).min(last), at - first as f64)
        };
        (0..to).map(|i| neighbours(place(i))).collect()
    }

    /// The matrix that resizes along an axis, by index of the result and of the image.
    fn matrix(&self, axis: usize, align_corners: bool) -> Vec<Vec<f64>> {
        let row = |(first, second, weight): (usize, usize, f64)| {
            let mut row = vec![0.0; self.from[axis].next_multiple_of(LANES)];
            row[first] += 1.0 - weight;
            row[second] += weight;
            row
        };
        self.neighbours(axis, align_corners).into_iter().map(row).collect()
    }
}

pub(super) fn interpolate(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let mode = arguments.word("mode", "nearest")?;
    let align_corners = arguments.flag("align_corners")?;
    if arguments.flag("antialias")? {
        return Err("'antialias' is none of ours".to_owned());
    }
    let resize = Resize::of(arguments)?;
    let input = arguments.tensor("input")?;
    match mode.as_str() {
        "nearest" => nearest(input, &resize),
        "bilinear" => bilinear(input, &resize, align_corners),
        other => Err(format!("mode '{other}' is none of ours")),
    }
}

fn nearest(input: &Recorded, resize: &Resize) -> Result<Expressed, Skip> {
    // Ours goes by the sizes alone, in f32, as torch does for the same size and for twice the size.
    let is_ours = |axis: usize| {
        let (from, to) = (resize.from[axis], resize.to[axis]);
        to == from || to == 2 * from || resize.step(axis) as f32 == from as f32 / to as f32
    };
    if !is_ours(0) || !is_ours(1) {
        return Err("factors that sizes do not have are none of ours".to_owned());
    }
    let [height, width] = resize.to;
    single(Upsample { height, width }, vec![image(input)?], channels_first, ResultShape::ChannelsFirst)
}

/// A product for the columns, and one for the rows.
fn bilinear(input: &Recorded, resize: &Resize, align_corners: bool) -> Result<Expressed, Skip> {
    let ([height, width], [new_height, new_width]) = (resize.from, resize.to);
    let before = &input.shape[..input.shape.len() - 2];
    let images: usize = before.iter().product();
    let [rows, columns] = [0, 1].map(|axis| resize.matrix(axis, align_corners));
    let row = width.next_multiple_of(LANES);
    for shape in [[row, new_width, 1], [images, new_height, height]] {
        if !is_at_most(&shape, MAX_TENSOR_BYTES / 4) {
            return Err(format!("weights of {shape:?} are too large"));
        }
    }
    let mut sketch = Sketch::default();
    let x = sketch.operand(host(input, &[images * height, width])?);
    let columns =
        HostTensor::from_fn(TensorType::f32([row, new_width]), |i| columns[i % new_width][i / new_width]);
    let columns = sketch.operand(columns);
    // Between the two nothing is rounded to f16.
    let wide = Epilogue { dtype: Some(DType::F32), ..Epilogue::default() };
    let y = sketch.apply(MatMul::new(wide), &[x, columns])?;
    let y = sketch.apply(Reshape { shape: [images, height, new_width].into() }, &[y])?;
    let missing = height.next_multiple_of(LANES) - height;
    let y = match missing {
        0 => y,
        _ => {
            let zeros = sketch.filled(TensorType::f32([images, missing, new_width]), 0.0)?;
            sketch.joined(1, vec![y, zeros])?
        }
    };
    let weights = TensorType::f32([images, new_height, height]);
    let rows = HostTensor::from_fn(weights, |i| rows[i / height % new_height][i % height]);
    let rows = sketch.operand(rows);
    let y = sketch.apply(MatMul::default(), &[rows, y])?;
    let shape = [before, &resize.to].concat();
    sketch.ending(y, as_it_is, ResultShape::Of(shape))
}

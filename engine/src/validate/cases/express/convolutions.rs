//! Convolutions, of which ours have one group and taps beside each other.

use kernels::ops::{Conv2d, Epilogue, Reshape, Slice};
use kernels::{HostTensor, LANES, TensorType};
use serde_json::Value;

use super::super::{MAX_TENSOR_BYTES, Recorded, host, is_at_most};
use super::images::{channels_first, image};
use super::{Arguments, Expressed, ResultShape, Sketch, Skip, ValueId, vector};

/// The most groups that are computed one by one and joined.
const MAX_GROUPS: usize = 64;

/// A kernel as a convolution of ours has it, of one group.
struct Taps {
    /// Rows and columns of the image that it spans.
    extents: [usize; 2],
    inputs: usize,
    outputs: usize,
}

impl Taps {
    /// `[kh, kw, C, O]` with rows of zeros up to a multiple of 4, and with zeros where `at(y, x, input, output)` has nothing.
    fn tensor(
        &self,
        like: &Recorded,
        at: impl Fn(usize, usize, usize, usize) -> Option<usize>,
    ) -> Result<HostTensor, Skip> {
        let dtype = host(like, &like.shape)?.ty().dtype;
        let ([height, width], rows) = (self.extents, self.inputs.next_multiple_of(LANES));
        let shape = [height, width, rows, self.outputs];
        if !is_at_most(&shape, MAX_TENSOR_BYTES / 4) {
            return Err(format!("a kernel of {shape:?} is too large"));
        }
        Ok(HostTensor::from_fn(TensorType::new(dtype, shape), |i| {
            let (output, row) = (i % self.outputs, i / self.outputs % rows);
            let tap = i / self.outputs / rows;
            let place = (row < self.inputs).then(|| at(tap / width, tap % width, row, output)).flatten();
            place.map_or(0.0, |place| f64::from(like.values[place]))
        }))
    }
}

/// Rows and columns that `taps` with `dilation` span.
fn spanned(taps: [usize; 2], dilation: [usize; 2]) -> Result<[usize; 2], Skip> {
    let span = |axis: usize| (taps[axis] - 1).checked_mul(dilation[axis])?.checked_add(1);
    match (span(0), span(1)) {
        (Some(y), Some(x)) if dilation.iter().all(|d| *d > 0) => Ok([y, x]),
        _ => Err(format!("'dilation' = {dilation:?} of {taps:?}")),
    }
}

/// The tap at a position of what a kernel spans; between taps that are apart there is none.
fn tap(at: [usize; 2], dilation: [usize; 2], width: usize) -> Option<usize> {
    let is_tap = at.iter().zip(dilation).all(|(at, d)| at % d == 0);
    is_tap.then(|| at[0] / dilation[0] * width + at[1] / dilation[1])
}

pub(super) fn conv2d(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let groups = arguments.count("groups", Some(1))?;
    let (dilation, stride) = (arguments.pair("dilation", 1)?, arguments.pair("stride", 1)?);
    let weight = arguments.tensor("weight")?.clone();
    let [outputs, inputs, kernel_height, kernel_width] = weight.shape[..] else {
        return Err(format!("a weight of shape {:?}", weight.shape));
    };
    let extents = spanned([kernel_height, kernel_width], dilation)?;
    let padding = match arguments.attribute("padding").and_then(Value::as_str) {
        Some("valid") => [0; 4],
        Some("same") => {
            // What is odd goes to the bottom and to the right, as in torch.
            let [y, x] = extents.map(|extent| extent - 1);
            [y / 2, y - y / 2, x / 2, x - x / 2]
        }
        Some(other) => return Err(format!("padding '{other}'")),
        None => {
            let [y, x] = arguments.pair("padding", 0)?;
            [y, y, x, x]
        }
    };
    let mut sketch = Sketch::default();
    let x = sketch.operand(image(arguments.tensor("input")?)?);
    let outputs = of_group(outputs, groups)?;
    let taps = Taps { extents, inputs, outputs };
    let kernel = |group: usize| {
        taps.tensor(&weight, |y, x, input, output| {
            let tap = tap([y, x], dilation, kernel_width)?;
            Some(((group * outputs + output) * inputs + input) * kernel_height * kernel_width + tap)
        })
    };
    let conv = Conv2d { stride, padding, epilogue: Epilogue::default() };
    let y = grouped(&mut sketch, x, &conv, groups, kernel, arguments.optional("bias")?)?;
    sketch.ending(y, channels_first, ResultShape::ChannelsFirst)
}

/// A convolution of the image with zeros between its pixels, by the kernel turned around.
pub(super) fn conv_transpose2d(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let groups = arguments.count("groups", Some(1))?;
    let (dilation, stride) = (arguments.pair("dilation", 1)?, arguments.pair("stride", 1)?);
    let (padding, more) = (arguments.pair("padding", 0)?, arguments.pair("output_padding", 0)?);
    let weight = arguments.tensor("weight")?.clone();
    let [inputs, outputs, kernel_height, kernel_width] = weight.shape[..] else {
        return Err(format!("a weight of shape {:?}", weight.shape));
    };
    let extents = spanned([kernel_height, kernel_width], dilation)?;
    // Padding of theirs takes rows and columns away from what the kernel reaches; of ours, it adds them.
    let [[top, bottom], [left, right]] = [0, 1].map(|axis| {
        let before = extents[axis] as i64 - 1 - padding[axis] as i64;
        [before, before + more[axis] as i64]
    });
    let mut sketch = Sketch::default();
    let x = sketch.operand(image(arguments.tensor("input")?)?);
    let x = apart(&mut sketch, x, stride)?;
    let x = cropped(&mut sketch, x, 1, [top, bottom])?;
    let x = cropped(&mut sketch, x, 2, [left, right])?;
    let inputs = of_group(inputs, groups)?;
    let taps = Taps { extents, inputs, outputs };
    let kernel = |group: usize| {
        taps.tensor(&weight, |y, x, input, output| {
            let turned = [extents[0] - 1 - y, extents[1] - 1 - x];
            let tap = tap(turned, dilation, kernel_width)?;
            Some(((group * inputs + input) * outputs + output) * kernel_height * kernel_width + tap)
        })
    };
    let padding = [top, bottom, left, right].map(|rows| rows.max(0) as usize);
    let conv = Conv2d { stride: [1, 1], padding, epilogue: Epilogue::default() };
    let y = grouped(&mut sketch, x, &conv, groups, kernel, arguments.optional("bias")?)?;
    sketch.ending(y, channels_first, ResultShape::ChannelsFirst)
}

fn of_group(channels: usize, groups: usize) -> Result<usize, Skip> {
    if !(1..=MAX_GROUPS).contains(&groups) || !channels.is_multiple_of(groups) || channels == 0 {
        return Err(format!(
            "{channels} channels in {groups} groups, of which {MAX_GROUPS} are computed at most"
        ));
    }
    Ok(channels / groups)
}

/// Each group of `x`'s channels by its kernel, one after the other.
fn grouped(
    sketch: &mut Sketch,
    x: ValueId,
    conv: &Conv2d,
    groups: usize,
    kernel: impl Fn(usize) -> Result<HostTensor, Skip>,
    bias: Option<&Recorded>,
) -> Result<ValueId, Skip> {
    let bias = bias.map(vector).transpose()?;
    let channels = sketch.graph.ty(x).channels();
    let length = of_group(channels, groups)?;
    let mut results = Vec::with_capacity(groups);
    for group in 0..groups {
        let part = match groups {
            1 => x,
            _ => sketch.apply(Slice { axis: 3, start: group * length, length }, &[x])?,
        };
        let mut operands = vec![part, sketch.operand(kernel(group)?)];
        if let Some(bias) = &bias {
            let outputs = of_group(bias.data().len(), groups)?;
            let values = bias.data()[group * outputs..(group + 1) * outputs].to_vec();
            operands.push(sketch.operand(HostTensor::f32([outputs], values)));
        }
        let epilogue = Epilogue { bias: bias.is_some(), ..conv.epilogue.clone() };
        results.push(sketch.apply(Conv2d { epilogue, ..conv.clone() }, &operands)?);
    }
    sketch.joined(3, results)
}

/// `x` with zeros between its rows and columns, so that what were neighbours are `stride` apart.
fn apart(sketch: &mut Sketch, mut x: ValueId, [rows, columns]: [usize; 2]) -> Result<ValueId, Skip> {
    if rows == 0 || columns == 0 {
        return Err(format!("'stride' = {:?}", [rows, columns]));
    }
    let ty = sketch.graph.ty(x).clone();
    let &[batch, height, width, channels] = &*ty.shape else { return Ok(x) };
    let reshape = |shape: [usize; 4]| Reshape { shape: shape.into() };
    let mut width_now = width;
    if columns > 1 {
        let zeros = TensorType::new(ty.dtype, [1, batch * height * width, columns - 1, channels]);
        let zeros = sketch.filled(zeros, 0.0)?;
        x = sketch.apply(reshape([1, batch * height * width, 1, channels]), &[x])?;
        x = sketch.joined(2, vec![x, zeros])?;
        x = sketch.apply(reshape([batch, height, width * columns, channels]), &[x])?;
        width_now = (width - 1) * columns + 1;
        x = sketch.apply(Slice { axis: 2, start: 0, length: width_now }, &[x])?;
    }
    if rows > 1 {
        let zeros = TensorType::new(ty.dtype, [batch * height, rows - 1, width_now, channels]);
        let zeros = sketch.filled(zeros, 0.0)?;
        x = sketch.apply(reshape([batch * height, 1, width_now, channels]), &[x])?;
        x = sketch.joined(1, vec![x, zeros])?;
        x = sketch.apply(reshape([batch, height * rows, width_now, channels]), &[x])?;
        x = sketch.apply(Slice { axis: 1, start: 0, length: (height - 1) * rows + 1 }, &[x])?;
    }
    Ok(x)
}

/// `x` without as many indices at the start and the end of `axis` as padding is less than nothing.
fn cropped(sketch: &mut Sketch, x: ValueId, axis: usize, padding: [i64; 2]) -> Result<ValueId, Skip> {
    let [start, end] = padding.map(|rows| (-rows).max(0) as usize);
    let extent = sketch.graph.ty(x).shape[axis];
    if start + end == 0 {
        return Ok(x);
    }
    let length = extent.checked_sub(start + end).filter(|length| *length > 0);
    let length = length.ok_or_else(|| format!("nothing is left of {extent} without {start} and {end}"))?;
    sketch.apply(Slice { axis, start, length }, &[x])
}

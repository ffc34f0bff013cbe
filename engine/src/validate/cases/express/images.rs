//! Images, and what changes their size.

use kernels::ops::Upsample;
use kernels::{HostTensor, TensorType};

use super::super::{Recorded, host};
use super::arguments::Arguments;
use super::{Expressed, ResultShape, Skip, single};

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

pub(super) fn interpolate(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let mode = arguments.word("mode", "nearest")?;
    if mode != "nearest" {
        return Err(format!("mode '{mode}' is none of ours"));
    }
    let factor = arguments.attribute("scale_factor").cloned();
    let size = arguments.attribute("size").is_some();
    let x = image(arguments.tensor("input")?)?;
    let [height, width] = match (size, factor) {
        (true, _) => arguments.pair("size", 1)?,
        (false, Some(factor)) => {
            let is_ours = |factor: &f64| factor.fract() == 0.0 && (1.0..65_536.0).contains(factor);
            let factor = factor.as_f64().filter(is_ours);
            let factor =
                factor.ok_or("factors but one whole number for both axes are none of ours")? as usize;
            [x.shape()[1] * factor, x.shape()[2] * factor]
        }
        (false, None) => return Err("neither 'size' nor 'scale_factor'".to_owned()),
    };
    single(Upsample { height, width }, vec![x], channels_first, ResultShape::ChannelsFirst)
}

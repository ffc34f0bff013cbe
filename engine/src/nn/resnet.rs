//! The residual block of UNets and VAEs.

use super::{Kernel, Net};
use crate::error::Error;
use crate::graph::ValueId;

/// What distinguishes residual blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResnetConfig {
    /// Channels of the result.
    pub outputs: usize,
    /// Groups of both norms.
    pub groups: usize,
    /// Epsilon of both norms.
    pub eps: f64,
}

impl Net<'_> {
    /// diffusers' ResnetBlock2D: two norm, SiLU, convolution rows and a shortcut.
    ///
    /// `time` is the time embedding after its SiLU, `[B, T]`, or `None` as in a VAE.
    ///
    /// # Shapes    `x: [B, H, W, C]` -> `[B, H, W, outputs]`
    /// # Errors    [`Error::Load`] naming a missing tensor or an unexpected shape
    /// # Source    diffusers.models.resnet.ResnetBlock2D
    pub fn resnet(
        &mut self,
        name: &str,
        x: ValueId,
        time: Option<ValueId>,
        config: ResnetConfig,
    ) -> Result<ValueId, Error> {
        let ResnetConfig { outputs, groups, eps } = config;
        self.module(name, |net| {
            let normed = net.group_norm("norm1", x, groups, eps)?;
            let active = net.silu(normed)?;
            let mut hidden = net.conv2d("conv1", active, outputs, Kernel::THREE)?;
            if let Some(time) = time {
                let batches = net.extent(time, 0);
                let shift = net.linear("time_emb_proj", time, outputs, true)?;
                let shift = net.reshape(shift, &[batches, 1, 1, outputs])?;
                hidden = net.add(hidden, shift)?;
            }
            let normed = net.group_norm("norm2", hidden, groups, eps)?;
            let active = net.silu(normed)?;
            let hidden = net.conv2d("conv2", active, outputs, Kernel::THREE)?;
            let shortcut = match net.channels(x) == outputs {
                true => x,
                false => net.conv2d("conv_shortcut", x, outputs, Kernel::ONE)?,
            };
            net.add(shortcut, hidden)
        })
    }
}

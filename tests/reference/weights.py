"""Random weights with which every block of a Stable Diffusion network matters.

PyTorch's default initialisation leaves attention uniform, GELU in its linear range and every norm's input far above
its epsilon, so that a wrong block moves the result by less than f32 rounding does. Here:

- the residual stream is small (`Scales.trunk`), so that an epsilon of 1e-6 beside its variance shows;
- attention logits have a standard deviation of `Scales.logits`, so that attention is not an average;
- GELU's input has an rms of `Scales.gelu`, where the erf and tanh forms differ most;
- norm scales, norm shifts and all biases are random, so that a missing one shows.

Each weight is normal with the standard deviation that turns an input of the expected rms into an output of the
wanted rms: `std = out_rms / (in_rms * sqrt(fan_in))`.
"""

import dataclasses
import math

import torch

SILU_RMS = 0.6  # of SiLU of a standard normal
ATTENTION_RMS = 0.5  # of a weighted mean of unit-rms values under logits of standard deviation 1.5
GEGLU_RMS = 1.5  # of GEGLU's product at gelu = 1.5
GELU_RMS = 1.0  # of GELU at gelu = 1.5


@dataclasses.dataclass(frozen=True)
class Scales:
    """Root mean squares that the random networks aim at.

    `trunk`: the residual stream; `branch`: what a resnet or attention adds to it, over `trunk`; `logits`: standard deviation of attention logits; `gelu`: GELU's input;
    `context`: what cross attention gets from the text encoders; `prediction`: the UNet's output; `latent`: what the VAE decoder gets, after the division by scaling_factor; `encoded`: what the VAE encoder gives,
    before the multiplication by scaling_factor.
    """

    trunk: float = 0.05
    branch: float = 0.8
    logits: float = 1.5
    gelu: float = 1.5
    context: float = 1.0
    prediction: float = 0.3
    latent: float = 1.0
    encoded: float = 1.0


def rms_rules(scales: Scales) -> dict[str, tuple[float, float]]:
    """Suffix of a module's path -> (expected input rms, wanted output rms); the longest suffix that fits counts."""
    trunk, sharp = scales.trunk, math.sqrt(scales.logits)
    return {
        # UNet2DConditionModel and AutoencoderKL share the names of their blocks
        "conv_in": (1.0, trunk),
        "conv_out": (SILU_RMS, scales.prediction),
        "time_embedding.linear_1": (0.7, 1.0),
        "time_embedding.linear_2": (SILU_RMS, 1.0),
        "add_embedding.linear_1": (0.8, 1.0),
        "add_embedding.linear_2": (SILU_RMS, 1.0),
        "time_emb_proj": (SILU_RMS, 0.5 * trunk),
        "conv1": (SILU_RMS, trunk),
        "conv2": (SILU_RMS, scales.branch * trunk),
        "conv_shortcut": (trunk, trunk),
        "samplers.0.conv": (trunk, trunk),
        "proj_in": (1.0, trunk),
        "proj_out": (trunk, trunk),
        "to_q": (1.0, sharp),
        "to_k": (1.0, sharp),
        "to_v": (1.0, 1.0),
        "attn2.to_k": (scales.context, sharp),
        "attn2.to_v": (scales.context, 1.0),
        "to_out.0": (ATTENTION_RMS, scales.branch * trunk),
        "ff.net.0.proj": (1.0, scales.gelu),
        "ff.net.2": (GEGLU_RMS, 1.5 * trunk),
        # AutoencoderKL
        "encoder.conv_in": (0.5, trunk),
        "encoder.conv_out": (SILU_RMS, scales.encoded),
        "quant_conv": (scales.encoded, scales.encoded),
        "post_quant_conv": (scales.latent, scales.latent),
        "decoder.conv_in": (scales.latent, trunk),
        "decoder.conv_out": (SILU_RMS, 0.5),
        # CLIPTextModel, CLIPTextModelWithProjection
        "text_projection": (1.0, 1.0),
        "q_proj": (1.0, sharp),
        "k_proj": (1.0, sharp),
        "v_proj": (1.0, 1.0),
        "out_proj": (ATTENTION_RMS, trunk),
        "fc1": (1.0, scales.gelu),
        "fc2": (GELU_RMS, 2.0 * trunk),
    }


@torch.no_grad()
def randomize(model: torch.nn.Module, scales: Scales, seed: int) -> None:
    """Overwrite every parameter of `model`; fails with KeyError on a layer that `rms_rules` does not name."""
    generator = torch.Generator().manual_seed(seed)
    rules = rms_rules(scales)

    def fill(parameter: torch.Tensor, std: float, mean: float = 0.0) -> None:
        parameter.normal_(mean, std, generator=generator)

    for path, module in model.named_modules():
        match module:
            case torch.nn.Embedding():
                fill(module.weight, scales.trunk)
            case torch.nn.GroupNorm() | torch.nn.LayerNorm():
                fill(module.weight, 0.2, mean=1.0)
                fill(module.bias, 0.1)
            case torch.nn.Linear() | torch.nn.Conv2d():
                in_rms, out_rms = rules[max((suffix for suffix in rules if path.endswith(suffix)), key=len, default=path)]
                fill(module.weight, out_rms / (in_rms * math.sqrt(module.weight[0].numel())))
                if module.bias is not None:
                    fill(module.bias, 0.1 * out_rms)

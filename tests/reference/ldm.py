"""Names of Stable Diffusion 1.x tensors in the original (ldm) single-file checkpoints, from diffusers' names.

The inverse of diffusers' own conversion (diffusers.loaders.single_file_utils): the layout of ldm's
openaimodel.UNetModel and AutoencoderKL.
"""

import re

import torch

UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def split_parameter(name: str) -> tuple[str, str]:
    """`a.b.weight` -> (`a.b`, `weight`)."""
    module, _, parameter = name.rpartition(".")
    return module, parameter


def unet_module(module: str, layers_per_block: int) -> str:
    """ldm's path below `model.diffusion_model.` of one of UNet2DConditionModel's modules."""
    if module in UNET_TOP:
        return UNET_TOP[module]
    if part := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", module):
        kind, layer_idx, rest = part.groups()
        return f"middle_block.{2 * int(layer_idx)}.{UNET_RESNET[rest]}" if kind == "resnets" else f"middle_block.1.{rest}"
    side, block, kind, layer, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", module
    ).groups()
    block_idx, layer_idx = int(block), int(layer)
    stride = layers_per_block + 1
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(block_idx + 1) * stride}.0.op"
        place = f"input_blocks.{1 + block_idx * stride + layer_idx}"
    elif kind == "upsamplers":
        # behind the attention where the block has one: in SD 1.x all but the first
        return f"output_blocks.{block_idx * stride + layers_per_block}.{1 if block_idx == 0 else 2}.conv"
    else:
        place = f"output_blocks.{block_idx * stride + layer_idx}"
    return f"{place}.0.{UNET_RESNET[rest]}" if kind == "resnets" else f"{place}.1.{rest}"


def vae_module(module: str, n_blocks: int) -> str:
    """ldm's path below `first_stage_model.` of one of AutoencoderKL's modules."""
    if part := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", module):
        coder, layer_idx, rest = part.groups()
        return f"{coder}.mid.block_{int(layer_idx) + 1}.{VAE_RESNET.get(rest, rest)}"
    if part := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", module):
        coder, rest = part.groups()
        return f"{coder}.mid.attn_1.{VAE_ATTENTION[rest]}"
    if part := re.fullmatch(r"(encoder\.down|decoder\.up)_blocks\.(\d)\.(resnets|downsamplers|upsamplers)\.(\d)\.(.+)", module):
        side, block, kind, layer_idx, rest = part.groups()
        # ldm numbers the decoder's levels by resolution, finest first
        level = int(block) if side == "encoder.down" else n_blocks - 1 - int(block)
        if kind == "resnets":
            return f"{side}.{level}.block.{layer_idx}.{VAE_RESNET.get(rest, rest)}"
        return f"{side}.{level}.{kind.removesuffix('rs')}.conv"
    return module.replace("conv_norm_out", "norm_out")


def single_file(
    unet: dict[str, torch.Tensor],
    vae: dict[str, torch.Tensor],
    text_encoder: dict[str, torch.Tensor],
    alphas_cumprod: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """State dicts under diffusers' names -> one state dict under ldm's, for SD 1.x (two resnets a block, four blocks)."""
    checkpoint = {"alphas_cumprod": alphas_cumprod}
    for name, tensor in unet.items():
        module, parameter = split_parameter(name)
        checkpoint[f"model.diffusion_model.{unet_module(module, 2)}.{parameter}"] = tensor
    for name, tensor in vae.items():
        module, parameter = split_parameter(name)
        path = vae_module(module, 4)
        if ".attn_1." in path and parameter == "weight" and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # [O, I, 1, 1]: ldm's projections are 1x1 convolutions
        checkpoint[f"first_stage_model.{path}.{parameter}"] = tensor
    for name, tensor in text_encoder.items():
        checkpoint[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    n_positions = text_encoder["embeddings.position_embedding.weight"].shape[0]
    checkpoint["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(n_positions)[None]
    return {name: tensor.contiguous() for name, tensor in checkpoint.items()}

"""Names of Stable Diffusion and SDXL tensors in the original single-file checkpoints, from diffusers' names.

usage: make.py ldm [NAME ...]        check every tiny pipeline's names against diffusers' own conversion

The inverse of diffusers.loaders.single_file_utils: the layout of ldm's and sgm's openaimodel.UNetModel and
AutoencoderKL, and of OpenCLIP's text transformer.
"""

import json
import pathlib
import re
import sys
import tempfile

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

import pipelines
import recording
import tiny

UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
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
# diffusers before 0.18
VAE_ATTENTION |= {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}
OPEN_CLIP_TOP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
LOGIT_SCALE = 4.6052  # log 100, where CLIP's training clips it; nothing here reads it

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}

State = dict[str, torch.Tensor]


def split_parameter(name: str) -> tuple[str, str]:
    """`a.b.weight` -> (`a.b`, `weight`)."""
    module, _, parameter = name.rpartition(".")
    return module, parameter


def count(names: State, pattern: str) -> int:
    """One more than the largest number that `pattern`'s group matches at the start of a name."""
    return 1 + max((int(part[1]) for name in names if (part := re.match(pattern, name))), default=-1)


def unet_module(module: str, layers_per_block: int, has_attention: list[bool]) -> str:
    """ldm's path below `model.diffusion_model.` of one of UNet2DConditionModel's modules.

    `has_attention`: of each up block, coarsest first.
    """
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
        # behind the attention where the block has one
        return f"output_blocks.{block_idx * stride + layers_per_block}.{2 if has_attention[block_idx] else 1}.conv"
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


def unet(state: State) -> State:
    """The UNet's tensors under ldm's whole names."""
    layers_per_block = count(state, r"down_blocks\.0\.resnets\.(\d+)")
    n_blocks = count(state, r"up_blocks\.(\d+)")
    has_attention = [any(name.startswith(f"up_blocks.{block_idx}.attentions.") for name in state) for block_idx in range(n_blocks)]
    renamed = {}
    for name, tensor in state.items():
        module, parameter = split_parameter(name)
        renamed[f"model.diffusion_model.{unet_module(module, layers_per_block, has_attention)}.{parameter}"] = tensor
    return renamed


def vae(state: State) -> State:
    """The VAE's tensors under ldm's whole names."""
    n_blocks = count(state, r"decoder\.up_blocks\.(\d+)")
    renamed = {}
    for name, tensor in state.items():
        module, parameter = split_parameter(name)
        path = vae_module(module, n_blocks)
        if ".attn_1." in path and parameter == "weight" and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # [O, I, 1, 1]: ldm's projections are 1x1 convolutions
        renamed[f"first_stage_model.{path}.{parameter}"] = tensor
    return renamed


def clip(state: State, prefix: str) -> State:
    """A text encoder as transformers before 5 named it: SD 1.x's and SDXL's first."""
    renamed = {f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    n_positions = renamed[f"{prefix}transformer.text_model.embeddings.position_embedding.weight"].shape[0]
    return {**renamed, f"{prefix}transformer.text_model.embeddings.position_ids": torch.arange(n_positions)[None]}


def open_clip(state: State, prefix: str) -> State:
    """A text encoder under OpenCLIP's names: SD 2.x's and SDXL's second.

    One matrix for query, key and value; the projection is [width, projection_dim], transposed to transformers'. Where
    `state` has no projection, as in SD 2.x's folders, the identity stands for the one that the file has.
    """
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    width = state["final_layer_norm.weight"].shape[0]
    dtype = state["final_layer_norm.weight"].dtype
    projection = state.pop("text_projection.weight", torch.eye(width, dtype=dtype))
    renamed = {f"{prefix}model.text_projection": projection.T, f"{prefix}model.logit_scale": torch.tensor(LOGIT_SCALE, dtype=dtype)}
    for name, tensor in state.items():
        if name in OPEN_CLIP_TOP:
            renamed[f"{prefix}model.{OPEN_CLIP_TOP[name]}"] = tensor
            continue
        layer_idx, module, parameter = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name).groups()
        place = f"{prefix}model.transformer.resblocks.{layer_idx}"
        if module in OPEN_CLIP_LAYER:
            renamed[f"{place}.{OPEN_CLIP_LAYER[module]}.{parameter}"] = tensor
        elif module == "self_attn.q_proj":
            fused = [state[f"encoder.layers.{layer_idx}.self_attn.{kind}_proj.{parameter}"] for kind in "qkv"]
            renamed[f"{place}.attn.in_proj_{parameter}"] = torch.cat(fused)
        else:
            assert module in ("self_attn.k_proj", "self_attn.v_proj"), name
    return renamed


def single_file(parts: dict[str, State]) -> State:
    """State dicts by their diffusers folders' names -> one state dict under the original names.

    SDXL where there is a `text_encoder_2`; else SD 2.x where the UNet's projections are linear, and SD 1.x.
    """
    checkpoint = {**unet(parts["unet"]), **vae(parts["vae"])}
    first, second = parts.get("text_encoder"), parts.get("text_encoder_2")
    if second is not None:
        checkpoint |= clip(first, "conditioner.embedders.0.") if first is not None else {}
        checkpoint |= open_clip(second, f"conditioner.embedders.{0 if first is None else 1}.")
    elif parts["unet"]["mid_block.attentions.0.proj_in.weight"].ndim == 2:
        checkpoint |= open_clip(first, "cond_stage_model.")
    else:
        checkpoint |= clip(first, "cond_stage_model.")
    return {name: tensor.contiguous() for name, tensor in checkpoint.items()}


def mapped(path: pathlib.Path) -> State:
    """The tensors of a safetensors file, mapped: safetensors' own load_file takes as much memory as the file."""
    with path.open("rb") as file:
        n_header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_header_bytes))
    file_bytes = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage.from_file(str(path), False, path.stat().st_size))
    data = file_bytes[8 + n_header_bytes :]
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {
        name: data[slice(*entry["data_offsets"])].view(DTYPES[entry["dtype"]]).reshape(entry["shape"]) for name, entry in tensors.items()
    }


def read_parts(model: pathlib.Path) -> dict[str, State]:
    """The weights in a diffusers folder, by their folders' names; tensors are mapped from the files."""
    parts: dict[str, State] = {}
    for path in sorted(model.glob("*/*.safetensors")):
        parts.setdefault(path.parent.name, {}).update(mapped(path))
    for name, part in parts.items():
        parts[name] = {key: tensor for key, tensor in part.items() if not key.endswith("position_ids")}
    return parts


def check(model: pathlib.Path, path: pathlib.Path) -> None:
    """Fail unless diffusers reads the single file at `path` as the weights in the folder `model`; one part after the other."""
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    for name, part in read_parts(model).items():
        dtype = next(iter(part.values())).dtype
        if name.startswith("text"):
            read = create_diffusers_clip_model_from_ldm(
                kinds[name], mapped(path), subfolder=name, config=str(model), torch_dtype=dtype, local_files_only=True
            )
        else:
            read = kinds[name].from_single_file(mapped(path), config=str(model), subfolder=name, dtype=dtype, local_files_only=True)
        found, expected = read.state_dict(), {current_name(name, key): tensor for key, tensor in part.items()}
        assert expected.keys() == found.keys(), name
        for key, tensor in expected.items():
            assert tensor.dtype == found[key].dtype and torch.equal(tensor, found[key]), f"{name}: {key}"


def current_name(part: str, key: str) -> str:
    """Today's name of a tensor whose file an older diffusers or transformers wrote."""
    if part == "text_encoder":
        return key.removeprefix("text_model.")
    for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
        key = re.sub(rf"(attentions\.0)\.{old}\.", rf"\1.{new}.", key)
    return key


def main() -> int:
    recording.deterministic()
    for name in sys.argv[1:] or list(tiny.PIPELINES):
        model = pipelines.FIXTURES / name / "model"
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.safetensors"
            save_file(single_file(read_parts(model)), path)
            check(model, path)
        print(f"{name}: diffusers reads the same weights from one file", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

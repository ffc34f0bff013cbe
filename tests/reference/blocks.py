"""Record the intermediate tensors of one forward of each network, so that a failing test names the first wrong block.

usage: make.py blocks

    ../fixtures/blocks/NAME.safetensors    of ../fixtures/pipelines/NAME/model
    ../fixtures/blocks/NAME.json           `model`, relative to the file, and `order`: the keys in order of execution

Keys are module paths below the pipeline; values are what PyTorch's module returns, f32, NCHW or [B, S, D].
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator

import torch
from safetensors.torch import save_file

import pipelines
import recording

FIXTURES = pipelines.FIXTURES.parent / "blocks"

# latents of the UNet (height, width) and of the VAE; sizes that do not halve evenly
SIZES = {"sd1_layout": ((9, 6), (3, 2)), "sd2_layout": ((7, 5), (3, 5)), "latent_8": ((5, 6), (4, 3))}
TIMESTEP = 601
PROMPTS = ("", "a red apple on the stone bridge, watercolour")

UNET = r"(time_proj|time_embedding|conv_in|conv_norm_out|conv_act|conv_out)"
UNET_BLOCK = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|downsamplers|upsamplers|attentions)\.\d+(\.transformer_blocks\.\d+)?"
VAE = r"quant_conv|post_quant_conv|(encoder|decoder)\.(conv_in|conv_norm_out|conv_act|conv_out)"
VAE_BLOCK = r"(encoder|decoder)\." + UNET_BLOCK
TEXT = r"embeddings|encoder\.layers\.\d+|final_layer_norm"


@contextlib.contextmanager
def recorded_outputs(model: torch.nn.Module, prefix: str, wanted: str) -> Iterator[dict[str, torch.Tensor]]:
    """Collect what the modules whose whole path matches `wanted` return, in the order of execution."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(path: str) -> object:
        def hook(_: torch.nn.Module, __: object, output: object) -> None:
            outputs[f"{prefix}.{path}"] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    hooks = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if re.fullmatch(wanted, path)]
    yield outputs
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def record(name: str) -> dict[str, torch.Tensor]:
    """The inputs, under `input.`, and the outputs of the blocks of pipeline `name`."""
    pipeline = recording.load(pipelines.FIXTURES / name / "model", variant=pipelines.PIPELINES[name].storage.variant)
    unet_size, vae_size = SIZES[name]
    generator = torch.Generator().manual_seed(TIMESTEP)
    channels = pipeline.unet.config.in_channels
    tokens = pipeline.tokenizer(
        list(PROMPTS), padding="max_length", truncation=True, max_length=pipeline.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    sample = torch.randn(2, channels, *unet_size, generator=generator)
    # of the rms that the decoder's weights are made for
    latent = torch.randn(1, channels, *vae_size, generator=generator)
    latent = latent * pipelines.PIPELINES[name].latent_rms / pipeline.vae.config.scaling_factor
    pixels = torch.rand(1, 3, *(side * pipeline.vae_scale_factor for side in vae_size), generator=generator) * 2 - 1

    with recorded_outputs(pipeline.text_encoder, "text_encoder", TEXT) as text:
        context = pipeline.text_encoder(tokens).last_hidden_state
    with recorded_outputs(pipeline.unet, "unet", f"{UNET}|{UNET_BLOCK}") as unet:
        pipeline.unet(sample, TIMESTEP, context)
    with recorded_outputs(pipeline.vae, "vae", f"{VAE}|{VAE_BLOCK}") as vae:
        pipeline.vae.encode(pixels)
        pipeline.vae.decode(latent)
    inputs = {
        "input.text_encoder.input_ids": tokens.int(),
        "input.unet.sample": sample,
        "input.unet.timestep": torch.tensor([float(TIMESTEP)]),
        "input.unet.encoder_hidden_states": context,
        "input.vae.encoder.sample": pixels,
        "input.vae.decoder.sample": latent,
    }
    return {**inputs, **text, **unet, **vae}


def main() -> int:
    recording.deterministic()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        tensors = record(name)
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        path = FIXTURES / f"{name}.safetensors"
        save_file({key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}, path)
        order = [key for key in tensors if not key.startswith("input.")]
        (FIXTURES / f"{name}.json").write_text(json.dumps({"model": f"../pipelines/{name}/model", "order": order}, indent=1) + "\n")
        print(f"{name}: {len(order)} blocks, {path.stat().st_size / 2**20:.2f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

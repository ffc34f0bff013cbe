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
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

import pipelines
import recording
import tiny

FIXTURES = pipelines.FIXTURES.parent / "blocks"

# latents of the UNet (height, width) and of the VAE; sizes that do not halve evenly
SIZES = {"sd1_layout": ((9, 6), (3, 2)), "sd2_layout": ((7, 5), (3, 5)), "latent_8": ((5, 6), (4, 3)), "sdxl_layout": ((7, 10), (3, 2))}
# SDXL's, one row a prompt
TIME_IDS = ((512.0, 768.0, 0.0, 32.0, 56.0, 72.0), (1024.0, 1024.0, 8.0, 0.0, 72.0, 56.0))
TIMESTEP = 601
PROMPTS = ("", "a red apple on the stone bridge, watercolour")

UNET = r"(time_proj|time_embedding|add_embedding|conv_in|conv_norm_out|conv_act|conv_out)"
UNET_BLOCK = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|downsamplers|upsamplers|attentions)\.\d+(\.transformer_blocks\.\d+)?"
VAE = r"quant_conv|post_quant_conv|(encoder|decoder)\.(conv_in|conv_norm_out|conv_act|conv_out)"
VAE_BLOCK = r"(encoder|decoder)\." + UNET_BLOCK
TEXT = r"embeddings|encoder\.layers\.\d+|final_layer_norm"
TEXT_PROJECTED = rf"text_model\.({TEXT})|text_projection"


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


def tokens(tokenizer: CLIPTokenizer) -> torch.Tensor:
    """PROMPTS, cut and padded; [2, S]."""
    return tokenizer(
        list(PROMPTS), padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def encode(pipeline: DiffusionPipeline) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the text encoders and the UNet get besides latents and a timestep, under `input.`, and the encoders' blocks."""
    ids = tokens(pipeline.tokenizer)
    with recorded_outputs(pipeline.text_encoder, "text_encoder", TEXT) as text:
        encoded = pipeline.text_encoder(ids, output_hidden_states=True)
    inputs = {"input.text_encoder.input_ids": ids.int()}
    if not isinstance(pipeline, StableDiffusionXLPipeline):
        return {**inputs, "input.unet.encoder_hidden_states": encoded.last_hidden_state}, text
    # SDXL takes nothing behind the first encoder's last layer but one
    for path in ("final_layer_norm", f"encoder.layers.{pipeline.text_encoder.config.num_hidden_layers - 1}"):
        del text[f"text_encoder.{path}"]
    ids = tokens(pipeline.tokenizer_2)
    with recorded_outputs(pipeline.text_encoder_2, "text_encoder_2", TEXT_PROJECTED) as text_2:
        encoded_2 = pipeline.text_encoder_2(ids, output_hidden_states=True)
    inputs |= {
        "input.text_encoder_2.input_ids": ids.int(),
        "input.unet.encoder_hidden_states": torch.cat([encoded.hidden_states[-2], encoded_2.hidden_states[-2]], dim=-1),
        "input.unet.text_embeds": encoded_2.text_embeds,
        "input.unet.time_ids": torch.tensor(TIME_IDS),
    }
    return inputs, {**text, **{name.replace(".text_model.", "."): tensor for name, tensor in text_2.items()}}


@torch.no_grad()
def record(name: str) -> dict[str, torch.Tensor]:
    """The inputs, under `input.`, and the outputs of the blocks of pipeline `name`."""
    pipeline = recording.load(pipelines.FIXTURES / name / "model", variant=tiny.PIPELINES[name].storage.variant)
    unet_size, vae_size = SIZES[name]
    generator = torch.Generator().manual_seed(TIMESTEP)
    channels = pipeline.unet.config.in_channels
    sample = torch.randn(2, channels, *unet_size, generator=generator)
    # of the rms that the decoder's weights are made for
    latent = torch.randn(1, channels, *vae_size, generator=generator)
    latent = latent * tiny.PIPELINES[name].latent_rms / pipeline.vae.config.scaling_factor
    pixels = torch.rand(1, 3, *(side * pipeline.vae_scale_factor for side in vae_size), generator=generator) * 2 - 1

    conditioning, text = encode(pipeline)
    with recorded_outputs(pipeline.unet, "unet", f"{UNET}|{UNET_BLOCK}") as unet:
        added = {name: conditioning[f"input.unet.{name}"] for name in ("text_embeds", "time_ids") if f"input.unet.{name}" in conditioning}
        pipeline.unet(sample, TIMESTEP, conditioning["input.unet.encoder_hidden_states"], added_cond_kwargs=added)
    with recorded_outputs(pipeline.vae, "vae", f"{VAE}|{VAE_BLOCK}") as vae:
        pipeline.vae.encode(pixels)
        pipeline.vae.decode(latent)
    inputs = {
        **conditioning,
        "input.unet.sample": sample,
        "input.unet.timestep": torch.tensor([float(TIMESTEP)]),
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

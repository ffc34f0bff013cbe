"""Write SDXL base at its real size with random weights, twice, and one recorded run of it.

usage: make.py sdxl DIR

    DIR/model/                the diffusers folder, f16
    DIR/model.safetensors     the same weights as an original (sgm) single-file checkpoint, f16
    DIR/euler/                512x512, 1 step with guidance, in f32; its `model` is ../model
    DIR/euler_single_file/    the same run; its `model` is ../model.safetensors

The parts are made, read back and run one after the other: about 15 GB of memory, 14 GB of disk and some minutes; the
tokenizers as in sd15.py. Not committed.
"""

import dataclasses
import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import ldm
import pipelines
import real_size
import recording
import sd15
import tiny
from real_size import timed
from weights import Scales, randomize

UNET = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    layers_per_block=2,
    attention_head_dim=(5, 10, 20),
    transformer_layers_per_block=(1, 2, 10),
    cross_attention_dim=768 + 1280,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    **tiny.text_time(256, 1280, 6),
)
VAE = dict(real_size.VAE, sample_size=1024, scaling_factor=0.13025, force_upcast=True)
TEXT = sd15.TEXT
TEXT_2 = dict(
    TEXT,
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
)
KINDS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
# SDXL's own "leading" would start its only step at timestep 1, where the latents hide what the UNet predicts
SCHEDULER = dict(tiny.SDXL_SCHEDULER, timestep_spacing="trailing")
# the last latent is about sigma_max * (noise - guided eps)
UNET_SCALES = Scales(trunk=0.5, context=1.3, prediction=1.0, **tiny.SOFT)
VAE_SCALES = Scales(trunk=0.5, latent=30.0 / VAE["scaling_factor"], encoded=1.0 / VAE["scaling_factor"])
TEXT_SCALES = Scales(trunk=0.1)
EULER = dataclasses.replace(
    real_size.EULER, width=512, height=512, steps=1, cfg_scale=5.0, original_size=(768, 1024), crop=(16, 128)
)


def empty(name: str) -> torch.nn.Module:
    """The part `name`, without memory for its weights."""
    with torch.device("meta"):
        match name:
            case "unet":
                return UNet2DConditionModel(**UNET)
            case "vae":
                return AutoencoderKL(**VAE)
            case _:
                return KINDS[name](CLIPTextConfig(**(TEXT if name == "text_encoder" else TEXT_2)))


def build(name: str) -> torch.nn.Module:
    """The part `name` with random f16 weights; never in f32."""
    scales = {"unet": UNET_SCALES, "vae": VAE_SCALES}.get(name, TEXT_SCALES)
    part = empty(name).half().to_empty(device="cpu")
    for parameter in part.parameters():
        parameter.data.fill_(torch.nan)
    randomize(part, scales, seed=list(KINDS).index(name))
    assert all(parameter.isfinite().all() for parameter in part.parameters()), name
    return part


def bare(**parts: object) -> StableDiffusionXLPipeline:
    """The pipeline with some of its parts."""
    missing = dict.fromkeys((*KINDS, "tokenizer", "tokenizer_2"))
    return StableDiffusionXLPipeline(
        **{**missing, **parts}, scheduler=EulerDiscreteScheduler.from_config(SCHEDULER), force_zeros_for_empty_prompt=True, add_watermarker=False
    )


def write_model(folder: pathlib.Path) -> None:
    """The diffusers folder with random f16 weights."""
    tokenizers = {"tokenizer": tiny.END, "tokenizer_2": tiny.PAD_2}
    tokenizers = {name: real_size.build_tokenizer(folder / name, pad) for name, pad in tokenizers.items()}
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(folder / name)
        pipelines.trim_tokenizer(folder / name, tokenizer.pad_token, tiny.Storage(special_tokens_map=True))
    for name in KINDS:
        build(name).save_pretrained(folder / name)
    bare(**{name: empty(name) for name in KINDS}, **tokenizers).save_config(folder)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")


def write_single_file(model: pathlib.Path, path: pathlib.Path) -> None:
    """The folder's weights under the original names; checked against diffusers' own conversion."""
    save_file(ldm.single_file(ldm.read_parts(model)), path)
    ldm.check(model, path)


def read(model: pathlib.Path, name: str) -> torch.nn.Module:
    """The part `name` in f32; the files of the larger ones are mapped, not read."""
    if name.startswith("text"):
        return KINDS[name].from_pretrained(model / name, dtype=torch.float32, local_files_only=True)
    part = empty(name).eval()
    weights = ldm.mapped(model / name / "diffusion_pytorch_model.safetensors")
    part.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, assign=True)
    return part


@torch.no_grad()
def encode(model: pathlib.Path) -> dict[str, torch.Tensor]:
    """The run's prompts by the names that the pipeline takes them under."""
    tokenizers = {name: CLIPTokenizer.from_pretrained(model / name) for name in ("tokenizer", "tokenizer_2")}
    encoders = {name: read(model, name) for name in ("text_encoder", "text_encoder_2")}
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, bare(**encoders, **tokenizers).encode_prompt(EULER.prompt, negative_prompt=EULER.negative_prompt, device="cpu"), strict=True))


def main() -> int:
    folder = real_size.target(__doc__)
    if folder is None:
        return 2
    model = folder / "model"
    with timed("weights, diffusers folder"):
        write_model(model)
    with timed("single file, read back by diffusers"):
        write_single_file(model, folder / "model.safetensors")
    with timed("text encoders in f32"):
        encoded = encode(model)
    with timed("load the rest in f32"):
        pipeline = bare(unet=read(model, "unet"), vae=read(model, "vae"))
    real_size.print_forward_seconds(pipeline.unet)
    with timed("recorded run"):
        tensors = recording.record(pipeline, model, folder, EULER, encoded=encoded)
    recording.write(folder / "euler", "../model", EULER, "epsilon", tensors)
    # a single file has no scheduler, and SDXL's own would visit timestep 1 in one step
    recording.write(folder / "euler_single_file", "../model.safetensors", EULER, "epsilon", tensors, timestep_spacing="trailing")
    real_size.print_statistics(tensors)
    return 0


if __name__ == "__main__":
    sys.exit(main())

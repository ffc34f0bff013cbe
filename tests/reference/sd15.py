"""Write Stable Diffusion 1.5 at its real size with random weights, twice, and one recorded run of it.

usage: make.py sd15 DIR

    DIR/model/                the diffusers folder, f16
    DIR/model.safetensors     the same weights as an original (ldm) single-file checkpoint, f16
    DIR/euler/                256x256, 2 steps with guidance, in f32; its `model` is ../model
    DIR/euler_single_file/    the same run; its `model` is ../model.safetensors
    DIR/ddim/                 the same with DDIM: timesteps 501 and 1 where Euler has 999 and 0

Needs about 6 GB of memory, 5 GB of disk and some minutes. The tokenizer comes from tokenizers/clip_tokenizer.json
under PHOTOGRAM_DATA (default ../shared/data beside the checkout). Not committed.
"""

import dataclasses
import json
import os
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import ldm
import real_size
import recording
from real_size import timed
from weights import Scales, randomize

UNET = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention_head_dim=8,
    cross_attention_dim=768,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
VAE = dict(real_size.VAE, sample_size=512, scaling_factor=0.18215)
TEXT = dict(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=real_size.N_POSITIONS,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    projection_dim=768,
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=1,
)
# scheduler_config.json as SD 1.5 ships it: no timestep_spacing, no prediction_type
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
# the last latent of two Euler steps is about sigma_max * (noise - guided eps)
SCALES = Scales(trunk=0.5, latent=20.0 / VAE["scaling_factor"], encoded=1.0 / VAE["scaling_factor"])
EULER = recording.Run(
    prompt="a lighthouse at dusk, oil painting",
    negative_prompt="blurry",
    width=256,
    height=256,
    steps=2,
    cfg_scale=7.0,
    sampler="euler",
    schedule="discrete",
    seed=42,
)
DDIM = dataclasses.replace(EULER, sampler="ddim")


def write_model(folder: pathlib.Path) -> None:
    """The diffusers folder with random f16 weights."""
    tokenizer = real_size.build_tokenizer(folder / "tokenizer")
    parts = {"unet": UNet2DConditionModel(**UNET), "vae": AutoencoderKL(**VAE), "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT))}
    for seed, part in enumerate(parts.values()):
        randomize(part, SCALES, seed)
        part.half()
    StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=PNDMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, max_shard_size="10GB")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)


def write_single_file(model: pathlib.Path, path: pathlib.Path) -> None:
    """The folder's weights under ldm's names; checked against diffusers' own conversion."""
    alphas_cumprod = PNDMScheduler.from_config(SCHEDULER).alphas_cumprod
    save_file({"alphas_cumprod": alphas_cumprod, **ldm.single_file(ldm.read_parts(model))}, path)
    ldm.check(model, path)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    folder = pathlib.Path(sys.argv[1])
    recording.deterministic()
    torch.set_num_threads(os.cpu_count() or 1)
    with timed("weights, diffusers folder"):
        write_model(folder / "model")
    with timed("single file, read back by diffusers"):
        write_single_file(folder / "model", folder / "model.safetensors")
    with timed("load in f32"):
        pipeline = recording.load(folder / "model")
    real_size.print_forward_seconds(pipeline.unet)
    for run in (EULER, DDIM):
        with timed(f"recorded run, {run.sampler}"):
            tensors = recording.record(pipeline, folder / "model", folder, run)
        recording.write(folder / run.sampler, "../model", run, "epsilon", tensors)
        if run is EULER:
            recording.write(folder / "euler_single_file", "../model.safetensors", run, "epsilon", tensors)
        real_size.print_statistics(tensors)
    return 0


if __name__ == "__main__":
    sys.exit(main())

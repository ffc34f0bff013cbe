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

import json
import pathlib
import sys

from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import ldm
import real_size
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


def write(model: pathlib.Path, path: pathlib.Path) -> None:
    """The folder and the single file."""
    with timed("weights, diffusers folder"):
        write_model(model)
    with timed("single file, read back by diffusers"):
        write_single_file(model, path)


if __name__ == "__main__":
    sys.exit(real_size.main(__doc__, write, "epsilon"))

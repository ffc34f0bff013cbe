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

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import recording
from ldm import single_file
from weights import Scales, randomize

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("PHOTOGRAM_DATA", ROOT.parent / "shared" / "data"))

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
VAE = dict(
    sample_size=512,
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    scaling_factor=0.18215,
)
TEXT = dict(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
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


def build_tokenizer(folder: pathlib.Path) -> CLIPTokenizer:
    """CLIP's tokenizer as vocab.json and merges.txt in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe = json.loads((DATA / "tokenizers" / "clip_tokenizer.json").read_text())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TEXT["max_position_embeddings"])


def write_model(folder: pathlib.Path) -> None:
    """The diffusers folder with random f16 weights."""
    tokenizer = build_tokenizer(folder / "tokenizer")
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
    checkpoint = single_file(
        load_file(model / "unet" / "diffusion_pytorch_model.safetensors"),
        load_file(model / "vae" / "diffusion_pytorch_model.safetensors"),
        load_file(model / "text_encoder" / "model.safetensors"),
        PNDMScheduler.from_config(SCHEDULER).alphas_cumprod,
    )
    save_file(checkpoint, path)
    del checkpoint
    again = StableDiffusionPipeline.from_single_file(path, config=str(model), local_files_only=True, dtype=torch.float16)
    for part, file in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        written, read = load_file(model / part / f"{file}.safetensors"), getattr(again, part).state_dict()
        read = {name: tensor for name, tensor in read.items() if not name.endswith("position_ids")}
        assert written.keys() == read.keys(), part
        assert all(torch.equal(tensor, read[name]) for name, tensor in written.items()), part


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took."""
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.1f} s", flush=True)


def print_forward_seconds(unet: UNet2DConditionModel) -> None:
    """Print the seconds of every UNet forward (batch 2 with guidance)."""
    starts: list[float] = []
    unet.register_forward_pre_hook(lambda *_: starts.append(time.monotonic()))
    unet.register_forward_hook(lambda *_: print(f"UNet forward: {time.monotonic() - starts[-1]:.1f} s", flush=True))


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
    print_forward_seconds(pipeline.unet)
    for run in (EULER, DDIM):
        with timed(f"recorded run, {run.sampler}"):
            tensors = recording.record(pipeline, folder / "model", folder, run)
        recording.write(folder / run.sampler, "../model", run, "epsilon", tensors)
        if run is EULER:
            recording.write(folder / "euler_single_file", "../model.safetensors", run, "epsilon", tensors)
        for name, tensor in tensors.items():
            print(f"{name}: {tuple(tensor.shape)}, mean {tensor.mean():.4f}, std {tensor.std():.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write Stable Diffusion 2.1 at its real size with random weights, twice, and recorded runs of it.

usage: make.py sd2 DIR

    DIR/model/                the diffusers folder, f16
    DIR/model.safetensors     the same weights as an original single-file checkpoint, f16: OpenCLIP's names, and a
                              24th layer of the text encoder and a projection that the folder leaves out
    DIR/euler/                256x256, 2 steps with guidance, in f32; its `model` is ../model
    DIR/euler_single_file/    the same run; its `model` is ../model.safetensors
    DIR/ddim/                 the same with DDIM: timesteps 501 and 1 where Euler has 999 and 0

Needs about 8 GB of memory, 6 GB of disk and some minutes; the tokenizer as sd15.py. Not committed.
"""

import json
import pathlib
import sys

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import ldm
import pipelines
import real_size
import tiny
from real_size import timed
from weights import Scales, randomize

N_FILE_LAYERS = 24  # of OpenCLIP's ViT-H; diffusers stores all but the last

UNET = dict(
    sample_size=96,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    use_linear_projection=True,
    upcast_attention=True,
)
VAE = dict(real_size.VAE, sample_size=768, scaling_factor=0.18215)
TEXT = dict(
    vocab_size=49408,
    hidden_size=1024,
    intermediate_size=4096,
    num_attention_heads=16,
    max_position_embeddings=real_size.N_POSITIONS,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    projection_dim=512,
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=1,
)
SCALES = Scales(trunk=0.5, latent=2.0 / VAE["scaling_factor"], encoded=1.0 / VAE["scaling_factor"])


def text_encoder(n_layers: int) -> CLIPTextModel:
    """The text encoder with so many layers."""
    return CLIPTextModel(CLIPTextConfig(**TEXT, num_hidden_layers=n_layers))


def write_model(folder: pathlib.Path) -> ldm.State:
    """Write the diffusers folder with random f16 weights; -> the text encoder of the single file."""
    tokenizer = real_size.build_tokenizer(folder / "tokenizer", tiny.PAD_2)
    parts = {"unet": UNet2DConditionModel(**UNET), "vae": AutoencoderKL(**VAE), "text_encoder": text_encoder(N_FILE_LAYERS)}
    for seed, part in enumerate(parts.values()):
        randomize(part, SCALES, seed)
        part.half()
    whole = parts["text_encoder"].state_dict()
    parts["text_encoder"] = text_encoder(N_FILE_LAYERS - 1).half()
    parts["text_encoder"].load_state_dict({name: tensor for name, tensor in whole.items() if f".{N_FILE_LAYERS - 1}." not in name})
    StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler.from_config(tiny.SD2_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, max_shard_size="10GB")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(tiny.SD2_SCHEDULER, indent=2) + "\n")
    pipelines.trim_tokenizer(folder / "tokenizer", tiny.PAD_2, tiny.Storage(special_tokens_map=True))
    return whole


def write_single_file(model: pathlib.Path, path: pathlib.Path, text: ldm.State) -> None:
    """The folder's weights and `text` under the original names; checked against diffusers' own conversion."""
    checkpoint = ldm.single_file({**ldm.read_parts(model), "text_encoder": text})
    save_file({"alphas_cumprod": DDIMScheduler.from_config(tiny.SD2_SCHEDULER).alphas_cumprod, **checkpoint}, path)
    ldm.check(model, path)


def write(model: pathlib.Path, path: pathlib.Path) -> None:
    """The folder and the single file."""
    with timed("weights, diffusers folder"):
        text = write_model(model)
    with timed("single file, read back by diffusers"):
        write_single_file(model, path, text)


if __name__ == "__main__":
    sys.exit(real_size.main(__doc__, write, "v_prediction"))

"""Write the tiny random pipelines and their recorded runs.

usage: make.py pipelines [NAME ...]

    ../fixtures/pipelines/NAME/model/            an ordinary diffusers folder
    ../fixtures/pipelines/NAME/RUN/              reference.json, reference.safetensors, init.png for image-to-image

README.md lists what each pipeline varies.
"""

import dataclasses
import json
import pathlib
import shutil
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

import bpe
import recording
from recording import Run
from weights import Scales, randomize

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "pipelines"
N_MERGES = 120
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

SD1_BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
# as SD 1.5 ships it: neither timestep_spacing nor prediction_type
SD1_SCHEDULER = dict(
    SD1_BETAS, _class_name="PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, clip_sample=False, trained_betas=None
)
# as SD 2.1 ships it
SD2_SCHEDULER = dict(
    SD1_BETAS,
    _class_name="DDIMScheduler",
    prediction_type="v_prediction",
    set_alpha_to_one=False,
    steps_offset=1,
    clip_sample=False,
    skip_prk_steps=True,
    trained_betas=None,
)


@dataclasses.dataclass(frozen=True)
class Storage:
    """How the folder is written; the numbers in it are the same.

    `dtype`: f32, f16 or bf16; `variant`: infix of the weight files' names; `shard_size`: of the UNet, with an
    index.json; `text_prefix`: `text_model.` before CLIP's names and position_ids among them, as transformers before 5
    wrote it; `tokenizer_json`: tokenizer.json instead of vocab.json and merges.txt; `vae_query_names`: the VAE's
    attention under the names of diffusers before 0.18 (query, key, value, proj_attn), as SD 1.5's folder has it.
    """

    dtype: str = "f16"
    variant: str | None = None
    shard_size: str | None = None
    text_prefix: bool = False
    tokenizer_json: bool = False
    vae_query_names: bool = False


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A tiny pipeline: keyword arguments of the models, their storage, and the runs to record by folder name.

    `latent_rms`: about the rms of the runs' last latents, which the decoder's weights are scaled for.
    """

    unet: dict
    vae: dict
    text: dict
    scheduler: dict
    runs: dict[str, Run]
    latent_rms: float
    storage: Storage = Storage()


def unet(channels: tuple[int, ...], attention: tuple[bool, ...], **config: object) -> dict:
    """UNet2DConditionModel's arguments; `attention`: whether the level has cross attention, finest first."""
    return dict(
        sample_size=8,
        block_out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        **{"layers_per_block": 1, "norm_num_groups": 8, **config},
    )


def vae(channels: tuple[int, ...], **config: object) -> dict:
    """AutoencoderKL's arguments; it halves the picture len(channels) - 1 times."""
    return dict(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        **{"layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4, "sample_size": 64, **config},
    )


def text(width: int, n_heads: int, n_layers: int, n_positions: int, activation: str, **config: object) -> dict:
    """CLIPTextConfig's arguments but for the vocabulary."""
    return dict(
        hidden_size=width,
        num_attention_heads=n_heads,
        num_hidden_layers=n_layers,
        max_position_embeddings=n_positions,
        hidden_act=activation,
        projection_dim=width,
        **{"intermediate_size": 4 * width, **config},
    )


PIPELINES: dict[str, Pipeline] = {
    # Stable Diffusion 1.x's layout: four levels, the last without attention; latents of 8x8 shrink to one pixel
    "sd1_layout": Pipeline(
        unet=unet((8, 16, 16, 16), (True, True, True, False), layers_per_block=2, attention_head_dim=2, cross_attention_dim=32, norm_num_groups=2),
        vae=vae((8, 8, 16, 16), scaling_factor=0.18215),
        text=text(32, 4, 2, 77, "quick_gelu"),
        scheduler=SD1_SCHEDULER,
        storage=Storage(text_prefix=True, vae_query_names=True),
        latent_rms=3.5,
        runs={
            "pndm": Run("a lighthouse at dusk, oil painting", "blurry", 64, 64, 5, 3.0, "pndm", "discrete", 1),
            "pndm_img2img": Run("a red apple", "", 64, 64, 8, 4.0, "pndm", "discrete", 2, "init.png", 0.6),
        },
    ),
    # Stable Diffusion 2.x's layout: linear projections, heads per level, GELU, v prediction, upcast_attention
    "sd2_layout": Pipeline(
        unet=unet(
            (16, 20, 20),
            (True, True, True),
            attention_head_dim=(2, 2, 4),
            cross_attention_dim=40,
            norm_num_groups=4,
            use_linear_projection=True,
            upcast_attention=True,
        ),
        vae=vae((8, 16, 16), scaling_factor=0.18215),
        text=text(40, 5, 3, 24, "gelu"),
        scheduler=SD2_SCHEDULER,
        latent_rms=1.0,
        runs={
            "ddim": Run("a quiet river, watercolour", "noisy, ugly", 32, 40, 5, 2.5, "ddim", "discrete", 3),
            "dpmpp_2m_karras_img2img": Run("a stone bridge", "", 32, 40, 7, 2.5, "dpm++2m", "karras", 4, "init.png", 0.8),
        },
    ),
    # latents of 19x27: 19 -> 10 -> 5 and 27 -> 14 -> 7, so that upsampling goes to a given size
    "odd_sizes": Pipeline(
        unet=unet((16, 24, 24), (True, True, False), attention_head_dim=2, cross_attention_dim=24),
        vae=vae((8, 8, 16, 16), scaling_factor=0.2),
        text=text(24, 3, 2, 16, "quick_gelu"),
        scheduler=SD1_SCHEDULER,
        storage=Storage(tokenizer_json=True),
        latent_rms=16.0,
        runs={"euler": Run("the old tree in the snow", "", 216, 152, 4, 4.0, "euler", "discrete", 5)},
    ),
    # head dims 5 and 40, five norm groups
    "head_dims_5_40": Pipeline(
        unet=unet((20, 40), (True, True), attention_head_dim=(4, 1), cross_attention_dim=32, norm_num_groups=5),
        vae=vae((10, 20, 20), norm_num_groups=5, scaling_factor=0.5),
        text=text(32, 2, 1, 20, "gelu", intermediate_size=72),
        scheduler=dict(SD1_BETAS, _class_name="EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
        latent_rms=8.0,
        runs={
            "euler_a": Run("black cat, white dog", "paper", 40, 24, 5, 2.0, "euler_a", "discrete", 6),
            "euler_a_img2img": Run("black cat", "", 40, 24, 6, 3.0, "euler_a", "discrete", 7, "init.png", 0.7),
        },
    ),
    # attention in the middle block alone; bf16
    "mid_attention_only": Pipeline(
        unet=unet((16, 32), (False, False), attention_head_dim=4, cross_attention_dim=24),
        vae=vae((8, 16, 16), scaling_factor=0.18215),
        text=text(24, 2, 2, 16, "quick_gelu", layer_norm_eps=1e-6),
        scheduler=dict(SD1_BETAS, _class_name="EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1, use_karras_sigmas=True),
        storage=Storage(dtype="bf16"),
        latent_rms=3.0,
        runs={
            "euler_karras": Run("moon and star", "sun", 48, 32, 5, 5.0, "euler", "karras", 8),
            "euler_karras_img2img": Run("moon and star", "", 48, 32, 6, 5.0, "euler", "karras", 9, "init.png", 0.7),
        },
    ),
    # two transformer layers per attention; the files are an fp16 variant
    "transformer_depth_2": Pipeline(
        unet=unet((24, 24), (True, True), attention_head_dim=(2, 3), cross_attention_dim=24, transformer_layers_per_block=2),
        vae=vae((8, 16, 16), scaling_factor=1.0),
        text=text(24, 1, 2, 16, "gelu"),
        scheduler=dict(SD1_BETAS, _class_name="DPMSolverMultistepScheduler", timestep_spacing="linspace"),
        storage=Storage(variant="fp16"),
        latent_rms=19.0,
        runs={
            "dpmpp_2m_karras": Run("a wooden boat in the rain", "blurry", 24, 40, 6, 7.5, "dpm++2m", "karras", 10),
        },
    ),
    # the UNet in shards with an index.json; f32
    "sharded": Pipeline(
        unet=unet((16, 16), (True, True), attention_head_dim=1, cross_attention_dim=32, norm_num_groups=4, norm_eps=1e-6),
        vae=vae((8, 8), layers_per_block=2, scaling_factor=0.3),
        text=text(32, 4, 1, 12, "quick_gelu"),
        scheduler=SD1_SCHEDULER,
        storage=Storage(dtype="f32", shard_size="120KB", tokenizer_json=True),
        latent_rms=7.0,
        runs={
            "euler_a_karras": Run("rain on glass", "", 16, 24, 5, 3.0, "euler_a", "karras", 11),
            "euler_a_karras_img2img": Run("rain on glass", "", 16, 24, 6, 2.0, "euler_a", "karras", 12, "init.png", 0.7),
        },
    ),
    # eight latent channels without quant convolutions or middle attention; zero terminal SNR
    "latent_8": Pipeline(
        unet=unet((16, 32), (True, False), attention_head_dim=2, cross_attention_dim=32, in_channels=8, out_channels=8),
        vae=vae(
            (8, 16, 16),
            latent_channels=8,
            layers_per_block=2,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.0,
        ),
        text=text(32, 4, 2, 16, "quick_gelu", intermediate_size=64),
        scheduler=dict(
            SD1_BETAS,
            _class_name="DDIMScheduler",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
            clip_sample=False,
        ),
        latent_rms=1.0,
        runs={
            "ddim": Run("3 yellow fish!", "", 32, 32, 6, 3.0, "ddim", "discrete", 13),
            "ddim_img2img": Run("3 yellow fish!", "", 32, 32, 8, 3.0, "ddim", "discrete", 14, "init.png", 0.5),
        },
    ),
    # the VAE halves once; head dim 12; latents of 12x20
    "vae_downscale_2": Pipeline(
        unet=unet((24, 24), (True, True), layers_per_block=2, attention_head_dim=2, cross_attention_dim=24, norm_num_groups=12),
        vae=vae((8, 16), layers_per_block=2, norm_num_groups=8, latent_channels=4, scaling_factor=0.13025),
        text=text(24, 2, 2, 16, "quick_gelu"),
        scheduler=dict(_class_name="DPMSolverMultistepScheduler", beta_start=0.0001, beta_end=0.02, beta_schedule="linear", timestep_spacing="leading", steps_offset=1),
        latent_rms=20.0,
        runs={
            "dpmpp_2m": Run("a big blue window", "small", 40, 24, 6, 5.0, "dpm++2m", "discrete", 15),
            "dpmpp_2m_img2img": Run("a big blue window", "", 40, 24, 7, 5.0, "dpm++2m", "discrete", 16, "init.png", 0.75),
        },
    ),
    # no guidance; head dim 10; a prompt longer than the text encoder's positions, with accents
    "without_guidance": Pipeline(
        unet=unet((20, 20, 20), (False, True, True), attention_head_dim=2, cross_attention_dim=24, norm_num_groups=4),
        vae=vae((8, 16, 16), scaling_factor=0.18215),
        text=text(24, 3, 3, 16, "gelu", layer_norm_eps=1e-4),
        scheduler=dict(SD1_SCHEDULER, timestep_spacing="leading"),
        storage=Storage(text_prefix=True),
        latent_rms=3.0,
        runs={
            "euler": Run("un café à l'ombre, the garden in the morning, dark shadows on the water", "", 48, 24, 4, 1.0, "euler", "discrete", 17),
            "euler_img2img": Run("", "", 48, 24, 6, 1.0, "euler", "discrete", 18, "init.png", 0.7),
        },
    ),
    # a level without attention above one with it; four layers of heads of 8; pndm and dpm++2m on a v prediction
    "v_prediction_pndm": Pipeline(
        unet=unet((16, 32), (False, True), attention_head_dim=4, cross_attention_dim=32, use_linear_projection=True, norm_num_groups=4),
        vae=vae((16, 16), norm_num_groups=8, scaling_factor=0.5, use_quant_conv=False),
        text=text(32, 4, 4, 16, "quick_gelu", intermediate_size=48),
        scheduler=dict(SD1_BETAS, _class_name="PNDMScheduler", prediction_type="v_prediction", skip_prk_steps=True, steps_offset=1, timestep_spacing="leading"),
        latent_rms=1.0,
        runs={
            "pndm": Run("old paper, pencil sketch", "oil", 16, 16, 6, 2.0, "pndm", "discrete", 19),
            "euler_a": Run("old paper, pencil sketch", "oil", 16, 16, 5, 3.0, "euler_a", "discrete", 20),
            "dpmpp_2m": Run("old paper, pencil sketch", "oil", 16, 16, 5, 4.0, "dpm++2m", "discrete", 21),
        },
    ),
}


def build(pipeline: Pipeline, folder: pathlib.Path, seed: int) -> None:
    """Write the diffusers folder."""
    tokenizer = bpe.write(folder / "tokenizer", N_MERGES, pipeline.text["max_position_embeddings"])
    special = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    parts = {
        "unet": UNet2DConditionModel(**pipeline.unet),
        "vae": AutoencoderKL(**pipeline.vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**pipeline.text, vocab_size=len(tokenizer), **special)),
    }
    scaling_factor = pipeline.vae["scaling_factor"]
    scales = Scales(latent=pipeline.latent_rms / scaling_factor, encoded=1 / scaling_factor)
    for part_idx, (name, part) in enumerate(parts.items()):
        # the VAE amplifies the latents' rounding; softer weights leave room under the image's tolerance
        randomize(part, dataclasses.replace(scales, branch=0.4, logits=0.7) if name == "vae" else scales, seed + part_idx)
        part.to(DTYPES[pipeline.storage.dtype])
    whole = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    whole.save_pretrained(folder, variant=pipeline.storage.variant)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", pipeline.scheduler["_class_name"]]
    index.pop("_name_or_path", None)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(pipeline.scheduler, indent=2) + "\n")
    if pipeline.storage.shard_size:
        shutil.rmtree(folder / "unet")
        parts["unet"].save_pretrained(folder / "unet", max_shard_size=pipeline.storage.shard_size)
    if pipeline.storage.tokenizer_json:
        (folder / "tokenizer" / "vocab.json").unlink()
        (folder / "tokenizer" / "merges.txt").unlink()
    else:
        (folder / "tokenizer" / "tokenizer.json").unlink()
    if pipeline.storage.text_prefix:
        add_text_prefix(folder / "text_encoder" / "model.safetensors", pipeline.text["max_position_embeddings"])
    if pipeline.storage.vae_query_names:
        rename_vae_attention(folder / "vae" / "diffusion_pytorch_model.safetensors")


def add_text_prefix(path: pathlib.Path, n_positions: int) -> None:
    """Rename as transformers before 5 wrote CLIPTextModel, its position_ids (i64) included."""
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(n_positions)[None]
    save_file(tensors, path, metadata={"format": "pt"})


def rename_vae_attention(path: pathlib.Path) -> None:
    """Rename the middle attention's projections as diffusers before 0.18 wrote them."""
    names = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = load_file(path)
    for new, old in names.items():
        tensors = {name.replace(f"attentions.0.{new}", f"attentions.0.{old}"): tensor for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def draw_init_image(path: pathlib.Path, width: int, height: int) -> None:
    """A colour gradient with a disc and a bar, RGB."""
    picture = Image.new("RGB", (width, height))
    picture.putdata([(255 * x // width, 255 * y // height, 128) for y in range(height) for x in range(width)])
    brush = ImageDraw.Draw(picture)
    brush.ellipse((width // 4, height // 4, width // 2, height // 2), fill=(230, 40, 30))
    brush.rectangle((width // 2, 2 * height // 3, width - 3, height - 4), fill=(20, 60, 200))
    picture.save(path)


def folder_bytes(folder: pathlib.Path) -> int:
    """Bytes of every file below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    names = sys.argv[1:] or list(PIPELINES)
    if unknown := [name for name in names if name not in PIPELINES]:
        print(f"unknown pipelines: {', '.join(unknown)}", file=sys.stderr)
        return 2
    recording.deterministic()
    for name in names:
        pipeline, folder = PIPELINES[name], FIXTURES / name
        shutil.rmtree(folder, ignore_errors=True)
        build(pipeline, folder / "model", seed=1000 + 10 * list(PIPELINES).index(name))
        loaded = recording.load(folder / "model", variant=pipeline.storage.variant)
        prediction_type = pipeline.scheduler.get("prediction_type", "epsilon")
        for run_name, run in pipeline.runs.items():
            run_folder = folder / run_name
            run_folder.mkdir()
            if run.init_image:
                draw_init_image(run_folder / run.init_image, run.width, run.height)
            tensors = recording.record(loaded, folder / "model", run_folder, run)
            recording.write(run_folder, "../model", run, prediction_type, tensors)
            last = tensors[[key for key in tensors if key.startswith("latent.")][-1]]
            image = tensors["image"]
            clipped = float(((image == 0) | (image == 1)).float().mean())
            print(f"{name}/{run_name}: last latent rms {last.square().mean().sqrt():.2f}, image std {image.std():.3f}, {clipped:.0%} clipped")
        print(f"{name}: {folder_bytes(folder) / 2**20:.2f} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

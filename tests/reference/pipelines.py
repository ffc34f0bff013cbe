"""Write the tiny random pipelines and their recorded runs.

usage: make.py pipelines [NAME ...]

    ../fixtures/pipelines/NAME/model/            an ordinary diffusers folder
    ../fixtures/pipelines/NAME/vae/              for the runs that replace the model's VAE
    ../fixtures/pipelines/NAME/RUN/              reference.json, reference.safetensors, init.png for image-to-image

README.md lists what each pipeline varies.
"""

import dataclasses
import json
import pathlib
import shutil
import sys

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import bpe
import recording
from tiny import END, PIPELINES, Pipeline, Storage
from weights import Scales, randomize

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "pipelines"
N_MERGES = 120
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def write_tokenizer(folder: pathlib.Path, n_positions: int, pad: str) -> CLIPTokenizer:
    """One of a pipeline's tokenizers."""
    bpe.write(folder, N_MERGES, n_positions)
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return CLIPTokenizer(*files, model_max_length=n_positions, pad_token=pad)


def encoder_config(arguments: dict, tokenizer: CLIPTokenizer, legacy_ids: bool) -> CLIPTextConfig:
    """The text encoder's config for `tokenizer`."""
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    if legacy_ids:
        ids = dict(bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return CLIPTextConfig(**arguments, vocab_size=len(tokenizer), **ids)


def build(pipeline: Pipeline, folder: pathlib.Path, seed: int) -> None:
    """Write the diffusers folder `folder`/model, and `folder`/vae where there is another."""
    model, storage = folder / "model", pipeline.storage
    tokenizers: dict[str, CLIPTokenizer | None] = {"tokenizer": None}
    parts: dict[str, torch.nn.Module | None] = {"unet": UNet2DConditionModel(**pipeline.unet), "vae": AutoencoderKL(**pipeline.vae), "text_encoder": None}
    if pipeline.text:
        tokenizer = write_tokenizer(model / "tokenizer", pipeline.text["max_position_embeddings"], pipeline.pad)
        tokenizers["tokenizer"] = tokenizer
        parts["text_encoder"] = CLIPTextModel(encoder_config(pipeline.text, tokenizer, pipeline.legacy_ids))
    if pipeline.text_2:
        tokenizer = write_tokenizer(model / "tokenizer_2", pipeline.text_2["max_position_embeddings"], pipeline.pad_2)
        tokenizers["tokenizer_2"] = tokenizer
        parts["text_encoder_2"] = CLIPTextModelWithProjection(encoder_config(pipeline.text_2, tokenizer, pipeline.legacy_ids))
    if pipeline.other_vae:
        parts["other_vae"] = AutoencoderKL(**pipeline.other_vae)
    for part_idx, (name, part) in enumerate(parts.items()):
        if part is not None:
            randomize(part, scales_for(pipeline, name), seed + part_idx)
            part.to(DTYPES[storage.dtype])
    if pipeline.other_vae:
        parts.pop("other_vae").save_pretrained(folder / "vae")
    if not pipeline.text_2:
        kind, options = StableDiffusionPipeline, dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    else:
        kind = StableDiffusionXLPipeline if pipeline.text else StableDiffusionXLImg2ImgPipeline
        options = dict(add_watermarker=False, **pipeline.options)
    kind(**parts, **tokenizers, scheduler=DDIMScheduler(), **options).save_pretrained(model, variant=storage.variant)
    index = json.loads((model / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", pipeline.scheduler["_class_name"]]
    index.pop("_name_or_path", None)
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(pipeline.scheduler, indent=2) + "\n")
    if pipeline.vae_of:
        shutil.rmtree(model / "vae")
        shutil.copytree(FIXTURES / pipeline.vae_of / "model" / "vae", model / "vae")
    if storage.shard_size:
        shutil.rmtree(model / "unet")
        parts["unet"].save_pretrained(model / "unet", max_shard_size=storage.shard_size)
    for name, tokenizer in tokenizers.items():
        if tokenizer is not None:
            trim_tokenizer(model / name, tokenizer.pad_token, storage)
    if storage.text_prefix:
        add_text_prefix(model / "text_encoder" / "model.safetensors", pipeline.text["max_position_embeddings"])
    if storage.vae_query_names:
        rename_vae_attention(model / "vae" / "diffusion_pytorch_model.safetensors")


def scales_for(pipeline: Pipeline, part: str) -> Scales:
    """What the weights of one part aim at."""
    scaling_factor = (pipeline.other_vae if part == "other_vae" else pipeline.vae)["scaling_factor"]
    scales = Scales(latent=pipeline.latent_rms / scaling_factor, encoded=1 / scaling_factor)
    if part == "unet":
        return dataclasses.replace(scales, context=pipeline.context_rms, **pipeline.unet_scales)
    # the VAE amplifies the latents' rounding; softer weights leave room under the image's tolerance
    return dataclasses.replace(scales, branch=0.4, logits=0.7) if part.endswith("vae") else scales


def trim_tokenizer(folder: pathlib.Path, pad: str, storage: Storage) -> None:
    """Keep the files that `storage` names; transformers wrote all of them but the map of special tokens."""
    for name in ("vocab.json", "merges.txt") if storage.tokenizer_json else ("tokenizer.json",):
        (folder / name).unlink()
    if storage.special_tokens_map:
        # the config names the end token, as in SD 2.1: the map counts
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": END}, indent=2) + "\n")
        roles = {"bos_token": config["bos_token"], "eos_token": END, "pad_token": pad, "unk_token": END}
        (folder / "special_tokens_map.json").write_text(json.dumps(roles, indent=2) + "\n")
    assert CLIPTokenizer.from_pretrained(folder).pad_token == pad, folder


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
        shutil.rmtree(FIXTURES / name, ignore_errors=True)
        build(PIPELINES[name], FIXTURES / name, seed=1000 + 10 * list(PIPELINES).index(name))
    for name in names:
        pipeline, folder = PIPELINES[name], FIXTURES / name
        prediction_type = pipeline.scheduler.get("prediction_type", "epsilon")
        for run_name, run in pipeline.runs.items():
            run_folder = folder / run_name
            run_folder.mkdir()
            if run.init_image:
                draw_init_image(run_folder / run.init_image, run.width, run.height)
            loaded, refiner = recording.load_for(run, run_folder, folder / "model", variant=pipeline.storage.variant)
            tensors = recording.record(loaded, folder / "model", run_folder, run, refiner)
            recording.write(run_folder, "../model", run, prediction_type, tensors)
            last = tensors[[key for key in tensors if key.startswith("latent.")][-1]]
            image = tensors["image"]
            clipped = float(((image == 0) | (image == 1)).float().mean())
            print(f"{name}/{run_name}: last latent rms {last.square().mean().sqrt():.2f}, image std {image.std():.3f}, {clipped:.0%} clipped")
        print(f"{name}: {folder_bytes(folder) / 2**20:.2f} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

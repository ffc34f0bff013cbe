"""What the scripts that write models at their real size share."""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import torch
from transformers import CLIPTokenizer

import recording

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("PHOTOGRAM_DATA", ROOT.parent / "shared" / "data"))
N_POSITIONS = 77

# AutoencoderKL's arguments but for the scale: SD 1.x, 2.x and SDXL have the same network
VAE = dict(
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)


def build_tokenizer(folder: pathlib.Path, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer as vocab.json and merges.txt in `folder`, padding with `pad`."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe = json.loads((DATA / "tokenizers" / "clip_tokenizer.json").read_text())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=N_POSITIONS, pad_token=pad)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took."""
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.1f} s", flush=True)


def print_forward_seconds(unet: torch.nn.Module) -> None:
    """Print the seconds of every UNet forward (batch 2 with guidance)."""
    starts: list[float] = []
    unet.register_forward_pre_hook(lambda *_: starts.append(time.monotonic()))
    unet.register_forward_hook(lambda *_: print(f"UNet forward: {time.monotonic() - starts[-1]:.1f} s", flush=True))


def print_statistics(tensors: dict[str, torch.Tensor]) -> None:
    """Print shape, mean and standard deviation of every recorded tensor."""
    for name, tensor in tensors.items():
        print(f"{name}: {tuple(tensor.shape)}, mean {tensor.mean():.4f}, std {tensor.std():.4f}")


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


def target(document: str) -> pathlib.Path | None:
    """The folder on the command line, or None after printing the usage in `document`; torch is set up for a run."""
    if len(sys.argv) != 2:
        print(document.strip(), file=sys.stderr)
        return None
    recording.deterministic()
    torch.set_num_threads(os.cpu_count() or 1)
    return pathlib.Path(sys.argv[1])


def main(document: str, write: Callable[[pathlib.Path, pathlib.Path], None], prediction_type: str) -> int:
    """A script for models with one text encoder: `write` the folder and the single file, then record EULER and DDIM."""
    folder = target(document)
    if folder is None:
        return 2
    write(folder / "model", folder / "model.safetensors")
    with timed("load in f32"):
        pipeline = recording.load(folder / "model")
    print_forward_seconds(pipeline.unet)
    for run in (EULER, DDIM):
        with timed(f"recorded run, {run.sampler}"):
            tensors = recording.record(pipeline, folder / "model", folder, run)
        recording.write(folder / run.sampler, "../model", run, prediction_type, tensors)
        if run is EULER:
            recording.write(folder / "euler_single_file", "../model.safetensors", run, prediction_type, tensors)
        print_statistics(tensors)
    return 0

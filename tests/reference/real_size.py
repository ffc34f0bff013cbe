"""What the scripts that write models at their real size share."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator

import torch
from safetensors.torch import save_file
from transformers import CLIPTokenizer

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

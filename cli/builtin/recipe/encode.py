"""Encode the pictures once, in five variants each.

Writes OUT/latents.npy, f16 [variant, picture, 8, 16, 16], and OUT/rows.json,
the pictures' captions in the same order. A VAE fresh from train_vae.py
(OUT/vae) first gets the latents' mean and deviation folded into its 1x1
convolutions and becomes OUT/model/vae; where that is there already, it is used
as it is.
"""

import argparse
import json
import os

import numpy as np
import torch
from diffusers import AutoencoderKL

import data
from train_vae import as_input

# shift down and to the right in pixels, mirrored or not
VARIANTS = ((0, 0, False), (0, 0, True), (3, -2, False), (-3, 4, False), (2, 3, True))
READS_ONE_WAY = ("Symbols", "Flags")  # never mirrored
BATCH = 64
KEPT = ("style", "caption", "group", "keywords", "codepoints", "set")


def shifted(picture, down, right):
    """The picture moved by whole pixels, with white where nothing is left."""
    moved = np.full_like(picture, 255)
    height, width = data.SIZE - abs(down), data.SIZE - abs(right)
    to = (max(down, 0), max(right, 0))
    at = (max(-down, 0), max(-right, 0))
    moved[to[0] : to[0] + height, to[1] : to[1] + width] = picture[at[0] : at[0] + height, at[1] : at[1] + width]
    return moved


def variant(picture, row, down, right, mirrored):
    """One variant of one picture."""
    if mirrored and row["group"] not in READS_ONE_WAY:
        picture = picture[:, ::-1]
    return shifted(picture, down, right)


def fold(vae, mean, deviation):
    """Change the 1x1 convolutions so that latents have mean 0, deviation 1."""
    n, inverse = len(mean), 1 / deviation
    before, after = vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        after.bias += after.weight[:, :, 0, 0] @ mean
        after.weight *= deviation.view(1, n, 1, 1)
        before.bias[:n] = (before.bias[:n] - mean) * inverse
        before.weight[:n] *= inverse.view(n, 1, 1, 1)
        before.bias[n:] += 2 * inverse.log()  # the log variances


def main():
    """Encode everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", help="working folder")
    out = parser.parse_args().out
    torch.set_num_threads(2)
    rows = [row for row in data.rows() if data.trains_denoiser(row)]
    pictures = data.pictures(rows)
    finished = os.path.exists(f"{out}/model/vae")
    vae = AutoencoderKL.from_pretrained(f"{out}/model/vae" if finished else f"{out}/vae").float().eval()

    encoded = np.empty((len(VARIANTS), len(rows), 8, 16, 16), np.float32)
    for v, how in enumerate(VARIANTS):
        for start in range(0, len(rows), BATCH):
            part = range(start, min(start + BATCH, len(rows)))
            batch = np.stack([variant(pictures[i], rows[i], *how) for i in part])
            with torch.no_grad():
                encoded[v, part] = vae.encode(as_input(batch)).latent_dist.mode()
    if not finished:
        mean, deviation = encoded.mean((0, 1, 3, 4)), encoded.std((0, 1, 3, 4))
        fold(vae, torch.from_numpy(mean), torch.from_numpy(deviation))
        vae.save_pretrained(f"{out}/model/vae")
        encoded = (encoded - mean.reshape(8, 1, 1)) / deviation.reshape(8, 1, 1)
    print(f"mean {encoded.mean():.3f} deviation {encoded.std():.3f}")
    np.save(f"{out}/latents.npy", encoded.astype(np.float16))
    with open(f"{out}/rows.json", "w") as file:
        json.dump([{key: row[key] for key in KEPT} for row in rows], file)


if __name__ == "__main__":
    main()

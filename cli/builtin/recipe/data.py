"""The emoji pictures, their captions and the choices made among them.

The data folder (environment variable PHOTOGRAM_DATA, default ../shared/data)
holds emoji/<set>/captions.jsonl and the 128x128 pictures that it names.
"""

import collections
import json
import os
import pathlib

import numpy as np
from PIL import Image

STYLES = {
    "fluent3d": "3D glossy emoji",  # Microsoft Fluent UI Emoji, MIT
    "noto": "flat gradient emoji",  # Google Noto Emoji, Apache-2.0
    "blobmoji": "blob emoji",  # Blobmoji, Apache-2.0
}
SIZE = 128


def root():
    """The folder that holds the three sets."""
    return pathlib.Path(os.environ.get("PHOTOGRAM_DATA", "../shared/data")) / "emoji"


def rows():
    """One dict per picture of every set, in a fixed order."""
    found = []
    for name in STYLES:
        with open(root() / name / "captions.jsonl") as lines:
            found += [dict(json.loads(line), set=name) for line in lines]
    return found


def pictures(of, cache=None):
    """The pictures of the rows `of` as uint8 [N, 128, 128, 3].

    `cache` names a file that the array is kept in between runs."""
    if cache and os.path.exists(cache):
        return np.load(cache)
    files = [root() / row["set"] / row["file"] for row in of]
    array = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    if cache:
        np.save(cache, array)
    return array


def trains_denoiser(row):
    """Whether the denoiser may see this picture: no skin tone variants, which
    differ in one colour only, and no bare components."""
    return not row["skin_tone"] and row["group"] not in ("Component", "Other")


def held_out(of):
    """The (set, codepoints) pairs that no denoiser is trained on: a twelfth of
    the emoji that all sets have, each in one style only, so that the other two
    styles teach the object and other objects teach the style."""
    counts = collections.Counter(row["codepoints"] for row in of)
    everywhere = sorted(c for c, n in counts.items() if n == len(STYLES))
    return {(list(STYLES)[i % 3], c) for i, c in enumerate(everywhere[7::12])}


def common():
    """common.txt: {caption: [everyday words for it]}."""
    names = {}
    for line in open(pathlib.Path(__file__).with_name("common.txt")):
        if line.strip() and not line.startswith("#"):
            caption, _, words = line.strip().partition(":")
            names[caption] = [word.strip() for word in words.split(",") if word.strip()]
    return names

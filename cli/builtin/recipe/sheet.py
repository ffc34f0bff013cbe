"""Draw a contact sheet: 40 everyday prompts, or the held-out pairs.

The held-out sheet shows, for pairs of style and object that no denoiser was
trained on, the drawn picture above the real one.
"""

import argparse

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import captions
import data

SUBJECTS = """red apple, cat face, dog, fish, rocket, house, red heart, sun, green tree, car,
grinning face, ghost, slice of pizza, banana, strawberry, penguin, butterfly, sunflower, guitar, star,
hamburger, ice cream, birthday cake, cup of coffee, carrot, mushroom, cactus, rainbow, crescent moon, snowman,
airplane, sailboat, bicycle, balloon, soccer ball, crown, light bulb, key, robot, skull"""


def everyday():
    """40 prompts; the styles take turns."""
    subjects = [subject.strip() for subject in SUBJECTS.split(",")]
    styles = list(data.STYLES.values())
    return [f"{styles[i % 3]} of {captions.article(s)}" for i, s in enumerate(subjects)]


def held_out_rows():
    """20 of the held-out pictures' rows, spread over groups."""
    rows = [row for row in data.rows() if data.trains_denoiser(row)]
    held = data.held_out(rows)
    chosen = [row for row in rows if (row["set"], row["codepoints"]) in held]
    chosen = [row for row in chosen if row["group"] not in ("Symbols", "Flags", "People & Body")]
    return chosen[:: len(chosen) // 20][:20]


def draw(model, prompts, steps, guidance, seed):
    """Pictures uint8 [N, 128, 128, 3]."""
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(len(prompts), 8, 16, 16, generator=torch.Generator().manual_seed(seed))
    images = pipe(
        prompts,
        width=data.SIZE,
        height=data.SIZE,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=noise,
        output_type="np",
    ).images
    return (images * 255).round().astype(np.uint8)


def grid(pictures, columns):
    """Pictures side by side, row after row."""
    rows = [np.concatenate(list(pictures[i : i + columns]), 1) for i in range(0, len(pictures), columns)]
    return Image.fromarray(np.concatenate(rows))


def main():
    """Write the sheet and print what is on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="diffusers folder")
    parser.add_argument("png", help="file to write")
    parser.add_argument("--held-out", action="store_true", help="the pairs that were held out")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.held_out:
        rows = held_out_rows()
        prompts = [f"{row['style']} of {captions.article(row['caption'])}" for row in rows]
    else:
        prompts = everyday()
    pictures = draw(args.model, prompts, args.steps, args.guidance, args.seed)
    if args.held_out:
        real = data.pictures(rows)
        pictures = np.concatenate([np.concatenate([pictures[i : i + 10], real[i : i + 10]]) for i in range(0, 20, 10)])
    grid(pictures, 10).quantize(128).save(args.png, optimize=True)
    print("\n".join(prompts))


if __name__ == "__main__":
    main()

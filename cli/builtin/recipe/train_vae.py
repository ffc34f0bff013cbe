"""Train the AutoencoderKL on 64-pixel crops, then on whole 128-pixel pictures.

Resumable: OUT/vae.pt is written every minute and read at the start. The result
is OUT/vae; encode.py makes the model's VAE of it.
"""

import argparse
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import data

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=8,
    block_out_channels=(16, 32, 64, 128),
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    sample_size=data.SIZE,
    scaling_factor=1.0,
)
KL_WEIGHT = 1e-3
CROPS_UNTIL = 0.75  # share of the run that is spent on crops
CROPS, WHOLE = (64, 16), (data.SIZE, 6)  # pixels, batch


def as_input(pictures):
    """uint8 [N, H, W, 3] as f32 [N, 3, H, W] in -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw(pictures, ink, pixels, n, rng):
    """`n` crops, half of them mirrored; nearly empty ones are mostly redrawn."""
    crops = []
    while len(crops) < n:
        i = rng.integers(len(pictures))
        y, x = rng.integers(0, data.SIZE - pixels + 1, 2)
        window = (i, slice(y, y + pixels), slice(x, x + pixels))
        if pixels < data.SIZE and ink[window].mean() < 0.15 and rng.random() > 0.05:
            continue
        crop = pictures[window]
        crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return as_input(np.stack(crops))


def edges(x):
    """Horizontal and vertical differences, as further channels."""
    across = x[..., 1:, :-1] - x[..., :-1, :-1]
    down = x[..., :-1, 1:] - x[..., :-1, :-1]
    return torch.cat([across, down], 1)


def loss_of(vae, x):
    """L1 on pixels and edges at three scales, and a little KL."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    y = y.float()
    loss = F.l1_loss(y, x) + F.l1_loss(edges(y), edges(x))
    for scale in (2, 4):
        a, b = F.avg_pool2d(y, scale), F.avg_pool2d(x, scale)
        loss = loss + 0.5 * F.l1_loss(a, b) + 0.5 * F.l1_loss(edges(a), edges(b))
    kl = posterior.kl().float().mean() / (x.shape[-1] / 8) ** 2 / CONFIG["latent_channels"]
    return loss + KL_WEIGHT * kl


def psnr(vae, weights, pictures):
    """Of every 300th picture through the VAE with these weights, in dB."""
    live = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.load_state_dict(weights)
    x = as_input(pictures[::300])
    with torch.no_grad():
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    vae.load_state_dict(live)
    return 10 * math.log10(4 / F.mse_loss(x, y).item())


def main():
    """Train until the minutes are over, then write OUT/vae."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", help="working folder")
    parser.add_argument("--minutes", type=float, required=True, help="length of the whole run")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rng = np.random.default_rng(time.time_ns() % 2**32)
    pictures = data.pictures(data.rows(), cache=f"{args.out}/pictures.npy")
    ink = pictures.min(-1) < 250
    vae = AutoencoderKL(**CONFIG)
    ema = {name: value.clone() for name, value in vae.state_dict().items()}
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    path, before, step = f"{args.out}/vae.pt", 0.0, 0
    if os.path.exists(path):
        saved = torch.load(path)
        vae.load_state_dict(saved["model"])
        ema, before, step = saved["ema"], saved["minutes"], saved["step"]
        optimizer.load_state_dict(saved["opt"])

    def save(minutes):
        state = dict(model=vae.state_dict(), ema=ema, opt=optimizer.state_dict(), minutes=minutes, step=step)
        torch.save(state, path + ".part")
        os.replace(path + ".part", path)

    start = last = time.time()
    while (minutes := before + (time.time() - start) / 60) < args.minutes:
        done = minutes / args.minutes
        pixels, n = CROPS if done < CROPS_UNTIL else WHOLE
        rate = 1.2e-3 * min(1, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(vae, draw(pictures, ink, pixels, n, rng))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in vae.state_dict().items():
                ema[name].lerp_(value, 1 - decay)
        if time.time() - last > 60:
            last = time.time()
            quality = psnr(vae, ema, pictures)
            print(f"{minutes:.1f} min step {step} px {pixels} loss {loss.item():.4f} psnr {quality:.2f}", flush=True)
            save(minutes)
    save(args.minutes)
    print("psnr", psnr(vae, ema, pictures))
    vae.load_state_dict(ema)
    vae.save_pretrained(f"{args.out}/vae")


if __name__ == "__main__":
    main()

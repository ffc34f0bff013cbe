"""Train the text encoder and the UNet together on the cached latents.

Resumable: OUT/denoiser.pt is written every --save seconds and read at the
start. Without it, training goes on from OUT/model where that has weights, and
begins with random ones otherwise.

The learning rate follows the clock: it rises over --warmup steps and falls
along a half cosine to nothing at the end of the run, however many steps the
machine managed by then.

Under `torchrun --nproc-per-node N` the batches of N processes make one step.
On a CPU one thread in each of several processes is faster than several threads.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

import captions
import data

WIDTH = 160  # of the text encoder and of the cross attention
# how often encode.py's variants are drawn: as it is, mirrored, shifted, ...
VARIANT_WEIGHTS = (0.88, 0.03, 0.03, 0.03, 0.03)
# share of a group's pictures relative to the others'
GROUP_WEIGHTS = {"People & Body": 0.1, "Symbols": 0.1, "Flags": 0.1}
PROMPT_DROPOUT = 0.1
MAX_SNR = 4.3  # less noisy steps than this are trained on less


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", help="working folder, as encode.py left it")
    parser.add_argument("--minutes", type=float, required=True, help="length of the whole run")
    parser.add_argument("--rate", type=float, default=8e-4, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=500, help="steps")
    parser.add_argument("--batch", type=int, default=32, help="of each process")
    parser.add_argument("--common", type=float, default=0.0, help="share of batches that common.txt gets")
    parser.add_argument("--ema", type=float, default=0.9995, help="decay per step")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--save", type=float, default=120, help="seconds between saves")
    return parser.parse_args()


def noise_scheduler():
    """v-prediction with zero terminal SNR, sampled at trailing timesteps."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def new_models(tokenizer):
    """Text encoder and UNet with random weights."""
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=captions.POSITIONS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            projection_dim=WIDTH,
        )
    )
    with torch.no_grad():
        text.get_input_embeddings().weight.normal_(0, 0.02)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return text, unet


class Examples:
    """Draws batches of latents and token ids."""

    def __init__(self, out, tokenizer, common_share, rng):
        with open(f"{out}/rows.json") as file:
            rows = json.load(file)
        self.latents = torch.from_numpy(np.load(f"{out}/latents.npy"))
        held = data.held_out(rows)
        common = data.common()
        kept = [i for i, row in enumerate(rows) if (row["set"], row["codepoints"]) not in held]
        self.index = torch.tensor(kept)
        is_common = torch.tensor([rows[i]["caption"] in common for i in kept])
        weight = torch.tensor([GROUP_WEIGHTS.get(rows[i]["group"], 1.0) for i in kept])
        if common_share:
            weight[is_common] *= common_share / weight[is_common].sum()
            weight[~is_common] *= (1 - common_share) / weight[~is_common].sum()
        self.weight = weight
        texts = [t for row in rows for t in captions.forms(row, common.get(row["caption"]), rng)]
        self.tokens = captions.ids(tokenizer, texts).view(len(rows), len(captions.FORM_WEIGHTS), -1)
        self.empty = captions.ids(tokenizer, [""])[0]
        self.variants = torch.tensor(VARIANT_WEIGHTS)
        self.forms = torch.tensor(captions.FORM_WEIGHTS)
        print(f"{len(rows)} pictures, {len(held)} held out, {int(is_common.sum())} common", flush=True)

    def draw(self, n):
        """Latents [n, 8, 16, 16] and token ids [n, positions]."""
        picture = self.index[torch.multinomial(self.weight, n)]
        latents = self.latents[torch.multinomial(self.variants, n, True), picture].float()
        tokens = self.tokens[picture, torch.multinomial(self.forms, n, True)].clone()
        tokens[torch.rand(n) < PROMPT_DROPOUT] = self.empty
        return latents, tokens


def average_gradients(models):
    """Replace gradients by their mean over the processes."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in models.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))


def agreed(minutes):
    """The first process's clock, so that all stop after the same step."""
    if not dist.is_initialized():
        return minutes
    clock = torch.tensor(minutes, dtype=torch.float64)
    dist.broadcast(clock, 0)
    return clock.item()


class Run:
    """What a run keeps between steps and between processes."""

    def __init__(self, args, models):
        self.path = f"{args.out}/denoiser.pt"
        self.models = models
        self.ema = {k: v.clone() for k, v in models.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            models.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.decay = args.ema
        self.minutes, self.step = 0.0, 0
        if os.path.exists(self.path):
            saved = torch.load(self.path)
            models.load_state_dict(saved["model"])
            self.ema = saved["ema"]
            self.optimizer.load_state_dict(saved["opt"])
            self.minutes, self.step = saved["minutes"], saved["step"]

    def update(self, loss, rate):
        """One step of the optimizer and of the moving average."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.models)
        torch.nn.utils.clip_grad_norm_(self.models.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, value in self.models.state_dict().items():
                if value.is_floating_point():
                    self.ema[name].lerp_(value, 1 - decay)

    def save(self, minutes):
        """Write the state, whole or not at all."""
        state = dict(
            model=self.models.state_dict(),
            ema=self.ema,
            opt=self.optimizer.state_dict(),
            minutes=minutes,
            step=self.step,
        )
        torch.save(state, self.path + ".part")
        os.replace(self.path + ".part", self.path)


def save_pipeline(out, tokenizer, models, ema):
    """Write OUT/model with the averaged weights."""
    models.load_state_dict(ema)
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(f"{out}/model/vae"),
        text_encoder=models["text"],
        tokenizer=tokenizer,
        unet=models["unet"],
        scheduler=noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(f"{out}/model")


def main():
    """Train until the minutes are over, then write OUT/model."""
    args = arguments()
    torch.set_num_threads(args.threads)
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
    first = not dist.is_initialized() or dist.get_rank() == 0
    torch.manual_seed(0)  # every process begins with the same random weights
    with open(f"{args.out}/rows.json") as file:
        tokenizer = captions.tokenizer(json.load(file), f"{args.out}/model/tokenizer")
    if os.path.exists(f"{args.out}/model/unet"):
        text = CLIPTextModel.from_pretrained(f"{args.out}/model", subfolder="text_encoder").float()
        unet = UNet2DConditionModel.from_pretrained(f"{args.out}/model", subfolder="unet").float()
    else:
        text, unet = new_models(tokenizer)
    # both are faster on a CPU: convolutions on channels-last tensors, and at
    # these sizes attention as plain products
    unet = unet.to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())
    text.set_attn_implementation("eager")
    models = torch.nn.ModuleDict(dict(text=text, unet=unet))
    run = Run(args, models)
    seed = (time.time_ns() + int(os.environ.get("RANK", 0))) % 2**32
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    examples = Examples(args.out, tokenizer, args.common, rng)
    alphas = noise_scheduler().alphas_cumprod.float()
    snr = alphas / (1 - alphas).clamp(min=1e-8)
    step_weight = ((MAX_SNR + 1) / (snr + 1)).clamp(max=1)

    start = last_print = last_save = time.time()
    first_step, average = run.step, None
    while (minutes := agreed(run.minutes + (time.time() - start) / 60)) < args.minutes:
        falling = 0.5 + 0.5 * math.cos(math.pi * minutes / args.minutes)
        rate = args.rate * min(1, (run.step + 1) / args.warmup) * falling
        latents, tokens = examples.draw(args.batch)
        latents = latents.to(memory_format=torch.channels_last)
        t = torch.multinomial(step_weight, args.batch, True)
        a = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * latents
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = unet(noisy, t, text(tokens).last_hidden_state).sample
        loss = (predicted.float() - velocity).square().mean()
        run.update(loss, rate)
        average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
        now = time.time()
        if not first:
            continue
        if now - last_print > 60:
            last_print = now
            batch = args.batch * (dist.get_world_size() if dist.is_initialized() else 1)
            speed = (run.step - first_step) * batch / (now - start)
            line = f"{minutes:.1f} min step {run.step} mse {average:.4f} lr {rate:.2e} {speed:.1f}/s"
            print(f"{line} cpu {time.process_time() / 60:.1f} min", flush=True)
        if now - last_save > args.save:
            last_save = now
            run.save(minutes)
    if first:
        run.save(args.minutes)
        save_pipeline(args.out, tokenizer, models, run.ema)


if __name__ == "__main__":
    main()

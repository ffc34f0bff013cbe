"""Save the trained pipeline in f16 and record one run of it in f32.

The run goes stage by stage into reference.json and reference.safetensors, the
format that `photogram validate --reference` reads.
"""

import argparse
import json
import os
import pathlib
import shutil

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

RUN = dict(
    prompt="3D glossy emoji of a red apple",
    negative_prompt="",
    width=128,
    height=128,
    steps=20,
    cfg_scale=3.0,
    sampler="ddim",
    schedule="discrete",
    seed=7,
    prediction_type="v_prediction",
)
# keys that say where a file lay when it was saved, not what it is
LOCAL_KEYS = ("_name_or_path", "is_local", "local_files_only")


def save_model(source, target):
    """Write the pipeline in f16, its configurations without local paths."""
    pipe = StableDiffusionPipeline.from_pretrained(source, torch_dtype=torch.float16, safety_checker=None)
    pipe.save_pretrained(target)
    for path in pathlib.Path(target).rglob("*config.json"):
        strip(path)
    strip(pathlib.Path(target) / "model_index.json")
    for name in ("vocab.json", "merges.txt"):  # tokenizer.json alone is saved
        shutil.copy(f"{source}/tokenizer/{name}", f"{target}/tokenizer/{name}")


def strip(path):
    """Remove LOCAL_KEYS from a JSON object."""
    config = json.loads(path.read_text())
    kept = {key: value for key, value in config.items() if key not in LOCAL_KEYS}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def record(model):
    """The tensors of RUN, by their names in the reference format."""
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator("cpu").manual_seed(RUN["seed"]))
    tensors = {"noise": noise}

    def keep(_pipe, step, _timestep, values):
        tensors[f"latent.{step}"] = values["latents"].clone()
        return values

    with torch.no_grad():
        positive, negative = pipe.encode_prompt(RUN["prompt"], "cpu", 1, True, RUN["negative_prompt"])
        image = pipe(
            RUN["prompt"],
            negative_prompt=RUN["negative_prompt"],
            width=RUN["width"],
            height=RUN["height"],
            num_inference_steps=RUN["steps"],
            guidance_scale=RUN["cfg_scale"],
            latents=noise,
            output_type="pt",
            callback_on_step_end=keep,
        ).images[0]
    tensors["context"] = torch.cat([negative, positive])
    tensors["image"] = image.clamp(0, 1)
    return {name: value.float().contiguous() for name, value in tensors.items()}


def main():
    """Write the model and the reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", help="working folder of the training run")
    parser.add_argument("model", help="folder to write the model to")
    parser.add_argument("reference", help="folder to write the recorded run to")
    args = parser.parse_args()
    save_model(f"{args.out}/model", args.model)
    os.makedirs(args.reference, exist_ok=True)
    save_file(record(args.model), f"{args.reference}/reference.safetensors")
    with open(f"{args.reference}/reference.json", "w") as file:
        json.dump(dict(model=os.path.relpath(args.model, args.reference), **RUN), file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()

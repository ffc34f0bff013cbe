"""Run a Stable Diffusion or SDXL pipeline as diffusers does and record it in photogram's reference format.

The format is described in README.md. Everything runs in f32 on the CPU.
"""

import contextlib
import dataclasses
import json
import pathlib
import warnings
from collections.abc import Callable, Iterator
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion, pipeline_stable_diffusion_img2img
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl, pipeline_stable_diffusion_xl_img2img
from diffusers.schedulers import scheduling_euler_ancestral_discrete
from PIL import Image
from safetensors.torch import save_file

KARRAS_RHO = 7.0  # Karras et al. 2022, section 5

XL = (StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline)
# what a pipeline shows its callback -> the key of reference.safetensors; the last two are SDXL's
CONDITIONING = {"prompt_embeds": "context", "add_text_embeds": "pooled", "add_time_ids": "time_ids"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, field for field the keys of reference.json; sizes in pixels.

    None: not given to diffusers, and no key. `original_size`, `target_size`: (height, width); `crop`: (top, left); `vae`, `refiner`: folders relative to the run's.
    """

    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    cfg_scale: float
    sampler: str
    schedule: str
    seed: int
    init_image: str | None = None
    strength: float | None = None
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None
    guidance_rescale: float | None = None
    vae: str | None = None
    refiner: str | None = None
    refiner_start: float | None = None


class EulerAncestralKarrasScheduler(EulerAncestralDiscreteScheduler):
    """Ancestral Euler on the Karras schedule as k-diffusion runs it; diffusers has no flag for it.

    The n sigmas run from the largest to the smallest of the training schedule, whatever `timestep_spacing` says, then
    to zero; timesteps are interpolated in log sigma and stay fractional; the first sample is noise * sigma_max.
    Source: k-diffusion, get_sigmas_karras, DiscreteSchedule.sigma_to_t and sample_euler_ancestral.
    """

    @property
    def init_noise_sigma(self) -> torch.Tensor:
        return self.sigmas[0]

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        # in f64 from diffusers' f32 betas on: 1 - alphas_cumprod in f32 moves the smallest sigma, and with it every other one of
        # the ramp
        alphas_cumprod = torch.cumprod(1 - self.betas.double(), dim=0)
        training = ((1 - alphas_cumprod) / alphas_cumprod).sqrt().numpy()
        ramp = np.linspace(0, 1, num_inference_steps)
        first, last = training[-1] ** (1 / KARRAS_RHO), training[0] ** (1 / KARRAS_RHO)
        sigmas = (first + ramp * (last - first)) ** KARRAS_RHO
        timesteps = np.interp(np.log(sigmas), np.log(training), np.arange(len(training)))
        self.sigmas = torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))
        self.timesteps = torch.from_numpy(timesteps.astype(np.float32))


SAMPLERS: dict[tuple[str, str], Callable[[dict], SchedulerMixin]] = {
    ("ddim", "discrete"): lambda config: DDIMScheduler.from_config(config),
    ("pndm", "discrete"): lambda config: PNDMScheduler.from_config(config, skip_prk_steps=True),
    ("euler", "discrete"): lambda config: EulerDiscreteScheduler.from_config(config, use_karras_sigmas=False),
    ("euler", "karras"): lambda config: EulerDiscreteScheduler.from_config(config, use_karras_sigmas=True),
    ("euler_a", "discrete"): lambda config: EulerAncestralDiscreteScheduler.from_config(config),
    ("euler_a", "karras"): lambda config: EulerAncestralKarrasScheduler.from_config(config),
    ("dpm++2m", "discrete"): lambda config: dpm_solver_2m(config, karras=False),
    ("dpm++2m", "karras"): lambda config: dpm_solver_2m(config, karras=True),
}


def dpm_solver_2m(config: dict, karras: bool) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ of second order with the midpoint rule, on `config`'s training schedule."""
    return DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", use_karras_sigmas=karras
    )


def deterministic() -> None:
    """One thread and deterministic algorithms: the same machine gives the same bytes. Silences progress and advice."""
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def load(
    folder: pathlib.Path, dtype: torch.dtype = torch.float32, variant: str | None = None, vae: pathlib.Path | None = None
) -> DiffusionPipeline:
    """Load a diffusers folder, its VAE from `vae` if that is given, with the weights upcast to `dtype`."""
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    replaced: dict[str, object] = {"add_watermarker": False} if "XL" in kind else {"safety_checker": None}
    if vae is not None:
        replaced["vae"] = AutoencoderKL.from_pretrained(vae, dtype=dtype, local_files_only=True)
    pipeline = DiffusionPipeline.from_pretrained(folder, variant=variant, dtype=dtype, local_files_only=True, **replaced)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_for(
    run: Run, folder: pathlib.Path, model: pathlib.Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> tuple[DiffusionPipeline, DiffusionPipeline | None]:
    """The pipeline in `model` and the run's refiner; `folder`: where the run's own paths start."""
    pipeline = load(model, dtype, variant, folder / run.vae if run.vae else None)
    return pipeline, load(folder / run.refiner, dtype) if run.refiner else None


def scheduler_for(model: pathlib.Path, run: Run) -> SchedulerMixin:
    """The run's sampler on the model's scheduler_config.json; absent keys take the sampler's own defaults."""
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    return SAMPLERS[run.sampler, run.schedule](config)


@contextlib.contextmanager
def recorded_noise() -> Iterator[list[torch.Tensor]]:
    """Collect every normal sample that the pipelines and the ancestral scheduler draw, in order."""
    drawn: list[torch.Tensor] = []
    modules = (
        pipeline_stable_diffusion,
        pipeline_stable_diffusion_img2img,
        pipeline_stable_diffusion_xl,
        pipeline_stable_diffusion_xl_img2img,
        scheduling_euler_ancestral_discrete,
    )
    draw = pipeline_stable_diffusion.randn_tensor

    def record(shape: tuple[int, ...], generator: torch.Generator, **arguments: object) -> torch.Tensor:
        # f64 runs get the f32 draws too: torch's f64 stream is another one
        sample = draw(shape, generator=generator, **{**arguments, "dtype": torch.float32})
        drawn.append(sample)
        return sample.to(arguments.get("dtype") or torch.float32)

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "randn_tensor", record))
        yield drawn


@contextlib.contextmanager
def latent_means() -> Iterator[None]:
    """Image-to-image takes the latent distribution's mean, in place of diffusers' sample from it."""

    def take_mean(output: object, **_: object) -> torch.Tensor:
        return output.latent_dist.mode()

    with contextlib.ExitStack() as stack:
        for module in (pipeline_stable_diffusion_img2img, pipeline_stable_diffusion_xl_img2img):
            stack.enter_context(mock.patch.object(module, "retrieve_latents", take_mean))
        yield


def bare(pipeline: DiffusionPipeline, model: pathlib.Path, run: Run, from_image: bool) -> DiffusionPipeline:
    """The text-to-image or image-to-image pipeline of `pipeline`'s family, with its parts and the run's sampler."""
    if isinstance(pipeline, XL):
        options = {"add_watermarker": False, "force_zeros_for_empty_prompt": pipeline.config.force_zeros_for_empty_prompt}
        if from_image:
            options["requires_aesthetics_score"] = pipeline.config.get("requires_aesthetics_score", False)
        kind = StableDiffusionXLImg2ImgPipeline if from_image else StableDiffusionXLPipeline
    else:
        options = {"requires_safety_checker": False}
        kind = StableDiffusionImg2ImgPipeline if from_image else StableDiffusionPipeline
    made = kind(**pipeline.components, **options)
    # assigned afterwards: the constructor overwrites steps_offset and clip_sample
    made.scheduler = scheduler_for(model, run)
    made.set_progress_bar_config(disable=True)
    return made


def given_arguments(pipeline: DiffusionPipeline, run: Run) -> dict[str, object]:
    """The run's optional values under the names that `pipeline` calls them by."""
    given = {"guidance_rescale": run.guidance_rescale}
    if isinstance(pipeline, XL):
        given |= {"original_size": run.original_size, "crops_coords_top_left": run.crop, "target_size": run.target_size}
    if isinstance(pipeline, StableDiffusionXLImg2ImgPipeline):
        # diffusers takes the negative rows' sizes from the positive ones, but their crop from here
        given |= {"negative_crops_coords_top_left": run.crop}
        given |= {"aesthetic_score": run.aesthetic_score, "negative_aesthetic_score": run.negative_aesthetic_score}
    return {name: value for name, value in given.items() if value is not None}


@torch.no_grad()
def record(
    pipeline: DiffusionPipeline,
    model: pathlib.Path,
    folder: pathlib.Path,
    run: Run,
    refiner: DiffusionPipeline | None = None,
    encoded: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Run `run` and return the tensors of reference.safetensors in the dtype of `pipeline`; writes nothing.

    `model`: the diffusers folder, for its scheduler_config.json; `folder`: where the run's own paths start; `encoded`: what encode_prompt gave, by the pipeline's names,
    where `pipeline` has no text encoders.
    """
    prompts = encoded or {"prompt": run.prompt, "negative_prompt": run.negative_prompt}
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator("cpu").manual_seed(run.seed)

    def denoise(pipe: DiffusionPipeline, prefix: str = "", **arguments: object) -> torch.Tensor:
        """Call `pipe`; its latents continue the numbers of those before it."""
        first_idx = sum(name.startswith("latent.") for name in tensors)
        shown = [name for name in CONDITIONING if name in pipe._callback_tensor_inputs]

        def keep(_: object, step_idx: int, __: object, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            tensors[f"latent.{first_idx + step_idx}"] = state["latents"].clone()
            tensors.update({f"{prefix}{CONDITIONING[name]}": state[name].clone() for name in shown})
            return state

        return pipe(
            **prompts,
            num_inference_steps=run.steps,
            guidance_scale=run.cfg_scale,
            generator=generator,
            callback_on_step_end=keep,
            callback_on_step_end_tensor_inputs=["latents", *shown],
            **given_arguments(pipe, run),
            **arguments,
        ).images

    # the last pipeline decodes
    first_part = {"output_type": "latent", "denoising_end": run.refiner_start} if refiner else {"output_type": "pt"}
    with recorded_noise() as drawn, latent_means():
        if run.init_image is None:
            images = denoise(bare(pipeline, model, run, from_image=False), **first_part, width=run.width, height=run.height)
        else:
            image_to_image = bare(pipeline, model, run, from_image=True)
            picture = Image.open(folder / run.init_image)
            assert picture.size == (run.width, run.height) and picture.mode == "RGB"
            pixels = image_to_image.image_processor.preprocess(picture).to(pipeline.dtype)
            tensors["encoded"] = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
            images = denoise(image_to_image, **first_part, image=picture, strength=run.strength)
        if refiner:
            refining = bare(refiner, folder / run.refiner, run, from_image=True)
            images = denoise(refining, "refiner.", output_type="pt", image=images, denoising_start=run.refiner_start)
    tensors["noise"], *step_noises = drawn
    tensors |= {f"step_noise.{step_idx}": noise for step_idx, noise in enumerate(step_noises)}
    tensors["image"] = images[0].clamp(0, 1)
    assert torch.equal(tensors["noise"], torch.randn(tensors["noise"].shape, generator=torch.Generator().manual_seed(run.seed)))
    assert len(step_noises) in (0, sum(name.startswith("latent.") for name in tensors))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    return tensors


def write(
    folder: pathlib.Path,
    model: str,
    run: Run,
    prediction_type: str,
    tensors: dict[str, torch.Tensor],
    timestep_spacing: str | None = None,
) -> None:
    """Write reference.json and reference.safetensors; `model` is relative to `folder`.

    `timestep_spacing` is what the run had, where the model's files do not say it."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in dataclasses.asdict(run).items() if value is not None}
    document = {"model": model, **given, "prediction_type": prediction_type}
    if timestep_spacing is not None:
        document["timestep_spacing"] = timestep_spacing
    (folder / "reference.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, folder / "reference.safetensors")


def read_run(folder: pathlib.Path) -> Run:
    """The run that a reference.json describes."""
    document = json.loads((folder / "reference.json").read_text())
    given = {field.name: document[field.name] for field in dataclasses.fields(Run) if field.name in document}
    # diffusers adds the sizes together as tuples
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Run(**{"negative_prompt": None, **given})


def nmse(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean-centred normalised mean squared error, in f64: sum((a - b)^2) / sum((b - mean(b))^2)."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).square().sum() / (reference - reference.mean()).square().sum())

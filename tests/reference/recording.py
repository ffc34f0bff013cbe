"""Run a StableDiffusionPipeline as diffusers does and record it in photogram's reference format.

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
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion, pipeline_stable_diffusion_img2img
from diffusers.schedulers import scheduling_euler_ancestral_discrete
from PIL import Image
from safetensors.torch import save_file

KARRAS_RHO = 7.0  # Karras et al. 2022, section 5


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, field for field the keys of reference.json; sizes in pixels."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    cfg_scale: float
    sampler: str
    schedule: str
    seed: int
    init_image: str | None = None
    strength: float | None = None


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
        # in f64 from the betas on: 1 - alphas_cumprod in f32 moves the smallest sigma, and with it every other one of the ramp
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


def load(folder: pathlib.Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> StableDiffusionPipeline:
    """Load a diffusers folder with its weights upcast to `dtype`."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, variant=variant, dtype=dtype, local_files_only=True, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def scheduler_for(model: pathlib.Path, run: Run) -> SchedulerMixin:
    """The run's sampler on the model's scheduler_config.json; absent keys take the sampler's own defaults."""
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    return SAMPLERS[run.sampler, run.schedule](config)


@contextlib.contextmanager
def recorded_noise() -> Iterator[list[torch.Tensor]]:
    """Collect every normal sample that the pipelines and the ancestral scheduler draw, in order."""
    drawn: list[torch.Tensor] = []
    modules = (pipeline_stable_diffusion, pipeline_stable_diffusion_img2img, scheduling_euler_ancestral_discrete)
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


def take_mean(output: object, **_: object) -> torch.Tensor:
    """The latent distribution's mean, in place of diffusers' sample from it."""
    return output.latent_dist.mode()


def bare(kind: type[DiffusionPipeline], pipeline: StableDiffusionPipeline, model: pathlib.Path, run: Run) -> DiffusionPipeline:
    """A pipeline of `kind` from the parts of `pipeline` and the run's sampler."""
    made = kind(**pipeline.components, requires_safety_checker=False)
    # assigned afterwards: the constructor overwrites steps_offset and clip_sample
    made.scheduler = scheduler_for(model, run)
    made.set_progress_bar_config(disable=True)
    return made


@torch.no_grad()
def record(pipeline: StableDiffusionPipeline, model: pathlib.Path, folder: pathlib.Path, run: Run) -> dict[str, torch.Tensor]:
    """Run `run` and return the tensors of reference.safetensors in the dtype of `pipeline`; writes nothing.

    `model`: the diffusers folder, for its scheduler_config.json; `folder`: where `run.init_image` is.
    """
    tensors: dict[str, torch.Tensor] = {}
    prompt, negative = pipeline.encode_prompt(run.prompt, "cpu", 1, run.cfg_scale > 1, run.negative_prompt)
    tensors["context"] = torch.cat([negative, prompt]) if run.cfg_scale > 1 else prompt

    def keep(_: object, step_idx: int, __: object, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[f"latent.{step_idx}"] = state["latents"].clone()
        return state

    arguments = dict(
        prompt=run.prompt,
        negative_prompt=run.negative_prompt,
        num_inference_steps=run.steps,
        guidance_scale=run.cfg_scale,
        generator=torch.Generator("cpu").manual_seed(run.seed),
        output_type="pt",
        callback_on_step_end=keep,
    )
    with recorded_noise() as drawn, mock.patch.object(pipeline_stable_diffusion_img2img, "retrieve_latents", take_mean):
        if run.init_image is None:
            text_to_image = bare(StableDiffusionPipeline, pipeline, model, run)
            image = text_to_image(**arguments, width=run.width, height=run.height).images[0]
        else:
            image_to_image = bare(StableDiffusionImg2ImgPipeline, pipeline, model, run)
            picture = Image.open(folder / run.init_image)
            assert picture.size == (run.width, run.height) and picture.mode == "RGB"
            pixels = image_to_image.image_processor.preprocess(picture).to(pipeline.dtype)
            tensors["encoded"] = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
            image = image_to_image(**arguments, image=picture, strength=run.strength).images[0]
    tensors["noise"], *step_noises = drawn
    tensors |= {f"step_noise.{step_idx}": noise for step_idx, noise in enumerate(step_noises)}
    tensors["image"] = image.clamp(0, 1)
    assert torch.equal(tensors["noise"], torch.randn(tensors["noise"].shape, generator=torch.Generator().manual_seed(run.seed)))
    assert len(step_noises) in (0, sum(name.startswith("latent.") for name in tensors))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    return tensors


def write(folder: pathlib.Path, model: str, run: Run, prediction_type: str, tensors: dict[str, torch.Tensor]) -> None:
    """Write reference.json and reference.safetensors; `model` is relative to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in dataclasses.asdict(run).items() if value is not None}
    document = {"model": model, **given, "prediction_type": prediction_type}
    (folder / "reference.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, folder / "reference.safetensors")


def read_run(folder: pathlib.Path) -> Run:
    """The run that a reference.json describes."""
    document = json.loads((folder / "reference.json").read_text())
    return Run(**{field.name: document[field.name] for field in dataclasses.fields(Run) if field.name in document})


def nmse(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean-centred normalised mean squared error, in f64: sum((a - b)^2) / sum((b - mean(b))^2)."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).square().sum() / (reference - reference.mean()).square().sum())

"""Record what diffusers' schedulers do with a model that is a formula.

usage: make.py samplers

    ../fixtures/samplers/METHOD.json    a list of cases, see `record`

Each scheduler runs twice: as it is, with tables in f32, and as its source reads with every float32 replaced by
float64. The first bounds a coefficient to 1e-6, the second to 1e-12.
"""

import importlib
import itertools
import json
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "samplers"

CLASSES = {
    "ddim": ("scheduling_ddim", "DDIMScheduler"),
    "euler": ("scheduling_euler_discrete", "EulerDiscreteScheduler"),
    "euler_a": ("scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler"),
    "dpm++2m": ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler"),
    "pndm": ("scheduling_pndm", "PNDMScheduler"),
}

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
SD |= {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
ZERO_SNR = SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
# scheduler_config.json as SDXL ships it; SD-Turbo differs in the spacing, SDXL-Turbo in the class too
SDXL = SD | {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "num_train_timesteps": 1000}
SDXL |= {"prediction_type": "epsilon", "sample_max_value": 1.0, "timestep_spacing": "leading", "trained_betas": None}
SDXL |= {"use_karras_sigmas": False}
SD_TURBO = SDXL | {"timestep_spacing": "trailing"}
SDXL_TURBO = SD_TURBO | {"_class_name": "EulerAncestralDiscreteScheduler"}
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction")

# runs longer than this are recorded at every seventh step only
MAX_RECORDED_STEPS = 6

INITIAL_LATENT = torch.tensor([0.75, -0.5, 0.25], dtype=torch.float64)
INITIAL_NOISE = torch.tensor([-1.25, 0.5, 2.0], dtype=torch.float64)
ELEMENT = torch.arange(3)


def model_output(step: int, x: torch.Tensor, timestep: float) -> torch.Tensor:
    """A model that depends on everything it is given, in numbers that any language computes alike."""
    return ((7 * step + 3 * ELEMENT) % 11 - 5).double() / 5 + 0.25 * x + timestep / 2000


def step_noise(step: int) -> torch.Tensor:
    return ((5 * step + 2 * ELEMENT) % 7 - 3).double() / 2


def scheduler_module(name: str, is_f64: bool) -> types.ModuleType:
    """A scheduler's module of diffusers, as it is or in f64."""
    stock = importlib.import_module(f"diffusers.schedulers.{name}")
    if not is_f64:
        return stock
    module = types.ModuleType(stock.__name__ + "_f64")
    module.__package__ = stock.__package__
    module.__file__ = stock.__file__
    source = pathlib.Path(stock.__file__).read_text().replace("float32", "float64")
    exec(compile(source, stock.__file__, "exec"), module.__dict__)
    return module


def set_ancestral_karras(scheduler: Any, steps: int, is_f64: bool) -> None:
    """Give the ancestral scheduler, which has none, the Karras sigmas between the ends of its training schedule."""
    euler = scheduler_module(CLASSES["euler"][0], is_f64).EulerDiscreteScheduler()
    table = (((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5).numpy()
    sigmas = euler._convert_to_karras(in_sigmas=table[::-1], num_inference_steps=steps)
    timesteps = np.array([euler._sigma_to_t(sigma, np.log(table)) for sigma in sigmas])
    scheduler.sigmas = torch.from_numpy(np.append(sigmas, 0.0).astype(table.dtype))
    scheduler.timesteps = torch.from_numpy(timesteps.astype(table.dtype))


def run(method: str, config: dict[str, Any], request: dict[str, Any], is_f64: bool) -> tuple[list[float], list[list[float]]]:
    """Timesteps as the model sees them, and the first latent and those after each step."""
    torch.set_default_dtype(torch.float64 if is_f64 else torch.float32)
    module_name, class_name = CLASSES[method]
    module = scheduler_module(module_name, is_f64)
    steps, schedule, strength = request["steps"], request["schedule"], request["strength"]
    if schedule is not None and method != "euler_a":
        config = config | {"use_karras_sigmas": schedule == "karras"}
    scheduler = getattr(module, class_name).from_config({"_class_name": class_name} | config)
    scheduler.set_timesteps(steps)
    if method == "euler_a" and schedule == "karras":
        set_ancestral_karras(scheduler, steps, is_f64)

    skipped = 0 if strength is None else steps - min(int(steps * strength), steps)
    timesteps = scheduler.timesteps[skipped:]
    # without it a run whose first timestep comes twice begins at the second and overruns the table
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    if strength is None:
        # k-diffusion's Karras run starts from the largest sigma whatever the spacing
        is_karras_ancestral = method == "euler_a" and schedule == "karras"
        x = INITIAL_NOISE * float(scheduler.sigmas.max() if is_karras_ancestral else scheduler.init_noise_sigma)
    else:
        x = scheduler.add_noise(INITIAL_LATENT, INITIAL_NOISE, timesteps[:1])

    latents, seen = [x.tolist()], []
    for step, timestep in enumerate(timesteps):
        module.randn_tensor = lambda *_, **__: step_noise(step)
        scaled = scheduler.scale_model_input(x, timestep)
        seen.append(float(np.float32(timestep)))
        x = scheduler.step(model_output(step, scaled, seen[-1]), timestep, x).prev_sample
        latents.append(x.tolist())
    assert np.isfinite(latents).all(), (method, config, request)
    return seen, latents


def requests(steps: int, schedule: str | None = None, strength: float | None = None) -> dict[str, Any]:
    return {"steps": steps, "schedule": schedule, "strength": strength}


def cases(method: str, schedule: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Configuration and request of each case of a method and a schedule."""
    settings = itertools.cycle(itertools.product(PREDICTIONS, SPACINGS))
    for steps, (prediction, spacing) in zip((1, 2, 3, 5, 20, 50), settings):
        yield SD | {"prediction_type": prediction, "timestep_spacing": spacing}, requests(steps, schedule)
    for prediction, spacing in itertools.product(PREDICTIONS, SPACINGS):
        yield SD | {"prediction_type": prediction, "timestep_spacing": spacing}, requests(4, schedule)
    for steps in (7, 13):
        yield SD, requests(steps, schedule)
        yield SD | {"timestep_spacing": "trailing"}, requests(steps, schedule)
    yield {"skip_prk_steps": True}, requests(4, schedule)
    yield SD | {"set_alpha_to_one": True, "steps_offset": 3}, requests(4, schedule)
    yield SD | {"beta_schedule": "linear", "num_train_timesteps": 500}, requests(5, schedule)
    yield SD | {"beta_schedule": "squaredcos_cap_v2"}, requests(5, schedule)
    yield SD | {"trained_betas": [0.01 * i for i in range(1, 13)], "num_train_timesteps": 12}, requests(3, schedule)
    for strength in (0.2, 0.5, 1.0):
        yield SD, requests(5, schedule, strength)
    yield SD | {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, requests(20, schedule, 0.35)
    yield ZERO_SNR, requests(5, schedule)
    yield ZERO_SNR | {"set_alpha_to_one": True, "timestep_spacing": "linspace"}, requests(3, schedule)


def particular_cases(method: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What one method alone reads from a configuration."""
    match method:
        case "ddim":
            yield SD | {"clip_sample": True}, requests(4)
            yield SD | {"clip_sample": True, "clip_sample_range": 0.4, "prediction_type": "v_prediction"}, requests(4)
            yield SD | {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, requests(4)
        case "euler":
            yield SD | {"use_karras_sigmas": True}, requests(4)
            yield SD | {"use_karras_sigmas": True}, requests(4, "discrete")
            yield SD | {"sigma_min": 0.05, "sigma_max": 9.0}, requests(4, "karras")
            for schedule in ("discrete", "karras"):
                yield SD | {"final_sigmas_type": "sigma_min"}, requests(4, schedule)
                yield SD | {"interpolation_type": "log_linear"}, requests(4, schedule)
        case "euler_a":
            yield SD | {"use_karras_sigmas": True}, requests(4)
        case "dpm++2m":
            yield SD | {"use_karras_sigmas": True}, requests(4)
            yield SD | {"solver_order": 1}, requests(4)
            yield SD | {"solver_type": "heun"}, requests(5)
            yield SD | {"solver_type": "bh2"}, requests(4)
            for config in ({}, {"lower_order_final": False}, {"lower_order_final": False, "euler_at_final": True}):
                yield SD | {"final_sigmas_type": "sigma_min"} | config, requests(4)
            for steps in (14, 15):
                yield SD | {"final_sigmas_type": "sigma_min"}, requests(steps)
            yield SD | {"final_sigmas_type": "sigma_min"}, requests(16, "karras")
            yield SD | {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}, requests(6)
            yield SD | {"lambda_min_clipped": -1.5, "timestep_spacing": "trailing"}, requests(6)
            yield SD | {"lambda_min_clipped": -1.5, "timestep_spacing": "leading"}, requests(6)
        case "pndm":
            for steps in (4, 5, 20):
                yield SD | {"skip_prk_steps": False}, requests(steps)
            prk = SD | {"skip_prk_steps": False, "prediction_type": "v_prediction", "timestep_spacing": "linspace"}
            yield prk, requests(7)
            yield SD | {"skip_prk_steps": False}, requests(6, None, 0.5)


def shipped_cases(schedules: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The configurations of SDXL and the turbo models as they are, each method on them, in few steps."""
    for schedule in schedules:
        yield SDXL, requests(8, schedule)
        yield SDXL, requests(6, schedule, 0.6)
    for turbo in (SD_TURBO, SDXL_TURBO):
        for steps in (1, 4):
            yield turbo, requests(steps)
        yield turbo, requests(2, None, 0.5)
    # SDXL that predicts v, its betas to zero SNR, on SDXL's own spacing
    yield SDXL | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, requests(6)


def record(method: str, config: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """One case: `config`, `request`, the `steps` after which latents are recorded (0: before the first), `timesteps`
    of all steps, `latents` in f64, and `stock`, those of the scheduler as it is; null where f32 moves a timestep that
    is rounded to an integer."""
    timesteps, latents = run(method, config, request, is_f64=True)
    stock_timesteps, stock = run(method, config, request, is_f64=False)
    is_comparable = np.allclose(timesteps, stock_timesteps, rtol=0, atol=0.1)
    n = len(timesteps)
    steps = [step for step in range(n + 1) if n <= MAX_RECORDED_STEPS or step % 7 == 0 or step >= n - 1]
    return {
        "config": config,
        "request": request,
        "timesteps": timesteps,
        "steps": steps,
        "latents": [latents[step] for step in steps],
        "stock": [[float(f"{value:.9g}") for value in stock[step]] for step in steps] if is_comparable else None,
    }


def main() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for method in CLASSES:
        schedules = ("discrete",) if method in ("ddim", "pndm") else ("discrete", "karras")
        listed = itertools.chain(*(cases(method, schedule) for schedule in schedules), particular_cases(method), shipped_cases(schedules))
        lines = [json.dumps(record(method, *case)) for case in listed]
        (FIXTURES / f"{method}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()

"""Print what deliberate mistakes cost, measured on the fixtures: negative controls for the tolerances.

usage: make.py controls [NAME ...]

Each mistake is made in PyTorch in a pipeline of ../fixtures/pipelines, the recorded run is repeated, and the
mean-centred NMSE of the stage it must show in is printed. Last come three rows that are no mistakes: the same run
again, the run in f64, and the run with every layer's output and every weight rounded to f16, as an engine that stores
f16 and accumulates in f32 rounds them. A tolerance is sound between those and the mistakes.
"""

import contextlib
import copy
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models import embeddings
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from safetensors.torch import load_file
from torch.nn import functional
from transformers.models.clip import modeling_clip

import pipelines
import recording

REQUIRED = 1e-8  # what each mistake must cost on at least one fixture
EPSILON_FACTOR = 10.0

Mutate = Callable[[StableDiffusionPipeline], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """`stage`: what must move: `last latent` is the one with the highest index, `decoded` the image from the recorded one.

    `variants` gives the ways to make the mistake in a pipeline: one for each attention that can be removed, else one.
    """

    name: str
    stage: str
    variants: Callable[[StableDiffusionPipeline], list[Mutate]]


def modules_of(model: torch.nn.Module, kind: type | tuple[type, ...], under: str = "") -> list[torch.nn.Module]:
    """Every module of `kind` whose path starts with `under`."""
    return [module for path, module in model.named_modules() if isinstance(module, kind) and path.startswith(under)]


@contextlib.contextmanager
def changed(owners: list[object], attribute: str, change: Callable[[object], object]) -> Iterator[None]:
    """Set `attribute` of each owner to `change(old value)` while the context lasts."""
    with contextlib.ExitStack() as stack:
        for owner in owners:
            stack.enter_context(mock.patch.object(owner, attribute, change(getattr(owner, attribute))))
        yield


@contextlib.contextmanager
def silenced(layer: torch.nn.Linear) -> Iterator[None]:
    """Make a projection give zeros."""
    hook = layer.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    yield
    hook.remove()


def without_each(model: str, kind: type, projection: Callable[[torch.nn.Module], torch.nn.Linear], under: str = "") -> Callable:
    """One variant for each attention of `kind`: that one removed."""

    def variants(pipeline: StableDiffusionPipeline) -> list[Mutate]:
        n_modules = len(modules_of(getattr(pipeline, model), kind, under))
        return [
            lambda pipe, module_idx=module_idx: silenced(projection(modules_of(getattr(pipe, model), kind, under)[module_idx]))
            for module_idx in range(n_modules)
        ]

    return variants


def epsilon(select: Callable[[StableDiffusionPipeline], list[torch.nn.Module]]) -> Callable:
    """Every selected norm's epsilon ten times too large."""
    return lambda pipeline: [lambda pipe: changed(select(pipe), "eps", lambda eps: eps * EPSILON_FACTOR)] if select(pipeline) else []


def resnet_norms(model: torch.nn.Module, under: str = "") -> list[torch.nn.Module]:
    """The group norms of the resnets."""
    return [norm for resnet in modules_of(model, ResnetBlock2D, under) for norm in (resnet.norm1, resnet.norm2)]


def clip_activations(pipeline: StableDiffusionPipeline, kind: str) -> list[torch.nn.Module]:
    """The MLPs of CLIP if its activation is `kind`."""
    encoder = pipeline.text_encoder
    return modules_of(encoder, modeling_clip.CLIPMLP) if encoder.config.hidden_act == kind else []


def clip_activation(kind: str, wrong: torch.nn.Module) -> Callable:
    """`wrong` in place of CLIP's activation where that is `kind`."""
    return lambda pipeline: (
        [lambda pipe: changed(clip_activations(pipe, kind), "activation_fn", lambda _: wrong)] if clip_activations(pipeline, kind) else []
    )


def swapped_geglu(layer: GEGLU, hidden: torch.Tensor) -> torch.Tensor:
    """GEGLU with the gate in the first half."""
    gate, value = layer.proj(hidden).chunk(2, dim=-1)
    return value * functional.gelu(gate)


def full_mask(inputs_embeds: torch.Tensor, **_: object) -> torch.Tensor:
    """An attention mask that hides nothing, in place of the causal one."""
    n_positions = inputs_embeds.shape[1]
    return torch.zeros(1, 1, n_positions, n_positions, dtype=inputs_embeds.dtype)


MISTAKES = [
    Mistake("UNet: one attention removed", "last latent", without_each("unet", Attention, lambda module: module.to_out[0])),
    Mistake(
        "UNet: tanh for erf GELU",
        "last latent",
        lambda _: [lambda __: mock.patch.object(GEGLU, "gelu", lambda ___, gate: functional.gelu(gate, approximate="tanh"))],
    ),
    Mistake("UNet: swapped GEGLU halves", "last latent", lambda _: [lambda __: mock.patch.object(GEGLU, "forward", swapped_geglu)]),
    Mistake("UNet: eps x10, resnets", "last latent", epsilon(lambda pipe: resnet_norms(pipe.unet))),
    Mistake(
        "UNet: eps x10, transformers' group norm",
        "last latent",
        epsilon(lambda pipe: [module.norm for module in modules_of(pipe.unet, Transformer2DModel)]),
    ),
    Mistake("UNet: eps x10, layer norms", "last latent", epsilon(lambda pipe: modules_of(pipe.unet, torch.nn.LayerNorm))),
    Mistake("UNet: eps x10, conv_norm_out", "last latent", epsilon(lambda pipe: [pipe.unet.conv_norm_out])),
    Mistake("CLIP: one attention removed", "context", without_each("text_encoder", modeling_clip.CLIPAttention, lambda module: module.out_proj)),
    Mistake("CLIP: no causal mask", "context", lambda _: [lambda __: mock.patch.object(modeling_clip, "create_causal_mask", full_mask)]),
    Mistake("CLIP: tanh for erf GELU", "context", clip_activation("gelu", torch.nn.GELU(approximate="tanh"))),
    Mistake("CLIP: erf for quick GELU", "context", clip_activation("quick_gelu", torch.nn.GELU())),
    Mistake("CLIP: eps x10", "context", epsilon(lambda pipe: modules_of(pipe.text_encoder, torch.nn.LayerNorm))),
    Mistake("VAE decoder: attention removed", "decoded", without_each("vae", Attention, lambda module: module.to_out[0], "decoder")),
    Mistake("VAE decoder: eps x10, resnets", "decoded", epsilon(lambda pipe: resnet_norms(pipe.vae.decoder))),
    Mistake(
        "VAE decoder: eps x10, attention",
        "decoded",
        epsilon(lambda pipe: [module.group_norm for module in modules_of(pipe.vae, Attention, "decoder")]),
    ),
    Mistake("VAE decoder: eps x10, conv_norm_out", "decoded", epsilon(lambda pipe: [pipe.vae.decoder.conv_norm_out])),
    Mistake("VAE encoder: attention removed", "encoded", without_each("vae", Attention, lambda module: module.to_out[0], "encoder")),
    Mistake("VAE encoder: eps x10, resnets", "encoded", epsilon(lambda pipe: resnet_norms(pipe.vae.encoder))),
    Mistake(
        "VAE encoder: eps x10, attention",
        "encoded",
        epsilon(lambda pipe: [module.group_norm for module in modules_of(pipe.vae, Attention, "encoder")]),
    ),
    Mistake("VAE encoder: eps x10, conv_norm_out", "encoded", epsilon(lambda pipe: [pipe.vae.encoder.conv_norm_out])),
]


@contextlib.contextmanager
def stored_as_f16(pipeline: StableDiffusionPipeline) -> Iterator[None]:
    """Round the output of every layer, attention and block to f16."""
    kinds = (
        torch.nn.Linear,
        torch.nn.Conv2d,
        torch.nn.GroupNorm,
        torch.nn.LayerNorm,
        torch.nn.SiLU,
        torch.nn.Embedding,
        GEGLU,
        Attention,
        ResnetBlock2D,
        BasicTransformerBlock,
        modeling_clip.CLIPMLP,
        modeling_clip.CLIPEncoderLayer,
    )

    def to_f16(_: torch.nn.Module, __: object, output: object) -> object:
        return output.half().float() if isinstance(output, torch.Tensor) else output

    models = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    hooks = [module.register_forward_hook(to_f16) for model in models for module in modules_of(model, kinds)]
    yield
    for hook in hooks:
        hook.remove()


def rounded_weights(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A copy with the weights rounded to f16."""
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items() if name in ("unet", "vae", "text_encoder")}
    made = StableDiffusionPipeline(**{**pipeline.components, **parts}, requires_safety_checker=False)
    for part in parts.values():
        part.half().float()
    return made


def exact_timestep_embedding(
    timesteps: torch.Tensor, embedding_dim: int, flip_sin_to_cos: bool, downscale_freq_shift: float, scale: float = 1
) -> torch.Tensor:
    """diffusers' get_timestep_embedding in f64, for even `embedding_dim`; [N] -> [N, embedding_dim]."""
    half = embedding_dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift))
    angles = scale * timesteps.double()[:, None] * frequencies
    parts = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    return torch.cat(parts, dim=-1)


def stage(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor | None:
    """The recorded tensor of a stage; None where the run has none."""
    if name == "last latent":
        return tensors[f"latent.{sum(key.startswith('latent.') for key in tensors) - 1}"]
    return tensors.get(name)


STAGES = ("context", "encoded", "last latent", "image", "decoded")


class Fixture:
    """One recorded run and the pipeline it was recorded from."""

    def __init__(self, name: str, run_name: str) -> None:
        self.model = pipelines.FIXTURES / name / "model"
        self.folder = pipelines.FIXTURES / name / run_name
        self.variant = pipelines.PIPELINES[name].storage.variant
        self.run = recording.read_run(self.folder)
        self.recorded = load_file(self.folder / "reference.safetensors")
        self.pipeline = recording.load(self.model, variant=self.variant)

    def repeat(self, pipeline: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
        """Run again, on `pipeline`; `decoded` is the image from the recorded last latent, which shows the VAE alone."""
        tensors = recording.record(pipeline, self.model, self.folder, self.run)
        last = stage(self.recorded, "last latent").to(pipeline.dtype)
        with torch.no_grad():
            decoded = pipeline.vae.decode(last / pipeline.vae.config.scaling_factor).sample[0]
        return {**tensors, "decoded": (decoded / 2 + 0.5).clamp(0, 1)}

    def reference(self, name: str) -> torch.Tensor | None:
        """What a stage is compared with."""
        return stage(self.recorded, "image" if name == "decoded" else name)

    def cost(self, mistake: Mistake) -> float | None:
        """The smallest NMSE among the mistake's variants; None where it cannot be made or its stage was not recorded."""
        reference = self.reference(mistake.stage)
        costs = []
        if reference is not None:
            for mutate in mistake.variants(self.pipeline):
                with mutate(self.pipeline):
                    costs.append(recording.nmse(stage(self.repeat(self.pipeline), mistake.stage), reference))
        return min(costs, default=None)

    def rounding(self) -> dict[tuple[str, str], float]:
        """(row, stage) -> NMSE of the runs that are no mistakes."""
        repeats = {"same run again": self.repeat(self.pipeline)}
        double = recording.load(self.model, torch.float64, self.variant)
        with mock.patch.object(embeddings, "get_timestep_embedding", exact_timestep_embedding):
            repeats["f64"] = self.repeat(double)
        half = rounded_weights(self.pipeline)
        with stored_as_f16(half):
            repeats["f16 storage"] = self.repeat(half)
        return {
            (row, name): recording.nmse(stage(tensors, name), reference)
            for row, tensors in repeats.items()
            for name in STAGES
            if (reference := self.reference(name)) is not None
        }


def fixtures(names: list[str]) -> list[Fixture]:
    """Every recorded run of the named pipelines."""
    return [Fixture(name, run_name) for name in names for run_name in pipelines.PIPELINES[name].runs]


def main() -> int:
    recording.deterministic()
    chosen = fixtures(sys.argv[1:] or list(pipelines.PIPELINES))
    weak = []
    print("| mistake | stage | smallest NMSE | in | largest NMSE | runs above 1e-8 |")
    print("|---|---|---|---|---|---|")
    for mistake in MISTAKES:
        costs = {f"{run.folder.parent.name}/{run.folder.name}": cost for run in chosen if (cost := run.cost(mistake)) is not None}
        if not costs:
            weak += [] if sys.argv[1:] else [mistake.name]
            continue
        least = min(costs, key=costs.get)
        n_above = sum(cost > REQUIRED for cost in costs.values())
        weak += [mistake.name] if n_above == 0 else []
        print(
            f"| {mistake.name} | {mistake.stage} | {costs[least]:.1e} | {least} | {max(costs.values()):.1e} | {n_above} of {len(costs)} |",
            flush=True,
        )
    print("\n| no mistake | stage | largest NMSE | in |")
    print("|---|---|---|---|")
    rounding = {f"{run.folder.parent.name}/{run.folder.name}": run.rounding() for run in chosen}
    for row in ("same run again", "f64", "f16 storage"):
        for name in STAGES:
            values = {run: costs[row, name] for run, costs in rounding.items() if (row, name) in costs}
            if values:
                most = max(values, key=values.get)
                print(f"| {row} | {name} | {values[most]:.1e} | {most} |")
    if weak:
        print(f"\nno fixture shows: {', '.join(weak)}", file=sys.stderr)
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())

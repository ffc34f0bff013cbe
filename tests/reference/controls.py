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
from diffusers import DiffusionPipeline
from diffusers.models import embeddings
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl, pipeline_stable_diffusion_xl_img2img
from safetensors.torch import load_file
from torch.nn import functional
from transformers.models.clip import modeling_clip

import pipelines
import recording
import tiny

REQUIRED = 1e-8  # what each mistake must cost on at least one fixture
EPSILON_FACTOR = 10.0

Mutate = Callable[[DiffusionPipeline], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """`stage`: what must move: `last latent` is the one with the highest index, `decoded` the image from the recorded one.

    `variants` gives the ways to make the mistake in a pipeline: one for each attention that can be removed, else one. `applies`: whether it is a mistake in a run at all.
    """

    name: str
    stage: str
    variants: Callable[[DiffusionPipeline], list[Mutate]]
    applies: Callable[[recording.Run], bool] = lambda _: True


def networks(pipeline: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    """The UNet, the VAE and the text encoders by their names in the folder."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


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


def text_encoders(pipeline: DiffusionPipeline) -> list[torch.nn.Module]:
    """The text encoders in the order of the context."""
    return [part for name, part in sorted(networks(pipeline).items()) if name.startswith("text_encoder")]


def attentions(model: str, under: str = "") -> Callable[[DiffusionPipeline], list[torch.nn.Linear]]:
    """The output projections of the attentions in the UNet or VAE."""
    return lambda pipeline: [module.to_out[0] for module in modules_of(getattr(pipeline, model), Attention, under)]


def text_attentions(pipeline: DiffusionPipeline) -> list[torch.nn.Linear]:
    """The output projections of the attentions that the context comes from; SDXL leaves each encoder's last one out."""
    layers = [modules_of(encoder, modeling_clip.CLIPAttention) for encoder in text_encoders(pipeline)]
    return [layer.out_proj for listed in layers for layer in (listed[:-1] if isinstance(pipeline, recording.XL) else listed)]


def without_each(projections: Callable[[DiffusionPipeline], list[torch.nn.Linear]]) -> Callable:
    """One variant for each attention, by its output projection: that one removed."""
    return lambda pipeline: [
        lambda pipe, attention_idx=attention_idx: silenced(projections(pipe)[attention_idx])
        for attention_idx in range(len(projections(pipeline)))
    ]


def epsilon(select: Callable[[DiffusionPipeline], list[torch.nn.Module]]) -> Callable:
    """Every selected norm's epsilon ten times too large."""
    return lambda pipeline: [lambda pipe: changed(select(pipe), "eps", lambda eps: eps * EPSILON_FACTOR)] if select(pipeline) else []


def resnet_norms(model: torch.nn.Module, under: str = "") -> list[torch.nn.Module]:
    """The group norms of the resnets."""
    return [norm for resnet in modules_of(model, ResnetBlock2D, under) for norm in (resnet.norm1, resnet.norm2)]


def clip_activations(pipeline: DiffusionPipeline, kind: str) -> list[torch.nn.Module]:
    """The MLPs of the text encoders whose activation is `kind`."""
    chosen = [encoder for encoder in text_encoders(pipeline) if encoder.config.hidden_act == kind]
    return [module for encoder in chosen for module in modules_of(encoder, modeling_clip.CLIPMLP)]


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


def in_xl(mutate: Mutate, needs: str = "text_encoder_2") -> Callable:
    """`mutate` where the pipeline is SDXL's and has the part `needs`."""
    return lambda pipeline: [mutate] if isinstance(pipeline, recording.XL) and getattr(pipeline, needs, None) is not None else []


@contextlib.contextmanager
def encoding(change: Callable[..., tuple]) -> Iterator[None]:
    """`change(encode_prompt, pipeline, **arguments)` in place of SDXL's encode_prompt."""
    with contextlib.ExitStack() as stack:
        for kind in recording.XL:
            stock = kind.encode_prompt
            wrong = lambda pipe, stock=stock, **arguments: change(stock, pipe, **arguments)  # noqa: E731
            stack.enter_context(mock.patch.object(kind, "encode_prompt", wrong))
        yield


def swapped_encoders(encode: Callable[..., tuple], pipe: DiffusionPipeline, **arguments: object) -> tuple:
    """The second encoder's hidden states before the first's."""
    prompt, negative, *pooled = encode(pipe, **arguments)
    if pipe.text_encoder is None:
        return prompt, negative, *pooled
    width = pipe.text_encoder.config.hidden_size
    prompt, negative = (context if context is None else torch.roll(context, -width, dims=-1) for context in (prompt, negative))
    return prompt, negative, *pooled


def encoded_negative(encode: Callable[..., tuple], pipe: DiffusionPipeline, **arguments: object) -> tuple:
    """The empty prompt encoded where there is no negative prompt."""
    return encode(pipe, **{**arguments, "negative_prompt": arguments["negative_prompt"] or ""})


@contextlib.contextmanager
def hooked(modules: list[torch.nn.Module], hook: Callable[..., object]) -> Iterator[None]:
    """A forward hook on each module."""
    hooks = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    yield
    for registered in hooks:
        registered.remove()


def last_layer(_: torch.nn.Module, __: tuple, ___: dict, output: object) -> object:
    """The last layer's hidden states in place of the last but one's."""
    output["hidden_states"] = (*output.hidden_states[:-2], output.hidden_states[-1], output.hidden_states[-1])
    return output


def pooled_from(place: Callable[[torch.Tensor], torch.Tensor], normed: bool = True) -> Callable[..., object]:
    """A hook for the second encoder: the pooled output is taken at `place(position of the first end token)`."""

    def hook(encoder: torch.nn.Module, inputs: tuple, _: dict, output: object) -> object:
        hidden = output.last_hidden_state if normed else output.hidden_states[-1]
        position = place(inputs[0].argmax(dim=-1))
        output["text_embeds"] = encoder.text_projection(hidden[torch.arange(len(hidden)), position])
        return output

    return hook


def pooled_mistake(place: Callable[[torch.Tensor], torch.Tensor], normed: bool = True) -> Callable:
    """`pooled_from` where there is a second encoder."""
    return in_xl(lambda pipe: hooked([pipe.text_encoder_2], pooled_from(place, normed)))


@contextlib.contextmanager
def time_ids(pipeline: DiffusionPipeline, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """The UNet gets `change(time_ids)`."""

    def hook(_: torch.nn.Module, inputs: tuple, arguments: dict) -> tuple[tuple, dict]:
        added = arguments["added_cond_kwargs"]
        return inputs, {**arguments, "added_cond_kwargs": {**added, "time_ids": change(added["time_ids"])}}

    registered = pipeline.unet.register_forward_pre_hook(hook, with_kwargs=True)
    yield
    registered.remove()


def width_first(ids: torch.Tensor) -> torch.Tensor:
    """Every (height, width) and (top, left) the other way round."""
    return ids[:, [1, 0, 3, 2, 5, 4] if ids.shape[1] == 6 else [1, 0, 3, 2, 4]]


@contextlib.contextmanager
def second_padding(pipeline: DiffusionPipeline) -> Iterator[None]:
    """The second tokenizer pads as the first does."""
    stock = pipeline.tokenizer_2.pad_token
    pipeline.tokenizer_2.pad_token = tiny.END
    yield
    pipeline.tokenizer_2.pad_token = stock


@contextlib.contextmanager
def without_rescale() -> Iterator[None]:
    """Guidance leaves the standard deviation as it comes."""
    with contextlib.ExitStack() as stack:
        for module in (pipeline_stable_diffusion, pipeline_stable_diffusion_xl, pipeline_stable_diffusion_xl_img2img):
            stack.enter_context(mock.patch.object(module, "rescale_noise_cfg", lambda guided, *_, **__: guided))
        yield


def is_guided(run: recording.Run) -> bool:
    """Whether the run has guidance."""
    return run.cfg_scale > 1


MISTAKES = [
    Mistake("UNet: one attention removed", "last latent", without_each(attentions("unet"))),
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
    Mistake("CLIP: one attention removed", "context", without_each(text_attentions)),
    Mistake("CLIP: no causal mask", "context", lambda _: [lambda __: mock.patch.object(modeling_clip, "create_causal_mask", full_mask)]),
    Mistake("CLIP: tanh for erf GELU", "context", clip_activation("gelu", torch.nn.GELU(approximate="tanh"))),
    Mistake("CLIP: erf for quick GELU", "context", clip_activation("quick_gelu", torch.nn.GELU())),
    Mistake("CLIP: eps x10", "context", epsilon(lambda pipe: [norm for encoder in text_encoders(pipe) for norm in modules_of(encoder, torch.nn.LayerNorm)])),
    Mistake("guidance_rescale ignored", "last latent", lambda _: [lambda __: without_rescale()], lambda run: bool(run.guidance_rescale)),
    Mistake("SDXL: encoders swapped", "context", in_xl(lambda _: encoding(swapped_encoders), "text_encoder")),
    Mistake("SDXL: last for last but one layer", "context", in_xl(lambda pipe: hooked(text_encoders(pipe), last_layer))),
    Mistake("SDXL: second tokenizer pads with the end token", "context", in_xl(second_padding)),
    Mistake(
        "SDXL: no negative prompt encoded, not zeros",
        "context",
        lambda pipeline: in_xl(lambda _: encoding(encoded_negative))(pipeline) if pipeline.config.get("force_zeros_for_empty_prompt") else [],
        lambda run: is_guided(run) and run.negative_prompt is None,
    ),
    Mistake("SDXL: pooled at the last position", "pooled", pooled_mistake(lambda end: torch.full_like(end, -1))),
    Mistake("SDXL: pooled before the end token", "pooled", pooled_mistake(lambda end: end - 1)),
    Mistake("SDXL: pooled without the final norm", "pooled", pooled_mistake(lambda end: end, normed=False)),
    Mistake(
        "SDXL: last attention of the second encoder removed",
        "pooled",
        in_xl(lambda pipe: silenced(modules_of(pipe.text_encoder_2, modeling_clip.CLIPAttention)[-1].out_proj)),
    ),
    Mistake("SDXL: no added embedding", "last latent", in_xl(lambda pipe: silenced(pipe.unet.add_embedding))),
    Mistake("SDXL: time ids, width before height", "last latent", in_xl(lambda pipe: time_ids(pipe, width_first))),
    Mistake(
        "SDXL: time ids, target before original",
        "last latent",
        in_xl(lambda pipe: time_ids(pipe, lambda ids: ids[:, [4, 5, 2, 3, 0, 1]]), "text_encoder"),
        lambda run: run.original_size != run.target_size,
    ),
    Mistake(
        "SDXL: time ids, crop before original",
        "last latent",
        in_xl(lambda pipe: time_ids(pipe, lambda ids: ids[:, [2, 3, 0, 1, *range(4, ids.shape[1])]])),
    ),
    Mistake(
        "SDXL refiner: aesthetic scores swapped",
        "last latent",
        lambda pipeline: in_xl(lambda pipe: time_ids(pipe, lambda ids: ids.flip(0)))(pipeline) if pipeline.config.get("requires_aesthetics_score") else [],
        is_guided,
    ),
    Mistake("VAE decoder: attention removed", "decoded", without_each(attentions("vae", "decoder"))),
    Mistake("VAE decoder: eps x10, resnets", "decoded", epsilon(lambda pipe: resnet_norms(pipe.vae.decoder))),
    Mistake(
        "VAE decoder: eps x10, attention",
        "decoded",
        epsilon(lambda pipe: [module.group_norm for module in modules_of(pipe.vae, Attention, "decoder")]),
    ),
    Mistake("VAE decoder: eps x10, conv_norm_out", "decoded", epsilon(lambda pipe: [pipe.vae.decoder.conv_norm_out])),
    Mistake("VAE encoder: attention removed", "encoded", without_each(attentions("vae", "encoder"))),
    Mistake("VAE encoder: eps x10, resnets", "encoded", epsilon(lambda pipe: resnet_norms(pipe.vae.encoder))),
    Mistake(
        "VAE encoder: eps x10, attention",
        "encoded",
        epsilon(lambda pipe: [module.group_norm for module in modules_of(pipe.vae, Attention, "encoder")]),
    ),
    Mistake("VAE encoder: eps x10, conv_norm_out", "encoded", epsilon(lambda pipe: [pipe.vae.encoder.conv_norm_out])),
]


@contextlib.contextmanager
def stored_as_f16(pipeline: DiffusionPipeline) -> Iterator[None]:
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

    hooks = [module.register_forward_hook(to_f16) for model in networks(pipeline).values() for module in modules_of(model, kinds)]
    yield
    for hook in hooks:
        hook.remove()


def rounded_weights(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """A copy with the weights rounded to f16."""
    made = copy.deepcopy(pipeline)
    for network in networks(made).values():
        network.half().float()
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


STAGES = ("context", "pooled", "encoded", "last latent", "image", "decoded")


class Fixture:
    """One recorded run and the pipeline it was recorded from."""

    def __init__(self, name: str, run_name: str) -> None:
        self.model = pipelines.FIXTURES / name / "model"
        self.folder = pipelines.FIXTURES / name / run_name
        self.variant = tiny.PIPELINES[name].storage.variant
        self.run = recording.read_run(self.folder)
        self.recorded = load_file(self.folder / "reference.safetensors")
        self.pipeline, self.refiner = self.load(torch.float32)

    def load(self, dtype: torch.dtype) -> tuple[DiffusionPipeline, DiffusionPipeline | None]:
        """The run's pipeline and its refiner."""
        return recording.load_for(self.run, self.folder, self.model, dtype, self.variant)

    def repeat(self, pipeline: DiffusionPipeline, refiner: DiffusionPipeline | None) -> dict[str, torch.Tensor]:
        """Run again, on `pipeline`; `decoded` is the image from the recorded last latent, which shows the VAE alone."""
        tensors = recording.record(pipeline, self.model, self.folder, self.run, refiner)
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
        if reference is not None and mistake.applies(self.run):
            for mutate in mistake.variants(self.pipeline):
                with mutate(self.pipeline):
                    costs.append(recording.nmse(stage(self.repeat(self.pipeline, self.refiner), mistake.stage), reference))
        return min(costs, default=None)

    def rounding(self) -> dict[tuple[str, str], float]:
        """(row, stage) -> NMSE of the runs that are no mistakes."""
        repeats = {"same run again": self.repeat(self.pipeline, self.refiner)}
        double = self.load(torch.float64)
        for pipeline in filter(None, double):
            # image-to-image would encode in f32
            pipeline.vae.register_to_config(force_upcast=False)
        with mock.patch.object(embeddings, "get_timestep_embedding", exact_timestep_embedding):
            repeats["f64"] = self.repeat(*double)
        half = [pipeline and rounded_weights(pipeline) for pipeline in (self.pipeline, self.refiner)]
        with contextlib.ExitStack() as stack:
            for pipeline in filter(None, half):
                stack.enter_context(stored_as_f16(pipeline))
            repeats["f16 storage"] = self.repeat(*half)
        return {
            (row, name): recording.nmse(stage(tensors, name), reference)
            for row, tensors in repeats.items()
            for name in STAGES
            if (reference := self.reference(name)) is not None
        }


def fixtures(names: list[str]) -> list[Fixture]:
    """Every recorded run of the named pipelines."""
    return [Fixture(name, run_name) for name in names for run_name in tiny.PIPELINES[name].runs]


def main() -> int:
    recording.deterministic()
    chosen = fixtures(sys.argv[1:] or list(tiny.PIPELINES))
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

"""Record single operations of torch.nn.functional for `photogram validate --cases`.

usage: make.py cases

    ../fixtures/cases/torch.json           a list of {"name", "op", "attributes", "inputs", "outputs"}
    ../fixtures/cases/torch.safetensors    their tensors

Results are computed in f64 and rounded once; f16 operands are rounded first. What photogram does not express has to be skipped, with
a reason.
"""

import json
import pathlib
from typing import Any

import torch
from safetensors.torch import save_file

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "cases"


class Recorder:
    """Cases and tensors so far."""

    def __init__(self) -> None:
        self.cases: list[dict[str, Any]] = []
        self.tensors: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(7)

    def noise(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return (torch.randn(*shape, generator=self.generator) * scale).to(dtype)

    def record(self, name: str, op: str, inputs: dict[str, Any], **attributes: Any) -> None:
        """Compute `op` on `inputs`, tensors or lists of them by the parameters' names, and note both."""
        wide = {key: self.wide(value) for key, value in inputs.items()}
        function = getattr(torch.nn.functional, op, None) or getattr(torch, {"concat": "cat"}.get(op, op))
        dtypes = [value.dtype for value in inputs.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
        result = function(**wide, **attributes).to(dtypes[0] if dtypes else torch.float32)
        names = {key: self.keep(f"{name}.{key}", value) for key, value in inputs.items()}
        output = self.keep(f"{name}.output", result)
        self.cases.append({"name": name, "op": op, "attributes": attributes, "inputs": names, "outputs": [output]})

    @staticmethod
    def wide(value: Any) -> Any:
        if isinstance(value, list):
            return [item.double() for item in value]
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def keep(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            return [self.keep(f"{name}.{number}", item) for number, item in enumerate(value)]
        self.tensors[name] = value.contiguous()
        return name


def record(to: Recorder) -> None:
    """Every function in the ways that models use it, and some calls that photogram does not express."""
    n, half = to.noise, torch.float16
    to.record("linear", "linear", {"input": n(2, 7, 33), "weight": n(65, 33, scale=0.2), "bias": n(65)})
    to.record("linear without a bias", "linear", {"input": n(12), "weight": n(5, 12), "bias": None})
    to.record("linear in f16", "linear", {"input": n(9, 40, dtype=half), "weight": n(24, 40, scale=0.2, dtype=half), "bias": None})
    to.record("matmul", "matmul", {"input": n(17, 30), "other": n(30, 41)})
    to.record("batched matmul", "matmul", {"input": n(3, 2, 9, 13), "other": n(3, 2, 13, 6)})
    to.record("conv2d", "conv2d", {"input": n(2, 5, 9, 11), "weight": n(7, 5, 3, 3, scale=0.2), "bias": n(7)}, stride=1, padding=1)
    to.record("strided conv2d", "conv2d", {"input": n(1, 8, 12, 9), "weight": n(16, 8, 3, 3, scale=0.2), "bias": None}, stride=[2, 1], padding=[1, 0])
    to.record("same conv2d", "conv2d", {"input": n(1, 4, 6, 7), "weight": n(4, 4, 2, 4), "bias": None}, padding="same")
    to.record("pointwise conv2d", "conv2d", {"input": n(2, 6, 5, 4), "weight": n(9, 6, 1, 1), "bias": n(9)})
    to.record("dilated conv2d", "conv2d", {"input": n(1, 4, 9, 9), "weight": n(4, 4, 3, 3), "bias": None}, dilation=2)
    to.record("same dilated conv2d", "conv2d", {"input": n(1, 3, 9, 8), "weight": n(4, 3, 2, 3), "bias": n(4)}, padding="same", dilation=[3, 2])
    to.record("grouped conv2d", "conv2d", {"input": n(1, 4, 9, 9), "weight": n(4, 2, 3, 3), "bias": None}, groups=2)
    to.record("depthwise conv2d", "conv2d", {"input": n(2, 6, 7, 5), "weight": n(12, 1, 3, 3), "bias": n(12)}, groups=6, padding=1)
    to.record("group_norm", "group_norm", {"input": n(2, 12, 5, 6, scale=3) + 2, "weight": n(12), "bias": n(12)}, num_groups=4, eps=1e-6)
    to.record("group_norm of tokens", "group_norm", {"input": n(2, 8, 21), "weight": None, "bias": None}, num_groups=2)
    to.record("layer_norm", "layer_norm", {"input": n(3, 5, 70) - 4, "weight": n(70), "bias": n(70)}, normalized_shape=[70], eps=1e-5)
    to.record("layer_norm of two dimensions", "layer_norm", {"input": n(3, 5, 7), "weight": None, "bias": None}, normalized_shape=[5, 7])
    to.record("rms_norm", "rms_norm", {"input": n(4, 66), "weight": n(66)}, normalized_shape=[66], eps=1e-6)
    to.record("rms_norm without a weight", "rms_norm", {"input": n(4, 9), "weight": None}, normalized_shape=[9])
    qkv = lambda *shape: {name: n(*shape) for name in ("query", "key", "value")}  # noqa: E731
    to.record("attention", "scaled_dot_product_attention", qkv(2, 3, 33, 40))
    to.record("causal attention", "scaled_dot_product_attention", qkv(1, 2, 77, 16), is_causal=True, scale=0.2)
    cross = {"query": n(1, 2, 9, 10), "key": n(1, 2, 31, 10), "value": n(1, 2, 31, 10)}
    to.record("cross attention", "scaled_dot_product_attention", cross)
    grouped = {"query": n(1, 6, 12, 8), "key": n(1, 2, 20, 8), "value": n(1, 2, 20, 8)}
    to.record("grouped attention", "scaled_dot_product_attention", grouped, enable_gqa=True)
    mask = torch.rand(1, 1, 33, 33, generator=to.generator) > 0.4
    mask[..., 0] = True
    to.record("attention behind a mask", "scaled_dot_product_attention", qkv(2, 3, 33, 12) | {"attn_mask": mask})
    to.record("attention with a bias", "scaled_dot_product_attention", qkv(2, 3, 9, 12) | {"attn_mask": n(2, 3, 9, 9)})
    to.record("softmax", "softmax", {"input": n(3, 9)}, dim=-1)
    to.record("softmax of a middle dimension", "softmax", {"input": n(2, 77, 5, scale=4)}, dim=1)
    to.record("softmax in f16", "softmax", {"input": n(7, 130, dtype=half)}, dim=-1)
    for op in ("silu", "relu", "sigmoid", "tanh"):
        to.record(op, op, {"input": n(5, 37, scale=3)})
    to.record("gelu", "gelu", {"input": n(5, 37, scale=3)})
    to.record("gelu by tanh", "gelu", {"input": n(5, 37, scale=3)}, approximate="tanh")
    to.record("silu in f16", "silu", {"input": n(5, 37, scale=3, dtype=half)})
    to.record("leaky_relu", "leaky_relu", {"input": n(5, 7)}, negative_slope=0.2)
    to.record("leaky_relu in f16", "leaky_relu", {"input": n(3, 50, dtype=half)})
    to.record("interpolate", "interpolate", {"input": n(2, 3, 4, 5)}, scale_factor=2.0, mode="nearest")
    to.record("interpolate to a size", "interpolate", {"input": n(1, 3, 4, 5)}, size=[7, 13], mode="nearest")
    to.record("interpolate by factors", "interpolate", {"input": n(1, 2, 4, 6)}, scale_factor=[3.0, 1.5], mode="nearest")
    to.record("bilinear interpolate", "interpolate", {"input": n(1, 3, 4, 5)}, scale_factor=2.0, mode="bilinear")
    to.record("bilinear interpolate of corners", "interpolate", {"input": n(2, 3, 6, 7)}, size=[9, 4], mode="bilinear", align_corners=True)
    to.record("bilinear interpolate to less", "interpolate", {"input": n(1, 2, 9, 10)}, scale_factor=[0.4, 0.7], mode="bilinear")
    to.record("bilinear interpolate in f16", "interpolate", {"input": n(1, 3, 5, 4, dtype=half)}, size=[8, 11], mode="bilinear")
    to.record("bicubic interpolate", "interpolate", {"input": n(1, 3, 4, 5)}, scale_factor=2.0, mode="bicubic")
    to.record("pixel_shuffle", "pixel_shuffle", {"input": n(1, 8, 3, 4)}, upscale_factor=2)
    to.record("pixel_shuffle by three", "pixel_shuffle", {"input": n(2, 18, 2, 5, dtype=half)}, upscale_factor=3)
    to.record("pad", "pad", {"input": n(1, 2, 3, 4)}, pad=[1, 1, 2, 0])
    to.record("pad with a value and less than nothing", "pad", {"input": n(2, 5, 6)}, pad=[-1, 2, 3, -2], value=0.5)
    to.record("reflecting pad", "pad", {"input": n(1, 2, 5, 6)}, pad=[3, 2, 1, 4], mode="reflect")
    to.record("replicating pad", "pad", {"input": n(1, 2, 5, 6)}, pad=[3, 2, 1, 0], mode="replicate")
    to.record("circular pad", "pad", {"input": n(1, 2, 5, 6, dtype=half)}, pad=[3, 2, 1, 0], mode="circular")
    to.record("conv_transpose2d", "conv_transpose2d", {"input": n(1, 4, 5, 5), "weight": n(4, 3, 3, 3), "bias": None}, stride=2)
    up = {"input": n(2, 6, 4, 5), "weight": n(6, 2, 4, 3), "bias": n(4)}
    to.record("grouped conv_transpose2d", "conv_transpose2d", up, stride=[2, 3], padding=[1, 0], output_padding=[1, 2], groups=2)
    up = {"input": n(1, 3, 5, 4, dtype=half), "weight": n(3, 5, 2, 3, dtype=half), "bias": None}
    to.record("dilated conv_transpose2d in f16", "conv_transpose2d", up, padding=1, dilation=[2, 1])
    ids = torch.randint(0, 11, (2, 5), generator=to.generator)
    to.record("embedding", "embedding", {"input": ids, "weight": n(11, 6)})
    to.record("embedding in f16", "embedding", {"input": ids.int(), "weight": n(11, 3, dtype=half)}, padding_idx=2)
    to.record("embedding of a norm", "embedding", {"input": ids.clone(), "weight": n(11, 6)}, max_norm=1.0)
    to.record("product of vectors", "matmul", {"input": n(30), "other": n(30)})
    to.record("product of a matrix and a vector", "matmul", {"input": n(2, 9, 30), "other": n(30)})
    to.record("add", "add", {"input": n(2, 3, 5), "other": n(2, 3, 5)})
    to.record("mul", "mul", {"input": n(2, 3, 5), "other": n(2, 3, 5)})
    to.record("concat", "concat", {"tensors": [n(2, 3, 5), n(2, 4, 5)]}, dim=1)
    to.record("concat of many", "concat", {"tensors": [n(2, number) for number in (3, 1, 4, 1, 5, 9)]}, dim=1)
    to.record("concat of channels", "concat", {"tensors": [n(2, 3, 5), n(2, 3, 6), n(2, 3, 1)]}, dim=-1)


def main() -> None:
    recorder = Recorder()
    record(recorder)
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / "torch.json").write_text(json.dumps(recorder.cases, indent=1) + "\n")
    save_file(recorder.tensors, FIXTURES / "torch.safetensors")
    print(f"{len(recorder.cases)} cases, {len(recorder.tensors)} tensors")


if __name__ == "__main__":
    main()

"""Record what torch's CPU generator draws.

usage: make.py noise

    ../fixtures/noise/torch_cpu.json    `streams`: a seed and its consecutive draws, see `DRAWS`; `sizes`: normals of
                                        every small size, each from a fresh generator
"""

import json
import pathlib
from typing import Any

import torch

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "noise"

SEEDS = (0, 42, 2**32 - 1, 2**32, 2**32 + 7, 2**63, 2**64 - 1, -1, -42, -(2**63))

# one after another from one generator; the sizes below 16 leave a spare normal behind or use one up
DRAWS = (("bits", 3), ("normal", 5), ("uniform_f32", 3), ("normal", 16), ("normal", 4), ("normal", 37), ("normal", 1))
DRAWS += (("uniform_f64", 3), ("normal", 1), ("normal", 64), ("normal", 2), ("normal", 1000), ("normal", 16384 + 5))

# of longer tensors every 61st element is kept and the last 16
MAX_WHOLE = 64
STRIDE = 61


def draw(kind: str, n: int, generator: torch.Generator) -> list[Any]:
    match kind:
        case "bits":
            signed = torch.empty(n, dtype=torch.int64).random_(-(2**63), None, generator=generator)
            return [value % 2**64 for value in signed.tolist()]
        case "uniform_f32":
            return torch.rand(n, generator=generator).tolist()
        case "uniform_f64":
            return torch.rand(n, dtype=torch.float64, generator=generator).tolist()
    values = torch.randn(n, generator=generator).tolist()
    kept = values if n <= MAX_WHOLE else values[:-16:STRIDE] + values[-16:]
    return [float(f"{value:.9g}") for value in kept]


def main() -> None:
    streams = []
    for seed in SEEDS:
        generator = torch.Generator("cpu").manual_seed(seed)
        # the long draws of one seed are enough
        draws = DRAWS if seed == 42 else DRAWS[:-2]
        recorded = [{"kind": kind, "n": n, "values": draw(kind, n, generator)} for kind, n in draws]
        streams.append({"seed": seed % 2**64, "negative": seed if seed < 0 else None, "draws": recorded})
    sizes = [draw("normal", n, torch.Generator("cpu").manual_seed(1234)) for n in range(1, 41)]
    FIXTURES.mkdir(parents=True, exist_ok=True)
    listed = {"streams": streams, "sizes": sizes}
    lines = [f'"{key}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for key, rows in listed.items()]
    (FIXTURES / "torch_cpu.json").write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()

"""Time photogram and PyTorch on the same machine, one after the other in the same run, and print the ratios.

usage: side_by_side.py [--model DIR] [--size PIXELS] [--picture] [--rounds N] [--threads N] [--json FILE]

    --model DIR      a Stable Diffusion 1.x diffusers folder: adds its text encoder, a guided step and the decoder.
                     `tests/reference/make.py sd15 DIR` writes one with random weights, as `DIR/model`
    --size PIXELS    edge of the picture [default: 256 on a CPU, 512 on a GPU]
    --picture        with --model: adds a whole picture of 20 steps, from its prompt to its pixels, without loading
    --rounds N       how often the two take turns; medians are compared [default: 3]
    --threads N      torch's threads [default: as many as there are cores]
    --json FILE      every number, for machines

With CUDA, torch runs f16, scaled_dot_product_attention and channels_last, eager and compiled; without, f32 on the CPU.
Needs `tests/reference/requirements.txt` and a Rust toolchain. Nothing else should run on the machine.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADAPTER = os.environ.get("PHOTOGRAM_ADAPTER", "auto")  # which the benches take, too
UNITS = {"ns": 1e-6, "µs": 1e-3, "us": 1e-3, "ms": 1.0, "s": 1e3}
SECONDS = 0.5  # that torch is timed for in each round

Timed = Callable[[], object]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--picture", action="store_true")
    parser.add_argument("--size", type=int, default=512 if torch.cuda.is_available() else 256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path)
    return parser.parse_args()


def milliseconds(run: Timed) -> float:
    """The median of the calls that `SECONDS` have room for, three at least."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    run()
    wait()
    times, started = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < SECONDS:
        begun = time.perf_counter()
        run()
        wait()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def matmul(edge: int, device: str, dtype: torch.dtype) -> Timed:
    matrix = torch.randn(edge, edge, device=device, dtype=dtype)
    return lambda: matrix @ matrix


def conv(batch: int, device: str, dtype: torch.dtype) -> Timed:
    options = {"device": device, "dtype": dtype}
    image = torch.randn(batch, 320, 64, 64, **options).contiguous(memory_format=torch.channels_last)
    taps = torch.randn(320, 320, 3, 3, **options).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(320, **options)
    return lambda: torch.nn.functional.conv2d(image, taps, bias, padding=1)


def kernels(device: str, dtype: torch.dtype) -> dict[str, tuple[str, float, Timed]]:
    """By the name of our bench: what it is, its floating-point operations, and torch's way to do it."""
    heads = torch.randn(1, 8, 1024, 40, device=device, dtype=dtype)
    ours, on_gpu = ("f16", True) if dtype == torch.float16 else ("f32", False)
    conv_flops = 2 * 4096 * 320 * 320 * 9
    rows = {
        f"{ours}[1024, 1024] f16[1024, 1024] in strips": ("matmul 1024x1024x1024", 2 * 1024**3, matmul(1024, device, dtype)),
        f"{ours}[1, 64, 64, 320] f16[3, 3, 320, 320] in strips f32[320]": (
            "conv 3x3 320 -> 320, 64x64",
            conv_flops,
            conv(1, device, dtype),
        ),
        f"{ours}[1, 1024, 320] {ours}[1, 1024, 320] {ours}[1, 1024, 320]": (
            "attention, 8 heads x 1024 x 40",
            4 * 8 * 1024 * 1024 * 40,
            lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads),
        ),
    }
    if on_gpu:
        # Too much for a CPU, too little of anything smaller for a GPU. In f32 torch takes its own default, which is no TF32.
        rows |= {
            "f16[4096, 4096] f16[4096, 4096] in strips": ("matmul 4096x4096x4096", 2 * 4096**3, matmul(4096, device, dtype)),
            "f32[4096, 4096] f32[4096, 4096] in strips": (
                "matmul 4096x4096x4096 in f32",
                2 * 4096**3,
                matmul(4096, device, torch.float32),
            ),
            "f16[2, 64, 64, 320] f16[3, 3, 320, 320] in strips f32[320]": (
                "conv 3x3 320 -> 320, 64x64, batch of 2",
                2 * conv_flops,
                conv(2, device, dtype),
            ),
        }
    return rows


def our_adapter() -> str:
    """Name and driver of the adapter that photogram takes, as it says itself once it has run there."""
    command = ["cargo", "run", "-q", "--release", "-p", "photogram", "--", "profile", "-W", "64", "-H", "64"]
    command += ["--adapter", ADAPTER, "--repeat", "1", "--json", "-q"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        sys.exit(found.stderr.strip())
    profile = json.loads(found.stdout)
    return f"{profile['adapter']}, {profile['driver']}"


def our_kernel(operands: str) -> tuple[str, float]:
    """The fastest of our variants on these operands, by criterion."""
    # criterion takes an expression
    pattern = operands.replace("[", r"\[").replace("]", r"\]")
    command = ["cargo", "bench", "-q", "-p", "benches", "--bench", "kernels", "--", "--quick", f"/{pattern}$"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^(\S+)/[^\n]*?\n?\s+time:\s+\[\S+ \S+ (\S+) (\S+) ", printed, re.MULTILINE)
    variants = [(name.split("/")[-1], float(value) * UNITS[unit]) for name, value, unit in found]
    return min(variants, key=lambda variant: variant[1])


def picture(sections: dict[str, Timed]) -> None:
    """What a picture of 20 steps takes, but for the sampler's arithmetic."""
    sections["text_encoder"]()
    for _ in range(20):
        sections["step"]()
    sections["decode"]()


def torch_model(folder: pathlib.Path, size: int, device: str, dtype: torch.dtype) -> dict[str, Timed]:
    """torch's way to do each section of `photogram profile`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    def network(kind: type, part: str) -> torch.nn.Module:
        read = kind.from_pretrained(folder / part, torch_dtype=dtype).to(device).eval()
        return read.to(memory_format=torch.channels_last) if part != "text_encoder" else read

    text, unet, vae = network(CLIPTextModel, "text_encoder"), network(UNet2DConditionModel, "unet"), network(AutoencoderKL, "vae")
    options = {"device": device, "dtype": dtype}
    ids = torch.randint(0, 1000, (2, 77), device=device)
    latent = torch.randn(2, 4, size // 8, size // 8, **options).contiguous(memory_format=torch.channels_last)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, **options)
    return {
        "text_encoder": lambda: text(ids),
        "step": lambda: unet(latent, 500, context),
        "decode": lambda: vae.decode(latent[:1]),
    }


def our_model(folder: pathlib.Path, size: int, precision: str) -> dict[str, float]:
    """Wall time of each section by `photogram profile`."""
    command = ["cargo", "run", "-q", "--release", "-p", "photogram", "--", "profile", "-m", folder.resolve()]
    command += ["-W", size, "-H", size, "--cfg-scale", 7, "--precision", precision, "--adapter", ADAPTER, "--repeat", 1, "--json", "-q"]
    printed = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    profile = json.loads(printed)
    return {section["section"]: section["wall_ms"] for section in profile["sections"]}


def our_picture(folder: pathlib.Path, size: int, precision: str) -> float:
    """A picture of 20 steps by `photogram generate --stats`, without loading and compiling."""
    with tempfile.TemporaryDirectory() as scratch:
        stats = pathlib.Path(scratch) / "stats.json"
        command = ["cargo", "run", "-q", "--release", "-p", "photogram", "--", "generate", "-m", folder.resolve(), "-p", "a lighthouse"]
        # The second picture finds everything there.
        command += ["-W", size, "-H", size, "--steps", 20, "--sampler", "euler", "--precision", precision, "--adapter", ADAPTER, "-b", 2, "-q"]
        command += ["--stats", stats, "-o", pathlib.Path(scratch) / "out.png"]
        subprocess.run([str(word) for word in command], cwd=ROOT, check=True)
        seconds = json.loads(stats.read_text())["seconds"]
    return 1e3 * (seconds["encode"] + sum(seconds["steps"]) + seconds["decode"]) / 2


def main() -> int:
    arguments = parse()
    torch.set_grad_enabled(False)
    torch.set_num_threads(arguments.threads)
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if on_gpu else ("cpu", torch.float32)
    name = torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()}, {arguments.threads} threads"
    ours_on = our_adapter()
    print(f"{datetime.date.today()}, torch {torch.__version__} in {dtype} on {name}; photogram on {ours_on}", flush=True)
    rows: dict[str, dict[str, list[float]]] = {}
    flops: dict[str, float] = {}

    def note(row: str, column: str, value: float) -> None:
        rows.setdefault(row, {}).setdefault(column, []).append(value)

    timed = kernels(device, dtype)
    sections = torch_model(arguments.model, arguments.size, device, dtype) if arguments.model else {}
    compiled = {row: torch.compile(run, dynamic=False) for row, run in sections.items()} if on_gpu else {}
    compiled |= {row: torch.compile(run, dynamic=False) for row, _, run in timed.values()} if on_gpu else {}
    for _ in range(arguments.rounds):
        for operands, (row, work, run) in timed.items():
            flops[row] = work
            note(row, "torch", milliseconds(run))
            if on_gpu:
                note(row, "compiled", milliseconds(compiled[row]))
            variant, ours = our_kernel(operands)
            note(row, "photogram", ours)
            print(f"{row}: {variant} {ours:.2f} ms, torch {rows[row]['torch'][-1]:.2f} ms", file=sys.stderr)
        for row, run in sections.items():
            note(row, "torch", milliseconds(run))
            if on_gpu:
                note(row, "compiled", milliseconds(compiled[row]))
        if sections:
            ours = our_model(arguments.model, arguments.size, "f16" if on_gpu else "f32")
            for row in sections:
                note(row, "photogram", ours[row])
        if sections and arguments.picture:
            note("picture, 20 steps", "torch", milliseconds(lambda: picture(sections)))
            if on_gpu:
                note("picture, 20 steps", "compiled", milliseconds(lambda: picture(compiled)))
            note("picture, 20 steps", "photogram", our_picture(arguments.model, arguments.size, "f16" if on_gpu else "f32"))

    columns = ["torch", *(["compiled"] if on_gpu else []), "photogram"]
    references = columns[:-1]
    ratios = " | ".join(f"times {column}'s time | per cent of its speed" for column in references)
    print(f"\n| | {' | '.join(f'{column} ms' for column in columns)} | {ratios} | GFLOP/s |")
    print(f"|---|{'---|' * (len(columns) + 2 * len(references) + 1)}")
    results = {}
    for row, measured in rows.items():
        medians = {column: statistics.median(measured[column]) for column in columns}
        ratio = {column: medians["photogram"] / medians[column] for column in references}
        speed = f"{flops[row] / medians['photogram'] / 1e6:.1f}" if row in flops else ""
        shown = " | ".join(f"{medians[column]:.2f}" for column in columns)
        compared = " | ".join(f"{ratio[column]:.2f} | {100 / ratio[column]:.1f}" for column in references)
        print(f"| {row} | {shown} | {compared} | {speed} |")
        results[row] = {**medians, "ratios": ratio, "rounds": measured}
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "on": name, "photogram_on": ours_on, "size": arguments.size, "rows": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

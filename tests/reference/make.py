"""Regenerate the recorded PyTorch references: the one entry point.

usage: make.py COMMAND [ARGUMENT ...]

    make.py pipelines [NAME ...]   tiny pipelines and their recorded runs  -> ../fixtures/pipelines
    make.py blocks                 intermediate tensors of three of them   -> ../fixtures/blocks
    make.py cases                  single operations                       -> ../fixtures/cases
    make.py samplers|noise|tokenizer ...   see the script of that name
    make.py controls [NAME ...]    print what deliberate mistakes cost, measured on the fixtures
    make.py ldm [NAME ...]         check the names of single files on the tiny pipelines
    make.py sd15|sd2|sdxl DIR      Stable Diffusion 1.5, 2.1 or SDXL base at its real size with random weights, and recorded runs
    make.py all                    everything that is committed

Each command is the script of the same name in this folder, run in a process of its own: the scripts choose
different torch defaults.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
COMMITTED = ("tokenizer", "noise", "samplers", "pipelines", "blocks", "cases")
COMMANDS = (*COMMITTED, "controls", "ldm", "sd15", "sd2", "sdxl")


def run(command: str, arguments: list[str]) -> int:
    """Run one script; -> its exit status."""
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.run([sys.executable, HERE / f"{command}.py", *arguments], env=environment, check=False).returncode


def main() -> int:
    command, *arguments = sys.argv[1:] or ["help"]
    if command == "all" and not arguments:
        return next((status for name in COMMITTED if (status := run(name, []))), 0)
    if command in COMMANDS:
        return run(command, arguments)
    print(__doc__.strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

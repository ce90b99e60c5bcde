"""The console script ``amvl``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, do what it says, and return the exit status."""
    from amvl_model import __version__

    parser = argparse.ArgumentParser(
        prog="amvl",
        description="Asymmetric Mutual Variational Learning: latent reasoning for vision-language models.",
        epilog="Training, evaluation and diagnostics: python experiments/full_blink.py --help",
    )
    parser.add_argument("--version", action="version", version=f"amvl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "doctor",
        help="versions, devices, memory, and which presets fit here",
        description="Report versions, devices and memory, compute what each preset needs, and say what to do. "
        "Exit status 1 if something that is needed is missing.",
    )
    memory = commands.add_parser(
        "memory",
        help="which kind of training fits on which GPU, computed",
        description="Compute what full fine-tuning, frozen vision and LoRA of the 3B and 7B backbones take on 24, 48, 80 and "
        "141 GB, and list what was measured beside it.",
    )
    memory.add_argument("--batch", type=int, default=1, help="questions in a step (default: 1)")
    gamma = commands.add_parser(
        "gamma",
        help="whether a run's decoder will come to read the leak, and which gamma would hold",
        description="Read a run's logged probes and say how probable it is that its decoder reads the leak by a step, and which "
        "gamma would hold until then (T11), or why that cannot be told.",
    )
    gamma.add_argument("--run", type=Path, required=True, metavar="RUN", help="folder of a run")
    gamma.add_argument("--until", type=int, required=True, metavar="STEPS", help="optimiser steps from its start")
    given = parser.parse_args(arguments)
    if given.command == "gamma":
        try:
            return _gamma(given.run, given.until)
        except (FileNotFoundError, ValueError) as error:
            gamma.error(str(error))
    if given.command == "memory":
        if given.batch < 1:
            memory.error(f"--batch: expected at least 1, received {given.batch}")
        return _memory(given.batch)
    return _doctor()


def _gamma(run: Path, until: int) -> int:
    from amvl_model.diagnostics.reading.forecast import forecast_run

    print(forecast_run(run, until).report())
    return 0


def _memory(batch: int) -> int:
    from amvl_model.profiling.footprint import memory_table

    print(memory_table(batch=batch))
    return 0


def _doctor() -> int:
    from amvl_model.profiling.doctor import report

    text, complete = report()
    print(text)
    return 0 if complete else 1

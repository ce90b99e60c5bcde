"""The console script ``amvl``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


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
    parser.parse_args(arguments)
    return _doctor()


def _doctor() -> int:
    from amvl_model.doctor import report

    text, complete = report()
    print(text)
    return 0 if complete else 1

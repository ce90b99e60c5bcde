"""The console script ``amvl``; with several processes ``torchrun --nproc-per-node 8 -m amvl_model.cli train ...``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train, evaluate and explain AMVL beside other objectives",
    "evaluate": "evaluate a checkpoint on BLINK, V*, HRBench or VisualPuzzles",
    "ask": "answer a question about images with any checkpoint",
    "diagnose": "what the latents of checkpoints leak, carry, and do",
    "export": "a plain Qwen2.5-VL checkpoint from a model fine-tuned by sft",
    "merge": "a whole checkpoint from one with LoRA adapters",
    "doctor": "versions, devices, memory, and which presets fit here",
    "memory": "which kind of training fits on which GPU, computed",
    "gamma": "whether a run's decoder will come to read the leak, and which gamma would hold",
}
"""Modules of `amvl_model.commands`, and what they do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the command line to the subcommand that it names, and return the exit status."""
    from amvl_model import __version__
    from amvl_model.commands import stoppable
    from amvl_model.config import quiet_on_closed_pipe

    quiet_on_closed_pipe()
    parser = argparse.ArgumentParser(
        prog="amvl",
        usage=argparse.SUPPRESS,  # an error then takes one line
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="usage: amvl COMMAND [OPTIONS]\n\n"
        "Asymmetric Mutual Variational Learning: latent reasoning for vision-language models.",
        epilog="commands:\n"
        + "".join(f"  {name:<10} {text}\n" for name, text in COMMANDS.items())
        + "\namvl COMMAND --help explains each.",
    )
    parser.add_argument("--version", action="version", version=f"amvl {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the list below")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTIONS", help="of the command")
    given = parser.parse_args(arguments)
    if given.command not in COMMANDS:
        from amvl_model.config.schema import did_you_mean

        parser.error(f"unknown command {given.command}; {did_you_mean(given.command, COMMANDS)}")
    before, sys.argv = sys.argv, [f"amvl {given.command}", *given.options]  # the name in help and messages
    try:
        with stoppable():
            status: int = importlib.import_module(f"amvl_model.commands.{given.command}").main(given.options)
    finally:
        sys.argv = before
    return status


if __name__ == "__main__":
    sys.exit(main())

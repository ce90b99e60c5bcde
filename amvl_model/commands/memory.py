"""Compute what full fine-tuning, frozen vision and LoRA of the 3B and 7B backbones take on 24, 48, 80 and 141 GB.

What was measured is listed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import PositiveInt

from amvl_model.config import command_line


@dataclass(frozen=True)
class Options:
    """The command line."""

    batch: PositiveInt = 1  # questions in a step


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    options = command_line(Options, arguments)
    from amvl_model.profiling.footprint import memory_table

    print(memory_table(batch=options.batch))
    return 0

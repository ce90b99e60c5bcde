"""Write a model fine-tuned by the baseline sft as a plain Qwen2.5-VL checkpoint, which transformers loads without this package.

    amvl export --checkpoint runs/x/sft/checkpoint --out qwen-fine-tuned

A checkpoint with LoRA adapters is merged first (amvl merge). AMVL's latents and pause tokens have no place in a plain checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amvl_model.commands import stoppable
from amvl_model.config import command_line, usage_errors


@dataclass(frozen=True)
class Options:
    """The command line."""

    checkpoint: str  # folder of a checkpoint trained with --objective.name sft
    out: Path  # folder to write


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the plain checkpoint; returns the exit status."""
    options = command_line(Options, arguments)
    with stoppable(), usage_errors():
        from amvl_model.models.loading import export_checkpoint

        export_checkpoint(options.checkpoint, options.out)
    print(options.out)
    return 0

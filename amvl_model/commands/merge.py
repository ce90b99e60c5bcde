"""Write a LoRA checkpoint as a whole one, with its adapters merged into the backbone.

amvl merge --checkpoint runs/x/amvl/checkpoint --out merged
amvl merge --checkpoint DIR --out merged --backbone FOLDER_OR_HUB_ID     # where the backbone has moved
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

    checkpoint: str  # folder of a checkpoint trained with --model.lora_rank
    out: Path  # folder to write
    backbone: str | None = None  # folder or hub id of the backbone; None: where the checkpoint says


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the whole checkpoint; returns the exit status."""
    options = command_line(Options, arguments)
    with stoppable(), usage_errors():
        from amvl_model.models.loading import merge_checkpoint

        merge_checkpoint(options.checkpoint, options.out, backbone_path=options.backbone)
    print(options.out)
    return 0

"""Checkpoints that a study saves (``--keep``), and those that another study evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def checkpoint_folder(keep: Path, study: str, cell: str, seed: int) -> Path:
    """Where ``--keep`` puts the checkpoint of a run."""
    return keep / study / cell / f"seed{seed}" / "checkpoint"


def load_saved(keep: Path, study: str, cell: str, seed: int) -> tuple[Any, Any, dict[str, str]]:
    """Model, processor, and for the result file which checkpoint it was and the digest of its weights.

    Raises:
        FileNotFoundError: if there is none.
    """
    from amvl_model.models.checkpoints import WEIGHTS, file_digest
    from amvl_model.models.loading import load_checkpoint

    folder = checkpoint_folder(keep, study, cell, seed)
    model, processor = load_checkpoint(folder)
    digest = file_digest(folder / WEIGHTS)
    return model, processor, {"checkpoint": f"{study}/{cell}/seed{seed}", "weights_sha256": digest}

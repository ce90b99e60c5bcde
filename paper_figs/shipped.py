"""The measured shipped checkpoints, and whether they are still the ones that are shipped."""

from __future__ import annotations

from amvl_model.results import Result
from paper_figs.measure import ASSETS, CHECKPOINTS, COMMAND, STUDY, weights_hash
from paper_figs.sources import Sources


def shipped(sources: Sources) -> list[Result]:
    """Results of the shipped checkpoints in the order of `CHECKPOINTS`; a changed checkpoint is noted as missing.

    Raises:
        ResultError: if a file is unreadable.
    """
    found = {result.cell: result for result in sources.study(STUDY, COMMAND, cells=CHECKPOINTS)}
    for name, result in found.items():
        sources.file(ASSETS / name / "model.safetensors", kind="shipped checkpoint")
        if result.extra["weights_sha256"] != weights_hash(name):
            sources.lacks(f"results/{STUDY}/{name} of the weights that are shipped now", f"{COMMAND} --overwrite")
    return [found[name] for name in CHECKPOINTS if name in found]


def label(result: Result) -> str:
    """A checkpoint's name in figures."""
    return {"tiny-amvl": "AMVL", "tiny-forward-only": "forward-only"}.get(result.cell, result.cell)

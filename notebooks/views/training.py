"""Two small runs from the shipped base, their curves and what they leak."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_model.config import RunConfig, load_preset, override
from amvl_model.studies.declared import EASY_TASKS
from amvl_style import axes, look
from notebooks.views.show import styled

ARMS = {"forward-only": "ntp+fwd", "AMVL": "amvl"}
CURVES = (
    ("ntp", "answer NLL with posterior latents [nats]", False),
    ("forward_kl", "KL(q || p) [nats]", True),
    ("reverse_kl", "KL(p || q) [nats]", True),
    ("posterior_std", "posterior standard deviation [latent units]", True),
)
"""Column of metrics.jsonl, axis label, logarithmic axis."""


@dataclass(frozen=True)
class Trained:
    """One finished run.

    Attributes:
        config: its settings. log: the rows of its metrics.jsonl.
        model, processor: ready to be measured.
    """

    config: RunConfig
    log: list[dict[str, float]]
    model: Any
    processor: Any


def settings(**changes: object) -> RunConfig:
    """The tiny preset on four single-image tasks, 30 % wrong labels, with some dotted settings changed.

    Args:
        changes: settings with a double underscore for the dot, for example ``objective__gamma=0.01``.
    """
    common: dict[str, object] = {
        "data.tasks": EASY_TASKS,
        "data.eval_size": 25,
        "train.report_to": (),
        "train.steps": 300,
        "objective.gamma": 0.003,
        "eval.bootstrap": 1000,
    }
    return load_preset("tiny", common | {key.replace("__", "."): value for key, value in changes.items()})


def train_both(config: RunConfig) -> dict[str, Trained]:
    """Forward-only and AMVL on the same questions; nothing is kept on disk."""
    from amvl_model.data.sources import training_questions
    from amvl_model.training.run import train
    from notebooks.views.checkpoints import quiet

    quiet()
    asked = training_questions(config.data)
    found = {}
    for name, objective in ARMS.items():
        arm = override(config, {"objective.name": objective})
        with tempfile.TemporaryDirectory() as folder:
            model, processor = train(arm, Path(folder) / "run", questions=asked, save=False, quiet=True)
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        log = [row for line in lines if "ntp" in (row := json.loads(line))]
        found[name] = Trained(arm, log, model, processor)
    return found


def measured(runs: Mapping[str, Trained]) -> dict[str, dict[str, Any]]:
    """`amvl_model.studies.measurement.measure` of every run, as plain types."""
    from amvl_model.data.sources import evaluation_questions, training_questions
    from amvl_model.studies.measurement import measure

    found = {}
    for name, run in runs.items():
        held_out, asked = evaluation_questions(run.config.data), training_questions(run.config.data)
        found[name] = measure(
            run.model, run.processor, run.config, held_out, asked, scoring=("likelihood",), progress=False
        ).to_dict()
    return found


def curves(runs: Mapping[str, Trained]) -> Figure:
    """What happened during training, one panel per column."""
    with styled():
        page = Figure(figsize=(13.2, 3.5))
        for ax, (column, label, log) in zip(page.subplots(1, len(CURVES)), CURVES, strict=True):
            draw_curve({name: run.log for name, run in runs.items()}, column, label, log=log, ax=ax)
        page.axes[0].legend()
    return page


def draw_curve(
    logs: Mapping[str, list[dict[str, float]]], column: str, label: str, *, log: bool = False, ax: Axes | None = None
) -> Axes:
    """One column of the logs against the step."""
    ax = axes(ax)
    for name, rows in logs.items():
        ax.plot(
            [row["step"] for row in rows], [row.get(column, np.nan) for row in rows], label=name, **look(ARMS[name])
        )
    if log:
        ax.set_yscale("log")
    ax.set_xlabel("training step [steps]")
    ax.set_ylabel(label)
    return ax

"""Diagnostics read a checkpoint and leave its folder, its weights and its modes as they were."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.diagnostics import (
    contamination_report,
    intervention_report,
    measure_answer_direction,
    measure_cross_modal,
    measure_mediation,
    measure_slots,
    measure_stability,
)
from amvl_model.models.loading import SHIPPED, load_checkpoint

FOLDER = SHIPPED["tiny-amvl"]
MEASURES: tuple[tuple[Callable[..., Any], dict[str, Any]], ...] = (
    (contamination_report, {"samples": 1, "n_samples": 20}),
    (intervention_report, {"samples": 1}),
    (measure_answer_direction, {}),
    (measure_slots, {"n_samples": 20}),
    (measure_cross_modal, {"n_samples": 20}),
    (measure_stability, {"samples": 2, "temperatures": (1.0,), "perturbations": ("noise",)}),
    (measure_mediation, {}),
)


@lru_cache(maxsize=1)
def loaded() -> tuple[Any, Any]:
    return load_checkpoint(FOLDER)


def bytes_of(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def weights_of(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("measure", MEASURES, ids=[function.__name__ for function, _ in MEASURES])
def test_a_diagnosis_changes_neither_folder_nor_weights_nor_modes(
    measure: tuple[Callable[..., Any], dict[str, Any]],
) -> None:
    function, settings = measure
    model, processor = loaded()
    model.train()
    model.backbone.model.visual.eval()
    modes = [module.training for module in model.modules()]
    before = bytes_of(FOLDER), weights_of(model)
    shown = io.StringIO()
    with redirect_stderr(shown):
        asked = SyntheticBlink(tasks=("Counting", "Relative_Depth"), split="val", size=4)
        result = function(model, processor, asked, n_bootstrap=20, batch_size=4, progress=True, **settings)
    assert result.to_dict()
    assert "100%" in shown.getvalue() or "question" in shown.getvalue()  # the progress bar
    assert (bytes_of(FOLDER), weights_of(model)) == before
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_progress_nothing_is_shown() -> None:
    model, processor = loaded()
    shown = io.StringIO()
    with redirect_stderr(shown):
        asked = SyntheticBlink(tasks=("Counting",), split="val", size=2)
        measure_mediation(model, processor, asked, n_bootstrap=10, progress=False)
    assert shown.getvalue() == ""

"""Studies: complete configurations, results in the one schema, and a verdict that can go either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amvl_model import pareto
from amvl_model.results import Metric, Result, read_result
from amvl_model.studies import STUDIES
from amvl_model.study_runner import cell_config, run_cell, run_study


def result(cell: str, seed: int, beta: float, gamma: float | None, leak: float, nll: float, zeroed: float) -> Result:
    objective = {"name": "ntp+fwd" if gamma is None else "amvl", "beta": beta, "gamma": gamma or 0.0}
    metrics = {
        pareto.LEAK: Metric(leak, "nats"),
        pareto.NLL: Metric(nll, "nats"),
        pareto.ZEROED: Metric(zeroed, "fraction"),
    }
    return Result(
        study="pareto", cell=cell, seed=seed, config={"objective": objective}, metrics=metrics, wall_seconds=1.0,
        device="cpu", commit=None, dirty=None, versions={}, created="",
    )  # fmt: skip


def results(leak: float, nll: float, zeroed: float) -> list[Result]:
    """Forward-only at 1.0 nats of leakage and NLL 0.5, and one AMVL cell at the given offsets, five noisy seeds each."""
    noise = np.random.default_rng(0).normal(0, 0.002, size=5)
    found = [result("fwd", seed, 0.003, None, 1.0, 0.5, -0.2) for seed in range(5)]
    return found + [
        result("dual", s, 0.003, 0.003, 1.0 + leak + noise[s], 0.5 + nll + noise[s], zeroed + noise[s])
        for s in range(5)
    ]


@pytest.mark.parametrize(
    ("leak", "nll", "zeroed", "holds"),
    [
        (-0.5, 0.0, -0.2, True),
        (+0.1, 0.0, -0.2, False),  # leaks more
        (-0.5, 0.03, -0.2, False),  # pays for it with NLL
        (-0.5, 0.0, 0.0, False),  # its latents do nothing
    ],
)
def test_the_verdict_needs_less_leakage_equal_nll_and_latents_that_matter(
    leak: float, nll: float, zeroed: float, holds: bool
) -> None:
    assert ("AMVL has no" not in pareto.verdict(results(leak, nll, zeroed))) == holds


def test_a_claim_that_holds_in_the_mean_alone_is_said_to_hold_in_the_mean_alone() -> None:
    spread = [
        result("dual", s, 0.003, 0.003, 0.5, 0.5 + nll, -0.2) for s, nll in enumerate((-0.05, -0.05, 0.0, 0.06, 0.06))
    ]
    said = pareto.verdict([result("fwd", s, 0.003, None, 1.0, 0.5, -0.2) for s in range(5)] + spread)
    assert " mean  dual: leakage -0.500" in said and "AMVL has no point" in said
    assert said.endswith("In the mean over seeds these have it: dual.")


def test_interval_is_students_t_over_seeds() -> None:
    low, high = pareto.interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert low == pytest.approx(3 - 2.776445 * np.sqrt(2.5 / 5), rel=1e-5)
    assert high == pytest.approx(3 + 2.776445 * np.sqrt(2.5 / 5), rel=1e-5)


def test_picture_of_the_pareto_study_has_labels_with_units() -> None:
    axes = pareto.draw(results(-0.5, 0.0, -0.2)).axes[0]
    assert "[nats]" in axes.get_xlabel() and "[nats]" in axes.get_ylabel()


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_every_cell_of_every_study_is_a_valid_configuration(study) -> None:  # type: ignore[no-untyped-def]
    for cell in study.cells:
        config = cell_config(study, cell, seed=3)
        assert config.train.seed == config.data.seed == 3


def test_unknown_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no cell 'nothing'"):
        run_study(STUDIES["pareto"], tmp_path, cells=["nothing"])


def test_a_run_writes_one_result_file_with_the_figures_of_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from amvl_model.run import load_checkpoint
    from tests.test_main_job import SMALL

    study = STUDIES["pareto"]
    small = replace(study, common={**study.common, **SMALL, "data.tasks": ("Counting",)})
    monkeypatch.setitem(STUDIES, "pareto", small)
    path = run_cell("pareto", next(iter(small.cells)), 0, tmp_path, keep=tmp_path / "kept")
    written = read_result(path)
    assert {pareto.LEAK, pareto.NLL, pareto.ZEROED} <= written.metrics.keys()
    assert written.config["data"]["tasks"] == ["Counting"]
    model, _ = load_checkpoint(tmp_path / "kept" / "pareto" / next(iter(small.cells)) / "seed0" / "checkpoint")
    assert model.config.num_latents == written.config["model"]["num_latents"]

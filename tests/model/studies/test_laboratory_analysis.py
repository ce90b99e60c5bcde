"""The planned tests of the laboratory: outcomes, differences and reports from result files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from amvl_model.results.files import Metric, Result
from amvl_model.studies import declared
from amvl_model.studies.laboratory import analysis, study


def run(
    cell: str,
    seed: int,
    accuracy: float,
    *,
    leak: float | None = 0.0,
    posterior: float | None = None,
    started: bool = True,
) -> Result:
    values = {
        "accuracy_3": accuracy,
        "accuracy_posterior_3": accuracy if posterior is None else posterior,
        "leaked_3": leak,
    }
    warm = [{"accuracy_3": 0.9 if started else 0.2}]
    return Result(
        study="laboratory", cell=cell, seed=seed, config={"objective": cell.split(",")[0], "recipe": {"hops": {"3": 1.0}}},
        metrics={name: Metric(value, "fraction") for name, value in values.items() if value is not None},
        wall_seconds=None, device="cpu", commit=None, dirty=None, versions={}, created="",
        extra={"started": started, "warmup": warm},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "leak", "posterior", "started", "expected"),
    [
        (0.95, 0.0, 0.95, True, "kept"),
        (0.90, 1.5, 0.95, True, "leaking"),
        (0.75, 1.5, 0.99, True, "leak collapse"),
        (0.20, 1.5, 0.99, True, "contaminated"),
        (0.20, 1.5, 0.25, True, "contaminated"),
        (0.20, 0.1, 0.20, True, "optimisation failure"),
        (0.95, 0.0, 0.95, False, "not started"),
    ],
)
def test_outcomes_are_as_defined(accuracy: float, leak: float, posterior: float, started: bool, expected: str) -> None:
    table = analysis.outcomes([run("ntp", 0, accuracy, leak=leak, posterior=posterior, started=started)], 3)
    assert table.outcome.tolist() == [expected]
    assert table.collapse.tolist() == [leak > 0.5 and posterior - accuracy >= 0.2]


def test_the_primary_tests_need_an_effect_as_well_as_an_interval() -> None:
    noise = np.linspace(-0.02, 0.02, 6)
    others = {"sft": 0.3, "pause": 0.85, "ntp+fwd,beta=1": 0.2, "ntp": 0.95}
    results = [run(analysis.AMVL, seed, 0.95 + e) for seed, e in enumerate(noise)]
    results += [run(cell, seed, value, leak=None) for cell, value in others.items() for seed in range(6)]
    table = analysis.primary(results)
    assert table["mean"].tolist() == pytest.approx([0.65, 0.10, 0.75, 0.0])
    assert table.verdict.tolist() == [
        "advantage",
        "no difference of 20 points shown",
        "advantage",
        "no difference of 20 points shown",
    ]
    assert (table.adjusted >= table.p).all()
    assert analysis.primary([*results[:1], run("sft", 0, 0.3)]).verdict[0].startswith("cannot tell")


def test_equivalence_is_two_one_sided_tests() -> None:
    results = [run(analysis.AMVL, seed, 0.95 + 0.01 * (seed % 2)) for seed in range(8)]
    results += [run("elbo,beta=1", seed, 0.95) for seed in range(8)] + [run("prior", seed, 0.99) for seed in range(8)]
    table = analysis.equivalence(results).set_index("comparison")
    assert table.equivalent.tolist() == [True, True]
    results += [run("prior", seed + 8, 0.99 - 0.3 * (seed % 2)) for seed in range(8)]
    results += [run(analysis.AMVL, seed + 8, 0.95) for seed in range(8)]
    assert not analysis.equivalence(results).equivalent.iloc[1]


def test_pairs_of_seeds_are_counted_by_mcnemar_and_the_report_has_every_part() -> None:
    results = [run(analysis.AMVL, seed, 0.95) for seed in range(6)]
    results += [run("ntp+fwd,beta=1", seed, 0.2, leak=2.0, posterior=0.9) for seed in range(6)]
    results += [run("ntp", seed, 0.95, leak=2.0) for seed in range(6)] + [
        run("sft", seed, 0.3, leak=None) for seed in range(6)
    ]
    labels = analysis.outcomes(results, 3)
    assert analysis.mcnemar(labels, "ntp+fwd,beta=1", analysis.AMVL, "contaminated") == (
        6,
        0,
        pytest.approx(2 * 0.5**6),
    )
    assert analysis.mcnemar(labels, analysis.AMVL, "ntp", "contaminated") == (0, 0, 1.0)
    counted = analysis.counts(labels)
    assert counted.loc["ntp+fwd,beta=1", "contaminated"] == counted.loc["ntp+fwd,beta=1", "collapses"] == 6
    text = analysis.report(results, ["sft", "ntp", "ntp+fwd,beta=1", analysis.AMVL])
    for part in ("Primary", "Equivalence", "Runs by outcome", "McNemar", "only ntp+fwd,beta=1: 6"):
        assert part in text
    assert isinstance(counted, pd.DataFrame)


def test_a_secondary_study_is_compared_with_the_study_laboratory_and_within_each_variation() -> None:
    cells = {analysis.AMVL: 0.95, "ntp+fwd,beta=1": 0.2, "elbo,beta=1": 0.95}
    main = [run(cell, seed, value + 0.01 * (seed % 2)) for cell, value in cells.items() for seed in range(4)]
    noisy = {"amvl,noise=0.3": 0.6, "ntp+fwd,noise=0.3": 0.2, "amvl,noise=0.1": 0.9}
    results = [run(cell, seed, value) for cell, value in noisy.items() for seed in range(4)]
    pairs = analysis.secondary(results, main)
    assert sorted(pairs) == sorted(
        [
            ("amvl,noise=0.3", analysis.AMVL),
            ("ntp+fwd,noise=0.3", "ntp+fwd,beta=1"),
            ("amvl,noise=0.1", analysis.AMVL),
            ("amvl,noise=0.3", "ntp+fwd,noise=0.3"),
        ]
    )
    table = analysis.primary([*results, *main], pairs).set_index("comparison")
    assert table.verdict[f"amvl,noise=0.3 - {analysis.AMVL}"] == "disadvantage"
    assert table.verdict["amvl,noise=0.3 - ntp+fwd,noise=0.3"] == "advantage"
    assert table.verdict[f"amvl,noise=0.1 - {analysis.AMVL}"].startswith("no difference")
    elsewhere = [replace(result, seed=result.seed + 50) for result in results]
    assert analysis.secondary(elsewhere, main) == [("amvl,noise=0.3", "ntp+fwd,noise=0.3")]  # no seed in common
    text = analysis.report(results, list(noisy), main)
    assert "amvl,noise=0.3 - ntp+fwd,noise=0.3" in text and "Primary" not in text


def test_without_a_warm_up_a_run_that_leaks_can_only_collapse() -> None:
    results = [run("ntp,cold", seed, 0.12, leak=2.0, posterior=1.0, started=False) for seed in range(6)]
    results += [run("amvl,cold", seed, 0.9, started=False) for seed in range(6)]
    for result in results:
        result.config["warmup"] = 0  # type: ignore[index]
        result.extra["warmup"] = []  # type: ignore[index]
    labels = analysis.outcomes(results, 3)
    assert set(zip(labels.cell, labels.outcome, strict=True)) == {("ntp,cold", "leak collapse"), ("amvl,cold", "kept")}
    text = analysis.report(results, ["ntp,cold", "amvl,cold"], [run("ntp", seed, 0.9) for seed in range(100, 104)])
    assert "amvl,cold - ntp,cold" in text and "only ntp,cold: 6" in text


def test_on_another_task_amvl_is_compared_at_every_number_of_hops() -> None:
    cells = {"amvl,Changing_Cells": (1.0, 0.5), "ntp,Changing_Cells": (0.3, 0.5)}
    results = [run(cell, seed, hard) for cell, (_, hard) in cells.items() for seed in range(4)]
    for result in results:
        result.config["recipe"]["task"] = "Changing_Cells"
        result.config["recipe"]["hops"] = {1: 1.0, 3: 1.0}
        easy = cells[result.cell][0] + 0.001 * result.seed * (result.cell[0] == "a")
        result.metrics["accuracy_1"] = Metric(easy, "fraction")  # type: ignore[index]
    text = analysis.report(results, list(cells), [run("ntp", seed, 0.9) for seed in range(4)])
    rows = [line for line in text.splitlines() if line.startswith("amvl,Changing_Cells - ntp,Changing_Cells")]
    assert len(rows) == 2 and "1 hop " in rows[0] and "3 hops" in rows[1]
    assert "advantage" in rows[0] and "no difference" in rows[1] and "- ntp " not in text


def test_the_declared_study_names_arms_that_exist() -> None:
    for declared_study in (each for each in declared.STUDIES.values() if each.bases):
        for cell in declared_study.cells:
            made = study.arm_of(declared_study, cell, 101)
            assert made.base == declared_study.bases[101 % len(declared_study.bases)]
            assert made.recipe.seed == 101
    assert {first for pair in (*analysis.PRIMARY, *analysis.EQUIVALENCE) for first in pair} <= set(
        declared.STUDIES["laboratory"].cells
    )

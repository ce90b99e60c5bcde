"""The planned tests of T10 and T11 on trained checkpoints: predictions as declared, verdicts that can go every way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from amvl_model.results.files import Metric, Result
from amvl_model.studies.declared import STUDIES
from amvl_model.studies.runner import _runs, cell_config, study_results
from experiments.theory_vs_model import collapse, floor, forecasts

ROOT = Path(__file__).resolve().parents[2]
CELLS = ((450, 0.0), (600, 0.0003), (1200, 0.003), (1200, 0.001))
DECLARED = (0.45, 0.59, 0.55, 0.89)
"""THEORY.md, section 4."""


def result(study: str, cell: str, seed: int, steps: int, gamma: float, metrics: Mapping[str, float]) -> Result:
    objective = {"name": "amvl" if gamma else "ntp+fwd", "gamma": gamma}
    return Result(
        study=study, cell=cell, seed=seed, config={"objective": objective, "train": {"steps": steps}},
        metrics={name: Metric(value, "nats") for name, value in metrics.items()}, wall_seconds=1.0, device="cpu",
        commit=None, dirty=None, versions={}, created="",
    )  # fmt: skip


def runs(events: tuple[int, ...], each: int = 12, noise: float = 0.0) -> list[Result]:
    """So many collapsed runs among `each` of every cell; prior std sqrt(gamma steps), up to a factor within 1 + noise."""
    found = []
    for (steps, gamma), number in zip(CELLS, events, strict=True):
        for seed in range(each):
            values = {
                collapse.GAP: -0.2 if seed < number else -0.01,
                collapse.PRIOR_STD: np.sqrt(gamma * steps) * (1 + noise * (seed % 3)),
            }
            found.append(result("reading", f"{steps},{gamma}", seed, steps, gamma, values))
    return found


def test_t11_predicts_what_was_declared_at_the_schedule_of_the_runs() -> None:
    for (steps, gamma), cell, declared in zip(CELLS, STUDIES["reading"].cells, DECLARED, strict=True):
        config = cell_config(STUDIES["reading"], cell, 200)
        assert (config.train.steps, config.objective.gamma if config.objective.name == "amvl" else 0) == (steps, gamma)
        times, weights = collapse.gamma_path(steps, 1.0)
        of_run = [config.objective.weights(t / steps)[1] / config.objective.gamma for t in times]
        if gamma:
            assert weights == pytest.approx(of_run, abs=1e-12)
        assert weights[times <= 0.2 * steps].max() == 0 and weights[times >= 0.4 * steps].min() == pytest.approx(1)
        assert collapse.reading_share(steps, gamma) == pytest.approx(declared, abs=0.012)


def test_every_run_of_the_study_has_the_settings_of_the_older_ones() -> None:
    for cell in STUDIES["reading"].cells:
        config = cell_config(STUDIES["reading"], cell, 200).to_dict()
        for part, wanted in collapse.SETTINGS.items():
            assert {name: config[part][name] for name in wanted} == wanted


def test_alternatives_are_fitted_to_the_older_runs() -> None:
    old = collapse.counts(collapse.older_runs(ROOT / "results")).set_index(["steps", "gamma"])
    assert [tuple(old.loc[key]) for key in ((300, 0.0), (600, 0.0), (600, 0.001))] == [(15, 2), (20, 14), (20, 6)]
    shown = {name: [share(*cell) for cell in CELLS] for name, share in collapse.predictions(ROOT / "results").items()}
    assert shown["constant hazard"] == pytest.approx([0.43, 0.14, 0.26, 0.26], abs=0.02)
    assert shown["gamma no effect"] == pytest.approx([0.20, 0.44, 0.92, 0.92], abs=0.02)
    assert shown["logistic"] == pytest.approx([0.31, 0.59, 0.90, 1.00], abs=0.02)


def flat(*shares: float) -> collapse.Share:
    return lambda steps, gamma: shares[CELLS.index((steps, gamma))]


MODELS = {"T11": flat(0.4, 0.6, 0.5, 0.9), "other": flat(0.1, 0.1, 0.9, 0.9)}


@pytest.mark.parametrize(
    ("events", "each", "said"),
    [
        ((5, 7, 6, 11), 12, "supported"),
        ((1, 1, 11, 11), 12, "refuted"),
        ((0, 1, 2, 2), 2, "cannot tell"),
        ((1, 2, 4, 5), 6, "not told apart from other"),
    ],
)
def test_the_verdict_can_go_every_way(events: tuple[int, ...], each: int, said: str) -> None:
    assert collapse.pooled(collapse.counts(runs(events, each)), MODELS)["verdict"].startswith(said)


def test_an_alternative_that_is_far_likelier_beats_t11() -> None:
    models = {"T11": flat(0.35, 0.35, 0.35, 0.35), "other": flat(0.5, 0.5, 0.5, 0.5)}
    found = collapse.pooled(collapse.counts(runs((24, 24, 24, 24), 50)), models)
    assert found["rms"] < collapse.EFFECT and found["verdict"] == "beaten by other"


def test_the_exact_p_counts_every_outcome() -> None:
    table = collapse.counts(runs((12, 0, 0, 0), 12)).query("steps == 450")
    assert collapse.exact_p(table, [0.5]) == pytest.approx(2 / 2**12)
    two = collapse.counts(runs((1, 1, 0, 0), 2)).query("steps <= 600")
    assert collapse.exact_p(two, [0.5, 0.5]) == pytest.approx(1.0)


def test_exponents_of_the_prior_width_come_out() -> None:
    found = collapse.exponents(collapse.prior_widths(runs((0, 0, 0, 0))))
    assert found["steps"] == pytest.approx((0.5,) * 3, abs=1e-6) and found["gamma"] == pytest.approx(
        (0.5,) * 3, abs=1e-6
    )
    with pytest.raises(ValueError, match="several steps and gammas"):
        collapse.exponents(collapse.prior_widths(runs((0, 0, 0, 0))).query("steps == 1200"))


def test_the_report_names_few_seeds_and_the_verdict() -> None:
    text = collapse.report(runs((2, 2, 2, 2), 4, noise=0.1), ROOT / "results")
    assert "2 of 4 (few)" in text and "cannot tell: 16 runs" in text
    assert "gamma 0.003 over 0.001, 1,200 steps: 1.73 [" in text


def test_cells_of_the_study_have_seeds_of_their_own() -> None:
    study = STUDIES["reading"]
    order = _runs(study, None, None)
    assert [cell for cell, _ in order[::20]] == [*study.cells] and len({seed for _, seed in order}) == len(order) == 80
    assert _runs(study, [[*study.cells][1]], [221, 220]) == [([*study.cells][1], seed) for seed in (220, 221)]
    with pytest.raises(ValueError, match="seed 200 belongs to none of the chosen cells"):
        _runs(study, [[*study.cells][1]], [200])


@pytest.mark.parametrize(("factor", "said"), [(0.1, "vanishes"), (0.6, "falls"), (1.0, "not shown")])
def test_the_floor_is_judged_by_the_paired_ratio(factor: float, said: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, size=(5, 2))
    found = [
        result(
            "posterior-std", cell, seed, 300, 0.003,
            {floor.LEAK: 0.01 * size * np.exp(noise[seed, i]), floor.NLL: 0.5, collapse.GAP: 0.0},
        )
        for seed in range(5)
        for i, (cell, size) in enumerate((("per-answer", 1.0), ("shared", factor)))
    ]  # fmt: skip
    assert floor.report(found).splitlines()[0].endswith(f"5 pairs: {said}")
    assert floor.ratio(found[:2])[3] == 1 and floor.verdict(0.1, np.nan, 1) == "not shown"


def test_the_text_of_the_results_is_that_of_the_analysis() -> None:
    study, root = STUDIES["reading"], ROOT / "results"
    results = study_results(study, root)
    text = " ".join((ROOT / "RESULTS.md").read_text(encoding="utf-8").split())
    table, models = collapse.counts(results), collapse.predictions(root)
    for row in table.itertuples():
        low, high = (100 * end for end in collapse.wilson(row.events, row.runs))
        shares = " | ".join(f"{100 * share(row.steps, row.gamma):.0f} %" for share in models.values())
        assert f"| {row.events} of {row.runs} | {low:.0f} to {high:.0f} % | {shares} |" in text
    found = collapse.pooled(table, models)
    assert " | ".join(f"{ratio:.2f}" for ratio in found["ratios"].values()) in text
    assert f"exact p = {found['p']:.2g}" in text and found["verdict"] in text
    widths = collapse.prior_widths([*collapse.older_runs(root), *results])
    for runs_, name in (
        (widths, f"all {len(widths)} AMVL runs"),
        (widths[~widths.event], f"{sum(~widths.event)} runs"),
    ):
        assert name in text
        for value, low, high in collapse.exponents(runs_).values():
            assert f"{value:.2f} ({low:.2f} to {high:.2f})" in text


def test_the_text_about_the_calculator_is_that_of_the_runs() -> None:
    results = study_results(STUDIES["reading"], ROOT / "results")
    every, later, last = (
        [forecasts.Run.of(r) for r in results if start <= r.seed < stop]
        for start, stop in ((200, 240), (240, 260), (260, 280))
    )
    ratios = forecasts.growth_ratios(every)
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    assert sum(run.takeover is not None for run in every) == 9 and len(every) == 20
    assert (len(ratios), round(middle, 2), round(low, 2), round(high, 1)) == (52, 0.24, 0.03, 2.1)
    labels = [forecasts.outcome(run.said_at(share), run.takeover) for run in every for share in forecasts.SHARES]
    assert labels.count("warned, read") == 2
    assert {*labels} == {"read already", "cannot tell", "warned, read"}  # no false alarm, no false promise
    said = [(run.said_at(share), run.takeover) for run in later for share in forecasts.SHARES]
    labels = [forecasts.outcome(*both) for both in said]
    assert len(later) == 5 and {*labels} == {"read already", "cannot tell", "warned, read", "safe, not read"}
    (warned,) = (both for both, label in zip(said, labels, strict=True) if label == "warned, read")
    assert (warned[0].step, warned[0].takeover, warned[1]) == (720, 751, 760)
    labels = [forecasts.outcome(run.said_at(share), run.takeover) for run in last for share in forecasts.SHARES]
    assert (len(last), sum(run.takeover is not None for run in last)) == (5, 2)  # of five more two came to read
    assert {*labels} == {"read already", "cannot tell"}  # without a warning


def test_the_text_about_the_floor_is_that_of_the_runs() -> None:
    text = " ".join((ROOT / "RESULTS.md").read_text(encoding="utf-8").split())
    results = study_results(STUDIES["posterior-std"], ROOT / "results")
    value, low, high, pairs = floor.ratio(results)
    assert f"{value:.2f} ({low:.2f} to {high:.2f})" in text and pairs == 5
    assert f"the floor {floor.verdict(value, high, pairs)}" in text

"""The table of a study: t intervals over seeds, paired differences, Holm's correction, and figures that are not there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from amvl_model.results.files import Metric, Result
from amvl_model.results.frame import tidy
from amvl_model.results.seeds import COLUMNS, by_seed, differences, holm, interval, paired_differences, table

LEAK = "held_out.leaked_information"


def result(cell: str, seed: int, leak: float | None) -> Result:
    return Result(
        study="s", cell=cell, seed=seed, config={}, metrics={LEAK: Metric(leak, "nats")}, wall_seconds=1.0,
        device="cpu", commit=None, dirty=None, versions={}, created="",
    )  # fmt: skip


def runs() -> list[Result]:
    """Seeds differ by a whole nat, cell b is 0.1 below a in every seed, give or take; c is like a."""
    noise = np.random.default_rng(0).normal(0, 0.005, size=(2, 5))
    return [
        item
        for seed in range(5)
        for item in (
            result("a", seed, 1.0 + seed),
            result("b", seed, 0.9 + seed + noise[0, seed]),
            result("c", seed, 1.0 + seed + noise[1, seed]),
        )
    ]


def results() -> pd.DataFrame:
    return tidy(runs())


def test_intervals_are_students_t() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert interval(values) == pytest.approx(stats.t.interval(0.95, 4, loc=3, scale=stats.sem(values)))
    assert interval([2.0]) == (2.0, 2.0)


def test_holm_is_that_of_statsmodels() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert len(holm(np.array([]))) == 0
    p_values = np.random.default_rng(0).random((10, 7)) ** 3
    for item in p_values:
        assert (holm(item) == multipletests(item, method="holm")[1]).all()


def test_pairing_by_seed_sees_what_the_spread_between_seeds_hides() -> None:
    result = differences(results(), LEAK, "a")
    assert [*result.index] == ["b", "c"]
    assert result["mean"].b == pytest.approx(-0.1, abs=0.01) and result.high.b < 0
    assert result.p.b < result.adjusted.b < 0.05 < result.adjusted.c
    assert interval(by_seed(results(), LEAK).b)[1] > 1.0


def test_seeds_that_only_one_cell_has_do_not_count() -> None:
    result = differences(tidy([run for run in runs() if not (run.cell == "b" and run.seed > 0)]), LEAK, "a")
    assert result.n.b == 1 and result.loc["b", ["low", "high", "p", "adjusted"]].isna().all()


def test_equal_differences_need_no_variance() -> None:
    same = [result(cell, seed, value) for seed in range(3) for cell, value in (("a", 1.0), ("b", 0.5), ("c", 1.0))]
    assert differences(tidy(same), LEAK, "a").p.to_dict() == {"b": 0.0, "c": 1.0}


def test_differences_that_are_equal_but_for_rounding_count_as_equal() -> None:
    shares = [(0.94, 0.935), (0.955, 0.95), (0.96, 0.955)]
    close = [result(cell, seed, pair[i]) for seed, pair in enumerate(shares) for i, cell in enumerate("ab")]
    assert np.ptp([b - a for a, b in shares]) > 0
    assert differences(tidy(close), LEAK, "a").p.b == 0.0


def test_pairs_are_corrected_together_and_a_pair_without_common_seeds_is_nan() -> None:
    result = paired_differences(results(), LEAK, [("b", "a"), ("c", "a"), ("b", "never run")])
    assert result.n.tolist() == [5, 5, 0] and result.drop(columns="n").loc[2].isna().all()
    assert result.adjusted[0] == pytest.approx(2 * result.p[0])
    assert result.loc[0].tolist() == differences(results(), LEAK, "a").loc["b"].tolist()
    assert paired_differences(results(), "never measured", [("b", "a")]).n.tolist() == [0]


def test_the_table_has_units_every_cell_and_dashes_where_nothing_was_measured() -> None:
    text = table(tidy([*runs(), result("d", 0, None)]), cells=("d", "c", "b", "a", "never run"), against="a")
    means, compared = text.split("\n\n")
    assert all(column.label in means for column in COLUMNS) and "[nats]" in means
    assert [line.split()[0] for line in means.splitlines()[2:]] == ["d", "c", "b", "a"]
    assert means.splitlines()[2].split()[2] == "-"
    assert "minus a" in compared and "p=" in compared and "Holm" in compared


def test_unknown_cells_and_no_results_are_refused() -> None:
    with pytest.raises(ValueError, match="no results of the cell 'z'"):
        table(results(), against="z")
    with pytest.raises(ValueError, match="at least one result"):
        table(tidy([]))

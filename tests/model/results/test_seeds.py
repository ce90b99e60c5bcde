"""The table of a study: t intervals over seeds, paired differences, Holm's correction, and figures that are not there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from amvl_model.results.files import Metric, Result
from amvl_model.results.seeds import COLUMNS, by_cell, differences, holm, paired_differences, student, table

LEAK = "held_out.leaked_information"


def result(cell: str, seed: int, leak: float | None) -> Result:
    return Result(
        study="s", cell=cell, seed=seed, config={}, metrics={LEAK: Metric(leak, "nats")}, wall_seconds=1.0,
        device="cpu", commit=None, dirty=None, versions={}, created="",
    )  # fmt: skip


def results() -> list[Result]:
    """Seeds differ by a whole nat, cell b is 0.1 below a in every seed, give or take; c is like a."""
    noise = np.random.default_rng(0).normal(0, 0.005, size=(2, 5))
    return [
        each
        for seed in range(5)
        for each in (
            result("a", seed, 1.0 + seed),
            result("b", seed, 0.9 + seed + noise[0, seed]),
            result("c", seed, 1.0 + seed + noise[1, seed]),
        )
    ]


def test_intervals_are_students_t() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    low, high = stats.t.interval(0.95, 4, loc=3, scale=stats.sem(values))
    found = student(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert student([2.0]).low is None
    with pytest.raises(ValueError, match="at least one seed"):
        student([])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairing_by_seed_sees_what_the_spread_between_seeds_hides() -> None:
    found = differences(results(), LEAK, "a")
    assert found.keys() == {"b", "c"}
    assert found["b"].interval.mean == pytest.approx(-0.1, abs=0.01) and found["b"].interval.excludes_zero
    assert found["b"].p is not None and found["b"].adjusted is not None
    assert found["b"].p < found["b"].adjusted < 0.05 < (found["c"].adjusted or 0)
    assert not student([*by_cell(results(), LEAK)["b"].values()]).high < 1.0  # type: ignore[operator]


def test_seeds_that_only_one_cell_has_do_not_count() -> None:
    some = [each for each in results() if not (each.cell == "b" and each.seed > 0)]
    found = differences(some, LEAK, "a")
    assert found["b"].interval.n == 1 and found["b"].p is None and found["b"].adjusted is None


def test_equal_differences_need_no_variance() -> None:
    same = [result(cell, seed, value) for seed in range(3) for cell, value in (("a", 1.0), ("b", 0.5), ("c", 1.0))]
    found = differences(same, LEAK, "a")
    assert found["b"].p == 0.0 and found["c"].p == 1.0


def test_differences_that_are_equal_but_for_rounding_count_as_equal() -> None:
    shares = [(0.94, 0.935), (0.955, 0.95), (0.96, 0.955)]
    runs = [result(cell, seed, pair[i]) for seed, pair in enumerate(shares) for i, cell in enumerate("ab")]
    assert np.ptp([b - a for a, b in shares]) > 0
    assert differences(runs, LEAK, "a")["b"].p == 0.0


def test_pairs_are_corrected_together_and_a_pair_without_common_seeds_is_none() -> None:
    found = paired_differences(results(), LEAK, [("b", "a"), ("c", "a"), ("b", "never run")])
    assert found[2] is None and found[0] is not None and found[1] is not None
    assert found[0].p is not None and found[0].adjusted == pytest.approx(2 * found[0].p)
    assert found[0] == differences(results(), LEAK, "a")["b"]


def test_the_table_has_units_every_cell_and_dashes_where_nothing_was_measured() -> None:
    text = table([*results(), result("d", 0, None)], cells=("d", "c", "b", "a", "never run"), against="a")
    means, compared = text.split("\n\n")
    assert all(column.label in means for column in COLUMNS) and "[nats]" in means
    assert [line.split()[0] for line in means.splitlines()[2:]] == ["d", "c", "b", "a"]
    assert means.splitlines()[2].split()[2] == "-"
    assert "minus a" in compared and "p=" in compared and "Holm" in compared


def test_unknown_cells_and_no_results_are_refused() -> None:
    with pytest.raises(ValueError, match="no results of the cell 'z'"):
        table(results(), against="z")
    with pytest.raises(ValueError, match="at least one result"):
        table([])

"""Accuracies, their chance levels, and the coverage of their intervals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from amvl_model.results.statistics import (
    Interval,
    accuracy_report,
    bootstrap_mean,
    bootstrap_ratio,
    paired_difference,
    unpaired_difference,
)


def _questions(task: str, right: int, n: int, options: int) -> tuple[list[bool], list[str], list[int]]:
    return [True] * right + [False] * (n - right), [task] * n, [options] * n


def _two_tasks() -> tuple[list[bool], list[str], list[int]]:
    first, second = _questions("Counting", 75, 100, 4), _questions("Jigsaw", 10, 20, 2)
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]


def test_unweighted_mean_counts_tasks_and_weighted_mean_counts_questions() -> None:
    report = accuracy_report(*_two_tasks())
    assert report.unweighted.mean == pytest.approx((0.75 + 0.5) / 2)
    assert report.weighted.mean == pytest.approx(85 / 120)
    assert [task.task for task in report.tasks] == ["Counting", "Jigsaw"]
    assert report.n == 120


def test_normalised_accuracy_is_zero_at_chance_and_one_when_all_is_right() -> None:
    report = accuracy_report(*_two_tasks())
    counting, jigsaw = report.tasks
    assert counting.chance == 0.25
    assert jigsaw.chance == 0.5
    assert counting.normalised is not None
    assert jigsaw.normalised is not None
    assert counting.normalised.mean == pytest.approx((0.75 - 0.25) / 0.75)
    assert jigsaw.normalised.mean == pytest.approx(0.0)
    assert report.unweighted_normalised is not None
    assert report.unweighted_normalised.mean == pytest.approx(1 / 3)
    assert report.chance == pytest.approx(0.375)
    perfect = accuracy_report(*_questions("Counting", 10, 10, 4)).tasks[0].normalised
    assert perfect is not None
    assert perfect.mean == 1.0


def test_normalised_interval_follows_the_accuracy_interval() -> None:
    task = accuracy_report(*_two_tasks()).tasks[0]
    assert task.normalised is not None
    assert task.accuracy.low is not None
    assert task.normalised.low == pytest.approx((task.accuracy.low - 0.25) / 0.75)


def test_chance_averages_over_questions_with_different_numbers_of_options() -> None:
    report = accuracy_report([True, False], ["t", "t"], [2, 4])
    assert report.tasks[0].chance == pytest.approx(0.375)


def test_open_questions_have_no_chance_level() -> None:
    report = accuracy_report([True, False, True], ["open", "open", "closed"], [0, 0, 4])
    assert report.tasks[0].chance is None
    assert report.tasks[0].normalised is None
    assert report.tasks[1].normalised is not None
    assert report.chance is None
    assert report.unweighted_normalised is None
    assert "-" in report.table()


def test_unread_replies_count_as_wrong_and_are_reported() -> None:
    report = accuracy_report([True, None, False, None], ["a", "a", "b", "b"], [2, 2, 2, 2])
    assert report.weighted.mean == 0.25
    assert report.unparsed == 2
    assert [task.unparsed for task in report.tasks] == [1, 1]


def test_wilson_interval_equals_the_published_value() -> None:
    """Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662 at 95 %."""
    accuracy = accuracy_report(*_questions("t", 81, 263, 4)).tasks[0].accuracy
    assert accuracy.low == pytest.approx(0.2553, abs=5e-5)
    assert accuracy.high == pytest.approx(0.3662, abs=5e-5)


def test_interval_of_a_perfect_task_is_no_point() -> None:
    accuracy = accuracy_report(*_questions("t", 10, 10, 4)).tasks[0].accuracy
    assert accuracy.high == 1.0
    assert accuracy.low is not None
    assert accuracy.low == pytest.approx(1 / (1 + 1.959964**2 / 10), abs=1e-6)


@pytest.mark.parametrize("estimate", ["bootstrap_mean", "weighted", "unweighted"])
def test_bootstrap_covers_the_truth_of_a_binomial_as_often_as_it_says(estimate: str) -> None:
    """300 sets of 200 questions in two tasks, each right with probability 0.7, 90 % intervals.

    The number of intervals that cover is binomial (300, about 0.9), with a standard error of 0.017; the tolerance is
    three of these and 0.01 for the percentile method and the discreteness of 200 questions.
    """
    rng = np.random.default_rng(5)
    tasks = ["a"] * 100 + ["b"] * 100
    covered = 0
    for seed in range(300):
        outcomes = rng.random(200) < 0.7
        if estimate == "bootstrap_mean":
            interval = bootstrap_mean(outcomes, n_bootstrap=300, seed=seed, level=0.9)
        else:
            report = accuracy_report(list(outcomes), tasks, [4] * 200, n_bootstrap=300, seed=seed, level=0.9)
            interval = getattr(report, estimate)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.7 <= interval.high
    assert covered / 300 == pytest.approx(0.9, abs=3 * math.sqrt(0.9 * 0.1 / 300) + 0.01)


def test_bootstrap_ends_equal_the_normal_approximation() -> None:
    """1000 questions, 60 % right: standard error 0.01549; the half widths of 20,000 resamples agree to 5 %."""
    values = [1.0] * 600 + [0.0] * 400
    expected = 1.959964 * math.sqrt(0.6 * 0.4 / 1000)
    report = accuracy_report([v == 1.0 for v in values], ["t"] * 1000, [4] * 1000, n_bootstrap=20_000)
    for interval in (bootstrap_mean(values, n_bootstrap=20_000), report.weighted, report.unweighted):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.mean - interval.low == pytest.approx(expected, rel=0.05)
        assert interval.high - interval.mean == pytest.approx(expected, rel=0.05)


def test_resampling_within_tasks_leaves_out_the_spread_between_tasks() -> None:
    """One task all right, one all wrong: no question varies within its task, so the stratified interval is a point."""
    first, second = _questions("easy", 50, 50, 4), _questions("hard", 0, 50, 4)
    report = accuracy_report(first[0] + second[0], first[1] + second[1], first[2] + second[2])
    assert (report.weighted.low, report.weighted.mean, report.weighted.high) == (0.5, 0.5, 0.5)
    values, tasks = [1.0] * 50 + [0.0] * 50, ["easy"] * 50 + ["hard"] * 50
    assert bootstrap_mean(values, tasks=tasks).low == 0.5
    plain = bootstrap_mean(values)
    assert plain.low is not None
    assert plain.low < 0.45


def test_same_seed_gives_the_same_report_and_another_seed_the_same_estimates() -> None:
    assert accuracy_report(*_two_tasks(), seed=3) == accuracy_report(*_two_tasks(), seed=3)
    a, b = accuracy_report(*_two_tasks(), seed=3), accuracy_report(*_two_tasks(), seed=4)
    assert a.unweighted.mean == b.unweighted.mean
    assert a.unweighted != b.unweighted


def test_higher_level_gives_a_wider_interval() -> None:
    narrow, wide = (accuracy_report(*_two_tasks(), level=level).weighted for level in (0.5, 0.99))
    assert None not in (narrow.low, narrow.high, wide.low, wide.high)
    assert wide.low < narrow.low < narrow.high < wide.high  # type: ignore[operator]


def test_chunked_resampling_equals_resampling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(50.0)
    at_once = bootstrap_mean(values, n_bootstrap=101)
    monkeypatch.setattr("amvl_model.results.statistics._CHUNK", 700)
    assert bootstrap_mean(values, n_bootstrap=101) == at_once


def test_paired_difference_cancels_what_the_systems_share() -> None:
    """The spread of the difference is 0.1, of each system 10: the paired interval must show the former."""
    rng = np.random.default_rng(0)
    shared, noise = 10 * rng.standard_normal(400), 0.1 * rng.standard_normal(400)
    interval = paired_difference(shared + 0.5 + noise, shared)
    assert interval.mean == pytest.approx(0.5 + noise.mean())
    assert interval.low is not None
    assert interval.high is not None
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.1 / math.sqrt(400), rel=0.2)
    assert interval.low > 0
    assert interval.n == 400


def test_paired_difference_changes_sign_with_the_order() -> None:
    a, b, tasks = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], ["s", "s", "t", "t"]
    assert paired_difference(a, b, tasks=tasks).mean == pytest.approx(0.5)
    assert paired_difference(b, a, tasks=tasks).mean == pytest.approx(-0.5)


def test_paired_difference_of_a_system_with_itself_is_exactly_zero() -> None:
    interval = paired_difference([True, False, True], [True, False, True])
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_unpaired_difference_has_the_spread_of_both_sets() -> None:
    rng = np.random.default_rng(0)
    a, b = 1 + 3 * rng.standard_normal(900), 4 * rng.standard_normal(400)
    interval = unpaired_difference(a, b)
    assert interval.mean == pytest.approx(a.mean() - b.mean())
    assert interval.low is not None
    assert interval.high is not None
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * math.hypot(3 / 30, 4 / 20), rel=0.15)
    assert interval.n == 1300
    assert unpaired_difference([1.0], [0.0, 1.0]) == Interval(mean=0.5, low=None, high=None, n=3)
    with pytest.raises(ValueError, match="at least one value"):
        unpaired_difference([], [1.0])


def test_a_ratio_is_of_sums_and_its_interval_covers_the_truth() -> None:
    assert bootstrap_ratio([1.0, 5.0, 0.0], [0.0, 2.0, 1.0]).mean == pytest.approx(2.0)
    rng, covered = np.random.default_rng(1), 0
    for seed in range(100):
        below = rng.exponential(size=60)
        interval = bootstrap_ratio(0.7 * below + 0.5 * rng.standard_normal(60), below, n_bootstrap=300, seed=seed)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.7 <= interval.high
    assert 86 <= covered <= 100  # 95 expected; standard error 2.2, a percentile bootstrap of 60 covers a little less
    assert bootstrap_ratio([1.0, 2.0], [0.0, 4.0]).low is None  # one question decides


@pytest.mark.parametrize(
    ("above", "below", "message"),
    [
        ([1.0], [1.0, 2.0], "one length"),
        ([], [], "at least one value"),
        ([1.0, 1.0], [0.0, 0.0], "some above 0"),
        ([1.0, 1.0], [1.0, -1.0], "at least 0"),
        ([1.0, math.nan], [1.0, 1.0], "finite"),
    ],
)
def test_what_has_no_ratio_is_refused(above: list[float], below: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_ratio(above, below)


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 1.0, False)]
)
def test_an_interval_says_whether_it_leaves_out_zero(low: float, high: float, excluded: bool) -> None:
    assert Interval(mean=0.0, low=low, high=high, n=9).excludes_zero is excluded
    assert not Interval(mean=3.0, low=None, high=None, n=1).excludes_zero


def test_one_value_has_a_mean_but_no_interval() -> None:
    interval = bootstrap_mean([2.5])
    assert (interval.mean, interval.low, interval.high, interval.n) == (2.5, None, None, 1)


def test_means_have_no_interval_where_a_task_has_one_question() -> None:
    report = accuracy_report([True, False, True], ["a", "a", "b"], [2, 2, 2])
    assert (report.unweighted.mean, report.unweighted.low, report.unweighted.high) == (0.75, None, None)
    assert report.tasks[1].accuracy.low is not None
    assert bootstrap_mean([1.0, 2.0, 3.0], tasks=["a", "a", "b"]).low is None


def test_report_is_json_and_its_table_has_a_line_per_task_and_both_means() -> None:
    report = accuracy_report([True, None, False], ["a", "a", "b"], [2, 2, 4])
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["tasks"][0]["unparsed"] == 1
    assert stored["unweighted"]["mean"] == 0.25
    table = report.table().splitlines()
    assert [line.split()[0] for line in table if not line.startswith("-")] == ["task", "a", "b", "mean", "mean"]
    assert len({len(line) for line in table}) == 1
    assert "95% interval" in table[0]
    assert "33.3%" in table[-1]


def test_no_questions_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        accuracy_report([], [], [])
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="at least one value"):
        paired_difference([], [])


def test_bad_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="one entry per question"):
        accuracy_report([True], ["a", "b"], [2])
    with pytest.raises(TypeError, match="True, False or None"):
        accuracy_report([0.5], ["a"], [2])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="number of options"):
        accuracy_report([True], ["a"], [-1])
    with pytest.raises(ValueError, match="level"):
        accuracy_report([True], ["a"], [2], level=95)
    with pytest.raises(ValueError, match="n_bootstrap"):
        bootstrap_mean([1.0], n_bootstrap=0)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([1.0, math.nan])
    with pytest.raises(ValueError, match="one task per value"):
        bootstrap_mean([1.0, 2.0], tasks=["a"])
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([1.0, 2.0], [1.0])

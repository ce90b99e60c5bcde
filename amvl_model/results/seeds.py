"""Any study as a table: every cell's mean over seeds, and its difference from one cell, seed by seed.

Intervals are Student's t over the n seeds that have the figure:

    mean        m +- t(0.975, n - 1) s / sqrt(n)
    difference  the same of d_k = cell_k - against_k over the seeds k that both have (paired: a seed sets weights and data)
    p           two-sided t test of the differences, adjusted by Holm's step-down over all cells compared in that figure:
                p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)       (Holm 1979)

A figure that a cell lacks, or an interval of fewer than two seeds, is "-".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from amvl_model.results.files import Result
from amvl_model.results.statistics import Interval

_ROUNDING = 1e-12
"""Spread of differences below which it is rounding: accuracies are counts over a number of questions."""


@dataclass(frozen=True)
class Column:
    """One figure of the table.

    Attributes:
        label: its heading, with the unit.
        metric: its name in the result files.
        scale: what the stored figure is multiplied by (100 for percent).
        form: format of the numbers.
    """

    label: str
    metric: str
    scale: float = 1.0
    form: str = ".3f"


COLUMNS = (
    Column("leaked [nats]", "held_out.leaked_information"),
    Column("answer NLL, prior mean [nats]", "answer_nll"),
    Column("accuracy [%]", "accuracy", 100, ".1f"),
    Column("zeroed - intact [points]", "zeroed.accuracy_difference", 100, ".1f"),
    Column("shuffled - intact [points]", "shuffled.accuracy_difference", 100, ".1f"),
    Column("shuffled - intact [nats]", "shuffled.nll_difference"),
    Column("prior's spread [latent units]", "held_out.prior_spread", 1, ".2f"),
    Column("KL(q||p) [nats]", "held_out.forward_kl", 1, ".2f"),
    Column("KL(p||q) [nats]", "held_out.reverse_kl", 1, ".2f"),
    Column("shifted set: accuracy [%]", "out_of_distribution.accuracy", 100, ".1f"),
    Column("shifted set: NLL [nats]", "out_of_distribution.answer_nll"),
)
CHECKPOINT_COLUMNS = {
    "sampled": (
        Column("accuracy [%]", "prior_sample.accuracy", 100, ".1f"),
        Column("answer NLL [nats]", "prior_sample.answer_nll"),
        Column("shifted set: accuracy [%]", "out_of_distribution.prior_sample.accuracy", 100, ".1f"),
        Column("shifted set: NLL [nats]", "out_of_distribution.prior_sample.answer_nll"),
    ),
    "answer_direction": (
        Column("own label's weight, training [1]", "answer_direction.training.leverage", 1, ".2f"),
        Column("own-label contrast, training [1]", "answer_direction.training.own_label", 1, ".2f"),
        Column("contrast, training [1]", "answer_direction.training.contrast", 1, ".2f"),
        Column("contrast, held out [1]", "answer_direction.held_out.contrast", 1, ".2f"),
        Column("shifted set: accuracy [%]", "out_of_distribution.accuracy", 100, ".1f"),
    ),
}
"""Of studies that evaluate kept checkpoints, by the first of their measures."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A cell's difference from another in one figure.

    Attributes:
        interval: mean and 95 % interval over the seeds that both have.
        p: of the t test, None with fewer than two seeds.
        adjusted: p after Holm's correction over the cells compared.
    """

    interval: Interval
    p: float | None
    adjusted: float | None


def student(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over seeds with Student's t interval; no ends with fewer than two seeds.

    Raises:
        ValueError: for no values.
    """
    if len(values) == 0:
        raise ValueError("expected at least one seed's value, got none")
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean=mean, low=None, high=None, n=len(array))
    half = float(stats.t.ppf(0.5 + level / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Interval(mean=mean, low=mean - half, high=mean + half, n=len(array))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def by_cell(results: Sequence[Result], metric: str) -> dict[str, dict[int, float]]:
    """Per cell, the figure of every seed that has it."""
    found: dict[str, dict[int, float]] = {}
    for result in results:
        seeds = found.setdefault(result.cell, {})
        figure = result.metrics.get(metric)
        if figure is not None and figure.value is not None:
            seeds[result.seed] = figure.value
    return found


def differences(results: Sequence[Result], metric: str, against: str) -> dict[str, Difference]:
    """Every cell's paired difference from ``against`` in one figure, Holm-corrected over the cells.

    Raises:
        ValueError: if there is no such cell.
    """
    cells = by_cell(results, metric)
    if against not in cells:
        raise ValueError(f"there are no results of the cell {against!r}; there are {', '.join(sorted(cells))}")
    pairs = [(name, against) for name in cells if name != against]
    found = paired_differences(results, metric, pairs)
    return {name: each for (name, _), each in zip(pairs, found, strict=True) if each is not None}


def paired_differences(
    results: Sequence[Result], metric: str, pairs: Sequence[tuple[str, str]]
) -> list[Difference | None]:
    """First cell minus second cell of every pair in one figure, Holm-corrected over the pairs; None without a common seed."""
    cells = by_cell(results, metric)
    values = []
    for name, other in pairs:
        first, second = cells.get(name, {}), cells.get(other, {})
        values.append([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])
    p_values = [_p_value(each) for each in values]
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [
        Difference(interval=student(each), p=p, adjusted=None if p is None else next(adjusted)) if each else None
        for each, p in zip(values, p_values, strict=True)
    ]


def _p_value(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    if np.ptp(values) <= _ROUNDING:
        return 1.0 if abs(values[0]) <= _ROUNDING else 0.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def table(
    results: Sequence[Result],
    *,
    cells: Sequence[str] | None = None,
    against: str | None = None,
    columns: Sequence[Column] = COLUMNS,
) -> str:
    """Plain text: means of every cell, then (with ``against``) the paired differences from it.

    Args:
        results: of a study.
        cells: their order; cells without results are left out. None: in alphabetical order.
        against: the cell that the others are compared with.
        columns: which figures.

    Raises:
        ValueError: for no results, or an unknown ``against``.
    """
    if not results:
        raise ValueError("expected at least one result, got none; run the study first")
    there = {result.cell for result in results}
    names = [name for name in (sorted(there) if cells is None else cells) if name in there]
    figures = [by_cell(results, column.metric) for column in columns]
    seeds = {name: sum(result.cell == name for result in results) for name in names}
    rows = [["cell", "seeds", *(column.label for column in columns)]]
    rows += [
        [
            name,
            str(seeds[name]),
            *(
                _cell(student([*figure[name].values()]) if figure[name] else None, column, sign="")
                for figure, column in zip(figures, columns, strict=True)
            ),
        ]
        for name in names
    ]
    text = _aligned(rows)
    if against is None or len(names) < 2:
        return text
    compared = [differences(results, column.metric, against) for column in columns]
    rows = [[f"minus {against}", *(column.label for column in columns)]]
    for name in names:
        if name != against:
            each = [(found.get(name), column) for found, column in zip(compared, columns, strict=True)]
            rows.append([name, *(_difference(value, column) for value, column in each)])
    return f"{text}\n\n{_aligned(rows)}\n95 % intervals over seeds; p: paired t test, Holm-corrected over the cells"


def _cell(interval: Interval | None, column: Column, *, sign: str) -> str:
    if interval is None:
        return "-"
    form = f"{sign}{column.form}"
    mean = f"{column.scale * interval.mean:{form}}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{column.scale * interval.low:{form}}, {column.scale * interval.high:{form}}]"


def _difference(value: Difference | None, column: Column) -> str:
    if value is None:
        return "-"
    p = "" if value.adjusted is None else f" p={value.adjusted:.2g}"
    return _cell(value.interval, column, sign="+") + p


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student t interval of the mean over seeds; the mean twice with fewer than two seeds."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half

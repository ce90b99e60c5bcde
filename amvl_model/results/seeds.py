"""A study as a table: every cell's mean over seeds, and its difference from one cell, paired by seed.

Intervals are Student's t over the n seeds that have the metric:

    mean        m +- t(0.975, n - 1) s / sqrt(n)
    difference  the same of d_k = cell_k - against_k over the seeds k that both have (paired: a seed sets weights and data)
    p           two-sided t test of the differences, adjusted by Holm's step-down over all cells compared in that metric:
                p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)       (Holm 1979)

shifted-25 and shifted-50 are the shifted set (ShiftedBlink) with 25 and 50 questions a task: of trained runs, and of kept
checkpoints whose latents are sampled. They have different figures for the same model and are not to be compared.

A cell without the metric shows "-"; with one seed there is no interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from amvl_model.results.text import text_table

_ROUNDING = 1e-12
"""Spread of differences below which it is rounding: accuracies are counts over a number of questions."""


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        label: heading, with the unit.
        metric: name in the result files.
        scale: factor on the stored value (100 for percent).
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
    Column("shifted-25: accuracy [%]", "out_of_distribution.accuracy", 100, ".1f"),
    Column("shifted-25: NLL [nats]", "out_of_distribution.answer_nll"),
)
CHECKPOINT_COLUMNS = {
    "sampled": (
        Column("accuracy [%]", "prior_sample.accuracy", 100, ".1f"),
        Column("answer NLL [nats]", "prior_sample.answer_nll"),
        Column("shifted-50: accuracy [%]", "out_of_distribution.prior_sample.accuracy", 100, ".1f"),
        Column("shifted-50: NLL [nats]", "out_of_distribution.prior_sample.answer_nll"),
    ),
    "answer_direction": (
        Column("own label's weight, training [1]", "answer_direction.training.leverage", 1, ".2f"),
        Column("own-label contrast, training [1]", "answer_direction.training.own_label", 1, ".2f"),
        Column("contrast, training [1]", "answer_direction.training.contrast", 1, ".2f"),
        Column("contrast, held out [1]", "answer_direction.held_out.contrast", 1, ".2f"),
        Column("shifted-25: accuracy [%]", "out_of_distribution.accuracy", 100, ".1f"),
    ),
}
"""Columns of studies that evaluate saved checkpoints, by the first of their measures."""


def interval(values: Sequence[float] | np.ndarray | pd.Series, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean over seeds; the mean twice with fewer than two seeds."""
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.5 + level / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return mean - half, mean + half


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values, in the order given (statsmodels' multipletests collects garbage in every call: 80 ms)."""
    order = np.argsort(p_values)
    adjusted = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted[np.argsort(order)]


def by_seed(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric of a study's tidy results: a row per seed, a column per cell, NaN where a cell has no value."""
    cells = results.cell.drop_duplicates()
    return results[results.metric == metric].pivot(index="seed", columns="cell", values="value").reindex(columns=cells)


def paired_differences(
    results: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]], level: float = 0.95
) -> pd.DataFrame:
    """First cell minus second cell of every pair in one metric, over the seeds that both have.

    Returns:
        a row per pair: mean, low, high, n, p, and p adjusted by Holm over the pairs. NaN (n: 0) where the cells have no
        seed in common; low, high and the two p are NaN with one seed.
    """
    values = by_seed(results, metric)
    first, second = (values.reindex(columns=[pair[i] for pair in pairs]).to_numpy() for i in (0, 1))
    rows = []
    for result in (first - second).T:
        result = result[np.isfinite(result)]
        low, high = interval(result, level) if len(result) > 1 else (np.nan, np.nan)
        rows.append((result.mean() if len(result) else np.nan, low, high, len(result), _p_value(result)))
    table = pd.DataFrame(rows, columns=["mean", "low", "high", "n", "p"])
    tested = table.p.notna()
    table.loc[tested, "adjusted"] = holm(table.p[tested].to_numpy())
    return table


def differences(results: pd.DataFrame, metric: str, against: str) -> pd.DataFrame:
    """`paired_differences` of every other cell from ``against``, by cell.

    Raises:
        ValueError: if there is no such cell.
    """
    cells = [*results.cell.drop_duplicates()]
    if against not in cells:
        raise ValueError(f"there are no results of the cell {against!r}; there are {', '.join(sorted(cells))}")
    cells.remove(against)
    return paired_differences(results, metric, [(cell, against) for cell in cells]).set_axis(cells)


def _p_value(values: np.ndarray) -> float:
    if len(values) < 2:
        return np.nan
    if np.ptp(values) <= _ROUNDING:
        return 1.0 if abs(values[0]) <= _ROUNDING else 0.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def table(
    results: pd.DataFrame,
    *,
    cells: Sequence[str] | None = None,
    against: str | None = None,
    columns: Sequence[Column] = COLUMNS,
) -> str:
    """Plain text: means of every cell, then (with ``against``) the paired differences from it.

    Args:
        results: of a study, tidy.
        cells: their order; cells without results are left out. None: in alphabetical order.
        against: the cell that the others are compared with.
        columns: the metrics shown.

    Raises:
        ValueError: for no results, or an unknown ``against``.
    """
    if results.empty:
        raise ValueError("expected at least one result, got none; run the study first")
    seeds = results.groupby("cell").seed.nunique()
    names = [name for name in (seeds.index if cells is None else cells) if name in seeds]
    labels = [column.label for column in columns]
    values = [(column, by_seed(results, column.metric)) for column in columns]
    means = [[name, str(seeds[name]), *(_mean(result[name].dropna(), c) for c, result in values)] for name in names]
    text = text_table(means, ["cell", "seeds", *labels])
    if against is None or len(names) < 2:
        return text
    compared = [(column, differences(results, column.metric, against)) for column in columns]
    others = [name for name in names if name != against]
    rows = [[name, *(_difference(result.loc[name], column) for column, result in compared)] for name in others]
    return (
        f"{text}\n\n{text_table(rows, [f'minus {against}', *labels])}\n"
        "95 % intervals over seeds; p: paired t test, Holm-corrected over the cells"
    )


def _mean(values: pd.Series, column: Column) -> str:
    if values.empty:
        return "-"
    ends = interval(values) if len(values) > 1 else (np.nan, np.nan)
    return _cell(float(np.mean(values.to_numpy())), *ends, column, column.form)


def _difference(row: pd.Series, column: Column) -> str:
    if row.n == 0:
        return "-"
    p = "" if np.isnan(row.adjusted) else f" p={row.adjusted:.2g}"
    return _cell(row["mean"], row.low, row.high, column, f"+{column.form}") + p


def _cell(mean: float, low: float, high: float, column: Column, form: str) -> str:
    text = f"{column.scale * mean:{form}}"
    return text if np.isnan(low) else f"{text} [{column.scale * low:{form}}, {column.scale * high:{form}}]"

"""What the tables share: cells over seeds and over questions, and a table as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from amvl_model.results.seeds import interval
from paper_figs.build import Drawn

NOT_RUN = "not run"
NO_VALUE = "–"

Head = tuple[str, str]
"""Group of a column ("reported", "ours"; neighbours of one group share a heading), and its name with the unit."""

SEEDS: Head = ("", "seeds")
_LATEX = str.maketrans(
    {each: f"\\{each}" for each in "&%_#$"} | {"−": "$-$", "–": "--", "γ": r"$\gamma$", "β": r"$\beta$"}
)


def drawn(title: str, table: pd.DataFrame, notes: Sequence[str], *, left: int = 1) -> Drawn:
    """A table of texts in all forms.

    Args:
        title: caption.
        table: a column per `Head`.
        notes: below the table.
        left: number of columns at the left that contain text; the others are aligned to the right.
    """
    flat = table.set_axis([f"{group}: {name}" if group else name for group, name in table], axis=1)
    sides = ["left"] * left + ["right"] * (table.shape[1] - left)
    lines = flat.to_markdown(index=False, disable_numparse=True, colalign=sides)
    markdown = "\n".join([f"**{title}**", "", lines, "", *(f"- {note}" for note in notes)]) + "\n"
    return Drawn(None, {".md": markdown, ".tex": _latex(title, table, notes, left), ".csv": flat.to_csv(index=False)})


def _latex(title: str, table: pd.DataFrame, notes: Sequence[str], left: int) -> str:
    heads = pd.MultiIndex.from_tuples([(group.translate(_LATEX), name.translate(_LATEX)) for group, name in table])
    cells = table.map(lambda text: text.translate(_LATEX)).set_axis(heads, axis=1)
    text = cells.style.hide(axis="index").to_latex(
        column_format="l" * left + "r" * (table.shape[1] - left),
        caption=title.translate(_LATEX),
        position="t",
        position_float="centering",
        multicol_align="c",
        hrules=True,
    )
    below = "".join(f"\\par\\footnotesize {note.translate(_LATEX)}\n" for note in notes)
    return f"% made by python -m paper_figs; needs booktabs\n{text}".replace("\\end{table}", f"{below}\\end{{table}}")


@dataclass(frozen=True)
class Metric:
    """How a column shows a metric: its mean over seeds times ``scale``, with the ends of its interval or without."""

    name: str
    scale: float = 1.0
    digits: int = 1
    ends: bool = True


def summarise(
    results: pd.DataFrame,
    by: str | list[str],
    metrics: Mapping[Head, Metric],
    *,
    rows: Sequence[object] | None = None,
    absent: str = NOT_RUN,
) -> pd.DataFrame:
    """Tidy results as texts: a row per group, a column per metric, and the seeds.

    Args:
        results: tidy.
        by: columns that make a group.
        metrics: of the columns; a dash where no run of a group has the metric.
        rows: groups in the order of the rows (default: those that have results).
        absent: cells of a group without results; its seeds are a dash.
    """
    texts: dict[Head, pd.Series] = {}
    for head, m in metrics.items():
        values = results[results.metric == m.name].groupby(by, sort=False).value
        texts[head] = pd.Series(
            {group: over_seeds(v, m.scale, m.digits, ends=m.ends) for group, v in values}, dtype=str
        )
    texts[SEEDS] = pd.Series(
        {group: seeds_of(seeds) for group, seeds in results.groupby(by, sort=False).seed}, dtype=str
    )
    table = pd.DataFrame(texts).reindex(texts[SEEDS].index).fillna(NO_VALUE)
    if rows is not None:
        index = pd.Index(rows) if isinstance(by, str) else pd.MultiIndex.from_tuples(rows)
        table = table.reindex(index, fill_value=absent)
        table[SEEDS] = table[SEEDS].replace(absent, NO_VALUE)
    return table


def over_seeds(values: pd.Series, scale: float = 1.0, digits: int = 1, *, ends: bool = True) -> str:
    """Mean over seeds with its 95 % interval (Student's t), "mean [low, high]"; a dash for no values.

    The mean alone for one seed, or with ``ends`` False.
    """
    known = scale * values.dropna().to_numpy()
    if not len(known):
        return NO_VALUE
    mean = number(float(known.mean()), digits)
    if len(known) < 2 or not ends:
        return mean
    return "{} [{}, {}]".format(mean, *(number(end, digits) for end in interval(known)))


def over_questions(results: pd.DataFrame, metric: str, scale: float = 100.0, digits: int = 1) -> str:
    """The value of one run with its own interval, "mean [low, high]"; mean and interval over seeds for several runs."""
    rows = results[results.metric == metric]
    if len(rows) == 1 and rows[["value", "low", "high"]].notna().all(axis=None):
        value, low, high = (number(scale * rows[name].iloc[0], digits) for name in ("value", "low", "high"))
        return f"{value} [{low}, {high}]"
    return over_seeds(rows.value, scale, digits)


def seeds_of(seeds: Iterable[int]) -> str:
    """ "0–4" or "0–1, 3"; a dash for none."""
    known = np.unique(np.fromiter(seeds, dtype=int))
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(known) else []
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs) or NO_VALUE


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """With a minus sign (not a hyphen), no negative zero, and with ``sign`` a plus sign."""
    if not math.isfinite(value):
        return NO_VALUE
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")

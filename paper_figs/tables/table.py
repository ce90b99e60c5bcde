"""A table of reported numbers and ours: as Markdown, as LaTeX (booktabs), and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from amvl_model.results.files import Result
from amvl_model.results.seeds import interval
from paper_figs.build import Drawn
from paper_figs.style import PAGE, SMALLEST

NOT_RUN = "not run"
NO_VALUE = "–"
_ROW, _PAD, _MARGIN = 0.155, 0.14, 0.05  # inches
_FINE = 720  # dots per inch at which texts are measured: at few, widths are rounded to whole dots a letter


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        group: what its numbers are, for example "reported" or "ours"; neighbours of one group share a heading.
        name: heading, with the unit.
        left: text, aligned to the left.
    """

    group: str
    name: str
    left: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of texts under columns, with notes below.

    Raises:
        ValueError: if a row has not as many cells as there are columns.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"expected {len(self.columns)} cells a row, got {len(row)}: {list(row)}")

    @property
    def groups(self) -> list[tuple[str, int, int]]:
        """(group, first column, number of columns)."""
        found, start = [], 0
        for name, members in groupby(self.columns, key=lambda column: column.group):
            count = len(list(members))
            found.append((name, start, count))
            start += count
        return found

    def markdown(self) -> str:
        """As Markdown; a heading tells the group of every column."""
        heads = [f"{c.group}: {c.name}" if c.group else c.name for c in self.columns]
        rule = [":---" if c.left else "---:" for c in self.columns]
        lines = [f"**{self.title}**", ""]
        lines += ["| " + " | ".join(_cell(c) for c in row) + " |" for row in (heads, rule, *self.rows)]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]) + "\n"

    def latex(self) -> str:
        """As a LaTeX table with booktabs rules."""
        spec = "".join("l" if c.left else "r" for c in self.columns)
        groups = " & ".join(rf"\multicolumn{{{n}}}{{c}}{{{_latex(name)}}}" for name, _, n in self.groups)
        rules = " ".join(rf"\cmidrule(lr){{{s + 1}-{s + n}}}" for name, s, n in self.groups if name)
        body = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in self.rows]
        notes = [rf"\par\footnotesize {_latex(note)}" for note in self.notes]
        return "\n".join(
            [
                "% made by python -m paper_figs; needs booktabs",
                r"\begin{table}[t]",
                r"\centering\small",
                rf"\caption{{{_latex(self.title)}}}",
                rf"\begin{{tabular}}{{{spec}}}",
                r"\toprule",
                rf"{groups} \\",
                rules,
                " & ".join(_latex(c.name) for c in self.columns) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *notes,
                r"\end{table}",
            ]
        ) + "\n"  # fmt: skip

    def drawn(self) -> Drawn:
        """All three forms."""
        return Drawn(self.draw(), {".md": self.markdown(), ".tex": self.latex()})

    def draw(self, width: float = PAGE) -> Figure:
        """The table as a figure with booktabs' rules; headings of several lines where a name holds line feeds."""
        widths = self._widths()
        spare = width - 2 * _MARGIN - sum(widths)
        gap = float(np.clip(spare / max(len(widths) - 1, 1), -_PAD / 2, 0.35))  # a wide table moves closer together
        starts = _MARGIN + np.concatenate([[0.0], np.cumsum(np.array(widths[:-1]) + gap)])
        rights = starts + np.array(widths)
        lefts = starts + [0.0 if i == 0 else _PAD for i in range(len(widths))]
        total = float(rights[-1] + _MARGIN)
        notes = [line for note in self.notes for line in wrapped(note, total - 2 * _MARGIN)]
        title = wrapped(self.title, total - 2 * _MARGIN, bold=True)
        head = max(c.name.count("\n") + 1 for c in self.columns)
        count = len(title) + 1 + head + len(self.rows) + len(notes)
        height = count * _ROW + 0.26
        figure = Figure(figsize=(total, height), layout="none")  # type: ignore[arg-type]  # matplotlib's stubs lack it
        y = height - 0.04

        def put(x: float, text: str, **options: Any) -> None:
            figure.text(x / total, (y - _ROW / 2) / height, text, fontsize=SMALLEST, va="center", **options)

        def rule(left: float, right: float, thick: float) -> None:
            ends = ([left / total, right / total], [y / height, y / height])
            figure.add_artist(_line(*ends, thick))

        for line in title:
            put(_MARGIN, line, weight="bold")
            y -= _ROW
        y -= 0.04
        rule(_MARGIN, total - _MARGIN, 1.0)
        for name, first, number in self.groups:
            if name:
                put((lefts[first] + rights[first + number - 1]) / 2, name, ha="center", weight="bold")
        y -= _ROW + 0.02
        for name, first, number in self.groups:
            if name:
                rule(lefts[first], rights[first + number - 1], 0.5)
        bottom = y - head * _ROW
        for i, column in enumerate(self.columns):
            lines = column.name.split("\n")
            for j, line in enumerate(lines):
                y = bottom + (len(lines) - j) * _ROW
                put(lefts[i] if column.left else rights[i], line, ha="left" if column.left else "right")
        y = bottom - 0.02
        rule(_MARGIN, total - _MARGIN, 0.6)
        y -= 0.02
        for row in self.rows:
            for i, (column, cell) in enumerate(zip(self.columns, row, strict=True)):
                colour = "#666666" if cell in (NOT_RUN, NO_VALUE) else "black"
                put(lefts[i] if column.left else rights[i], cell, ha="left" if column.left else "right", color=colour)
            y -= _ROW
        y -= 0.02
        rule(_MARGIN, total - _MARGIN, 1.0)
        y -= 0.04
        for line in notes:
            put(_MARGIN, line)
            y -= _ROW
        return figure

    def _widths(self) -> list[float]:
        """Of every column, inches, so that cells, headings and group headings fit; a row of one cell may run on to the right."""
        widths = []
        whole = [row for row in self.rows if any(row[1:])]
        for i, column in enumerate(self.columns):
            texts = [*column.name.split("\n"), *(row[i] for row in whole)]
            widths.append(max(text_width(text) for text in texts) + (_PAD if column.left and i else 0.0))
        for name, first, number in self.groups:
            short = text_width(name, bold=True) - sum(widths[first : first + number]) - 0.1 * (number - 1)
            if name and short > 0:
                for i in range(first, first + number):
                    widths[i] += short / number
        return [w + _PAD for w in widths]


@lru_cache(maxsize=4096)
def text_width(text: str, *, bold: bool = False) -> float:
    """Of one line in the smallest size, inches."""
    size = FontProperties(family="DejaVu Sans", size=SMALLEST, weight="bold" if bold else "normal")
    return float(_ruler().get_text_width_height_descent(text or " ", size, ismath=False)[0]) * 1.01 / _FINE


@lru_cache(maxsize=1)
def _ruler() -> RendererAgg:
    """Measures texts, on a canvas of a few dots."""
    return RendererAgg(8, 8, _FINE)


def wrapped(text: str, width: float, *, bold: bool = False) -> list[str]:
    """A text in lines of at most ``width`` inches; words longer than that keep a line of their own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, bold=bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def over_seeds(
    results: Sequence[Result], metric: str, *, scale: float = 1.0, digits: int = 1, ends: bool = True
) -> str:
    """Mean over seeds with its 95 % interval (Student's t), "mean [low, high]"; without one where there is one seed.

    A dash where no result has the metric; with ``ends`` False the mean alone.
    """
    known = [result.metrics[metric].value for result in results if metric in result.metrics]
    values = np.array([scale * value for value in known if value is not None], dtype=float)
    if not len(values):
        return NO_VALUE
    mean = number(float(values.mean()), digits)
    if len(values) < 2 or not ends:
        return mean
    low, high = interval(values)
    return f"{mean} [{number(low, digits)}, {number(high, digits)}]"


def over_questions(results: Sequence[Result], metric: str, *, scale: float = 100.0, digits: int = 1) -> str:
    """The one result's figure with its own interval, "mean [low, high]"; that over seeds where there are several results."""
    if len(results) != 1 or metric not in results[0].metrics:
        return over_seeds([r for r in results if metric in r.metrics], metric, scale=scale, digits=digits)
    found = results[0].metrics[metric]
    if found.value is None or found.low is None or found.high is None:
        return over_seeds(results, metric, scale=scale, digits=digits)
    mean, low, high = (number(scale * value, digits) for value in (found.value, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def seeds_of(results: Sequence[Result]) -> str:
    """The seeds, "0–4" or "0–1, 3"."""
    runs: list[list[int]] = []
    for seed in sorted({r.seed for r in results}):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs) or NO_VALUE


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """With a real minus sign, no negative zero, and with ``sign`` a plus sign."""
    if not math.isfinite(value):
        return NO_VALUE
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def _line(x: Sequence[float], y: Sequence[float], thick: float) -> Line2D:
    return Line2D(x, y, color="black", linewidth=thick)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", r"\|")


def _latex(text: str) -> str:
    for plain, escaped in (
        ("\\", r"\textbackslash "),
        ("&", r"\&"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("#", r"\#"),
        ("\n", " "),
        ("*", r"\textsuperscript{*}"),
        ("−", "$-$"),
        ("–", "--"),
        ("γ", r"$\gamma$"),
        ("β", r"$\beta$"),
    ):
        text = text.replace(plain, escaped)
    return text

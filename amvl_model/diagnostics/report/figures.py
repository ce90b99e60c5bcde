"""The figures of the diagnostics report: means with intervals, several checkpoints side by side.

Everything is drawn from `Diagnosed.to_dict()`, so also from a diagnostics.json read back. A checkpoint has the colour and marker
of its objective. Below: paths and intervals in a diagnostic's dictionary, and plain tables of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from amvl_style import SEQUENTIAL, axes, look_of, styled

SCALE = 1.2
"""Of text and lines, against a page's."""
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Panel:
    """One axis of means with intervals.

    Attributes:
        title: what it shows.
        unit: label of the value axis.
        rows: label and path into the diagnostic's dictionary; a path to a list of intervals makes a row per entry.
        scale: factor on the values.
        log: logarithmic value axis.
        zero: draw a line at 0 (values are differences).
        shared: the value axis is that of the other panels on the page with this mark.
    """

    title: str
    unit: str
    rows: tuple[tuple[str, Path], ...]
    scale: float = 1.0
    log: bool = False
    zero: bool = False
    shared: bool = False


def draw_intervals(
    series: Mapping[str, Sequence[Any]],
    labels: Sequence[str],
    panel: Panel,
    ax: Axes | None = None,
    *,
    keys: Mapping[str, str | int] | None = None,
) -> Axes:
    """A row per label, in it a point with its interval per checkpoint.

    Args:
        series: per checkpoint, one interval ({"mean", "low", "high"}) or None per label.
        labels: of the rows, the first on top.
        panel: title, unit, scale and axis.
        ax: where to draw; a new figure by default.
        keys: of the checkpoints' looks (`amvl_style.keys_of`); in order by default.
    """
    ax = axes(ax)
    height = 0.7 / max(1, len(series))
    for i, (name, values) in enumerate(series.items()):
        places, means, errors = [], [], []
        for row, value in enumerate(values):
            if value is None or (panel.log and not value["mean"] > 0):
                continue
            mean, low, high = (panel.scale * (value["mean"] if v is None else v) for v in _ends(value))
            places.append(row + (i - (len(series) - 1) / 2) * height)
            means.append(mean)
            errors.append((max(0.0, mean - low), max(0.0, high - mean)))
        look = look_of(i if keys is None else keys[name])
        xerr = np.array(errors).reshape(-1, 2).T
        ax.errorbar(means, places, xerr=xerr, fmt=look.marker, color=look.colour, label=name)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    if panel.log:
        _logarithmic(ax)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 2.5, 5, 10)))
    if panel.zero:
        ax.axvline(0, color="black", lw=0.6, zorder=0)
    ax.set(xlabel=panel.unit, title=panel.title)
    ax.grid(False, axis="y")
    return ax


def panels_figure(
    data: Mapping[str, Mapping[str, Any] | None],
    panels: Sequence[Panel],
    columns: int = 2,
    *,
    keys: Mapping[str, str | int] | None = None,
) -> Figure | None:
    """The panels of one diagnostic on one page.

    Args:
        data: per checkpoint, the diagnostic's dictionary, None where it could not be made.
        panels: those without any figure are left out.
        columns: panels side by side.
        keys: of the checkpoints' looks; in order by default.

    Returns:
        None where there is nothing to draw.
    """
    filled = [(panel, *_rows(data, panel)) for panel in panels]
    filled = [(panel, labels, series) for panel, labels, series in filled if labels]
    if not filled:
        return None
    columns = min(columns, len(filled))
    grid = [filled[i : i + columns] for i in range(0, len(filled), columns)]
    heights = [0.75 + max((0.16 + 0.14 * len(data)) * len(labels) for _, labels, _ in line) for line in grid]
    with styled(SCALE):
        page = Figure(figsize=(5.4 * columns, sum(heights) + 0.45))
        rows_of_axes = page.subplots(len(grid), columns, squeeze=False, height_ratios=heights)
        for line, row in zip(grid, rows_of_axes, strict=True):
            for ax in row[len(line) :]:
                ax.axis("off")
            for ax, (panel, labels, series) in zip(row, line, strict=False):
                draw_intervals(series, labels, panel, ax, keys=keys)
        places = [ax for row in rows_of_axes for ax in row]
        shared = [ax for ax, (panel, *_) in zip(places, filled, strict=False) if panel.shared]
        for ax in shared[1:]:
            ax.sharex(shared[0])
        handles, names = rows_of_axes[0][0].get_legend_handles_labels()
        page.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return page


def draw_similarity(matrix: Any, title: str, ax: Axes | None = None) -> Axes:
    """Cosine similarity between slots (k, k), its numbers written in."""
    ax = axes(ax)
    values = np.asarray(matrix, dtype=np.float64)
    ax.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=1)
    ax.grid(False)
    if len(values) <= 8:
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if value < 0.6 else "black"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour)
    ticks = range(len(values))
    ax.set_xticks(ticks, [str(i + 1) for i in ticks])
    ax.set_yticks(ticks, [str(i + 1) for i in ticks])
    ax.set(xlabel="slot", ylabel="slot", title=title)
    return ax


def similarity_figure(data: Mapping[str, Mapping[str, Any] | None]) -> Figure | None:
    """Slot similarities of all checkpoints: a row per checkpoint, a column per kind."""
    result = {name: item["slot_similarity"] for name, item in data.items() if item and item.get("slot_similarity")}
    if not result:
        return None
    kinds = list(next(iter(result.values())))
    with styled(SCALE):
        page = Figure(figsize=(2.7 * len(kinds), 3.2 * len(result) + 0.4))
        rows_of_axes = page.subplots(len(result), len(kinds), squeeze=False)
        for row, (name, item) in zip(rows_of_axes, result.items(), strict=True):
            for ax, kind in zip(row, kinds, strict=True):
                draw_similarity(item[kind], f"{name}\n{kind.replace('_', ', ')}", ax)
        page.suptitle("cosine similarity of slots [1], mean over questions; 0 and below is darkest")
    return page


def _rows(data: Mapping[str, Mapping[str, Any] | None], panel: Panel) -> tuple[list[str], dict[str, list[Any]]]:
    """Labels with at least one figure, and per checkpoint one interval (or None) each."""
    labels: list[str] = []
    series: dict[str, list[Any]] = {name: [] for name in data}
    for label, path in panel.rows:
        result = {name: None if item is None else at(item, path) for name, item in data.items()}
        size = max((len(value) for value in result.values() if isinstance(value, list)), default=0)
        for i in range(max(1, size)):
            picked = {
                name: value[i] if isinstance(value, list) and i < len(value) else None if size else value
                for name, value in result.items()
            }
            if not any(is_interval(value) for value in picked.values()):
                continue
            labels.append(f"{label} {i + 1}" if size else label)
            for name, value in picked.items():
                series[name].append(value if is_interval(value) else None)
    return labels, series


def _logarithmic(ax: Axes) -> None:
    """A logarithmic value axis with plain numbers, as many as fit."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    decades = math.log10(high / low)
    steps = (1, 2, 3, 5, 7) if decades < 0.7 else (1, 2, 5) if decades < 2 else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _ends(value: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return (
        (value["mean"], value.get("low"), value.get("high")) if math.isfinite(value["mean"]) else (math.nan, None, None)
    )


def is_interval(value: Any) -> bool:
    """Whether this is an `Interval` as a dictionary: a mean with its ends."""
    return isinstance(value, Mapping) and {"mean", "low", "high"} <= set(value) and value["mean"] is not None


def at(data: Any, path: Path) -> Any:
    """The value at a path of keys and indices, or None where a part of it is missing."""
    for part in path:
        if isinstance(part, int):
            data = data[part] if isinstance(data, Sequence) and not isinstance(data, str) and part < len(data) else None
        else:
            data = data.get(part) if isinstance(data, Mapping) else None
        if data is None:
            return None
    return data


def intervals(data: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every interval in nested dictionaries and lists with its path, in order."""
    if is_interval(data):
        yield path, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from intervals(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from intervals(value, (*path, i))


def label(path: Path) -> str:
    """A path in words; indices count from 1."""
    return ", ".join(f"{part + 1}" if isinstance(part, int) else words(part) for part in path)


def words(name: str) -> str:
    """A name in words: ``forward_kl`` is "forward KL"."""
    return " ".join({"kl": "KL", "nll": "NLL"}.get(word, word) for word in name.split("_"))


def rows(data: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, list[str]]]:
    """Every interval of one diagnostic as text: its name, and a cell per checkpoint ("-" where it has none)."""
    paths: dict[Path, None] = {}
    for item in data.values():
        paths |= dict.fromkeys(path for path, _ in intervals(item or {}))
    return [(label(path), [cell(None if item is None else at(item, path)) for item in data.values()]) for path in paths]


def cell(value: Any) -> str:
    """ "mean [low, high]" to four digits, with the unit if the interval names one; "-" where there is none."""
    if not is_interval(value):
        return "-"
    text = f"{value['mean']:.4g}"
    if value["low"] is not None and value["high"] is not None:
        text += f" [{value['low']:.4g}, {value['high']:.4g}]"
    return f"{text} {value['unit']}" if value.get("unit") else text

"""The look of all figures: one style file, one palette, and how a series of seeds is drawn.

amvl.mplstyle    sizes, fonts and lines for a page of 6.9 in
palette.json     method -> label, colour (Okabe-Ito, then Tol), line style, marker; and the looks of series that are no methods

A package of its own because the figure modules of `amvl_model` and `amvl_theory` share it and neither imports the other. It needs
matplotlib; `over_seeds` also needs seaborn. A method has one colour in every figure, and nothing else has that colour. Line style
and marker differ too, so that series remain distinguishable in greyscale and under colour blindness.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure

STYLE_FILE, PALETTE_FILE = (Path(__file__).with_name(name) for name in ("amvl.mplstyle", "palette.json"))
SEQUENTIAL, SIGNED = "cividis", "PuOr_r"
"""Colour maps: of amounts; of signed values, orange above 0."""


def _part(name: str, low: float, high: float) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list(f"part of {name}", colormaps[name](np.linspace(low, high, 256)))


PALE, PALE_SIGNED = _part("Greys", 0.0, 0.55), _part(SIGNED, 0.18, 0.82)
"""The same under lines of methods and black text: light, and amounts in grey."""
GREY = "#666666"
RULE: dict[str, Any] = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (2.5, 1))}
"""Colour of annotations, and the look of reference lines."""


@dataclass(frozen=True)
class Look:
    """How one series is drawn: its label in legends, colour, line style and marker."""

    label: str
    colour: str
    line: Any
    marker: str


def _read(palette: Mapping[str, Any]) -> tuple[dict[str, Look], tuple[Look, ...]]:
    def look(fields: dict[str, Any]) -> Look:
        fields.pop("like", None)
        line = fields["line"]
        return Look(**fields | {"line": line if isinstance(line, str | tuple) else (0, tuple(line[1]))})

    methods: dict[str, Look] = {}
    for name, entry in palette["methods"].items():
        methods[name] = look({**vars(methods[entry["like"]]), **entry} if "like" in entry else dict(entry))
    return methods, tuple(look({"label": "", **entry}) for entry in palette["series"])


Key = str | int | Look
"""What names a look: a method, the number of a series, or the look itself."""
METHODS, SERIES = _read(json.loads(PALETTE_FILE.read_text(encoding="utf-8")))
"""The look of every method by its objective's name, and of series that are no methods in order."""


def styled(scale: float = 1.0) -> AbstractContextManager[Any]:
    """Context in which figures have the style file's settings and no others; ``scale`` enlarges text and lines."""
    rc = matplotlib.rc_params_from_file(STYLE_FILE, use_default_template=False)
    sized = {key: value for key, value in rc.items() if key.rpartition(".")[2].endswith(("size", "width"))}
    larger = {key: scale * value for key, value in sized.items() if isinstance(value, float)}
    return style.context([str(STYLE_FILE), larger], after_reset=True)


def look_of(key: Key) -> Look:
    """The look of a method by name, or of series number ``key``; a look is its own."""
    if isinstance(key, Look):
        return key
    return METHODS[key] if isinstance(key, str) else SERIES[key % len(SERIES)]


def look(key: Key) -> dict[str, Any]:
    """Colour and line style of a series, as keyword arguments of matplotlib."""
    result = look_of(key)
    return {"color": result.colour, "linestyle": result.line}


def marks(key: Key) -> dict[str, Any]:
    """Colour and open marker of a series, without a line: simulations."""
    result = look_of(key)
    return {
        "color": result.colour,
        "marker": result.marker,
        "linestyle": "none",
        "markerfacecolor": "white",
        "markeredgewidth": 1.0,
    }


SIMULATION: dict[str, Any] = {**marks(0), "color": GREY, "label": "simulation"}
"""The legend's entry for `marks`."""


def shades(method: str, count: int) -> list[str]:
    """Colours from light to dark of one method, for a series of its weights."""
    colour = np.array(to_rgb(METHODS[method].colour))
    ends = [tuple(0.45 * colour + 0.55), tuple(colour), tuple(0.45 * colour)]
    return [to_hex(shade) for shade in LinearSegmentedColormap.from_list("", ends)(np.linspace(0, 1, count))]


def graded(count: int, method: str | None = None) -> list[Look]:
    """Looks from light to dark for a rising parameter: in shades of a method's colour, or of the map of amounts."""
    colours: Iterable[Any] = shades(method, count) if method else colormaps[SEQUENTIAL](np.linspace(0.85, 0.0, count))
    return [replace(SERIES[i % len(SERIES)], colour=to_hex(colour)) for i, colour in enumerate(colours)]


def keys_of(methods: Mapping[str, str | None]) -> dict[str, str | int]:
    """A key for every checkpoint: its method if it is the first with that method, else an unused series.

    Args:
        methods: objective by name of the checkpoint, None where it is unknown.
    """
    keys: dict[str, str | int] = {}
    free = cycle(range(len(SERIES)))
    for name, method in methods.items():
        keys[name] = method if method in METHODS and method not in keys.values() else next(free)
    return keys


def axes(ax: Axes | None) -> Axes:
    """The given Axes, or those of a new figure."""
    return Figure(figsize=(5.2, 3.9), layout="constrained").subplots() if ax is None else ax


def save(figure: Figure, path: Path, **options: Any) -> Path:
    """Write a figure without date and software version: the same figure gives the same bytes."""
    keys = ("CreationDate", "Creator", "Producer") if path.suffix == ".pdf" else ("Software",)
    figure.savefig(path, metadata=dict.fromkeys(keys), **options)
    return path


def over_seeds(
    ax: Axes,
    series: Mapping[str, Mapping[Any, Iterable[float]]],
    looks: Sequence[Look],
    interval: Callable[[Any], tuple[float, float]],
    *,
    log: bool = False,
    top: float = np.inf,
    xscale: str = "log",
    dodge: float = 1.035,
) -> Axes:
    """Arithmetic mean over seeds with its interval, a line per series, and every seed as a small marker.

    Args:
        ax: axes to draw on; both axis labels are left to the caller.
        series: per label and place on the x axis, one value per seed.
        looks: of the series, in their order.
        interval: both ends of the interval of the mean of some values.
        log: a logarithmic y axis, for values that span decades. Means are arithmetic all the same, and the part of an interval
            at or below 0 lies below the axis.
        top: intervals end there.
        xscale: of the x axis.
        dodge: factor between the places of neighbouring series.
    """
    import pandas as pd
    import seaborn as sns

    ax.set_xscale(xscale)
    ax.set_yscale("linear")  # seaborn averages what the axis shows: on a logarithmic one its means would be geometric
    rows = [
        (name, x * dodge ** (i - (len(series) - 1) / 2), value)
        for i, (name, places) in enumerate(series.items())
        for x, values in places.items()
        for value in values
    ]
    frame = pd.DataFrame(rows, columns=["series", "x", "y"])
    shared = {
        "data": frame, "x": "x", "y": "y", "hue": "series", "style": "series", "ax": ax, "hue_order": list(series),
        "style_order": list(series), "palette": [each.colour for each in looks], "markers": [each.marker for each in looks],
    }  # fmt: skip
    size = matplotlib.rcParams["lines.markersize"]
    lines = sns.lineplot(
        **shared,
        dashes=[each.line[1] if isinstance(each.line, tuple) else "" for each in looks],
        errorbar=lambda values: tuple(np.minimum(interval(np.asarray(values)), top)),
        err_style="bars",
        err_kws={"linewidth": 0.8},
        markersize=1.25 * size,
        markeredgecolor="white",
        markeredgewidth=0.4,
    )
    sns.scatterplot(**shared, s=(0.55 * size) ** 2, alpha=0.5, linewidth=0, legend=False)
    if (legend := lines.get_legend()) is not None:
        legend.remove()
    if log:
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(0.7 * min(value for _, _, value in rows if value > 0))
    return ax

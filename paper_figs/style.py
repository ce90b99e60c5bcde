"""Sizes, colours and files of all figures; and what is wrong with one: text that overlaps, is too small or falls off the page.

Every series has a colour (Okabe-Ito), a line style and a marker of its own, so that greyscale and every common colour blindness
tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

STYLE_FILE = Path(__file__).with_name("amvl.mplstyle")
COLUMN, PAGE = 3.3, 6.9
"""Widths of one column and of the whole page, inches."""
SMALLEST = 7.0
"""Smallest text, points."""
BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
GREY = "#666666"
COLOURS = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, BLACK)
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1, 1.1)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (2.5, 1)),
    (0, (7, 1.5, 1, 1)),
    "-",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OBJECTIVES = {"fwd": ("forward-only", 1), "elbo": ("ELBO", 2), "dual": ("dual KL", 0)}
"""Objective of the theory -> its name in legends, and its index into colours, line styles and markers."""


def styled() -> AbstractContextManager[Any]:
    """Context in which figures have the style file's settings and no others."""
    return style.context(str(STYLE_FILE), after_reset=True)


def page(height: float, width: float = PAGE) -> Figure:
    """An empty figure, inches."""
    return Figure(figsize=(width, height))


def look(index: int) -> dict[str, Any]:
    """Colour and line style of series number ``index``."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}


def marks(index: int, *, open_: bool = True) -> dict[str, Any]:
    """Colour and marker of series number ``index``, without a line."""
    colour = COLOURS[index % len(COLOURS)]
    face = {"markerfacecolor": "white", "markeredgewidth": 1.0} if open_ else {}
    return {"color": colour, "marker": MARKERS[index % len(MARKERS)], "linestyle": "none", **face}


def save(figure: Figure, path: Path) -> list[Path]:
    """``path`` as PDF and PNG; the same figure gives the same bytes: no date, no software version in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = path.with_suffix(".pdf"), path.with_suffix(".png")
    figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    figure.savefig(png, metadata={"Software": None})
    return [pdf, png]


def problems(figure: Figure) -> list[str]:
    """What a reader would stumble over: texts that overlap, are smaller than `SMALLEST`, or lie outside the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = list(dict.fromkeys(_texts(figure)))
    shown = [t for t in texts if t.get_visible() and t.get_text().strip() and t.get_alpha() != 0]
    found = [
        f"{_short(text)} has {size:g} pt, less than {SMALLEST:g}"
        for text, size in ((t, float(t.get_fontsize())) for t in shown)
        if size < SMALLEST - 1e-6
    ]
    if not shown:
        return found
    boxes = np.array([t.get_window_extent(renderer).extents for t in shown])
    wide, high = figure.bbox.width, figure.bbox.height
    for text, (left, low, right, top) in zip(shown, boxes, strict=True):
        if left < -1 or low < -1 or right > wide + 1 or top > high + 1:
            found.append(f"{_short(text)} lies partly outside the figure")
    slack = 0.01 * figure.dpi
    left, low, right, top = boxes.T
    across = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    along = np.minimum(top[:, None], top) - np.maximum(low[:, None], low)
    for i, j in np.argwhere((across > slack) & (along > slack)):
        if i < j:
            found.append(f"{_short(shown[i])} overlaps {_short(shown[j])}")
    return found


def _texts(figure: Figure) -> Iterator[Text]:
    """All texts that are drawn; of an axis those of the ticks in view alone."""
    hidden: set[Text] = set()
    for axis in figure.findobj(Axis):
        assert isinstance(axis, Axis)
        if not axis.get_visible() or axis.axes is None or not axis.axes.axison:
            hidden |= {text for text in axis.findobj(Text) if isinstance(text, Text)}
            continue
        low, high = sorted(axis.get_view_interval())
        margin = 1e-9 + 1e-6 * abs(high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - margin <= tick.get_loc() <= high + margin:
                hidden |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in hidden:
            yield text


def _short(text: Text) -> str:
    said = " ".join(text.get_text().split())
    return repr(said if len(said) < 40 else said[:37] + "...")

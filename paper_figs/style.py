"""Sizes and files of the paper's figures; and what is wrong with one: text that overlaps, is too small or falls off the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import amvl_style

COLUMN, PAGE = 3.3, 6.9
"""Widths of one column and of the whole page, inches."""
SMALLEST = 7.0
"""Smallest text, points."""


def page(height: float, width: float = PAGE) -> Figure:
    """An empty figure, inches."""
    return Figure(figsize=(width, height))


def save(figure: Figure, path: Path) -> list[Path]:
    """``path`` as PDF and PNG; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return [amvl_style.save(figure, path.with_suffix(suffix)) for suffix in (".pdf", ".png")]


def problems(figure: Figure) -> list[str]:
    """Problems of legibility: texts that overlap, are smaller than `SMALLEST`, or lie outside the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = list(dict.fromkeys(_texts(figure)))
    shown = [t for t in texts if t.get_visible() and t.get_text().strip() and t.get_alpha() != 0]
    remarks = [
        f"{_short(text)} has {size:g} pt, less than {SMALLEST:g}"
        for text, size in ((t, float(t.get_fontsize())) for t in shown)
        if size < SMALLEST - 1e-6
    ]
    if not shown:
        return remarks
    boxes = np.array([t.get_window_extent(renderer).extents for t in shown])
    wide, high = figure.bbox.width, figure.bbox.height
    for text, (left, low, right, top) in zip(shown, boxes, strict=True):
        if left < -1 or low < -1 or right > wide + 1 or top > high + 1:
            remarks.append(f"{_short(text)} lies partly outside the figure")
    slack = 0.01 * figure.dpi
    left, low, right, top = boxes.T
    across = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    along = np.minimum(top[:, None], top) - np.maximum(low[:, None], low)
    for i, j in np.argwhere((across > slack) & (along > slack)):
        if i < j:
            remarks.append(f"{_short(shown[i])} overlaps {_short(shown[j])}")
    return remarks


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
    words = " ".join(text.get_text().split())
    return repr(words if len(words) < 40 else words[:37] + "...")

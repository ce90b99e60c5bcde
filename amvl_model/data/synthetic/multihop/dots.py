"""Dots_And_Arrows: coloured dots on a canvas, with one arrow from each to its successor; the map is one single cycle.

No arrow passes through or near a third dot, the two arrows of a dot point in clearly different directions, and of several
layouts the one with the fewest crossings is drawn. Coordinates are pixels, x to the right, y down.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic.canvas import CELL
from amvl_model.data.synthetic.multihop.spec import Scene, Style

_RADIUS = 9.0
_SUPERSAMPLING = 4
_CLEARANCE = _RADIUS + 5.0  # of an arrow from the centre of a third dot
_LARGEST_COSINE = 0.9  # of the angle between the two arrows of a dot: at least 26 degrees
_LAYOUTS = 200
_MOVES = 200


def draw_dots(rng: np.random.Generator, names: tuple[str, ...], table: np.ndarray, style: Style) -> Scene:
    """n dots with an arrow from each."""
    successor = table[0]
    side = CELL * round((4 + len(names) // 4) * style.scale)
    points = layout(rng, successor, side)
    image = _paint(points, successor, names, side, style)
    facts = ", ".join(
        f"{names[i]} {names[int(successor[i])]}" for i in np.lexsort((points[:, 0], points[:, 1] // CELL))
    )
    return Scene(images=(image,), names=names, table=table, facts=facts)


def layout(rng: np.random.Generator, successor: np.ndarray, side: int) -> np.ndarray:
    """Positions (n, 2) of the dots in a square of ``side`` pixels: the tidiest of several random layouts.

    Raises:
        ValueError: if no layout keeps arrows and dots apart (too many dots for the canvas).
    """
    best, fewest = None, np.inf
    for _ in range(_LAYOUTS):
        points = _separated(rng, successor, side)
        if points is None:
            continue
        crossings = count_crossings(points, successor)
        if crossings < fewest:
            best, fewest = points, crossings
        if fewest <= len(successor) // 4:
            break
    if best is None:
        raise ValueError(f"no clear layout of {len(successor)} dots on {side} x {side} pixels; use fewer objects")
    return best


def _separated(rng: np.random.Generator, successor: np.ndarray, side: int) -> np.ndarray | None:
    """A random layout in which dots and arrows keep apart, by moving the worst dot; None if it does not work out."""
    n, margin = len(successor), _RADIUS + 4
    points = rng.uniform(margin, side - margin, (n, 2))
    for _ in range(_MOVES):
        faults = _faults(points, successor)
        if not faults.any():
            return points
        worst = int(rng.choice(np.flatnonzero(faults == faults.max())))
        points[worst] = rng.uniform(margin, side - margin, 2)
    return None


def _faults(points: np.ndarray, successor: np.ndarray) -> np.ndarray:
    """Number of faults (n,) of each dot: near another dot, near an arrow of two others, its own arrows too parallel."""
    n = len(points)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(n)
    faults = (distance < 4 * _RADIUS).sum(1)
    clear = distance_to_arrows(points, successor)
    near = clear < _CLEARANCE
    leaving = points[successor] - points
    leaving /= np.linalg.norm(leaving, axis=1, keepdims=True)
    parallel = (leaving * -leaving[np.argsort(successor)]).sum(1) > _LARGEST_COSINE
    return faults + near.sum(1) + near.sum(0) + parallel


def distance_to_arrows(points: np.ndarray, successor: np.ndarray) -> np.ndarray:
    """Distance (n, n) in pixels of dot j from the arrow that leaves dot i; infinite for the arrow's own ends."""
    n = len(points)
    ends = points[successor]
    along = ends - points
    offset = points[None] - points[:, None]
    part = np.clip((offset * along[:, None]).sum(-1) / (along**2).sum(-1)[:, None], 0.0, 1.0)
    distance = np.linalg.norm(offset - part[..., None] * along[:, None], axis=-1)
    distance[np.arange(n), np.arange(n)] = np.inf
    distance[np.arange(n), successor] = np.inf
    return distance


def count_crossings(points: np.ndarray, successor: np.ndarray) -> int:
    """Number of pairs of arrows that cross."""
    start, end = points, points[successor]

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.sign(
            (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
        )

    a, b, c, d = start[:, None], end[:, None], start[None], end[None]
    crossing = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    n = len(points)
    index = np.arange(n)
    shared = (successor[:, None] == index[None]) | (successor[None] == index[:, None]) | np.eye(n, dtype=bool)
    return int((crossing & ~shared).sum()) // 2


def _paint(points: np.ndarray, successor: np.ndarray, names: tuple[str, ...], side: int, style: Style) -> Image.Image:
    """The canvas, drawn four times too large and reduced."""
    k = _SUPERSAMPLING
    image = Image.new("RGB", (side * k, side * k), style.background)
    draw = ImageDraw.Draw(image)
    for i, j in enumerate(successor):
        _arrow(draw, points[i] * k, points[int(j)] * k, style)
    radius = _RADIUS * k
    for name, (x, y) in zip(names, points * k, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        shape = draw.rectangle if style.round_marks else draw.ellipse
        shape(box, fill=style.palette[name], outline=style.ink, width=k)
    return image.resize((side, side), Image.Resampling.BOX)


def _arrow(draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, style: Style) -> None:
    """A line from the edge of one dot to the edge of the next, with a head; positions in enlarged pixels."""
    k = _SUPERSAMPLING
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    tip = end - along * (_RADIUS * (1.25 if style.round_marks else 1.0) + 1.5) * k
    neck = tip - along * 8 * k
    draw.line([tuple(start), tuple(neck)], fill=style.ink, width=2 * k)
    draw.polygon([tuple(tip), tuple(neck + across * 4.5 * k), tuple(neck - across * 4.5 * k)], fill=style.ink)

"""Coloured cells: a strip of n cells of 28 x 28 pixels, each one arrow from the colour on its left to that on its right.

    Coloured_Cells    one row: the same map f at every hop, s_h = f(f(... s_0))
    Changing_Cells    one row per hop, from the top: s_{i+1} = f_i(s_i), so that no power of a map can be reused

Each f is one single cycle. Cells stand in random order, so their places say nothing.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic.canvas import CELL
from amvl_model.data.synthetic.multihop.spec import Scene, Style, Walk, number_of_arrows

_GAP = 2  # pixels of background around a cell


def draw_cells(rng: np.random.Generator, names: tuple[str, ...], table: np.ndarray, style: Style) -> Scene:
    """One row of cells for each row of the table, from the top, each in random order."""
    rows, n = table.shape
    image = Image.new("RGB", (CELL * n, CELL * rows), style.background)
    draw = ImageDraw.Draw(image)
    facts = []
    for row in range(rows):
        pairs = [(names[i], names[int(table[row, i])]) for i in rng.permutation(n)]
        for column, pair in enumerate(pairs):
            _draw_cell(draw, (CELL * column, CELL * row), pair, style)
        facts.append(", ".join(f"{key} {value}" for key, value in pairs))
    return Scene(images=(image,), names=names, table=table, facts=". ".join(facts))


def ask_strip(rng: np.random.Generator, scene: Scene, hops: int) -> Walk:
    """Follow the arrows of the only row."""
    start = int(rng.integers(len(scene.names)))
    question = f"Follow {number_of_arrows(hops)} from {scene.names[start]}. Where do you end?"
    return Walk(question=question, chain=_chain(scene.table, start, hops))


def ask_stack(rng: np.random.Generator, scene: Scene, hops: int) -> Walk:
    """Follow one arrow in each row from the top."""
    start = int(rng.integers(len(scene.names)))
    question = (
        f"Follow {number_of_arrows(hops)}, one in each row from the top, from {scene.names[start]}. Where do you end?"
    )
    return Walk(question=question, chain=_chain(scene.table, start, hops))


def _chain(table: np.ndarray, start: int, hops: int) -> tuple[int, ...]:
    """Objects visited from ``start``; hop i uses row i, or the only row."""
    chain = [start]
    for hop in range(hops):
        chain.append(int(table[hop % len(table), chain[-1]]))
    return tuple(chain)


def _draw_cell(draw: ImageDraw.ImageDraw, corner: tuple[int, int], pair: tuple[str, str], style: Style) -> None:
    """The key's colour in the left half, the value's in the right half, an arrowhead between them."""
    x, y = corner
    left, right = (style.palette[name] for name in pair)
    low, high, middle = _GAP, CELL - 1 - _GAP, CELL // 2
    if style.round_marks:
        draw.rectangle((x + 1, y + 5, x + CELL - 2, y + CELL - 6), fill=(250, 250, 250), outline=style.ink)
        draw.ellipse((x + low + 1, y + 9, x + middle - 2, y + CELL - 10), fill=left, outline=style.ink)
        draw.ellipse((x + middle + 1, y + 9, x + high - 1, y + CELL - 10), fill=right, outline=style.ink)
    else:
        draw.rectangle((x + low, y + low, x + middle - 1, y + high), fill=left)
        draw.rectangle((x + middle, y + low, x + high, y + high), fill=right)
        draw.rectangle((x + low, y + low, x + high, y + high), outline=style.ink)
    tip = [(x + middle - 3, y + middle - 3), (x + middle + 2, y + middle), (x + middle - 3, y + middle + 3)]
    draw.polygon(tip, fill=(255, 255, 255), outline=(0, 0, 0))

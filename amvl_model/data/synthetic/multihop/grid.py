"""Grid_Walk: a walk through coloured cells by a list of moves; a wall or the edge stops a move.

The state is the cell; the image gives the next cell for each of the four directions, the text the order of the moves.
Because walls stop moves, the moves do not commute and cannot be summed up: each has to be made where the last one ended.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic.canvas import CELL
from amvl_model.data.synthetic.multihop.spec import Scene, Style, Walk

MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_STOPPED = 0.25  # share of moves that are drawn without regard to walls
_EXTRA_DOORS = 0.3
_WALL = 4


def grid_shape(n: int) -> tuple[int, int]:
    """(rows, columns) of n cells, as square as possible.

    Raises:
        ValueError: if n has no divisor between 2 and its square root.
    """
    for rows in range(int(n**0.5), 1, -1):
        if n % rows == 0:
            return rows, n // rows
    raise ValueError(f"objects of Grid_Walk must fill a grid of at least two rows, got {n}; use 6, 8, 9, 10 or 12")


def plan_grid(rng: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """Next cell (4, n) for up, down, left, right: a random tree of doors and some more; the cell itself at a wall."""
    _, columns = grid_shape(n)
    table = np.tile(np.arange(n), (4, 1))
    edges = [(i, i + 1, 3) for i in range(n) if (i + 1) % columns] + [(i, i + columns, 1) for i in range(n - columns)]
    group = np.arange(n)
    for k in rng.permutation(len(edges)):
        one, other, move = edges[k]
        joins = group[one] != group[other]
        if joins or rng.random() < _EXTRA_DOORS:
            table[move, one], table[move - 1, other] = other, one
            group[group == group[other]] = group[one]
    return table


def draw_grid(rng: np.random.Generator, names: tuple[str, ...], table: np.ndarray, style: Style) -> Scene:
    """A grid of coloured cells."""
    image = _paint(table, names, grid_shape(len(names)), style)
    facts = ", ".join(
        " ".join([name, *(move for move, row in zip(MOVES, table, strict=True) if row[i] != i)])
        for i, name in enumerate(names)
    )
    return Scene(images=(image,), names=names, table=table, facts=facts)


def single_moves(facts: str) -> list[list[str]]:
    """For each of the four moves, in the words of a question, where it leads from every cell: ``red and go up green``."""
    cells = [fact.split() for fact in facts.split(", ")]
    _, columns = grid_shape(len(cells))
    return [
        [
            f"{name} and go {move} {cells[i + down * columns + right if move in doors else i][0]}"
            for i, (name, *doors) in enumerate(cells)
        ]
        for move, (down, right) in MOVES.items()
    ]


def ask_grid(rng: np.random.Generator, scene: Scene, hops: int) -> Walk:
    """A walk of ``hops`` moves that does not end where it starts; about one in eight moves is stopped."""
    words = tuple(MOVES)
    while True:
        chain, moves = [int(rng.integers(len(scene.names)))], []
        for _ in range(hops):
            open_moves = [m for m in range(4) if scene.table[m, chain[-1]] != chain[-1]]
            free = rng.random() < _STOPPED
            move = int(rng.integers(4)) if free else int(rng.choice(open_moves))
            moves.append(words[move])
            chain.append(int(scene.table[move, chain[-1]]))
        if chain[-1] != chain[0]:
            break
    start = scene.names[chain[0]]
    question = f"Start at {start} and go {', '.join(moves)}; a wall stops a move. Where do you end?"
    return Walk(question=question, chain=tuple(chain))


def _paint(table: np.ndarray, names: tuple[str, ...], shape: tuple[int, int], style: Style) -> Image.Image:
    """Cells of 28 x 28 pixels; walls as thick bars on the edges, doors as gaps between the bars."""
    rows, columns = shape
    image = Image.new("RGB", (CELL * columns, CELL * rows), style.background)
    draw = ImageDraw.Draw(image)
    for i, name in enumerate(names):
        x, y = CELL * (i % columns), CELL * (i // columns)
        box = (x + 5, y + 5, x + CELL - 6, y + CELL - 6)
        shape_of = draw.ellipse if style.round_marks else draw.rectangle
        shape_of(box, fill=style.palette[name], outline=style.ink)
        half, last = _WALL // 2, CELL - 1
        bars = {
            "up": (x, y, x + last, y + half - 1),
            "down": (x, y + last - half + 1, x + last, y + last),
            "left": (x, y, x + half - 1, y + last),
            "right": (x + last - half + 1, y, x + last, y + last),
        }
        for move, row in zip(MOVES, table, strict=True):
            if row[i] == i:
                draw.rectangle(bars[move], fill=style.ink)
    return image

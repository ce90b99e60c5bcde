"""IQ_Test: a row of panels that follows a rule, and four panels to continue it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic import canvas
from amvl_model.data.synthetic.canvas import CELL, COLOUR_NAMES, COLOURS, IMAGE_SIZE, Colour, Drawing

_DIRECTIONS: Final = ("up", "right", "down", "left")
RULES: Final = ("count", "turn", "size", "colour")
_DICE: Final[dict[int, tuple[tuple[int, int], ...]]] = {
    1: ((0, 0),),
    2: ((-1, -1), (1, 1)),
    3: ((-1, -1), (0, 0), (1, 1)),
    4: ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    5: ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)),
    6: ((-1, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (1, 1)),
}
_ARROW: Final = ((-4, 10), (-4, 0), (-10, 0), (0, -11), (10, 0), (4, 0), (4, 10))
_QUARTER_TURNS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclass(frozen=True)
class _Panel:
    """What one panel shows: the rule's value (number of dots, quarter turns, size 0 to 3) and a colour."""

    value: int
    colour: str

    def describe(self, rule: str) -> str:
        """The panel in words."""
        shown = {"turn": _DIRECTIONS[self.value % 4], "colour": "square"}.get(rule, str(self.value))
        return f"{self.colour} {shown}"


def _draw_content(draw: ImageDraw.ImageDraw, rule: str, panel: _Panel, centre: tuple[float, float]) -> None:
    """Draw the content of one panel around its centre."""
    x, y = centre
    fill = COLOURS[panel.colour]
    if rule == "count":
        for dx, dy in _DICE[panel.value]:
            draw.ellipse((x + 7 * dx - 3, y + 7 * dy - 3, x + 7 * dx + 3, y + 7 * dy + 3), fill=fill)
    elif rule == "turn":
        c, s = _QUARTER_TURNS[panel.value % 4]
        draw.polygon([(x + c * px - s * py, y + s * px + c * py) for px, py in _ARROW], fill=fill)
    elif rule == "size":
        radius = 2 + 3 * panel.value
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    else:
        draw.rectangle((x - 8, y - 8, x + 8, y + 8), fill=fill)


def _values(rng: np.random.Generator, rule: str) -> tuple[list[int], list[int]]:
    """The values of the four panels of the row, and three wrong values for the last one."""
    if rule == "count":
        start = int(rng.integers(1, 3))
        row = list(range(start, start + 4))
        row = row if canvas.chance(rng, 0.5) else row[::-1]
        wrong = [n for n in range(1, 6) if n != row[3]]
        return row, [wrong[i] for i in canvas.pick(rng, 3, len(wrong))]
    if rule == "turn":
        start, step = int(rng.integers(4)), 1 if canvas.chance(rng, 0.5) else -1
        row = [(start + step * i) % 4 for i in range(4)]
    elif rule == "size":
        row = [0, 1, 2, 3] if canvas.chance(rng, 0.5) else [3, 2, 1, 0]
    else:
        return [0] * 4, [0] * 3
    return row, [v for v in range(4) if v != row[3]]


def _panels(rng: np.random.Generator, rule: str, difficulty: float) -> tuple[list[_Panel], list[_Panel]]:
    """The row of four panels (the last one is the answer) and three wrong panels.

    The colour alternates under the rule "colour", and at high difficulty under every rule, on top of it.
    """
    row, wrong = _values(rng, rule)
    colours = [COLOUR_NAMES[i] for i in canvas.pick(rng, 4, len(COLOUR_NAMES))]
    if rule == "colour":
        shown = [_Panel(0, colours[i % 2]) for i in range(4)]
        return shown, [_Panel(0, colours[i]) for i in (0, 2, 3)]
    if canvas.chance(rng, canvas.hardness(difficulty)):
        shown = [_Panel(value, colours[i % 2]) for i, value in enumerate(row)]
        pairs = [(wrong[0], colours[1]), (row[3], colours[0]), (wrong[0], colours[0])]
        return shown, [_Panel(value, colour) for value, colour in pairs]
    return [_Panel(v, colours[0]) for v in row], [_Panel(v, colours[0]) for v in wrong]


def draw_iq_test(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of four panels continues the row: a number of dots, a turning arrow, a size, or two colours in turn."""
    rule = RULES[int(rng.integers(len(RULES)))]
    row, wrong = _panels(rng, rule, difficulty)
    order = canvas.pick(rng, 3, 3)
    options = [wrong[i] for i in order]
    options.insert(answer, row[3])
    tint: Colour = (206, 214, 228) if canvas.chance(rng, 0.5) else (226, 216, 202)
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), tint)
    draw = ImageDraw.Draw(image)
    for line, panels in ((0, row), (2, options)):
        for i, panel in enumerate(panels):
            x, y = CELL * i, CELL * line
            draw.rectangle((x + 1, y + 1, x + CELL - 2, y + CELL - 2), fill="white", outline=(90, 90, 90))
            if line == 0 and i == 3:
                image.paste(canvas.question_mark(), (x + 4, y + 4), canvas.question_mark())
            else:
                _draw_content(draw, rule, panel, canvas.jitter(rng, (x + CELL / 2, y + CELL / 2), 2 * difficulty))
    for i in range(4):
        canvas.place_badge(image, "ABCD"[i], (CELL * i + CELL / 2, 3.4 * CELL))
    return Drawing(
        images=(canvas.add_noise(image, rng, difficulty),),
        question="Which panel comes next?",
        choices=("A", "B", "C", "D"),
        explanation=f"{', '.join(panel.describe(rule) for panel in row)} {'ABCD'[answer]}. "
        + ", ".join(f"{letter} {panel.describe(rule)}" for letter, panel in zip("ABCD", options, strict=True)),
    )

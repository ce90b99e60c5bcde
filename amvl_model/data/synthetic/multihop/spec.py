"""What a multi-hop task consists of: a scene, questions about it, and the look of the images.

A scene is one set of images and the transition table behind it; many questions are asked about one scene. All tasks
walk through named objects s_0, s_1, ..., s_h (the chain), where h is the number of hops:

    s_{i+1} = f_i(s_i)        f_i: read from the image at step i;   right answer: s_h
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image

from amvl_model.data.synthetic.canvas import Colour

PALETTE: Final[dict[str, Colour]] = {
    "red": (220, 30, 35),
    "green": (30, 150, 50),
    "blue": (35, 75, 225),
    "yellow": (250, 215, 30),
    "purple": (130, 40, 175),
    "cyan": (60, 210, 230),
    "orange": (250, 130, 20),
    "pink": (250, 150, 195),
    "brown": (120, 70, 30),
    "black": (20, 20, 20),
    "white": (252, 252, 252),
    "grey": (135, 135, 135),
}
COLOUR_NAMES: Final = tuple(PALETTE)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How the images of a set look.

    Attributes:
        palette: shade of each colour name.
        background: colour behind the objects.
        ink: colour of arrows, walls and outlines.
        round_marks: framed discs in place of the half cells, squares in place of the dots.
        scale: factor of the canvas of dots and of the height of bars; cells always have 28 pixels.
    """

    palette: dict[str, Colour] = field(default_factory=lambda: dict(PALETTE))
    background: Colour = (238, 232, 218)
    ink: Colour = (45, 45, 45)
    round_marks: bool = False
    scale: float = 1.0


PLAIN: Final = Style()
SHIFTED: Final = Style(
    palette={
        "red": (165, 20, 45),
        "green": (95, 190, 80),
        "blue": (75, 120, 200),
        "yellow": (225, 200, 85),
        "purple": (165, 90, 205),
        "cyan": (30, 170, 185),
        "orange": (225, 120, 55),
        "pink": (235, 120, 165),
        "brown": (95, 55, 40),
        "black": (45, 40, 50),
        "white": (232, 236, 240),
        "grey": (150, 145, 140),
    },
    background=(196, 208, 214),
    ink=(70, 25, 80),
    round_marks=True,
    scale=1.34,
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One set of images, about which several questions are asked.

    Attributes:
        images: the images, in order.
        names: colour names of the n objects; object i is called names[i].
        table: integers (rows, n) that the images show: the next object for each row and object, or ranks (1, n).
        facts: what the images show, in words, in the order in which a person reads them.
    """

    images: tuple[Image.Image, ...]
    names: tuple[str, ...]
    table: np.ndarray
    facts: str


@dataclass(frozen=True, kw_only=True)
class Walk:
    """One question about a scene.

    Attributes:
        question: the text; independent of the images, given the chain's start.
        chain: objects s_0, ..., s_h, by index.
    """

    question: str
    chain: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MultihopTask:
    """A family of scenes and of questions about them.

    Attributes:
        name: of the task.
        caption: what its image shows, for the reader of a figure.
        plan: ``plan(rng, n, rows)``, a transition table of n objects; ``rows`` is the largest number of hops that will be
            asked for.
        draw: ``draw(rng, names, table, style)``, the scene of a table whose objects are called ``names``.
        ask: ``ask(rng, scene, hops)``, a question about a scene.
        fewest_objects: ``fewest_objects(hops)``, the smallest n for which the task has no shortcut.
        ranked: whether the table holds ranks, not next objects.
        steps: ``steps(facts)``, the single steps that a scene shows, from its record's explanation, each in words of which the
            last is what comes of it (``red blue``, ``red and go up green``); in
            groups that are read apart, because a step of one tells a step of another.
        words: words of the steps that are in no question.
    """

    name: str
    caption: str
    plan: Callable[[np.random.Generator, int, int], np.ndarray]
    draw: Callable[[np.random.Generator, tuple[str, ...], np.ndarray, Style], Scene]
    ask: Callable[[np.random.Generator, Scene, int], Walk]
    fewest_objects: Callable[[int], int]
    ranked: bool = False
    steps: Callable[[str], list[list[str]]] = lambda facts: [facts.replace(". ", ", ").split(", ")]
    words: tuple[str, ...] = ()

    def guess(self, hops: int, n: int) -> float:
        """Accuracy (0 to 1) of a guess among the n options, or among the hops + 1 that a comparison names."""
        return 1 / (hops + 1 if self.ranked else n)

    def solution(self, names: tuple[str, ...], table: np.ndarray) -> str:
        """A text that is equal for two scenes if the same questions have the same answers, wherever things stand."""
        columns = {
            name: [int(v) if self.ranked else names[int(v)] for v in table[:, i]] for i, name in enumerate(names)
        }
        return str(sorted(columns.items()))


def single_cycle(rng: np.random.Generator, n: int) -> np.ndarray:
    """A uniformly random permutation (n,) of the objects 0 .. n - 1 that is one single cycle."""
    order = rng.permutation(n)
    successor = np.empty(n, dtype=np.int64)
    successor[order] = np.roll(order, -1)
    return successor


def plan_cycle(rng: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """Table (1, n) of a single cycle."""
    return single_cycle(rng, n)[None]


def plan_cycles(rng: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """Table (rows, n) of independent single cycles."""
    return np.stack([single_cycle(rng, n) for _ in range(rows)])


def number_of_arrows(hops: int) -> str:
    """``"1 arrow"``, ``"4 arrows"``."""
    return f"{hops} arrow" if hops == 1 else f"{hops} arrows"

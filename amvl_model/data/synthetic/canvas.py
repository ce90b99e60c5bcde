"""Drawing primitives shared by the tasks of synthetic BLINK: colours, shapes, badges, cells, noise.

Images are 112 x 112 pixels: 4 x 4 cells of 28 pixels, the reach of one token of a Qwen2.5-VL with 14-pixel patches
merged 2 x 2. Everything comes from PIL, numpy and the font inside Pillow, so one generator state always gives the same
pixels. Coordinates are pixels, x to the right, y down.


What a task of synthetic BLINK consists of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

IMAGE_SIZE: Final = 112
CELL: Final = 28  # pixels that one merged token of Qwen2.5-VL covers: patches of 14, merged 2 x 2
CELLS: Final = tuple((column, row) for row in range(4) for column in range(4))
MILD: Final = 0.25

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: Final[dict[str, Colour]] = {
    "red": (226, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 85, 225),
    "yellow": (248, 208, 30),
    "purple": (150, 50, 195),
    "cyan": (50, 205, 225),
}
COLOUR_NAMES: Final = tuple(COLOURS)
SHAPES: Final = ("circle", "square", "triangle", "cross")
BADGES: Final[dict[str, tuple[str, Colour]]] = {
    "A": ("A", (205, 20, 35)),
    "B": ("B", (20, 50, 190)),
    "C": ("C", (10, 120, 40)),
    "D": ("D", (235, 120, 0)),
    "REF": ("R", (0, 0, 0)),
}
BADGE_SIZE: Final = 19
_INWARD: Final = (18, 44, 68, 94)
_NOISE_SIZE: Final = 192


def hardness(difficulty: float) -> float:
    """The part of the difficulty above mild (0.25), rescaled to 0..1; hard features come in with it."""
    return max(0.0, (difficulty - MILD) / (1.0 - MILD))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability; always draws one number."""
    return bool(rng.random() < probability)


def pick(rng: np.random.Generator, count: int, total: int) -> list[int]:
    """``count`` distinct integers below ``total``, in random order."""
    return [int(i) for i in rng.permutation(total)[:count]]


def jitter(rng: np.random.Generator, centre: Point, pixels: float) -> Point:
    """``centre`` moved by at most ``pixels`` along each axis."""
    dx, dy = rng.uniform(-1.0, 1.0, 2)
    return (centre[0] + pixels * float(dx), centre[1] + pixels * float(dy))


def cell_centre(cell: tuple[int, int]) -> Point:
    """Centre of cell (column, row)."""
    return (CELL * cell[0] + CELL / 2, CELL * cell[1] + CELL / 2)


def inward_centre(cell: tuple[int, int]) -> Point:
    """A point of the cell a little towards the middle of the image, so that large objects are not cut off."""
    return (float(_INWARD[cell[0]]), float(_INWARD[cell[1]]))


@lru_cache(maxsize=8)
def spread_layouts(count: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """All sets of ``count`` cells of which no two share an edge."""
    return tuple(
        cells
        for cells in combinations(CELLS, count)
        if all(abs(a[0] - b[0]) + abs(a[1] - b[1]) > 1 for a, b in combinations(cells, 2))
    )


def spread_cells(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """``count`` cells in random order of which no two share an edge."""
    layouts = spread_layouts(count)
    cells = layouts[int(rng.integers(len(layouts)))]
    return [cells[i] for i in pick(rng, count, count)]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour times ``factor``, clipped to 0..255."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return (red, green, blue)


def paper(rng: np.random.Generator) -> Image.Image:
    """A plain light background whose tint varies a little."""
    red, green, blue = (int(v) for v in rng.integers(228, 250, 3))
    return Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (red, green, blue))


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, centre: Point, radius: float, colour: Colour) -> None:
    """Fill a circle, square, triangle or cross of about the given radius (pixels), with a thin dark outline."""
    x, y = centre
    edge = shade(colour, 0.55)
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=edge)
    elif shape == "square":
        half = 0.88 * radius
        draw.rectangle((x - half, y - half, x + half, y + half), fill=colour, outline=edge)
    elif shape == "triangle":
        corners = [(x, y - radius), (x + radius, y + 0.85 * radius), (x - radius, y + 0.85 * radius)]
        draw.polygon(corners, fill=colour, outline=edge)
    elif shape == "cross":
        arm = 0.38 * radius
        signs = [
            (-1, -3),
            (1, -3),
            (1, -1),
            (3, -1),
            (3, 1),
            (1, 1),
            (1, 3),
            (-1, 3),
            (-1, 1),
            (-3, 1),
            (-3, -1),
            (-1, -1),
        ]
        reach = {1: arm, 3: radius}
        outline = [(x + np.sign(a) * reach[abs(a)], y + np.sign(b) * reach[abs(b)]) for a, b in signs]
        draw.polygon(outline, fill=colour, outline=edge)
    else:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")


@lru_cache(maxsize=16)
def _badge_sprite(name: str) -> Image.Image:
    """The badge with transparent corners: a white ring, a coloured disc, a white letter; drawn 8 times too large."""
    letter, colour = BADGES[name]
    scale = 8
    side = BADGE_SIZE * scale
    sprite = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    draw = ImageDraw.Draw(sprite)
    draw.ellipse((0, 0, side - 1, side - 1), fill=(255, 255, 255, 255))
    rim = 2 * scale
    draw.ellipse((rim, rim, side - 1 - rim, side - 1 - rim), fill=(*colour, 255))
    font = ImageFont.load_default(size=12 * scale)
    draw.text((side / 2, side / 2), letter, font=font, fill="white", anchor="mm", stroke_width=3, stroke_fill="white")
    return sprite.resize((BADGE_SIZE, BADGE_SIZE), Image.Resampling.LANCZOS)


def place_badge(image: Image.Image, name: str, centre: Point) -> None:
    """Paste the badge ``A``..``D`` or ``REF`` around ``centre``, moved inwards where it would leave the image."""
    sprite = _badge_sprite(name)
    half = BADGE_SIZE // 2
    x, y = (min(IMAGE_SIZE - BADGE_SIZE, max(0, round(value) - half)) for value in centre)
    image.paste(sprite, (x, y), sprite)


@lru_cache(maxsize=4)
def question_mark() -> Image.Image:
    """A 20-pixel sprite of a dark question mark."""
    sprite = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    font = ImageFont.load_default(size=150)
    ImageDraw.Draw(sprite).text(
        (80, 80), "?", font=font, fill="black", anchor="mm", stroke_width=4, stroke_fill="black"
    )
    return sprite.resize((20, 20), Image.Resampling.LANCZOS)


@lru_cache(maxsize=64)
def _noise_bank(strength: int) -> Image.Image:
    """A large image of 128 plus normal noise of standard deviation ``strength`` (grey levels)."""
    noise = np.random.default_rng(20240229).normal(128.0, strength, (_NOISE_SIZE, _NOISE_SIZE, 3))
    return Image.fromarray(np.clip(np.rint(noise), 0, 255).astype(np.uint8))


def add_noise(image: Image.Image, rng: np.random.Generator, difficulty: float) -> Image.Image:
    """Camera noise with a standard deviation of 16 grey levels times the difficulty; none at difficulty 0."""
    x, y = (int(v) for v in rng.integers(0, _NOISE_SIZE - IMAGE_SIZE, 2))
    strength = round(16 * difficulty)
    if strength == 0:
        return image
    window = _noise_bank(strength).crop((x, y, x + IMAGE_SIZE, y + IMAGE_SIZE))
    return ImageChops.add(image, window, scale=1.0, offset=-128)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawn question.

    Attributes:
        images: the images, in order.
        question: the text; it never depends on the answer.
        choices: the option texts, likewise.
        explanation: what a person sees in the images, in a small closed vocabulary: the facts that decide the question,
            for every image, point or panel. Pre-training of the tiny base uses it as a dense caption.
    """

    images: tuple[Image.Image, ...]
    question: str
    choices: tuple[str, ...]
    explanation: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task: its BLINK name, its size, and the function that draws a question with a given answer.

    Attributes:
        name: BLINK's name.
        options: number of options, the same for each question of the task.
        images: number of images.
        draw: ``draw(rng, difficulty, answer)``, where ``answer`` is the index of the option that has to be right. The
            caller draws it uniformly, so nothing but the images can tell it.
    """

    name: str
    options: int
    images: int
    draw: Callable[[np.random.Generator, float, int], Drawing]

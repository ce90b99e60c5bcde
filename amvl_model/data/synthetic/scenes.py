"""Tasks on simple three-dimensional scenes: Relative_Depth, Relative_Reflectance, Multi-view_Reasoning."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from amvl_model.data.synthetic import canvas
from amvl_model.data.synthetic.canvas import CELL, COLOUR_NAMES, COLOURS, IMAGE_SIZE, Colour, Drawing
from amvl_model.data.synthetic.objects import random_shape

_FLOORS: Final[tuple[tuple[Colour, Colour], ...]] = (
    ((206, 228, 246), (196, 190, 178)),
    ((240, 226, 206), (178, 192, 182)),
    ((222, 216, 240), (200, 196, 190)),
)
_HORIZON: Final = 34


@lru_cache(maxsize=8)
def _floor(variant: int) -> Image.Image:
    """Sky above a floor whose lines run to a vanishing point; never drawn on, only copied."""
    sky, ground = _FLOORS[variant]
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), sky)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, _HORIZON, IMAGE_SIZE, IMAGE_SIZE), fill=ground)
    line = canvas.shade(ground, 0.85)
    for x in range(-280, 400, 34):
        draw.line((56, _HORIZON, x, IMAGE_SIZE), fill=line)
    for y in (38, 44, 53, 66, 84, 106):
        draw.line((0, y, IMAGE_SIZE, y), fill=line)
    return image


def _stand(
    draw: ImageDraw.ImageDraw, x: float, near: float, scale: float, shape: str, colour: str
) -> tuple[float, float]:
    """Draw an object on the floor at depth ``near`` (0 far, 1 near) and return its middle."""
    base = 52 + 56 * near
    radius = (12 + 12 * near) * scale
    y = base - (radius if shape in ("circle", "cross") else 0.86 * radius)
    draw.ellipse((x - radius, base - 2 - 3 * near, x + radius, base + 1 + 3 * near), fill=(110, 106, 100))
    canvas.draw_shape(draw, shape, (x, y), radius, COLOURS[colour])
    return (x, y)


def draw_relative_depth(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of two marked objects on a floor is closer: the one that stands lower in the image."""
    hard = canvas.hardness(difficulty)
    gap = 0.6 - 0.42 * difficulty
    far = float(rng.uniform(0.0, 0.95 - gap))
    near = float(rng.uniform(far + gap, 0.97))
    image = _floor(int(rng.integers(len(_FLOORS)))).copy()
    draw = ImageDraw.Draw(image)
    colours = [COLOUR_NAMES[i] for i in canvas.pick(rng, 3, len(COLOUR_NAMES))]
    sides = [28.0, 84.0] if canvas.chance(rng, 0.5) else [84.0, 28.0]
    near_scale, far_scale = 1.0 - 0.3 * hard * float(rng.random()), 1.0 + 0.3 * hard * float(rng.random())
    if canvas.chance(rng, 0.7 * hard):
        _stand(draw, 56.0, float(rng.uniform(0.0, far)), 0.8, random_shape(rng), colours[2])
    middles = {}
    for which, side, depth, scale in (("far", sides[0], far, far_scale), ("near", sides[1], near, near_scale)):
        x = side + float(rng.uniform(-1, 1)) * 8 * min(1.0, 2 * difficulty) * (1 - 0.6 * depth)
        middles[which] = _stand(draw, x, depth, scale, random_shape(rng), colours[0 if which == "far" else 1])
    canvas.place_badge(image, "AB"[answer], middles["near"])
    canvas.place_badge(image, "AB"[1 - answer], middles["far"])
    return Drawing(
        images=(canvas.add_noise(image, rng, difficulty),),
        question="Which point is closer to the camera?",
        choices=("A is closer", "B is closer"),
        explanation=", ".join(
            f"{letter} {1 + int(middles[name][1]) // 14}"
            for letter, name in zip("AB", ("near", "far") if answer == 0 else ("far", "near"), strict=True)
        ),
    )


@lru_cache(maxsize=64)
def _shading(direction: int, depth: int) -> Image.Image:
    """A grey ramp from 255 down to 255 - depth along one of four directions; never drawn on."""
    ramp = 255.0 - depth * np.linspace(0.0, 1.0, IMAGE_SIZE)
    plane = np.broadcast_to(ramp, (IMAGE_SIZE, IMAGE_SIZE))
    plane = np.rot90(plane, direction)
    return Image.fromarray(np.ascontiguousarray(np.rint(plane)).astype(np.uint8)).convert("RGB")


def draw_relative_reflectance(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of two grey patches has the darker paint, or whether they are about the same, under mild shading."""
    hard = canvas.hardness(difficulty)
    gap = 95.0 - 50.0 * difficulty
    dark = float(rng.uniform(35, 215 - gap))
    light = float(rng.uniform(dark + gap, 220))
    same = float(rng.uniform(35, 220))
    levels = ((dark, light), (light, dark), (same, same))[answer]
    wall = ((198, 170, 120), (150, 178, 205), (190, 160, 190))[int(rng.integers(3))]
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), wall)
    draw = ImageDraw.Draw(image)
    extra = int(rng.integers(0, 1 + round(2 * hard)))
    cells = canvas.spread_cells(rng, 4)
    marks = []
    for i, cell in enumerate(cells[: 2 + extra]):
        x, y = canvas.jitter(rng, canvas.inward_centre(cell), 4 * difficulty)
        level = round(levels[i]) if i < 2 else int(rng.integers(35, 220))
        half = 15 - 2 * difficulty
        draw.rectangle(
            (x - half, y - half, x + half, y + half), fill=(level, level, level), outline=canvas.shade(wall, 0.7)
        )
        marks.append((x, y))
    depth = round(110 * difficulty)
    image = ImageChops.multiply(image, _shading(int(rng.integers(4)), depth)) if depth else image
    canvas.place_badge(image, "A", marks[0])
    canvas.place_badge(image, "B", marks[1])
    return Drawing(
        images=(canvas.add_noise(image, rng, 0.7 * difficulty),),
        question="Which point has the darker surface?",
        choices=("A is darker", "B is darker", "about the same"),
        explanation=", ".join(f"{'AB'[i]} {1 + round(levels[i]) // 25}" for i in range(2)),
    )


def _street(
    posts: list[tuple[float, float, str]],
    tower: float | None,
    hills: list[float],
    backdrop: tuple[Colour, Colour],
    shift: float,
) -> Image.Image:
    """Coloured posts (x, height, colour) and a red tower (x) moved by ``shift``, before hills moved by less."""
    sky, ground = backdrop
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), sky)
    draw = ImageDraw.Draw(image)
    for x in hills:
        peak = x + 0.4 * shift
        draw.polygon([(peak - 34, 56), (peak, 26), (peak + 34, 56)], fill=canvas.shade(sky, 0.82))
    draw.rectangle((0, 54, IMAGE_SIZE, IMAGE_SIZE), fill=ground)
    for x, height, colour in posts:
        middle, top = x + shift, 104 - height
        draw.rectangle(
            (middle - 9, top, middle + 9, 104), fill=COLOURS[colour], outline=canvas.shade(COLOURS[colour], 0.55)
        )
    if tower is not None:
        x, edge = tower + shift, canvas.shade(COLOURS["red"], 0.55)
        draw.rectangle((x - 10, 14, x + 10, 108), fill=COLOURS["red"], outline=edge)
        draw.polygon([(x - 12, 14), (x, 2), (x + 12, 14)], fill=COLOURS["red"], outline=edge)
    return image


def _seen(posts: list[tuple[float, float, str]], tower: float | None, shift: float) -> str:
    """Colours of the posts in view from left to right, with the column (1 to 4) of the tower, if there is one."""
    names = [colour for x, _, colour in posts if 0 <= x + shift < IMAGE_SIZE]
    if tower is not None:
        names.append(f"tower {1 + min(3, max(0, int(tower + shift) // CELL))}")
    return " ".join(names)


def draw_multi_view(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Whether the camera moves left or right: the scene moves the other way, near things more than far hills.

    A red tower stays in view up to difficulty 0.25. Because it may not leave the image, its place in one image
    alone lets one guess 73 of 100 answers (at difficulty 0); both images always tell. Without the tower, as at
    high difficulty, the posts go on beyond both edges, and neither image alone says anything.
    """
    hard = canvas.hardness(difficulty)
    size = CELL * (1.0 - 0.6 * hard) + float(rng.uniform(-1, 1)) * 6 * difficulty
    shift = size if answer == 0 else -size
    tower = None if canvas.chance(rng, hard) else 56 - shift / 2 + float(rng.uniform(-1, 1)) * (44 - size / 2)
    others = [name for name in COLOUR_NAMES if name != "red"]
    names = [others[i] for i in canvas.pick(rng, 5, 5)]
    posts = []
    for i in range(6):
        x = CELL * (i - 1) + CELL / 2 + float(rng.uniform(-1, 1)) * 4 * difficulty
        posts.append((x, float(rng.uniform(40, 64)), names[i % 5]))  # the first and the last are never both in view
    hills = [float(x) for x in rng.uniform(-20, 30) + np.arange(-1, 4) * 52]
    backdrop = _FLOORS[int(rng.integers(len(_FLOORS)))]
    offset = float(rng.uniform(-1, 1)) * 10 * hard if tower is None else 0.0
    images = [_street(posts, tower, hills, backdrop, moved + offset) for moved in (0.0, shift)]
    return Drawing(
        images=tuple(canvas.add_noise(image, rng, difficulty) for image in images),
        question="Is the camera moving left or right?",
        choices=("left", "right"),
        explanation=". ".join(_seen(posts, tower, moved + offset) for moved in (0.0, shift)),
    )

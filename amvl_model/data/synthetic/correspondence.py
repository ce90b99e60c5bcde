"""Tasks on matching points of two images: Visual_, Semantic_ and Functional_Correspondence.

A black badge R (REF) marks a point of the first image; badges A to D mark four points of the second one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic import canvas
from amvl_model.data.synthetic.canvas import COLOUR_NAMES, COLOURS, IMAGE_SIZE, SHAPES, Colour, Drawing, Point

LETTERS: Final = ("A", "B", "C", "D")
COATS: Final[tuple[Colour, ...]] = (
    (196, 150, 100),
    (150, 190, 220),
    (225, 170, 190),
    (170, 200, 140),
    (190, 170, 215),
    (190, 190, 190),
)
_ANIMAL_PARTS: Final[tuple[Point, ...]] = ((27, 47), (98, 44), (56, 90), (57, 46))
_TOOL_PARTS: Final[tuple[Point, ...]] = ((14, 60), (42, 60), (70, 60), (97, 60))


def _mark_options(
    image: Image.Image, rng: np.random.Generator, points: list[Point], target: int, answer: int
) -> dict[str, int]:
    """Put badge ``answer`` on ``points[target]`` and the other three badges on the other points, in random order.

    Returns the index of the point that each letter stands on, by letter from A to D.
    """
    others = [i for i in range(4) if i != target]
    letters = [i for i in range(4) if i != answer]
    canvas.place_badge(image, LETTERS[answer], points[target])
    on = {LETTERS[answer]: target}
    for letter, place in zip(letters, canvas.pick(rng, 3, 3), strict=True):
        canvas.place_badge(image, LETTERS[letter], points[others[place]])
        on[LETTERS[letter]] = others[place]
    return dict(sorted(on.items()))


def _explain(names: tuple[str, ...], target: int, on: dict[str, int]) -> str:
    """What R stands on and the letter that stands there too, then what each letter stands on."""
    match = next(letter for letter, place in on.items() if place == target)
    return f"R {names[target]} {match}. " + ", ".join(f"{letter} {names[place]}" for letter, place in on.items())


def _objects(
    rng: np.random.Generator, things: list[tuple[str, str]], cells: list[tuple[int, int]], difficulty: float
) -> tuple[Image.Image, list[Point]]:
    """An image of four objects (shape, colour) in their cells, in a light of its own, and where they are."""
    hard = canvas.hardness(difficulty)
    image = canvas.paper(rng)
    draw = ImageDraw.Draw(image)
    light = 1.0 + (0.15 * difficulty + 0.3 * hard) * float(rng.uniform(-1, 0.2))
    points = []
    for (shape, colour), cell in zip(things, cells, strict=True):
        centre = canvas.jitter(rng, canvas.inward_centre(cell), 4 * difficulty)
        canvas.draw_shape(draw, shape, centre, 15 - difficulty, canvas.shade(COLOURS[colour], light))
        points.append(centre)
    return image, points


def draw_visual_correspondence(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """The same four objects seen again: which marked one is the marked one of the first image.

    The objects are rearranged with probability 2 x difficulty (at most 1), otherwise they only move a little.
    """
    colours = [COLOUR_NAMES[i] for i in canvas.pick(rng, 4, len(COLOUR_NAMES))]
    shapes = [SHAPES[int(i)] for i in rng.integers(0, len(SHAPES), 4)]
    if canvas.chance(rng, canvas.hardness(difficulty)):
        shapes = [SHAPES[i] for i in canvas.pick(rng, 4, 4)]
        colours[1], colours[3] = colours[0], colours[2]
    things = list(zip(shapes, colours, strict=True))
    before, after = canvas.spread_cells(rng, 4), canvas.spread_cells(rng, 4)
    rearranged = canvas.chance(rng, min(1.0, 2 * difficulty))
    first, first_points = _objects(rng, things, before, difficulty)
    second, second_points = _objects(rng, things, after if rearranged else before, difficulty)
    target = int(rng.integers(4))
    canvas.place_badge(first, "REF", first_points[target])
    on = _mark_options(second, rng, second_points, target, answer)
    return Drawing(
        images=(canvas.add_noise(first, rng, difficulty), canvas.add_noise(second, rng, difficulty)),
        question="Which point is on the same object as R?",
        choices=LETTERS,
        explanation=_explain(tuple(f"{colour} {shape}" for shape, colour in things), target, on),
    )


def _striped_tail(draw: ImageDraw.ImageDraw, lean: float, stripes: Colour) -> None:
    """A thick raised tail of five rings, white and ``stripes`` in turn."""
    for i in range(6):
        x, y = 91 + (3 + lean) * i * 0.6, 60 - 10 * i
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=stripes if i % 2 else (255, 255, 255), outline=(60, 50, 50))


def _animal(rng: np.random.Generator, coat: Colour, species: int, accents: bool) -> Image.Image:
    """An animal that looks to the left: pale face, saddle, dark legs, ringed tail (plain ones without accents)."""
    image = canvas.paper(rng)
    draw = ImageDraw.Draw(image)
    dark = canvas.shade(coat, 0.6)
    _striped_tail(draw, float(species), (30, 30, 30) if accents else coat)
    hoof = (70, 40, 20) if accents else dark
    for x in (32, 44, 68, 80):
        draw.rectangle((x - 5, 66, x + 5, 106), fill=hoof if accents else coat)
        draw.rectangle((x - 5, 98, x + 5, 106), fill=hoof)
    draw.ellipse((18, 46, 94, 82), fill=coat, outline=dark)
    saddle = (240, 120, 30) if accents else canvas.shade(coat, 0.9)
    draw.pieslice((34, 32, 80, 76), 180, 360, fill=saddle, outline=dark)
    for x in (11, 36):
        if species == 0:
            draw.polygon([(x - 7, 24), (x, 2), (x + 7, 24)], fill=dark)
        elif species == 1:
            draw.ellipse((x - 5, 0, x + 5, 30), fill=dark)
        else:
            draw.ellipse((x - 7, 6, x + 7, 20), fill=dark)
    draw.ellipse((4, 11, 44, 55), fill=(255, 250, 240) if accents else coat, outline=dark)
    draw.ellipse((12, 21, 20, 31), fill=(20, 20, 20))
    draw.ellipse((27, 21, 35, 31), fill=(20, 20, 20))
    return image


def _placed(
    image: Image.Image, points: tuple[Point, ...], flip: bool, turn: bool, move: tuple[int, int]
) -> tuple[Image.Image, list[Point]]:
    """The image and its points after a mirror image, a swap of x and y, and a move, each optional.

    What the move uncovers takes the colour of the lower right corner, which is background.
    """
    last = IMAGE_SIZE - 1
    result = Image.new("RGB", image.size, image.getpixel((last, last)))
    places = list(points)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        places = [(last - x, y) for x, y in places]
    if turn:
        image = image.transpose(Image.Transpose.TRANSPOSE)
        places = [(y, x) for x, y in places]
    result.paste(image, move)
    return result, [(x + move[0], y + move[1]) for x, y in places]


def _move(rng: np.random.Generator, pixels: float) -> tuple[int, int]:
    """A random shift in whole pixels, at most ``pixels`` along each axis."""
    dx, dy = rng.uniform(-pixels, pixels, 2) if pixels > 0 else (0.0, 0.0)
    return (round(float(dx)), round(float(dy)))


View = tuple[Image.Image, list[Point]]
"""An image and the points of its parts."""


def _two_views(
    rng: np.random.Generator,
    difficulty: float,
    target: int,
    answer: int,
    view: Callable[[int], View],
    question: str,
    parts: tuple[str, ...],
) -> Drawing:
    """A question on two noisy views: the first has its reference point on a part, the second the options on its parts."""
    shown: list[Image.Image] = []
    on: dict[str, int] = {}
    for i in range(2):
        image, points = view(i)
        if i == 0:
            canvas.place_badge(image, "REF", points[target])
        else:
            on = _mark_options(image, rng, points, target, answer)
        shown.append(canvas.add_noise(image, rng, difficulty))
    return Drawing(images=tuple(shown), question=question, choices=LETTERS, explanation=_explain(parts, target, on))


def draw_semantic_correspondence(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Two animals of different coat and kind: which point is on the same part.

    Each looks to the right with probability ``difficulty`` (at most 1/2), otherwise to the left.
    """
    hard = canvas.hardness(difficulty)
    coats, species = canvas.pick(rng, 2, len(COATS)), canvas.pick(rng, 2, 3)
    accents = not canvas.chance(rng, hard)
    target = int(rng.integers(4))

    def view(i: int) -> View:
        animal = _animal(rng, COATS[coats[i]], species[i], accents)
        return _placed(
            animal, _ANIMAL_PARTS, canvas.chance(rng, min(0.5, difficulty)), False, _move(rng, 5 * difficulty)
        )

    parts = ("head", "tail", "legs", "back")
    return _two_views(rng, difficulty, target, answer, view, "Which point is on the same part as R?", parts)


@lru_cache(maxsize=4)
def _grip(accents: bool) -> Image.Image:
    """The ribbed handle of every tool; never drawn on."""
    fill: Colour = (150, 90, 40) if accents else (150, 140, 130)
    image = Image.new("RGB", (30, 28), fill)
    draw = ImageDraw.Draw(image)
    for x in range(2, 30, 7):
        draw.rectangle((x, 0, x + 2, 27), fill=canvas.shade(fill, 0.45))
    return image


def _working_end(draw: ImageDraw.ImageDraw, kind: int, steel: Colour) -> None:
    """The part that does the work, around (97, 52): hammer, spanner, brush, ladle or axe."""
    edge = canvas.shade(steel, 0.5)
    if kind == 0:
        draw.rectangle((86, 30, 106, 80), fill=steel, outline=edge)
    elif kind == 1:
        draw.pieslice((82, 32, 112, 76), 35, 325, fill=steel, outline=edge)
        draw.rectangle((80, 46, 88, 62), fill=steel)
    elif kind == 2:
        draw.rectangle((85, 34, 110, 76), fill=steel, outline=edge)
        for y in range(37, 76, 5):
            draw.line((96, y, 110, y), fill=edge)
    elif kind == 3:
        draw.ellipse((83, 30, 111, 78), fill=steel, outline=edge)
    else:
        draw.polygon([(86, 42), (108, 28), (108, 82), (86, 64)], fill=steel, outline=edge)


def _tool(rng: np.random.Generator, kind: int, paint: Colour, accents: bool) -> Image.Image:
    """A tool along a row: ring to hang it by, grip, thin shaft, working end."""
    image = canvas.paper(rng)
    draw = ImageDraw.Draw(image)
    steel: Colour = (120, 160, 200) if accents else canvas.shade(paint, 0.9)
    ring: Colour = (245, 200, 40) if accents else canvas.shade(paint, 0.8)
    draw.ellipse((1, 38, 29, 68), outline=ring, width=6)
    draw.rectangle((54, 47, 88, 59), fill=paint if not accents else (70, 70, 80))
    image.paste(_grip(accents), (27, 39))
    _working_end(draw, kind, steel)
    return image


def draw_functional_correspondence(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Two different tools: which point has the same function (to hang it by, to hold, to reach, to work).

    Each is turned round with probability ``difficulty`` (at most 1/2); high difficulty also stands tools upright.
    """
    hard = canvas.hardness(difficulty)
    kinds, paints = canvas.pick(rng, 2, 5), canvas.pick(rng, 2, len(COATS))
    accents = not canvas.chance(rng, hard)
    target = int(rng.integers(4))

    def view(i: int) -> View:
        tool = _tool(rng, kinds[i], COATS[paints[i]], accents)
        flip, turn = canvas.chance(rng, min(0.5, difficulty)), canvas.chance(rng, 0.5 * min(1.0, 2 * hard))
        return _placed(tool, _TOOL_PARTS, flip, turn, _move(rng, 5 * difficulty))

    parts = ("ring", "grip", "shaft", "end")
    return _two_views(rng, difficulty, target, answer, view, "Which point has the same use as R?", parts)

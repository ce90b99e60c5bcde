"""Tasks on a few coloured objects: Counting, Spatial_Relation, Object_Localization, Visual_Similarity."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic import canvas
from amvl_model.data.synthetic.canvas import CELLS, COLOUR_NAMES, COLOURS, IMAGE_SIZE, SHAPES, Drawing, Point

RELATIONS: Final[dict[str, tuple[int, int]]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
SECOND_OR_THIRD: Final = ("the second image", "the third image")
_NODES: Final = tuple((x, y) for y in (28, 56, 84) for x in (28, 56, 84))


def random_shape(rng: np.random.Generator) -> str:
    """One of the four shapes, uniformly."""
    return SHAPES[int(rng.integers(len(SHAPES)))]


def other_than(rng: np.random.Generator, names: tuple[str, ...], taken: str) -> str:
    """One of ``names`` except ``taken``, uniformly."""
    rest = [name for name in names if name != taken]
    return rest[int(rng.integers(len(rest)))]


def _cell_object(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    cell: tuple[int, int],
    shape: str,
    colour: str,
    difficulty: float,
) -> None:
    """Draw an object in its cell; radius and jitter are such that objects in adjacent cells never overlap."""
    centre = canvas.jitter(rng, canvas.cell_centre(cell), 5 * difficulty)
    canvas.draw_shape(draw, shape, centre, 12 - 3 * difficulty, COLOURS[colour])


def _inventory(shown: list[tuple[tuple[int, int], str, str]]) -> str:
    """Objects (cell, shape, colour) in reading order, each behind its place: row a to d, then column a to d."""
    ordered = sorted(shown, key=lambda item: (item[0][1], item[0][0]))
    return " ".join(f"{'abcd'[cell[1]]}{'abcd'[cell[0]]} {colour} {shape}" for cell, shape, colour in ordered)


def draw_counting(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """How many objects of one colour and shape are there; the options are four consecutive numbers.

    The first option is drawn independently of the answer's rank, so the options do not tell the count.
    """
    hard = canvas.hardness(difficulty)
    first = int(rng.integers(1, 4 + round(3 * hard)))
    count = first + answer
    shape, colour = random_shape(rng), COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
    distractors = int(rng.integers(0, 1 + round(6 * difficulty)))
    cells = [CELLS[i] for i in canvas.pick(rng, count + distractors, len(CELLS))]
    image = canvas.paper(rng)
    draw = ImageDraw.Draw(image)
    shown = [(cell, shape, colour) for cell in cells[:count]]
    for cell, form, paint in shown:
        _cell_object(draw, rng, cell, form, paint, difficulty)
    for cell in cells[count:]:
        if canvas.chance(rng, 0.6 * hard):
            form, paint = other_than(rng, SHAPES, shape), colour
        else:
            form, paint = random_shape(rng), other_than(rng, COLOUR_NAMES, colour)
        _cell_object(draw, rng, cell, form, paint, difficulty)
        shown.append((cell, form, paint))
    plural = "crosses" if shape == "cross" else f"{shape}s"
    return Drawing(
        images=(canvas.add_noise(image, rng, difficulty),),
        question=f"How many {colour} {plural} are there?",
        choices=tuple(str(first + i) for i in range(4)),
        explanation=_inventory(shown),
    )


@lru_cache(maxsize=16)
def _cell_pairs(relation: str, gap: int) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """Ordered pairs of cells of which the first is at least ``gap`` cells ``relation`` the second."""
    dx, dy = RELATIONS[relation]
    return tuple((a, b) for a in CELLS for b in CELLS if dx * (a[0] - b[0]) + dy * (a[1] - b[1]) >= gap)


def _relation(first: tuple[int, int], second: tuple[int, int]) -> str:
    """How the first cell lies to the second, along both axes where they differ: "left above", for example."""
    across = "left" if first[0] < second[0] else "right" if first[0] > second[0] else ""
    down = "above" if first[1] < second[1] else "below" if first[1] > second[1] else ""
    return f"{across} {down}".strip()


def draw_spatial_relation(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Whether one object is left of, right of, above or below another one."""
    hard = canvas.hardness(difficulty)
    names = list(RELATIONS)
    relation = names[int(rng.integers(4))]
    colours = [COLOUR_NAMES[i] for i in canvas.pick(rng, len(COLOUR_NAMES), len(COLOUR_NAMES))]
    shapes = [random_shape(rng), random_shape(rng)]
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]
    pairs = _cell_pairs(relation if answer == 0 else opposite, 2 if difficulty < 0.15 else 1)
    first, second = pairs[int(rng.integers(len(pairs)))]
    image = canvas.paper(rng)
    draw = ImageDraw.Draw(image)
    _cell_object(draw, rng, first, shapes[0], colours[0], difficulty)
    _cell_object(draw, rng, second, shapes[1], colours[1], difficulty)
    free = [cell for cell in CELLS if cell not in (first, second)]
    distractors = int(rng.integers(0, 1 + round(4 * difficulty)))
    shown = [(first, shapes[0], colours[0]), (second, shapes[1], colours[1])]
    for i, place in enumerate(canvas.pick(rng, distractors, len(free))):
        if canvas.chance(rng, 0.6 * hard):
            form, paint = other_than(rng, SHAPES, shapes[i % 2]), colours[i % 2]
        else:
            form, paint = random_shape(rng), colours[2 + i % 4]
        _cell_object(draw, rng, free[place], form, paint, difficulty)
        shown.append((free[place], form, paint))
    return Drawing(
        images=(canvas.add_noise(image, rng, difficulty),),
        question=f"Is the {colours[0]} {shapes[0]} {relation} the {colours[1]} {shapes[1]}?",
        choices=("yes", "no"),
        explanation=f"{colours[0]} {shapes[0]} {_relation(first, second)} {colours[1]} {shapes[1]}. {_inventory(shown)}",
    )


def _wrong_centre(rng: np.random.Generator, node: tuple[int, int], difficulty: float) -> Point:
    """Centre of the box that misses the object: 2 nodes away at 0, a diagonal at 0.25, down to 15 pixels at 1."""
    distances = [float(np.hypot(x - node[0], y - node[1])) for x, y in _NODES]
    least = min(max(distances), 28 * max(1.4, 2.0 - 2.4 * difficulty))
    far = [other for other, distance in zip(_NODES, distances, strict=True) if distance >= least - 1e-6]
    x, y = far[int(rng.integers(len(far)))]
    reach = 1.0 - 0.6 * canvas.hardness(difficulty)
    return (node[0] + reach * (x - node[0]), node[1] + reach * (y - node[1]))


def _box(image: Image.Image, name: str, centre: Point, half: float, lower: bool) -> None:
    """A coloured frame with its badge on the upper left corner, or on the lower right one."""
    x0, y0, x1, y1 = (
        min(IMAGE_SIZE - 1, max(0, round(value)))
        for value in (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
    )
    draw = ImageDraw.Draw(image)
    draw.rectangle((x0, y0, x1, y1), outline=canvas.BADGES[name][1], width=3)
    canvas.place_badge(image, name, (x1 - 2, y1 - 2) if lower else (x0 + 2, y0 + 2))


def _where(point: Point) -> str:
    """Row (a to c) and column (a to c) of a point of the image."""
    column, row = (min(2, max(0, round(value / 28) - 1)) for value in point)
    return f"{'abc'[row]}{'abc'[column]}"


def draw_object_localization(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of two boxes fits the object that the question names."""
    hard = canvas.hardness(difficulty)
    shape = random_shape(rng)
    colour = ("green", "yellow", "purple", "cyan")[int(rng.integers(4))]
    node = _NODES[int(rng.integers(len(_NODES)))]
    shift = canvas.jitter(rng, (0.0, 0.0), 6 * difficulty)
    wrong = _wrong_centre(rng, node, difficulty)
    centre = (node[0] + shift[0], node[1] + shift[1])
    wrong = (wrong[0] + shift[0], wrong[1] + shift[1])
    radius = 14.0 - 3 * hard * float(rng.random())
    image = canvas.paper(rng)
    draw = ImageDraw.Draw(image)
    if canvas.chance(rng, hard) and np.hypot(wrong[0] - centre[0], wrong[1] - centre[1]) > 2.2 * radius:
        decoy = other_than(rng, ("green", "yellow", "purple", "cyan"), colour)
        canvas.draw_shape(draw, random_shape(rng), wrong, radius, COLOURS[decoy])
    canvas.draw_shape(draw, shape, centre, radius, COLOURS[colour])
    scale = 1.0 + 0.25 * hard * float(rng.uniform(-1, 1))
    halves = {True: radius + 4, False: (radius + 4) * scale}
    crowded = np.hypot(wrong[0] - centre[0], wrong[1] - centre[1]) < 26
    for i in canvas.pick(rng, 2, 2):
        fits = i == answer
        _box(image, "AB"[i], centre if fits else wrong, halves[fits], bool(crowded) and i == 1)
    return Drawing(
        images=(canvas.add_noise(image, rng, difficulty),),
        question=f"Which box fits the {colour} {shape}?",
        choices=("Box A", "Box B"),
        explanation=f"{_where(centre)} {colour} {shape}. "
        + ", ".join(f"{'AB'[i]} {_where(centre if i == answer else wrong)}" for i in range(2)),
    )


def _portrait(rng: np.random.Generator, objects: list[tuple[str, str]], difficulty: float) -> Image.Image:
    """One image of one or two large objects (shape, colour) in random places."""
    image = canvas.paper(rng)
    draw = ImageDraw.Draw(image)
    light = 1.0 + 0.5 * canvas.hardness(difficulty) * float(rng.uniform(-1, 0.3))
    if len(objects) == 1:
        radius = float(rng.uniform(26, 34)) - 8 * canvas.hardness(difficulty)
        centre = canvas.jitter(rng, (56.0, 56.0), 12 * min(1.0, 2 * difficulty))
        canvas.draw_shape(draw, objects[0][0], centre, radius, canvas.shade(COLOURS[objects[0][1]], light))
    else:
        flip = canvas.chance(rng, 0.5)
        for i, (shape, colour) in enumerate(objects):
            corner = (30.0, 32.0) if (i == 0) != flip else (82.0, 80.0)
            canvas.draw_shape(
                draw, shape, canvas.jitter(rng, corner, 6 * difficulty), 22, canvas.shade(COLOURS[colour], light)
            )
    return canvas.add_noise(image, rng, difficulty)


def draw_visual_similarity(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of two images shows the same kind of objects as the first one."""
    hard = canvas.hardness(difficulty)
    count = 2 if canvas.chance(rng, 0.6 * hard) else 1
    colours = canvas.pick(rng, 2 * count, len(COLOUR_NAMES))
    same = [(random_shape(rng), COLOUR_NAMES[colours[i]]) for i in range(count)]
    other = [(other_than(rng, SHAPES, shape), COLOUR_NAMES[colours[count + i]]) for i, (shape, _) in enumerate(same)]
    if canvas.chance(rng, 0.8 * hard):
        keep_colour = canvas.chance(rng, 0.5)
        other[0] = (other[0][0], same[0][1]) if keep_colour else (same[0][0], other[0][1])
        other[1:] = same[1:]
    candidates = [same, other] if answer == 0 else [other, same]
    images = [_portrait(rng, objects, difficulty) for objects in (same, *candidates)]
    return Drawing(
        images=tuple(images),
        question="Which image is most similar to the first image?",
        choices=SECOND_OR_THIRD,
        explanation=", ".join(
            " ".join(f"{colour} {shape}" for shape, colour in objects) for objects in (same, *candidates)
        ),
    )

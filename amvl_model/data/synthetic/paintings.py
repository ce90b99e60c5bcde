"""Tasks on whole images and their textures: Art_Style, Forensic_Detection, Jigsaw."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic import canvas
from amvl_model.data.synthetic.canvas import IMAGE_SIZE, Colour, Drawing
from amvl_model.data.synthetic.objects import SECOND_OR_THIRD

# Four tones (backdrop, large form, dark form, light form) and the ink of the strokes.
PALETTES: Final[tuple[tuple[Colour, ...], ...]] = (
    ((250, 212, 100), (242, 150, 45), (214, 70, 40), (255, 240, 190), (130, 20, 20)),
    ((160, 208, 245), (60, 130, 210), (25, 65, 150), (230, 245, 255), (8, 25, 95)),
    ((196, 230, 160), (90, 175, 80), (35, 110, 55), (240, 250, 200), (10, 60, 20)),
    ((214, 214, 214), (150, 150, 150), (88, 88, 88), (250, 250, 250), (15, 15, 15)),
    ((255, 196, 232), (238, 110, 195), (165, 60, 175), (255, 240, 250), (110, 5, 115)),
    ((222, 192, 150), (168, 116, 70), (106, 68, 38), (245, 230, 205), (55, 30, 10)),
)
_PALETTE_NAMES: Final = ("orange", "blue", "green", "grey", "pink", "brown")
_KINDS: Final = ("hills", "house", "tree", "boat", "person")
_BAND_NAMES: Final = ("rows", "columns", "diagonals", "rings")
_BAND_COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "pink")
TEXTURES: Final = ("dots", "rows", "columns", "hatching", "tiles", "rings")
_TEXTURE_SIZE: Final = 140
_LOOKS: Final[tuple[tuple[Colour, Colour, Colour, Colour], ...]] = (
    ((150, 200, 240), (110, 165, 90), (190, 90, 70), (250, 235, 170)),
    ((245, 205, 170), (170, 140, 100), (90, 110, 140), (255, 245, 225)),
    ((190, 205, 225), (120, 150, 120), (130, 95, 80), (240, 200, 120)),
    ((210, 190, 225), (100, 140, 160), (150, 80, 110), (250, 220, 190)),
)
JIGSAW_COLOURS: Final[tuple[Colour, ...]] = (
    (225, 50, 50),
    (40, 165, 70),
    (50, 90, 225),
    (248, 208, 40),
    (150, 60, 195),
    (60, 205, 225),
    (240, 140, 40),
    (245, 165, 205),
)


@lru_cache(maxsize=8)
def _texture(name: str) -> Image.Image:
    """Where the ink of a style lies: a mask of 0 and 255, larger than an image so that it can be shifted."""
    y, x = np.mgrid[0:_TEXTURE_SIZE, 0:_TEXTURE_SIZE]
    if name == "dots":
        mask = (x % 14 - 7) ** 2 + (y % 14 - 7) ** 2 <= 20
    elif name == "rows":
        mask = y % 12 < 5
    elif name == "columns":
        mask = x % 12 < 5
    elif name == "hatching":
        mask = ((x + y) % 14 < 3) | ((x - y) % 14 < 3)
    elif name == "tiles":
        mask = (x // 9 + y // 9) % 2 == 0
    else:
        mask = np.sqrt((x - 70) ** 2 + (y - 70) ** 2) % 14 < 5
    return Image.fromarray((255 * mask).astype(np.uint8))


def _draw_content(draw: ImageDraw.ImageDraw, kind: int, x: float, ground: float) -> None:
    """Draw the content of an image in palette indices 0 to 3: hills, a house, a tree, a boat or a person."""
    size = IMAGE_SIZE
    if kind == 0:
        draw.ellipse((x - 14, 10, x + 14, 38), fill=3)
        draw.polygon([(0, ground), (30, ground - 28), (66, ground), (90, ground - 20), (size, ground)], fill=2)
        draw.rectangle((0, ground, size, size), fill=1)
    elif kind == 1:
        draw.rectangle((0, ground, size, size), fill=1)
        draw.rectangle((x - 24, ground - 30, x + 24, ground + 16), fill=3)
        draw.polygon([(x - 30, ground - 30), (x, ground - 56), (x + 30, ground - 30)], fill=2)
    elif kind == 2:
        draw.rectangle((0, ground, size, size), fill=1)
        draw.rectangle((x - 6, ground - 24, x + 6, ground + 14), fill=3)
        draw.ellipse((x - 27, ground - 66, x + 27, ground - 16), fill=2)
    elif kind == 3:
        draw.rectangle((0, ground, size, size), fill=1)
        draw.polygon([(x - 2, ground - 58), (x - 2, ground - 10), (x + 32, ground - 10)], fill=3)
        draw.polygon([(x - 34, ground - 6), (x + 34, ground - 6), (x + 22, ground + 14), (x - 22, ground + 14)], fill=2)
    else:
        draw.ellipse((x - 38, 72, x + 38, 150), fill=1)
        draw.ellipse((x - 24, 14, x + 24, 78), fill=2)
        draw.ellipse((x - 18, 26, x + 18, 74), fill=3)


def _content(rng: np.random.Generator, kind: int, difficulty: float) -> Image.Image:
    """A palette image (indices 0 to 3) of one kind of content in a random place."""
    image = Image.new("P", (IMAGE_SIZE, IMAGE_SIZE), 0)
    reach = 6 + 14 * difficulty
    x = 56 + reach * float(rng.uniform(-1, 1))
    ground = 72 + 0.5 * reach * float(rng.uniform(-1, 1))
    _draw_content(ImageDraw.Draw(image), kind, x, ground)
    return image


def _coloured(content: Image.Image, tones: tuple[Colour, ...]) -> Image.Image:
    """The palette image in real colours."""
    content.putpalette([channel for tone in tones for channel in tone])
    return content.convert("RGB")


def _painting(rng: np.random.Generator, kind: int, texture: str, palette: int, difficulty: float) -> Image.Image:
    """One content painted in one style: tones of the palette under ink strokes of the texture."""
    tones = PALETTES[palette]
    base = _coloured(_content(rng, kind, difficulty), tones[:4])
    x, y = (int(v) for v in rng.integers(0, _TEXTURE_SIZE - IMAGE_SIZE, 2))
    mask = _texture(texture).crop((x, y, x + IMAGE_SIZE, y + IMAGE_SIZE))
    base.paste(tones[4], (0, 0), mask)
    return canvas.add_noise(base, rng, difficulty)


def draw_art_style(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of two images is painted like the first one: strokes and palette agree, contents differ.

    At high difficulty both candidates share the palette, and only the strokes tell.
    """
    kinds = canvas.pick(rng, 3, 5)
    textures = canvas.pick(rng, 2, len(TEXTURES))
    palettes = canvas.pick(rng, 2, len(PALETTES))
    if canvas.chance(rng, canvas.hardness(difficulty)):
        palettes[1] = palettes[0]
    same = 1 + answer
    images, seen = [], []
    for i in range(3):
        style = 0 if i in (0, same) else 1
        images.append(_painting(rng, kinds[i], TEXTURES[textures[style]], palettes[style], difficulty))
        seen.append(f"{TEXTURES[textures[style]]} {_PALETTE_NAMES[palettes[style]]} {_KINDS[kinds[i]]}")
    return Drawing(
        images=tuple(images),
        question="Which image has the same art style as the first image?",
        choices=SECOND_OR_THIRD,
        explanation=", ".join(seen),
    )


def _glitch(image: Image.Image, rng: np.random.Generator, difficulty: float) -> Image.Image:
    """Paste a square of coloured blocks: 56 pixels and opaque at difficulty 0, 24 pixels and half faded at 1."""
    side = round(56 - 32 * difficulty)
    block = 7 if difficulty <= 0.5 else 4
    count = -(-side // block)
    blocks = rng.integers(0, 256, (count, count, 3), dtype=np.uint8)
    patch = Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST)
    x, y = (int(v) for v in rng.integers(0, IMAGE_SIZE - side, 2, endpoint=True))
    area = (x, y, x + side, y + side)
    strength = 1.0 - 0.5 * canvas.hardness(difficulty)
    image.paste(Image.blend(image.crop(area), patch, strength), area)
    return image


def draw_forensic_detection(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of four images has been tampered with: one has a patch of colour blocks."""
    kinds = canvas.pick(rng, 4, 5)
    images = []
    for i in range(4):
        look = _LOOKS[int(rng.integers(len(_LOOKS)))]
        light = float(rng.uniform(0.85, 1.05))
        image = _coloured(_content(rng, kinds[i], difficulty), tuple(canvas.shade(tone, light) for tone in look))
        if i == answer:
            image = _glitch(image, rng, difficulty)
        images.append(canvas.add_noise(image, rng, difficulty))
    return Drawing(
        images=tuple(images),
        question="Which image is fake?",
        choices=("the first image", "the second image", "the third image", "the fourth image"),
        explanation=", ".join(f"{_KINDS[kinds[i]]} {'fake' if i == answer else 'real'}" for i in range(4)),
    )


@lru_cache(maxsize=16)
def _field(kind: int, wave: int) -> np.ndarray:
    """A number per pixel whose level sets are rows, columns, diagonals or rings; ``wave`` bends them (pixels)."""
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(float)
    bend = wave * np.sin((x if kind == 0 else y) / 9.0)
    if kind == 0:
        field = y
    elif kind == 1:
        field = x
    elif kind == 2:
        field = 0.75 * (x - y) + 112
    else:
        field = np.sqrt((x - 56) ** 2 + (y - 56) ** 2)
    result: np.ndarray = np.rint(field + bend).astype(np.int32)
    return result


def _bands(kind: int, wave: int, offset: int, colours: list[int]) -> Image.Image:
    """An image of bands of the given colours (indices into `JIGSAW_COLOURS`), 24 pixels wide."""
    lookup = np.array([(value + offset) // 24 % len(colours) for value in range(-32, 256)], dtype=np.uint8)
    image = Image.fromarray(lookup[_field(kind, wave) + 32])
    return _coloured(image, tuple(JIGSAW_COLOURS[i] for i in colours))


def _band_words(kind: int, colours: list[int]) -> str:
    """Bands in words; the colours in a fixed order, since a piece need not begin with the first one."""
    return " ".join([_BAND_NAMES[kind], *(_BAND_COLOURS[i] for i in sorted(colours))])


def draw_jigsaw(rng: np.random.Generator, difficulty: float, answer: int) -> Drawing:
    """Which of two pieces, shown enlarged, belongs into the black lower right quarter of the first image.

    The wrong piece has other colours; at high difficulty it has the same bands, moved.
    """
    hard = canvas.hardness(difficulty)
    kind, wave = int(rng.integers(4)), round(6 * difficulty * float(rng.random()))
    offset = int(rng.integers(72))
    order = canvas.pick(rng, len(JIGSAW_COLOURS), len(JIGSAW_COLOURS))
    whole = _bands(kind, wave, offset, order[:3])
    if canvas.chance(rng, hard):
        move = int(rng.choice([-1, 1]) * rng.integers(18, 36))
        wrong = _bands(kind, wave, offset + move, order[:3])
        wrong_seen = f"{_band_words(kind, order[:3])} moved"
    else:
        other = int(rng.integers(4))
        wrong = _bands(other, wave, int(rng.integers(72)), order[3:6])
        wrong_seen = _band_words(other, order[3:6])
    half = IMAGE_SIZE // 2
    quarter = (half, half, IMAGE_SIZE, IMAGE_SIZE)
    pieces = [image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.NEAREST, quarter) for image in (whole, wrong)]
    whole.paste((0, 0, 0), quarter)
    shown = [whole, pieces[answer], pieces[1 - answer]]
    images = tuple(canvas.add_noise(image, rng, difficulty) for image in shown)
    right_seen = _band_words(kind, order[:3])
    seen = [right_seen, wrong_seen] if answer == 0 else [wrong_seen, right_seen]
    return Drawing(
        images=images,
        question="Which image is the missing part of the first image?",
        choices=SECOND_OR_THIRD,
        explanation=", ".join([right_seen, *seen]),
    )

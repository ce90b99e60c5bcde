"""Nested_Comparison: coloured bars of different heights; keep the taller or the shorter of two, then compare with the next.

    s_0 = c_0,    s_i = taller or shorter of (s_{i-1}, c_i),    i = 1 .. h

The colours c_i and the words are in the text, the heights in the image. The last comparison that matters is not always
the last one made: questions are drawn so that each of the h + 1 named colours is the answer equally often.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from amvl_model.data.synthetic.canvas import CELL
from amvl_model.data.synthetic.multihop.spec import Scene, Style, Walk

_WORDS = ("taller", "shorter")
RANKS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_MARGIN = 4  # pixels below and above the bars


def plan_bars(rng: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """Ranks (1, n) of the heights, 0 the shortest."""
    return rng.permutation(n)[None]


def draw_bars(rng: np.random.Generator, names: tuple[str, ...], table: np.ndarray, style: Style) -> Scene:
    """n bars of n different heights, one per 28 pixels of width."""
    n, rank = len(names), table[0]
    height = 2 * CELL if style.scale == 1.0 else 3 * CELL
    image = Image.new("RGB", (CELL * n, height), style.background)
    draw = ImageDraw.Draw(image)
    step = (height - 2 * _MARGIN - 6) / (n - 1)
    half = 7 if style.round_marks else 10
    for i, name in enumerate(names):
        top = height - _MARGIN - 6 - step * int(rank[i])
        middle = CELL * i + CELL // 2
        box = (middle - half, round(top), middle + half, height - _MARGIN)
        draw.rectangle(box, fill=style.palette[name], outline=style.ink)
    draw.line((0, height - _MARGIN + 1, CELL * n, height - _MARGIN + 1), fill=style.ink, width=2)
    facts = ", ".join(f"{name} {int(rank[i]) + 1}" for i, name in enumerate(names))
    return Scene(images=(image,), names=names, table=table, facts=facts)


def ranks(facts: str) -> list[list[str]]:
    """What a comparison needs of each bar, its rank in a word (the shortest is one): ``red three``."""
    return [[f"{name} {RANKS[int(rank) - 1]}" for name, rank in (fact.split() for fact in facts.split(", "))]]


def ask_bars(rng: np.random.Generator, scene: Scene, hops: int) -> Walk:
    """A chain of ``hops`` comparisons among hops + 1 colours, each of which is as likely to be left at the end."""
    rank = scene.table[0]
    target = int(rng.integers(hops + 1))
    words = rng.integers(2, size=hops)
    while True:  # only the colours are drawn again, so that the words say nothing about the target
        named = rng.permutation(len(scene.names))[: hops + 1]
        chain = [int(named[0])]
        for word, other in zip(words, named[1:], strict=True):
            keep = (rank[chain[-1]] > rank[other]) == (word == 0)
            chain.append(chain[-1] if keep else int(other))
        if chain[-1] == named[target]:
            break
    first, second, *rest = (scene.names[int(i)] for i in named)
    parts = [f"the {_WORDS[int(words[0])]} of {first} and {second}"]
    parts += [f"the {_WORDS[int(word)]} of that and {name}" for word, name in zip(words[1:], rest, strict=True)]
    return Walk(question=f"Take {', then '.join(parts)}. Which one is left?", chain=tuple(chain))

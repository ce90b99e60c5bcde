"""Relevance maps drawn over a question's images and words. Functions take and return Axes; nothing is measured here.

Orange raises the target, purple lowers it (safe under colour blindness). All images and words of one target share one scale,
in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from amvl_model.data.images import to_rgb
from amvl_model.data.schema import VisualQuestion, option_letter
from amvl_model.diagnostics.causal.relevance import RelevanceMap
from amvl_style import SIGNED

LINE = 104
"""Characters a line of words."""


def draw_image_relevance(
    question: VisualQuestion, values: Any, number: int, limit: float, ax: Axes | None = None
) -> Axes:
    """One image in grey with the relevance of its tokens over it.

    Args:
        question: the question.
        values: (rows, columns), nats.
        number: which of its images, from 0.
        limit: relevance of the full colour, nats.
        ax: where to draw; a new figure by default.
    """
    ax = Figure(figsize=(3, 3)).add_subplot() if ax is None else ax
    image = to_rgb(question.images[number])
    extent = (0, image.width, image.height, 0)
    ax.imshow(np.asarray(image.convert("L")), cmap="gray", vmin=-90, vmax=255, extent=extent, interpolation="nearest")
    shade = _norm(limit)(np.asarray(values))
    colours = colormaps[SIGNED](shade)
    colours[..., 3] = 0.8 * np.abs(2 * shade - 1) ** 0.5
    ax.imshow(colours, extent=extent, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    if len(question.images) > 1:
        ax.set_xlabel(f"image {number + 1}", fontsize=8)
    return ax


def draw_word_relevance(tokens: Sequence[str], values: Any, limit: float, ax: Axes | None = None) -> Axes:
    """The question's words in boxes of their relevance.

    Args:
        tokens: the words.
        values: one per word, nats.
        limit: relevance of the full colour, nats.
        ax: where to draw; a new figure by default.
    """
    ax = Figure(figsize=(9, 1.5)).add_subplot() if ax is None else ax
    places, lines = word_places(tokens)
    for token, value, (line, column) in zip(tokens, values, places, strict=True):
        shown = token.replace("\n", "")
        if not shown:
            continue
        colour = colormaps[SIGNED](_norm(limit)(float(value)))
        ax.add_patch(Rectangle((column, line + 0.08), len(shown), 0.84, facecolor=colour, edgecolor="none"))
        dark = abs(float(value)) > 0.75 * limit
        for i, letter in enumerate(shown):
            ax.text(
                column + i + 0.5,
                line + 0.5,
                letter,
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    ax.set(xlim=(0, LINE), ylim=(max(lines, 1), 0))
    ax.axis("off")
    return ax


def word_places(tokens: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """(line, column) of every token, wrapped after `LINE` characters and at line feeds, and the number of lines."""
    places, line, column = [], 0, 0
    for token in tokens:
        size = len(token.replace("\n", ""))
        if column and column + size > LINE:
            line, column = line + 1, 0
        places.append((line, column))
        column += size
        if "\n" in token:
            line, column = line + 1, 0
    return places, line + 1


def relevance_figure(relevance: RelevanceMap, targets: Sequence[str] = ("latents", "answer")) -> Figure:
    """A row per target: all images, the words, and the colour bar of the row.

    Args:
        found: the maps of one question.
        targets: names of its targets; "latents" is the sum over the slots.
    """
    question = relevance.question
    count, lines = len(question.images), word_places(relevance.tokens)[1]
    words = 0.16 * lines + 0.1
    row = 1.95 + words
    figure = Figure(figsize=(9.6, 0.75 + row * len(targets)))
    height = float(figure.get_figheight())
    title = f"{question.task.replace('_', ' ')}   {question.id}" if question.task else question.id
    figure.text(0.02, 1 - 0.12 / height, title, fontsize=10, va="top", weight="bold")
    options = "given" if question.answer is not None else "likeliest"
    figure.text(
        0.02, 1 - 0.34 / height, f"relevance of image tokens and words; {options} answer {option_letter(relevance.answer)}",
        fontsize=9, va="top",
    )  # fmt: skip
    for i, target in enumerate(targets):
        images, text = relevance.of(target)
        limit = max([float(np.abs(part).max(initial=0.0)) for part in (*images, text)]) or 1.0
        top = height - 0.65 - i * row
        for number, values in enumerate(images):
            box = (1.75 + 1.62 * number, top - 1.62, 1.5, 1.5)
            draw_image_relevance(question, values, number, limit, figure.add_axes(_inches(figure, box)))
        box = (1.75, top - 1.9 - words, 7.7, words)
        draw_word_relevance(relevance.tokens, text, limit, figure.add_axes(_inches(figure, box)))
        image_part, word_part = relevance.parts(target)
        figure.text(
            0.02,
            (top - 0.15) / height,
            f"{target.replace('_', ' ')}\n\n{_nats(relevance.total(target))} in all\n{_nats(image_part)} image\n"
            f"{_nats(word_part)} words",
            fontsize=9,
            va="top",
        )
        bar = figure.add_axes(_inches(figure, (1.75 + 1.62 * count + 0.15, top - 1.55, 0.12, 1.35)))
        drawn = figure.colorbar(ScalarMappable(_norm(limit), SIGNED), cax=bar)
        drawn.set_ticks([-limit, 0, limit], labels=[f"{-limit:.3g}", "0", f"+{limit:.3g}"])
        bar.set_ylabel("relevance [nats]", fontsize=8)
        bar.tick_params(labelsize=8)
    return figure


def slot_targets(relevance: RelevanceMap) -> tuple[str, ...]:
    """Names of the slots' targets, for `relevance_figure`."""
    return tuple(name for name in relevance.targets if name.startswith("slot "))


def _nats(value: float) -> str:
    return f"{value:+.3g} nats"


def _norm(limit: float) -> Normalize:
    return Normalize(-limit, limit)


def _inches(figure: Figure, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    width, height = float(figure.get_figwidth()), float(figure.get_figheight())
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height

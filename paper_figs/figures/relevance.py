"""Fig. 3: which image tokens and words move each latent slot of the shipped checkpoints (integrated gradients, nats)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import SubFigure
from matplotlib.patches import Rectangle

from amvl_model.data.synthetic import synthetic_question
from amvl_model.results.files import Result
from amvl_style import GREY, SERIES, SIGNED
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.measure import SETTINGS, SHOWN, label, shipped
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "relevance of the latent slots over image and text, shipped checkpoints"
KINDS = (SERIES[0], SERIES[3])
"""Looks of relevance through the image and through the words."""
LINE = 98
"""Characters a line of words."""


def draw(sources: Sources) -> Drawn:
    """One question: its image with a map per slot and its words, per checkpoint; and both shares over all tasks."""
    results = shipped(sources)
    if not results:
        raise NothingToDrawError
    task = SHOWN[0]
    question = synthetic_question(
        task, split=SETTINGS["split"], seed=SETTINGS["data_seed"], index=0, difficulty=SETTINGS["difficulty"]
    )
    sources.compute(synthetic_question, task=task, split="test", seed=0, index=0, difficulty=0.25)
    figure = page(1.75 * len(results) + 2.0)
    heights = [1.95] * len(results) + [1.9]
    parts = figure.subfigures(len(results) + 1, 1, height_ratios=heights, squeeze=False)[:, 0]
    maps = [_maps(result, task) for result in results]
    limit = max(np.abs(np.concatenate([images.ravel(), words])).max() for images, words, _ in maps) or 1.0
    for part, result, (images, words, total) in zip(parts, results, maps, strict=False):
        tokens = result.extra["maps"][task]["tokens"]
        name = f"{label(result)}\n100 % = {total:.3g} nats"
        _checkpoint(part, name, question, images, result.extra["slots"], limit)
        _words(part.axes[-1], tokens, words, limit)
    _shares(parts[-1], results)
    return Drawn(figure)


def _maps(result: Result, task: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Relevance by slot over the first image (k, rows, columns) and over the words, summed over the slots, in percent of all
    nats that image tokens and words move the slots by, signs left out; and that sum in nats."""
    maps = result.extra["maps"][task]
    images, text = np.array(maps["images"][0]), np.array(maps["text"])
    total = float(np.abs(images).sum() + np.abs(text).sum()) or 1.0
    return 100 * images / total, 100 * text.sum(0) / total, total


def _checkpoint(part: SubFigure, name: str, question: Any, images: np.ndarray, slots: list[str], limit: float) -> None:
    """A row of maps, and empty axes below for the words; one colour scale for all checkpoints."""
    norm = Normalize(-limit, limit)
    grid = part.add_gridspec(2, len(slots) + 2, width_ratios=[1] * (len(slots) + 1) + [0.07], height_ratios=(1, 0.36))
    image = question.images[0]
    ax = part.add_subplot(grid[0, 0])
    ax.imshow(np.asarray(image))
    ax.set_title(name)
    _bare(ax)
    for j, slot in enumerate(slots):
        ax = part.add_subplot(grid[0, j + 1])
        ax.imshow(np.asarray(image.convert("L")), cmap="gray", vmin=-90, vmax=255)
        shade = norm(images[j])
        colours = colormaps[SIGNED](np.asarray(shade))
        colours[..., 3] = 0.8 * np.abs(2 * np.asarray(shade) - 1) ** 0.5
        ax.imshow(colours, extent=(0, image.width, image.height, 0), interpolation="nearest")
        ax.set_title(slot, fontweight="normal", loc="center")
        _bare(ax)
    bar_ax = part.add_subplot(grid[0, -1])
    bar = part.colorbar(_mappable(norm), cax=bar_ax)
    bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    bar.set_label("relevance [%]")
    part.add_subplot(grid[1, :])


def _words(ax: Axes, tokens: list[str], values: np.ndarray, limit: float) -> None:
    """The words in boxes of their relevance, summed over the slots."""
    line, column = 0, 0
    for token, value in zip(tokens, values, strict=True):
        shown = token.replace("\n", " ")
        if column + len(shown) > LINE:
            line, column = line + 1, 0
        if shown:
            colour = colormaps[SIGNED](Normalize(-limit, limit)(value))
            ax.add_patch(Rectangle((column, line + 0.06), len(shown), 0.88, facecolor=colour, lw=0))
            ax.text(
                column,
                line + 0.5,
                shown,
                family="DejaVu Sans Mono",
                va="center_baseline",
                color="white" if abs(value) > 0.7 * limit else "black",
            )
        column += len(shown)
    ax.text(
        0,
        line + 1.55,
        "words: sum over the slots; one scale for both checkpoints, images and words",
        color=GREY,
        va="center",
    )
    ax.set(xlim=(0, LINE), ylim=(line + 2.1, 0))
    ax.axis("off")


def _shares(part: SubFigure, results: list[Result]) -> None:
    """Relevance of every slot through image and words: median over the tasks' questions, and each of them."""
    axes = np.atleast_1d(part.subplots(1, len(results), sharey=True))
    for ax, result in zip(axes, results, strict=True):
        slots = result.extra["slots"]
        pairs = np.array([[each[s] for s in slots] for each in result.extra["parts"].values()])  # (questions, k, 2)
        for kind, (name, shown) in enumerate(zip(("image", "words"), KINDS, strict=True)):
            places = np.arange(len(slots)) + (kind - 0.5) * 0.34
            dots = np.repeat(places[None], len(pairs), 0).ravel(), pairs[..., kind].ravel()
            ax.plot(*dots, ls="none", marker=shown.marker, ms=2.2, color=shown.colour, alpha=0.45, mew=0)
            middle = np.median(pairs[..., kind], axis=0)
            ax.hlines(middle, places - 0.13, places + 0.13, color=shown.colour, lw=2.2, label=f"through the {name}")
        ax.axhline(0, color="black", lw=0.6)
        ax.set_yscale("symlog", linthresh=0.1, linscale=0.5)
        ax.set_yticks([-100, -10, -1, 0, 1, 10, 100], ["−100", "−10", "−1", "0", "1", "10", "100"])
        ax.minorticks_off()
        ax.set_xticks(range(len(slots)), slots)
        ax.set_title(f"{label(result)}: medians and {len(pairs)} questions")
    axes[0].set_ylabel("relevance [nats]\nlinear within ±0.1")
    part.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _mappable(norm: Normalize) -> Any:
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm, SIGNED)


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)

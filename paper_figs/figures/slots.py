"""Fig. 4: how alike the latent slots are, and how far they move when the image or the text is permuted or changed."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from amvl_model.diagnostics.report.sections import PERTURBATIONS
from amvl_model.results.files import Result
from amvl_style import METHODS, RULE, SEQUENTIAL
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.measure import label, shipped
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "similarity of the latent slots, and their sensitivity to permuted images and text, shipped checkpoints"
KINDS = (("prior", "prior, as they are"), ("prior_centred", "prior, centred"))
LOWEST = 0.0
"""Cosine of the darkest colour; what lies below has it too."""


def draw(sources: Sources) -> Drawn:
    """Two cosine matrices a checkpoint, and shifts with 95 % intervals over questions."""
    results = shipped(sources)
    if not results:
        raise NothingToDrawError
    figure = page(4.6)
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.3), squeeze=False)[:, 0]
    _matrices(above, results)
    left, right = below.subplots(1, 2, sharey=True)
    _shifts(left, results, "prior_shift", "shift of the prior mean [prior std]")
    _shifts(right, results, "answer_agreement", "questions answered as before [%]", scale=100.0)
    left.set_title("(b) how far the latents move")
    right.set_title("(c) and the answer")
    left.set_xscale("log")
    below.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    left.set_yticks(range(len(PERTURBATIONS)), [*PERTURBATIONS.values()])
    left.set_ylim(len(PERTURBATIONS) - 0.4, -0.6)
    return Drawn(figure)


def _matrices(part: SubFigure, results: list[Result]) -> None:
    axes = part.subplots(1, len(KINDS) * len(results))
    for i, result in enumerate(results):
        for j, (kind, name) in enumerate(KINDS):
            ax = axes[i * len(KINDS) + j]
            values = np.array(result.extra["slot_similarity"][kind])
            ax.imshow(values, cmap=SEQUENTIAL, vmin=LOWEST, vmax=1)
            for (row, column), value in np.ndenumerate(values):
                ax.text(column, row, f"{value:.2f}".replace("-", "−"), ha="center", va="center",
                        color="white" if value < 0.6 else "black")  # fmt: skip
            slots = [str(k + 1) for k in range(len(values))]
            ax.set_xticks(range(len(slots)), slots)
            ax.set_yticks(range(len(slots)), slots)
            ax.grid(False)
            ax.set_xlabel("slot")
            title = f"{label(result)}\n{name}"
            ax.set_title(f"(a) {title}" if i == j == 0 else title, loc="center" if i or j else "left")
    axes[0].set_ylabel("slot")
    bar = part.colorbar(axes[0].images[0], ax=axes, pad=0.01, aspect=14)
    bar.set_label("mean cosine [1]")


def _shifts(ax: Axes, results: list[Result], figure: str, axis_label: str, scale: float = 1.0) -> Axes:
    for i, result in enumerate(results):
        own = METHODS["ntp+fwd" if result.cell == "tiny-forward-only" else "amvl"]
        for row, name in enumerate(PERTURBATIONS):
            metric = result.metrics.get(f"perturbed.{name}.{figure}")
            if metric is None or metric.value is None:
                continue
            low, high = (metric.value if end is None else end for end in (metric.low, metric.high))
            ax.errorbar(
                scale * metric.value,
                row + (i - 0.5) * 0.3,
                xerr=scale * np.array([[metric.value - low], [high - metric.value]]),
                color=own.colour,
                marker=own.marker,
                ls="none",
                lw=0.9,
                label=label(result) if row == 0 else None,
            )
    for row in range(1, len(PERTURBATIONS)):
        ax.axhline(row - 0.5, color="#E5E5E5", lw=0.5)
    ax.axhline(1.5, **RULE)
    ax.grid(False, axis="y")
    ax.set_xlabel(axis_label)
    return ax

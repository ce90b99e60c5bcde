"""Pictures of a run: posteriors of one question's options, and a run's summary. Functions take and return Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Ellipse

from amvl_model.data.schema import VisualQuestion, option_letter

# Okabe-Ito: told apart with every common colour blindness; option A first
OPTION_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
PRIOR_COLOUR = "#444444"
BAR_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # dark and light in turn, so that greyscale tells them apart


def option_plane(prior_mean: np.ndarray, prior_std: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The plane (2, D) that shows the options' posterior means best, in units of the prior's standard deviations.

    The first direction is that of the largest spread of the options; where fewer than two directions carry any spread
    the plane is filled up with the coordinate axes.
    """
    white = (means - prior_mean) / prior_std
    _, _, directions = np.linalg.svd(white - white.mean(0), full_matrices=False)
    basis: list[np.ndarray] = []
    offset = (white.mean(0) / max(float(np.linalg.norm(white.mean(0))), 1e-12))[None]
    for candidate in (*directions[: max(0, len(means) - 1)], *offset, *np.eye(white.shape[1])[:3]):
        rest = candidate - sum((candidate @ b) * b for b in basis)
        if np.linalg.norm(rest) > 1e-3 and len(basis) < 2:
            basis.append(rest / np.linalg.norm(rest))
    return np.stack(basis)


def draw_posteriors(
    ax: Axes,
    prior: tuple[np.ndarray, np.ndarray],
    posteriors: tuple[np.ndarray, np.ndarray],
    choices: Sequence[str],
    *,
    answer: int | None = None,
    title: str = "",
) -> Axes:
    """Every option's posterior as an ellipse of one standard deviation around the prior's.

    Args:
        ax: where to draw.
        prior: mean and standard deviation, each (D,), slots flattened.
        posteriors: means and standard deviations, each (options, D).
        choices: option texts.
        answer: index of the right option, drawn with a thick line.
        title: of the panel.
    """
    (mean, std), (means, stds) = prior, posteriors
    plane = option_plane(mean, std, means)
    ax.add_patch(_ellipse(np.zeros(2), _projected(plane, np.ones_like(std)), PRIOR_COLOUR, fill=True))
    ax.plot(0, 0, "+", color=PRIOR_COLOUR, markersize=9, label="prior, knows x")
    reach = 1.3
    for i, choice in enumerate(choices):
        colour = OPTION_COLOURS[i % len(OPTION_COLOURS)]
        centre = plane @ ((means[i] - mean) / std)
        spread = _projected(plane, stds[i] / std)
        ax.add_patch(_ellipse(centre, spread, colour, width=2.6 if i == answer else 1.3))
        ax.plot(*centre, "o", color=colour, markersize=4, label=f"posterior, told {option_letter(i)} {choice}")
        reach = max(reach, *(np.abs(centre) + np.sqrt(np.diag(spread)) + 0.1))
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-reach, reach)
    ax.set_aspect("equal")
    ax.set_xlabel("main direction of the options [prior standard deviations]")
    ax.set_ylabel("second direction [prior standard deviations]")
    ax.set_title(title)
    return ax


def _projected(plane: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Covariance (2, 2) of a diagonal Gaussian in the plane."""
    return (plane * std**2) @ plane.T


def _ellipse(
    centre: np.ndarray, covariance: np.ndarray, colour: str, *, width: float = 1.3, fill: bool = False
) -> Ellipse:
    values, vectors = np.linalg.eigh(covariance)
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    sizes = 2 * np.sqrt(np.maximum(values, 0))
    face = {"facecolor": "#DDDDDD", "alpha": 0.6} if fill else {"facecolor": "none"}
    return Ellipse(
        (float(centre[0]), float(centre[1])),
        float(sizes[1]),
        float(sizes[0]),
        angle=angle,
        edgecolor=colour,
        lw=width,
        **face,
    )


def draw_question(figure: Any, question: VisualQuestion) -> None:
    """The question's pictures in a row with its text and options underneath, in a (sub)figure."""
    axes = np.atleast_1d(figure.subplots(1, len(question.images)))
    for number, (ax, image) in enumerate(zip(axes, question.images, strict=True), start=1):
        ax.imshow(image, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        if len(question.images) > 1:
            ax.set_xlabel(f"image {number}")
    options = "   ".join(
        f"{option_letter(i)} {choice}{' [right]' if i == question.answer else ''}"
        for i, choice in enumerate(question.choices)
    )
    figure.suptitle(f"{question.question}\n{options}", fontsize=10)


def quick_figure(question: VisualQuestion, panels: Sequence[Mapping[str, Any]]) -> Figure:
    """The question beside one panel of posteriors per checkpoint.

    Args:
        question: the question.
        panels: per checkpoint ``title``, ``prior`` and ``posteriors`` as `draw_posteriors` takes them.
    """
    clear = ConstrainedLayoutEngine(h_pad=0.12)  # inches; keeps the legend off the axis labels
    figure = Figure(figsize=(5.2 * len(panels), 8.4), layout=clear)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 2.2))
    top, bottom = parts
    draw_question(top, question)
    axes = np.atleast_1d(bottom.subplots(1, len(panels)))
    for ax, panel in zip(axes, panels, strict=True):
        draw_posteriors(
            ax, panel["prior"], panel["posteriors"], question.choices, answer=question.answer, title=panel["title"]
        )
    handles, labels = axes[0].get_legend_handles_labels()
    bottom.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_bars(
    ax: Axes, names: Sequence[str], rows: Mapping[str, tuple[Sequence[float], Sequence[tuple[float, float]]]], unit: str
) -> Axes:
    """Grouped bars with intervals: per group of ``rows`` a value and (low, high) for every one of ``names``."""
    width = 0.8 / max(1, len(rows))
    for i, (label, (values, intervals)) in enumerate(rows.items()):
        x = np.arange(len(names)) + (i - (len(rows) - 1) / 2) * width
        error = np.abs(np.array(intervals).T - np.array(values))
        colour = BAR_COLOURS[i % len(BAR_COLOURS)]
        ax.bar(x, values, width * 0.92, yerr=error, label=label or None, color=colour, error_kw={"lw": 1})
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel(unit)
    return ax

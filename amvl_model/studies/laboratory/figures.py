"""The main job's figure: a question, accuracy by objective and latents, leak, learning curves, what latents contain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic.multihop import multihop_task
from amvl_model.data.synthetic.multihop.spec import PALETTE
from amvl_model.results.files import Result
from amvl_model.studies.laboratory import ARMS
from amvl_style import GREY, RULE, look_of, styled

CONDITIONS = {
    "accuracy": "latents of the prior,\nwhich sees the question",
    "accuracy_posterior": "latents of the posterior,\nwhich sees the answer too",
    "accuracy_exchanged": "latents of another scene\nin their place",
}
"""Accuracies by the latents that the decoder gets, and their titles."""
AMOUNT = "Greys"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What linear probes read from the prior latents of one question.

    Attributes:
        name: of the arm.
        question: the question.
        states: per slot, (h + 1, options): probability of each option as the state after 0 .. h hops.
    """

    name: str
    question: VisualQuestion
    states: list[NDArray[np.floating]]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], question: VisualQuestion) -> Reading:
        """The reading that `to_dict` made, with the question of its id."""
        return cls(name=data["arm"], question=question, states=[np.array(slot) for slot in data["probabilities"]])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the image."""
        return {
            "arm": self.name,
            "question": self.question.id,
            "text": self.question.question,
            "chain": list(self.question.chain),
            "options": list(self.question.choices),
            "probabilities": [slot.tolist() for slot in self.states],
        }


def draw_job(results: Mapping[str, Result], readings: Sequence[Reading]) -> Figure:
    """The page: one question, the arms side by side, and what the latents of two arms contain of the question."""
    recipe = results["sft"].config["recipe"]
    most, objects = max(int(hops) for hops in recipe["hops"]), int(recipe["objects"])
    guess = 100 * multihop_task(readings[0].question.task).guess(most, objects)
    with styled(1.2):
        page = Figure(figsize=(13.5, 9.6), layout="constrained")
        parts: Any = page.subfigures(3, 1, height_ratios=(0.72, 1.35, 1.15))
        _draw_question(parts[0], readings[0].question)
        middle: Any = parts[1].subfigures(1, 2, width_ratios=(2.35, 1))
        columns = middle[0].subplots(1, 4, sharey=True)
        for ax, (condition, title) in zip(columns, CONDITIONS.items(), strict=False):
            draw_bars(ax, results, f"{condition}_{most}", 100.0, title, "test accuracy [%]", guess, 100.0)
        bound = math.log(objects)
        title = f"what the posterior reveals\nof the answer, at most {bound:.2f}"
        draw_bars(columns[3], results, f"leaked_{most}", 1.0, title, "leaked information [nats]", None, bound)
        middle[0].suptitle(f"Which objective keeps latents that work?  {most} hops; dashed: chance", weight="bold")
        draw_curves(middle[1].subplots(), results, most)
        middle[1].suptitle(f"The course of training, {most} hops", weight="bold")
        _draw_readings(parts[2], readings)
    return page


def draw_page(readings: Sequence[Reading]) -> Figure:
    """One question and what each slot of some checkpoints contains."""
    with styled(1.2):
        page = Figure(figsize=(13.5, 5.4), layout="constrained")
        parts: Any = page.subfigures(2, 1, height_ratios=(0.72, 1.15))
        _draw_question(parts[0], readings[0].question)
        _draw_readings(parts[1], readings)
    return page


def draw_bars(
    ax: Axes,
    results: Mapping[str, Result],
    metric: str,
    scale: float,
    title: str,
    label: str,
    rule: float | None,
    top: float,
) -> Axes:
    """One metric of every arm as a bar with its interval and value, the first arm on top; arms without it stay empty.

    Args:
        ax: where to draw. results: by arm.
        metric: of the result files; prior-sample training has no posterior that is trained. scale: factor.
        title: of the panel. label: of the value axis.
        rule: where a dashed line stands. top: largest value that is possible.
    """
    for i, (name, result) in enumerate(results.items()):
        found, look = result.metrics.get(metric), look_of(ARMS[name])
        if (
            found is None
            or found.value is None
            or (name == "prior" and metric.startswith(("accuracy_posterior", "leaked")))
        ):
            ax.text(0.02 * top, i, "-", va="center", color=GREY)
            continue
        value, low, high = (
            scale * (found.value if end is None else end) for end in (found.value, found.low, found.high)
        )
        ax.barh(i, value, 0.72, color=look.colour)
        ax.errorbar(value, i, xerr=[[value - low], [high - value]], color=GREY, linewidth=1)
        ax.annotate(
            f"{value:.3f}" if scale == 1 else f"{value:.0f}", (high, i), (4, 0), textcoords="offset points", va="center"
        )
    if rule is not None:
        ax.axvline(rule, **RULE)
    ax.set(xlim=(0, 1.2 * top), ylim=(len(results) - 0.5, -0.5), xlabel=label)
    ax.set_title(title, fontweight="normal")
    ax.set_yticks(range(len(results)), [look_of(ARMS[name]).label for name in results])
    ax.grid(False, axis="y")
    return ax


def draw_curves(ax: Axes, results: Mapping[str, Result], most: int) -> Axes:
    """Accuracy at the most hops with prior latents against steps, the shared warm-up included."""
    start = results["amvl"].extra["warmup_steps"]
    for name, result in results.items():
        look, points = look_of(ARMS[name]), []
        if result.extra.get("warmup"):
            shared = [(row["step"], 100 * row[f"accuracy_{most}"]) for row in result.extra["warmup"]]
            if name == "amvl":
                ax.plot(*zip(*shared, strict=True), color=GREY, linewidth=2.4)
                ax.annotate(
                    "shared\nwarm-up", shared[len(shared) // 2], (-6, 0), textcoords="offset points", ha="right"
                )
            points = shared[-1:]
        before = start if points else 0
        points += [(before + row["step"], 100 * row[f"accuracy_{most}"]) for row in result.extra["curve"]]
        ax.plot(
            *zip(*points, strict=True), color=look.colour, linestyle=look.line, marker=look.marker, label=look.label
        )
    if start:
        ax.axvline(start, **RULE)
    ax.set(ylim=(0, 103), xlabel="training steps", ylabel="validation accuracy [%]")
    ax.legend(loc="center right", bbox_to_anchor=(1.02, 0.62), handlelength=1.8)
    return ax


def _draw_question(figure: Any, question: VisualQuestion) -> None:
    """The question, its image, and the way to the answer as a chain of squares."""
    image, chain = figure.subplots(1, 2, width_ratios=(1.7, 1))
    image.imshow(question.images[0], interpolation="nearest")
    image.set_axis_off()
    image.set_title(multihop_task(question.task).caption, fontweight="normal")
    for i, colour in enumerate(question.chain):
        chain.add_patch(Rectangle((1.6 * i, 0), 1, 1, facecolor=_rgb(colour), edgecolor="black", linewidth=0.8))
        chain.text(1.6 * i + 0.5, -0.15, colour, ha="center", va="top")
        if i:
            chain.annotate("", (1.6 * i - 0.05, 0.5), (1.6 * i - 0.55, 0.5), arrowprops={"arrowstyle": "->", "lw": 1.4})
    chain.set(xlim=(-0.3, 1.6 * len(question.chain)), ylim=(-0.8, 1.7), aspect="equal")
    chain.set_axis_off()
    chain.text(0, 1.25, "The right way:")
    figure.suptitle(f"The question: {question.question}", weight="bold")


def _draw_readings(figure: Any, readings: Sequence[Reading]) -> None:
    """For each arm and slot, the probed states in grey; a frame around the right one."""
    slots = len(readings[0].states)
    axes = np.atleast_1d(figure.subplots(1, slots * len(readings), sharey=True))
    for i, ax in enumerate(axes):
        reading, slot = readings[i // slots], i % slots
        states, choices, look = reading.states[slot], reading.question.choices, look_of(ARMS[reading.name])
        ax.imshow(states, vmin=0, vmax=1, cmap=AMOUNT, aspect="auto")
        for row, colour in enumerate(reading.question.chain):
            ax.add_patch(
                Rectangle(
                    (choices.index(colour) - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=look.colour, linewidth=2.2
                )
            )
        for column, colour in enumerate(choices):
            ax.add_patch(Rectangle((column - 0.5, len(states) - 0.4), 1, 0.4, facecolor=_rgb(colour), clip_on=False))
        ax.set_ylim(len(states), -0.5)
        ax.set_xticks(range(len(choices)), choices, rotation=45, ha="right", rotation_mode="anchor", fontsize="small")
        ax.set_title(f"{look.label}, latent slot {slot + 1}", color=look.colour)
        ax.grid(False)
    last = len(readings[0].states[0]) - 1
    names = ["start", *(f"after {i} hop{'s' * (i > 1)}" for i in range(1, last)), f"after {last}: answer"]
    axes[0].set_yticks(range(last + 1), names)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), AMOUNT), ax=list(axes), pad=0.01, aspect=14)
    bar.set_label("probability")
    figure.suptitle(
        "What a linear probe reads from the latents of this question (frames: the right way)", weight="bold"
    )


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = PALETTE[colour]
    return red / 255, green / 255, blue / 255

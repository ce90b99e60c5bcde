"""The main job's figure: accuracy by hops and latents, learning curves, leaked information, and one question with its latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from amvl_model.data.schema import VisualQuestion
from amvl_model.results.files import Result
from amvl_model.studies.laboratory.options import ARMS
from amvl_style import GREY, RULE, SEQUENTIAL, look_of, styled


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
    """The page: above the arms side by side, below one question and what each slot of two arms holds of it."""
    most = max(int(hops) for hops in results["sft"].config["recipe"]["hops"])
    with styled(1.2):
        page = Figure(figsize=(13.5, 8.6), layout="constrained")
        parts: Any = page.subfigures(2, 1, height_ratios=(1.25, 1.0))
        top, bottom = parts
        accuracy, curves, leak = top.subplots(1, 3, width_ratios=(1.5, 1.3, 0.9))
        draw_accuracies(accuracy, results, most)
        draw_curves(curves, results, most)
        draw_leaks(leak, results, most)
        top.legend(*curves.get_legend_handles_labels(), loc="outside upper center", ncols=len(results))
        _draw_readings(bottom, readings)
    return page


def draw_page(readings: Sequence[Reading]) -> Figure:
    """One question's image and what each slot of some checkpoints contains."""
    with styled(1.2):
        page = Figure(figsize=(6.4 * len(readings[0].states), 1.6 + 2.4 * len(readings)), layout="constrained")
        _draw_readings(page, readings)
    return page


def draw_accuracies(ax: Axes, results: Mapping[str, Result], most: int) -> Axes:
    """Accuracy at the most hops per arm: with prior latents, posterior latents and those of another scene."""
    conditions = {"accuracy": "prior's\nlatents", "accuracy_posterior": "posterior's,\nsaw the answer"}
    conditions |= {"accuracy_exchanged": "another\nscene's"}
    width = 0.8 / len(results)
    for i, (name, result) in enumerate(results.items()):
        look = look_of(ARMS[name])
        for j, condition in enumerate(conditions):
            metric = result.metrics.get(f"{condition}_{most}")
            if metric is None or metric.value is None or (name == "prior" and condition == "accuracy_posterior"):
                continue
            low, high = (100 * (metric.value if end is None else end) for end in (metric.low, metric.high))
            value, x = 100 * metric.value, j + (i - (len(results) - 1) / 2) * width
            ax.bar(x, value, 0.92 * width, color=look.colour)
            ax.errorbar(x, value, [[value - low], [high - value]], color=GREY, linewidth=1)
    ax.axhline(100 / results["sft"].config["recipe"]["objects"], **RULE)
    ax.set_xticks(range(len(conditions)), list(conditions.values()))
    ax.grid(False, axis="x")
    ax.set_ylim(0, 103)
    ax.set_ylabel("test accuracy [%]")
    ax.set_title(f"{most} hops, at the end (dashed: chance)")
    return ax


def draw_curves(ax: Axes, results: Mapping[str, Result], most: int) -> Axes:
    """Accuracy at the most hops with prior latents against steps, the shared warm-up included."""
    for name, result in results.items():
        look = look_of(ARMS[name])
        curve, start = result.extra["curve"], 0
        if "warmup" in result.extra:
            start = result.extra["warmup_steps"]
            shared = [(row["step"], 100 * row[f"accuracy_{most}"]) for row in result.extra["warmup"]]
            if name == "amvl":
                ax.plot(*zip(*shared, strict=True), color=GREY, linewidth=2.0)
            points = shared[-1:]
        else:
            points = []
        points += [(start + row["step"], 100 * row[f"accuracy_{most}"]) for row in curve]
        ax.plot(
            *zip(*points, strict=True), color=look.colour, linestyle=look.line, marker=look.marker, label=look.label
        )
    start = results["amvl"].extra["warmup_steps"]
    ax.axvline(start, **RULE)
    ax.annotate("shared warm-up ends", (start, 3), rotation=90, ha="right", va="bottom", color=GREY, fontsize="small")
    ax.set_ylim(0, 103)
    ax.set_xlabel("training steps")
    ax.set_ylabel("validation accuracy [%]")
    ax.set_title(f"{most} hops, prior's latents")
    return ax


def draw_leaks(ax: Axes, results: Mapping[str, Result], most: int) -> Axes:
    """Leaked information at the most hops of the arms that train a posterior."""
    names = [name for name in results if name != "prior" and f"leaked_{most}" in results[name].metrics]
    for i, name in enumerate(names):
        metric, look = results[name].metrics[f"leaked_{most}"], look_of(ARMS[name])
        value = metric.value or 0.0
        ax.bar(i, value, 0.7, color=look.colour)
        if metric.low is not None and metric.high is not None:
            ax.errorbar(i, value, [[value - metric.low], [metric.high - value]], color=GREY, linewidth=1)
        ax.annotate(f"{value:.3f}", (i, value), (0, 3), textcoords="offset points", ha="center", fontsize="small")
    bound = math.log(results["sft"].config["recipe"]["objects"])
    ax.axhline(bound, **RULE)
    ax.set_xticks(range(len(names)), [look_of(ARMS[name]).label.replace("-", "-\n") for name in names])
    ax.grid(False, axis="x")
    ax.set_ylim(0, 1.08 * bound)
    ax.set_ylabel("leaked information [nats]")
    ax.set_title(f"{most} hops (dashed: all of it)")
    return ax


def _draw_readings(figure: Any, readings: Sequence[Reading]) -> None:
    """The question's image on top; below, for each arm and slot, the probed states."""
    question, slots = readings[0].question, len(readings[0].states)
    head, *rows = figure.subfigures(1 + len(readings), 1, height_ratios=(0.55, *(1.0 for _ in readings)))
    image = head.subplots()
    image.imshow(question.images[0], interpolation="nearest")
    image.set_axis_off()
    arrows = " → ".join(question.chain)
    head.suptitle(f"{question.question}   (right: {arrows})   Below: what a linear probe reads from each latent slot")
    for row, reading in zip(rows, readings, strict=True):
        axes = np.atleast_1d(row.subplots(1, slots, sharey=True))
        for slot, (ax, states) in enumerate(zip(axes, reading.states, strict=True), start=1):
            ax.imshow(states, vmin=0, vmax=1, cmap=SEQUENTIAL, aspect="auto")
            for i, colour in enumerate(reading.question.chain):
                j = reading.question.choices.index(colour)
                ax.add_patch(_box(j, i))
            ax.set_xticks(range(len(question.choices)), question.choices, rotation=35, ha="right", fontsize="small")
            ax.set_title(f"{look_of(ARMS[reading.name]).label}, slot {slot}", fontsize="medium")
            ax.grid(False)
        axes[0].set_yticks(range(len(states)), [f"after {i} hops" for i in range(len(states))], fontsize="small")


def _box(x: int, y: int) -> Any:
    """A frame around the right state."""
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.6)

"""A run's measurements as a table, figures, and metrics by name. Works on `Measurement.to_dict()`, so also on JSON files.

Figures of a run: posteriors of one question's options, and a run's summary. Functions take and return Axes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Ellipse

from amvl_model.data.schema import VisualQuestion, option_letter
from amvl_model.results.files import Metric
from amvl_model.results.text import text_table
from amvl_style import GREY, METHODS, keys_of, look_of, styled

Measured = Mapping[str, Any]
SCALE = 1.2
"""Of text and lines, against a page's."""
LEAKS = {
    "held out,\nuniform options": "contamination.measures.leaked_information",
    "training,\nlabel noise": "train_contamination.measures.known_answer_leakage",
}
CONDITIONS = ("prior_mean", "prior_sample", "zeroed", "shuffled", "noise")

# label, path into a measurement, scale, format
_ROWS: tuple[tuple[str, str, float, str], ...] = (
    ("accuracy, mean over tasks, by likelihood [%]", "evaluation.accuracy.likelihood.unweighted", 100, ".1f"),
    ("accuracy, mean over tasks, by generated letter [%]", "evaluation.accuracy.generation.unweighted", 100, ".1f"),
    ("answer NLL, held out, prior mean [nats]", "evaluation.answer_nll", 1, ".3f"),
    ("accuracy with prior samples [%]", "interventions.conditions.prior_sample.accuracy", 100, ".1f"),
    ("accuracy with latents zeroed [%]", "interventions.conditions.zeroed.accuracy", 100, ".1f"),
    ("accuracy with latents of another question [%]", "interventions.conditions.shuffled.accuracy", 100, ".1f"),
    ("leaked information, uniform options [nats]", "contamination.measures.leaked_information", 1, ".3f"),
    ("  of at most", "contamination.measures.leakage_bound", 1, ".3f"),
    ("leaked information, training label noise [nats]", "train_contamination.measures.known_answer_leakage", 1, ".3f"),
    ("  of at most H(Y|x)", "train_contamination.measures.answer_entropy", 1, ".3f"),
    ("answer sensitivity [squared Mahalanobis]", "contamination.measures.answer_sensitivity", 1, ".2f"),
    ("NLL with posterior minus prior samples [nats]", "contamination.measures.nll_gap_sample", 1, "+.3f"),
    ("  the same on training questions", "train_contamination.measures.nll_gap_sample", 1, "+.3f"),
    ("KL(q || p) [nats]", "contamination.measures.forward_kl", 1, ".2f"),
    ("KL(p || q) [nats]", "contamination.measures.reverse_kl", 1, ".2f"),
    ("prior standard deviation", "contamination.measures.prior_spread", 1, ".3f"),
    ("posterior standard deviation", "contamination.measures.posterior_spread", 1, ".3f"),
)


def lookup(measured: Measured, path: str) -> Any | None:
    """The value at a dotted path, or None where a part of it is missing."""
    value: Any = measured
    for part in path.split("."):
        if not isinstance(value, Mapping) or value.get(part) is None:
            return None
        value = value[part]
    return value


def table(measured: Mapping[str, Measured]) -> str:
    """One column per model, one row per measure with its 95 % interval; "-" where a model lacks the measure."""
    rows = [
        [label, *(_cell(lookup(model, path), scale, form) for model in measured.values())]
        for label, path, scale, form in _ROWS
    ]
    text = text_table([row for row in rows if {*row[1:]} != {"-"}], ["", *measured])
    verdicts = [
        f"{name}: {verdict}" for name, model in measured.items() if (verdict := lookup(model, "interventions.verdict"))
    ]
    return "\n".join([text, "", *verdicts])


def task_table(measured: Mapping[str, Measured], scoring: str = "likelihood") -> str:
    """Accuracy in percent per task, one column per model, chance in the last column."""
    per_model = {
        name: {task["task"]: task for task in (lookup(m, f"evaluation.accuracy.{scoring}.tasks") or [])}
        for name, m in measured.items()
    }
    rows = [
        [
            task,
            *(f"{100 * tasks[task]['accuracy']['mean']:.1f}" for tasks in per_model.values()),
            f"{100 * entry['chance']:.1f}",
        ]
        for task, entry in next(iter(per_model.values())).items()
    ]
    return text_table(rows, ["task", *per_model, "chance"])


def _cell(interval: Any | None, scale: float, form: str) -> str:
    if not isinstance(interval, Mapping) or interval.get("mean") is None:
        return "-"
    text = f"{scale * interval['mean']:{form}}"
    if interval.get("low") is None or interval.get("high") is None:
        return text
    return f"{text} [{scale * interval['low']:{form}}, {scale * interval['high']:{form}}]"


def figures(measured: Measured) -> dict[str, Metric]:
    """Every figure with an interval by short name, for a result file."""
    result: dict[str, Metric] = {}

    def put(name: str, path: str, unit: str) -> None:
        value = lookup(measured, path)
        if value is not None:
            result[name] = Metric(value["mean"], unit, value.get("low"), value.get("high"), value.get("n"))

    put("accuracy", "evaluation.accuracy.likelihood.unweighted", "fraction")
    put("accuracy_generated", "evaluation.accuracy.generation.unweighted", "fraction")
    put("answer_nll", "evaluation.answer_nll", "nats")
    for task in lookup(measured, "evaluation.accuracy.likelihood.tasks") or []:
        value = task["accuracy"]
        result[f"accuracy.{task['task']}"] = Metric(value["mean"], "fraction", value["low"], value["high"], value["n"])
    for part, prefix in (("contamination", "held_out"), ("train_contamination", "training")):
        for name, value in (lookup(measured, f"{part}.measures") or {}).items():
            if value is not None:
                put(f"{prefix}.{name}", f"{part}.measures.{name}", value["unit"])
    for name in lookup(measured, "interventions.conditions") or {}:
        base = f"interventions.conditions.{name}"
        put(f"{name}.accuracy", f"{base}.accuracy", "fraction")
        put(f"{name}.answer_nll", f"{base}.answer_nll", "nats")
        put(f"{name}.accuracy_difference", f"{base}.accuracy_difference", "fraction")
        put(f"{name}.nll_difference", f"{base}.nll_difference", "nats")
    return result


def figure(measured: Mapping[str, Measured]) -> Figure:
    """Accuracy of all models; leaked information; and what replacing the latents does. Bars with 95 % intervals.

    The colour names the model in all three panels.
    """
    names = list(measured)
    latent = [name for name, m in measured.items() if lookup(m, "contamination")]
    methods = {look.label: method for method, look in METHODS.items()}
    keys = keys_of({name: methods.get(name, name) for name in names})
    with styled(SCALE):
        page = Figure(figsize=(12.5, 4.4))
        accuracy, leakage, effect = page.subplots(1, 3, width_ratios=(1, 1.1, 1.8))
        values = _columns(measured, names, ["evaluation.accuracy.likelihood.unweighted"], 100)
        draw_bars(accuracy, [""], dict(zip(names, values, strict=True)), keys, "accuracy [%]")
        accuracy.set_title("held-out accuracy")
        values = _columns(measured, latent, LEAKS.values(), 1)
        draw_bars(leakage, list(LEAKS), dict(zip(latent, values, strict=True)), keys, "leaked information [nats]")
        leakage.set_title("information that the posterior reveals")
        values = _columns(measured, latent, [f"interventions.conditions.{c}.accuracy" for c in CONDITIONS], 100)
        conditions = [c.replace("_", " ") for c in CONDITIONS]
        draw_bars(effect, conditions, dict(zip(latent, values, strict=True)), keys, "accuracy [%]")
        effect.set_title("held-out accuracy with other latents")
        for ax in (accuracy, effect):
            ax.set(ylim=(0, 112), yticks=range(0, 101, 20))
        leakage.margins(y=0.12)
        page.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return page


Values = tuple[list[float], list[tuple[float, float]]]
"""Values and the ends of their intervals."""


def _columns(
    measured: Mapping[str, Measured], names: Iterable[str], paths: Collection[str], scale: float
) -> list[Values]:
    """Per model, the values at some paths, NaN where there is none; an interval that is missing has no width."""
    columns = []
    for name in names:
        values, ends = [], []
        for path in paths:
            interval = lookup(measured[name], path) or {}
            mean, low, high = (interval.get(key) for key in ("mean", "low", "high"))
            values.append(float("nan") if mean is None else scale * mean)
            ends.append((values[-1] if low is None else scale * low, values[-1] if high is None else scale * high))
        columns.append((values, ends))
    return columns


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
    ax.add_patch(_ellipse(np.zeros(2), _projected(plane, np.ones_like(std)), GREY, fill=True))
    ax.plot(0, 0, "+", color=GREY, markersize=9, label="prior")
    reach = 1.3
    for i, choice in enumerate(choices):
        colour = look_of(i).colour
        centre = plane @ ((means[i] - mean) / std)
        spread = _projected(plane, stds[i] / std)
        ax.add_patch(_ellipse(centre, spread, colour, width=2.6 if i == answer else 1.3))
        ax.plot(*centre, "o", color=colour, markersize=4, label=f"posterior given {option_letter(i)} {choice}")
        reach = max(reach, *(np.abs(centre) + np.sqrt(np.diag(spread)) + 0.1))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    ax.set_aspect("equal")
    ax.set(
        xlabel="main direction of the options [prior standard deviations]",
        ylabel="second direction [prior standard deviations]", title=title,
    )  # fmt: skip
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
    """The question's images in a row with its text and options underneath, in a (sub)figure."""
    axes = np.atleast_1d(figure.subplots(1, len(question.images)))
    for number, (ax, image) in enumerate(zip(axes, question.images, strict=True), start=1):
        ax.imshow(image, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
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
        panels: per checkpoint ``title``, ``prior`` and ``posteriors`` as `draw_posteriors` takes them. All have one scale.
    """
    with styled(SCALE):
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
        reach = max(ax.get_xlim()[1] for ax in axes)  # one scale, or the narrower spread looks as wide as the other
        for ax in axes:
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
        bottom.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_bars(
    ax: Axes, names: Sequence[str], rows: Mapping[str, Values], keys: Mapping[str, str | int], unit: str
) -> Axes:
    """Grouped bars with intervals: per series of ``rows`` a value for every one of ``names``, its look from ``keys``."""
    width = 0.8 / max(1, len(rows))
    for i, (label, (values, intervals)) in enumerate(rows.items()):
        x = np.arange(len(names)) + (i - (len(rows) - 1) / 2) * width
        error = np.abs(np.array(intervals).T - np.array(values))
        shown = look_of(keys[label])
        bars = ax.bar(
            x, values, width * 0.92, yerr=error, label=shown.label or label, color=shown.colour, error_kw={"lw": 1}
        )
        ax.bar_label(bars, [f"{value:.0f}" if value > 10 else f"{value:.2f}" for value in values], padding=1)
    ax.set_xticks(range(len(names)), names)
    ax.grid(False, axis="x")
    ax.set_ylabel(unit)
    return ax

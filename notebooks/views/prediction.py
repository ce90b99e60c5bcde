"""Measured linear response of a checkpoint, put into the theory, against the leakage measured on the same questions.

Per question, from `measure_linear_response` (forces, curvature and precisions in the span of the answer forces, in prior standard
deviations) and at the checkpoint's own gamma, nothing fitted:

    spread        C = (H + gamma Lambda_q)^-1 G (H + gamma Lambda_q)^-1             T4
    leaked        1/2 log det(I + Lambda_q C), at most log(options)                 T4, nats
    gamma_c       2 x largest eigenvalue of H^-1 G                                  T6, one mode

against the leaked information of the full posteriors and the spread of their means inside the span. T4 takes the posterior's
precision from the checkpoint and predicts the distance between the answers' means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.report.suite import Diagnosed
from amvl_style import RULE, Look, axes, keys_of, look_of
from amvl_theory import MeanLeakageModel, critical_weight, leaked_information, spread
from amvl_theory.checks import Array
from notebooks.views.checkpoints import measured
from notebooks.views.show import styled

GAMMAS = np.geomspace(1e-5, 30.0, 60)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Prediction and measurement of one checkpoint on its questions (n of them with modes).

    Attributes:
        gamma: weight of the reverse KL that it was trained with, 0 for forward-only.
        leaked, measured: information about the shown option (n,) [nats]. bound: log(options) (n,).
        spread, measured_spread: root mean square distance of the options' posterior means from their mean, in the span (n,)
            [prior std].
        critical: gamma_c (n,) [1].
        curve: predicted leaked information (n, gammas) at `GAMMAS`, at the measured precision.
        tasks: (n,). without: questions whose answer does not read the latents at all.
    """

    gamma: float
    leaked: Array
    measured: Array
    bound: Array
    spread: Array
    measured_spread: Array
    critical: Array
    curve: Array
    tasks: list[str]
    without: int


def diagnosed(checkpoints: Sequence[str], questions: Sequence[VisualQuestion], **settings: Any) -> dict[str, Diagnosed]:
    """Linear response and contamination of every checkpoint."""
    return measured(checkpoints, ["contamination", "linear-response"], questions, **settings)


def predicted(diagnosis: Diagnosed) -> Predicted:
    """The theory's prediction for every question of one checkpoint.

    Raises:
        ValueError: if its training run, and so its gamma, is not known, it was trained without NTP, or no answer reads the
            latents.
    """
    if diagnosis.run is None or diagnosis.run.objective.name not in ("ntp+fwd", "amvl"):
        objective = None if diagnosis.run is None else diagnosis.run.objective.name
        raise ValueError(f"{diagnosis.name}: expected a run of amvl or ntp+fwd beside the checkpoint, got {objective}")
    gamma = diagnosis.run.objective.gamma if diagnosis.run.objective.name == "amvl" else 0.0
    response, contamination = diagnosis.reports["linear-response"], diagnosis.reports["contamination"]
    rows = []
    for i, own in enumerate(response.responses):
        if not own.modes:
            continue
        model = MeanLeakageModel(**response.arrays(i))
        bound = float(np.log(len(own.weights)))
        centred = own.posterior_shifts - own.weights @ own.posterior_shifts
        rows.append(
            (
                min(leaked_information(model, gamma), bound),
                contamination.per_question["leaked_information"][i],
                bound,
                np.sqrt(np.trace(spread(model, gamma))),
                np.sqrt(own.weights @ (centred**2).sum(axis=1)),
                float(critical_weight(own.force_variance_over_curvature, 1.0)),
                [min(leaked_information(model, value), bound) for value in GAMMAS],
            )
        )
    if not rows:
        raise ValueError(
            f"{diagnosis.name}: the answer reads the latents of none of these questions; there is nothing to predict"
        )
    columns = [np.array(column, dtype=float) for column in zip(*rows, strict=True)]
    tasks = [own.task for own in response.responses if own.modes]
    return Predicted(gamma, *columns, tasks=tasks, without=len(response.responses) - len(rows))  # type: ignore[arg-type]


def rank_correlation(x: Array, y: Array, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Spearman's rank correlation with its 95 % bootstrap interval over questions; NaN where one side is constant.

    Raises:
        ValueError: for fewer than three pairs.
    """
    if len(x) < 3 or len(x) != len(y):
        raise ValueError(f"expected three pairs or more, got {len(x)} and {len(y)} values")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        pick = rng.integers(len(x), size=len(x))
        if np.ptp(x[pick]) > 0 and np.ptp(y[pick]) > 0:
            drawn.append(spearmanr(x[pick], y[pick]).statistic)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(spearmanr(x, y).statistic), float(low), float(high)


def sentences(predictions: Mapping[str, Predicted]) -> str:
    """How far prediction and measurement agree, in plain words."""
    lines = []
    for name, prediction in predictions.items():
        value, low, high = rank_correlation(prediction.spread, prediction.measured_spread)
        ranks = "not defined (one side is constant)" if np.isnan(value) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(
            f"{name} (gamma = {prediction.gamma:g}): the theory expects {prediction.leaked.mean():.3f} nats, measured are "
            f"{prediction.measured.mean():.3f} of at most {prediction.bound.mean():.3f}. Spread in the span: expected "
            f"{np.median(prediction.spread):.3g}, measured {np.median(prediction.measured_spread):.3g} prior std (medians); rank "
            f"correlation over {len(prediction.spread)} questions {ranks}. Critical gamma (T6): {np.median(prediction.critical):.2g}."
        )
        if prediction.without:
            lines.append(f"{name}: {prediction.without} questions left out whose answer does not read the latents.")
    return "\n".join(lines)


def figure(predictions: Mapping[str, Predicted]) -> Figure:
    """Leaked information and spread, predicted against measured, and the predicted course over gamma."""
    keys = keys_of({name: "amvl" if prediction.gamma > 0 else "ntp+fwd" for name, prediction in predictions.items()})
    looks = {name: look_of(key) for name, key in keys.items()}
    with styled():
        page = Figure(figsize=(13.2, 4.3))
        left, middle, right = page.subplots(1, 3)
        draw_pairs(
            {name: (prediction.leaked, prediction.measured) for name, prediction in predictions.items()},
            looks,
            "leaked information [nats]",
            ax=left,
        )
        pairs = {name: (prediction.spread, prediction.measured_spread) for name, prediction in predictions.items()}
        draw_pairs(pairs, looks, "spread of the options in the span [prior std]", log=True, ax=middle)
        draw_course(predictions, looks, ax=right)
        handles, names = left.get_legend_handles_labels()
        page.legend(handles, names, loc="outside lower center", ncols=4)
    return page


def draw_pairs(
    pairs: Mapping[str, tuple[Array, Array]],
    looks: Mapping[str, Look],
    label: str,
    *,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Measured against predicted, a marker per question, with the line on which they agree."""
    ax = axes(ax)
    for name, (expected, measured_values) in pairs.items():
        shown = looks[name]
        ax.plot(expected, measured_values, shown.marker, color=shown.colour, alpha=0.55, mew=0, label=name)
    if log:
        ax.set(xscale="log", yscale="log")
    ends = np.array([*ax.get_xlim(), *ax.get_ylim()])
    span = (ends[ends > 0].min(), ends.max()) if log else (0.0, ends.max())
    ax.plot(span, span, color="black", lw=0.8, label="prediction = measurement")
    ax.set(xlabel=f"predicted: {label}", ylabel=f"measured [{label.rpartition('[')[2]}")
    return ax


def draw_course(predictions: Mapping[str, Predicted], looks: Mapping[str, Look], *, ax: Axes | None = None) -> Axes:
    """Predicted leaked information against gamma from one checkpoint's response, and what was measured at its own gamma."""
    ax = axes(ax)
    for name, prediction in predictions.items():
        shown = looks[name]
        ax.plot(
            GAMMAS, prediction.curve.mean(axis=0), color=shown.colour, ls=shown.line, label=f"predicted from {name}"
        )
        place = prediction.gamma or GAMMAS[0]
        ax.plot(place, prediction.measured.mean(), shown.marker, color=shown.colour, ms=9, markeredgecolor="black")
        ax.axvline(np.median(prediction.critical), **RULE | {"color": shown.colour})
    ax.set(
        xscale="log", ylim=(0, None), xlabel="weight of the reverse KL, γ [1]\n(forward-only at the left edge)",
        ylabel="leaked information [nats]", title="lines: predicted; markers: measured;\nvertical: γ$_c$",
    )  # fmt: skip
    return ax

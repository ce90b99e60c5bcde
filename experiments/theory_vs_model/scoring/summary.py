"""Scores of one reference over its seeds as metrics and as text: errors beside baselines, gaps between levels, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from amvl_model.results.files import Metric
from amvl_model.results.seeds import interval
from amvl_model.results.statistics import Interval, bootstrap_mean
from experiments.theory_vs_model.plan import DIRECTION, QUANTITIES, UNITS, Plan
from experiments.theory_vs_model.scoring.scores import (
    BASELINES,
    Error,
    baseline_points,
    error_of,
    level_gap,
    level_points,
    measured_over_seeds,
    measured_points,
    own_figures,
    rank_correlation,
    seed_points,
)
from experiments.theory_vs_model.scoring.tables import TRAINED, Table

GAPS = (
    ("T4", "free"),
    ("T6 held", "softmax"),
    ("T6 held", "free"),
    ("softmax", "free"),
    ("T6 held", "T6 letter"),
    ("softmax", "softmax letter"),
)
RATIO = "nats of ratio"
NOISE_BASELINES = {"gamma alone": "noise alone", "persistence": "same gamma at the reference's noise"}
"""Baselines of `scores.py` that have a meaning at another label noise, and their names there."""


def summarise(tables: Mapping[int, Table], reference_gamma: float, plan: Plan) -> dict[str, Metric]:
    """Every score of one reference by dotted name (definitions in scores.py).

    Args:
        tables: per seed. reference_gamma: of the reference, 0 for forward-only. plan: of the predictions.

    Raises:
        ValueError: for no tables.
    """
    if not tables:
        raise ValueError("expected at least one seed's predictions, got none; run the reference first")
    levels = list(dict.fromkeys(name for table in tables.values() for name in table.levels()))
    gammas = [gamma for gamma in plan.gammas if gamma != reference_gamma]
    metrics: dict[str, Metric] = {}
    for quantity in QUANTITIES:
        metrics |= _errors(tables, levels, quantity, gammas, reference_gamma, plan)
        metrics |= _noise_errors(tables, levels, quantity, plan)
        metrics |= _gaps(tables, levels, quantity, plan)
    for quantity in ("leak", "spread"):
        metrics |= _summary_correlations(tables, levels, quantity, gammas, plan)
    return metrics | _directions(tables, levels, reference_gamma or min(plan.gammas), plan)


def _directions(tables: Mapping[int, Table], levels: Sequence[str], gamma: float, plan: Plan) -> dict[str, Metric]:
    """Mean over seeds of the mean cosine to the reference's own spread, at the reference's gamma (forward-only: the least)."""
    metrics: dict[str, Metric] = {}
    for level in levels:
        values = measured_over_seeds(tables, level, DIRECTION, gamma, plan.train_noise)
        if len(values):
            low, high = interval(values) if len(values) > 1 else (None, None)
            metrics[f"{DIRECTION}.{level}.gamma={gamma:g}"] = Metric(float(values.mean()), "1", low, high, len(values))
    return metrics


def _errors(
    tables: Mapping[int, Table],
    levels: Sequence[str],
    quantity: str,
    gammas: Sequence[float],
    reference_gamma: float,
    plan: Plan,
) -> dict[str, Metric]:
    noise = plan.train_noise
    metrics: dict[str, Metric] = {}
    for level in levels:
        points = level_points(tables, level, quantity, {gamma: (noise, gamma) for gamma in gammas})
        if points:
            metrics |= _put(f"error.{quantity}.{level}", error_of(points, quantity))
        crossed = seed_points(tables, level, quantity, gammas, noise)
        if crossed:
            regrouped = {(first, 1000.0 * other + gamma): pair for (first, other, gamma), pair in crossed.items()}
            metrics |= _put(f"error_other_seeds.{quantity}.{level}", error_of(regrouped, quantity))
    measured = measured_points(tables, quantity, [(noise, gamma) for gamma in gammas])
    by_gamma = {(seed, gamma): value for (seed, _, gamma), value in measured.items()}
    own = own_figures(tables, quantity, noise, reference_gamma)
    for name, points in baseline_points(by_gamma, own, reference_gamma).items():
        metrics |= _put(f"error.{quantity}.{name}", error_of(points, quantity))
    return metrics


def _noise_errors(tables: Mapping[int, Table], levels: Sequence[str], quantity: str, plan: Plan) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for level in levels:
        points = level_points(tables, level, quantity, {noise: (noise, plan.noise_gamma) for noise in plan.noises})
        if points:
            metrics |= _put(f"error_noise.{quantity}.{level}", error_of(points, quantity))
    measured = measured_points(tables, quantity, [(noise, plan.noise_gamma) for noise in plan.noises])
    by_noise = {(seed, noise): value for (seed, noise, _), value in measured.items()}
    own = {
        seed: value
        for (seed, _, _), value in measured_points(tables, quantity, [(plan.train_noise, plan.noise_gamma)]).items()
    }
    for name, points in baseline_points(by_noise, own).items():
        if name in NOISE_BASELINES:
            metrics |= _put(f"error_noise.{quantity}.{NOISE_BASELINES[name]}", error_of(points, quantity))
    return metrics


def _gaps(tables: Mapping[int, Table], levels: Sequence[str], quantity: str, plan: Plan) -> dict[str, Metric]:
    heads = [level for level in levels if level.startswith(("head ", "both heads "))]
    pairs = [
        *GAPS,
        *(("free", head) for head in heads),
        *((first, second) for first, second in pairwise(heads) if "untrained" not in first + second),
        *((head, TRAINED) for head in heads),
        ("free", TRAINED),
    ]
    metrics: dict[str, Metric] = {}
    for first, second in pairs:
        gap = level_gap(tables, first, second, quantity, plan.train_noise)
        if gap is not None:
            metrics |= _put(f"gap.{quantity}.{first} > {second}", gap)
    return metrics


def _summary_correlations(
    tables: Mapping[int, Table], levels: Sequence[str], quantity: str, gammas: Sequence[float], plan: Plan
) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for level in levels:
        for gamma in gammas:
            for within, name in ((False, "rank"), (True, "rank_within_tasks")):
                value = rank_correlation(tables, level, quantity, gamma, plan.train_noise, within_tasks=within)
                if value is not None:
                    metrics[f"{name}.{quantity}.{level}.gamma={gamma:g}"] = _metric(value, "1")
    return metrics


def _put(name: str, error: Error) -> dict[str, Metric]:
    return {
        name: Metric(error.error.mean, RATIO, error.error.low, error.error.high, error.points),
        name.replace("error", "bias", 1).replace("gap", "gap_bias", 1): Metric(error.bias, RATIO, n=error.points),
    }


def _metric(value: Interval, unit: str) -> Metric:
    return Metric(value.mean, unit, value.low, value.high, value.n)


def means(table: Table, plan: Plan) -> dict[str, Metric]:
    """Mean over questions of every level and gamma of one seed, with a bootstrap interval over the questions."""
    metrics: dict[str, Metric] = {}
    for (noise, level, gamma, quantity), values in table.rows.items():
        finite = values[np.isfinite(values)]
        if len(finite):
            at = "" if noise == plan.train_noise else f".noise={noise:g}"
            metrics[f"{quantity}.{level}.gamma={gamma:g}{at}"] = _metric(
                bootstrap_mean(finite, n_bootstrap=1000), UNITS[quantity]
            )
    return metrics


def report(metrics: Mapping[str, Metric], tables: Mapping[int, Table], plan: Plan, reference: str) -> str:
    """Plain text: errors of levels and baselines, gaps between levels, rank correlations."""
    lines = [
        f"reference {reference}, {len(tables)} seeds; root mean squared log ratio [95 % interval over seeds], bias"
    ]
    lines += [verdict(metrics, quantity) for quantity in QUANTITIES]
    for quantity in ("leak", "spread", "shift"):
        for kind, title in (
            ("error", "held-out gammas"),
            ("error_other_seeds", "other seeds' checkpoints at the held-out gammas"),
            ("error_noise", f"other label noise at gamma {plan.noise_gamma:g}"),
            ("gap", "one level as a prediction of the next"),
        ):
            named = {k: v for k, v in metrics.items() if k.startswith(f"{kind}.{quantity}.")}
            if named:
                lines.append(f"\n{quantity} [{QUANTITIES[quantity]}], {title}")
            for name, metric in sorted(named.items(), key=lambda item: item[1].value or 0.0):
                bias = metrics[name.replace("error", "bias", 1).replace("gap", "gap_bias", 1)].value
                lines.append(f"  {name.split('.', 2)[2]:38} {_cell(metric)}  bias {bias:+.2f}  n={metric.n}")
        for kind in ("rank", "rank_within_tasks"):
            named = {k: v for k, v in metrics.items() if k.startswith(f"{kind}.{quantity}.")}
            if named:
                lines.append(f"\n{quantity}, Spearman over questions{', within tasks' if 'within' in kind else ''}")
            lines += [f"  {name.split('.', 2)[2]:38} {_cell(metric)}" for name, metric in named.items()]
    directions = {k: v for k, v in metrics.items() if k.startswith(f"{DIRECTION}.")}
    lines.append("\ndirection: cosine to the reference's own spread, mean over questions and seeds")
    lines += [f"  {name.split('.', 1)[1]:38} {_cell(metric)}" for name, metric in directions.items()]
    return "\n".join(lines)


def verdict(metrics: Mapping[str, Metric], quantity: str) -> str:
    """One sentence: the errors of the theory's best level and of the best of all levels, beside both baselines.

    Levels with fewer points than others are listed last, apart: errors over fewer gammas are not comparable.
    """
    prefix = f"error.{quantity}."
    errors = {k[len(prefix) :]: v for k, v in metrics.items() if k.startswith(prefix) and v.value is not None}
    predicted = {name: metric for name, metric in errors.items() if name not in BASELINES}
    points = max((metric.n or 0 for metric in predicted.values()), default=0)
    levels = {name: metric for name, metric in predicted.items() if (metric.n or 0) >= points}
    closed = {name: metric for name, metric in levels.items() if name.startswith(("T4", "T6", "T10", "softmax"))}

    def least(of: Mapping[str, Metric]) -> str:
        name = min(of, key=lambda level: of[level].value or 0.0)
        return f"{name} {_cell(of[name])}"

    parts = [f"{label} {least(of)}" for label, of in (("best theory", closed), ("best level", levels)) if of]
    parts += [
        f"{name} {_cell(errors[name])}"
        for name in ("power law", "power law, other seeds", "gamma alone")
        if name in errors
    ]
    parts += [
        f"{name} {_cell(metric)} at {metric.n} of {points} points"
        for name, metric in predicted.items()
        if name not in levels
    ]
    return f"{quantity}, held-out gammas: {'; '.join(parts)}"


def digest(metrics: Mapping[str, Metric], reference: str) -> str:
    """The report in a page: verdicts, errors at other gammas and label noises, ranks within tasks, direction."""
    lines = [f"predicted from {reference}; errors are root mean squared log ratios [95 % over seeds]"]
    lines += [verdict(metrics, quantity) for quantity in ("leak", "spread", "shift")]
    for kind, title in (("error", "other gammas"), ("error_noise", "other label noise")):
        named = {k: v for k, v in metrics.items() if k.startswith(f"{kind}.leak.")}
        lines.append(f"leaked information, {title}:")
        for name, metric in sorted(named.items(), key=lambda item: item[1].value or 0.0):
            lines.append(f"    {name.split('.', 2)[2]:38} {_cell(metric)}  n={metric.n}")
    ranks: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        if name.startswith("rank_within_tasks.leak."):
            level, gamma = name.split(".", 2)[2].rsplit(".gamma=", 1)
            ranks.setdefault(level, []).append(f"{gamma}: {_cell(metric)}")
    lines.append("leaked information, Spearman over questions within tasks, by gamma:")
    lines += [f"    {level:22} {';  '.join(by_gamma)}" for level, by_gamma in ranks.items()]
    lines.append("cosine between the predicted and the reference's own spread of the options:")
    for name, metric in metrics.items():
        if name.startswith(f"{DIRECTION}."):
            lines.append(f"    {name.split('.', 1)[1]:38} {_cell(metric)}")
    return "\n".join(lines)


def _cell(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return f"{metric.value:.2f}"
    return f"{metric.value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"

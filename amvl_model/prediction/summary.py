"""All figures of one reference over its seeds: errors beside the baselines, gaps between rungs, rank correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from amvl_model.evaluation.statistics import Interval
from amvl_model.pareto import interval
from amvl_model.prediction.plan import DIRECTION, QUANTITIES, UNITS, Plan
from amvl_model.prediction.scores import (
    BASELINES,
    Error,
    baseline_points,
    error_of,
    gamma_points,
    log_ratio,
    measured_points,
    noise_points,
    own_figures,
    pair_means,
    rank_correlation,
    rung_gap,
    seed_points,
)
from amvl_model.prediction.tables import TRAINED, Table
from amvl_model.results import Metric

GAPS = (
    ("T4", "free"),
    ("T6 held", "softmax"),
    ("T6 held", "free"),
    ("softmax", "free"),
    ("T6 held", "T6 letter"),
    ("softmax", "softmax letter"),
)
RATIO = "nats of ratio"


def summarise(tables: Mapping[int, Table], reference_gamma: float, plan: Plan) -> dict[str, Metric]:
    """Every score of one reference by dotted name (definitions in scores.py).

    Args:
        tables: per seed. reference_gamma: of the reference, 0 for forward-only. plan: of the climbs.

    Raises:
        ValueError: for no tables.
    """
    if not tables:
        raise ValueError("expected at least one seed's predictions, got none; run the reference first")
    rungs = list(dict.fromkeys(name for table in tables.values() for name in table.rungs()))
    gammas = [gamma for gamma in plan.gammas if gamma != reference_gamma]
    found: dict[str, Metric] = {}
    for quantity in QUANTITIES:
        found |= _errors(tables, rungs, quantity, gammas, reference_gamma, plan)
        found |= _noise_errors(tables, rungs, quantity, plan)
        found |= _gaps(tables, rungs, quantity, plan)
    for quantity in ("leak", "spread"):
        found |= _correlations(tables, rungs, quantity, gammas, plan)
    return found | _directions(tables, rungs, reference_gamma or min(plan.gammas), plan)


def _directions(tables: Mapping[int, Table], rungs: Sequence[str], gamma: float, plan: Plan) -> dict[str, Metric]:
    """Mean over seeds of the mean cosine to the reference's own spread, at the reference's gamma (forward-only: the least)."""
    found: dict[str, Metric] = {}
    for rung in rungs:
        values = measured_over_seeds(tables, rung, DIRECTION, gamma, plan.train_noise)
        if len(values):
            low, high = interval(values) if len(values) > 1 else (None, None)
            found[f"{DIRECTION}.{rung}.gamma={gamma:g}"] = Metric(float(values.mean()), "1", low, high, len(values))
    return found


def _errors(
    tables: Mapping[int, Table],
    rungs: Sequence[str],
    quantity: str,
    gammas: Sequence[float],
    reference_gamma: float,
    plan: Plan,
) -> dict[str, Metric]:
    noise = plan.train_noise
    found: dict[str, Metric] = {}
    for rung in rungs:
        points = gamma_points(tables, rung, quantity, gammas, noise)
        if points:
            found |= _put(f"error.{quantity}.{rung}", error_of(points, quantity))
        crossed = seed_points(tables, rung, quantity, gammas, noise)
        if crossed:
            regrouped = {(first, 1000.0 * other + gamma): pair for (first, other, gamma), pair in crossed.items()}
            found |= _put(f"error_other_seeds.{quantity}.{rung}", error_of(regrouped, quantity))
    measured = measured_points(tables, quantity, [(noise, gamma) for gamma in gammas])
    by_gamma = {(seed, gamma): value for (seed, _, gamma), value in measured.items()}
    own = own_figures(tables, quantity, noise, reference_gamma)
    for name, points in baseline_points(by_gamma, own).items():
        found |= _put(f"error.{quantity}.{name}", error_of(points, quantity))
    return found


def _noise_errors(tables: Mapping[int, Table], rungs: Sequence[str], quantity: str, plan: Plan) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for rung in rungs:
        points = noise_points(tables, rung, quantity, plan.noises, plan.noise_gamma)
        if points:
            found |= _put(f"error_noise.{quantity}.{rung}", error_of(points, quantity))
    measured = measured_points(tables, quantity, [(noise, plan.noise_gamma) for noise in plan.noises])
    by_noise = {(seed, noise): value for (seed, noise, _), value in measured.items()}
    own = {
        seed: value
        for (seed, _, _), value in measured_points(tables, quantity, [(plan.train_noise, plan.noise_gamma)]).items()
    }
    for name, points in baseline_points(by_noise, own).items():
        if name != "power law":
            label = {"gamma alone": "noise alone", "persistence": "same gamma at the reference's noise"}[name]
            found |= _put(f"error_noise.{quantity}.{label}", error_of(points, quantity))
    return found


def _gaps(tables: Mapping[int, Table], rungs: Sequence[str], quantity: str, plan: Plan) -> dict[str, Metric]:
    heads = [rung for rung in rungs if rung.startswith(("head ", "both heads "))]
    pairs = [
        *GAPS,
        *(("free", head) for head in heads),
        *((first, second) for first, second in pairwise(heads) if "untrained" not in first + second),
        *((head, TRAINED) for head in heads),
        ("free", TRAINED),
    ]
    found: dict[str, Metric] = {}
    for first, second in pairs:
        gap = rung_gap(tables, first, second, quantity, plan.train_noise)
        if gap is not None:
            found |= _put(f"gap.{quantity}.{first} > {second}", gap)
    return found


def _correlations(
    tables: Mapping[int, Table], rungs: Sequence[str], quantity: str, gammas: Sequence[float], plan: Plan
) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for rung in rungs:
        for gamma in gammas:
            for within, name in ((False, "rank"), (True, "rank_within_tasks")):
                value = rank_correlation(tables, rung, quantity, gamma, plan.train_noise, within_tasks=within)
                if value is not None:
                    found[f"{name}.{quantity}.{rung}.gamma={gamma:g}"] = _metric(value, "1")
    return found


def _put(name: str, error: Error) -> dict[str, Metric]:
    return {
        name: Metric(error.error.mean, RATIO, error.error.low, error.error.high, error.points),
        name.replace("error", "bias", 1).replace("gap", "gap_bias", 1): Metric(error.bias, RATIO, n=error.points),
    }


def _metric(value: Interval, unit: str) -> Metric:
    return Metric(value.mean, unit, value.low, value.high, value.n)


def means(table: Table, plan: Plan) -> dict[str, Metric]:
    """Mean over questions of every rung and gamma of one seed, with a bootstrap interval over the questions."""
    from amvl_model.evaluation.statistics import bootstrap_mean

    found: dict[str, Metric] = {}
    for (noise, rung, gamma, quantity), values in table.rows.items():
        known = values[np.isfinite(values)]
        if len(known):
            at = "" if noise == plan.train_noise else f".noise={noise:g}"
            found[f"{quantity}.{rung}.gamma={gamma:g}{at}"] = _metric(
                bootstrap_mean(known, n_bootstrap=1000), UNITS[quantity]
            )
    return found


def report(metrics: Mapping[str, Metric], tables: Mapping[int, Table], plan: Plan, reference: str) -> str:
    """Plain text: errors of rungs and baselines, gaps between rungs, rank correlations."""
    lines = [
        f"reference {reference}, {len(tables)} seeds; root mean squared log ratio [95 % interval over seeds], bias"
    ]
    lines += [verdict(metrics, quantity) for quantity in QUANTITIES]
    for quantity in ("leak", "spread", "shift"):
        for kind, title in (
            ("error", "held-out gammas"),
            ("error_other_seeds", "other seeds' checkpoints at the held-out gammas"),
            ("error_noise", f"other label noise at gamma {plan.noise_gamma:g}"),
            ("gap", "one rung as a prediction of the next"),
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
    """One sentence: the errors of the theory's best rung and of the ladder's best, beside both baselines.

    Rungs that were climbed at fewer points than others are named last and apart: fewer gammas are another question.
    """
    prefix = f"error.{quantity}."
    errors = {k[len(prefix) :]: v for k, v in metrics.items() if k.startswith(prefix) and v.value is not None}
    climbed = {name: metric for name, metric in errors.items() if name not in BASELINES}
    points = max((metric.n or 0 for metric in climbed.values()), default=0)
    rungs = {name: metric for name, metric in climbed.items() if (metric.n or 0) >= points}
    closed = {name: metric for name, metric in rungs.items() if name.startswith(("T4", "T6", "softmax"))}

    def least(of: Mapping[str, Metric]) -> str:
        name = min(of, key=lambda each: of[each].value or 0.0)
        return f"{name} {_cell(of[name])}"

    parts = [f"{label} {least(of)}" for label, of in (("best theory", closed), ("best rung", rungs)) if of]
    parts += [f"{name} {_cell(errors[name])}" for name in ("power law", "gamma alone") if name in errors]
    parts += [
        f"{name} {_cell(each)} at {each.n} of {points} points" for name, each in climbed.items() if name not in rungs
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
            rung, gamma = name.split(".", 2)[2].rsplit(".gamma=", 1)
            ranks.setdefault(rung, []).append(f"{gamma}: {_cell(metric)}")
    lines.append("leaked information, Spearman over questions within tasks, by gamma:")
    lines += [f"    {rung:22} {';  '.join(found)}" for rung, found in ranks.items()]
    lines.append("cosine between the predicted and the reference's own spread of the options:")
    for name, metric in metrics.items():
        if name.startswith(f"{DIRECTION}."):
            lines.append(f"    {name.split('.', 1)[1]:38} {_cell(metric)}")
    return "\n".join(lines)


def _cell(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return f"{metric.value:.2f}"
    return f"{metric.value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"


def measured_over_seeds(
    tables: Mapping[int, Table], rung: str, quantity: str, gamma: float, noise: float
) -> np.ndarray:
    """The means over questions of every seed that has this rung at this gamma, (seeds,)."""
    values = [table.get(noise, rung, gamma, quantity) for table in tables.values()]
    return np.array([float(np.nanmean(v)) for v in values if v is not None and np.isfinite(v).any()])


__all__ = ["digest", "log_ratio", "means", "measured_over_seeds", "pair_means", "report", "summarise"]

"""How well each rung predicts the trained checkpoints, beside what needs no theory; and where the rungs part.

A point is a seed and a gamma (or label noise) that the reference was not trained at, with the mean over held-out questions of the
measured figure m and of the predicted one p, both no lower than a floor:

    error       root mean square over points of log(p/m)                                        nats of ratio
    bias        mean of log(p/m), above 0 where too much is predicted
    power law   p = a / gamma^b, a and b fitted to the very points that are scored              (an in-sample baseline)
    gamma alone p = geometric mean of m over the other seeds at that gamma
    persistence p = the reference's own figure

Intervals are percentile bootstraps over seeds. Within one gamma, the rank correlation over questions (Spearman) is taken seed
by seed and averaged, over the questions for which every seed has both figures; its bootstrap draws questions, the same for all
seeds. The correlation within tasks is the mean over tasks of the correlation among their questions: task and number of options
alone then count for nothing.


All figures of one reference over its seeds: errors beside the baselines, gaps between rungs, rank correlations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from amvl_model.results.files import Metric
from amvl_model.results.seeds import interval
from amvl_model.results.statistics import Interval
from experiments.theory_vs_model.plan import DIRECTION, FLOORS, QUANTITIES, UNITS, Plan
from experiments.theory_vs_model.tables import REFERENCE, TRAINED, Table

Array = NDArray[np.float64]
BASELINES = ("power law", "gamma alone", "persistence")
LEAST_TASK = 6
"""Questions of a task from which on a correlation within it is taken."""


@dataclass(frozen=True, kw_only=True)
class Error:
    """Error of one predictor over the points it predicts.

    Attributes:
        error: root mean squared log ratio with its interval. bias: mean log ratio. points: their number.
    """

    error: Interval
    bias: float
    points: int


Points = dict[tuple[int, float], tuple[float, float]]
"""Per (seed, gamma or noise), predicted and measured mean."""


def log_ratio(predicted: float, measured: float, quantity: str) -> float:
    """log(p/m) with both no lower than the quantity's floor."""
    floor = FLOORS[quantity]
    return math.log(max(predicted, floor) / max(measured, floor))


def pair_means(predicted: Array | None, measured: Array | None) -> tuple[float, float] | None:
    """Means over the questions that both have; None if there is none."""
    if predicted is None or measured is None:
        return None
    both = np.isfinite(predicted) & np.isfinite(measured)
    return (float(predicted[both].mean()), float(measured[both].mean())) if both.any() else None


def gamma_points(
    tables: Mapping[int, Table], rung: str, quantity: str, gammas: Sequence[float], noise: float
) -> Points:
    """A rung's points at the held-out gammas."""
    found: Points = {}
    for seed, table in tables.items():
        for gamma in gammas:
            pair = pair_means(table.get(noise, rung, gamma, quantity), table.get(noise, TRAINED, gamma, quantity))
            if pair is not None:
                found[seed, gamma] = pair
    return found


def seed_points(
    tables: Mapping[int, Table], rung: str, quantity: str, gammas: Sequence[float], noise: float
) -> dict[tuple[int, int, float], tuple[float, float]]:
    """Predictions from one seed's reference for the checkpoints of every other seed: (reference seed, seed, gamma)."""
    found = {}
    for seed, table in tables.items():
        for other, theirs in tables.items():
            for gamma in gammas if other != seed else ():
                pair = pair_means(table.get(noise, rung, gamma, quantity), theirs.get(noise, TRAINED, gamma, quantity))
                if pair is not None:
                    found[seed, other, gamma] = pair
    return found


def noise_points(
    tables: Mapping[int, Table], rung: str, quantity: str, noises: Sequence[float], gamma: float
) -> Points:
    """A rung's points at the other label noises."""
    found: Points = {}
    for seed, table in tables.items():
        for noise in noises:
            pair = pair_means(table.get(noise, rung, gamma, quantity), table.get(noise, TRAINED, gamma, quantity))
            if pair is not None:
                found[seed, noise] = pair
    return found


def baseline_points(measured: Mapping[tuple[int, float], float], own: Mapping[int, float]) -> dict[str, Points]:
    """The baselines' points (definitions at the top of this module).

    Args:
        measured: per (seed, gamma), m; values must be above 0 where a logarithm is taken, so floors are applied before.
        own: the reference's own figure of each seed.
    """
    found: dict[str, Points] = {name: {} for name in BASELINES}
    keys = list(measured)
    if len({gamma for _, gamma in keys}) > 1 and all(gamma > 0 for _, gamma in keys):
        slope, offset = np.polyfit([math.log(g) for _, g in keys], [math.log(measured[k]) for k in keys], 1)
        for key in keys:
            found["power law"][key] = (math.exp(offset + slope * math.log(key[1])), measured[key])
    for seed, gamma in keys:
        others = [math.log(measured[s, g]) for s, g in keys if g == gamma and s != seed]
        if others:
            found["gamma alone"][seed, gamma] = (math.exp(float(np.mean(others))), measured[seed, gamma])
        if seed in own:
            found["persistence"][seed, gamma] = (own[seed], measured[seed, gamma])
    return {name: points for name, points in found.items() if points}


def measured_points(
    tables: Mapping[int, Table], quantity: str, places: Sequence[tuple[float, float]]
) -> dict[tuple[int, float, float], float]:
    """Measured means, no lower than the floor, per (seed, noise, gamma)."""
    found = {}
    for seed, table in tables.items():
        for noise, gamma in places:
            values = table.get(noise, TRAINED, gamma, quantity)
            if values is not None:
                found[seed, noise, gamma] = max(float(np.nanmean(values)), FLOORS[quantity])
    return found


def own_figures(tables: Mapping[int, Table], quantity: str, noise: float, gamma: float) -> dict[int, float]:
    """The references' own figures per seed, no lower than the floor."""
    found = {}
    for seed, table in tables.items():
        values = table.get(noise, REFERENCE, gamma, quantity)
        if values is not None:
            found[seed] = max(float(np.nanmean(values)), FLOORS[quantity])
    return found


def error_of(points: Mapping[tuple[int, float], tuple[float, float]], quantity: str, *, seed: int = 0) -> Error:
    """Error and bias over points, seeds drawn with replacement for the interval.

    Raises:
        ValueError: for no points.
    """
    if not points:
        raise ValueError("expected at least one point to score, got none")
    by_seed: dict[int, list[float]] = {}
    for (run, _), (predicted, measured) in points.items():
        by_seed.setdefault(run, []).append(log_ratio(predicted, measured, quantity))
    squares = np.array([np.sum(np.square(each)) for each in by_seed.values()])
    counts = np.array([len(each) for each in by_seed.values()], dtype=float)
    everything = np.concatenate([np.asarray(each) for each in by_seed.values()])
    rms = float(np.sqrt(squares.sum() / counts.sum()))
    low = high = None
    if len(by_seed) > 1:
        drawn = np.random.default_rng(seed).integers(len(squares), size=(2000, len(squares)))
        low, high = (
            float(x) for x in np.quantile(np.sqrt(squares[drawn].sum(1) / counts[drawn].sum(1)), [0.025, 0.975])
        )
    return Error(
        error=Interval(mean=rms, low=low, high=high, n=len(by_seed)),
        bias=float(everything.mean()),
        points=len(everything),
    )


def rung_gap(tables: Mapping[int, Table], first: str, second: str, quantity: str, noise: float) -> Error | None:
    """Error of one rung as a prediction of another, over all gammas that both have; None if they share none."""
    points: Points = {}
    for seed, table in tables.items():
        for _, _, gamma, _ in [k for k in table.rows if k[0] == noise and k[1] == second and k[3] == quantity]:
            pair = pair_means(table.get(noise, first, gamma, quantity), table.get(noise, second, gamma, quantity))
            if pair is not None:
                points[seed, gamma] = pair
    return error_of(points, quantity) if points else None


def rank_correlation(
    tables: Mapping[int, Table],
    rung: str,
    quantity: str,
    gamma: float,
    noise: float,
    *,
    within_tasks: bool = False,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> Interval | None:
    """Spearman correlation over questions of predicted and measured, mean over seeds (and tasks); None where there is none."""
    pairs, kept = [], None
    for table in tables.values():
        predicted, measured = table.get(noise, rung, gamma, quantity), table.get(noise, TRAINED, gamma, quantity)
        if predicted is None or measured is None:
            continue
        pairs.append((predicted, measured))
        finite = np.isfinite(predicted) & np.isfinite(measured)
        kept = finite if kept is None else kept & finite
    if not pairs or kept is None:
        return None
    everyone_has = np.flatnonzero(kept)
    tasks = next(iter(tables.values())).tasks
    groups = _groups([tasks[i] for i in everyone_has], everyone_has, within_tasks)
    if not groups:
        return None
    rng = np.random.default_rng(seed)
    everyone = [members[None] for members in groups]
    mean = _mean_correlation(pairs, everyone)
    if mean is None:
        return None
    drawn = [members[rng.integers(len(members), size=(n_bootstrap, len(members)))] for members in groups]
    values = _correlations(pairs, drawn)
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) > n_bootstrap / 2 else (None, None)
    count = sum(len(members) for members in groups)
    return Interval(
        mean=mean, low=None if low is None else float(low), high=None if high is None else float(high), n=count
    )


def _groups(tasks: Sequence[str], kept: NDArray[np.intp], within: bool) -> list[NDArray[np.intp]]:
    if not within:
        return [kept] if len(kept) >= LEAST_TASK else []
    members = [kept[[i for i, t in enumerate(tasks) if t == task]] for task in dict.fromkeys(tasks)]
    return [each for each in members if len(each) >= LEAST_TASK]


def _mean_correlation(pairs: Sequence[tuple[Array, Array]], index: Sequence[NDArray[np.intp]]) -> float | None:
    value = float(_correlations(pairs, index)[0])
    return value if math.isfinite(value) else None


def _correlations(pairs: Sequence[tuple[Array, Array]], index: Sequence[NDArray[np.intp]]) -> Array:
    """(B,) mean over seeds and groups of Spearman's correlation; groups without spread in either figure do not count."""
    found = []
    for predicted, measured in pairs:
        for rows in index:
            a, b = (rankdata(x[rows], axis=1) for x in (predicted, measured))
            a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
            scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.where(scale > 0, (a * b).sum(1) / scale, np.nan))
    stacked = np.stack(found)
    known = np.isfinite(stacked)
    count = known.sum(0)
    total = np.where(known, stacked, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


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
        found |= _summary_correlations(tables, rungs, quantity, gammas, plan)
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


def _summary_correlations(
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
    from amvl_model.results.statistics import bootstrap_mean

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

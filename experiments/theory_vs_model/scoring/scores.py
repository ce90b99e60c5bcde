"""How well every approximation level predicts the trained checkpoints, beside baselines without theory; and where levels part.

A point is a seed and a gamma (or label noise) that the reference was not trained at, with the mean over held-out questions of the
measured figure m and of the predicted one p, both no lower than a floor:

    error       root mean square over points of log(p/m)                                        nats of ratio
    bias        mean of log(p/m), above 0 where too much is predicted
    power law   p = a / gamma^b, a and b fitted to the very points that are scored              (an in-sample baseline)
    power law, other seeds    the same with a and b fitted to the other seeds
    gamma alone p = geometric mean of m over the other seeds at that gamma
    persistence p = the reference's own figure
    persistence, scaled       p = own (gamma_ref/gamma)^b with that b of the other seeds

Intervals are percentile bootstraps over seeds. Within one gamma, the rank correlation over questions (Spearman) is taken seed
by seed and averaged, over the questions for which every seed has both figures; its bootstrap draws questions, the same for all
seeds. The correlation within tasks is the mean over tasks of the correlation among their questions: task and number of options
alone then count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from amvl_model.results.statistics import Interval
from experiments.theory_vs_model.plan import FLOORS
from experiments.theory_vs_model.scoring.tables import REFERENCE, TRAINED, Table

Array = NDArray[np.float64]
BASELINES = ("power law", "power law, other seeds", "gamma alone", "persistence", "persistence, scaled")
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
Cell = tuple[float, float]
"""(label noise, gamma)."""


def log_ratio(predicted: float, measured: float, quantity: str) -> float:
    """log(p/m) with both no lower than the quantity's floor."""
    floor = FLOORS[quantity]
    return math.log(max(predicted, floor) / max(measured, floor))


def pair_means(predicted: Array | None, measured: Array | None) -> tuple[float, float] | None:
    """Means over the questions that have both values; None if there is none."""
    if predicted is None or measured is None:
        return None
    both = np.isfinite(predicted) & np.isfinite(measured)
    return (float(predicted[both].mean()), float(measured[both].mean())) if both.any() else None


def level_points(tables: Mapping[int, Table], level: str, quantity: str, cells: Mapping[float, Cell]) -> Points:
    """A level's points: per seed and per key of `cells`, the label noise and gamma behind it."""
    points: Points = {}
    for seed, table in tables.items():
        for key, (noise, gamma) in cells.items():
            pair = pair_means(table.get(noise, level, gamma, quantity), table.get(noise, TRAINED, gamma, quantity))
            if pair is not None:
                points[seed, key] = pair
    return points


def seed_points(
    tables: Mapping[int, Table], level: str, quantity: str, gammas: Sequence[float], noise: float
) -> dict[tuple[int, int, float], tuple[float, float]]:
    """Predictions from one seed's reference for the checkpoints of every other seed: (reference seed, seed, gamma)."""
    points = {}
    for seed, table in tables.items():
        for other, theirs in tables.items():
            for gamma in gammas if other != seed else ():
                pair = pair_means(table.get(noise, level, gamma, quantity), theirs.get(noise, TRAINED, gamma, quantity))
                if pair is not None:
                    points[seed, other, gamma] = pair
    return points


def baseline_points(
    measured: Mapping[tuple[int, float], float], own: Mapping[int, float], reference_gamma: float = 0.0
) -> dict[str, Points]:
    """The baselines' points (definitions at the top of this module).

    Args:
        measured: per (seed, gamma), m; values must be above 0 where a logarithm is taken, so floors are applied before.
        own: the reference's own figure of each seed. reference_gamma: of the references; 0 leaves the scaled one out.
    """
    baselines: dict[str, Points] = {name: {} for name in BASELINES}
    keys = list(measured)

    def law(of: Sequence[tuple[int, float]]) -> tuple[float, float]:
        slope, offset = np.polyfit([math.log(g) for _, g in of], [math.log(measured[k]) for k in of], 1)
        return float(slope), float(offset)

    if len({gamma for _, gamma in keys}) > 1 and all(gamma > 0 for _, gamma in keys):
        slope, offset = law(keys)
        for key in keys:
            baselines["power law"][key] = (math.exp(offset + slope * math.log(key[1])), measured[key])
        for seed in {seed for seed, _ in keys}:
            others = [key for key in keys if key[0] != seed]
            if len({gamma for _, gamma in others}) < 2:
                continue
            slope, offset = law(others)
            for key in (key for key in keys if key[0] == seed):
                baselines["power law, other seeds"][key] = (math.exp(offset + slope * math.log(key[1])), measured[key])
                if reference_gamma > 0 and seed in own:
                    scaled = own[seed] * (key[1] / reference_gamma) ** slope
                    baselines["persistence, scaled"][key] = (scaled, measured[key])
    for seed, gamma in keys:
        alone = [math.log(measured[s, g]) for s, g in keys if g == gamma and s != seed]
        if alone:
            baselines["gamma alone"][seed, gamma] = (math.exp(float(np.mean(alone))), measured[seed, gamma])
        if seed in own:
            baselines["persistence"][seed, gamma] = (own[seed], measured[seed, gamma])
    return {name: points for name, points in baselines.items() if points}


def measured_points(
    tables: Mapping[int, Table], quantity: str, places: Sequence[tuple[float, float]]
) -> dict[tuple[int, float, float], float]:
    """Measured means, no lower than the floor, per (seed, noise, gamma)."""
    points = {}
    for seed, table in tables.items():
        for noise, gamma in places:
            values = table.get(noise, TRAINED, gamma, quantity)
            if values is not None:
                points[seed, noise, gamma] = max(float(np.nanmean(values)), FLOORS[quantity])
    return points


def own_figures(tables: Mapping[int, Table], quantity: str, noise: float, gamma: float) -> dict[int, float]:
    """The references' own figures per seed, no lower than the floor."""
    figures = {}
    for seed, table in tables.items():
        values = table.get(noise, REFERENCE, gamma, quantity)
        if values is not None:
            figures[seed] = max(float(np.nanmean(values)), FLOORS[quantity])
    return figures


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
    squares = np.array([np.sum(np.square(ratios)) for ratios in by_seed.values()])
    counts = np.array([len(ratios) for ratios in by_seed.values()], dtype=float)
    log_ratios = np.concatenate([np.asarray(ratios) for ratios in by_seed.values()])
    rms = float(np.sqrt(squares.sum() / counts.sum()))
    low = high = None
    if len(by_seed) > 1:
        drawn = np.random.default_rng(seed).integers(len(squares), size=(2000, len(squares)))
        low, high = (
            float(x) for x in np.quantile(np.sqrt(squares[drawn].sum(1) / counts[drawn].sum(1)), [0.025, 0.975])
        )
    return Error(
        error=Interval(mean=rms, low=low, high=high, n=len(by_seed)),
        bias=float(log_ratios.mean()),
        points=len(log_ratios),
    )


def level_gap(tables: Mapping[int, Table], first: str, second: str, quantity: str, noise: float) -> Error | None:
    """Error of one level as a prediction of another, over all gammas that both have; None if they share none."""
    points: Points = {}
    for seed, table in tables.items():
        for _, _, gamma, _ in [k for k in table.rows if k[0] == noise and k[1] == second and k[3] == quantity]:
            pair = pair_means(table.get(noise, first, gamma, quantity), table.get(noise, second, gamma, quantity))
            if pair is not None:
                points[seed, gamma] = pair
    return error_of(points, quantity) if points else None


def rank_correlation(
    tables: Mapping[int, Table],
    level: str,
    quantity: str,
    gamma: float,
    noise: float,
    *,
    within_tasks: bool = False,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> Interval | None:
    """Spearman correlation over questions of predicted and measured, mean over seeds (and tasks); None where there is none."""
    pairs, complete = [], None
    for table in tables.values():
        predicted, measured = table.get(noise, level, gamma, quantity), table.get(noise, TRAINED, gamma, quantity)
        if predicted is None or measured is None:
            continue
        pairs.append((predicted, measured))
        finite = np.isfinite(predicted) & np.isfinite(measured)
        complete = finite if complete is None else complete & finite
    if not pairs or complete is None:
        return None
    shared = np.flatnonzero(complete)
    tasks = next(iter(tables.values())).tasks
    groups = _groups([tasks[i] for i in shared], shared, within_tasks)
    if not groups:
        return None
    rng = np.random.default_rng(seed)
    whole = [members[None] for members in groups]
    mean = _mean_correlation(pairs, whole)
    if mean is None:
        return None
    drawn = [members[rng.integers(len(members), size=(n_bootstrap, len(members)))] for members in groups]
    values = _correlations(pairs, drawn)
    defined = values[np.isfinite(values)]
    low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) > n_bootstrap / 2 else (None, None)
    count = sum(len(members) for members in groups)
    return Interval(
        mean=mean, low=None if low is None else float(low), high=None if high is None else float(high), n=count
    )


def _groups(tasks: Sequence[str], shared: NDArray[np.intp], within: bool) -> list[NDArray[np.intp]]:
    if not within:
        return [shared] if len(shared) >= LEAST_TASK else []
    members = [shared[[i for i, t in enumerate(tasks) if t == task]] for task in dict.fromkeys(tasks)]
    return [group for group in members if len(group) >= LEAST_TASK]


def _mean_correlation(pairs: Sequence[tuple[Array, Array]], index: Sequence[NDArray[np.intp]]) -> float | None:
    value = float(_correlations(pairs, index)[0])
    return value if math.isfinite(value) else None


def _correlations(pairs: Sequence[tuple[Array, Array]], index: Sequence[NDArray[np.intp]]) -> Array:
    """(B,) mean over seeds and groups of Spearman's correlation; groups without spread in either figure do not count."""
    correlations = []
    for predicted, measured in pairs:
        for rows in index:
            a, b = (rankdata(x[rows], axis=1) for x in (predicted, measured))
            a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
            scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
            with np.errstate(invalid="ignore", divide="ignore"):
                correlations.append(np.where(scale > 0, (a * b).sum(1) / scale, np.nan))
    stacked = np.stack(correlations)
    finite = np.isfinite(stacked)
    count = finite.sum(0)
    total = np.where(finite, stacked, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def measured_over_seeds(
    tables: Mapping[int, Table], level: str, quantity: str, gamma: float, noise: float
) -> np.ndarray:
    """The means over questions of every seed that has this level at this gamma, (seeds,)."""
    values = [table.get(noise, level, gamma, quantity) for table in tables.values()]
    return np.array([float(np.nanmean(v)) for v in values if v is not None and np.isfinite(v).any()])

"""Accuracies with their uncertainty: per task, over tasks, and between two systems.

With c_ti = 1 where question i of task t is answered rightly (else 0), n_t questions and K_ti options:

    accuracy      a_t = sum_i c_ti / n_t                    fraction, 0 to 1
    chance        h_t = mean_i 1 / K_ti                     fraction: what picking uniformly scores on average
    normalised    s_t = (a_t - h_t) / (1 - h_t)             0 at chance, 1 when all are right, negative below chance
    unweighted    mean over t of a_t                        BLINK's official score
    weighted      sum_t n_t a_t / sum_t n_t                 all questions weigh the same (VLMEvalKit's score)

Replies that cannot be parsed count as wrong and are also counted separately. Every estimate has an interval of
probability ``level``: per task Wilson's score interval (it keeps its coverage near 0 and 1, where a bootstrap
collapses to a point); for the means a percentile bootstrap that draws questions with replacement within each task. A
task of one question shows no spread, so with one the means have no interval. Questions are sampled, not training seeds: the
intervals do not cover the spread over seeds. An estimate that does not exist is None, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amvl_model.results.text import RULE, text_table

_CHUNK = 4_000_000
"""Resampled values held in memory at once (32 MB)."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its interval.

    Attributes:
        mean: the estimate, in the unit of the values.
        low, high: ends of the interval, same unit; None for a single value, which has no spread.
        n: number of values behind it.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0; False without an interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class TaskAccuracy:
    """One task's accuracy.

    Attributes:
        task: its name.
        n: questions.
        unparsed: replies that cannot be parsed (counted as wrong).
        accuracy: fraction correct, with Wilson's interval.
        chance: mean of 1 / options; None if a question of the task has no options.
        normalised: (accuracy - chance) / (1 - chance), interval included; None if chance is None or 1.
    """

    task: str
    n: int
    unparsed: int
    accuracy: Interval
    chance: float | None
    normalised: Interval | None


@dataclass(frozen=True, kw_only=True)
class AccuracyReport:
    """Accuracies of one system on one set of questions.

    Attributes:
        tasks: one entry per task, in the order in which the tasks first occur.
        unweighted: mean of the tasks' accuracies (fraction).
        weighted: fraction of all questions answered correctly.
        unweighted_normalised: mean of the tasks' chance-normalised accuracies; None if a task has none.
        chance: mean of the tasks' chance levels; None if a task has none.
        n: questions.
        unparsed: replies that cannot be parsed.
        level: probability of the intervals.
    """

    tasks: tuple[TaskAccuracy, ...]
    unweighted: Interval
    weighted: Interval
    unweighted_normalised: Interval | None
    chance: float | None
    n: int
    unparsed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return asdict(self) | {"tasks": [asdict(task) for task in self.tasks]}

    def table(self) -> str:
        """Plain-text table in percent: a line per task, then both means; "-" where a value does not exist."""
        header = ("task", "n", "unparsed", "accuracy", f"{self.level:.0%} interval", "chance", "normalised")
        rows = [
            (t.task, str(t.n), str(t.unparsed), *_percent_cells(t.accuracy, t.chance, t.normalised)) for t in self.tasks
        ]
        total = (str(self.n), str(self.unparsed))
        means = [
            ("mean over tasks", *total, *_percent_cells(self.unweighted, self.chance, self.unweighted_normalised)),
            ("mean over questions", *total, *_percent_cells(self.weighted, None, None)),
        ]
        return text_table([*rows, RULE, *means], header)


def accuracy_report(
    correct: Sequence[bool | None],
    tasks: Sequence[str],
    n_choices: Sequence[int],
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> AccuracyReport:
    """Per-task, unweighted and weighted accuracy of one system (equations at the top of this module).

    A resampled task's number of right answers is binomial (n_t, a_t), so the bootstrap draws that number directly.

    Args:
        correct: per question, whether the answer is right; None where the reply cannot be parsed.
        tasks: per question, its task.
        n_choices: per question, its number of options; 0 for an open question (no chance level).
        n_bootstrap: resamples.
        seed: of the resampling.
        level: probability of every interval.

    Raises:
        ValueError: if there are no questions, lengths differ, or a number of options, n_bootstrap or level is wrong.
        TypeError: if an entry of ``correct`` is neither a bool nor None.
    """
    _check_settings(n_bootstrap, level)
    if not len(correct) == len(tasks) == len(n_choices):
        raise ValueError(
            f"expected one entry per question in each list, got {len(correct)} correct, {len(tasks)} tasks and "
            f"{len(n_choices)} n_choices"
        )
    if len(correct) == 0:
        raise ValueError("expected at least one question, got none; an accuracy needs questions")
    for value in correct:
        if value is not None and not isinstance(value, bool | np.bool_):
            raise TypeError(f"expected True, False or None (not parsed) for each question, got {value!r}")
    for number in n_choices:
        if number < 0 or number != int(number):
            raise ValueError(f"expected a number of options of at least 0 for each question, got {number}")

    groups: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        groups.setdefault(task, []).append(index)
    right = np.array([bool(value) for value in correct])
    entries = []
    for task, members in groups.items():
        accuracy = wilson(int(right[members].sum()), len(members), level)
        chance = _chance([n_choices[i] for i in members])
        unparsed = sum(correct[i] is None for i in members)
        normalised = None if chance is None or chance == 1 else _normalise(accuracy, chance)
        entries.append(
            TaskAccuracy(
                task=task, n=len(members), unparsed=unparsed, accuracy=accuracy, chance=chance, normalised=normalised
            )
        )

    sizes = np.array([entry.n for entry in entries])
    accuracies = np.array([entry.accuracy.mean for entry in entries])
    drawn = np.random.default_rng(seed).binomial(sizes, accuracies, size=(n_bootstrap, len(entries))) / sizes
    n = len(correct)

    def interval(mean: float, figures: NDArray[np.float64]) -> Interval:
        if sizes.min() == 1:
            return Interval(mean=mean, low=None, high=None, n=n)
        return _interval(mean, figures, n, level)

    chances = [entry.chance for entry in entries if entry.chance is not None and entry.normalised is not None]
    normalised_mean = None
    if len(chances) == len(entries):
        levels = np.array(chances)
        normalised_mean = interval(
            float(np.mean((accuracies - levels) / (1 - levels))), ((drawn - levels) / (1 - levels)).mean(1)
        )
    return AccuracyReport(
        tasks=tuple(entries),
        unweighted=interval(float(accuracies.mean()), drawn.mean(1)),
        weighted=interval(float(right.mean()), drawn @ sizes / n),
        unweighted_normalised=normalised_mean,
        chance=float(np.mean(chances)) if len(chances) == len(entries) else None,
        n=n,
        unparsed=sum(value is None for value in correct),
        level=level,
    )


def bootstrap_mean(
    values: Sequence[float] | NDArray[Any],
    *,
    tasks: Sequence[str] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of ``values`` with a percentile bootstrap interval, in the unit of the values.

    Args:
        values: one finite number per question (or per training seed).
        tasks: per value, its task. If given, the estimate is the unweighted mean of the tasks' means, and values are
            drawn within each task; if None, the plain mean.
        n_bootstrap: resamples.
        seed: of the resampling.
        level: probability of the interval.

    Returns:
        the interval; its ends are None if there is one value, or a task with one: a single value has no spread.

    Raises:
        ValueError: if there are no values, one is not finite, the shape is not (n,), or a setting is not valid.
    """
    _check_settings(n_bootstrap, level)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"expected at least one value in one dimension, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"expected finite values, got {int((~np.isfinite(array)).sum())} that are not; leave missing values out"
        )
    if tasks is not None and len(tasks) != array.size:
        raise ValueError(f"expected one task per value, got {len(tasks)} tasks for {array.size} values")
    groups: dict[str, list[int]] = {}
    for index in range(array.size):
        groups.setdefault("" if tasks is None else tasks[index], []).append(index)
    rng = np.random.default_rng(seed)
    members = [array[indices] for indices in groups.values()]
    mean = float(np.mean([m.mean() for m in members]))
    if min(m.size for m in members) == 1:
        return Interval(mean=mean, low=None, high=None, n=array.size)
    drawn = np.mean([_resampled_means(m, n_bootstrap, rng) for m in members], axis=0)
    return _interval(mean, drawn, array.size, level)


def paired_difference(
    a: Sequence[float] | NDArray[Any],
    b: Sequence[float] | NDArray[Any],
    *,
    tasks: Sequence[str] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of a - b for two systems on the same questions, with a bootstrap interval over the questions.

    Question i is drawn for both systems at once, so the difficulty that both share cancels. An interval that
    excludes 0 means that the systems differ on such questions (for these two training runs).

    Args:
        a, b: one finite number per question, in the same order: right or wrong, or a loss in nats.
        tasks, n_bootstrap, seed, level: as in `bootstrap_mean`.

    Raises:
        ValueError: if the lengths differ, or as in `bootstrap_mean`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"expected both systems on the same questions, got shapes {first.shape} and {second.shape}; "
            "keep the questions that both answered, in one order"
        )
    return bootstrap_mean(first - second, tasks=tasks, n_bootstrap=n_bootstrap, seed=seed, level=level)


def unpaired_difference(
    a: Sequence[float] | NDArray[Any],
    b: Sequence[float] | NDArray[Any],
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """mean(a) - mean(b) for two independent sets of questions, each resampled by itself; n counts both.

    Raises:
        ValueError: as `bootstrap_mean`.
    """
    first = bootstrap_mean(a, n_bootstrap=n_bootstrap, seed=seed, level=level)  # checks values and settings
    second = bootstrap_mean(b, n_bootstrap=n_bootstrap, seed=seed, level=level)
    mean, n = first.mean - second.mean, first.n + second.n
    if min(first.n, second.n) == 1:
        return Interval(mean=mean, low=None, high=None, n=n)
    rng = np.random.default_rng(seed)
    drawn = [_resampled_means(np.asarray(values, dtype=np.float64), n_bootstrap, rng) for values in (a, b)]
    return _interval(mean, drawn[0] - drawn[1], n, level)


def bootstrap_ratio(
    numerators: Sequence[float] | NDArray[Any],
    denominators: Sequence[float] | NDArray[Any],
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """sum(numerators) / sum(denominators) over questions, with a percentile bootstrap interval over the questions.

    A mean of ratios would be dominated by questions whose denominator is nearly 0.

    Args:
        numerators: one finite number per question.
        denominators: one per question, at least 0, some above 0.
        n_bootstrap, seed, level: as in `bootstrap_mean`.

    Raises:
        ValueError: for shapes that differ, a negative denominator or none above 0, or as `bootstrap_mean`.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"expected two lists of one length, got shapes {above.shape} and {below.shape}")
    for values in (above, below):
        bootstrap_mean(values, n_bootstrap=1, seed=seed, level=level)  # checks the values
    _check_settings(n_bootstrap, level)
    if (below < 0).any() or not (below > 0).any():
        raise ValueError("expected denominators of at least 0, some above 0; leave out questions without a denominator")
    ratio = float(above.sum() / below.sum())
    if (below > 0).sum() == 1:
        return Interval(mean=ratio, low=None, high=None, n=above.size)
    rng, drawn = np.random.default_rng(seed), []
    chunk = max(1, _CHUNK // above.size)
    for start in range(0, n_bootstrap, chunk):
        chosen = rng.integers(above.size, size=(min(chunk, n_bootstrap - start), above.size))
        total = below[chosen].sum(1)
        drawn.append(above[chosen].sum(1)[total > 0] / total[total > 0])
    return _interval(ratio, np.concatenate(drawn), above.size, level)


def _check_settings(n_bootstrap: int, level: float) -> None:
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1 (0.95 for 95 %), got {level}")


def _chance(numbers: Sequence[int]) -> float | None:
    """Accuracy of picking uniformly, or None if a question has no options."""
    return None if 0 in numbers else float(np.mean([1 / number for number in numbers]))


def _normalise(accuracy: Interval, chance: float) -> Interval:
    """(accuracy - chance) / (1 - chance), which is monotone: the interval's ends go with it."""
    mean, low, high = (
        None if value is None else (value - chance) / (1 - chance)
        for value in (accuracy.mean, accuracy.low, accuracy.high)
    )
    assert mean is not None
    return Interval(mean=mean, low=low, high=high, n=accuracy.n)


def wilson(right: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a binomial fraction (Wilson 1927)."""
    from scipy.stats import binomtest  # takes half a second; most who import this module score nothing

    ends = binomtest(right, n).proportion_ci(level, method="wilson")
    return Interval(mean=right / n, low=float(ends.low), high=float(ends.high), n=n)


def _resampled_means(values: NDArray[np.float64], n_bootstrap: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of ``n_bootstrap`` resamples of ``values``, in chunks that fit in memory."""
    chunk = max(1, _CHUNK // values.size)
    means = [
        values[rng.integers(values.size, size=(min(chunk, n_bootstrap - start), values.size))].mean(1)
        for start in range(0, n_bootstrap, chunk)
    ]
    return np.concatenate(means)


def _interval(mean: float, drawn: NDArray[np.float64], n: int, level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=mean, low=float(low), high=float(high), n=n)


def _percent_cells(accuracy: Interval, chance: float | None, normalised: Interval | None) -> tuple[str, str, str, str]:
    ends = "-" if accuracy.low is None or accuracy.high is None else f"{accuracy.low:.1%} to {accuracy.high:.1%}"
    return (
        f"{accuracy.mean:.1%}",
        ends,
        "-" if chance is None else f"{chance:.1%}",
        "-" if normalised is None else f"{normalised.mean:.1%}",
    )

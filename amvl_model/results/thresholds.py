"""When a sentence may speak of an effect: its interval leaves out 0 and its mean is at least as large as a threshold.

An interval alone calls any difference an effect once there are enough questions. The thresholds are conventions, set here
once for every report, notebook and table that puts a number into words:

    accuracy       0.02 (2 points)   smallest difference that five seeds of our studies can resolve
    answer NLL     0.02 nats         the margin within which the Pareto study calls two NLLs equal
    log odds       0.1 nats          odds multiplied by 1.1
    information    0.01 nats         a hundredth of what our questions' answers hold, about 1 nat

What an intervention on the latents changes is evidence only of a model that answers (`answers`): a model that does worse than
guessing changes its scores with whatever is put into its input.
"""

from __future__ import annotations

from typing import Final, Literal

from amvl_model.results.statistics import Interval

Kind = Literal["accuracy", "nll", "log_odds", "information"]
SMALLEST: Final[dict[str, float]] = {"accuracy": 0.02, "nll": 0.02, "log_odds": 0.1, "information": 0.01}
"""Smallest effect by kind; accuracies as fractions, all others in nats."""
ANSWERING: Final = 0.5
"""Chance-normalised accuracy from which a model answers, whatever its NLL."""


def is_effect(estimate: Interval, kind: Kind) -> bool:
    """Whether the interval leaves out 0 and the mean reaches the threshold; False without an interval."""
    return estimate.excludes_zero and abs(estimate.mean) >= SMALLEST[kind]


def smallest(kind: Kind) -> str:
    """A threshold in words: "2 points", "0.02 nats"."""
    return f"{100 * SMALLEST[kind]:g} points" if kind == "accuracy" else f"{SMALLEST[kind]:g} nats"


def answers(nll: float, accuracy: float, guess_nll: float, chance: float) -> bool:
    """Whether a model answers its questions.

    Args:
        nll: mean answer NLL, nats. accuracy: fraction right.
        guess_nll: of a uniform guess over the options, the mean of log(options), nats. chance: its accuracy, below 1.

    Returns:
        True where the NLL is below the guess's, or the accuracy lies at least `ANSWERING` of the way from chance to 1.
    """
    return nll < guess_nll or (accuracy - chance) / (1 - chance) >= ANSWERING

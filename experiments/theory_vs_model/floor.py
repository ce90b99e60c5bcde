"""Planned test of T10's floor, written before the first run of the study `posterior-std`.

    python experiments/ablations.py posterior-std --figure

T10: after gamma has set in, the leak that the means carry falls like 1/(gamma t); the floor that remains is carried by standard
deviations that differ between answers, and a posterior whose std does not depend on the answer has none. Five seeds, both arms
with the same seeds, 300 steps at gamma 0.003.

Primary: mean over seeds of log(leaked information, shared) - log(leaked information, per answer), paired, 95 % t interval.

    vanishes      the interval lies below 0 and the ratio is at most `GONE`
    falls         the interval lies below 0
    not shown     else, or with fewer than `ENOUGH` pairs

Secondary, no verdict: the same difference of held-out NLL with the prior's mean [nats], and the runs whose decoder reads the
leak. A run that reads its leak no longer has T10's floor: the ratio stands also without the seeds of which an arm does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amvl_model.results.files import Result
from amvl_model.results.frame import tidy
from amvl_model.results.seeds import by_seed, interval
from experiments.theory_vs_model.collapse import EVENT, GAP

LEAK, NLL = "held_out.leaked_information", "held_out.nll_prior_mean"
GONE = 1 / 3
"""Ratio of leaks, shared over per answer, from which down the floor is said to vanish."""
ENOUGH = 3


def ratio(results: Sequence[Result]) -> tuple[float, float, float, int]:
    """Geometric mean of the leak's ratio, shared over per answer, its 95 % interval, and the number of pairs."""
    values = by_seed(tidy(results), LEAK).reindex(columns=["shared", "per-answer"]).dropna()
    logs = np.log(values["shared"].to_numpy() / values["per-answer"].to_numpy())
    if len(logs) < 2:
        return float(np.exp(logs.mean())) if len(logs) else np.nan, np.nan, np.nan, len(logs)
    low, high = interval(logs)
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)), len(logs)


def verdict(value: float, high: float, pairs: int) -> str:
    """Vanishes, falls or not shown, as the module says."""
    if pairs < ENOUGH or not high < 1:
        return "not shown"
    return "vanishes" if value <= GONE else "falls"


def report(results: Sequence[Result]) -> str:
    """Primary and secondary figures as text."""
    reads = {(r.cell, r.seed) for r in results if float(r.value(GAP) or 0.0) < EVENT}
    lines = []
    for label, chosen in (
        ("all seeds", results),
        ("without seeds that read", [r for r in results if r.seed not in {seed for _, seed in reads}]),
    ):
        if chosen:
            value, low, high, pairs = ratio(chosen)
            end = f": {verdict(value, high, pairs)}" if label == "all seeds" else ""
            lines.append(
                f"leak, shared over per answer, {label}: {value:.2f} [{low:.2f}, {high:.2f}], {pairs} pairs{end}"
            )
    values = by_seed(tidy(results), NLL).reindex(columns=["shared", "per-answer"]).dropna()
    difference = values["shared"] - values["per-answer"]
    if len(difference) > 1:
        low, high = interval(difference)
        lines.append(
            f"NLL, prior mean, shared minus per answer [nats]: {difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    lines.append(f"runs with a gap below {EVENT:g}: {', '.join(f'{c} seed {s}' for c, s in sorted(reads)) or 'none'}")
    return "\n".join(lines)

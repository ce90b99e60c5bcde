"""What a stored value may be: units, ranges and digests. Used when a result is written and when it is read.

Units and ranges by the metric's name, whose last part counts unless another part is an accuracy (accuracy.Counting):

    accuracy, agreement, chance          fraction, 0 to 1
    nll                                  nats, at least 0
    leaked information, KL, entropy      nats, at least -`SLACK` (Monte Carlo estimates scatter around 0)
    difference, gap, change, ...         of either sign: a fraction from -1 to 1, otherwise any finite value
    any name with one of `COUNTED`       at least 0 (seconds, bytes, standard deviations, ...)

Digests are SHA-256 over JSON with sorted keys, so that they do not depend on a file's layout.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

SLACK = 0.05
"""How far below 0 an estimate of information may lie, nats."""
COUNTED = frozenset(
    {"s", "bytes", "1/s", "calls", "decode steps", "latent units", "prior std", "squared Mahalanobis distance"}
)
_SIGNED = re.compile(r"difference|gap|change|minus|shift|interaction|normalised|share|rank|log_odds|memorised")
_SHARE = re.compile(r"(accuracy|chance|agreement|follows)(_|$)|_agreement$")
_INFORMATION = re.compile(r"leaked_information|leakage|_kl$|entropy|redundancy")


def digest(value: Any) -> str:
    """SHA-256 of a value of JSON, 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def range_of(name: str, unit: str) -> tuple[float, float]:
    """Smallest and largest value that a metric of this name and unit may have."""
    last = name.rpartition(".")[2]
    if _SIGNED.search(name):
        return (-1.0, 1.0) if unit == "fraction" else (-float("inf"), float("inf"))
    if _is_share(name):
        return 0.0, 1.0
    if unit == "fraction":
        return -1.0, 1.0
    if unit == "nats" and last.endswith("nll"):
        return 0.0, float("inf")
    if unit == "nats" and _INFORMATION.search(last):
        return -SLACK, float("inf")
    return (0.0 if unit in COUNTED else -float("inf")), float("inf")


def expected_unit(name: str) -> str | None:
    """The unit that a metric of this name must have, None where the name leaves it open."""
    last = name.rpartition(".")[2]
    if _is_share(name) or last in ("accuracy_difference", "accuracy_gap_mean", "accuracy_gap_sample"):
        return "fraction"
    return (
        "nats" if last in ("answer_nll", "nll_difference", "leaked_information", "forward_kl", "reverse_kl") else None
    )


def problem(name: str, unit: str, values: Mapping[str, float | None]) -> str | None:
    """What is wrong with a metric, in words; None for nothing.

    Args:
        name: of the metric. unit: of its values.
        values: the value and the ends of its interval by name; None where one does not exist.
    """
    wanted = expected_unit(name)
    if wanted is not None and unit != wanted:
        return f"{name}: expected the unit {wanted!r}, got {unit!r}"
    low, high = range_of(name, unit)
    for what, value in values.items():
        if value is not None and not low <= value <= high:
            return f"{name}: expected a {what} from {low:g} to {high:g} {unit}, got {value:g}"
    return None


def stored_problems(node: Any, name: str = "") -> Iterator[str]:
    """Values with an interval that cannot be right, in the JSON of a main job: every mapping with "mean", by its path."""
    if isinstance(node, Mapping):
        if isinstance(node.get("mean"), int | float):
            unit = node.get("unit") or expected_unit(name) or ""
            result = problem(name, unit, {key: node.get(key) for key in ("mean", "low", "high")})
            if result is not None:
                yield result
        for key, value in node.items():
            yield from stored_problems(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from stored_problems(value, name)


def _is_share(name: str) -> bool:
    return not _SIGNED.search(name) and any(
        _SHARE.match(part) or part.endswith("_agreement") for part in name.split(".")
    )

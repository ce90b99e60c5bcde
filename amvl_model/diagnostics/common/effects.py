"""Distances between two distributions over the options of a question, p(a|x,Z) normalised over the options.

    total variation    1/2 sum_a |p_a - r_a|              0 to 1
    answer KL          sum_a r_a log(r_a / p_a)           nats, 0 where the two are equal; r is the reference

An option's probability is the softmax of the options' log-likelihoods: what else the model might write is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amvl_model.diagnostics.common.posteriors import as_numpy
from amvl_model.results.statistics import Interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlainReport:
    """Base of reports that consist of plain data: NLL and information in nats, accuracies as fractions."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return asdict(self)


def measures_to_dict(measures: Mapping[str, Interval | None], units: Mapping[str, str]) -> dict[str, Any]:
    """Measures with their units, ready for JSON."""
    return {name: None if value is None else {**asdict(value), "unit": units[name]} for name, value in measures.items()}


def measures_table(
    measures: Mapping[str, Interval | None], units: Mapping[str, str], further: Mapping[str, float | None] | None = None
) -> str:
    """Plain text: a line per measure with its interval and unit; "-" where there is no figure.

    Args:
        measures: per name, the mean with its interval.
        units: of every measure.
        further: figures without interval and unit.
    """
    rows = []
    for name, value in measures.items():
        ends = "-"
        if value is not None and value.low is not None and value.high is not None:
            ends = f"{value.low:.4g} to {value.high:.4g}"
        rows.append((name, "-" if value is None else f"{value.mean:.4g}", ends, units[name]))
    rows += [(name, "-" if x is None else f"{x:.4g}", "-", "1") for name, x in (further or {}).items()]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}  {unit}" for a, b, c, unit in rows
    )


def option_log_shares(log_probs: Tensor) -> Array:
    """(B, O) log p(a|x,Z) normalised over the options, float64, -inf where there is no such option."""
    return np.asarray(log_probs.detach().double().log_softmax(dim=1).cpu().numpy())


def total_variation(log_share: Any, reference: Any) -> Array:
    """1/2 sum |p - r| over the last axis, from logarithms of two distributions (..., O)."""
    return np.asarray(0.5 * np.abs(np.exp(log_share) - np.exp(reference)).sum(-1))


def answer_kl(log_share: Any, reference: Any) -> Array:
    """KL(reference || distribution) in nats over the last axis, from logarithms (..., O); 0 log 0 = 0."""
    own, other = np.asarray(reference, float), np.asarray(log_share, float)
    there = np.isfinite(own)
    difference = np.where(there, own, 0.0) - np.where(there, other, 0.0)
    return np.asarray(np.maximum((np.where(there, np.exp(own), 0.0) * difference).sum(-1), 0.0))


def answer_scores(log_probs: Tensor, answers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """NLL of the given answers (B,) in nats, and 1.0 where it is the most likely option (B,).

    Args:
        log_probs: (B, O) log p(a|x,Z), -inf where there is no such option.
        answers: (B,) indices of the given answers.
    """
    given = torch.tensor(answers, device=log_probs.device)
    nll = -log_probs.gather(1, given[:, None])[:, 0]
    return as_numpy(nll), as_numpy((log_probs.argmax(1) == given).double())

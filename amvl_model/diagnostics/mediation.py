"""Causal mediation: latents swapped for another answer's posterior, single slots knocked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.statistics import Interval
from amvl_model.processing import AMVLProcessor


@dataclass(frozen=True, kw_only=True)
class MediationReport:
    """Effects of swapped posteriors and of single slots."""

    swap: dict[str, Interval]
    slots: dict[str, list[dict[str, Interval]]]
    verdict: str
    n: int
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return asdict(self)


def measure_mediation(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> MediationReport:
    """Answer with the posterior of another option, and with single slots replaced."""
    raise NotImplementedError("mediation: still being written")

"""Stability of answers and latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.statistics import Interval
from amvl_model.processing import AMVLProcessor


@dataclass(frozen=True, kw_only=True)
class StabilityReport:
    """Seeds and temperatures, perturbations, slot similarity, spreads."""

    sampling: dict[str, dict[str, Interval]]
    perturbations: dict[str, dict[str, Interval]]
    slot_similarity: dict[str, list[list[float]]]
    spread: dict[str, Any]
    n: int
    samples: int
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return asdict(self)


def measure_stability(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    samples: int = 8,
    temperatures: Sequence[float] = (0.5, 1.0, 2.0),
    perturbations: Sequence[str] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> StabilityReport:
    """Measure agreement of answers and latents; ``perturbations`` names some of perturbations.PERTURBATIONS (default all)."""
    raise NotImplementedError("stability: still being written")

"""Leakage and contamination slot by slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.statistics import Interval
from amvl_model.processing import AMVLProcessor


@dataclass(frozen=True, kw_only=True)
class SlotReport:
    """Per measure: the whole latent ("all"), and a list with one interval per slot."""

    whole: dict[str, Interval]
    slots: dict[str, list[Interval]]
    tasks: dict[str, dict[str, list[Interval]]]
    monte_carlo_error: dict[str, Any]
    n: int
    n_samples: int
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return asdict(self)


def measure_slots(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    n_samples: int = 1024,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> SlotReport:
    """Measure leaked information, answer sensitivity, both KLs and spreads of every slot."""
    raise NotImplementedError("slots: still being written")

"""Displacement of the prior mean from the option average along the options' directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.statistics import Interval
from amvl_model.processing import AMVLProcessor


@dataclass(frozen=True, kw_only=True)
class DirectionShift:
    """One set of questions; intervals over questions, no unit (1 = the option's own displacement)."""

    given: Interval
    others: Interval
    contrast: Interval
    pooled_contrast: Interval
    own_label: Interval | None
    slots: list[Interval | None]
    tasks: dict[str, Interval]
    per_question: dict[str, list[float | None]]
    ids: list[str]
    undefined: int


@dataclass(frozen=True, kw_only=True)
class AnswerDirectionReport:
    """Held-out questions, training questions (if given), and the difference of their contrasts."""

    held_out: DirectionShift
    training: DirectionShift | None
    memorised: Interval | None
    metric: str
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return asdict(self)


def measure_answer_direction(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    training: Sequence[VisualQuestion] | None = None,
    metric: str = "posterior_precision",
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> AnswerDirectionReport:
    """Measure answer_direction_shift on held-out ``questions`` and on ``training`` questions."""
    raise NotImplementedError("answer_direction: still being written")

"""Argument checks and label noise, shared by the generators of synthetic questions."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

SPLITS: Final = ("train", "val", "test")


def _nearest(name: str, names: Sequence[str]) -> str:
    """The valid name most like ``name`` (case ignored)."""
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.0)
    return lowered[close[0]]


def check_name(what: str, name: str, names: Sequence[str]) -> None:
    """Raise a ValueError with the nearest valid name if ``name`` is not one of ``names``."""
    if name not in names:
        raise ValueError(
            f"{what} must be one of {', '.join(names)}, got {name!r}; did you mean {_nearest(name, names)!r}?"
        )


def check_unit(what: str, value: float) -> None:
    """Raise a ValueError if ``value`` is not in [0, 1]."""
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"{what} must be a number in [0, 1], got {value!r}; pass a value between 0 and 1")


def check_count(what: str, value: int) -> None:
    """Raise a ValueError if ``value`` is negative."""
    if value < 0:
        raise ValueError(f"{what} must be an integer of at least 0, got {value!r}; count from 0")


def checked_cycle(tasks: Sequence[str], size: int, names: Sequence[str]) -> tuple[str, ...]:
    """The tasks that a set of ``size`` questions cycles through; a ValueError for a string, for none, or a negative size."""
    if isinstance(tasks, str):
        raise ValueError(f"tasks must be a sequence of names, got the string {tasks!r}; pass ({tasks!r},)")
    if not tasks:
        raise ValueError(f"tasks must name at least one of {', '.join(names)}, got none; leave it out for all")
    check_count("size", size)
    return tuple(tasks)


def noisy_answer(clean: int, options: int, label_noise: float, rng: np.random.Generator) -> int:
    """``clean`` with probability 1 - label_noise, else another option, uniformly."""
    flipped = float(rng.random()) < label_noise
    shift = int(rng.integers(1, options))
    return (clean + shift) % options if flipped else clean

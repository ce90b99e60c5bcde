"""What came of a fault, and the table of all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUTCOMES = ("refused", "same", "undetectable", "wrong", "unclear", "executed")
"""refused: one clear error. same: the result is that without the fault. undetectable: accepted, from a format without a
checksum (JPEG, foreign JSON). wrong: another result is accepted. unclear: an error of another type, or one that names no file.
executed: code from the file ran."""
BAD = ("wrong", "unclear", "executed")


@dataclass
class Kind:
    """One kind of fault.

    Attributes:
        counts: cases by outcome.
        worst_lost: most optimiser steps that had been logged and had to be computed again.
        problems: descriptions of what is bad, the first ones.
    """

    counts: Counter[str] = field(default_factory=Counter)
    worst_lost: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, outcome: str, note: str = "", number: int = 1) -> None:
        """Count a case; ``note`` is stored where the outcome is bad."""
        self.counts[outcome] += number
        if outcome in BAD and len(self.problems) < 20:
            self.problems.append(f"{outcome}: {note}")

    @property
    def bad(self) -> int:
        """Cases that should not be."""
        return sum(self.counts[name] for name in BAD)


Table = dict[str, Kind]


def judged(act: Callable[[], Any], names: tuple[str, ...] = ()) -> tuple[str, Any]:
    """Outcome of ``act``: ("refused", message), ("unclear", message) or ("accepted", value).

    A clear error is a ValueError or OSError whose message has words of its own and contains one of ``names``.
    """
    try:
        return "accepted", act()
    except (ValueError, OSError) as error:
        text = str(error)
        clear = len(text) > 20 and (not names or any(name in text for name in names))
        return ("refused" if clear else "unclear"), f"{type(error).__name__}: {text[:300]}"
    except Exception as error:
        return "unclear", f"{type(error).__name__}: {str(error)[:300]}"


def to_json(table: Table) -> dict[str, Any]:
    """The table, ready for JSON."""
    return {
        name: {
            "cases": kind.counts.total(),
            **{outcome: kind.counts[outcome] for outcome in OUTCOMES},
            "worst_lost_steps": kind.worst_lost,
            "problems": kind.problems,
        }
        for name, kind in table.items()
    }


def from_json(rows: dict[str, Any]) -> Table:
    """The table that `to_json` wrote."""
    return {
        name: Kind(
            Counter({outcome: row[outcome] for outcome in OUTCOMES if row[outcome]}),
            row["worst_lost_steps"],
            row["problems"],
        )
        for name, row in rows.items()
    }


def markdown(table: Table) -> str:
    """The table as text."""
    lines = [f"| fault | cases | {' | '.join(OUTCOMES)} | steps lost at most |", "|---|" + "---|" * (len(OUTCOMES) + 2)]
    for name, kind in table.items():
        cells = [str(kind.counts[outcome]) for outcome in OUTCOMES]
        lines.append(f"| {name} | {kind.counts.total()} | {' | '.join(cells)} | {kind.worst_lost} |")
    return "\n".join(lines) + "\n"


def store(table: Table, path: Path, about: dict[str, Any]) -> None:
    """Write ``path`` (JSON) and the Markdown table beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "faults": to_json(table)}, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(table))

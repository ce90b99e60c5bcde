"""Verdicts as text and tables: the verdict table, departures and CSV files, always in the same bytes for the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from amvl_theory.verification.core import CLOSED_FORM, ERRORS, RELATIVE, SIMULATION, Comparison, Verdict, write_csv


def verdict_record(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Plain data of all verdicts, for JSON."""
    return {
        "passed": all(item.passed for item in verdicts),
        "statements": {
            item.name: {
                "title": item.title,
                "passed": item.passed,
                "proof": None if item.proof is None else asdict(item.proof),
                "worst": {name: _record(item.worst(kind, unit)) for name, (_, kind, unit) in COLUMNS.items()},
                "comparisons": [_record(comparison) for comparison in item.evidence.comparisons],
                "departures": [asdict(departure) for departure in item.evidence.departures],
                "cpu_seconds": item.seconds,
            }
            for item in verdicts
        },
    }


def write_tables(out: Path, verdicts: Sequence[Verdict]) -> None:
    """comparisons.csv and departures.csv."""
    rows = [(v.name, c) for v in verdicts for c in v.evidence.comparisons]
    fields = ("name", "kind", "discrepancy", "tolerance", "unit", "instances", "passed", "reason")
    write_csv(
        out / "comparisons.csv",
        {"statement": np.array([n for n, _ in rows])} | {f: np.array([getattr(c, f) for _, c in rows]) for f in fields},
    )
    gaps = [(v.name, d) for v in verdicts for d in v.evidence.departures]
    write_csv(
        out / "departures.csv",
        {"statement": np.array([n for n, _ in gaps])}
        | {f: np.array([getattr(d, f) for _, d in gaps]) for f in ("name", "size", "unit", "where")},
    )


def _record(item: Comparison | None) -> dict[str, Any] | None:
    return None if item is None else asdict(item) | {"passed": item.passed}


COLUMNS = {
    "closed_form": ("closed form", CLOSED_FORM, RELATIVE),
    "simulation": ("simulation", SIMULATION, RELATIVE),
    "noisy_simulation": ("noisy [s.e.]", SIMULATION, ERRORS),
}
"""Columns of the verdict table: heading, kind and unit of the comparisons."""


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line per statement; under it a line for every symbolic check or comparison that failed."""
    width = max(len(item.title) for item in verdicts)
    heads = "  ".join(f"{head:>17}" for head, _, _ in COLUMNS.values())
    head = f"{'':4}{'statement':{width}}  {'symbolic':>8}  {'compared':>8}  {heads}  verdict"
    lines = [head, "-" * len(head)]
    for item in verdicts:
        proof = "not run" if item.proof is None else f"{item.proof.passed}/{item.proof.total}"
        compared = item.evidence.comparisons
        count = f"{sum(c.passed for c in compared)}/{len(compared)}"
        cells = "  ".join(f"{_largest(item.worst(kind, unit)):>17}" for _, kind, unit in COLUMNS.values())
        verdict = "PASS" if item.passed else "FAIL"
        lines.append(f"{item.name:4}{item.title:{width}}  {proof:>8}  {count:>8}  {cells}  {verdict}")
        lines += [f"     FAILED symbolic: {text}" for text in (item.proof.failed if item.proof else ())]
        lines += [
            f"     FAILED {c.kind}: {c.name}: {c.discrepancy:.3g}, tolerance {c.tolerance:g} {c.unit}"
            for c in compared
            if not c.passed
        ]
    count = sum(len(item.evidence.comparisons) for item in verdicts)
    instances = sum(c.instances for item in verdicts for c in item.evidence.comparisons)
    passed = sum(item.passed for item in verdicts)
    lines.append(f"{passed} of {len(verdicts)} statements agree in {count} comparisons over {instances:,} instances")
    lines.append(
        "Columns: the discrepancy that comes closest to its tolerance / that tolerance; relative, or standard errors."
    )
    loose = [c for v in verdicts for c in v.evidence.comparisons if c.reason and c.unit == RELATIVE]
    lines += [f"Looser: {c.name} ({c.discrepancy:.2g} / {c.tolerance:g}): {c.reason}" for c in loose]
    return "\n".join(lines)


def _largest(item: Comparison | None) -> str:
    return "-" if item is None else f"{item.discrepancy:.2g} / {item.tolerance:g}"


def departure_table(verdicts: Sequence[Verdict]) -> str:
    """How far each statement is off outside its conditions."""
    lines = ["Outside the statements' conditions (measured, not counted as a failure):"]
    for item in verdicts:
        for gap in item.evidence.departures:
            lines.append(f"{item.name:4}{gap.size:>10.4g} {gap.unit}: {gap.name} ({gap.where})")
    return "\n".join(lines)

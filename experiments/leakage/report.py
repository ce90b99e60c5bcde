"""What a run prints and writes: the verdict table, departures, CSV and JSON, always in the same bytes for the same input."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from amvl_model.results import provenance, to_jsonable
from experiments.leakage.core import CLOSED_FORM, ERRORS, RELATIVE, SIMULATION, Comparison, Verdict

Table = Mapping[str, np.ndarray]
"""Columns of equal length."""

OWN_FILES = ("verdicts.json", "sweep.csv", "benchmark.json")
"""One of these marks a folder as written by this program."""


def prepare(out: Path, *, force: bool) -> None:
    """Make the output folder.

    Raises:
        FileExistsError: if it is not empty, unless ``force`` is given and an earlier run wrote it.
        NotADirectoryError: if it is a file.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out: expected a folder, {out} is a file")
    if out.exists() and any(out.iterdir()):
        ours = any((out / name).is_file() for name in OWN_FILES)
        if not ours:
            raise FileExistsError(
                f"--out: {out} is not empty and was not written by this program; choose another folder"
            )
        if not force:
            raise FileExistsError(
                f"--out: {out} holds an earlier run; pass --force to replace it, or choose another folder"
            )
    out.mkdir(parents=True, exist_ok=True)


def write_csv(path: Path, table: Table) -> Path:
    """A table as CSV; an empty cell where a number does not exist."""
    columns = [[_cell(value) for value in np.asarray(column).tolist()] for column in table.values()]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*columns, strict=True))
    return path


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.10g}"
    return str(value)


def write_json(path: Path, record: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """A record with the run's configuration, commit and versions."""
    whole = {"config": config, **provenance(), **record}
    path.write_text(
        json.dumps(to_jsonable(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return path


def write_verdicts(out: Path, verdicts: Sequence[Verdict], config: Mapping[str, Any]) -> None:
    """verdicts.json, comparisons.csv and departures.csv."""
    record = {
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
    write_json(out / "verdicts.json", record, config)
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

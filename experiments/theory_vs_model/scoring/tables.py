"""Per-question figures of one reference as a CSV: a row per (noise, level, gamma, quantity), a column per question."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.theory_vs_model.plan import Plan
from experiments.theory_vs_model.predictions import Prediction, Values

Array = NDArray[np.float64]
Key = tuple[float, str, float, str]
"""Label noise, level, gamma, quantity."""

REFERENCE, TRAINED = "reference", "trained"
COLUMNS = ["noise", "level", "gamma", "quantity"]
OLD_COLUMNS = ["noise", "rung", "gamma", "quantity"]
"""Columns of files written before the levels had this name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Per-question figures.

    Attributes:
        ids, tasks: of the n questions.
        rows: per key, values (n,), NaN where there is none.
    """

    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    rows: Mapping[Key, Array]

    def get(self, noise: float, level: str, gamma: float, quantity: str) -> Array | None:
        """Values (n,), or None if the table has no such row."""
        return self.rows.get((noise, level, gamma, quantity))

    def levels(self) -> list[str]:
        """Names of the levels in the order of the file, the reference and the trained checkpoints left out."""
        return [name for name in dict.fromkeys(key[1] for key in self.rows) if name not in (REFERENCE, TRAINED)]


def as_row(column: Sequence[float | None]) -> Array:
    """(n,), NaN where there is no value."""
    return np.array([math.nan if v is None else v for v in column])


def merged(predicted: Table, measured: Table) -> Table:
    """One table of both.

    Raises:
        ValueError: if they are about different questions.
    """
    if predicted.ids != measured.ids:
        raise ValueError(
            f"predictions cover {len(predicted.ids)} questions and trained checkpoints {len(measured.ids)} others; "
            "run both again with the same --questions"
        )
    return Table(ids=predicted.ids, tasks=predicted.tasks, rows={**predicted.rows, **measured.rows})


def table_of(prediction: Prediction, reference_gamma: float, plan: Plan) -> Table:
    """All predictions of one reference.

    Args:
        prediction: of the reference.
        reference_gamma: of the reference, 0 for forward-only.
        plan: of the prediction.
    """
    rows: dict[Key, Array] = {}

    def put(noise: float, level: str, gamma: float, values: Values) -> None:
        for quantity, column in values.items():
            rows[noise, level, gamma, quantity] = as_row(column)

    put(plan.train_noise, REFERENCE, reference_gamma, prediction.reference)
    for level, by_gamma in prediction.levels.items():
        for gamma, values in by_gamma.items():
            put(plan.train_noise, level, gamma, values)
    for noise, by_level in prediction.by_noise.items():
        for level, values in by_level.items():
            put(noise, level, plan.noise_gamma, values)
    return Table(ids=tuple(prediction.response["ids"]), tasks=tuple(prediction.response["tasks"]), rows=rows)


def write_table(path: Path, table: Table) -> None:
    """Four significant digits; empty where there is no value. Written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [f"{task}|{name}" for task, name in zip(table.tasks, table.ids, strict=True)]
        writer.writerow([*COLUMNS, *names])
        for (noise, level, gamma, quantity), values in table.rows.items():
            cells = ["" if math.isnan(v) else f"{v:.4g}" for v in values.tolist()]
            writer.writerow([f"{noise:g}", level, f"{gamma:g}", quantity, *cells])
    unfinished.replace(path)


def read_table(path: Path) -> Table:
    """Read a table that `write_table` wrote, of this or an earlier version.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table of predictions at {path}; run experiments/theory_vs_checkpoints.py first")
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    header = lines[0] if lines else []
    if header[:4] not in (COLUMNS, OLD_COLUMNS) or any(len(line) != len(header) for line in lines):
        raise ValueError(f"{path} is not a complete table of predictions; delete it and run its reference again")
    tasks, ids = zip(*(name.split("|", 1) for name in header[4:]), strict=True)
    rows = {
        (float(line[0]), line[1], float(line[2]), line[3]): np.array([float(v) if v else math.nan for v in line[4:]])
        for line in lines[1:]
    }
    return Table(ids=ids, tasks=tasks, rows=rows)

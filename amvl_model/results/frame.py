"""Results as pandas tables: a row per figure (tidy), or a row per run with its figures as columns (wide).

frame = load_results("leakage")
frame[frame.metric == "accuracy"].groupby(["cell", "objective.gamma"]).value.agg(["mean", "std", "count"])
wide(frame).plot.scatter("objective.gamma", "held_out.leaked_information")
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amvl_model.results.files import Result, read_study
from amvl_model.results.provenance import PROJECT_ROOT

COLUMNS = ("study", "cell", "seed", "metric", "value", "unit", "low", "high", "n")


def load_results(source: str | os.PathLike[str], *, settings: Sequence[str] | None = None) -> pd.DataFrame:
    """Read all results of a study, or of a folder of studies, as one tidy table.

    Args:
        source: folder of a study (``<cell>/seed<k>.json``) or of several, or the name of a study in the project's results.
        settings: as in `tidy`.

    Returns:
        the table described in `tidy`, sorted by study, cell and seed.

    Raises:
        FileNotFoundError: if there is no such folder, or no result in it.
        ResultError: if a file is damaged or is not a result.
    """
    folder = Path(source)
    if not folder.is_dir() and folder.name == os.fspath(source):
        folder = PROJECT_ROOT / "results" / folder
    studies = sorted({path.parents[1] for path in folder.glob("*/*/seed*.json")}) or [folder]
    return tidy([result for study in studies for result in read_study(study)], settings=settings)


def tidy(results: Iterable[Result], *, settings: Sequence[str] | None = None) -> pd.DataFrame:
    """A row per (study, cell, seed, metric): value, unit, low, high and n, then the settings of the run.

    Args:
        results: in the order of the rows.
        settings: dotted names of settings that become columns ("objective.gamma"), None where a run has none;
            by default those that differ between the runs.

    Returns:
        columns `COLUMNS`, then the settings. A value or an end of an interval that does not exist is NaN.
    """
    runs = [(result, dict(_flat(result.config))) for result in results]
    if settings is None:
        names = dict.fromkeys(name for _, config in runs for name in config)
        settings = [name for name in names if len({repr(config.get(name)) for _, config in runs}) > 1]
    settings = [name for name in settings if name not in COLUMNS]
    rows = [
        (result.study, result.cell, result.seed, name, m.value, m.unit, m.low, m.high, m.n, *map(config.get, settings))
        for result, config in runs
        for name, m in result.metrics.items()
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *settings])
    return table.astype({"seed": int, "value": float, "low": float, "high": float, "n": "Int64"})


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A tidy table with a row per run: study, cell, seed, settings, and the value of every metric in a column of its own."""
    settings = [name for name in table if name not in COLUMNS]
    runs = table.groupby(["study", "cell", "seed"], sort=False)[settings].first()
    values = table.pivot(index=["study", "cell", "seed"], columns="metric", values="value")
    return runs.join(values).reset_index()


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

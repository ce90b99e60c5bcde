"""Our results by study: the command that makes them, and the metric of each column of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

RUNNER = "python experiments/ablations.py {study} --workers 2"
KEEPING = ("leakage", "objectives", "temperature", "direction")
"""Studies whose checkpoints are kept, or which evaluate kept ones."""
MAIN_JOB = "python experiments/full_blink.py --preset tiny --out results/main_job"
BENCHMARKS = (
    "python experiments/evaluate_benchmark.py --model DIR --benchmark {name} --out results/benchmarks/{name}/seed0.json"
)


def command(study: str) -> str:
    """The command that makes a study."""
    return RUNNER.format(study=study) + " --keep runs" * (study in KEEPING)


LEAKAGE, PARETO = command("leakage"), command("pareto")
THROUGHPUT = "python experiments/throughput.py"
PREDICTION = "python experiments/theory_vs_checkpoints.py --checkpoints runs/leakage"

ACCURACY, NLL, LEAK = "accuracy", "answer_nll", "held_out.leaked_information"
OUT_ACCURACY = "out_of_distribution.accuracy"
SYNTHETIC = (
    "ours: tiny model (3 M parameters) on synthetic BLINK, held-out questions, clean labels; not comparable with the reported "
    "numbers, which are of a 7B model on other benchmarks. Intervals: 95 %, Student's t over seeds (symmetric: where seeds "
    "differ widely they pass 0 or 100 %)."
)


def borrowed(results: pd.DataFrame, study: str, labels: Mapping[str, str]) -> str:
    """ "; from study leakage, same settings: NTP, forward KL", or nothing where all results are the study's own."""
    others = results[results.study != study].drop_duplicates(["study", "cell"])
    names = others.cell.map(lambda cell: labels.get(cell, cell.replace(",", ", ")))
    parts = names.groupby(others.study, sort=False).agg(", ".join)
    return "".join(f"; from study {other}, same settings: {cells}" for other, cells in parts.items())


def setting(config: dict[str, Any], dotted: str) -> Any:
    """A setting by its dotted name, None where the configuration has none."""
    value: Any = config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value

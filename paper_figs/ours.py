"""Our results by study: which command makes them, and which cell is which row of a table. Nothing is drawn here.

The studies `objectives`, `latents` and `temperature` are read by what their runs' configurations say, not by the names of their
cells, so that a cell may be called as its study likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amvl_model.results import Result

RUNNER = "python experiments/ablations.py {study} --workers 2"
LEAKAGE = RUNNER.format(study="leakage") + " --keep runs"
PARETO = RUNNER.format(study="pareto")
MAIN_JOB = "python experiments/full_blink.py --out results/main_job"
BENCHMARKS = (
    "python experiments/evaluate_benchmark.py --model DIR --benchmark {name} --out results/benchmarks/{name}/seed0.json"
)
THROUGHPUT = "python experiments/throughput.py"
PREDICTION = "python experiments/theory_vs_checkpoints.py --checkpoints runs/leakage"

ACCURACY, NLL, LEAK = "prior_mean.accuracy", "answer_nll", "held_out.leaked_information"
SYNTHETIC = (
    "ours: tiny model (3 M parameters) on synthetic BLINK, held-out questions, clean labels; not comparable with the reported "
    "numbers, which are of a 7B model on other benchmarks. Intervals: 95 %, Student's t over seeds."
)


def cells_where(results: Sequence[Result], test: Callable[[dict[str, Any]], bool]) -> dict[str, list[Result]]:
    """Results whose configuration passes the test, by cell."""
    found: dict[str, list[Result]] = {}
    for result in results:
        if test(result.config):
            found.setdefault(result.cell, []).append(result)
    return found


def setting(config: dict[str, Any], dotted: str) -> Any:
    """A setting by its dotted name, None where the configuration has none."""
    value: Any = config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value

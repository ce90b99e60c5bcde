"""Our results by study: which command makes them, and which metric is which column of a table. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amvl_model.results.files import Result

RUNNER = "python experiments/ablations.py {study} --workers 2"
KEEPING = ("leakage", "objectives", "temperature", "direction")
"""Studies whose checkpoints are kept, or which evaluate kept ones."""
MAIN_JOB = "python experiments/full_blink.py --out results/main_job"
BENCHMARKS = (
    "python experiments/evaluate_benchmark.py --model DIR --benchmark {name} --out results/benchmarks/{name}/seed0.json"
)


def command(study: str) -> str:
    """What makes a study."""
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


def borrowed(results: Sequence[Result], study: str, labels: Mapping[str, str]) -> str:
    """ "; from study leakage, same settings: NTP, forward KL", or nothing where all results are the study's own."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        if result.study != study:
            found.setdefault(result.study, {})[labels.get(result.cell, result.cell.replace(",", ", "))] = None
    return "".join(f"; from study {name}, same settings: {', '.join(cells)}" for name, cells in found.items())


def setting(config: dict[str, Any], dotted: str) -> Any:
    """A setting by its dotted name, None where the configuration has none."""
    value: Any = config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value

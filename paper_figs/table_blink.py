"""BLINK per task: the reported columns, and ours on synthetic BLINK (the same 14 tasks, drawn procedurally)."""

from __future__ import annotations

from typing import Any

import numpy as np

from amvl_model.results import Result
from paper_figs.build import Drawn
from paper_figs.ours import BENCHMARKS, MAIN_JOB
from paper_figs.sources import Sources
from paper_figs.tables import NO_VALUE, NOT_RUN, Column, Table, over_seeds

TITLE = "BLINK per task"
ARMS = {"base": "base", "forward-only": "forward-only", "amvl": "AMVL"}


def draw(sources: Sources) -> Drawn:
    """The table: a row a task, the average last."""
    reported = sources.reported("blink")
    models = [row["model"] for row in reported]
    ours = sources.json("main_job/eval.json", MAIN_JOB)
    real = sources.study("benchmarks", BENCHMARKS.format(name="blink"), cells=("blink",))
    said = [column for column in reported[0] if column not in ("model", "average")]
    per_task = {arm: _per_task(ours[arm]) for arm in ARMS} if ours else {}
    tasks = sorted(set(said) | set(next(iter(per_task.values()), {})))
    rows = [_row(task, reported, task if task in said else None, per_task, real) for task in tasks]
    rows.append(_row("average of all tasks", reported, "average", per_task, real))
    columns = [
        Column("", "task", left=True),
        *(Column("reported", _broken(model) + "\n[%]") for model in models),
        Column("ours,\u00a0BLINK", "AMVL\n[%]"),
        *(Column("ours, synthetic BLINK", f"{name}\n[%]") for name in ARMS.values()),
    ]
    count = next(iter(next(iter(per_task.values())).values()))["n"] if per_task else 0
    notes = [
        "reported: arXiv 2607.00461; a dash: the column was not in our source. Relative to Qwen2.5-VL-7B, Spatial Relation is "
        "said to be 88.81 for both it and AMVL.",
        f"ours, synthetic BLINK: tiny model, likelihood scoring at the prior's mean, {count} held-out questions a task, one run "
        "(seed 0); half-width of the 95 % interval over questions behind ±. Other pictures and another model than BLINK's.",
        "ours, BLINK: an AMVL checkpoint on BLINK itself; not run (needs the 7B weights).",
    ]
    return Table("BLINK per task", columns, rows, notes).drawn()


def _row(
    name: str, reported: list[dict[str, str]], column: str | None, per_task: dict[str, Any], real: list[Result]
) -> list[str]:
    cells = [row[column] if column else NO_VALUE for row in reported]
    metric = "likelihood: mean over tasks" if column == "average" else f"likelihood: {name} alone"
    known = [result for result in real if metric in result.metrics]
    cells.append(over_seeds(known, metric, scale=100.0) if known else NOT_RUN)
    for arm in ARMS:
        found = per_task.get(arm, {}).get(name)
        cells.append(_percent(found) if found else NOT_RUN)
    return [name.replace("_", " "), *cells]


def _per_task(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Accuracy of every task and of their mean, as mean, low, high and n."""
    report = evaluation["accuracy"]["likelihood"]
    found = {}
    for each in report["tasks"] if isinstance(report["tasks"], list) else report["tasks"].values():
        found[each["task"]] = each["accuracy"]
    return found | {"average of all tasks": report["unweighted"]}


def _percent(interval: dict[str, Any]) -> str:
    text = f"{100 * interval['mean']:.1f}"
    if interval["low"] is None:
        return text
    return f"{text} ± {50 * float(np.subtract(interval['high'], interval['low'])):.1f}"


def _broken(model: str) -> str:
    """A model's name on two lines."""
    head, _, tail = model.partition("-") if model.startswith("Qwen") else ("", "", model)
    return f"{head}-\n{tail}" if head else f"\n{tail}".removeprefix("\n")

"""BLINK's tasks, ours on synthetic BLINK: base, forward-only and AMVL, beside what the paper reports on BLINK itself."""

from __future__ import annotations

from typing import Any

from paper_figs.build import Drawn
from paper_figs.ours import MAIN_JOB
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table

TITLE = "BLINK's tasks, ours on synthetic BLINK"
ARMS = {"base": "base", "forward-only": "forward-only", "amvl": "AMVL"}
REPORTED = ("Qwen2.5-VL-7B", "AMVL")
AVERAGE = "average"


def draw(sources: Sources) -> Drawn:
    """The table: a row a task, the average last."""
    reported = {row["model"]: row for row in sources.reported("blink")}
    record = sources.json("main_job/eval.json", MAIN_JOB)
    ours = {arm: per_task(record[arm]) for arm in ARMS} if record else {}
    said = [column for column in reported[REPORTED[0]] if column not in ("model", AVERAGE)]
    tasks = sorted(set(said) | set(next(iter(ours.values()), {})) - {AVERAGE})
    rows = []
    for task in [*tasks, AVERAGE]:
        name = "average of all tasks" if task == AVERAGE else task.replace("_", " ")
        theirs = [reported[model].get(task, NO_VALUE) for model in REPORTED]
        rows.append([name, *theirs, *(percent(ours[arm].get(task)) if ours else NOT_RUN for arm in ARMS)])
    columns = [
        Column("", "task", left=True),
        *(Column("reported, BLINK", f"{model}\n[%]") for model in REPORTED),
        *(Column("ours, synthetic BLINK", f"{name}\n[%]") for name in ARMS.values()),
    ]
    count = next(each["n"] for each in next(iter(ours.values())).values()) if ours else 0
    notes = [
        "reported: arXiv 2607.00461; a dash: not in our source. The average is over the paper's vision-centric tasks.",
        f"ours: tiny model (3 M parameters) on synthetic BLINK, likelihood scoring at the prior's mean, {count or 'no'} held-out "
        "questions a task, one run (seed 0), 95 % interval over questions. Other pictures and another model than the reported "
        "ones: not comparable.",
    ]
    return Table("BLINK's tasks on synthetic BLINK", columns, rows, notes).drawn()


def per_task(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Accuracy of every task and their unweighted mean ("average"), as mean, low, high and n."""
    report = evaluation["accuracy"]["likelihood"]
    return {each["task"]: each["accuracy"] for each in report["tasks"]} | {AVERAGE: report["unweighted"]}


def percent(interval: dict[str, Any] | None) -> str:
    """ "mean [low, high]" in percent."""
    if interval is None:
        return NO_VALUE
    if interval["low"] is None:
        return f"{100 * interval['mean']:.1f}"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * interval[key] for key in ("mean", "low", "high")))

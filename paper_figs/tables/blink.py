"""BLINK per task: the reported columns, and ours on BLINK itself where a checkpoint was evaluated."""

from __future__ import annotations

from paper_figs.build import Drawn
from paper_figs.ours import BENCHMARKS
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table, over_questions

TITLE = "BLINK per task, reported models"
AVERAGE = "average"
_ALONE, _ALL = "likelihood: {task} alone", "likelihood: mean over tasks"


def draw(sources: Sources) -> Drawn:
    """The table: a row a task, the average last."""
    reported = sources.reported("blink")
    real = sources.study("benchmarks", BENCHMARKS.format(name="blink"), cells=("blink",))
    said = [column for column in reported[0] if column not in ("model", AVERAGE)]
    head, tail = _ALONE.split("{task}")
    own = {name.removeprefix(head).removesuffix(tail) for r in real for name in r.metrics if name.endswith(tail)}
    rows = []
    for task in [*sorted(own | set(said)), AVERAGE]:
        metric = _ALL if task == AVERAGE else _ALONE.format(task=task)
        known = [result for result in real if metric in result.metrics]
        ours = over_questions(known, metric) if known else NO_VALUE if real else NOT_RUN
        name = "average of all tasks" if task == AVERAGE else task.replace("_", " ")
        rows.append([name, *(row.get(task, NO_VALUE) for row in reported), ours])
    columns = [
        Column("", "task", left=True),
        *(Column("reported", f"{row['model']}\n[%]") for row in reported),
        Column("ours, BLINK", "AMVL\n[%]"),
    ]
    notes = [
        "reported: arXiv 2607.00461; of the vision-centric tasks only these five columns were in our source, the average is over "
        "all of them. Spatial Relation is said to be 88.81 for both Qwen2.5-VL-7B and AMVL.",
        "ours: an AMVL checkpoint of this project on BLINK's validation split (needs the 7B weights and BLINK); "
        "95 % interval over questions. Baselines trained by our code on synthetic BLINK: table_baselines.",
    ]
    return Table("BLINK per task", columns, rows, notes).drawn()

"""Our counterpart of the perception and BLINK tables: baselines and AMVL on four tasks of synthetic BLINK, five seeds each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from amvl_model.results.files import Result
from amvl_model.studies.declared import EASY_TASKS
from paper_figs.build import Drawn
from paper_figs.ours import ACCURACY, MAIN_JOB, NLL, OUT_ACCURACY, borrowed
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table, over_seeds, seeds_of

TITLE = "baselines and AMVL, task by task, on synthetic BLINK and on its shifted set"
STUDY = "objectives"
ROWS = {
    "sft": "SFT",
    "pause": "pause tokens",
    "elbo": "ELBO",
    "ntp+fwd": "forward-only",
    "amvl": "AMVL",
}
"""Cells of the study and their labels."""


def draw(sources: Sources) -> Drawn:
    """The table: a row a model; the base before any fine-tuning first."""
    results = [result for result in sources.merged(STUDY) if result.cell in ROWS]
    record = sources.json("main_job/eval.json", MAIN_JOB)
    rows = [["tiny base", *(base(record["base"]) if record else [NOT_RUN] * 6), NO_VALUE, NO_VALUE]]
    for cell, label in ROWS.items():
        found = [result for result in results if result.cell == cell]
        rows.append([label, *figures(found), seeds_of(found)])
    columns = [
        Column("", "model", left=True),
        *(Column("accuracy [%]", task.replace("_", "\n")) for task in EASY_TASKS),
        Column("accuracy [%]", "mean"),
        Column("", "answer NLL\n[nats]"),
        Column("", "shifted set\n[%]"),
        Column("", "seeds"),
    ]
    notes = [
        "ours: tiny model (3 M parameters), four tasks of synthetic BLINK, 30 % wrong training labels, 50 held-out questions "
        "a task with clean labels, prior's mean where there are latents. Intervals: 95 %, Student's t over seeds. The base was "
        "trained on clean labels and is not fine-tuned. SFT: supervised fine-tuning; ELBO: a conditional VAE.",
        "shifted set: other light, colours, blur and clutter than any training question, 25 questions a task. "
        f"Study {STUDY}{borrowed(results, STUDY, ROWS)}. Differences: table_differences.",
    ]
    return Table("Baselines and AMVL on synthetic BLINK", columns, rows, notes).drawn()


def base(evaluation: dict[str, Any]) -> list[str]:
    """Accuracy of the four tasks, their mean, and the answer NLL over the questions of these tasks."""
    tasks = {each["task"]: each["accuracy"]["mean"] for each in evaluation["accuracy"]["likelihood"]["tasks"]}
    shown = [100 * tasks[task] for task in EASY_TASKS]
    nll = [q["answer_nll"] for q in evaluation.get("questions", ()) if q["task"] in EASY_TASKS]
    return [*(f"{value:.1f}" for value in (*shown, np.mean(shown))), f"{np.mean(nll):.2f}" if nll else NO_VALUE]


def figures(results: Sequence[Result]) -> list[str]:
    """Accuracy of every task and their mean, NLL, accuracy on the shifted set."""
    if not results:
        return [NOT_RUN] * (len(EASY_TASKS) + 3)
    short = [over_seeds(results, f"accuracy.{task}", scale=100.0, ends=False) for task in EASY_TASKS]
    return [
        *short,
        over_seeds(results, ACCURACY, scale=100.0),
        over_seeds(results, NLL, digits=2),
        over_seeds(results, OUT_ACCURACY, scale=100.0),
    ]

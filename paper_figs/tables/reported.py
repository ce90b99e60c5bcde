"""Perception: V* and HRBench as reported, and ours where a 7B checkpoint was evaluated."""

from __future__ import annotations

from paper_figs.build import Drawn
from paper_figs.ours import BENCHMARKS
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table, over_questions

TITLE = "perception: V* and HRBench"
SETS = {
    "vstar": ("vstar_overall", "V*", "likelihood: mean over questions"),
    "hrbench4k": ("hrbench4k_overall", "HRBench4K", "likelihood: mean over cycles"),
    "hrbench8k": ("hrbench8k_overall", "HRBench8K", "likelihood: mean over cycles"),
}
"""Benchmark -> column of the reported table, heading, metric of our result file."""
OURS = "AMVL"


def draw(sources: Sources) -> Drawn:
    """The table."""
    reported = sources.reported("perception")
    own = {}
    for name, (_, _, metric) in SETS.items():
        found = sources.study("benchmarks", BENCHMARKS.format(name=name), cells=(name,))
        own[name] = over_questions(found, metric) if found else NOT_RUN
    rows = [
        [
            row["model"],
            *(row[column] for column, _, _ in SETS.values()),
            row["mean"],
            *(own.values() if row["model"] == OURS else [NO_VALUE] * len(own)),
        ]
        for row in reported
    ]
    columns = [
        Column("", "model", left=True),
        *(Column("reported", f"{heading}\n[%]") for _, heading, _ in SETS.values()),
        Column("reported", "mean\n[%]"),
        *(Column("ours", f"{heading}\n[%]") for _, heading, _ in SETS.values()),
    ]
    notes = [
        "reported: overall accuracy, arXiv 2607.00461; all models are those of the paper's comparison.",
        "ours: an AMVL checkpoint of this project on the same benchmark, 95 % interval over questions or seeds; it needs the "
        "7B weights, the benchmark and a GPU. Other models were not evaluated by us; baselines trained by our code on synthetic "
        "BLINK: table_baselines.",
    ]
    return Table("Perception", columns, rows, notes).drawn()

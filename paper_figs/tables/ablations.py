"""Objective ablation with both orders: reported on V* and HRBench, ours on synthetic BLINK with the baselines below."""

from __future__ import annotations

from collections.abc import Sequence

from amvl_model.results.files import Result
from paper_figs.build import Drawn
from paper_figs.ours import ACCURACY, LEAK, NLL, SYNTHETIC, borrowed
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table, over_seeds, seeds_of

TITLE = "objective ablation with both orders"
STUDY = "objectives"
ROWS = (
    ("ntp", "", "NTP", "ntp"),
    ("fwd", "", "forward KL", "fwd"),
    ("rev", "", "reverse KL", "rev"),
    ("ntp+fwd", "", "NTP + forward KL", "ntp+fwd"),
    ("ntp+rev", "", "NTP + reverse KL", "ntp+rev"),
    ("ntp+fwd+rev", "reverse-first", "AMVL, reverse-first", "amvl,reverse-first"),
    ("ntp+fwd+rev", "forward-first", "AMVL, forward-first", "amvl"),
    ("ntp+fwd+rev", "simultaneous", "AMVL, both at once", "amvl,simultaneous"),
    ("elbo", "", "ELBO, no stop-gradient", "elbo"),
    ("jeffreys", "", "Jeffreys, no stop-gradient", "jeffreys"),
    ("pause", "", "pause tokens", "pause"),
    ("sft", "", "SFT, no latents", "sft"),
)
"""(objective in the paper's names, order, label, cell of our study)."""
LABELS = {cell: label for *_, label, cell in ROWS}


def draw(sources: Sources) -> Drawn:
    """The table."""
    reported = {(row["objective"], row["order"]): row for row in sources.reported("objective_ablation")}
    results = sources.merged(STUDY)
    rows: list[list[str]] = []
    for name, order, label, cell in ROWS:
        paper = reported.get((name, order))
        said = [paper[each] for each in ("vstar", "hrbench4k", "hrbench8k")] if paper else [NO_VALUE] * 3
        rows.append([label, *said, *figures([result for result in results if result.cell == cell])])
    notes = [
        "reported: accuracy, Qwen2.5-VL-7B, arXiv 2607.00461 (a dash: not in our source).",
        f"{SYNTHETIC} Study {STUDY}{borrowed(results, STUDY, LABELS)}.",
        "leaked: information of the posterior about the answer on held-out questions (none where there is no posterior); "
        "accuracy and NLL with the prior's mean. Paired differences: table_differences.",
    ]
    return Table("Objective ablation with both orders", columns(), rows, notes).drawn()


def columns() -> list[Column]:
    """Reported and ours."""
    return [
        Column("", "objective", left=True),
        Column("reported", "V*\n[%]"),
        Column("reported", "HRBench4K\n[%]"),
        Column("reported", "HRBench8K\n[%]"),
        Column("ours, synthetic BLINK", "accuracy\n[%]"),
        Column("ours, synthetic BLINK", "answer NLL\n[nats]"),
        Column("ours, synthetic BLINK", "leaked\n[nats]"),
        Column("ours, synthetic BLINK", "seeds"),
    ]


def figures(results: Sequence[Result]) -> list[str]:
    """Accuracy, NLL, leaked information, seeds; "not run" without results."""
    if not results:
        return [NOT_RUN, NOT_RUN, NOT_RUN, NO_VALUE]
    return [
        over_seeds(results, ACCURACY, scale=100.0, digits=1),
        over_seeds(results, NLL, digits=2),
        over_seeds(results, LEAK, digits=3),
        seeds_of(results),
    ]

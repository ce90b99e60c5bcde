"""Objective ablation with both orders: reported on V* and HRBench, ours on synthetic BLINK."""

from __future__ import annotations

from collections.abc import Sequence

from amvl_model.results import Result
from paper_figs.build import Drawn
from paper_figs.ours import ACCURACY, LEAK, LEAKAGE, NLL, RUNNER, SYNTHETIC, cells_where, setting
from paper_figs.sources import Sources
from paper_figs.tables import NO_VALUE, NOT_RUN, Column, Table, over_seeds, seeds_of

TITLE = "objective ablation with both orders"
STUDY = "objectives"
ROWS = (
    ("ntp", "", "NTP"),
    ("fwd", "", "forward KL"),
    ("rev", "", "reverse KL"),
    ("ntp+fwd", "", "NTP + forward KL"),
    ("ntp+rev", "", "NTP + reverse KL"),
    ("ntp+fwd+rev", "reverse-first", "AMVL, reverse-first"),
    ("ntp+fwd+rev", "forward-first", "AMVL, forward-first"),
    ("ntp+fwd+rev", "simultaneous", "AMVL, both at once"),
    ("elbo", "", "ELBO, no stop-gradient"),
    ("jeffreys", "", "Jeffreys, no stop-gradient"),
)
"""(objective in the paper's names, order, label)."""
IN_LEAKAGE = {"ntp+fwd+rev": "amvl,gamma=0.001"}
"""Cells of the study leakage that stand in where the study objectives was not run; others have the objective's name."""


def runs(sources: Sources) -> tuple[dict[tuple[str, str], dict[str, list[Result]]], str]:
    """Per row our results by cell, and which study they are from."""
    found: dict[tuple[str, str], dict[str, list[Result]]] = {}
    own = sources.study(STUDY, RUNNER.format(study=STUDY))
    if own:
        for name, order, _ in ROWS:
            wanted = "amvl" if name == "ntp+fwd+rev" else name
            found[name, order] = cells_where(
                own,
                lambda c, wanted=wanted, order=order: (
                    setting(c, "objective.name") == wanted and (not order or setting(c, "objective.order") == order)
                ),
            )
        return found, STUDY
    cells = [IN_LEAKAGE.get(name, name) for name, order, _ in ROWS if order in ("", "forward-first")]
    other = sources.study("leakage", LEAKAGE, cells=cells)
    for name, order, _ in ROWS:
        cell = IN_LEAKAGE.get(name, name)
        if order in ("", "forward-first"):
            found[name, order] = cells_where([r for r in other if r.cell == cell], lambda _: True)
    return found, "leakage"


def draw(sources: Sources) -> Drawn:
    """The table."""
    reported = {(row["objective"], row["order"]): row for row in sources.reported("objective_ablation")}
    found, study = runs(sources)
    rows: list[list[str]] = []
    for name, order, label in ROWS:
        paper = reported.get((name, order))
        said = [paper[each] for each in ("vstar", "hrbench4k", "hrbench8k")] if paper else [NO_VALUE] * 3
        cells = found.get((name, order)) or {}
        if not cells:
            rows.append([label, *said, NOT_RUN, NOT_RUN, NOT_RUN, NO_VALUE])
        for number, (cell, results) in enumerate(cells.items()):
            shown = label if len(cells) == 1 else f"{label} ({cell})"
            rows.append([shown, *(said if number == 0 else [NO_VALUE] * 3), *figures(results)])
    notes = [
        "reported: accuracy, Qwen2.5-VL-7B, arXiv 2607.00461 (a dash: not in our source).",
        f"{SYNTHETIC} Study {study}.",
        "leaked: information of the posterior about the answer on held-out questions; accuracy and NLL with the prior's mean.",
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
    """Accuracy, NLL, leaked information, seeds."""
    return [
        over_seeds(results, ACCURACY, scale=100.0, digits=1),
        over_seeds(results, NLL, digits=2),
        over_seeds(results, LEAK, digits=3),
        seeds_of(results),
    ]

"""Differences between cells, paired by seed, with intervals and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from amvl_model.results.frame import tidy
from amvl_model.results.seeds import paired_differences
from amvl_model.studies.declared import LONG, STUDIES
from paper_figs.build import Drawn
from paper_figs.ours import ACCURACY, LEAK, NLL, OUT_ACCURACY
from paper_figs.sources import Sources
from paper_figs.tables.ablations import LABELS
from paper_figs.tables.table import NO_VALUE, NOT_RUN, SEEDS, drawn, number

LEVEL = 0.05
FEWEST = 5
"""Fewest seeds of a difference with a star."""
METRICS = ((ACCURACY, 100.0, 1), (NLL, 1.0, 3), (LEAK, 1.0, 2), (OUT_ACCURACY, 100.0, 1))
SAMPLED = (
    ("prior_sample.accuracy", 100.0, 1),
    ("prior_sample.answer_nll", 1.0, 3),
    None,
    ("out_of_distribution.prior_sample.accuracy", 100.0, 1),
)
"""(metric, scale, digits) of every column; None where a study lacks the metric."""


@dataclass(frozen=True)
class Family:
    """Comparisons that are corrected together.

    Attributes:
        heading: what is subtracted from what.
        study: of the results.
        pairs: label -> (cell, the cell that is subtracted).
        metrics: of the columns.
    """

    heading: str
    study: str
    pairs: dict[str, tuple[str, str]]
    metrics: Sequence[tuple[str, float, int] | None] = METRICS


def families() -> list[Family]:
    """All comparisons of the table."""
    objectives = {label: (cell, "amvl") for cell, label in LABELS.items() if cell != "amvl"}
    sizes = {cell.replace(",", ", "): (cell, "k=4,d=16") for cell in STUDIES["latents"].cells}
    families = [
        Family("objective − AMVL", "objectives", objectives),
        Family("AMVL, k and d − k=4, d=16", "latents", sizes),
    ]
    for heading, study, key, values, unit in (
        ("steps", "length", "steps", (100, 300, 600), "steps"),
        ("questions", "size", "size", (300, 1500, 6000), "questions"),
    ):
        pairs = {f"{value:,} {unit}": (f"amvl,{key}={value}", f"ntp+fwd,{key}={value}") for value in values}
        families.append(Family(f"AMVL − forward-only, {heading}", study, pairs))
    others = {
        "AMVL, gamma 0.003": "amvl,gamma=0.003",
        **{label: cell for cell, label in LABELS.items() if cell in ("elbo", "pause", "sft")},
    }
    at_600 = {label: (f"{cell},steps={LONG}", f"amvl,steps={LONG}") for label, cell in others.items()}
    families.append(Family(f"objective − AMVL, {LONG} steps", "length", at_600))
    families.append(
        Family("AMVL − forward-only, planned", "stability", {f"{LONG} steps, fresh seeds": ("amvl", "ntp+fwd")})
    )
    for name, label in (("amvl", "AMVL"), ("ntp+fwd", "forward-only"), ("elbo", "ELBO")):
        pairs = {f"temperature {t:g}": (f"{name},t={t:g}", f"{name},t=0") for t in (0.2, 0.5, 1.0, 1.5)}
        families.append(Family(f"{label}, samples − mean", "temperature", pairs, SAMPLED))
    return families


def differences(sources: Sources) -> Drawn:
    """paired differences: objectives, numbers of latents, lengths and sizes of training, the planned test, temperatures"""
    results = {name: tidy(sources.merged(name)) for name in dict.fromkeys(family.study for family in families())}
    rows: list[list[str]] = []
    for family in families():
        rows.append([family.heading, *[""] * (len(METRICS) + 1)])
        rows += compared(family, results[family.study])
    names = (
        "accuracy [points]",
        "answer NLL [nats]",
        "leaked [nats]",
        "shifted-25 (samples: shifted-50), accuracy [points]",
    )
    heads = [("", "comparison"), *(("difference, ours on synthetic BLINK", name) for name in names), SEEDS]
    notes = [
        "Paired by seed (a seed sets weights, data and latent samples); 95 % interval, Student's t, not corrected. "
        f"A star: p < {LEVEL:g} in the paired t test after Holm's correction over the rows under one heading, column by column, "
        "all of which must have all their seeds.",
        "Tiny model (3 M parameters), held-out questions with clean labels, with the prior's mean; samples: latents drawn "
        "from the prior instead. AMVL without more: forward-first. shifted-25 and shifted-50: the shifted set with 25 and 50 "
        "questions a task.",
    ]
    return drawn("Paired differences", pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(heads)), notes)


def compared(family: Family, results: pd.DataFrame) -> list[list[str]]:
    """A row per pair; no stars before every pair has all its seeds: the correction counts every row."""
    pairs = list(family.pairs.values())
    seeds = {cell: {*results.seed[results.cell == cell]} for pair in pairs for cell in pair}
    complete = all(each.issuperset(STUDIES[family.study].seeds) for each in seeds.values())
    tables = [entry and paired_differences(results, entry[0], pairs) for entry in family.metrics]
    rows = []
    for i, (label, pair) in enumerate(family.pairs.items()):
        cells = [NOT_RUN] * len(tables)
        if all(seeds[cell] for cell in pair):
            cells = [
                NO_VALUE if entry is None or table is None else text(table.loc[i], *entry[1:], starred=complete)
                for entry, table in zip(family.metrics, tables, strict=True)
            ]
        count = max(int(table.n[i]) for table in tables if table is not None)
        rows.append([f"  {label}", *cells, str(count or NO_VALUE)])
    return rows


def text(row: pd.Series, scale: float, digits: int, *, starred: bool) -> str:
    """ "+1.2 [-0.3, 2.7]", with a star (if ``starred``) where it is significant after the correction."""
    mean = number(scale * row["mean"], digits, sign=True)
    if row.n < 2:
        return mean
    star = "*" if starred and row.adjusted < LEVEL and row.n >= FEWEST else ""
    return f"{mean} [{number(scale * row.low, digits)}, {number(scale * row.high, digits)}]{star}"

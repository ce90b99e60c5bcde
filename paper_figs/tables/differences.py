"""Differences between cells, paired by seed, with intervals and Holm's correction: what the studies can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amvl_model.results.files import Result
from amvl_model.results.seeds import Difference, paired_differences
from amvl_model.studies.declared import LONG, STUDIES
from paper_figs.build import Drawn
from paper_figs.ours import ACCURACY, LEAK, NLL, OUT_ACCURACY
from paper_figs.sources import Sources
from paper_figs.tables.ablations import LABELS
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table, number

TITLE = (
    "paired differences: objectives, numbers of latents, lengths and sizes of training, the planned test, temperatures"
)
LEVEL = 0.05
FEWEST = 5
"""Seeds below which no difference gets a star."""
METRICS = ((ACCURACY, 100.0, 1), (NLL, 1.0, 3), (LEAK, 1.0, 2), (OUT_ACCURACY, 100.0, 1))
SAMPLED = (
    ("prior_sample.accuracy", 100.0, 1),
    ("prior_sample.answer_nll", 1.0, 3),
    None,
    ("out_of_distribution.prior_sample.accuracy", 100.0, 1),
)
"""(metric, scale, digits) of every column; None where a study has none."""


@dataclass(frozen=True)
class Family:
    """Comparisons that are corrected together.

    Attributes:
        heading: what is subtracted from what.
        study: whose results.
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
    found = [
        Family("objective − AMVL", "objectives", objectives),
        Family("AMVL, k and d − k=4, d=16", "latents", sizes),
    ]
    for heading, study, key, values, unit in (
        ("steps", "length", "steps", (100, 300, 600), "steps"),
        ("questions", "size", "size", (300, 1500, 6000), "questions"),
    ):
        pairs = {f"{value:,} {unit}": (f"amvl,{key}={value}", f"ntp+fwd,{key}={value}") for value in values}
        found.append(Family(f"AMVL − forward-only, {heading}", study, pairs))
    others = {
        "AMVL, gamma 0.003": "amvl,gamma=0.003",
        **{label: cell for cell, label in LABELS.items() if cell in ("elbo", "pause", "sft")},
    }
    at_600 = {label: (f"{cell},steps={LONG}", f"amvl,steps={LONG}") for label, cell in others.items()}
    found.append(Family(f"objective − AMVL, {LONG} steps", "length", at_600))
    found.append(
        Family("AMVL − forward-only, planned", "stability", {f"{LONG} steps, fresh seeds": ("amvl", "ntp+fwd")})
    )
    for name, label in (("amvl", "AMVL"), ("ntp+fwd", "forward-only"), ("elbo", "ELBO")):
        pairs = {f"temperature {t:g}": (f"{name},t={t:g}", f"{name},t=0") for t in (0.2, 0.5, 1.0, 1.5)}
        found.append(Family(f"{label}, samples − mean", "temperature", pairs, SAMPLED))
    return found


def draw(sources: Sources) -> Drawn:
    """The table: a heading and its rows for every family."""
    results = {name: sources.merged(name) for name in dict.fromkeys(family.study for family in families())}
    rows: list[list[str]] = []
    for family in families():
        rows.append([family.heading, *[""] * (len(METRICS) + 1)])
        rows += compared(family, results[family.study])
    columns = [
        Column("", "comparison", left=True),
        Column("difference, ours on synthetic BLINK", "accuracy\n[points]"),
        Column("difference, ours on synthetic BLINK", "answer NLL\n[nats]"),
        Column("difference, ours on synthetic BLINK", "leaked\n[nats]"),
        Column("difference, ours on synthetic BLINK", "shifted set,\naccuracy [points]"),
        Column("", "seeds"),
    ]
    notes = [
        "Paired by seed (a seed sets weights, data and latent samples); 95 % interval, Student's t, not corrected. "
        f"A star: p < {LEVEL:g} in the paired t test after Holm's correction over the rows under one heading, column by column, "
        "all of which must have all their seeds.",
        "Tiny model (3 M parameters), held-out questions with clean labels, with the prior's mean; samples: latents drawn "
        "from the prior instead. AMVL without more: forward-first. Shifted set: 25 questions a task, 50 for the samples.",
    ]
    return Table("Paired differences", columns, rows, notes).drawn()


def compared(family: Family, results: Sequence[Result]) -> list[list[str]]:
    """A row a pair; no stars before every pair has all its seeds: the correction counts every row, and nobody looks early."""
    pairs = list(family.pairs.values())
    seeds_of = {cell: {result.seed for result in results if result.cell == cell} for pair in pairs for cell in pair}
    complete = all(seeds.issuperset(STUDIES[family.study].seeds) for seeds in seeds_of.values())
    found: list[list[Difference | None]] = []
    texts: list[list[str]] = []
    for entry in family.metrics:
        if entry is None:
            texts.append([NO_VALUE] * len(pairs))
            continue
        metric, scale, digits = entry
        found.append(paired_differences(results, metric, pairs))
        texts.append([text(each, scale, digits, starred=complete) for each in found[-1]])
    rows = []
    for i, (label, pair) in enumerate(family.pairs.items()):
        seeds = max((each[i].interval.n for each in found if each[i] is not None), default=0)  # type: ignore[union-attr]
        cells = [column[i] for column in texts] if all(seeds_of[cell] for cell in pair) else [NOT_RUN] * len(texts)
        rows.append([f"  {label}", *cells, str(seeds) if seeds else NO_VALUE])
    return rows


def text(difference: Difference | None, scale: float, digits: int, *, starred: bool) -> str:
    """ "+1.2 [-0.3, 2.7]", with a star (if ``starred``) where it stands after the correction."""
    if difference is None:
        return NO_VALUE
    interval = difference.interval
    mean = number(scale * interval.mean, digits, sign=True)
    if interval.low is None or interval.high is None:
        return mean
    sure = starred and difference.adjusted is not None and difference.adjusted < LEVEL and interval.n >= FEWEST
    star = "*" if sure else ""
    low, high = (number(scale * end, digits) for end in (interval.low, interval.high))
    return f"{mean} [{low}, {high}]{star}"

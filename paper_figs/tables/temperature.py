"""Sampling temperature and the out-of-distribution set: VisualPuzzles as reported, our shifted synthetic BLINK."""

from __future__ import annotations

from collections.abc import Sequence

from amvl_model.results.files import Result
from paper_figs.build import Drawn
from paper_figs.ours import BENCHMARKS, SYNTHETIC, setting
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table, over_questions, over_seeds, seeds_of

TITLE = "sampling temperature and the out-of-distribution set"
STUDY = "temperature"
IN, OUT = "prior_sample.", "out_of_distribution.prior_sample."
"""What the metrics of a run at config.eval.temperature begin with; OUT on the shifted set."""
OBJECTIVES = {"amvl": "AMVL", "ntp+fwd": "forward-only", "elbo": "ELBO"}


def draw(sources: Sources) -> Drawn:
    """The table."""
    reported = {row["temperature"]: row["visualpuzzles"] for row in sources.reported("visualpuzzles_temperature")}
    results = sources.merged(STUDY)
    real = sources.study("benchmarks", BENCHMARKS.format(name="visual-puzzles"), cells=("visual-puzzles",))
    ours: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        temperature = f"{float(setting(result.config, 'eval.temperature')):.1f}"
        name = str(setting(result.config, "objective.name"))
        ours.setdefault(temperature, {}).setdefault(OBJECTIVES.get(name, name), []).append(result)
    names = ["default", *sorted((reported.keys() | ours.keys()) - {"default"}, key=float)]
    rows = []
    for name in names:
        said = reported.get(name, NO_VALUE)
        puzzles = over_questions(real, "likelihood: mean over questions") if real and name == "default" else NOT_RUN
        for label, group in (ours.get(name) or {NO_VALUE: []}).items():
            ran = group or name == "default"  # no run of ours is called so
            figures = [_of(group, part) for start in (IN, OUT) for part in (f"{start}accuracy", f"{start}answer_nll")]
            rows.append([name, label, said, puzzles, *(figures if ran else [NOT_RUN] * 4), seeds_of(group)])
            said = puzzles = NO_VALUE
    columns = [
        Column("", "temperature", left=True),
        Column("", "objective", left=True),
        Column("reported", "VisualPuzzles\n[%]"),
        Column("ours", "VisualPuzzles\n[%]"),
        Column("ours, as trained", "accuracy\n[%]"),
        Column("ours, as trained", "NLL\n[nats]"),
        Column("ours, shifted set", "accuracy\n[%]"),
        Column("ours, shifted set", "NLL\n[nats]"),
        Column("", "seeds"),
    ]
    notes = [
        'reported: accuracy, AMVL on Qwen2.5-VL-7B, arXiv 2607.00461; the paper does not say in our source what "default" is.',
        f"{SYNTHETIC} Latents sampled from the prior at the temperature, averaged over eight draws; 0.0: the prior's mean; "
        "shifted set: synthetic BLINK out of distribution, 50 questions a task. Paired differences: table_differences.",
    ]
    return Table("Sampling temperature and the out-of-distribution set", columns, rows, notes).drawn()


def _of(group: Sequence[Result], metric: str) -> str:
    """Accuracy with its interval over seeds; of the NLL the mean alone, for want of room."""
    if metric.endswith("accuracy"):
        return over_seeds(group, metric, scale=100.0)
    return over_seeds(group, metric, digits=2, ends=False)

"""Sampling temperature and the out-of-distribution set: VisualPuzzles as reported, our shifted synthetic BLINK."""

from __future__ import annotations

from collections.abc import Sequence

from amvl_model.results import Result
from paper_figs.build import Drawn
from paper_figs.ours import BENCHMARKS, RUNNER, SYNTHETIC, setting
from paper_figs.sources import Sources
from paper_figs.tables import NO_VALUE, NOT_RUN, Column, Table, over_questions, over_seeds, seeds_of

TITLE = "sampling temperature and the out-of-distribution set"
STUDY = "temperature"
IN, OUT = "prior_sample.accuracy", "out_of_distribution.prior_sample.accuracy"
"""Metrics of a run at config.eval.temperature; OUT on the shifted set."""


def draw(sources: Sources) -> Drawn:
    """The table."""
    reported = {row["temperature"]: row["visualpuzzles"] for row in sources.reported("visualpuzzles_temperature")}
    results = sources.study(STUDY, RUNNER.format(study=STUDY))
    real = sources.study("benchmarks", BENCHMARKS.format(name="visual-puzzles"), cells=("visual-puzzles",))
    ours: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        temperature = f"{float(setting(result.config, 'eval.temperature')):.1f}"
        ours.setdefault(temperature, {}).setdefault(_objective(result, results), []).append(result)
    names = ["default", *sorted((reported.keys() | ours.keys()) - {"default"}, key=float)]
    rows = []
    for name in names:
        said = reported.get(name, NO_VALUE)
        puzzles = over_questions(real, "likelihood: mean over questions") if real and name == "default" else NOT_RUN
        for label, group in (ours.get(name) or {NO_VALUE: []}).items():
            rows.append([name, label, said, puzzles, _of(group, IN), _of(group, OUT), seeds_of(group)])
            said = puzzles = NO_VALUE
    columns = [
        Column("", "temperature", left=True),
        Column("", "objective", left=True),
        Column("reported", "VisualPuzzles\n[%]"),
        Column("ours", "VisualPuzzles\n[%]"),
        Column("ours, synthetic BLINK", "as trained\n[%]"),
        Column("ours, synthetic BLINK", "shifted\n[%]"),
        Column("ours, synthetic BLINK", "seeds"),
    ]
    notes = [
        'reported: accuracy, AMVL on Qwen2.5-VL-7B, arXiv 2607.00461; the paper does not say in our source what "default" is.',
        f"{SYNTHETIC} Accuracy with latents sampled from the prior at the temperature; shifted: out of distribution.",
    ]
    return Table("Sampling temperature and the out-of-distribution set", columns, rows, notes).drawn()


def _objective(result: Result, results: Sequence[Result]) -> str:
    """The objective's name, or the cell's where several cells of one objective share a temperature."""
    name, temperature = (setting(result.config, each) for each in ("objective.name", "eval.temperature"))
    cells = {
        other.cell
        for other in results
        if (setting(other.config, "objective.name"), setting(other.config, "eval.temperature")) == (name, temperature)
    }
    return str(name) if len(cells) == 1 else result.cell


def _of(group: Sequence[Result], metric: str) -> str:
    known = [result for result in group if metric in result.metrics]
    return over_seeds(known, metric, scale=100.0) if known else NOT_RUN

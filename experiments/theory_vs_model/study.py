"""Reading and writing of the comparison: cells of the study leakage, result files, tables, scores, figure.

Figure of leaked information, spread and shift against gamma: trained checkpoints beside every approximation level.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_model.results.files import Metric, read_result, result_path, write_result
from amvl_model.results.seeds import interval
from amvl_model.studies.declared import STUDIES
from amvl_style import METHODS, look_of, over_seeds, save, styled
from experiments.theory_vs_model.levels.transient import transient_rows
from experiments.theory_vs_model.plan import FLOORS, QUANTITIES, Plan
from experiments.theory_vs_model.predictions import Prediction, trained_figures
from experiments.theory_vs_model.scoring.scores import measured_over_seeds
from experiments.theory_vs_model.scoring.summary import means, report, summarise
from experiments.theory_vs_model.scoring.tables import (
    REFERENCE,
    TRAINED,
    Table,
    as_row,
    merged,
    read_table,
    table_of,
    write_table,
)

STUDY, SOURCE = "prediction", "leakage"
FORWARD_ONLY, POSTERIOR_STD = "ntp+fwd", "held_out.posterior_spread"


def cell_gamma(cell: str) -> float:
    """gamma of a cell of the study leakage, 0 where its objective has no reverse KL.

    Raises:
        ValueError: for a cell that the study does not have.
    """
    cells = STUDIES["leakage"].cells
    if cell not in cells:
        raise ValueError(f"the study leakage has no cell {cell!r}; it has {', '.join(cells)}")
    settings = cells[cell]
    return float(str(settings["objective.gamma"])) if settings["objective.name"] == "amvl" else 0.0


def trained_cells(plan: Plan) -> dict[tuple[float, float], str]:
    """The study's cell per (label noise, gamma) that is compared; gamma 0 is forward-only."""
    cells = {(plan.train_noise, gamma): f"amvl,gamma={gamma:g}" for gamma in plan.gammas}
    cells[plan.train_noise, 0.0] = "ntp+fwd"
    for noise in plan.noises:
        cells[noise, plan.noise_gamma] = f"amvl,gamma={plan.noise_gamma:g},noise={noise:g}"
        cells[noise, 0.0] = f"ntp+fwd,noise={noise:g}"
    return cells


def measure_trained(folder: Path, checkpoints: Path, seed: int, plan: Plan) -> list[str]:
    """Measure the trained checkpoints of a seed that are not measured yet; returns their cells.

    Args:
        folder: of this study's results; <folder>/trained/seed<k>.csv and .json are written or extended.
        checkpoints: the checkpoints, as `checkpoint_folder` finds them. seed, plan: of the comparison.

    Raises:
        ValueError: if the file was measured on other questions.
    """
    target = result_path(folder.parent, folder.name, TRAINED, seed)
    path = target.with_suffix(".csv")
    questions = plan.held_out()
    ids, tasks = tuple(q.id for q in questions), tuple(q.task for q in questions)
    old = read_table(path) if path.is_file() else Table(ids=ids, tasks=tasks, rows={})
    if old.ids != ids:
        raise ValueError(f"{path} was measured on other questions than the plan's {len(ids)}; move {path.parent} away")
    began, new = time.perf_counter(), {}
    for (noise, gamma), cell in trained_cells(plan).items():
        if (noise, TRAINED, gamma, "leak") not in old.rows:
            values = trained_figures(checkpoints, cell, seed, plan, noise)
            if values is not None:
                new[noise, gamma] = values
    if new:
        added = {
            (*key[:1], TRAINED, key[1], name): as_row(v) for key, values in new.items() for name, v in values.items()
        }
        table = Table(ids=ids, tasks=tasks, rows={**old.rows, **added})
        write_table(path, table)
        write_result(
            target,
            study=folder.name,
            cell=TRAINED,
            seed=seed,
            config=plan,
            metrics=means(table, plan),
            wall_seconds=time.perf_counter() - began,
            device="cpu",
            overwrite=True,
        )
    return [trained_cells(plan)[key] for key in new]


def heads_cell(reference: str) -> str:
    """Where the levels that train heads on a reference are checkpoints, apart from the others, which take a tenth of the time."""
    return f"{reference},heads"


def write_prediction(
    target: Path, reference: str, seed: int, prediction: Prediction, plan: Plan, seconds: float
) -> Path:
    """The result file of one reference and seed, and the table of its questions beside it; the folder is the cell."""
    table = table_of(prediction, cell_gamma(reference), plan)
    write_table(target.with_suffix(".csv"), table)
    extra = {name: value for name, value in prediction.response.items() if name != "free_searches"}
    return write_result(
        target,
        study=STUDY,
        cell=target.parent.name,
        seed=seed,
        config=plan,
        metrics=means(table, plan) | _responses(prediction),
        wall_seconds=seconds,
        device="cpu",
        extra={"seconds": prediction.seconds, "head_losses": prediction.head_losses, **_short(extra)},
        overwrite=True,
    )


def _responses(prediction: Prediction) -> dict[str, Metric]:
    """Medians over questions of the reference's response, and how the searches ended."""
    units = {"force_spread": "nats/prior std", "curvature": "nats/prior std^2", "critical_gamma": "per nat"}
    metrics = {}
    for name, unit in units.items():
        if name not in prediction.response:
            continue
        values = [v for v in prediction.response[name] if v is not None]
        metrics[f"reference.{name}"] = Metric(float(np.median(values)) if values else None, unit, n=len(values))
    searches = prediction.response.get("free_searches", [])
    if searches:
        share = float(np.mean([s["converged"] for s in searches]))
        metrics["free.converged"] = Metric(share, "fraction", n=len(searches))
        metrics["free.largest_fall"] = Metric(max(abs(s["fall"]) for s in searches), "nats", n=len(searches))
    return metrics


def _short(values: Mapping[str, object]) -> dict[str, object]:
    """Lists of the questions as one text each, so that a file stays readable."""
    return {name: " ".join(_text(x) for x in v) if isinstance(v, list) else v for name, v in values.items()}


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_tables(folder: Path, reference: str) -> dict[int, Table]:
    """Per seed, the table of a reference, joined with those of its trained heads and of its seed's trained checkpoints.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if they are about different questions.
    """
    tables = {}
    for path in sorted((folder / reference).glob("seed*.csv")):
        match = re.fullmatch(r"seed(\d+)", path.stem)
        if match:
            table = read_table(path)
            for further in (folder / heads_cell(reference) / path.name, folder / TRAINED / path.name):
                if further.is_file():
                    table = merged(table, read_table(further))
            table = _with_transient(table, folder.parent / SOURCE, reference, int(match[1]))
            tables[int(match[1])] = table
    if not tables:
        raise FileNotFoundError(
            f"no predictions in {folder / reference}; run experiments/theory_vs_checkpoints.py --checkpoints DIR first"
        )
    return tables


def _with_transient(table: Table, source: Path, reference: str, seed: int) -> Table:
    """The table with T10's levels, where the reference has a gamma and a leak, and the study leakage the runs that they read."""
    plan, paths = Plan(), [source / cell / f"seed{seed}.json" for cell in (FORWARD_ONLY, reference)]
    if reference == FORWARD_ONLY or not all(path.is_file() for path in paths):
        return table
    if table.get(plan.train_noise, REFERENCE, cell_gamma(reference), "leak") is None:
        return table
    first, own = (float(read_result(path).value(POSTERIOR_STD) or 0.0) for path in paths)
    rows = transient_rows(table, cell_gamma(reference), (first, own), plan.gammas, plan.train_noise)
    return replace(table, rows={**table.rows, **rows})


def score(folder: Path, references: Sequence[str], plan: Plan) -> str:
    """Score every reference, write <reference>,scores/seed0.json and prediction.png; returns the reports.

    Raises:
        FileNotFoundError: if a reference has no predictions.
    """
    tables = {reference: read_tables(folder, reference) for reference in references}
    texts = []
    for reference, seeds in tables.items():
        metrics = summarise(seeds, cell_gamma(reference), plan)
        write_result(
            result_path(folder.parent, folder.name, f"{reference},scores", 0),
            study=folder.name,
            cell=f"{reference},scores",
            seed=0,
            config={"plan": plan, "reference": reference, "seeds": sorted(seeds)},
            metrics=metrics,
            wall_seconds=None,
            device="cpu",
            overwrite=True,
        )
        texts.append(report(metrics, seeds, plan, reference))
    image = save(draw(tables, plan), folder / "prediction.png", dpi=130)
    return "\n\n".join([*texts, f"image: {image}"])


TITLES = {
    "leak": "leaked information",
    "spread": "spread of posterior means",
    "shift": "shift from the prior mean",
}
FAMILIES = {
    "theorems (closed form)": look_of(0),
    "likelihoods solved numerically": look_of(1),
    "heads trained on the frozen reference": look_of(2),
    "T10's transient": look_of(3),
}
"""Families of approximation levels, and their looks."""


def family(level: str) -> str:
    """The family of an approximation level."""
    return list(FAMILIES)[3 if level.startswith("T10") else 2 if "head" in level else 0 if level.startswith("T") else 1]


def draw(
    tables: Mapping[str, Mapping[int, Table]],
    plan: Plan,
    quantities: Sequence[str] = tuple(TITLES),
    *,
    width: float = 9.0,
) -> Figure:
    """A row per reference, a column per quantity; both axes logarithmic.

    Args:
        tables: per reference cell, per seed.
        plan: of the predictions.
        quantities: to show, of `TITLES`.
        width: inches.
    """
    with styled():
        page = Figure(figsize=(width, 0.28 * width * len(tables) + 0.9))
        axes = page.subplots(len(tables), len(quantities), sharex=True, sharey="col", squeeze=False)
        for line, (reference, seeds) in zip(axes, tables.items(), strict=True):
            for ax, quantity in zip(line, quantities, strict=True):
                draw_quantity(ax, seeds, quantity, plan)
                ax.set_ylabel(f"{TITLES[quantity]}\nmean over seeds [{QUANTITIES[quantity]}]")
            line[0].set_title(f"predicted from {reference}")
        for ax in axes[-1]:
            ax.set_xlabel("weight of the reverse KL, γ [1]")
        page.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return page


def draw_quantity(ax: Axes, tables: Mapping[int, Table], quantity: str, plan: Plan) -> Axes:
    """One panel of arithmetic means over seeds: a family's levels as thin lines of one colour and their range as a band; trained
    checkpoints with intervals, and every seed."""

    def means_at(level: str, gammas: Iterable[float]) -> dict[float, np.ndarray]:
        values = {g: measured_over_seeds(tables, level, quantity, g, plan.train_noise) for g in gammas}
        return {gamma: each for gamma, each in values.items() if len(each)}

    levels = dict.fromkeys(name for table in tables.values() for name in table.levels() if name != TRAINED)
    for name, shown in FAMILIES.items():
        lines = [means_at(level, plan.all_gammas) for level in levels if family(level) == name]
        points = [{g: max(float(each.mean()), FLOORS[quantity]) for g, each in line.items()} for line in lines if line]
        if not points:
            continue
        for line in points:
            single = {"marker": shown.marker, "ms": 3, "label": "a level at one γ"} if len(line) == 1 else {}
            ax.plot(*zip(*line.items(), strict=True), color=shown.colour, ls=shown.line, lw=0.7, **single)
        gammas = np.unique([gamma for line in points for gamma in line])
        ends = np.array([_between(line, gammas) for line in points])
        label = f"{name}: {len(points)} levels and their range"
        ax.fill_between(
            gammas, np.nanmin(ends, 0), np.nanmax(ends, 0), color=shown.colour, alpha=0.3, lw=0, label=label
        )
    trained = means_at(TRAINED, plan.gammas)
    if trained:
        amvl = replace(METHODS["amvl"], label="trained at that γ (95 % over seeds)")
        over_seeds(ax, {amvl.label: trained}, [amvl], interval, log=True)
    ax.set(xscale="log", yscale="log")
    ax.set_ylim(0.7 * FLOORS[quantity], max(1.5 * ax.dataLim.y1, ax.get_ylim()[1]))
    return ax


def _between(line: Mapping[float, float], gammas: np.ndarray) -> np.ndarray:
    """A line's values at all gammas, straight on logarithmic axes between its own; NaN beyond its ends."""
    places, values = np.log([*line]), np.log([*line.values()])
    return np.exp(np.interp(np.log(gammas), places, values, left=np.nan, right=np.nan))

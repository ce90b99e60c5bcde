"""Reading and writing of the comparison: which cells of the study leakage are held out, result files, tables, scores, figure.

Leaked information and posterior spread against gamma: trained checkpoints beside every rung of the ladder.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_model.results.files import Metric, result_path, write_result
from amvl_model.studies.declared import STUDIES
from experiments.theory_vs_model.ladder import Climb, trained_figures
from experiments.theory_vs_model.plan import FLOORS, QUANTITIES, Plan
from experiments.theory_vs_model.scores import means, measured_over_seeds, report, summarise
from experiments.theory_vs_model.tables import TRAINED, Table, as_row, merged, read_table, table_of, write_table

STUDY = "prediction"


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
    wanted = {(plan.train_noise, gamma): f"amvl,gamma={gamma:g}" for gamma in plan.gammas}
    wanted[plan.train_noise, 0.0] = "ntp+fwd"
    for noise in plan.noises:
        wanted[noise, plan.noise_gamma] = f"amvl,gamma={plan.noise_gamma:g},noise={noise:g}"
        wanted[noise, 0.0] = f"ntp+fwd,noise={noise:g}"
    return wanted


def measure_trained(folder: Path, kept: Path, seed: int, plan: Plan) -> list[str]:
    """Measure the trained checkpoints of a seed that are there and not measured yet; returns their cells.

    Args:
        folder: of this study's results; <folder>/trained/seed<k>.csv and .json are written or extended.
        kept: the checkpoints, as `checkpoint_folder` finds them. seed, plan: of the comparison.

    Raises:
        ValueError: if the file there was measured on other questions.
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
            values = trained_figures(kept, cell, seed, plan, noise)
            if values is not None:
                new[noise, gamma] = values
    if new:
        added = {(*key[:1], TRAINED, key[1], name): as_row(v) for key, each in new.items() for name, v in each.items()}
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
    """Where the rungs that train heads on a reference are kept, apart from the others, which take a tenth of the time."""
    return f"{reference},heads"


def write_climb(target: Path, reference: str, seed: int, climb: Climb, plan: Plan, seconds: float) -> Path:
    """The result file of one reference and seed, and the table of its questions beside it; the folder is the cell."""
    table = table_of(climb, cell_gamma(reference), plan)
    write_table(target.with_suffix(".csv"), table)
    extra = {name: value for name, value in climb.response.items() if name != "free_searches"}
    return write_result(
        target,
        study=STUDY,
        cell=target.parent.name,
        seed=seed,
        config=plan,
        metrics=means(table, plan) | _responses(climb),
        wall_seconds=seconds,
        device="cpu",
        extra={"seconds": climb.seconds, "head_losses": climb.head_losses, **_short(extra)},
        overwrite=True,
    )


def _responses(climb: Climb) -> dict[str, Metric]:
    """Medians over questions of the reference's response, and how the searches ended."""
    import numpy as np

    units = {"force_spread": "nats/prior std", "curvature": "nats/prior std^2", "critical_gamma": "per nat"}
    found = {}
    for name, unit in units.items():
        if name not in climb.response:
            continue
        values = [v for v in climb.response[name] if v is not None]
        found[f"reference.{name}"] = Metric(float(np.median(values)) if values else None, unit, n=len(values))
    searches = climb.response.get("free_searches", [])
    if searches:
        share = float(np.mean([s["converged"] for s in searches]))
        found["free.converged"] = Metric(share, "fraction", n=len(searches))
        found["free.largest_fall"] = Metric(max(abs(s["fall"]) for s in searches), "nats", n=len(searches))
    return found


def _short(values: Mapping[str, object]) -> dict[str, object]:
    """Lists of the questions as one text each, so that a file stays readable."""
    return {name: " ".join(_text(x) for x in v) if isinstance(v, list) else v for name, v in values.items()}


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_tables(folder: Path, reference: str) -> dict[int, Table]:
    """Per seed, the table of a reference, with its trained heads and what its seed's trained checkpoints show.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if they are about different questions.
    """
    found = {}
    for path in sorted((folder / reference).glob("seed*.csv")):
        match = re.fullmatch(r"seed(\d+)", path.stem)
        if match:
            table = read_table(path)
            for further in (folder / heads_cell(reference) / path.name, folder / TRAINED / path.name):
                if further.is_file():
                    table = merged(table, read_table(further))
            found[int(match[1])] = table
    if not found:
        raise FileNotFoundError(
            f"no predictions in {folder / reference}; run experiments/theory_vs_checkpoints.py --checkpoints DIR first"
        )
    return found


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
    picture = folder / "prediction.png"
    draw(tables, plan).savefig(picture, dpi=84)
    return "\n\n".join([*texts, f"picture: {picture}"])


# Okabe-Ito; dashes and markers tell the rungs apart without colour
STYLES: dict[str, tuple[str, str, str]] = {
    "T4": ("#56B4E9", ":", "v"),
    "T6 held": ("#0072B2", "-", "s"),
    "T6 moving": ("#CC79A7", "--", "P"),
    "T6 letter": ("#0072B2", ":", "x"),
    "softmax": ("#009E73", "-", "^"),
    "softmax letter": ("#009E73", ":", "+"),
    "free": ("#D55E00", "-", "D"),
    "head untrained": ("#999999", ":", ""),
    "both heads untrained": ("#999999", "--", ""),
    "head 300": ("#882255", "--", "*"),
    "both heads 300": ("#E69F00", "-", "h"),
}
OTHERS = (("#E69F00", ":", "*"), ("#E69F00", "-.", "<"))
TITLES = {
    "leak": "leaked information",
    "spread": "spread of options' posterior means",
    "shift": "shift from the prior mean",
}


def draw(tables: Mapping[str, Mapping[int, Table]], plan: Plan) -> Figure:
    """A row per reference, a column per quantity; both axes logarithmic.

    Args:
        tables: per reference cell, per seed. plan: of the climbs.
    """
    page = Figure(figsize=(16.4, 4.3 * len(tables) + 0.3), layout="constrained")
    axes = np.atleast_2d(np.array(page.subplots(len(tables), len(TITLES))))
    for row, (reference, seeds) in zip(axes, tables.items(), strict=True):
        for ax, quantity in zip(row, TITLES, strict=True):
            draw_quantity(ax, seeds, quantity, plan)
            ax.set_title(f"predicted from {reference}", fontsize=10)
        lines, labels = row[0].get_legend_handles_labels()
        row[-1].legend(lines, labels, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return page


def draw_quantity(ax: Axes, tables: Mapping[int, Table], quantity: str, plan: Plan) -> Axes:
    """One panel: geometric means over seeds of every rung; trained checkpoints as every seed and their geometric mean."""
    rungs = list(dict.fromkeys(name for table in tables.values() for name in table.rungs()))
    others = cycle(OTHERS)
    for rung in rungs:
        colour, dash, marker = STYLES.get(rung) or next(others)
        line = [
            (gamma, _geometric(values, quantity))
            for gamma in plan.all_gammas
            if len(values := measured_over_seeds(tables, rung, quantity, gamma, plan.train_noise))
        ]
        if line:
            ax.plot(*zip(*line, strict=True), color=colour, ls=dash, marker=marker, ms=5, lw=1.3, label=_label(rung))
    trained = [
        (gamma, values)
        for gamma in plan.gammas
        if len(values := measured_over_seeds(tables, TRAINED, quantity, gamma, plan.train_noise))
    ]
    for gamma, values in trained:
        ax.scatter([gamma] * len(values), np.maximum(values, FLOORS[quantity]), s=12, color="black", alpha=0.35, lw=0)
    if trained:
        ends = [_log_interval(values, quantity) for _, values in trained]
        means = [_geometric(values, quantity) for _, values in trained]
        bars = np.abs(np.array(ends).T - np.array(means))
        ax.errorbar(
            [gamma for gamma, _ in trained],
            means,
            yerr=bars,
            color="black",
            marker="o",
            ms=6,
            lw=1.8,
            capsize=3,
            label="trained at that gamma (95 % over seeds)",
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("gamma, weight of the reverse KL [per nat]")
    ax.set_ylabel(f"{TITLES[quantity]} [{QUANTITIES[quantity]}]")
    ax.set_ylim(bottom=0.7 * FLOORS[quantity])
    return ax


def _label(rung: str) -> str:
    """Name of a rung in the legend."""
    match = re.fullmatch(r"(both heads|head) (\+?)(\d+)", rung)
    if match is None:
        return {"head untrained": "posterior head untrained"}.get(rung, rung)
    heads = "both heads" if match[1] == "both heads" else "posterior head alone"
    return f"{heads}, {match[3]} steps{' more' if match[2] else ''}"


def _geometric(values: np.ndarray, quantity: str) -> float:
    return float(np.exp(np.log(np.maximum(values, FLOORS[quantity])).mean()))


def _log_interval(values: np.ndarray, quantity: str) -> tuple[float, float]:
    """Student t over seeds of the logarithm, as figures."""
    from amvl_model.results.seeds import interval

    low, high = interval(np.log(np.maximum(values, FLOORS[quantity])))
    return float(np.exp(low)), float(np.exp(high))

"""Runs the cells of a study in processes of one CPU thread each, and writes their results in the one schema."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from amvl_model import submission
from amvl_model.config import RunConfig, load_preset
from amvl_model.results import Metric, result_path, write_result
from amvl_model.studies import STUDIES, Study


def run_study(
    study: Study,
    out: Path,
    *,
    seeds: Sequence[int] | None = None,
    cells: Sequence[str] | None = None,
    workers: int = 1,
    keep: Path | None = None,
    cluster: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Run what is missing; returns the names of the runs that failed (their errors are printed, the others go on).

    With ``keep`` every run's checkpoint is saved in <keep>/<study>/<cell>/seed<k>/checkpoint. With ``cluster`` (and its
    ``options``) the runs are jobs of submitit, as `amvl_model.submission.submit_runs` takes them.

    Raises:
        ValueError: for a cell that the study does not have.
    """
    from tqdm import tqdm

    unknown = [name for name in cells or () if name not in study.cells]
    if unknown:
        raise ValueError(f"study {study.name} has no cell {unknown[0]!r}; it has {', '.join(study.cells)}")
    # seed by seed, so that an interrupted study has whole comparisons
    todo = [
        (cell, seed)
        for seed in (study.seeds if seeds is None else seeds)
        for cell in (cells or study.cells)
        if not result_path(out, study.name, cell, seed).exists()
    ]
    if cluster is not None:
        out, keep = out.resolve(), None if keep is None else keep.resolve()
        runs = {f"{cell}/seed{seed}": (study.name, cell, seed, out, keep) for cell, seed in todo}
        logs = out / study.name / "jobs"
        wrong = submission.submit_runs(runs, run_cell, logs, cluster=cluster, at_once=workers, options=options)
        submission.tell(wrong)
        return list(wrong)
    failed = []
    with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(run_cell, study.name, cell, seed, out, keep): f"{cell}/seed{seed}" for cell, seed in todo}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc=study.name, unit="run"):
            try:
                job.result()
            except Exception:  # one run's failure is reported and must not end the others
                failed.append(jobs[job])
                print(f"\n{jobs[job]} failed:\n{traceback.format_exc()}", file=sys.stderr)
    return failed


def cell_config(study: Study, cell: str, seed: int) -> RunConfig:
    """Complete configuration of one run; the seed sets weights, data and latent samples."""
    settings = {**study.common, **study.cells[cell], "train.seed": seed, "data.seed": seed}
    return load_preset(study.preset, settings)


def run_cell(study_name: str, cell: str, seed: int, out: Path, keep: Path | None = None) -> Path:
    """Train and measure one run in this process; writes the result file (the checkpoint first) and returns its path."""
    import torch

    from amvl_model.data.sources import evaluation_questions, training_questions
    from amvl_model.run import measure, save_checkpoint, train

    torch.set_num_threads(1)
    study, began = STUDIES[study_name], time.perf_counter()
    config = cell_config(study, cell, seed)
    asked = training_questions(config.data)
    with tempfile.TemporaryDirectory() as folder:
        model, processor = train(config, Path(folder) / "run", questions=asked, save=False, quiet=True)
    if keep is not None:
        save_checkpoint(model, processor, keep / study.name / cell / f"seed{seed}" / "checkpoint")
    measured = measure(
        model, processor, config, evaluation_questions(config.data), asked, scoring=("likelihood",), progress=False
    )
    return write_result(
        result_path(out, study.name, cell, seed),
        study=study.name,
        cell=cell,
        seed=seed,
        config=config,
        metrics=flatten(measured),
        wall_seconds=time.perf_counter() - began,
        device="cpu, 1 thread",
    )


def flatten(measured: Any) -> dict[str, Metric]:
    """The figures of a `Measurement` by dotted name, with units and intervals."""
    from amvl_model.reporting import figures

    return figures(measured.to_dict())


def draw_study(study: Study, out: Path) -> str:
    """Draw the study's picture beside its results, or write its table; returns what was written and what it says.

    Raises:
        FileNotFoundError: if there are no results.
    """
    from amvl_model.results import read_study

    results = read_study(out / study.name)
    if study.name != "pareto":
        from amvl_model.study_table import table

        there = {result.cell for result in results}
        first = next((cell for cell in study.cells if cell in there), None)
        text = table(results, cells=list(study.cells), against=first)
        (out / study.name / "table.txt").write_text(text + "\n", encoding="utf-8")
        return f"{text}\ntable: {out / study.name / 'table.txt'}"
    from amvl_model.pareto import draw, verdict

    path = out / study.name / f"{study.name}.png"
    draw(results).savefig(path, dpi=150)
    return f"{verdict(results)}\npicture: {path}"

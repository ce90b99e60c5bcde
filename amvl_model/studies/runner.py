"""Runs the cells of a study in processes of one CPU thread each, and writes their results in the one schema.

Studies as jobs of submitit: on this machine, or on a SLURM cluster, with the same runs and the same result files.

    python experiments/ablations.py pareto --submit local                            # this machine, --workers jobs at a time
    python experiments/ablations.py pareto --submit slurm --slurm partition=gpu gpus_per_node=1 time=120

Needs `pip install submitit`. Every job is one run (`amvl_model.studies.runner.run_cell`); what has a result file is not
submitted, so the same command goes on after an interruption. The folder of the results has to be one that the jobs see too.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from amvl_model.config import RunConfig, load_preset
from amvl_model.results.files import Metric, Result, read_result, read_study, result_path, write_result
from amvl_model.studies.declared import STUDIES, Study
from amvl_model.studies.saved import checkpoint_folder, load_saved


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
    ``options``) the runs are jobs of submitit, as `amvl_model.studies.runner.submit_runs` takes them.

    Raises:
        ValueError: for a cell that the study does not have, or a study that evaluates checkpoints and no folder of them.
        FileNotFoundError: if a checkpoint that is to be evaluated is not there; the message says which commands make them.
        RunStopped: a SystemExit, after SIGTERM or Ctrl-C; the workers have ended by then.
    """
    from tqdm import tqdm

    unknown = [name for name in cells or () if name not in study.cells]
    if unknown:
        raise ValueError(f"study {study.name} has no cell {unknown[0]!r}; it has {', '.join(study.cells)}")
    todo = [run for run in _runs(study, cells, seeds) if not result_path(out, study.name, *run).exists()]
    _check_checkpoints(study, todo, keep)
    if cluster is not None:
        out, keep = out.resolve(), None if keep is None else keep.resolve()
    run: Callable[..., Any] = run_cell
    runs: dict[str, tuple[Any, ...]] = {
        f"{cell}/seed{seed}": (study.name, cell, seed, out, keep) for cell, seed in todo
    }
    if study.bases:
        from amvl_model.studies.laboratory.study import run_seed as run

        # a run is a seed: its arms share a warm-up
        missing = {seed: tuple(cell for cell, other in todo if other == seed) for _, seed in todo}
        runs = {f"seed{seed}": (study.name, seed, names, out, keep) for seed, names in missing.items()}
    if cluster is not None:
        logs = out / study.name / "jobs"
        wrong = submit_runs(runs, run, logs, cluster=cluster, at_once=workers, options=options)
        tell(wrong)
        return list(wrong)
    from amvl_model.studies.pool import worker_pool  # imports torch, which reading results does not need

    failed = []
    with worker_pool(workers) as pool:
        jobs = {pool.submit(run, *arguments): name for name, arguments in runs.items()}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc=study.name, unit="run"):
            try:
                job.result()
            except Exception:  # one run's failure is reported and must not end the others
                failed.append(jobs[job])
                print(f"\n{jobs[job]} failed:\n{traceback.format_exc()}", file=sys.stderr)
    return failed


def _runs(study: Study, cells: Sequence[str] | None, seeds: Sequence[int] | None) -> list[tuple[str, int]]:
    """Cell and seed of every run, in their order."""
    chosen = cells or [*study.cells]
    if not study.cell_seeds:  # seed by seed, so that an interrupted study has whole comparisons
        return [(cell, seed) for seed in (study.seeds if seeds is None else seeds) for cell in chosen]
    runs = [(c, s) for c in chosen for s in study.cell_seeds[c] if seeds is None or s in seeds]
    if unknown := {*(seeds or ())} - {seed for _, seed in runs}:
        own = "; ".join(f"{c}: {study.cell_seeds[c][0]} to {study.cell_seeds[c][-1]}" for c in chosen)
        raise ValueError(f"study {study.name}: seed {min(unknown)} belongs to none of the chosen cells ({own})")
    return runs


def _check_checkpoints(study: Study, todo: Sequence[tuple[str, int]], keep: Path | None) -> None:
    wanted = list(dict.fromkeys((*study.checkpoints[cell], seed) for cell, seed in todo if cell in study.checkpoints))
    if wanted and keep is None:
        raise ValueError(
            f"study {study.name} evaluates saved checkpoints: give the folder that contains them with --keep, or make them "
            f"with `python experiments/ablations.py {wanted[0][0]} --keep runs`"
        )
    missing = [item for item in wanted if keep is not None and not checkpoint_folder(keep, *item).is_dir()]
    if missing:
        source = missing[0][0]
        cells = " ".join(dict.fromkeys(cell for name, cell, _ in missing if name == source))
        seeds = " ".join(str(seed) for seed in sorted({seed for name, _, seed in missing if name == source}))
        raise FileNotFoundError(
            f"study {study.name} evaluates saved checkpoints, and {len(missing)} of {len(wanted)} are not in {keep}, the first "
            f"being {checkpoint_folder(Path(), *missing[0])}; make them with `python experiments/ablations.py {source} --cells "
            f"{cells} --seeds {seeds} --keep {keep}` (a run whose result is there already is skipped and keeps nothing: give "
            "that command another --out), or choose --cells and --seeds"
        )


def cell_config(study: Study, cell: str, seed: int) -> RunConfig:
    """Complete configuration of one run; the seed sets weights, data and latent samples."""
    settings = {**study.common, **study.cells[cell], "train.seed": seed, "data.seed": seed}
    return load_preset(study.preset, settings)


def run_cell(study_name: str, cell: str, seed: int, out: Path, keep: Path | None = None) -> Path:
    """Make one run in this process; writes the result file (of a trained run the checkpoint first) and returns its path."""
    import torch

    torch.set_num_threads(1)
    study, began = STUDIES[study_name], time.perf_counter()
    config = cell_config(study, cell, seed)
    extra: dict[str, Any] = {}
    if cell in study.checkpoints:
        _check_checkpoints(study, [(cell, seed)], keep)
        assert keep is not None
        metrics, extra = _evaluated(config, keep, (*study.checkpoints[cell], seed), study.measures)
    else:
        folder = None if keep is None else checkpoint_folder(keep, study.name, cell, seed)
        metrics, extra = _trained(config, folder, study.measures, out / study.name / "stopped" / f"{cell}-seed{seed}")
    return write_result(
        result_path(out, study.name, cell, seed),
        study=study.name,
        cell=cell,
        seed=seed,
        config=config,
        metrics=metrics,
        wall_seconds=time.perf_counter() - began,
        device="cpu, 1 thread",
        extra=extra,
    )


def _trained(
    config: RunConfig, checkpoint: Path | None, measures: Sequence[str], stopped: Path
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Train, keep the checkpoint (with its config.json beside it) where a folder is given, and measure.

    Where the study names its measures, the probes that training logged are returned too. The folder of a run that a
    non-finite number stopped is moved to ``stopped``.
    """
    from amvl_model.data.sources import evaluation_questions, training_questions
    from amvl_model.diagnostics.reading.forecast import PREFIX, log_lines
    from amvl_model.models.checkpoints import NonFiniteError
    from amvl_model.models.loading import save_checkpoint
    from amvl_model.studies.measurement import MEASURES, answer_direction, measure, out_of_distribution
    from amvl_model.training.run import train

    training_set, held_out = training_questions(config.data), evaluation_questions(config.data)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        try:
            model, processor = train(config, run, questions=training_set, save=False, quiet=True)
        except NonFiniteError as error:
            shutil.rmtree(stopped, ignore_errors=True)
            shutil.copytree(run, stopped)
            raise NonFiniteError(str(error).replace(str(run), str(stopped))) from error
        lines = log_lines(run)
    if checkpoint is not None:
        save_checkpoint(model, processor, checkpoint)
        (checkpoint.parent / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    if measures:
        named = [MEASURES[name](model, processor, config) for name in measures]
        probes = [{k: v for k, v in row.items() if k == "step" or k.startswith(PREFIX)} for row in lines]
        return {name: metric for each in named for name, metric in each.items()}, {
            "probes": [row for row in probes if len(row) > 1]
        }
    measured = measure(model, processor, config, held_out, training_set, scoring=("likelihood",), progress=False)
    metrics = flatten(measured) | out_of_distribution(model, processor, config)
    return metrics | answer_direction(model, processor, config), {}


def _evaluated(
    config: RunConfig, keep: Path, source: tuple[str, str, int], measures: Sequence[str]
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """The measures of a saved checkpoint, and which checkpoint it was."""
    from amvl_model.studies.measurement import MEASURES

    model, processor, which = load_saved(keep, *source)
    metrics: dict[str, Metric] = {}
    for name in measures:
        metrics |= MEASURES[name](model, processor, config)
    return metrics, which


def flatten(measured: Any) -> dict[str, Metric]:
    """The figures of a `Measurement` by dotted name, with units and intervals."""
    from amvl_model.studies.summary import figures

    return figures(measured.to_dict())


def study_results(study: Study, out: Path) -> list[Result]:
    """All results of a study by its own cells' names; where a cell has none, those of its stand-in.

    Raises:
        FileNotFoundError: if there are none at all.
        ResultError: if a file is unreadable.
    """
    borrowed = [replace(result, cell=cell) for cell, result in stand_ins(study, out)]
    if borrowed and not any((out / study.name).glob("*/seed*.json")):
        return borrowed
    return [*read_study(out / study.name), *borrowed]


def stand_ins(study: Study, out: Path) -> list[tuple[str, Result]]:
    """The results that stand in for cells without any of their own: (cell of this study, result as it was written)."""
    outcome = []
    for cell, (other, name) in study.stand_ins.items():
        if not any((out / study.name / cell).glob("seed*.json")):
            outcome += [(cell, result) for result in _results_of(other, name, out)]
    return outcome


def _results_of(study: str, cell: str, out: Path) -> list[Result]:
    """Results of one cell, or of what stands in for it."""
    paths = sorted((out / study / cell).glob("seed*.json"))
    if not paths and cell in STUDIES[study].stand_ins:
        return _results_of(*STUDIES[study].stand_ins[cell], out)
    return [read_result(path) for path in paths]


def draw_study(study: Study, out: Path) -> str:
    """Draw the study's image beside its results, or write its table; returns what was written and what it says.

    Raises:
        FileNotFoundError: if there are no results.
    """
    results = study_results(study, out)
    if study.bases:
        from amvl_model.studies.laboratory.analysis import report

        main, compared = STUDIES["laboratory"], []
        if study != main and not study.checkpoints and (out / main.name).is_dir():
            compared = study_results(main, out)
        text = report(results, study.all_cells, compared)
        (out / study.name / "table.txt").write_text(text + "\n", encoding="utf-8")
        return f"{text}\ntable: {out / study.name / 'table.txt'}"
    if study.name != "pareto":
        from amvl_model.results.frame import tidy
        from amvl_model.results.seeds import CHECKPOINT_COLUMNS, COLUMNS, table

        there = {result.cell for result in results}
        first = next((cell for cell in (study.reference, *study.all_cells) if cell in there), None)
        columns = CHECKPOINT_COLUMNS.get(study.measures[0], COLUMNS) if study.checkpoints else COLUMNS
        text = table(tidy(results), cells=list(study.all_cells), against=first, columns=columns)
        if borrowed := sorted({f"{result.study}/{result.cell}" for _, result in stand_ins(study, out)}):
            text += f"\nfrom other studies, same settings: {', '.join(borrowed)}"
        (out / study.name / "table.txt").write_text(text + "\n", encoding="utf-8")
        return f"{text}\ntable: {out / study.name / 'table.txt'}"
    from amvl_model.studies.pareto import draw, verdict
    from amvl_style import save

    path = out / study.name / f"{study.name}.png"
    save(draw(results), path, dpi=150)
    return f"{verdict(results)}\nimage: {path}"


CLUSTERS = ("local", "slurm")
_MINUTES = 24 * 60


def slurm_options(texts: Sequence[str]) -> dict[str, Any]:
    """``["partition=gpu", "gpus_per_node=1"]`` as submitit's ``slurm_partition="gpu", slurm_gpus_per_node=1``.

    Raises:
        ValueError: for a text that is no key=value.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise ValueError(f"--slurm: expected key=value, for example partition=gpu, got {text!r}")
        options[f"slurm_{key.removeprefix('slurm_')}"] = int(value) if value.isdigit() else value
    return options


def submit_runs(
    runs: Mapping[str, tuple[Any, ...]],
    function: Callable[..., Any],
    folder: Path,
    *,
    cluster: str = "local",
    at_once: int = 1,
    options: Mapping[str, Any] | None = None,
    poll_seconds: float = 1.0,
) -> dict[str, str]:
    """Run ``function(*arguments)`` as one job for each entry and wait for all.

    Args:
        runs: name of a run to its arguments (what cloudpickle can store).
        function: importable where the jobs run.
        folder: submitit's logs and pickles, one per job; the jobs have to see it.
        cluster: "local" (processes of this machine) or "slurm".
        at_once: jobs that run at a time (SLURM: of the array).
        options: further parameters of submitit's executor, ``slurm_partition`` for example.
        poll_seconds: between two looks at the jobs.

    Returns:
        the runs that failed, each with its error.

    Raises:
        ImportError: if submitit is not installed.
        ValueError: for an unknown cluster.
        RuntimeError: if the cluster is SLURM and there is none here.
    """
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster must be one of {', '.join(CLUSTERS)}, got {cluster!r}")
    if at_once < 1:
        raise ValueError(f"at least one job has to run at a time, got {at_once}")
    executor = _executor(folder, cluster, at_once, options or {})
    waiting, failed = dict(runs), {}
    running: dict[str, Any] = {}
    if cluster == "slurm" and waiting:
        with executor.batch():
            running = {name: executor.submit(function, *arguments) for name, arguments in waiting.items()}
        waiting = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name = next(iter(waiting))
            running[name] = executor.submit(function, *waiting.pop(name))
        for name in [name for name, job in running.items() if job.done()]:
            try:
                running.pop(name).result()
            except Exception as error:  # one run's failure is reported at the end and must not end the others
                failed[name] = str(error)
        if running:
            time.sleep(poll_seconds)
    return failed


def _executor(folder: Path, cluster: str, at_once: int, options: Mapping[str, Any]) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ImportError("studies as jobs need submitit: pip install submitit") from error
    _make_importable()
    try:
        executor = submitit.AutoExecutor(folder=folder.resolve(), cluster=cluster)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; run this where `sbatch` is, or leave 'slurm' out of --submit") from error
    settings: dict[str, Any] = {"timeout_min": _MINUTES, "name": "amvl", **options}
    if cluster == "slurm":
        settings.setdefault("slurm_array_parallelism", at_once)
    executor.update_parameters(**settings)
    return executor


def _make_importable() -> None:
    """Jobs inherit the environment: this repository goes on their path, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])


def tell(failed: Mapping[str, str]) -> None:
    """Print the errors of the runs that failed."""
    for name, error in failed.items():
        print(f"\n{name} failed:\n{error}", file=sys.stderr)

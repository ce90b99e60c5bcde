"""Studies as jobs of submitit: on this machine, or on a SLURM cluster, with the same runs and the same result files.

    python experiments/ablations.py pareto --submit                                  # this machine, --workers jobs at a time
    python experiments/ablations.py pareto --submit slurm --slurm partition=gpu gpus_per_node=1 time=120

Needs `pip install 'amvl[sweeps]'`. Every job is one run (`amvl_model.study_runner.run_cell`); what has a result file is not
submitted, so the same command goes on after an interruption. The folder of the results has to be one that the jobs see too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
            except Exception as error:  # one run's failure is told at the end and must not end the others
                failed[name] = str(error)
        if running:
            time.sleep(poll_seconds)
    return failed


def _executor(folder: Path, cluster: str, at_once: int, options: Mapping[str, Any]) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ImportError("studies as jobs need submitit: pip install 'amvl[sweeps]'") from error
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
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])


def tell(failed: Mapping[str, str]) -> None:
    """Print the errors of the runs that failed."""
    for name, error in failed.items():
        print(f"\n{name} failed:\n{error}", file=sys.stderr)

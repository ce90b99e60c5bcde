"""Runs as jobs of submitit: each once, at most so many at a time, a failure told and the others done."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from amvl_model.studies import runner as study_runner
from amvl_model.studies.declared import STUDIES
from amvl_model.studies.runner import slurm_options, submit_runs

pytest.importorskip("submitit")
# submitit 1.5.4 leaves the files of its jobs to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def job(folder: Path, name: str, seconds: float = 0.0) -> str:
    """Writes when it began and ended; fails if it is told to."""
    if name == "bad":
        raise ValueError("no such cell")
    began = time.time()
    time.sleep(seconds)
    (folder / name).write_text(f"{began} {time.time()} {os.getpid()}")
    return name


def ran(study: str, cell: str, seed: int, out: Path, keep: Path | None) -> None:
    """In place of a run: only says that it was one."""
    place = out / "ran" / cell / f"seed{seed}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()


def test_a_failing_run_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    runs = {name: (tmp_path, name) for name in ("a", "bad", "b")}
    failed = submit_runs(runs, job, tmp_path / "jobs", at_once=3, poll_seconds=0.05)
    assert list(failed) == ["bad"]
    assert "no such cell" in failed["bad"]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"a", "b"}


@pytest.mark.slow
def test_local_jobs_are_processes_of_their_own_no_more_at_a_time_than_asked_for(tmp_path: Path) -> None:
    runs = {name: (tmp_path, name, 0.5) for name in ("a", "b", "c")}
    assert submit_runs(runs, job, tmp_path / "jobs", cluster="local", at_once=2, poll_seconds=0.05) == {}
    told = [(tmp_path / name).read_text().split() for name in runs]
    spans = [(float(began), float(ended)) for began, ended, _ in told]
    assert all(sum(began <= start < ended for began, ended in spans) <= 2 for start, _ in spans)
    assert len({pid for *_, pid in told} | {str(os.getpid())}) == 4


@pytest.mark.slow  # a job imports tests, torch and all
def test_a_study_submits_what_has_no_result_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = STUDIES["pareto"]
    first, second = list(study.cells)[:2]
    done = study_runner.result_path(tmp_path, study.name, first, 0)
    done.parent.mkdir(parents=True)
    done.touch()
    monkeypatch.setattr(study_runner, "run_cell", ran)
    options = {"seeds": [0, 1], "cells": [first, second]}
    assert study_runner.run_study(study, tmp_path, workers=3, cluster="local", **options) == []  # type: ignore[arg-type]
    written = {path.relative_to(tmp_path / "ran").as_posix() for path in (tmp_path / "ran").rglob("seed*")}
    assert written == {f"{first}/seed1", f"{second}/seed0", f"{second}/seed1"}


def test_slurm_s_options_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm_options(["partition=gpu", "gpus_per_node=1"]) == {"slurm_partition": "gpu", "slurm_gpus_per_node": 1}
    with pytest.raises(ValueError, match="expected key=value"):
        slurm_options(["gpu"])


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a SLURM here")
def test_without_slurm_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="leave 'slurm' out"):
        submit_runs({"a": (tmp_path, "a")}, job, tmp_path / "jobs", cluster="slurm")
    with pytest.raises(ValueError, match="cluster must be one of local"):
        submit_runs({}, job, tmp_path, cluster="cloud")

"""Runs the cells of a laboratory study: seed by seed, the arms of a seed behind one warm-up.

A seed sets the base (they take turns), new weights, questions and latent noise. Arms without latents train for the warm-up's
steps and their own, so that all arms of a seed see equally many questions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from amvl_model.models.checkpoints import file_digest, write_text, writing
from amvl_model.models.loading import save_checkpoint
from amvl_model.results.files import result_path, write_result
from amvl_model.results.provenance import to_jsonable
from amvl_model.studies.declared import STUDIES, Study
from amvl_model.studies.laboratory.arm import Arm, build_arm, load_base
from amvl_model.studies.laboratory.measures import measure
from amvl_model.studies.laboratory.training import Report, silent, train_arm, warm_up
from amvl_model.studies.saved import checkpoint_folder, load_saved
from amvl_model.training.run_folder import tell

EVALUATED = 1024
"""Test questions for each number of hops."""


def arm_of(study: Study, cell: str, seed: int) -> Arm:
    """The arm that a cell is, by its dotted settings.

    Raises:
        TypeError: for a setting that an arm does not have.
    """
    settings = {**study.common, **study.cells[cell]}
    own = {name: value for name, value in settings.items() if not name.startswith("recipe.")}
    recipe: dict[str, Any] = {n.removeprefix("recipe."): v for n, v in settings.items() if n.startswith("recipe.")}
    arm = Arm(base=study.bases[seed % len(study.bases)])
    return replace(arm, **own, recipe=replace(arm.recipe, **recipe, seed=seed))  # type: ignore[arg-type]


def run_seed(
    study_name: str, seed: int, cells: Sequence[str], out: Path, keep: Path | None, report: Report | None = None
) -> list[Path]:
    """Run the cells of one seed that have no result, in this process on one thread; returns the result files written.

    Args:
        study_name: of `STUDIES`.
        seed: see the module's docstring.
        cells: their names.
        out: folder of the results.
        keep: folder of warm-ups and checkpoints, ``keep/<study>/...``; without one a warm-up is repeated after an interruption.
        report: called with every row of a curve; by default nothing.
    """
    torch.set_num_threads(1)
    study, written = STUDIES[study_name], []
    for cell in cells:
        path = result_path(out, study.name, cell, seed)
        if path.exists():
            continue
        arm, began, cpu = arm_of(study, cell, seed), time.perf_counter(), time.process_time()
        folder = None if keep is None else keep / study.name
        if cell in study.checkpoints:
            assert keep is not None  # run_study has looked for the checkpoints
            model, processor, which = load_saved(keep, *study.checkpoints[cell], seed)
            extra: dict[str, Any] = dict(which)
        else:
            model, processor, warmed, curve = run_arm(arm, folder, report or silent)
            extra = {**warmed, "curve": curve, "cpu_seconds": time.process_time() - cpu}
            if keep is not None:
                save_checkpoint(model, processor, checkpoint_folder(keep, study.name, cell, seed))
        metrics = measure(model, processor, replace(arm.recipe, eval_size=EVALUATED), temperature=arm.temperature)
        written.append(
            write_result(
                path,
                study=study.name,
                cell=cell,
                seed=seed,
                config=asdict(arm),
                metrics=metrics,
                wall_seconds=time.perf_counter() - began,
                device="cpu, 1 thread, float32",
                extra=extra,
            )
        )
        if folder is not None:
            shutil.rmtree(_state_folder(arm, folder), ignore_errors=True)
    return written


def run_arm(arm: Arm, folder: Path | None, report: Report) -> tuple[Any, Any, dict[str, Any], list[dict[str, Any]]]:
    """Warm up (or read the warm-up that another arm of the seed left in ``folder``) and train; model, processor, both curves.

    Where there is a folder, a run that was cut short goes on from its last look at fresh questions.
    """
    state, warmed = warmed_up(arm, folder, report)
    unfinished = None if folder is None else _state_folder(arm, folder)
    base, processor = load_base(arm)
    model = build_arm(base, processor, arm)
    if arm.has_latents:
        model.load_state_dict(state)
    else:
        arm = replace(arm, recipe=replace(arm.recipe, steps=arm.recipe.steps + warmed["warmup_steps"]))
        warmed = {name: warmed[name] for name in ("warmup_steps", "started")}
    return model, processor, warmed, train_arm(model, processor, arm, report, unfinished)


_WARM: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {}
"""The last warm-up of this process, by the settings that it depends on."""


def warmed_up(arm: Arm, folder: Path | None, report: Report) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State and report of the arm's warm-up: of this process, read from ``folder``, or made and stored there.

    What an arm alone has (its objective, wrong labels, few questions, without latents a repeated prompt) is not in its warm-up,
    so that arms that differ in it alone share one.
    """
    own: dict[str, Any] = {"steps": 0, "label_noise": 0.0, "different": 0} | ({} if arm.has_latents else {"repeats": 1})
    warm = replace(
        arm,
        objective="prior",
        beta=0.0,
        gamma=0.0,
        alpha=0.0,
        temperature=1.0,
        schedule={},
        extra_layers=0,
        recipe=replace(arm.recipe, **own),
    )
    key = json.dumps(to_jsonable(asdict(warm)), sort_keys=True)
    if key in _WARM:
        return _WARM[key]
    path = None if folder is None else folder / "warm-up" / f"{_digest(key)}.safetensors"
    stored = None if path is None else _stored_warm_up(path)
    if stored is not None:
        result = stored
    else:
        base, processor = load_base(warm)
        model = build_arm(base, processor, warm)
        unfinished = None if folder is None else _state_folder(warm, folder)
        curve = warm_up(model, processor, warm, report, unfinished)
        result = {name: value.clone() for name, value in model.state_dict().items()}, curve
        if path is not None:
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file(result[0], part)
                digest = file_digest(part)
                part.replace(path)
            write_text(path.with_suffix(".json"), json.dumps(curve | {_SHA256: digest}))
            shutil.rmtree(_state_folder(warm, path.parents[1]), ignore_errors=True)
    _WARM.clear()
    _WARM[key] = result
    return result


_SHA256 = "sha256"
"""Entry of a warm-up's report that holds the digest of its weights; those of earlier versions have none."""


def _stored_warm_up(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """State and report of a stored warm-up; None if there is none, or one that was altered, with a message."""
    try:
        report = json.loads(path.with_suffix(".json").read_text())
        digest = report.pop(_SHA256, None)
        if digest is None or digest == file_digest(path):
            return load_file(path), report
        problem = f"its sha256 is not the one in {path.with_suffix('.json').name}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        problem = str(error)
    tell(f"the warm-up {path} is refused: {problem}; warming up again")
    return None


def _state_folder(arm: Arm, folder: Path) -> Path:
    return folder / "unfinished" / _digest(json.dumps(to_jsonable(asdict(arm)), sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

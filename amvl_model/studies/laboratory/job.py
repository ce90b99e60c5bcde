"""The main job: one seed of the laboratory's arms side by side, a table, a figure, and what the latents of one question hold."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from amvl_model.config import RunStopped, signals, stop_now
from amvl_model.config.loading import LABORATORY_SETTINGS, stored_laboratory
from amvl_model.models.loading import load_checkpoint, save_checkpoint
from amvl_model.results.files import Result, read_result, result_path, write_result
from amvl_model.results.provenance import to_jsonable, without_machine_paths
from amvl_model.results.text import text_table
from amvl_model.studies.laboratory import ARMS, BASES, LaboratoryOptions
from amvl_model.studies.laboratory.arm import Arm
from amvl_model.studies.laboratory.figures import Reading, draw_job
from amvl_model.studies.laboratory.measures import Probe, chain_states, measure, prior_means
from amvl_model.studies.laboratory.study import run_arm, warmed_up
from amvl_model.studies.laboratory.training import silent
from amvl_model.studies.pool import worker_pool
from amvl_model.training.pretraining.multihop_base import MultihopRecipe
from amvl_model.training.run_folder import locked, note_environment, tell, write_text


def arm_for(options: LaboratoryOptions, objective: str) -> Arm:
    """The arm of the main job that trains on ``objective``."""
    base = options.base or BASES[options.task]
    arm = Arm(base=base, objective=objective, beta=options.beta, gamma=options.gamma, warmup=options.warmup)
    recipe = replace(
        arm.recipe, task=options.task, seed=options.seed, steps=options.steps, eval_size=options.evaluated // 2
    )
    return replace(arm, recipe=recipe)


def full(
    options: LaboratoryOptions, out: Path, *, progress: bool = True, resume: bool = False, workers: int = 0
) -> int:
    """Warm up once, train every arm of `ARMS`, measure, and write it all to ``out``.

    Args:
        options: of the run; with ``resume`` those of the folder.
        out: an empty or new folder, or with ``resume`` that of a run which was cut short.
        progress: print a line for every look at fresh questions.
        resume: keep the warm-up and the arms that are finished.
        workers: arms at a time, one CPU thread each; 0: as many as there are cores, at most one for each arm.

    Raises:
        FileExistsError: if the folder is not empty and the run is not to be resumed, or another process writes there.
        FileNotFoundError: if there is no run to resume.
        ValueError: if the run to be resumed, or an arm of it, has other settings.
        RunStopped: a SystemExit, after SIGTERM (status 143) or Ctrl-C (130); prints how to resume.
    """
    if resume:
        _refuse_other_options(out, options)
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty, and nothing is overwritten; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if not resume:
            write_text(out / LABORATORY_SETTINGS, json.dumps(asdict(options), indent=2) + "\n")
        note_environment(out)
        try:
            with signals(stop_now):
                return _full(options, out, progress, workers or min(len(ARMS), os.cpu_count() or 1))
        except RunStopped:
            tell(f"resume with: amvl train --resume {shlex.quote(str(out))}")
            raise


def stored_options(out: Path) -> LaboratoryOptions:
    """The options that a run folder stores.

    Raises:
        FileNotFoundError, ValueError: if it is not the folder of such a run.
    """
    return stored_laboratory(out, LaboratoryOptions)


def _refuse_other_options(out: Path, options: LaboratoryOptions) -> None:
    """Raises ValueError, naming what differs, if the run or an arm of it was made with other options."""
    stored = stored_options(out)
    pairs = {name: (value, getattr(options, name)) for name, value in asdict(stored).items()}
    for name, objective in ARMS.items():
        path = result_path(out, "laboratory", name, options.seed)
        if path.exists():
            expected = without_machine_paths(to_jsonable(asdict(arm_for(options, objective))))
            there = read_result(path).config
            pairs |= {f"{path}: {key}": (value, expected.get(key)) for key, value in there.items()}
    changed = [f"{name} is {old} there, got {new}" for name, (old, new) in pairs.items() if old != new]
    if changed:
        raise ValueError(
            f"{out} was started with other settings: {'; '.join(changed)}; resume with its own settings, or start another run "
            "in another folder"
        )


def _full(options: LaboratoryOptions, out: Path, progress: bool, workers: int) -> int:
    began = time.perf_counter()
    say = print if progress else silent
    shared = f"warm-up by prior-sample training, shared by {len(ARMS) - 1} arms: at most {options.warmup} steps"
    print(shared if options.warmup else "no warm-up", flush=True)
    threads = torch.get_num_threads()
    warmed_up(arm_for(options, "prior"), out, _Lines("warm-up", options.warmup, say))
    files = {name: result_path(out, "laboratory", name, options.seed) for name in ARMS}
    pending = {name: objective for name, objective in ARMS.items() if not files[name].exists()}
    print(f"training {', '.join(pending) or 'nothing: all arms are finished'}; {workers} at a time", flush=True)
    with worker_pool(workers) as pool:
        jobs = [pool.submit(_train, options, name, objective, out, progress) for name, objective in pending.items()]
        for job in as_completed(jobs):
            job.result()
    torch.set_num_threads(threads)
    results = {name: read_result(path) for name, path in files.items()}
    print("\n" + table(results))
    recipe = arm_for(options, "amvl").recipe
    readings = [read_question(out / name / "checkpoint", name, recipe) for name in ("amvl", "forward-only")]
    write_text(
        out / "question.json", json.dumps(to_jsonable([reading.to_dict() for reading in readings]), indent=2) + "\n"
    )
    redraw(out)
    shutil.rmtree(out / "unfinished", ignore_errors=True)
    print(f"\n{time.perf_counter() - began:.0f} s in all.\n{_closing(out)}")
    return 0


def redraw(out: Path) -> Path:
    """Draw summary.png of a finished run again, from its result files and question.json.

    Raises:
        FileNotFoundError: if one of them is missing.
    """
    from amvl_style import save

    options = stored_options(out)
    results = {name: read_result(result_path(out, "laboratory", name, options.seed)) for name in ARMS}
    recipe = arm_for(options, "amvl").recipe
    question = recipe.questions("test", max(recipe.hops), 1)[0]
    stored = json.loads((out / "question.json").read_text(encoding="utf-8"))
    return save(draw_job(results, [Reading.from_dict(each, question) for each in stored]), out / "summary.png", dpi=150)


def _train(options: LaboratoryOptions, name: str, objective: str, out: Path, progress: bool) -> None:
    """Train and measure one arm in a process of its own."""
    torch.set_num_threads(1)
    began, arm = time.perf_counter(), arm_for(options, objective)
    lines = _Lines(name, None, print if progress else silent)
    model, processor, warmed, curve = run_arm(arm, out, lines)
    metrics = measure(model, processor, replace(arm.recipe, eval_size=options.evaluated))
    save_checkpoint(model, processor, out / name / "checkpoint")
    write_result(
        result_path(out, "laboratory", name, options.seed),
        study="laboratory",
        cell=name,
        seed=options.seed,
        config=asdict(arm),
        metrics=metrics,
        wall_seconds=time.perf_counter() - began,
        device="cpu, 1 thread, float32",
        extra={**warmed, "curve": curve},
    )


class _Lines:
    """Prints one line for every row of a curve."""

    def __init__(self, name: str, steps: int | None, say: Any) -> None:
        self.name, self.steps, self.say = name, steps, say

    def __call__(self, row: Mapping[str, Any]) -> None:
        hops = sorted(int(key.removeprefix("accuracy_")) for key in row if key.removeprefix("accuracy_").isdigit())
        steps = row.get("steps", self.steps)
        parts = [f"{self.name:>12}  step {row['step']:>4}" + (f"/{steps}" if steps else ""), f"NLL {row['ntp']:.3f}"]
        parts += [
            f"{label} {row[key]:.2f}"
            for key, label in (("forward_kl", "KL(q||p)"), ("reverse_kl", "KL(p||q)"), (f"leaked_{hops[-1]}", "leaked"))
            if key in row
        ]
        accuracies = " / ".join(f"{100 * row[f'accuracy_{h}']:.0f}" for h in hops)
        left = f", {(steps - row['step']) * row['seconds'] / row['step']:.0f} s left" if steps else ""
        self.say(
            f"{'  '.join(parts)} nats  accuracy at {'/'.join(map(str, hops))} hops {accuracies} %{left}", flush=True
        )


def table(results: Mapping[str, Result]) -> str:
    """One row per arm: accuracy by hops, then at the most hops with other latents, leaked information and the probe."""
    most = max(int(hops) for hops in results["sft"].config["recipe"]["hops"])
    every = [int(hops) for hops in sorted(results["sft"].config["recipe"]["hops"])]
    names = [f"accuracy_{h}" for h in every]
    names += [f"{name}_{most}" for name in ("accuracy_posterior", "accuracy_exchanged", "follows_patch", "leaked")]
    rows = []
    for name, result in results.items():
        values = [result.metrics[n].value if n in result.metrics else None for n in names]
        cells = [
            "-" if v is None else f"{v:.3f}" if n.startswith("leaked") else f"{100 * v:.1f}"
            for n, v in zip(names, values, strict=True)
        ]
        rows.append([name, *cells, _best_probe(result, most)])
    bound = math.log(results["sft"].config["recipe"]["objects"])
    header = ["", *(f"{h} hops [%]" for h in every), "posterior [%]", "exchanged [%]", "follows patch [%]"]
    header += [f"leaked [nats of {bound:.2f}]", "probe of the latents"]
    steps = results["amvl"].extra["warmup_steps"]
    return (
        f"{text_table(rows, header)}\n"
        f"Test accuracy with prior latents by number of hops; the columns behind at {most} hops.\n"
        "posterior: with latents that saw the answer. exchanged: latents of another scene.\n"
        "follows patch: with latents of another question (same scene, another start), answers that are right for that one.\n"
        f"probe: the state after 1 to {most - 1} hops that a linear probe reads best from one slot.\n"
        + (
            f"The arms with latents share a warm-up of {steps} steps by prior-sample training; sft trains for as many steps more."
            if steps
            else "No arm had a warm-up."
        )
    )


def _best_probe(result: Result, most: int) -> str:
    probes = {n: m.value for n, m in result.metrics.items() if n.startswith("probe_") and 1 <= int(n[-1]) < most}
    if not probes:
        return "-"
    best = max(probes, key=lambda name: probes[name] or 0.0)
    _, _, slot, _, state = best.split("_")
    return f"state {state} in slot {slot}: {100 * (probes[best] or 0.0):.0f} %"


def read_question(checkpoint: Path, name: str, recipe: MultihopRecipe, index: int = 0) -> Reading:
    """What linear probes read from every slot of an arm's prior latents of test question ``index`` with the most hops."""
    from amvl_model.data.synthetic.multihop.spec import COLOUR_NAMES

    model, processor = load_checkpoint(checkpoint)
    hops = max(recipe.hops)
    fitted_on = recipe.questions("val", hops, 2 * recipe.eval_size)[:]
    (question,) = recipe.questions("test", hops, index + 1)[index:]
    features, states = prior_means(model, processor, fitted_on, recipe), chain_states(fitted_on)
    shown = prior_means(model, processor, [question], replace(recipe, questions_per_scene=1))
    colours = [COLOUR_NAMES.index(colour) for colour in question.choices]
    slots = []
    for slot in range(features.shape[1]):
        probes = [Probe(features[:, slot], states[:, state]) for state in range(hops + 1)]
        likely = torch.cat([probe.probabilities(shown[:, slot]) for probe in probes])
        slots.append((likely[:, colours] / likely[:, colours].sum(1, keepdim=True)).numpy())
    return Reading(name=name, question=question, states=slots)


def _closing(out: Path) -> str:
    return "\n".join(
        [
            f"Results: {out}",
            "  summary.png, question.json, laboratory.json, environment.json",
            "  laboratory/ARM/seed<k>.json: measures and learning curve; ARM/checkpoint/ for each of "
            + ", ".join(ARMS),
            "Next:",
            "  amvl train --quick                        # one question, drawn with its latents",
            "  amvl train --laboratory.gamma 0.1         # a weaker reverse KL",
            "  python experiments/ablations.py laboratory --workers 2          # the planned study, 15 seeds",
            "  amvl train --preset tiny                  # noisy labels: leakage where latents do nothing",
        ]
    )

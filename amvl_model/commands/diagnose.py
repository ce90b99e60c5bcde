"""Diagnose AMVL checkpoints: what their latents leak, carry, and do. The checkpoints are only read.

    amvl diagnose --checkpoint tiny-amvl
    amvl diagnose --checkpoint tiny-forward-only tiny-amvl --questions 500 --label-noise 0.3
    amvl diagnose --checkpoint runs/mine/checkpoint --only contamination interventions --tasks Counting Jigsaw
    amvl diagnose --checkpoint DIR --source blink --path FOLDER
    amvl diagnose --model-class mirage --checkpoint DIR --base Qwen/Qwen2.5-VL-7B-Instruct
    amvl diagnose --model-class coconut --checkpoint checkpoint_40 --base openai-community/gpt2 --path prosqa_test.json

The last two are checkpoints of other projects (amvl_model.diagnostics.peers): their latents are zeroed, exchanged between
questions and replaced by noise; diagnostics that need a posterior are marked as not applicable.

Writes diagnostics.json (with settings and environment) and report.html (figures, sentences and all numbers in one file).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from amvl_model.commands import stoppable
from amvl_model.config import DataConfig, command_line, usage_errors
from amvl_model.diagnostics.peers.loading import LAYOUTS, diagnose_adapter, load_peer
from amvl_model.diagnostics.report.suite import DIAGNOSTICS, Diagnosed, Plan, diagnose, run_config


@dataclass(frozen=True)
class Options:
    """The command line."""

    checkpoint: tuple[str, ...]  # checkpoint folders, or the shipped tiny-amvl and tiny-forward-only
    backbone: str | None = None  # base of the LoRA checkpoints, if it was moved since training
    model_class: Literal[("amvl", *LAYOUTS)] = "amvl"  # type: ignore[valid-type]
    """Whose checkpoint: ours, or a layout of another project."""
    base: str | None = None  # other projects: folder or hub id of what the checkpoint lacks (tokenizer, configuration)
    latents: int | None = None  # other projects: number of latents; None: the layout's own
    only: tuple[Literal[tuple(DIAGNOSTICS)], ...] = ()  # type: ignore[valid-type]
    """Only these diagnostics."""
    questions: int = 140  # held-out questions in all
    source: str = "synthetic-blink"  # a data source or a folder
    path: str | None = None  # folder with a local copy of the source
    tasks: tuple[str, ...] = ()  # only these tasks
    split: Literal["test", "val", "train"] = "test"  # synthetic-blink: split
    label_noise: float = 0.0  # synthetic-blink: share of wrong labels; above 0: their leak against its known bound
    relevance_questions: int = 3  # questions with relevance maps
    samples: int = 4  # latent samples for each question
    n_samples: int = 1024  # draws behind each leaked information
    batch_size: int = 64  # questions encoded together
    bootstrap: int = 2000  # resamples behind an interval
    seed: int = 0  # seed of the drawn questions and of everything random
    threads: int | None = None  # CPU threads; None: one per core
    out: Path | None = None  # folder for the results; None: runs/diagnose/DATE-TIME
    no_progress: bool = False  # no progress bars


def held_out(options: Options) -> Sequence[Any]:
    """The questions that the command line asks for.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: if they cannot be had.
    """
    if options.questions < 1:
        raise ValueError(f"--questions must be at least 1, got {options.questions}")
    if options.model_class == "coconut":
        from amvl_model.diagnostics.peers.coconut import read_questions

        if options.path is None:
            raise ValueError(
                "--model-class coconut needs --path, a JSON file of Coconut's data, such as prosqa_test.json"
            )
        return read_questions(options.path, seed=options.seed)[: options.questions]
    if options.source == "synthetic-blink":
        if options.path is not None:
            raise ValueError(
                f"--path: expected none with synthetic-blink, which is drawn, got {options.path}; add --source"
            )
        from amvl_model.data.synthetic import TASKS, SyntheticBlink

        return SyntheticBlink(
            tasks=options.tasks or TASKS,
            split=options.split,
            seed=options.seed,
            size=options.questions,
            label_noise=options.label_noise,
        )[:]
    if options.label_noise or options.split != "test":
        raise ValueError(
            f"--label-noise and --split change the questions of synthetic-blink, got --source {options.source}; leave them out"
        )
    from amvl_model.data.sources import evaluation_questions

    result = evaluation_questions(
        DataConfig(eval_source=options.source, path=options.path, tasks=options.tasks or None, eval_size=None)
    )
    if len(result) == 0:
        raise ValueError(f"{options.source} contains no such questions; check --tasks and --path")
    from amvl_model.data.schema import ChosenQuestions

    count = min(options.questions, len(result))  # spread over the tasks, which follow one another
    return ChosenQuestions(result, [i * len(result) // count for i in range(count)])


def training(checkpoint: str, count: int) -> Sequence[Any] | None:
    """The first questions that a checkpoint was trained on, where its run says so and they are synthetic."""
    from amvl_model.models.loading import resolve

    run = run_config(Path(resolve(checkpoint)))
    if run is None or run.data.sources != ("synthetic-blink",):
        return None
    from amvl_model.data.sources import training_questions

    training_set = training_questions(run.data)
    return [training_set[i] for i in range(min(count, len(training_set)))]


def diagnose_own(name: str, chosen: Sequence[str], questions: Sequence[Any], options: Options) -> Diagnosed:
    """An AMVL checkpoint."""
    from amvl_model.models.checkpoints import backbone_at
    from amvl_model.models.loading import resolve

    with backbone_at(options.backbone, *map(resolve, options.checkpoint)):
        return diagnose(name, chosen, plan(options, questions, training(name, len(questions))))


def diagnose_foreign(name: str, chosen: Sequence[str], questions: Sequence[Any], options: Options) -> Diagnosed:
    """A checkpoint of another project."""
    adapter = load_peer(name, options.model_class, base=options.base, num_latents=options.latents)
    return diagnose_adapter(name, adapter, chosen, plan(options, questions, None))


def plan(options: Options, questions: Sequence[Any], trained: Sequence[Any] | None) -> Plan:
    """What one checkpoint is measured with."""
    return Plan(
        questions=questions,
        training=trained,
        samples=options.samples,
        n_samples=options.n_samples,
        relevance_questions=options.relevance_questions,
        batch_size=options.batch_size,
        n_bootstrap=options.bootstrap,
        seed=options.seed,
        progress=not options.no_progress,
    )


def run(options: Options, out: Path) -> int:
    """Diagnose every checkpoint and write both files."""
    from amvl_model.models.checkpoints import inspect_checkpoint
    from amvl_model.models.loading import resolve

    foreign = options.model_class != "amvl"
    if not foreign and (options.base or options.latents):
        raise ValueError(
            "--base and --latents describe checkpoints of other projects; add --model-class, or leave them out"
        )
    for name in options.checkpoint if not foreign else ():
        inspect_checkpoint(resolve(name), expected_type="amvl")
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    began = time.perf_counter()
    chosen = [name for name in DIAGNOSTICS if not options.only or name in options.only]
    questions = held_out(options)
    tasks = len({question.task for question in questions})  # reads every image once, before the work begins
    diagnosed = []
    for name in options.checkpoint:
        print(f"{name}: {len(questions)} questions, {', '.join(chosen)}", flush=True)
        diagnosed.append((diagnose_foreign if foreign else diagnose_own)(name, chosen, questions, options))
    from amvl_model.diagnostics.report.html import sentences, write_report

    settings = {name: value for name, value in asdict(options).items() if name not in ("out", "no_progress")}
    source = options.path if options.model_class == "coconut" else options.source
    description = f"{len(questions)} questions of {tasks} task{'s' * (tasks != 1)} from {source}"
    if source == "synthetic-blink":
        description += f", split {options.split}, {100 * options.label_noise:g} % wrong labels"
        description += " (accuracies and NLL are against the labels as given)" * (options.label_noise > 0)
    data, page = write_report(out, diagnosed, settings | {"questions_are": description + "."})
    print()
    for name, text in sentences({item.name: item.to_dict() for item in diagnosed}):
        print(f"{name}: {text}")
    for item in diagnosed:
        for name, reason in item.refused.items():
            print(f"{item.name}: {name} was not measured: {reason}")
    print(f"\n{time.perf_counter() - began:.0f} s. Numbers: {data}\nReport:  {page}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = command_line(Options, arguments)
    out = options.out or Path("runs") / "diagnose" / time.strftime("%Y%m%d-%H%M%S")
    with stoppable(), usage_errors():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"{out} is not empty, and nothing is overwritten; choose another folder with --out")
        if len(set(options.checkpoint)) < len(options.checkpoint):
            raise ValueError("--checkpoint names a checkpoint twice; name each once")
        return run(options, out)

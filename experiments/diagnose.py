"""Diagnose AMVL checkpoints: what their latents leak, carry, and do. The checkpoints are only read.

    python experiments/diagnose.py --checkpoint tiny-amvl
    python experiments/diagnose.py --checkpoint tiny-forward-only tiny-amvl --questions 500 --label-noise 0.3
    python experiments/diagnose.py --checkpoint runs/mine/checkpoint --only contamination interventions --tasks Counting Jigsaw
    python experiments/diagnose.py --checkpoint DIR --source blink --path FOLDER

Writes diagnostics.json (with settings and environment) and report.html (figures, sentences and all numbers in one file).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.diagnostics.report.suite import DIAGNOSTICS, Plan, diagnose, run_config


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add(
        "--checkpoint",
        nargs="+",
        required=True,
        metavar="DIR",
        help="checkpoint folders, or the shipped tiny-amvl and tiny-forward-only; several stand side by side",
    )
    add("--backbone", metavar="DIR", help="base of the LoRA checkpoints, if it was moved since training")
    add("--only", nargs="+", choices=tuple(DIAGNOSTICS), metavar="NAME", help=f"some of: {', '.join(DIAGNOSTICS)}")
    add("--questions", type=int, default=140, metavar="N", help="held-out questions in all (default: 140)")
    add(
        "--source",
        default="synthetic-blink",
        help="a data source or a folder (default: synthetic-blink)",
    )
    add("--path", help="folder with a local copy of the source")
    add("--tasks", nargs="+", metavar="NAME", help="only these tasks (default: all)")
    add("--split", choices=("test", "val", "train"), default="test", help="synthetic-blink: split (default: test)")
    add(
        "--label-noise",
        type=float,
        default=0.0,
        metavar="P",
        help="synthetic-blink: share of wrong labels; above 0 the leak about them is measured against its known bound",
    )
    add("--relevance-questions", type=int, default=3, metavar="N", help="questions with relevance maps (default: 3)")
    add("--samples", type=int, default=4, metavar="N", help="latent samples a question (default: 4)")
    add("--n-samples", type=int, default=1024, metavar="N", help="draws behind each leaked information (default: 1024)")
    add("--batch-size", type=int, default=64, metavar="N", help="questions encoded together (default: 64)")
    add("--bootstrap", type=int, default=2000, metavar="N", help="resamples behind an interval (default: 2000)")
    add("--seed", type=int, default=0, help="of the drawn questions and of everything random (default: 0)")
    add("--threads", type=int, help="CPU threads (default: one per core)")
    add("--out", type=Path, help="folder for the results (default: runs/diagnose/DATE-TIME)")
    add("--no-progress", action="store_true", help="no progress bars")
    return result


def held_out(arguments: argparse.Namespace) -> Sequence[Any]:
    """The questions that the command line asks for.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: if they cannot be had.
    """
    if arguments.questions < 1:
        raise ValueError(f"--questions must be at least 1, got {arguments.questions}")
    if arguments.source == "synthetic-blink":
        from amvl_model.data.synthetic import TASKS, SyntheticBlink

        return SyntheticBlink(
            tasks=tuple(arguments.tasks or TASKS),
            split=arguments.split,
            seed=arguments.seed,
            size=arguments.questions,
            label_noise=arguments.label_noise,
        )[:]
    from amvl_model.config.schema import DataConfig
    from amvl_model.data.sources import evaluation_questions

    tasks = tuple(arguments.tasks) if arguments.tasks else None
    found = evaluation_questions(
        DataConfig(eval_source=arguments.source, path=arguments.path, tasks=tasks, eval_size=None)
    )
    if len(found) == 0:
        raise ValueError(f"{arguments.source} contains no such questions; check --tasks and --path")
    step = max(1, len(found) // arguments.questions)  # spread over the tasks, which follow one another
    return [found[i] for i in range(0, len(found), step)][: arguments.questions]


def training(checkpoint: str, count: int) -> Sequence[Any] | None:
    """The first questions that a checkpoint was trained on, where its run says so and they are synthetic."""
    from amvl_model.models.loading import resolve

    run = run_config(Path(resolve(checkpoint)))
    if run is None or run.data.sources != ("synthetic-blink",):
        return None
    from amvl_model.data.sources import training_questions

    asked = training_questions(run.data)
    return [asked[i] for i in range(min(count, len(asked)))]


def plan(arguments: argparse.Namespace, questions: Sequence[Any], checkpoint: str) -> Plan:
    """What one checkpoint is measured with."""
    return Plan(
        questions=questions,
        training=training(checkpoint, len(questions)),
        samples=arguments.samples,
        n_samples=arguments.n_samples,
        relevance_questions=arguments.relevance_questions,
        batch_size=arguments.batch_size,
        n_bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        progress=not arguments.no_progress,
    )


def run(asked: argparse.Namespace, out: Path) -> int:
    """Diagnose every checkpoint and write both files."""
    from amvl_model.models.checkpoints import backbone_at, inspect_checkpoint
    from amvl_model.models.loading import resolve

    for name in asked.checkpoint:
        inspect_checkpoint(resolve(name), expected_type="amvl")
    if asked.threads:
        import torch

        torch.set_num_threads(asked.threads)
    began = time.perf_counter()
    chosen = [name for name in DIAGNOSTICS if asked.only is None or name in asked.only]
    questions = held_out(asked)
    diagnosed = []
    for name in asked.checkpoint:
        print(f"{name}: {len(questions)} questions, {', '.join(chosen)}", flush=True)
        with backbone_at(asked.backbone, *map(resolve, asked.checkpoint)):
            diagnosed.append(diagnose(name, chosen, plan(asked, questions, name)))
    from amvl_model.diagnostics.report.html import sentences, write_report

    settings = {name: value for name, value in vars(asked).items() if name not in ("out", "no_progress")}
    tasks = len({question.task for question in questions})
    said = f"{len(questions)} questions of {tasks} task{'s' * (tasks != 1)} from {asked.source}"
    if asked.source == "synthetic-blink":
        said += f", split {asked.split}, {100 * asked.label_noise:g} % wrong labels"
        said += " (accuracies and NLL are against the labels as given)" * (asked.label_noise > 0)
    data, page = write_report(out, diagnosed, settings | {"questions_are": said + "."})
    print()
    for name, text in sentences({each.name: each.to_dict() for each in diagnosed}):
        print(f"{name}: {text}")
    for each in diagnosed:
        for name, reason in each.refused.items():
            print(f"{each.name}: {name} was not measured: {reason}")
    print(f"\n{time.perf_counter() - began:.0f} s. Numbers: {data}\nReport:  {page}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    asked = parser().parse_args(arguments)
    out = asked.out or Path("runs") / "diagnose" / time.strftime("%Y%m%d-%H%M%S")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"{out} is not empty, and nothing is overwritten; choose another folder with --out")
        if len(set(asked.checkpoint)) < len(asked.checkpoint):
            raise ValueError("--checkpoint names a checkpoint twice; name each once")
        return run(asked, out)
    except (ValueError, FileNotFoundError, FileExistsError, ConnectionError) as error:
        print(f"diagnose: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

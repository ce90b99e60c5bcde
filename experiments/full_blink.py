"""Train, evaluate and explain AMVL beside SFT, prior-sample training, forward-only and the ELBO.

    python experiments/full_blink.py                      # the laboratory: questions that need latents, minutes on two cores
    python experiments/full_blink.py --quick              # one question, two shipped checkpoints, one figure: seconds
    python experiments/full_blink.py --ask cells.png "Follow 3 arrows from red. Where do you end?" --choices red blue green
    python experiments/full_blink.py --preset tiny        # forward-only against AMVL on synthetic BLINK with noisy labels
    python experiments/full_blink.py --preset qwen2.5-vl-7b --data.path DIR --objective.gamma 1e-4
    python experiments/full_blink.py --preset qwen2.5-vl-7b --data.path DIR --dry-run        # check it all, train nothing
    torchrun --nproc-per-node 8 experiments/full_blink.py --preset qwen2.5-vl-7b --train.sharding fsdp2

Without a preset or a setting of one, the run takes place in the laboratory: a small base that answers multi-hop questions with
one and two hops is warmed up by prior-sample training, and trained on up to three hops with every objective; what its latents
contain and leak is measured. A preset's run starts from its base, trains it twice on the same questions (forward KL only, then
both KLs; a third time with --objective.name, if that names another objective or one of the baselines sft and pause), evaluates
the base and all results on held-out questions, measures answer leakage, and removes or exchanges the latents to see what they do.
Everything lands in one folder, which is named at the end.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config import RunConfig, changed_settings, command_line, load_preset, usage_error
from amvl_model.studies.laboratory.options import SETTINGS, LaboratoryOptions

PRESET = "tiny"


@dataclass(frozen=True)
class Options:
    """The command line; without --quick, --ask, --ship, --replay or --dry-run: the full run."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    laboratory: LaboratoryOptions = field(default_factory=LaboratoryOptions)
    quick: bool = False  # explain one question with the shipped checkpoints
    ask: tuple[str, ...] = ()  # answer a question: image file(s), then text
    choices: tuple[str, ...] = ()  # options of the question of --ask
    checkpoint: str = "multihop-amvl"  # with --ask: the model that answers
    backbone: str | None = None  # with --ask: base of a LoRA checkpoint, if it was moved
    task: str = "Coloured_Cells"  # with --quick: a multi-hop task, or one of synthetic BLINK
    index: int = 0  # with --quick: which of the task's test questions
    ship: Path | None = None  # make the checkpoints of this finished run the shipped ones
    dry_run: bool = False  # check data, memory and rows, write the plan, train nothing
    processes: int | None = None  # with --dry-run: GPUs of the run; None: those of this machine
    resume: Path | None = None  # continue this interrupted run, with its settings
    replay: Path | None = None  # compute the stored step of a run that a non-finite number stopped
    out: Path | None = None  # folder for the results; None: runs/full_blink/DATE-TIME
    threads: int | None = None  # CPU threads; None: one per core
    no_progress: bool = False  # no progress bars


def main() -> int:
    """Do what the command line says; returns the exit status."""
    options = command_line(Options, preset=PRESET)
    if options.choices and not options.ask:
        usage_error("--choices belongs to --ask IMAGE QUESTION")
    if len(options.ask) == 1:
        usage_error("--ask needs at least one image and then the question, for example: --ask cat.png 'A cat?'")
    for path in options.ask[:-1]:
        if not Path(path).is_file():
            usage_error(f"--ask: the image {path} does not exist; pass image files first and the question last")
    if options.replay and (changes := changed_settings(load_preset(PRESET), options.config)):
        usage_error(f"--replay takes the settings stored with the step; remove {', '.join(changes)}")

    from amvl_model.models.checkpoints import NonFiniteError
    from amvl_model.training.guard import STATUS

    try:
        return run(options)
    except NonFiniteError as error:
        print(f"full_blink: {error}", file=sys.stderr)
        return STATUS
    except (ValueError, OSError) as error:
        print(f"full_blink: {error}", file=sys.stderr)
        return 2


def run(options: Options) -> int:
    """The mode that the options select."""
    import torch

    from amvl_model import distributed
    from amvl_model.models.checkpoints import backbone_at
    from amvl_model.models.loading import resolve
    from amvl_model.studies import main_job
    from amvl_model.training import guard

    if options.threads:
        torch.set_num_threads(options.threads)
    config, out = options.config, options.out or Path("runs") / "full_blink" / time.strftime("%Y%m%d-%H%M%S")
    if options.ask:
        *images, question = options.ask
        with backbone_at(options.backbone, resolve(options.checkpoint)):
            return main_job.ask(images, question, list(options.choices), options.checkpoint, config)
    if options.replay:
        return guard.replay(options.replay)
    if options.ship:
        return main_job.ship(options.ship)
    if options.quick:
        return main_job.quick(out, options.task, options.index, config)
    if options.dry_run:
        return _dry_run(config, out, options.processes or max(1, torch.cuda.device_count()))
    resume = options.resume is not None
    if in_laboratory(options):
        from amvl_model.studies.laboratory import job

        return job.full(options.laboratory, options.resume or out, progress=not options.no_progress, resume=resume)
    status = main_job.full(config, options.resume or out, progress=not options.no_progress, resume=resume)
    distributed.stop()
    return status


def in_laboratory(options: Options) -> bool:
    """Whether the command line names neither a preset nor a setting of one, nor a run folder of a preset."""
    if options.resume is not None:
        return (options.resume / SETTINGS).exists()
    named = any(argument.partition("=")[0] == "--preset" for argument in sys.argv[1:])
    return not named and not changed_settings(load_preset(PRESET), options.config)


def _dry_run(config: RunConfig, out: Path, processes: int) -> int:
    """Write and print the plan; exit status 1 where something stands in the way."""
    from amvl_model.profiling.dry_run import plan, write_plan

    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty, and nothing is overwritten; choose another folder with --out")
    found = plan(config, processes=processes)
    files = write_plan(found, out)
    print(found.text())
    print("\n" + "\n".join(str(file) for file in files))
    return 0 if found.ready else 1


if __name__ == "__main__":
    sys.exit(main())

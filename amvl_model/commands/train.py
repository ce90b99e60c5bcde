"""Train, evaluate and explain AMVL beside SFT, prior-sample training, forward-only and the ELBO.

    amvl train                      # the laboratory: questions that need latents, minutes on two cores
    amvl train --quick              # one question, two shipped checkpoints, one figure: seconds
    amvl train --preset tiny        # forward-only against AMVL on synthetic BLINK with noisy labels
    amvl train --preset qwen2.5-vl-7b --data.path DIR --objective.gamma 1e-4
    amvl train --preset qwen2.5-vl-7b --data.path DIR --dry-run        # check it all, train nothing
    torchrun --nproc-per-node 8 -m amvl_model.cli train --preset qwen2.5-vl-7b --train.sharding fsdp2

In the repository `python experiments/full_blink.py` is the same command.

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from amvl_model.commands import stoppable
from amvl_model.commands.ask import CHECKPOINT, answer
from amvl_model.config import (
    RunConfig,
    changed_settings,
    command_line,
    load_preset,
    refuse_noise_of_files,
    usage_error,
    usage_errors,
)
from amvl_model.config.loading import LABORATORY_SETTINGS
from amvl_model.studies.laboratory import LaboratoryOptions

PRESET = "tiny"


@dataclass(frozen=True)
class Options:
    """The command line; without --quick, --ask, --ship, --replay or --dry-run: the full run."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    laboratory: LaboratoryOptions = field(default_factory=LaboratoryOptions)
    quick: bool = False  # explain one question with the shipped checkpoints
    ask: tuple[str, ...] = ()  # answer a question, as amvl ask does: image file(s), then text
    choices: tuple[str, ...] = ()  # options of the question of --ask
    checkpoint: str = CHECKPOINT  # with --ask: the model that answers
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = command_line(Options, arguments, preset=PRESET)
    if options.choices and not options.ask:
        usage_error("--choices belongs to --ask IMAGE QUESTION")
    _refuse_unused(options, arguments)
    if options.replay and (changes := changed_settings(load_preset(PRESET), options.config)):
        usage_error(f"--replay takes the settings stored with the step; remove {', '.join(changes)}")
    with stoppable(), usage_errors():
        if options.ask:
            tokens = options.config.eval.max_new_tokens
            return answer(options.ask, options.choices, options.checkpoint, tokens, backbone=options.backbone)

        from amvl_model.models.checkpoints import NonFiniteError
        from amvl_model.training.monitoring.guard import report

        try:
            return run(options, laboratory=in_laboratory(options, arguments))
        except NonFiniteError as error:
            return report(error)


def run(options: Options, *, laboratory: bool) -> int:
    """The mode that the options select, in the laboratory or with a preset."""
    import torch

    from amvl_model import distributed
    from amvl_model.studies import main_job
    from amvl_model.training.monitoring import guard

    if options.threads:
        torch.set_num_threads(options.threads)
    config, out = options.config, options.out or Path("runs") / "full_blink" / time.strftime("%Y%m%d-%H%M%S")
    if options.replay:
        from amvl_model.studies.laboratory import training as laboratory_training
        from amvl_model.training.pretraining import multihop_base, tiny_base

        loops = {"laboratory": laboratory_training, "multihop": multihop_base, "tiny-base": tiny_base}
        return guard.replay(options.replay, {name: module.recompute for name, module in loops.items()})
    if options.ship:
        return main_job.ship(options.ship)
    if options.quick:
        return main_job.quick(out, options.task, options.index, config)
    if options.dry_run:
        return _dry_run(config, out, options.processes or max(1, torch.cuda.device_count()))
    resume = options.resume is not None
    if laboratory:
        from amvl_model.studies.laboratory import job

        return job.full(options.laboratory, options.resume or out, progress=not options.no_progress, resume=resume)
    status = main_job.full(config, options.resume or out, progress=not options.no_progress, resume=resume)
    distributed.stop()
    return status


def _refuse_unused(options: Options, arguments: Sequence[str]) -> None:
    """End with a usage error for options that the mode on the command line does not read."""
    modes = {"--ask": options.ask, "--replay": options.replay, "--ship": options.ship, "--quick": options.quick}
    modes |= {"--dry-run": options.dry_run, "--resume": options.resume}
    chosen = [name for name, value in modes.items() if value]
    if len(chosen) > 1:
        usage_error(f"{' and '.join(chosen)} exclude each other; choose one")
    belongs = {"--checkpoint": "--ask", "--backbone": "--ask", "--task": "--quick", "--index": "--quick"}
    named = {argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")}
    for name, mode in {**belongs, "--processes": "--dry-run"}.items():
        if name in named and mode not in chosen:
            usage_error(f"{name} belongs to {mode}")
    if "--data.label-noise" in named:
        with usage_errors():
            refuse_noise_of_files(options.config)
    own = [name for name in named if name.startswith("--laboratory.")]
    if own and (set(chosen) - {"--resume"} or not in_laboratory(options, arguments)):
        usage_error(
            f"{', '.join(sorted(own))} belongs to the run in the laboratory, which needs neither a preset nor a mode"
        )
    laboratory = options.resume is not None and in_laboratory(options, arguments)
    if laboratory and (changes := changed_settings(load_preset(PRESET), options.config)):
        usage_error(
            f"{options.resume} is a run in the laboratory; remove {', '.join(changes)}, which belong to presets"
        )


def in_laboratory(options: Options, arguments: Sequence[str]) -> bool:
    """Whether the command line names neither a preset nor a setting of one, nor a run folder of a preset."""
    if options.resume is not None:
        return (options.resume / LABORATORY_SETTINGS).exists()
    named = any(argument.partition("=")[0] == "--preset" for argument in arguments)
    return not named and not changed_settings(load_preset(PRESET), options.config)


def _dry_run(config: RunConfig, out: Path, processes: int) -> int:
    """Write and print the plan; exit status 1 where something stands in the way."""
    from amvl_model.profiling.dry_run import plan, write_plan

    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty, and nothing is overwritten; choose another folder with --out")
    result = plan(config, processes=processes)
    files = write_plan(result, out)
    print(result.text())
    print("\n" + "\n".join(str(file) for file in files))
    return 0 if result.ready else 1

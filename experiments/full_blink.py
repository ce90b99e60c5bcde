"""Train, evaluate and explain AMVL: forward-only against AMVL on BLINK, leakage and the effect of the latents included.

    python experiments/full_blink.py                      # the tiny preset: a few minutes on a laptop core or two
    python experiments/full_blink.py --quick              # one question, two shipped checkpoints, one picture: seconds
    python experiments/full_blink.py --ask cat.png "Is there a cat?" --choices yes no --checkpoint tiny-amvl
    python experiments/full_blink.py --preset qwen2.5-vl-7b --data.path DIR --objective.gamma 1e-4
    python experiments/full_blink.py --preset qwen2.5-vl-7b --data.path DIR --dry-run        # check it all, train nothing
    torchrun --nproc-per-node 8 experiments/full_blink.py --preset qwen2.5-vl-7b --train.sharding fsdp2

The run starts from the preset's base, trains it twice on the same questions (forward KL only, then both KLs; a third time with
--objective.name, if that names another objective or one of the baselines sft and pause), evaluates the base and all results on
held-out questions, measures answer leakage, and removes or exchanges the latents to see what they do. Everything lands in one
folder, which is named at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config.schema import RunConfig, add_config_arguments, config_from_args, override, overrides_from_args


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = result.add_argument_group("what to do (default: the full run)")
    mode.add_argument("--quick", action="store_true", help="explain one question with the shipped checkpoints")
    mode.add_argument(
        "--ask", nargs="+", metavar=("IMAGE", "QUESTION"), help="answer a question: picture(s), then text"
    )
    mode.add_argument("--choices", nargs="+", metavar="TEXT", help="options of the question of --ask")
    mode.add_argument("--checkpoint", metavar="DIR", help="with --ask: which model answers (default: tiny-amvl)")
    mode.add_argument("--backbone", metavar="DIR", help="with --ask: base of a LoRA checkpoint, if it was moved")
    mode.add_argument("--task", metavar="NAME", help="with --quick: a task of synthetic BLINK (default: Counting)")
    mode.add_argument(
        "--index", type=int, default=0, help="with --quick: which of the task's test questions (default: 0)"
    )
    mode.add_argument("--ship", type=Path, metavar="RUN", help="make a finished run's checkpoints the shipped ones")
    mode.add_argument(
        "--dry-run", action="store_true", help="check data, memory and rows, write the plan, train nothing"
    )
    mode.add_argument("--processes", type=int, help="with --dry-run: GPUs that the run will have (default: those here)")
    mode.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a run that was cut short, with its own settings"
    )
    mode.add_argument(
        "--replay", type=Path, metavar="FILE", help="compute the stored step of a run that a non-finite number stopped"
    )
    mode.add_argument("--out", type=Path, help="folder for the results (default: runs/full_blink/DATE-TIME)")
    mode.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    mode.add_argument("--no-progress", action="store_true", help="no progress bars")
    add_config_arguments(result)
    return result


def main() -> int:
    """Do what the command line says; returns the exit status."""
    command = parser()
    arguments = command.parse_args()
    config = config_from_args(command, arguments)
    if arguments.backbone and not arguments.ask:
        command.error("--backbone belongs to --ask IMAGE QUESTION; a run's base is --model.base")
    if arguments.choices and not arguments.ask:
        command.error("--choices belongs to --ask IMAGE QUESTION")
    if arguments.ask and len(arguments.ask) < 2:
        command.error("--ask needs at least one picture and then the question, for example: --ask cat.png 'A cat?'")
    for path in (arguments.ask or [])[:-1]:
        if not Path(path).is_file():
            command.error(f"--ask: the picture {path} does not exist; give picture files first and the question last")

    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out = arguments.out or Path("runs") / "full_blink" / time.strftime("%Y%m%d-%H%M%S")
    from amvl_model import distributed
    from amvl_model.models.checkpoints import NonFiniteError, backbone_at
    from amvl_model.models.loading import resolve
    from amvl_model.studies import main_job
    from amvl_model.training import guard

    try:
        if arguments.ask:
            *images, question = arguments.ask
            checkpoint = arguments.checkpoint or "tiny-amvl"
            with backbone_at(arguments.backbone, resolve(checkpoint)):
                return main_job.ask(images, question, arguments.choices or [], checkpoint, config)
        if arguments.replay:
            return guard.replay(arguments.replay)
        if arguments.ship:
            return main_job.ship(arguments.ship)
        if arguments.quick:
            return main_job.quick(out, arguments.task or "Counting", arguments.index, config)
        if arguments.dry_run:
            return _dry_run(config, out, arguments.processes or max(1, torch.cuda.device_count()))
        resume = arguments.resume is not None
        if resume and arguments.preset == command.get_default("preset"):
            config = override(main_job.stored_config(arguments.resume), overrides_from_args(arguments))
        status = main_job.full(config, arguments.resume or out, progress=not arguments.no_progress, resume=resume)
        distributed.stop()
        return status
    except NonFiniteError as error:
        print(f"full_blink: {error}", file=sys.stderr)
        return guard.STATUS
    except (ValueError, OSError) as error:
        print(f"full_blink: {error}", file=sys.stderr)
        return 2


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

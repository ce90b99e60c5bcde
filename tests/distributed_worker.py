"""What each process of the two-process tests does; started by torchrun, or by python alone for the one-process reference.

python tests/distributed_worker.py train none DIR STEPS [--batch 4] [--resume] [--die-after 4]
python tests/distributed_worker.py foreign FORM DIR [--batch 4]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import torch
from transformers import TrainerCallback

from amvl_model import distributed
from amvl_model.training import run
from tests.model.training.test_trainer import QUESTIONS, config


def pretend_gpus() -> None:
    """accelerate shards on GPUs only: tell it that these processes have some. Device and collectives stay the CPU's."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    real = PartialState.__init__

    def with_gpus(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = with_gpus


class Die(TrainerCallback):
    """A lost node: process 1 is killed after a step, without a chance to clean up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(options: argparse.Namespace) -> None:
    settings = config(
        **{
            "train.sharding": options.sharding,
            "train.batch_size": options.batch,
            "train.steps": options.steps,
            "train.save_every": 2,
            "train.eval_every": 2 if options.held_out else 0,
            "train.log_every": 1,
            "train.gradient_checkpointing": options.checkpointing,
            "train.precision": options.precision,
            "model.lora_rank": options.lora,
            **({"model.base": "tiny", "model.freeze_vision": True} if options.lora else {}),
            "data.tasks": ("Counting",),
            "data.eval_size": 4,
        }
    )
    if options.sharding == "fsdp2":
        pretend_gpus()
    if options.die_after:
        real = run.AMVLTrainer.__init__

        def with_death(self: Any, **kwargs: Any) -> None:
            real(self, **kwargs)
            self.add_callback(Die(options.die_after))

        run.AMVLTrainer.__init__ = with_death  # type: ignore[method-assign]
    model, _ = run.train(settings, options.folder, questions=QUESTIONS, resume=options.resume, quiet=True)
    if distributed.is_main():
        torch.save(model.state_dict(), options.folder / "state.pt")


def evaluate(options: argparse.Namespace) -> None:
    from experiments import evaluate_benchmark

    evaluate_benchmark.main(json.loads(options.arguments))


def foreign(options: argparse.Namespace) -> None:
    """Train and evaluate on a data set that is not ours; the main process writes its log."""
    from tests.model.training.test_foreign_datasets import FORMS, trainer_on

    settings = {
        "per_device_train_batch_size": options.batch,
        "per_device_eval_batch_size": options.batch,
        "max_steps": 4,
    }
    rows = FORMS[options.form]()
    trainer = trainer_on(rows, options.folder, eval_dataset=rows, **settings)
    trainer.train()
    trainer.evaluate()
    if distributed.is_main():
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "log.json").write_text(json.dumps(trainer.state.log_history))


def main() -> None:
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(required=True)
    training = parts.add_parser("train")
    training.add_argument("sharding")
    training.add_argument("folder", type=Path)
    training.add_argument("steps", type=int)
    training.add_argument("--batch", type=int, default=2)
    training.add_argument("--precision", default="fp32")
    training.add_argument("--resume", action="store_true")
    training.add_argument("--held-out", action="store_true")
    training.add_argument("--checkpointing", action="store_true")
    training.add_argument("--lora", type=int, default=0, help="rank, on the shipped base")
    training.add_argument("--die-after", type=int, default=0)
    training.set_defaults(do=train)
    other = parts.add_parser("foreign")
    other.add_argument("form")
    other.add_argument("folder", type=Path)
    other.add_argument("--batch", type=int, default=2)
    other.set_defaults(do=foreign)
    evaluation = parts.add_parser("evaluate")
    evaluation.add_argument("arguments", help="of experiments/evaluate_benchmark.py, as JSON")
    evaluation.set_defaults(do=evaluate)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.do(options)
    distributed.stop()


if __name__ == "__main__":
    main()

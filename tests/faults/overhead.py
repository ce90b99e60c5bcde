"""What the guard and the health numbers cost a training step: process CPU time with and without them, step by step in turn.

    python tests/faults/overhead.py [--steps 80] [--batch-size 32]

Steps on one and the same batch alternate between the trainer as it is and one whose checks are taken out. Printed are the
medians, and the median ratio of neighbouring steps with its 95 % interval over resamples of the pairs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from transformers import Trainer, TrainerCallback

from amvl_model.config import load_preset
from amvl_model.data.sources import training_questions
from amvl_model.models.loading import build_model
from amvl_model.training import trainer as module
from amvl_model.training.arguments import training_arguments
from amvl_model.training.batches import QuestionDataset
from amvl_model.training.monitoring.guard import GuardedTrainer

METHODS = ("get_batch_samples", "training_step", "_get_grad_norm")


class Alternating(TrainerCallback):
    """Takes the checks out of every second step and measures all of them [s of process CPU time]."""

    def __init__(self, part: str) -> None:
        self.part, self.times = part, {True: [], False: []}
        self.guarded = {name: GuardedTrainer.__dict__[name] for name in METHODS}
        self.state_of_latents, self.began, self.on = module.latent_state, 0.0, True

    def switch(self, on: bool) -> None:
        """With or without the checks."""
        self.on = on
        if self.part == "guard":
            for name, method in self.guarded.items():
                setattr(GuardedTrainer, name, method if on else getattr(Trainer, name))
        else:
            off: Any = lambda prior, posterior: (torch.zeros(len(prior.mean)), None)  # noqa: E731
            module.latent_state = self.state_of_latents if on else off

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From the end of one step to the end of the next, loading of its batch included."""
        now = time.process_time()
        if state.global_step > 4:
            self.times[self.on].append(now - self.began)
        self.switch(bool(state.global_step % 2))
        self.began = time.process_time()


def main() -> int:
    """Measure and print."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("--steps", type=int, default=80)
    page.add_argument("--batch-size", type=int, default=32)
    options = page.parse_args()
    torch.set_num_threads(1)
    settings = {"train.steps": options.steps, "train.batch_size": options.batch_size, "train.log_every": 10**6}
    config = load_preset("tiny", {**settings, "data.train_size": options.batch_size})
    for part in ("guard", "health"):
        model, processor = build_model(config)
        data = QuestionDataset(training_questions(config.data), processor, cache=True)
        measure = Alternating(part)
        with tempfile.TemporaryDirectory() as folder:
            arguments = training_arguments(config, Path(folder), disable_tqdm=True, save_strategy="no")
            module.AMVLTrainer(
                model=model, objective=config.objective, processor=processor, args=arguments, train_dataset=data,
                callbacks=[measure],
            ).train()  # fmt: skip
        measure.switch(True)
        count = min(map(len, measure.times.values()))
        on, off = (np.array(measure.times[key][:count]) for key in (True, False))
        rng = np.random.default_rng(0)
        picks = rng.integers(0, count, (2000, count))
        ratios = np.log(on / off)  # of neighbours, so that a machine that slows down does not count
        low, high = np.quantile(np.median(ratios[picks], 1), [0.025, 0.975])
        share, low, high = (f"{np.expm1(value):+.2%}" for value in (np.median(ratios), low, high))
        print(
            f"{part}: {median(on):.4f} s with, {median(off):.4f} s without; median ratio {share} [{low}, {high}], {count} pairs"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

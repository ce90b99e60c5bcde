"""The leak on a fixed batch of training questions, logged while a model trains, and a warning when it starts to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amvl_model import distributed
from amvl_model.config.schema import RunConfig
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.reading.forecast import RunSchedule, log_lines, prefixed, reading_warning
from amvl_model.diagnostics.reading.probe import QUESTIONS, ReadingProbe
from amvl_model.objectives import NTP
from amvl_model.training.run_folder import tell

SEARCHED = 64
"""Training questions, evenly spaced, among which multiple-choice ones are looked for."""

APART = 640
"""Questions trained on between two probes by default: a probe takes the time of some 12, which keeps it below 2 %."""


class LeakProbe:
    """Measures at the first log line from every ``train.probe_every``-th step on (null: once in `APART` questions);
    `amvl_model.diagnostics.reading` says what.

    Args:
        config: the run. model, processor: what it trains.
        questions: multiple-choice questions of its training set.
        rows: log lines of a run that is resumed.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Any,
        processor: Any,
        questions: Sequence[VisualQuestion],
        rows: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.schedule = RunSchedule.of(config)
        self.train = train = config.train
        self.every = train.probe_every or math.ceil(APART / (train.batch_size * train.grad_accumulation))
        self.probe = ReadingProbe(model, processor, questions)
        self.rows = list(rows)
        self.norms: list[Any] = []
        """Gradient norms of the steps since the last probe, before clipping; the trainer adds them."""

    def measure(self, trainer: Any) -> dict[str, float]:
        """What is to be added to a log line: nothing, or the probe's numbers under names that begin with ``probe_``."""
        step = trainer.state.global_step
        if step % self.every >= trainer.args.logging_steps:
            return {}
        factors = [min(1.0, self.train.max_grad_norm / max(float(norm), 1e-12)) for norm in self.norms]
        self.norms.clear()
        try:
            with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=self.train.precision == "bf16"):
                report = self.probe.measure(
                    getattr(trainer.optimizer, "optimizer", trainer.optimizer),
                    clip_factor=sum(factors) / len(factors) if factors else 1.0,
                    gamma=self.schedule.weights(step)[1],
                )
        except (ValueError, np.linalg.LinAlgError) as error:  # of a model that diverges; the guard stops it
            tell(f"step {step}: the leak was not probed: {error}")
            return {}
        row = prefixed(asdict(report))
        row["probe_growth_rate"] = self.schedule.growth_now(row, step)
        self.rows.append({"step": step, **row})
        if text := reading_warning(self.rows, self.schedule):
            tell(text)
        return {name: value for name, value in row.items() if value is not None}


def leak_probe(
    config: RunConfig, folder: Path, model: Any, processor: Any, questions: Sequence[VisualQuestion]
) -> LeakProbe | None:
    """The probe of a run, or None where there is nothing to measure: no latents behind the answers, one process's share of a
    model alone, or fewer than two multiple-choice questions."""
    if "posterior" not in config.objective.entry.passes or NTP not in config.objective.entry.terms:
        return None
    if config.objective.prior_steps:
        reason = "its forecast needs a schedule that begins at the first step, and prior_steps come before it"
    elif distributed.world_size() > 1 or config.train.sharding != "none":
        reason = "the model is spread over several processes"
    elif len(chosen := probe_questions(questions)) < 2:
        reason = "the training questions are not multiple-choice ones with known answers"
    else:
        return LeakProbe(config, model, processor, chosen, log_lines(folder))
    if distributed.is_main():
        tell(f"the leak is not probed during training: {reason}")
    return None


def probe_questions(questions: Sequence[VisualQuestion]) -> list[VisualQuestion]:
    """Up to `QUESTIONS` multiple-choice questions with known answers among `SEARCHED` evenly spaced ones."""
    count = min(SEARCHED, len(questions))
    chosen: list[VisualQuestion] = []
    for i in np.random.default_rng(0).permutation(count):  # a sorted set gives questions from all over it
        question = questions[int(i) * len(questions) // count]
        if len(question.choices) >= 2 and question.answer is not None:
            chosen.append(question)
        if len(chosen) == QUESTIONS:
            break
    return chosen

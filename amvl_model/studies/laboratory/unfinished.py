"""The state of a training that is not finished, kept in a folder, so that one that was cut short goes on from there.

    FOLDER/checkpoint-STEP/    state.pt (model, optimiser, latent noise), trainer_state.json (the curve), manifest.json

The newest complete one stays. It is written at every look at fresh questions, `SAVE_EVERY` seconds after the last one, and
after the step in which SIGTERM or Ctrl-C came.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from amvl_model.config import RunStopped, signals
from amvl_model.models.checkpoints import check_finite, check_weights, write_manifest, writing
from amvl_model.training.run_folder import STATE, StopAfterStep, newest_checkpoint, rotate, write_text

SAVE_EVERY = 30.0
"""Longest time between two states [s]: what a kill may cost."""
_WEIGHTS = "state.pt"


class Unfinished:
    """A training in a folder; None: it is not kept.

    Attributes:
        step: optimiser steps that are done.
        rows: the curve so far.
        terms: of the steps since the last row.
        seconds: of processor time so far.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.stop = folder, StopAfterStep()
        self.step, self.rows, self.terms, self.seconds = 0, list[Any](), list[dict[str, float]](), 0.0
        self._written = time.monotonic()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within the block a signal lets the step end."""
        if self.folder is None:
            yield
            return
        with signals(self.stop):
            yield

    def restore(self, model: Any, optimizer: Any, noise: torch.Generator) -> None:
        """Take up the newest complete state; a damaged one is refused with a message, and the one before it is taken."""
        checkpoint = None if self.folder is None else newest_checkpoint(self.folder)
        if checkpoint is None:
            return
        stored = torch.load(checkpoint / _WEIGHTS, weights_only=True)
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        noise.set_state(stored["noise"])
        curve = json.loads((checkpoint / STATE).read_text())
        self.step, self.rows, self.terms, self.seconds = (curve[n] for n in ("step", "rows", "terms", "seconds"))

    def keep(self, model: Any, optimizer: Any, noise: torch.Generator, *, at_look: bool) -> None:
        """Write the state at a look, if `SAVE_EVERY` is over, or if a signal came.

        Raises:
            NonFiniteError: if a weight or a moment of the optimiser is not finite; nothing is written.
            RunStopped: if a signal came.
        """
        due = at_look or time.monotonic() - self._written > SAVE_EVERY
        if self.folder is None or not (due or self.stop.received):
            return
        check_weights(model)
        states = optimizer.state.values()
        check_finite((f"optimiser.{name}", value) for state in states for name, value in state.items())
        checkpoint = self.folder / f"checkpoint-{self.step}"
        with writing(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)
            checkpoint.mkdir(parents=True)
            stored = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "noise": noise.get_state()}
            torch.save(stored, checkpoint / _WEIGHTS)
        curve = {"step": self.step, "rows": self.rows, "terms": self.terms, "seconds": self.seconds}
        write_text(checkpoint / STATE, json.dumps(curve))
        write_manifest(checkpoint)
        rotate(self.folder, self.step, 1)
        self._written = time.monotonic()
        if self.stop.received:
            raise RunStopped(self.stop.received)

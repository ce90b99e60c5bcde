"""Prior-sample training at the start of a run, until fresh questions are answered (ours, not the paper's: LOG.md, RESULTS.md).

Latents begin to be used abruptly, and late with some seeds. So the loss is -log p(y|x,z), z ~ p(z|x), without posterior and KL,
until an evaluation's answer NLL with a sample of the prior is low enough, or a number of steps is over. Then the posterior
starts as a copy of the prior, and the objective and the schedule of its weights begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from amvl_model.config import ObjectiveConfig
from amvl_model.objectives import Loss, objective_named
from amvl_model.training.run_folder import tell


class PriorWarmUp(TrainerCallback, ExportableState):
    """Ends after ``objective.prior_steps`` optimiser steps, or at ``objective.prior_until`` nats; a resumed run remembers it.

    Attributes:
        ended: the optimiser step at which it ended; None: it goes on.
    """

    def __init__(self, objective: ObjectiveConfig) -> None:
        self.steps, self.until = objective.prior_steps, objective.prior_until
        self.loss = Loss(objective_named("prior"), nll_reduction=objective.nll_reduction)
        self.ended: int | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint's trainer_state.json keeps."""
        return {"args": {}, "attributes": {"ended": self.ended}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up what the checkpoint says that is resumed from."""
        self.ended = state.stateful_callbacks.get(type(self).__name__, self.state())["attributes"]["ended"]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """End at the last step that is allowed."""
        if state.global_step >= self.steps:
            self._end(state.global_step, model, f"after {self.steps} steps")

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        metrics: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """End if the questions of every evaluation set are answered well enough."""
        values = [value for name, value in (metrics or {}).items() if name.endswith("prior_ntp")]
        if self.until is not None and values and max(values) <= self.until:
            self._end(state.global_step, model, f"answer NLL {max(values):.3f} nats, at most {self.until:g} required")

    def _end(self, step: int, model: Any, why: str) -> None:
        if self.ended is None:
            self.ended = step
            model.start_posterior_as_prior()
            tell(f"step {step}: prior-sample training ends ({why}); the posterior starts as the prior")

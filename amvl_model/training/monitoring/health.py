"""The state of the latents during training: one line at every log line, with a warning where a number passes its limit.

    KL                 mean over questions of KL(q||p) (forward) and KL(p||q) (reverse), summed over k x d dimensions, nats
    spread             mean standard deviation of prior and posterior
    saturated          share of log standard deviations beyond 95 % of their bound, where tanh passes less than a tenth of
                       the gradient (distributions.py)
    active             dimensions whose KL(q||p), averaged over questions, is above 0.01 nats; of k x d
    gradient norm      before clipping

Limits are in `LIMITS`. A warning states a number; it does not stop the run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback

from amvl_model.models.distributions import LOG_STD_BOUND, DiagonalGaussian, kl_per_dimension

SATURATED_FROM: Final = 0.95 * LOG_STD_BOUND
ACTIVE_FROM: Final = 0.01
"""Mean KL(q||p) of a latent dimension from which it counts as active [nats]."""
LIMITS: Final[dict[str, tuple[float, float, str]]] = {
    "saturated": (-math.inf, 0.05, "log standard deviations stand at their bound and hardly receive a gradient"),
    "active_dimensions": (
        1,
        math.inf,
        "prior and posterior agree in every dimension: the posterior ignores the answer",
    ),
    "prior_std": (0.02, 20, "the prior's spread runs away"),
    "posterior_std": (0.02, 20, "the posterior's spread runs away"),
    "kl_per_dimension": (-math.inf, 5, "prior and posterior lie far apart: the latents can transmit the answer"),
    "grad_norm": (-math.inf, 100, "clipping removes nearly all of the gradient"),
}
"""Per number of a log line the least and the most that is usual, and what it means outside."""


@torch.no_grad()
def latent_state(prior: DiagonalGaussian, posterior: DiagonalGaussian | None) -> tuple[Tensor, Tensor | None]:
    """Share of saturated log standard deviations per question (B,), and KL(q||p) by dimension (B, k, d) in nats.

    The KL is None without a posterior.
    """
    parts = [prior.log_std] if posterior is None else [prior.log_std, posterior.log_std]
    beyond = torch.stack([(part.abs() > SATURATED_FROM).float().flatten(1).mean(1) for part in parts]).mean(0)
    return beyond, None if posterior is None else kl_per_dimension(posterior, prior)


def warnings_of(row: Mapping[str, Any]) -> list[str]:
    """A sentence for every number of a log line that passes its limit; one that is missing or not finite is passed over."""
    result = []
    for name, (low, high, meaning) in LIMITS.items():
        value = row.get(name)
        if isinstance(value, int | float) and math.isfinite(value) and not low <= value <= high:
            limit = f"below {low:g}" if value < low else f"above {high:g}"
            result.append(f"{name} {value:.3g} is {limit}: {meaning}")
    return result


class HealthLine(TrainerCallback):
    """Writes the line to the terminal at every log line that has a loss; only warnings where the run is quiet."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "saturated" not in logs:
            return
        problems = warnings_of(logs)
        names = (
            "forward_kl",
            "reverse_kl",
            "prior_std",
            "posterior_std",
            "saturated",
            "active_dimensions",
            "grad_norm",
        )
        numbers = ", ".join(f"{name} {logs[name]:.3g}" for name in names if isinstance(logs.get(name), int | float))
        if not args.disable_tqdm:
            tqdm.write(f"step {state.global_step}: {numbers}")
        for problem in problems:
            logging.getLogger(__name__).warning("step %d: %s", state.global_step, problem)

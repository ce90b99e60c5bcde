"""The AMVL objective and its relatives.

    amvl       L = NTP + beta KL(sg[q] || p) + gamma KL(sg[p] || q)          (paper)
    ntp        L = NTP
    fwd        L = beta KL(sg[q] || p)          rev       L = gamma KL(sg[p] || q)
    ntp+fwd    L = NTP + beta KL(sg[q] || p)    ntp+rev   L = NTP + gamma KL(sg[p] || q)
    elbo       L = NTP + beta KL(q || p)                                     (no stop-gradient)
    jeffreys   L = NTP + beta KL(q || p) + gamma KL(p || q)                  (no stop-gradient)

NTP is the answer's negative log-likelihood with latents drawn from the posterior. The forward KL pulls the prior towards a
posterior that it cannot move; the reverse KL pulls the posterior towards a prior that it cannot move. The loss of the two
baselines without distributions, sft and pause (pause.py), is the answer's negative log-likelihood itself.

`AMVLTrainer` multiplies beta and gamma by their schedules (`ObjectiveConfig.weights`) and reduces over examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from amvl_model.config.schema import ObjectiveName
from amvl_model.models.distributions import DiagonalGaussian, kl_per_dimension

OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)


@dataclass(frozen=True)
class ObjectiveTerms:
    """Loss of every example and what it is made of; all (batch,), in nats.

    Attributes:
        total: the loss that is differentiated.
        ntp: answer negative log-likelihood, unweighted.
        forward_kl: KL(q || p), unweighted.
        reverse_kl: KL(p || q), unweighted.
        weighted_forward: what the forward KL contributes to ``total``.
        weighted_reverse: what the reverse KL contributes to ``total``.
    """

    total: Tensor
    ntp: Tensor
    forward_kl: Tensor
    reverse_kl: Tensor
    weighted_forward: Tensor
    weighted_reverse: Tensor

    def mean(self) -> dict[str, float]:
        """Batch means of all terms, as plain numbers for a log."""
        return {name: float(getattr(self, name).detach().mean()) for name in self.__dataclass_fields__}


def amvl_objective(
    prior: DiagonalGaussian,
    posterior: DiagonalGaussian,
    answer_nll: Tensor,
    beta: float,
    gamma: float,
    *,
    objective: str = "amvl",
    kl_reduction: str = "sum",
) -> ObjectiveTerms:
    """Evaluate one of the eight objectives, example by example.

    Args:
        prior: p(Z|x), (batch, k, d).
        posterior: q(Z|x,y), (batch, k, d).
        answer_nll: (batch,), nats; summed over the answer's tokens (or averaged, if the caller prefers that scale).
        beta: weight of the forward KL, at least 0.
        gamma: weight of the reverse KL, at least 0.
        objective: a name of the table above.
        kl_reduction: "sum" over slots and dimensions (default), or "mean" over them.

    Raises:
        ValueError: for an unknown name, a negative or non-finite weight, or shapes that do not belong together.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    for name, weight in (("beta", beta), ("gamma", gamma)):
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {weight}")
    if prior.mean.shape != posterior.mean.shape or answer_nll.shape != prior.mean.shape[:1]:
        raise ValueError(
            "expected prior and posterior of one shape (batch, k, d) and answer_nll (batch,), got "
            f"{tuple(prior.mean.shape)}, {tuple(posterior.mean.shape)} and {tuple(answer_nll.shape)}"
        )
    stop = objective not in ("elbo", "jeffreys")
    forward = _reduce(kl_per_dimension(posterior.detach() if stop else posterior, prior), kl_reduction)
    reverse = _reduce(kl_per_dimension(prior.detach() if stop else prior, posterior), kl_reduction)
    zero = torch.zeros_like(forward)
    has_ntp = objective not in ("fwd", "rev")
    weighted_forward = beta * forward if objective not in ("ntp", "rev", "ntp+rev") else zero
    weighted_reverse = gamma * reverse if objective in ("rev", "ntp+rev", "amvl", "jeffreys") else zero
    total = (answer_nll if has_ntp else zero) + weighted_forward + weighted_reverse
    return ObjectiveTerms(total, answer_nll, forward, reverse, weighted_forward, weighted_reverse)


def _reduce(kl: Tensor, reduction: str) -> Tensor:
    if reduction == "sum":
        return kl.flatten(1).sum(1)
    if reduction == "mean":
        return kl.flatten(1).mean(1)
    raise ValueError(f"kl_reduction must be 'sum' or 'mean' (over slots and dimensions), got {reduction!r}")

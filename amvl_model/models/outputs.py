"""What `AMVLForConditionalGeneration.forward` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from amvl_model.models.distributions import DiagonalGaussian


@dataclass
class AMVLOutput(ModelOutput):
    """What `AMVLForConditionalGeneration.forward` returns.

    Attributes:
        loss: mean over the examples of the loss that was given; None without one.
        terms: what it is made of, example by example (`amvl_model.objectives.ObjectiveTerms`); None without a loss.
        logits: (B, M, V), logits[:, j] predicts answer token j from x, Z and the tokens before j.
        answer_nll: (B,), -log p(y|x,Z), nats; summed over the answer's tokens unless the loss says otherwise.
        prior_mean, prior_log_std: (B, k, d).
        posterior_mean, posterior_log_std: (B, k, d).
        latents: (B, k, d), the Z that was injected.
        latent_norm_ratio: mean norm of the injected tokens over the mean norm of the query's text embeddings (image
            features live in another norm regime: a hundred times larger in the tiny base).
    """

    loss: Tensor | None = None
    terms: Any = None
    logits: Tensor | None = None
    answer_nll: Tensor | None = None
    prior_mean: Tensor | None = None
    prior_log_std: Tensor | None = None
    posterior_mean: Tensor | None = None
    posterior_log_std: Tensor | None = None
    latents: Tensor | None = None
    latent_norm_ratio: Tensor | None = None

    @property
    def prior(self) -> DiagonalGaussian:
        """p(Z|x)."""
        return _gaussian(self.prior_mean, self.prior_log_std)

    @property
    def posterior(self) -> DiagonalGaussian:
        """q(Z|x,y)."""
        return _gaussian(self.posterior_mean, self.posterior_log_std)


def _gaussian(mean: Tensor | None, log_std: Tensor | None) -> DiagonalGaussian:
    if mean is None or log_std is None:
        raise ValueError("pass answer_ids to get a posterior, and no loss that reads the prior's pass alone")
    return DiagonalGaussian(mean, log_std)

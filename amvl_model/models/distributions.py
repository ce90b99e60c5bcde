"""Factorised Gaussians over the latent slots, and the heads that read them off hidden states.

    h            hidden state at a latent position                     (..., hidden)
    mean         W_m rms_norm(h) + b_m                                 (..., d)
    log_std      5 tanh((W_s rms_norm(h) + b_s) / 5), in (-5, 5)       (..., d)
    z            mean + temperature * exp(log_std) * noise             (..., d)

Everything here is computed in at least float32, whatever precision the backbone runs in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amvl_model.two_pass.layout import with_answer_bias

LOG_STD_BOUND = 5.0


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag(exp(log_std))^2).

    Attributes:
        mean: (batch, k, d), or any shape with the latent dimension last.
        log_std: natural logarithm of the standard deviation, same shape.
    """

    mean: Tensor
    log_std: Tensor

    def __post_init__(self) -> None:
        if self.mean.shape != self.log_std.shape:
            raise ValueError(
                f"mean and log_std must have one shape, got {tuple(self.mean.shape)} and {tuple(self.log_std.shape)}"
            )

    @property
    def std(self) -> Tensor:
        """Standard deviation, same shape as the mean."""
        return self.log_std.exp()

    @property
    def variance(self) -> Tensor:
        """Variance, same shape as the mean."""
        return (2.0 * self.log_std).exp()

    def detach(self) -> DiagonalGaussian:
        """sg[.]: the same distribution, cut from the graph."""
        return DiagonalGaussian(self.mean.detach(), self.log_std.detach())

    def rsample(
        self, *, temperature: float = 1.0, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Reparameterised sample; ``temperature`` scales the standard deviation, 0 gives the mean.

        The noise is drawn on the CPU when a generator is given, so that a seed means the same on every device; ``noise``
        (standard normal, the mean's shape) takes its place.
        """
        if temperature < 0:
            raise ValueError(f"temperature must be at least 0 (0 = the mean), got {temperature}")
        if temperature == 0:
            return self.mean
        if noise is not None:
            noise = noise.to(self.mean)
        elif generator is None:
            noise = torch.randn_like(self.mean)
        else:
            noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype).to(self.mean.device)
        return self.mean + temperature * self.std * noise

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) per dimension in nats, not summed; 0 where the two are equal."""
        return kl_per_dimension(self, other)

    def repeat_interleave(self, repeats: int) -> DiagonalGaussian:
        """Each example ``repeats`` times along the batch."""
        return DiagonalGaussian(
            self.mean.repeat_interleave(repeats, dim=0), self.log_std.repeat_interleave(repeats, dim=0)
        )


def kl_per_dimension(a: DiagonalGaussian, b: DiagonalGaussian) -> Tensor:
    """KL(a || b) of each dimension, in nats: log(sb/sa) + (sa^2 + (ma - mb)^2) / (2 sb^2) - 1/2."""
    ratio = 2.0 * (a.log_std - b.log_std)
    return 0.5 * (torch.expm1(ratio) - ratio + ((a.mean - b.mean) * (-b.log_std).exp()).square())


class GaussianHead(nn.Module):
    """Hidden states (..., hidden) to a `DiagonalGaussian` (..., d), in float32 (or float64 if the input is)."""

    def __init__(self, hidden_size: int, latent_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.latent_dim = latent_dim
        self.norm_weight = nn.Parameter(torch.ones(hidden_size))
        self.linear = nn.Linear(hidden_size, 2 * latent_dim)

    def __call__(self, hidden: Tensor) -> DiagonalGaussian:  # type: ignore[override]
        return DiagonalGaussian(*super().__call__(hidden))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std, as tensors: the hooks of ZeRO-3 do not look into a `DiagonalGaussian`."""
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = torch.promote_types(hidden.dtype, self.linear.weight.dtype)
            dtype = torch.promote_types(dtype, torch.float32)
            x = F.rms_norm(hidden.to(dtype), hidden.shape[-1:], self.norm_weight.to(dtype), self.eps)
            if type(self.linear) is nn.Linear and self.linear.weight.dtype != dtype:
                out = F.linear(x, self.linear.weight.to(dtype), self.linear.bias.to(dtype))
            else:  # called as a module, because peft's adapters are
                out = self.linear(x.to(self.linear.weight.dtype)).to(dtype)
            mean, raw = out.split(self.latent_dim, dim=-1)
            return mean, LOG_STD_BOUND * torch.tanh(raw / LOG_STD_BOUND)


def answer_nll(logits: Tensor, answer_ids: Tensor, answer_mask: Tensor, *, reduction: str = "sum") -> Tensor:
    """-log p(y | x, Z) of every example, (batch,), in nats.

    Args:
        logits: (batch, M, vocabulary), logits[:, j] predicting answer token j.
        answer_ids: (batch, M).
        answer_mask: (batch, M), 1 at real tokens.
        reduction: "sum" over the answer's tokens, or "token_mean".
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    picked = logits.to(dtype).log_softmax(-1).gather(-1, answer_ids.unsqueeze(-1)).squeeze(-1)
    total = -(picked * answer_mask).sum(1)
    if reduction == "sum":
        return total
    if reduction == "token_mean":
        return total / answer_mask.sum(1)
    raise ValueError(f"nll_reduction must be 'sum' or 'token_mean', got {reduction!r}")


class AnswerBias(nn.Module):
    """A learnt bias on the attention of posterior slots to the answer (ours, not the paper's).

    At -5 a token of y weighs less than one of x by a factor of 150, so that a posterior with the prior's queries and head begins
    as the prior. What it learns to read of y from there is what the objective rewards.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([float(initial)]))

    def forward(self, mask: Tensor, posterior: slice, answers: int) -> Tensor:
        """See `amvl_model.two_pass.layout.with_answer_bias`."""
        return with_answer_bias(mask, self.value, posterior, answers)


def choose_latents(
    latents: str | Tensor,
    prior: DiagonalGaussian,
    posterior: DiagonalGaussian | None,
    temperature: float,
    generator: torch.Generator | None,
    noise: Tensor | None,
) -> Tensor:
    """Z (B, k, d) by its name, "prior" or "posterior" (a sample) or with "_mean", or as it is given.

    Raises:
        ValueError: for another name, or a posterior that was not made.
    """
    if isinstance(latents, Tensor):
        return latents
    names = {"prior": prior, "posterior": posterior, "prior_mean": prior, "posterior_mean": posterior}
    if latents not in names:
        raise ValueError(f"latents must be a tensor or one of {', '.join(names)}, got {latents!r}")
    scale = 0.0 if latents.endswith("_mean") else temperature
    chosen = names[latents]
    if chosen is None:
        raise ValueError("latents of the posterior need a loss that reads the posterior's pass, or none")
    return chosen.rsample(temperature=scale, generator=generator, noise=noise)

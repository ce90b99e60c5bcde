"""Free posteriors: the best Gaussian for one question and one option on a frozen decoder, without any posterior head.

With the prior N(m, diag(s)^2) of a question held, the posterior of option a is free in its mean and its standard deviations:

    q_a = N(m + s u, diag(s exp(r))^2)                   u, r (D,) in the prior's whitened coordinates
    F_a(u, r) = E_{z ~ q_a} NLL(a|x,z) + gamma KL(p || q_a)
              = E NLL(a|x,z) + gamma sum_i [ r_i + (1 + u_i^2) exp(-2 r_i) / 2 - 1/2 ]                              nats

is what AMVL's objective asks of a posterior (the forward KL does not move it, the stop-gradient holds the prior). A head that
answers for all questions at once can at best reach these minima one by one, so they say what amortisation costs; the
linear theory predicts the same minima from forces and curvature at m, so they say what its linearisation costs.

Method. Adam on (u, r), all (question, option) pairs together, reparameterised draws in antithetic pairs, the same draws for
every pair and every gamma (common random numbers), fresh in every step: with a few fixed draws of D numbers the widths would
fit the draws. Antithetic pairs leave no noise in du for a quadratic loss. Adam's epsilon is `INSIGNIFICANT` gamma: a slope
that would move a mean by less than that many standard deviations at the end is not blown up to a full step. Rounds of
`steps` steps with a learning rate that falls along a cosine; the result of a round is the mean over its last quarter.

Convergence. F is taken where a round starts and where it ends, on common draws that were not optimised with. The search ends
when a whole round, begun at the full learning rate, lowered the mean of F over the pairs by less than `tolerance` nats, or
after `rounds`. (The fall at the end of a round would say nothing: its learning rate is nearly 0 there.)

Weights of gamma are taken in falling order, each starting from the last (the first from the prior itself).

Source: derived for this project; stochastic variational inference, one posterior at a time (Hoffman et al. 2013; the gap to
an amortised posterior: Cremer et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amvl_model.data.processing import pad_right
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, QuestionBatch
from amvl_model.models.distributions import DiagonalGaussian, answer_nll

Array = NDArray[np.float64]
Nll = Callable[[Tensor], Tensor]
"""Answer NLL (P, S) in nats at whitened latents (P, S, D): S draws for each of P pairs of a question and an option."""

INSIGNIFICANT = 0.1


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a free posterior is searched for.

    Attributes:
        steps: of a round.
        rounds: at most.
        pairs: antithetic pairs of draws a step.
        mean_rate: learning rate of u at a round's start [prior standard deviations].
        width_rate: of r.
        check_pairs: antithetic pairs behind the convergence criterion.
        tolerance: on the fall of F over a whole round, mean over the pairs [nats].
        seed: of all draws.
    """

    steps: int = 60
    rounds: int = 5
    pairs: int = 1
    mean_rate: float = 0.3
    width_rate: float = 0.1
    check_pairs: int = 8
    tolerance: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "rounds", "pairs", "mean_rate", "width_rate", "check_pairs", "tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.steps < 8:
            raise ValueError(
                f"steps must be at least 8, so that a round has a quarter to average over, got {self.steps}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class FreePosteriors:
    """The posteriors that minimise F at one gamma, P pairs of a question and an option.

    Attributes:
        gamma: weight of the reverse KL.
        shifts: u (P, D), posterior means minus prior mean in prior standard deviations.
        widths: exp(r) (P, D), posterior over prior standard deviations.
        objective: F (P,) [nats], on draws that were not optimised with.
        nll: its first part (P,) [nats].
        fall: of F over the last round, mean over the pairs [nats].
        converged: whether that is below the tolerance.
        steps: that were taken.
    """

    gamma: float
    shifts: Array
    widths: Array
    objective: Array
    nll: Array
    fall: float
    converged: bool
    steps: int


def free_posteriors(nll: Nll, pairs: int, size: int, gammas: Sequence[float], search: Search) -> list[FreePosteriors]:
    """Minimise F for every pair and every gamma (method at the top of this module).

    Args:
        nll: answer NLL at whitened latents; differentiable.
        pairs: P.
        size: D.
        gammas: weights, each above 0; results come in this order.
        search: the method's settings.

    Raises:
        ValueError: for no pairs, no dimensions, or a gamma that is not above 0 (a free posterior then contracts for ever).
    """
    if pairs < 1 or size < 1:
        raise ValueError(f"expected at least one pair and one dimension, got {pairs} and {size}")
    for gamma in gammas:
        if not (math.isfinite(gamma) and gamma > 0):
            raise ValueError(
                f"gamma must be finite and above 0, got {gamma}: without it nothing holds a free posterior"
            )
    result: dict[float, FreePosteriors] = {}
    point = torch.zeros(2, pairs, size)
    for gamma in sorted(set(gammas), reverse=True):
        point, result[gamma] = _search(nll, point, gamma, search)
    return [result[gamma] for gamma in gammas]


def decoder_nll(
    scorer: LatentScorer, query: EncodedQuery, batch: QuestionBatch
) -> tuple[Callable[[int], Nll], list[tuple[int, int]]]:
    """The real answer NLL of all (question, option) pairs of a batch whose queries are encoded.

    Args:
        scorer, query, batch: the model, and a batch of questions with equally many options, encoded without autograd.

    Returns:
        a function of the number of draws S that gives the `Nll` for it, and (row of the batch, option) of each pair.

    Raises:
        ValueError: for questions with different numbers of options.
    """
    if len(set(batch.options)) != 1:
        raise ValueError(
            f"expected questions with equally many options in a batch, got {sorted(set(batch.options))}; group them"
        )
    prior = query.prior
    assert prior is not None
    options = batch.options[0]
    members = [(row, option) for row in range(len(batch.questions)) for option in range(options)]
    ids, mask = pad_right([scorer.option_ids(option).cpu() for _, option in members], scorer.processor.pad_token_id)
    ids, mask = ids.to(scorer.device), mask.to(scorer.device)

    def of(draws: int) -> Nll:
        state = query.state.repeat_interleave(options * draws)
        wide = _repeated(prior, options * draws)
        answers, answer_mask = ids.repeat_interleave(draws, dim=0), mask.repeat_interleave(draws, dim=0)

        def nll(whitened: Tensor) -> Tensor:
            z = wide.mean + wide.std * whitened.reshape(wide.mean.shape).to(wide.mean)
            logits = scorer.model.answer_logits(state, z, answers)
            return answer_nll(logits, answers, answer_mask).view(len(members), draws)

        return nll

    return of, members


def _repeated(gaussian: DiagonalGaussian, repeats: int) -> DiagonalGaussian:
    return DiagonalGaussian(gaussian.mean.detach(), gaussian.log_std.detach()).repeat_interleave(repeats)


def _search(nll: Nll, start: Tensor, gamma: float, search: Search) -> tuple[Tensor, FreePosteriors]:
    """One gamma: the end point (2, P, D) and what was found there."""
    generator = torch.Generator().manual_seed(search.seed)
    check = antithetic(search.check_pairs, start.shape[-1], torch.Generator().manual_seed(search.seed + 1))
    point, taken, fall = start.clone(), 0, math.inf
    objective, answer = _evaluate(nll, point, gamma, check, search.pairs)
    for _ in range(search.rounds):
        taken += search.steps
        before = objective
        point = _round(nll, point, gamma, search, generator)
        objective, answer = _evaluate(nll, point, gamma, check, search.pairs)
        fall = float((before - objective).mean())
        if fall < search.tolerance:
            break
    return point, FreePosteriors(
        gamma=gamma,
        shifts=point[0].double().numpy(),
        widths=point[1].double().exp().numpy(),
        objective=objective.double().numpy(),
        nll=answer.double().numpy(),
        fall=fall,
        converged=fall < search.tolerance,
        steps=taken,
    )


def _round(nll: Nll, start: Tensor, gamma: float, search: Search, generator: torch.Generator) -> Tensor:
    """Mean point (2, P, D) over the last quarter of a round."""
    u, r = (x.clone().requires_grad_(True) for x in start)
    optimiser = torch.optim.Adam(
        [{"params": [u], "lr": search.mean_rate}, {"params": [r], "lr": search.width_rate}],
        betas=(0.9, 0.99),
        eps=INSIGNIFICANT * gamma,
    )
    quarter = search.steps // 4
    mean = torch.zeros_like(start)
    for step in range(search.steps):
        scale = 0.5 * (1 + math.cos(math.pi * step / search.steps))
        for group, rate in zip(optimiser.param_groups, (search.mean_rate, search.width_rate), strict=True):
            group["lr"] = scale * rate
        noise = antithetic(search.pairs, u.shape[-1], generator)
        optimiser.zero_grad()
        with torch.enable_grad():
            loss = nll(_draws(u, r, noise)).mean(1).sum() + gamma * _kl(u, r).sum()
            loss.backward()
        optimiser.step()
        if step >= search.steps - quarter:
            mean += torch.stack([u.detach(), r.detach()]) / quarter
    return mean


@torch.no_grad()
def _evaluate(nll: Nll, point: Tensor, gamma: float, noise: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """F (P,) and its answer NLL (P,) on given draws, as many at a time as a step takes."""
    u, r = point
    parts = [nll(_draws(u, r, item)).mean(1) for item in noise.split(2 * pairs)]
    answer = torch.stack(parts).mean(0)
    return answer + gamma * _kl(u, r), answer


def antithetic(pairs: int, size: int, generator: torch.Generator) -> Tensor:
    """(2 pairs, D) standard normal draws, each followed by its negative."""
    half = torch.randn(pairs, size, generator=generator)
    return torch.stack([half, -half], dim=1).view(2 * pairs, size)


def _draws(u: Tensor, r: Tensor, noise: Tensor) -> Tensor:
    """(P, S, D) whitened latents."""
    return u[:, None] + r.exp()[:, None] * noise


def _kl(u: Tensor, r: Tensor) -> Tensor:
    """KL(p || q) (P,) [nats]."""
    return (r + 0.5 * (1 + u.square()) * (-2 * r).exp() - 0.5).sum(-1)


def softmax_nll(forces: Any, answer_probs: Any, option: Any) -> Nll:
    """The answer NLL of the log-linear decoder that has the measured forces: no further measurement, no fitted number.

    log p(a|z) = log p_a + g_a^T w - log( sum_b p_b exp(g_b^T w) + p_o exp(g_o^T w) ),   w the whitened displacement, p_o and
    g_o = -sum_b p_b g_b / p_o those of all other answers. At w = 0 its slope is g_a and its curvature the Gauss-Newton one,
    so that the quadratic theory is its second order.

    Args:
        forces: g (P, O, D) [nats/prior standard deviation]; rows of options that do not exist are ignored.
        answer_probs: p (P, O), 0 where there is no such option.
        option: (P,), the pair's own option a.
    """
    g, p = torch.as_tensor(forces).float(), torch.as_tensor(answer_probs).float()
    own = torch.as_tensor(option).long()
    other = (1 - p.sum(1)).clamp(min=0)
    pull = torch.where(other[:, None] > 1e-5, -(p[..., None] * g).sum(1) / other.clamp(min=1e-5)[:, None], 0.0)
    g, p = torch.cat([g, pull[:, None]], dim=1), torch.cat([p, other[:, None]], dim=1)
    log_p = p.log()

    def nll(whitened: Tensor) -> Tensor:
        scores = log_p[:, None] + torch.einsum("psd,pod->pso", whitened, g)
        chosen = own.view(-1, 1, 1).expand(-1, scores.shape[1], 1)
        return scores.logsumexp(-1) - scores.gather(-1, chosen)[..., 0]

    return nll

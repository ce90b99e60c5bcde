"""All quantities of T10 and T11 on a small batch of multiple-choice questions, from a model and its optimizer.

Of question x, options y with equal weights, posteriors N(mu_y, sigma_y^2) and prior mean m, over all slots and dimensions:

    delta_y = mu_y - mean_y mu_y         leak of answer y                                   latent
    g_y     = d log p(y|x,Z)/dZ at m     answer force, minus its mean over y                nats/latent
    spread  a = sqrt(E |delta|^2)        sensitivity = sqrt(E |g|^2) = kappa w              E over questions and options
    reading   = E delta_y . g_y          what posterior means gain to first order: kappa w a where one mode reads   nats

The learning rates of w and a are those of a network under Adam, which moves a weight by -lr c g/(sqrt(v) + eps), c the clip
factor, v the second moment. A function f of the weights then follows -eta dL/df with

    eta = sum over weights of lr c (df/dtheta)^2/(sqrt(v) + eps)
    eta_q: f = E mu_y . e_y,  e = g/sensitivity         eta_w: f = E u_y . g_y/kappa,  u = delta/spread

in which the square is the product of the derivatives over the two halves of the batch: only what one question teaches about
another counts, and the estimate has no bias from noise. It is negative where nothing is shared. Approximations: keys and values
of x are held fixed; the derivative of g along u is a difference over one posterior standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.leakage.information import leaked_information_batch
from amvl_model.diagnostics.reading.growth import adam_crossover, answer_variance
from amvl_model.evaluation.question_batches import QuestionBatch, batches
from amvl_model.evaluation.scorers import LatentScorer, evaluating
from amvl_model.models.distributions import DiagonalGaussian, answer_nll

QUESTIONS = 8
"""Questions of a probe batch."""
DRAWS = 128
"""Latents from each option's posterior behind a leaked information (standard error about 0.01 nats at 0.5)."""


@dataclass(frozen=True)
class ProbeReport:
    """One measurement; symbols as in the module's docstring.

    Attributes:
        prior_std, posterior_std: means over slots and dimensions [latent].
        gap: root mean square of mu_y - m over answers and dimensions [latent].
        answer_spread: the same of delta_y [latent]; the spread a is sqrt(k d) times as large.
        leaked_nats: leaked information [nats].
        sensitivity: sqrt(E |g|^2) [nats/latent].
        reading_nats, reading_error: mean over questions and its standard error [nats].
        answer_variance: v of the decoder's answer probabilities at the prior mean.
        read_variance, prior_read_variance: sigma_q^2 and sigma_p^2 along the forces [latent^2].
        decoder_rate, posterior_rate: eta_w, eta_q [1/step]; None without Adam's moments.
        gamma_x: where the reverse KL comes to set Adam's scale of the log stds [1/nat]; None where it does already.
    """

    prior_std: float
    posterior_std: float
    gap: float
    answer_spread: float
    leaked_nats: float
    sensitivity: float
    reading_nats: float
    reading_error: float
    answer_variance: float
    read_variance: float
    prior_read_variance: float
    decoder_rate: float | None
    posterior_rate: float | None
    gamma_x: float | None


class ReadingProbe:
    """A fixed batch of questions; changes neither the model, nor its gradients, nor any random state.

    Rates need memory for two gradients of all trained weights, and keys and values of x once for every option.

    Args:
        model: an `AMVLForConditionalGeneration`. processor: its own.
        questions: multiple-choice questions with known answers and at least two options; two of them at least.

    Raises:
        ValueError: for a model without latents, fewer than two questions, or a question that does not do.
    """

    def __init__(self, model: Any, processor: AMVLProcessor, questions: Sequence[VisualQuestion]) -> None:
        if not hasattr(model, "posterior_from"):
            raise ValueError(f"model: expected one with latents, received {type(model).__name__}")
        if len(questions) < 2:
            raise ValueError(f"questions: expected at least 2, received {len(questions)}")
        self.model = model
        self.scorer = LatentScorer(model, processor)
        self.batch: QuestionBatch
        (self.batch,) = batches(questions, processor, len(questions), description="", progress=False, least_options=2)
        counts = torch.tensor(self.batch.options, device=self.scorer.device)
        self.options = int(counts.max())
        there = torch.arange(self.options, device=self.scorer.device) < counts[:, None]
        self.weights = there / counts[:, None]  # (B, O), sum 1 over the options of a question
        answers = [self.scorer.option_ids(option).cpu() for option in range(self.options)]
        ids, mask = pad_right(answers, processor.pad_token_id)
        self.ids, self.mask = (item.to(self.scorer.device).repeat(len(questions), 1) for item in (ids, mask))

    def measure(
        self, optimizer: torch.optim.Optimizer | None = None, *, clip_factor: float = 1.0, gamma: float = 0.0
    ) -> ProbeReport:
        """Measure all of it.

        Args:
            optimizer: the Adam that trains the model, for the learning rates and gamma_x.
            clip_factor: c of the last steps, in (0, 1].
            gamma: the reverse KL's present weight [1/nat], whose part in Adam's second moment gamma_x leaves out.
        """
        with evaluating(self.model):
            return self._measure(_Adam(optimizer, clip_factor) if optimizer is not None else None, gamma)

    def _measure(self, adam: _Adam | None, gamma: float) -> ProbeReport:
        model, rows = self.model, self.weights.shape
        with torch.no_grad():
            query = self.scorer.encode_batch(self.batch)
        prior = query.prior
        assert prior is not None
        state = query.state.repeat_interleave(self.options)
        with torch.enable_grad():
            posterior = model.posterior_from(state, self.ids, self.mask)
        means = posterior.mean.unflatten(0, rows).flatten(2)  # (B, O, k d)
        stds = posterior.std.detach().unflatten(0, rows).flatten(2)
        leak = self._centred(means.detach())
        centre = prior.mean.repeat_interleave(self.options, dim=0)

        def log_probs(z: Tensor) -> Tensor:
            return -answer_nll(model.answer_logits(state, z, self.ids), self.ids, self.mask).unflatten(0, rows)

        with torch.enable_grad():
            point = centre.clone().requires_grad_(True)
            scores = log_probs(point)
            (slope,) = torch.autograd.grad(scores.sum(), point)
        force = self._centred(slope.unflatten(0, rows).flatten(2))
        item = self._sum((leak * force).sum(-1))  # (B,)
        sensitivity, spread = self._size(force), self._size(leak)
        along = self.weights[..., None] * force.square() / len(force) / sensitivity**2  # sum 1
        variance = float((along * stds.square()).sum())
        prior_variance = float((along * prior.variance.flatten(1)[:, None]).sum())
        v = self._answer_variance(scores.detach())
        rates: list[float | None] = [None, None]
        crossover = None
        if adam is not None:
            direction, shift = force / sensitivity, variance**0.5 * leak / spread
            rates[1] = adam.rate(lambda half: self._mean((means * direction).sum(-1), half))
            with torch.enable_grad():
                sides = [log_probs(centre + sign * shift.flatten(0, 1).view_as(centre)) for sign in (1.0, -1.0)]
            gain = (sides[0] - sides[1]) / (2 * (variance * v) ** 0.5)
            rates[0] = adam.rate(lambda half: self._mean(gain, half))
            crossover = adam.crossover(model, self._reverse_kl(prior, posterior), gamma)
        numbers = leaked_information_batch(means, stds, self.weights.double().cpu().numpy(), DRAWS)[0]
        gap = self._size(means.detach() - prior.mean.flatten(1)[:, None])
        dimensions = means.shape[-1] ** 0.5
        return ProbeReport(
            prior_std=float(prior.std.mean()),
            posterior_std=float(self._sum(stds.mean(-1)).mean()),
            gap=gap / dimensions,
            answer_spread=spread / dimensions,
            leaked_nats=float(numbers.mean()),
            sensitivity=sensitivity,
            reading_nats=float(item.mean()),
            reading_error=float(item.std() / len(item) ** 0.5),
            answer_variance=v,
            read_variance=variance,
            prior_read_variance=prior_variance,
            decoder_rate=rates[0],
            posterior_rate=rates[1],
            gamma_x=crossover,
        )

    def _sum(self, values: Tensor) -> Tensor:
        """Mean over the options of a question, (B, O) to (B,)."""
        return (self.weights * values).sum(1)

    def _mean(self, values: Tensor, half: int) -> Tensor:
        """Mean over every second question, from number ``half`` on."""
        return self._sum(values)[half::2].mean()

    def _centred(self, values: Tensor) -> Tensor:
        """(B, O, k d) minus its mean over the options of a question."""
        return values - (self.weights[..., None] * values).sum(1, keepdim=True)

    def _size(self, values: Tensor) -> float:
        """sqrt(E |values|^2) over questions and options; at least a number that can be divided by."""
        return max(float(self._sum(values.square().sum(-1)).mean().sqrt()), 1e-12)

    def _answer_variance(self, scores: Tensor) -> float:
        """Mean over questions of v; an impossible option has probability 0, which adds nothing."""
        probabilities = scores.masked_fill(self.weights == 0, -torch.inf).softmax(-1)
        return sum(answer_variance(p) for p in probabilities.double().cpu().numpy()) / len(scores)

    def _reverse_kl(self, prior: DiagonalGaussian, posterior: DiagonalGaussian) -> Tensor:
        """Mean over the questions of KL(sg[p] || q) for the answers that they were given, nats."""
        answers = [question.answer for question in self.batch.questions]
        chosen = torch.tensor([row * self.options + int(a or 0) for row, a in enumerate(answers)])
        given = DiagonalGaussian(posterior.mean[chosen], posterior.log_std[chosen])
        with torch.enable_grad():
            return prior.detach().kl(given).flatten(1).sum(1).mean()


class _Adam:
    """What Adam makes of gradients: the preconditioner of every weight that it has moved."""

    def __init__(self, optimizer: torch.optim.Optimizer, clip_factor: float) -> None:
        self.clip = clip_factor
        self.parameters: list[Tensor] = []
        self.scales: list[tuple[float, float, Tensor]] = []  # lr, eps, second moment
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state.get(parameter) or {}
                if "exp_avg_sq" in state:
                    moment = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
                    self.parameters.append(parameter)
                    self.scales.append((float(group["lr"]), group["eps"], moment))

    def rate(self, function: Callable[[int], Tensor]) -> float | None:
        """eta of the mean of ``function(0)`` and ``function(1)``, its values on the two halves of the questions [1/step]."""
        if not self.parameters:
            return None
        with torch.enable_grad():
            first, second = (
                torch.autograd.grad(function(half), self.parameters, retain_graph=True, allow_unused=True)
                for half in (0, 1)
            )
        total = 0.0
        for one, two, (lr, eps, moment) in zip(first, second, self.scales, strict=True):
            if lr and one is not None and two is not None:
                total += lr * float((one.float() * two.float() / (moment.float().sqrt() + eps)).sum())
        return self.clip * total

    def crossover(self, model: Any, kl: Tensor, gamma: float) -> float | None:
        """gamma_x of the log std's weights of the posterior's head; None where the KL already makes up their moment."""
        weight, rows = model.posterior_head.linear.weight, model.config.latent_dim
        index = next((i for i, parameter in enumerate(self.parameters) if parameter is weight), None)
        if index is None:
            return None
        (gradient,) = torch.autograd.grad(kl, weight, retain_graph=True)
        size = float(gradient[rows:].square().mean().sqrt())
        moment = float(self.scales[index][2][rows:].mean()) - (gamma * self.clip * size) ** 2
        return adam_crossover(moment, size, self.clip) if moment > 0 and size > 0 else None

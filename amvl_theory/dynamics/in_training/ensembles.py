"""Seeds by the thousand: minibatches, sampled answers and latents, SGD and Adam. What T10 to T12 are tested against.

Nothing here knows the linear algebra of `reading` or the expectations of `decoders`. Every seed trains a decoder gain w, a gain u
on x, a leak amplitude a and both log stds on its own minibatches; answers y = +-1, z = y a + sigma_q e by the reparametrised
sample, x = y m + tau e. With l = u x + w z and the slope d = dL/d(y l) of each question,

    dL/dw = E[d y z]   dL/du = E[d y x]   dL/da = E[d w]   dL/d log sigma_q = E[d y w sigma_q e]

(batch means), to which the KL terms add their gradients, with the stop-gradients of the objective:

    gamma KL(sg p || q):  gamma a/Q  to a,   gamma (1 - (P + a^2)/Q)  to log sigma_q
    beta KL(sg q || p):   beta (1 - (Q + a^2)/P)  to log sigma_p

`run_answers` does the same for m answers, softmax logits W z + log p, and posterior means M (e_y - p), at a fixed posterior
variance; `run_softmax` for m equally likely ones, with widths that move.
Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

from amvl_theory.checks import (
    Array,
    instance,
    not_negative,
    one_of,
    pair,
    positive,
    positive_number,
    probabilities,
    real_array,
    scalar,
    weight,
    whole_number,
)
from amvl_theory.dynamics.in_training.coadaptation import Start, TrainingState, XRoute
from amvl_theory.dynamics.in_training.decoders import DECODERS, Decoder, logistic_loss
from amvl_theory.dynamics.in_training.widening import HeadRates

NAMES = ("decoder_gain", "leak", "posterior_log_std", "prior_log_std", "x_gain")
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's."""


@dataclass(frozen=True)
class Ensemble:
    """How the seeds of an ensemble train.

    Attributes:
        seeds: how many. batch: questions per step.
        decoder: "linear" (-kappa y l + k/2 (y l)^2 with kappa = k = 1) or "logistic".
        decoder_rate, posterior_rate, posterior_std_rate, prior_std_rate: learning rates; the route's is its own.
        beta: weight of the forward KL. weight_decay: lambda, on w.
        optimizer: "sgd" or "adam" (on every parameter).
        noise: standard deviation of further Gaussian noise in the gradients of w, a and u: all that a shared network adds.
        start: means of the starting point. decoder_std, leak_std: of its Gaussian spread over seeds.
        route: beside the latent.

    Raises:
        ValueError: naming the argument.
    """

    seeds: int = 1000
    batch: int = 16
    decoder: Decoder = "logistic"
    decoder_rate: float = 0.02
    posterior_rate: float = 0.02
    posterior_std_rate: float = 0.02
    prior_std_rate: float = 0.02
    beta: float = 1.0
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    noise: float = 0.0
    start: Start = field(default_factory=lambda: Start(0.0, 0.0))
    decoder_std: float = 0.02
    leak_std: float = 0.02
    route: XRoute = field(default_factory=XRoute)

    def __post_init__(self) -> None:
        for name in ("seeds", "batch"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        one_of("decoder", self.decoder, DECODERS)
        one_of("optimizer", self.optimizer, ("sgd", "adam"))
        for name in ("decoder_rate", "posterior_rate", "posterior_std_rate", "prior_std_rate", "beta", "weight_decay"):
            weight(name, getattr(self, name))
        for name in ("noise", "decoder_std", "leak_std"):
            weight(name, getattr(self, name))
        instance("start", self.start, Start)
        instance("route", self.route, XRoute)


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleRun(TrainingState):
    """What moves of every seed, each (T, seeds), after the recorded steps (T,)."""

    steps: Array

    @property
    def benefit(self) -> Array:
        """What a logistic decoder gains from posterior latents, ln 2 - E loss (T, seeds) [nats], without a route from x."""
        return np.log(2.0) - logistic_loss(self.decoder_gain * self.leak, self.decoder_gain**2 * self.posterior_var)

    def collapsed(self, threshold: float = 0.05) -> Array:
        """Share of seeds whose benefit has been above `threshold` nats by each recorded step (T,)."""
        least = positive_number("threshold", threshold)
        return np.maximum.accumulate(self.benefit > least, axis=0).mean(axis=1)

    def reached(self, amplitude: float) -> Array:
        """Share of seeds for which w a has been above the amplitude's square by each recorded step (T,)."""
        least = positive_number("amplitude", amplitude) ** 2
        return np.maximum.accumulate(self.decoder_gain * self.leak > least, axis=0).mean(axis=1)


@np.errstate(all="ignore")  # seeds that diverge are refused at the end
def run_ensemble(setting: Ensemble, gamma: ArrayLike, *, steps: int, record: ArrayLike, seed: int = 0) -> EnsembleRun:
    """Train all seeds for `steps` steps.

    Args:
        setting: how they train.
        gamma: weight of the reverse KL, a number or one per step (steps,).
        record: rising numbers of steps after which parameters are kept, each at most `steps`.
        seed: of the random generator.

    Raises:
        ValueError: for a negative weight, fewer than one step, a record that is not within the steps, or seeds that diverge.
    """
    instance("setting", setting, Ensemble)
    steps = whole_number("steps", steps)
    weights = not_negative("gamma", gamma)
    if weights.shape not in ((), (steps,)):
        raise ValueError(f"gamma: expected a number or shape ({steps},), received shape {weights.shape}")
    weights = np.broadcast_to(weights, (steps,))
    numbers = np.atleast_1d(real_array("record", record))
    rising = numbers.ndim == 1 and numbers.size > 0 and not (np.diff(numbers) <= 0).any()
    if not rising or numbers[0] < 0 or numbers[-1] > steps or (numbers % 1).any():
        raise ValueError(f"record: expected rising whole numbers from 0 to {steps}, received {numbers.tolist()}")
    kept = numbers.astype(int)
    rng, start = np.random.default_rng(seed), setting.start
    first = [start.decoder_gain, start.leak, np.log(start.posterior_std), np.log(start.prior_std), start.x_gain]
    state = np.repeat(np.array(first)[:, None], setting.seeds, axis=1)
    state[0] += setting.decoder_std * rng.normal(size=setting.seeds)
    state[1] += setting.leak_std * rng.normal(size=setting.seeds)
    rates = np.array(
        [
            setting.decoder_rate,
            setting.posterior_rate,
            setting.posterior_std_rate,
            setting.prior_std_rate,
            setting.route.rate,
        ]
    )[:, None]
    moments, found = np.zeros((2, *state.shape)), []
    for step in range(steps + 1):
        if step in kept:
            found.append(state.copy())
        if step < steps:
            gradient = _gradients(setting, state, float(weights[step]), rng)
            state = state - rates * _direction(setting.optimizer, gradient, moments, step + 1)
    w, a, log_q, log_p, u = _finite(np.stack(found, axis=1))
    return EnsembleRun(
        steps=kept, decoder_gain=w, leak=a, posterior_var=np.exp(2 * log_q), prior_var=np.exp(2 * log_p), x_gain=u
    )


def _counts(**values: int) -> list[int]:
    return [whole_number(name, value) for name, value in values.items()]


def _finite(values: Array) -> Array:
    if not np.isfinite(values).all():
        raise ValueError("gamma: expected weights and rates at which no seed diverges, received some at which one does")
    return values


def _gradients(setting: Ensemble, state: Array, gamma: float, rng: np.random.Generator) -> Array:
    """Gradients (5, seeds) of one minibatch."""
    w, a, log_q, log_p, u = state
    std, q, p = np.exp(log_q), np.exp(2 * log_q), np.exp(2 * log_p)
    y = rng.integers(0, 2, size=(setting.batch, setting.seeds)) * 2.0 - 1.0
    noise = std * rng.standard_normal(y.shape)
    z = y * a + noise
    logit, x = w * z, None
    if setting.route.rate:
        x = y * setting.route.signal + setting.route.noise * rng.standard_normal(y.shape)
        logit = logit + u * x
    slope = (-expit(-y * logit) if setting.decoder == "logistic" else y * logit - 1.0) * y
    gradient = np.stack(
        [
            (slope * z).mean(0) + setting.weight_decay * w,
            (slope * y).mean(0) * w + gamma * a / q,
            (slope * noise).mean(0) * w + gamma * (1 - (p + a**2) / q),
            setting.beta * (1 - (q + a**2) / p),
            (slope * x).mean(0) if x is not None else np.zeros_like(w),
        ]
    )
    if setting.noise:
        gradient[[0, 1, 4]] += setting.noise * rng.normal(size=(3, setting.seeds))
    return gradient


def _direction(optimizer: str, gradient: Array, moments: Array, step: int) -> Array:
    """The gradient, or Adam's step for it; updates Adam's moments (2, ...)."""
    if optimizer == "sgd":
        return gradient
    moments[0] += (1 - BETA_1) * (gradient - moments[0])
    moments[1] += (1 - BETA_2) * (gradient**2 - moments[1])
    return moments[0] / (1 - BETA_1**step) / (np.sqrt(moments[1] / (1 - BETA_2**step)) + EPSILON)


@np.errstate(all="ignore")
def run_answers(
    answer_probabilities: ArrayLike,
    *,
    gamma: float,
    variance: float,
    rate: float = 0.02,
    seeds: int = 200,
    batch: int = 64,
    steps: int = 400,
    start_std: float = 0.02,
    seed: int = 0,
) -> tuple[Array, Array]:
    """(W, M) (seeds, m, m) after training a softmax decoder on sampled questions, at a fixed posterior variance.

    Args:
        answer_probabilities: p(y|x) (m,), m at least 2. gamma: at least 0. variance: sigma_q^2, above 0 [latent^2].
        rate: learning rate of W and M. start_std: of their entries at the start.

    Raises:
        ValueError: for what are no probabilities, a negative weight or rate, a variance that is not above 0, a number of seeds,
            questions or steps that is none, or seeds that diverge.
    """
    p = real_array("answer_probabilities", answer_probabilities)
    p = probabilities("answer_probabilities", p, max(p.size, 2))
    count, std, pull = p.size, float(np.sqrt(positive_number("variance", variance))), weight("gamma", gamma)
    seeds, batch, steps = _counts(seeds=seeds, batch=batch, steps=steps)
    step, spread = weight("rate", rate) / batch, weight("start_std", start_std)
    rng = np.random.default_rng(seed)
    W, M = (spread * rng.normal(size=(seeds, count, count)) for _ in range(2))
    bias, bounds = np.log(p), np.cumsum(p)[:-1]
    for _ in range(steps):
        y = np.searchsorted(bounds, rng.random((seeds, batch)))
        centred = np.eye(count)[y] - p
        z = centred @ M.transpose(0, 2, 1) + std * rng.normal(size=centred.shape)
        logit = bias + z @ W.transpose(0, 2, 1)
        slope = np.exp(logit - logit.max(-1, keepdims=True))
        slope = slope / slope.sum(-1, keepdims=True) - np.eye(count)[y]
        to_z = slope @ W + pull / std**2 * (centred @ M.transpose(0, 2, 1))
        W = W - step * slope.transpose(0, 2, 1) @ z
        M = M - step * to_z.transpose(0, 2, 1) @ centred
    return _finite(W), _finite(M)


def simplex(answers: int) -> Array:
    """Corners (m, m - 1) of a regular simplex with mean 0 and a unit variance in every mode."""
    m = whole_number("answers", answers, 2)
    modes = np.linalg.eigh(np.eye(m) - 1.0 / m)[1][:, 1:]  # the first is the mean over answers
    return np.sqrt(m) * modes


@np.errstate(all="ignore")
def run_softmax(
    answers: int,
    *,
    gamma: float,
    beta: float = 1.0,
    rate: float = 0.02,
    start: Start | None = None,
    seeds: int = 200,
    batch: int = 64,
    steps: int = 400,
    seed: int = 0,
) -> tuple[Array, Array, Array, Array]:
    """(W, M, Q, P): a softmax decoder of m equally likely answers trained on sampled questions, with widths that move (T12).

    Logits X W z/sqrt m and z = M x_y + sigma_q e with the corners x_y of `simplex`, d = m - 1 modes; the flow of `coadaptation`
    with decoder "softmax" is W = w I, M = a I.

    Args:
        answers: m, at least 2. gamma, beta: at least 0. rate: learning rate of everything. start: w, a and both widths.

    Returns:
        W, M (seeds, d, d); Q, P (seeds, d) [latent^2].

    Raises:
        ValueError: for fewer than two answers, a negative weight or rate, a number of seeds, questions or steps that is none, or
            seeds that diverge.
    """
    X, begin = simplex(answers), Start() if start is None else start
    instance("start", begin, Start)
    pull, push, step = weight("gamma", gamma), weight("beta", beta), weight("rate", rate)
    seeds, batch, steps = _counts(seeds=seeds, batch=batch, steps=steps)
    count, size = X.shape
    rng, to_logits = np.random.default_rng(seed), X / np.sqrt(count)
    W, M = (np.tile(value * np.eye(size), (seeds, 1, 1)) for value in (begin.decoder_gain, begin.leak))
    log_q, log_p = (np.full((seeds, size), np.log(std)) for std in (begin.posterior_std, begin.prior_std))
    for _ in range(steps):
        y = rng.integers(0, count, size=(seeds, batch))
        q, p, leak = np.exp(2 * log_q), np.exp(2 * log_p), (M**2).sum(2)
        noise = np.exp(log_q)[:, None, :] * rng.standard_normal((seeds, batch, size))
        z = X[y] @ M.transpose(0, 2, 1) + noise
        slope = softmax(z @ W.transpose(0, 2, 1) @ to_logits.T, axis=-1)
        slope[np.arange(seeds)[:, None], np.arange(batch), y] -= 1.0
        to_read = slope @ to_logits  # dL/d(W z)
        to_z = to_read @ W
        W = W - step / batch * to_read.transpose(0, 2, 1) @ z
        M = M - step * (to_z.transpose(0, 2, 1) @ X[y] / batch + pull * M / q[:, :, None])
        log_q = log_q - step * ((to_z * noise).mean(1) + pull * (1 - (p + leak) / q))
        log_p = log_p - step * push * (1 - (q + leak) / p)
    return _finite(W), _finite(M), _finite(np.exp(2 * log_q)), _finite(np.exp(2 * log_p))


@np.errstate(all="ignore")
def run_widening(
    *,
    gap: float,
    fixed_gap_var: float,
    gamma: float,
    rates: HeadRates,
    beta: float = 1.0,
    stds: tuple[float, float] = (1.0, 1.0),
    seeds: int = 1000,
    batch: int = 16,
    steps: int = 500,
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    """(Q, P, Delta) (seeds,) after training the heads on the KLs alone, by samples of their scores (T10).

    gamma KL(sg p || q) = E_p[-log q] + const is trained on z ~ p, beta KL(sg q || p) on z ~ q_y, y = +-1, whose mean is
    +- sqrt(V) from the posterior head's: what no head can close.

    Args:
        gap, fixed_gap_var: Delta_0, V. gamma, beta: weights. rates: of the heads. stds: sigma_q, sigma_p at the start.

    Raises:
        ValueError: for a negative weight or variance, a width that is not above 0, a number of seeds, questions or steps that is
            none, or seeds that diverge.
    """
    instance("rates", rates, HeadRates)
    seeds, batch, steps = _counts(seeds=seeds, batch=batch, steps=steps)
    rng = np.random.default_rng(seed)
    w, b, apart = weight("gamma", gamma), weight("beta", beta), np.sqrt(weight("fixed_gap_var", fixed_gap_var))
    log_q, log_p = (np.full(seeds, np.log(std)) for std in pair("stds", positive("stds", stds)))
    mean_q, mean_p = np.full(seeds, scalar("gap", gap)), np.zeros(seeds)
    for _ in range(steps):
        std_q, std_p = np.exp(log_q), np.exp(log_p)
        y = apart * (rng.integers(0, 2, size=(batch, seeds)) * 2.0 - 1.0)
        from_p = (mean_p + std_p * rng.standard_normal(y.shape) - mean_q - y) / std_q
        from_q = (mean_q + y + std_q * rng.standard_normal(y.shape) - mean_p) / std_p
        mean_q = mean_q + rates.posterior_mean * w * from_p.mean(0) / std_q
        mean_p = mean_p + rates.prior_mean * b * from_q.mean(0) / std_p
        log_q = log_q + rates.posterior_std * w * ((from_p**2).mean(0) - 1)
        log_p = log_p + rates.prior_std * b * ((from_q**2).mean(0) - 1)
    return _finite(np.exp(2 * log_q)), _finite(np.exp(2 * log_p)), _finite(mean_q - mean_p)

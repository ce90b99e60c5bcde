"""The registry of objectives. An entry names the terms of a loss; a term names the passes that it reads.

    name        loss
    amvl        NTP + beta KL(sg[q] || p) + gamma KL(sg[p] || q)                (arXiv 2607.00461)
    ntp         NTP
    fwd         beta KL(sg[q] || p)                rev         gamma KL(sg[p] || q)
    ntp+fwd     NTP + beta KL(sg[q] || p)          ntp+rev     NTP + gamma KL(sg[p] || q)         ntp+fwd: "forward-only"
    elbo        NTP + beta KL(q || p)              jeffreys    NTP + beta KL(q || p) + gamma KL(p || q)
    prior       -log p(y|x,z),  z ~ p(z|x)         prior-sample training: no posterior, no KL
    amvl+prior  amvl + alpha (-log p(y|x,z)), z ~ p(z|x)
    sft         -log p(y|x)                        pause       -log p(y|x, w_1 .. w_k)            w: learnt input embeddings

with sg the stop-gradient and NTP = -log p(y|x,z), z ~ q(z|x,y). The forward KL pulls the prior towards a posterior that it
cannot move; the reverse KL pulls the posterior towards a prior that it cannot move; without stop-gradients each moves both. KLs
are summed over slots and dimensions, negative log-likelihoods over the answer's tokens; the trainer takes the mean over examples.

What a model computes for each pass (two_pass/layout.py):

    plain        [x | y]                                no latents
    pause        [x | k pause tokens | y]               learnt input embeddings in place of latents
    prior        [x | k prior latents], then y behind a sample of the prior
    posterior    [x | k prior latents | k posterior latents | y], then y behind a sample of the posterior

An objective of your own is one entry:

    from amvl_model.objectives import FORWARD, NTP, Objective, Term, register_objective

    free_bits = Term("free_bits", "max(KL(sg[p] || q), 1)", "posterior",
                     lambda out: out.kl(out.prior.detach(), out.posterior).clamp(min=1.0), weight="gamma")
    register_objective(Objective("amvl-free-bits", (NTP, FORWARD, free_bits)))

This module needs no torch, so that configurations can be checked against it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Pass = Literal["plain", "pause", "prior", "posterior"]


@dataclass(frozen=True)
class PassOutputs:
    """What the passes of one batch return.

    Attributes:
        answer_nll: by pass, the answer's negative log-likelihood of every example, (B,), nats.
        prior, posterior: p(Z|x) and q(Z|x,y), each a `DiagonalGaussian` (B, k, d); None where no pass made it.
        kl_reduction: "sum" over slots and dimensions, or "mean" over them.
    """

    answer_nll: Mapping[str, Tensor]
    prior: Any = None
    posterior: Any = None
    kl_reduction: Literal["sum", "mean"] = "sum"

    def kl(self, a: Any, b: Any) -> Tensor:
        """KL(a || b) of every example, (B,), nats."""
        item: Tensor = a.kl(b).flatten(1)
        return item.sum(1) if self.kl_reduction == "sum" else item.mean(1)


@dataclass(frozen=True)
class Weights:
    """Weights of the terms at one moment of training; beta and gamma per nat, alpha of the NLL with a sample of the prior.

    Raises:
        ValueError: for a weight that is negative or not finite.
    """

    beta: float = 0.0
    gamma: float = 0.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{entry.name} must be finite and at least 0, got {value}")


@dataclass(frozen=True)
class Term:
    """One summand of a loss.

    Attributes:
        name: in logs, where it stands unweighted; the weighted value is logged as ``weighted_<name without _kl>``.
        equation: without its weight.
        reads: the pass that it reads.
        value: pass outputs to the unweighted term, (B,).
        weight: name of its weight in `Weights`; None: 1.
    """

    name: str
    equation: str
    reads: Pass
    value: Callable[[PassOutputs], Tensor]
    weight: str | None = None

    @property
    def weighted_name(self) -> str:
        """Of the weighted term in logs."""
        return f"weighted_{self.name.removesuffix('_kl')}"


def _sg(distribution: Any) -> Any:
    """sg[.]: the same distribution, cut from the graph."""
    return distribution.detach()


NTP = Term("ntp", "NTP", "posterior", lambda out: out.answer_nll["posterior"])
FORWARD = Term(
    "forward_kl", "KL(sg[q] || p)", "posterior", lambda out: out.kl(_sg(out.posterior), out.prior), weight="beta"
)
REVERSE = Term(
    "reverse_kl", "KL(sg[p] || q)", "posterior", lambda out: out.kl(_sg(out.prior), out.posterior), weight="gamma"
)
FORWARD_OF_BOTH = Term(
    "forward_kl", "KL(q || p)", "posterior", lambda out: out.kl(out.posterior, out.prior), weight="beta"
)
REVERSE_OF_BOTH = Term(
    "reverse_kl", "KL(p || q)", "posterior", lambda out: out.kl(out.prior, out.posterior), weight="gamma"
)
PRIOR_NTP = Term("ntp", "-log p(y|x,z), z ~ p(z|x)", "prior", lambda out: out.answer_nll["prior"])
PRIOR_TERM = replace(PRIOR_NTP, name="prior_ntp", weight="alpha")
PLAIN_NTP = Term("ntp", "-log p(y|x)", "plain", lambda out: out.answer_nll["plain"])
PAUSE_NTP = Term("ntp", "-log p(y|x,w)", "pause", lambda out: out.answer_nll["pause"])


@dataclass(frozen=True)
class Objective:
    """An entry of the registry: a name, and the terms whose weighted sum is the loss.

    Raises:
        ValueError: for no terms, two terms of one name, or a weight that `Weights` does not have.
    """

    name: str
    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"objective {self.name!r} needs terms of different names, got {names}")
        field_names = [entry.name for entry in fields(Weights)]
        for term in self.terms:
            if term.weight is not None and term.weight not in field_names:
                raise ValueError(
                    f"term {term.name!r}: weight must be one of {', '.join(field_names)}, got {term.weight!r}"
                )

    @property
    def equation(self) -> str:
        """The loss as text: ``NTP + beta KL(sg[q] || p) + gamma KL(sg[p] || q)``."""
        return " + ".join(f"{term.weight} {term.equation}" if term.weight else term.equation for term in self.terms)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that the model has to compute, each once."""
        return tuple(dict.fromkeys(term.reads for term in self.terms))

    @property
    def weights(self) -> frozenset[str]:
        """Names of the weights that have an effect."""
        return frozenset(term.weight for term in self.terms if term.weight)

    @property
    def latents(self) -> bool:
        """Whether it trains distributions over latents."""
        return any(term.reads in ("prior", "posterior") for term in self.terms)


@dataclass(frozen=True)
class ObjectiveTerms:
    """Loss of every example and what it is made of; all (B,).

    Attributes:
        total: the loss that is differentiated.
        ntp: answer negative log-likelihood [nats].
        forward_kl, reverse_kl: KL(q || p) and KL(p || q), unweighted [nats]; None without both distributions.
        weighted_forward, weighted_reverse: their contributions to ``total``; None without both distributions.
        others: further terms of the objective by name, unweighted and weighted.
    """

    total: Tensor
    ntp: Tensor
    forward_kl: Tensor | None = None
    reverse_kl: Tensor | None = None
    weighted_forward: Tensor | None = None
    weighted_reverse: Tensor | None = None
    others: Mapping[str, Tensor] | None = None

    def named(self) -> dict[str, Tensor]:
        """All terms but ``total`` by name, for a log."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in ("total", "others")}
        return {name: value for name, value in (own | dict(self.others or {})).items() if value is not None}

    def mean(self) -> dict[str, float]:
        """Batch means of all terms, as plain numbers."""
        return {name: float(value.detach().mean()) for name, value in {"total": self.total, **self.named()}.items()}


@dataclass(frozen=True)
class Loss:
    """An objective at one moment of training: what a model's ``forward`` is given as ``loss``.

    Attributes:
        objective: which terms.
        weights: beta, gamma and alpha now.
        kl_reduction: KLs summed over slots and dimensions, or their mean.
        nll_reduction: answer NLLs summed over tokens ("sum"), or their mean ("token_mean").

    Raises:
        ValueError: for another reduction.
    """

    objective: Objective
    weights: Weights = Weights()
    kl_reduction: Literal["sum", "mean"] = "sum"
    nll_reduction: Literal["sum", "token_mean"] = "sum"

    def __post_init__(self) -> None:
        if self.kl_reduction not in ("sum", "mean"):
            raise ValueError(
                f"kl_reduction must be 'sum' or 'mean' (over slots and dimensions), got {self.kl_reduction!r}"
            )
        if self.nll_reduction not in ("sum", "token_mean"):
            raise ValueError(f"nll_reduction must be 'sum' or 'token_mean', got {self.nll_reduction!r}")

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that the model has to compute."""
        return self.objective.passes

    def __call__(self, answer_nll: Mapping[str, Tensor], prior: Any = None, posterior: Any = None) -> ObjectiveTerms:
        """The loss of every example.

        Args:
            answer_nll: by pass, (B,).
            prior, posterior: (B, k, d), where the passes made them.

        Raises:
            ValueError: for shapes that do not belong together.
        """
        _check_shapes(answer_nll, prior, posterior)
        out = PassOutputs(answer_nll, prior, posterior, self.kl_reduction)
        values = {term.name: term.value(out) for term in self.objective.terms}
        weighted = {
            term.weighted_name: values[term.name] * getattr(self.weights, term.weight)
            for term in self.objective.terms
            if term.weight
        }
        summands = [values[term.name] for term in self.objective.terms if not term.weight] + list(weighted.values())
        total: Tensor = sum(summands[1:], start=summands[0])  # type: ignore[arg-type, assignment]
        result = {"ntp": answer_nll[self.passes[0]], **values, **weighted}
        if prior is not None and posterior is not None:
            p, q, zero = _sg(prior), _sg(posterior), total.new_zeros(total.shape)
            result.setdefault("forward_kl", out.kl(q, p) if "forward_kl" not in values else zero)
            result.setdefault("reverse_kl", out.kl(p, q) if "reverse_kl" not in values else zero)
            result = {"weighted_forward": zero, "weighted_reverse": zero, **result}
        own = {name: result.pop(name) for name in [entry.name for entry in fields(ObjectiveTerms)] if name in result}
        return ObjectiveTerms(total, **own, others=result or None)


OBJECTIVES: dict[str, Objective] = {}
"""The registry, by name."""


def register_objective(objective: Objective) -> Objective:
    """Add an entry; it can then be named in configurations, on the command line and in `amvl_objective`.

    Raises:
        ValueError: for a name that is taken.
    """
    if objective.name in OBJECTIVES:
        raise ValueError(
            f"the objective {objective.name!r} is already registered: {OBJECTIVES[objective.name].equation}"
        )
    OBJECTIVES[objective.name] = objective
    return objective


for _name, _terms in {
    "amvl": (NTP, FORWARD, REVERSE),
    "ntp": (NTP,),
    "fwd": (FORWARD,),
    "rev": (REVERSE,),
    "ntp+fwd": (NTP, FORWARD),
    "ntp+rev": (NTP, REVERSE),
    "elbo": (NTP, FORWARD_OF_BOTH),
    "jeffreys": (NTP, FORWARD_OF_BOTH, REVERSE_OF_BOTH),
    "prior": (PRIOR_NTP,),
    "amvl+prior": (NTP, FORWARD, REVERSE, PRIOR_TERM),
    "sft": (PLAIN_NTP,),
    "pause": (PAUSE_NTP,),
}.items():
    register_objective(Objective(_name, _terms))


def objective_named(name: str) -> Objective:
    """The entry of that name.

    Raises:
        ValueError: for a name that is not registered.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    close = difflib.get_close_matches(name, OBJECTIVES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}{hint}")


def amvl_objective(
    prior: Any,
    posterior: Any,
    answer_nll: Tensor,
    beta: float,
    gamma: float,
    *,
    objective: str = "amvl",
    kl_reduction: Literal["sum", "mean"] = "sum",
) -> ObjectiveTerms:
    """Evaluate an objective on prior and posterior, example by example.

    Args:
        prior: p(Z|x), a `DiagonalGaussian` (B, k, d).
        posterior: q(Z|x,y), (B, k, d).
        answer_nll: (B,), nats, with a sample of the posterior; summed over the answer's tokens (or averaged, if the caller
            prefers that scale).
        beta: weight of the forward KL, at least 0.
        gamma: weight of the reverse KL, at least 0.
        objective: a name of `OBJECTIVES` whose terms read the posterior's pass.
        kl_reduction: "sum" over slots and dimensions, or "mean" over them.

    Raises:
        ValueError: for an unknown name, a negative or non-finite weight, or shapes that do not belong together.
    """
    entry = objective_named(objective)
    if entry.passes != ("posterior",):
        raise ValueError(
            f"objective {objective!r} reads the passes {', '.join(entry.passes)}; call Loss with their outputs"
        )
    return Loss(entry, Weights(beta, gamma), kl_reduction)({"posterior": answer_nll}, prior, posterior)


def schedule(
    progress: float, order: str, beta_warmup: float, gamma_delay: float, gamma_warmup: float
) -> tuple[float, float]:
    """Shares of beta and gamma, 0 to 1, at ``progress``, the share of training that is done.

    forward-first (the paper's order): beta rises linearly from 0 at the start to 1 at ``beta_warmup``; gamma is 0 up to
    ``gamma_delay`` and 1 after another ``gamma_warmup``. reverse-first exchanges the two, simultaneous gives both the first.

    Raises:
        ValueError: for a progress outside [0, 1] or an unknown order.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected steps done / steps in all, from 0 to 1, received {progress}")
    first, second = _ramp(progress, 0.0, beta_warmup), _ramp(progress, gamma_delay, gamma_warmup)
    shares = {"forward-first": (first, second), "reverse-first": (second, first), "simultaneous": (first, first)}
    if order not in shares:
        raise ValueError(f"order: expected one of {', '.join(shares)}, received {order!r}")
    return shares[order]


def _ramp(progress: float, start: float, length: float) -> float:
    """0 before ``start``, 1 from ``start + length`` on, linear between."""
    if progress < start:
        return 0.0
    return 1.0 if length <= 0 else min(1.0, (progress - start) / length)


def _check_shapes(answer_nll: Mapping[str, Tensor], prior: Any, posterior: Any) -> None:
    shapes = {name: tuple(value.shape) for name, value in answer_nll.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"expected answer_nll of one shape (batch,) for every pass, got {shapes}")
    batch = next(iter(shapes.values()))
    for name, value in (("prior", prior), ("posterior", posterior)):
        if value is not None and tuple(value.mean.shape[:1]) != batch:
            raise ValueError(
                f"expected {name} (batch, k, d) and answer_nll (batch,), got {tuple(value.mean.shape)} and {batch}"
            )
    if prior is not None and posterior is not None and prior.mean.shape != posterior.mean.shape:
        raise ValueError(
            "expected prior and posterior of one shape (batch, k, d) and answer_nll (batch,), got "
            f"{tuple(prior.mean.shape)}, {tuple(posterior.mean.shape)} and {batch}"
        )

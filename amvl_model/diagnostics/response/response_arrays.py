"""One question's linear response as arrays: the span of the answer forces, units, and what the theory's model takes.

Pure numpy; the equations, the choice of basis, the units and the anchor are described in linear_response.py.

Shapes: O options, D = k d flattened latents, r modes (the dimension of the span).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Units = Literal["prior", "posterior", "latent"]

RANK_TOLERANCE = 1e-3
"""Smallest singular value, relative to the largest, that counts as a direction (float32 gradients are good to 1e-5)."""

LEAST_OTHER = 1e-5
"""Smallest probability of answers that are no option whose force can be told from float32 rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearResponse:
    """Linear response of one question at its prior mean, in a basis of r modes.

    Attributes:
        question_id, task: of the question.
        units: in which the basis is orthonormal: "prior", "posterior" or "latent".
        directions: (r, D), one unit along each mode in latent units: z - prior_mean = w @ directions.
        projector: (r, D), w = projector @ (z - prior_mean), orthogonal in the prior's metric.
        prior_mean: (D,).
        weights: (O,), answer probabilities that means and covariances are taken with.
        answer_probs: (O,), the model's own p(a|x, prior mean), not normalised over the options.
        forces: (O, r), -d NLL(a)/dw, nats/unit.
        curvature: (r, r), Gauss-Newton, nats/unit^2.
        hessians: (O, r, r), d^2 NLL(a)/dw^2, nats/unit^2; None if they were not asked for.
        prior_precision: (r, r), 1/unit^2.
        posterior_precisions: (O, r, r), of every option's posterior, 1/unit^2.
        posterior_shifts: (O, r), posterior mean of every option minus prior mean, in units.
        outside: share of the squared posterior shifts (weights w, prior's metric) that lies outside the span, 0 to 1; None
            where no posterior differs from the prior.
    """

    question_id: str
    task: str
    units: str
    directions: Array
    projector: Array
    prior_mean: Array
    weights: Array
    answer_probs: Array
    forces: Array
    curvature: Array
    hessians: Array | None
    prior_precision: Array
    posterior_precisions: Array
    posterior_shifts: Array
    outside: float | None

    @property
    def modes(self) -> int:
        """r, the dimension of the span; 0 where the answer does not read the latents."""
        return len(self.directions)

    @property
    def force_mean(self) -> Array:
        """gbar (r,), nats/unit."""
        return self.weights @ self.forces

    @property
    def force_cov(self) -> Array:
        """G (r, r), nats^2/unit^2."""
        deviation = self.forces - self.force_mean
        return symmetric((self.weights[:, None] * deviation).T @ deviation)

    @property
    def posterior_precision(self) -> Array:
        """Lambda_q (r, r): mean over the options with the weights, 1/unit^2."""
        return symmetric(np.einsum("o,oij->ij", self.weights, self.posterior_precisions))

    @property
    def hessian(self) -> Array | None:
        """d^2 NLL/dw^2 (r, r), mean over the options with the weights, nats/unit^2."""
        return None if self.hessians is None else symmetric(np.einsum("o,oij->ij", self.weights, self.hessians))

    @property
    def force_variance_over_curvature(self) -> float | None:
        """Largest eigenvalue of H^-1 G in nats, the same in all units; None without modes."""
        if not self.modes:
            return None
        half = _power(self.curvature, -0.5)
        return float(np.linalg.eigvalsh(symmetric(half @ self.force_cov @ half))[-1])

    @property
    def negative_mass(self) -> float | None:
        """Share of the true Hessian's absolute eigenvalues that is negative, in the prior's metric, 0 to 1."""
        if self.hessian is None or not self.modes:
            return None
        half = _power(self.prior_precision, -0.5)
        values = np.linalg.eigvalsh(symmetric(half @ self.hessian @ half))
        total = float(np.abs(values).sum())
        return float(-values[values < 0].sum()) / total if total > 0 else None

    def in_units(self, units: Units) -> LinearResponse:
        """The same span in a basis that is orthonormal in other units.

        Raises:
            ValueError: for unknown units.
        """
        metrics = {
            "prior": self.prior_precision,
            "posterior": self.posterior_precision,
            "latent": symmetric(self.directions @ self.directions.T),
        }
        if units not in metrics:
            raise ValueError(f"units must be one of {', '.join(metrics)}, got {units!r}")
        to, back = _power(metrics[units], -0.5), _power(metrics[units], 0.5)
        return replace(
            self,
            units=units,
            directions=to @ self.directions,
            projector=back @ self.projector,
            forces=self.forces @ to,
            curvature=symmetric(to @ self.curvature @ to),
            hessians=None if self.hessians is None else to @ self.hessians @ to,
            prior_precision=symmetric(to @ self.prior_precision @ to),
            posterior_precisions=to @ self.posterior_precisions @ to,
            posterior_shifts=self.posterior_shifts @ back,
        )

    def arrays(self, *, reference: Array | None = None, anchor: float = 0.0) -> dict[str, Array]:
        """The arguments of `amvl_theory.MeanLeakageModel`, by name.

        Args:
            reference: m* (D,) in latent units. None takes the prior mean itself: force_mean is the measured one, and the
                theory's frozen_prior_response then predicts the posterior's mean shift from the prior. Otherwise the force
                is extrapolated linearly to the reference, g(m*) = g + H c with c the prior mean minus m*; mind the range
                of the linear response if c is many standard deviations.
            anchor: alpha, the anchor in units of the prior's precision, A = alpha Lambda_p.

        Returns:
            curvature, force_cov, posterior_precision, prior_precision, anchor (r, r) and force_mean (r,).

        Raises:
            ValueError: if the answer does not read the latents (no modes), or the anchor is negative.
        """
        if not self.modes:
            raise ValueError(
                f"question {self.question_id!r}: all answer forces are 0, so there is no direction to predict in; "
                "leave it out (modes == 0)"
            )
        if not anchor >= 0:
            raise ValueError(f"expected an anchor of at least 0, got {anchor}")
        force = self.force_mean
        if reference is not None:
            force = force + self.curvature @ self.prior_offset(reference)
        return {
            "curvature": self.curvature,
            "force_mean": force,
            "force_cov": self.force_cov,
            "posterior_precision": self.posterior_precision,
            "prior_precision": self.prior_precision,
            "anchor": anchor * self.prior_precision,
        }

    def prior_offset(self, reference: Array) -> Array:
        """c (r,): the prior mean minus ``reference`` (D,), projected on the span, in units."""
        return self.projector @ (self.prior_mean - reference)


@dataclass(frozen=True, kw_only=True)
class Absorption:
    """Share of the posterior's mean shift that the prior has taken over, on the two halves of the questions.

    Attributes:
        share: s of the first and the second half; None where nothing shifts.
        anchor_over_beta: (1 - s) / s of each half, cut at 0; None where s is not above 0.
        reference: m* (D,) of each half.
        half: (n,), 0 or 1, which half a question is in.
        seed: of the split.
    """

    share: tuple[float | None, float | None]
    anchor_over_beta: tuple[float | None, float | None]
    reference: tuple[Array, Array]
    half: NDArray[np.int64]
    seed: int

    def for_question(self, index: int, beta: float) -> tuple[Array, float | None]:
        """Reference m* (D,) and anchor alpha for a question, both from the other half of the questions."""
        other = 1 - int(self.half[index])
        ratio = self.anchor_over_beta[other]
        return self.reference[other], None if ratio is None else beta * ratio


def absorption(responses: Sequence[LinearResponse], seed: int = 0) -> Absorption:
    """Split-half absorption and anchor (definition in linear_response.py).

    Raises:
        ValueError: for fewer than four questions.
    """
    if len(responses) < 4:
        raise ValueError(f"expected at least four questions to split into halves, got {len(responses)}; take more")
    half = np.random.default_rng(seed).permutation(len(responses)) % 2
    shares: list[float | None] = []
    references = []
    for part in (0, 1):
        members = [responses[i] for i in np.flatnonzero(half == part).tolist()]
        reference = np.mean([item.prior_mean for item in members], axis=0)
        references.append(reference)
        pairs = [_absorption_terms(item, reference) for item in members]
        product, square = np.sum(pairs, axis=0)
        shares.append(float(product / square) if square > 0 else None)
    ratios = [None if s is None or s <= 0 else max(0.0, (1 - s) / s) for s in shares]
    return Absorption(
        share=(shares[0], shares[1]),
        anchor_over_beta=(ratios[0], ratios[1]),
        reference=(references[0], references[1]),
        half=half,
        seed=seed,
    )


def _absorption_terms(response: LinearResponse, reference: Array) -> tuple[float, float]:
    """<c, dbar> and <dbar, dbar> in the prior's metric."""
    prior = response.prior_offset(reference)
    posterior = prior + response.weights @ response.posterior_shifts
    pulled = response.prior_precision @ posterior
    return float(prior @ pulled), float(posterior @ pulled)


def span_of_forces(forces: Array, prior_std: Array) -> Array:
    """Displacements (r, D) of one prior standard deviation each that span s_p^2 g_a, largest singular value first.

    Args:
        forces: (O, D), nats/latent.
        prior_std: (D,).
    """
    _, sizes, rows = np.linalg.svd(forces * prior_std, full_matrices=False)
    main_rows = rows[sizes > RANK_TOLERANCE * sizes[0]] if sizes[0] > 0 else rows[:0]
    sizes = np.abs(main_rows)  # the first of the largest entries, as float32 tells them apart, is positive
    first = (sizes > (1 - RANK_TOLERANCE) * sizes.max(axis=1, keepdims=True, initial=0.0)).argmax(axis=1)
    signs = np.sign(main_rows[np.arange(len(main_rows)), first])
    return signs[:, None] * main_rows * prior_std


def project(
    *,
    question_id: str,
    task: str,
    forces: Array,
    answer_probs: Array,
    prior: tuple[Array, Array],
    posteriors: tuple[Array, Array],
    weights: Array,
) -> LinearResponse:
    """The linear response in prior units from full-size arrays, without Hessians.

    Args:
        question_id, task: of the question.
        forces: (O, D), nats/latent.
        answer_probs: (O,), p(a|x, prior mean).
        prior: mean and standard deviation, each (D,).
        posteriors: means and standard deviations, each (O, D).
        weights: (O,), at least 0 with sum 1.

    Raises:
        ValueError: if the weights are no probabilities of these options.
    """
    if weights.shape != answer_probs.shape or (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(
            f"question {question_id!r}: expected one probability per option with sum 1, got {weights.tolist()}"
        )
    (mean, std), (means, stds) = prior, posteriors
    directions = span_of_forces(forces, std)
    projector = directions / std**2
    local = forces @ directions.T
    shifts = means - mean
    inside = shifts @ projector.T
    whole = float(weights @ np.sum((shifts / std) ** 2, axis=1))
    return LinearResponse(
        question_id=question_id,
        task=task,
        units="prior",
        directions=directions,
        projector=projector,
        prior_mean=mean,
        weights=weights / weights.sum(),
        answer_probs=answer_probs,
        forces=local,
        curvature=_fisher(local, answer_probs),
        hessians=None,
        prior_precision=np.eye(len(directions)),
        posterior_precisions=np.einsum("id,od,jd->oij", directions, stds**-2.0, directions),
        posterior_shifts=inside,
        outside=max(0.0, 1 - float(weights @ np.sum(inside**2, axis=1)) / whole) if whole > 0 else None,
    )


def _fisher(forces: Array, answer_probs: Array) -> Array:
    """sum_a p_a g_a g_a^T (r, r) over the options and, as one more answer, everything that is no option.

    Probabilities sum to 1 wherever z is, so the score of the rest is g_o = -sum_a p_a g_a / p_o.
    """
    result = (answer_probs[:, None] * forces).T @ forces
    other = 1 - float(answer_probs.sum())
    if other > LEAST_OTHER:
        pull = answer_probs @ forces
        result = result + np.outer(pull, pull) / other
    return symmetric(result)


def symmetric(matrix: Array) -> Array:
    """The symmetric part of (..., r, r): what is left of rounding is cut away."""
    return 0.5 * (matrix + np.swapaxes(matrix, -1, -2))


def _power(matrix: Array, exponent: float) -> Array:
    """Power of a symmetric positive definite matrix (r, r)."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T

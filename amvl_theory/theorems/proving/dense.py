"""Random dense instances, and their equilibria by one direct linear solve of both stationarity equations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from amvl_theory.checks import Array

SEED = 20260700461
GAMMAS = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 20.0)
"""Weights of the reverse KL at which a quantity is checked not to rise."""


@dataclass(frozen=True)
class Instance:
    """H, A (d, d); lam_q, lam_p (d,) diagonals; g (d,); G (d, d); the weights."""

    H: Array
    A: Array
    lam_q: Array
    lam_p: Array
    g: Array
    G: Array
    beta: float
    gamma: float

    def equilibrium(self, gamma: float | None = None, A: Array | None = None) -> tuple[Array, Array]:
        """(dbar, c) from the 2d stationarity equations at once, no closed form used."""
        weight = self.gamma if gamma is None else gamma
        anchor = self.A if A is None else A
        pull_q, pull_p = weight * np.diag(self.lam_q), self.beta * np.diag(self.lam_p)
        system = np.block([[self.H + pull_q, -pull_q], [-pull_p, pull_p + anchor]])
        both = np.linalg.solve(system, np.concatenate([self.g, np.zeros_like(self.g)]))
        return both[: self.g.size], both[self.g.size :]

    def response(self, gamma: float) -> Array:
        """H + gamma Lambda_q."""
        return self.H + gamma * np.diag(self.lam_q)


def definite(rng: np.random.Generator, size: int) -> Array:
    """A random dense positive definite matrix with eigenvalues in about [0.2, 5]."""
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    matrix = (basis * rng.uniform(0.2, 5.0, size)) @ basis.T
    return 0.5 * (matrix + matrix.T)


def instances(count: int = 40, largest: int = 8, *, dense_anchor: bool = False) -> Iterator[Instance]:
    """``count`` seeded instances with d from 2 to ``largest``; the anchor is diagonal unless asked otherwise."""
    rng = np.random.default_rng(SEED)
    for k in range(count):
        d = 2 + k % (largest - 1)
        force = rng.normal(size=(d, d + 1))
        anchor = definite(rng, d) if dense_anchor else np.diag(rng.uniform(0.0, 3.0, d))
        yield Instance(
            H=definite(rng, d),
            A=anchor,
            lam_q=rng.uniform(0.2, 5.0, d),
            lam_p=rng.uniform(0.2, 5.0, d),
            g=rng.normal(size=d),
            G=force @ force.T,
            beta=float(rng.uniform(0.1, 3.0)),
            gamma=float(rng.uniform(0.1, 3.0)),
        )


def relative(left: Array, right: Array) -> float:
    """Largest difference over the largest entry."""
    return float(np.abs(left - right).max() / max(np.abs(right).max(), 1e-300))


def largest_rise(values: Array) -> float:
    """By how much a sequence rises at most from one entry to the next, relative to its first entry."""
    return float(np.diff(values).max() / abs(values[0]))

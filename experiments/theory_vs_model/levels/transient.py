"""Levels of training under way: T10's widening, as far as it has come when training ends.

Where the prior follows at once (a << b) and the means of the answers stay apart by V, T10 (case 1) has dQ/dt = 4 a V, with a in
proportion to the weight w that acts. Of runs of one length and seed, each question's own leak L_ref at the reference's gamma:

    Q(gamma) = Q_0 + (Q_ref - Q_0) w/w_ref        L(gamma) = 1/2 log(1 + (exp(2 L_ref) - 1) Q_ref/Q(gamma))

    T10         w = gamma
    T10 Adam    w = gamma/sqrt(1 + (gamma/gamma_x)^2)    (case 4)

Q_0 is the posterior variance of the seed's forward-only run, Q_ref that of its reference, both the squared mean standard
deviation on held-out questions in the study leakage. Nothing is fitted, but two trained runs are read where the other levels
read one, and the reference's own leak is among what is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amvl_theory.dynamics.in_training.widening import adam_effective_weight
from experiments.theory_vs_model.scoring.tables import REFERENCE, Key, Table

GAMMA_X = 1e-4
"""gamma_x of the tiny preset [1/nat]: 0.6e-4 to 1.4e-4 in four seeds (THEORY.md, T10)."""
LEVELS = ("T10", "T10 Adam")


def transient_rows(
    table: Table, reference_gamma: float, stds: tuple[float, float], gammas: Sequence[float], noise: float
) -> dict[Key, np.ndarray]:
    """Leaked information (n,) [nats] at these gammas, by key of a table.

    Args:
        table: with the reference's own leak. reference_gamma: above 0. noise: label noise of the reference.
        stds: posterior standard deviations of the forward-only run and of the reference [latent].

    Raises:
        ValueError: if the table lacks the reference, or gamma or a width is not above 0.
    """
    own = table.get(noise, REFERENCE, reference_gamma, "leak")
    if own is None or reference_gamma <= 0 or min(stds) <= 0:
        raise ValueError(
            f"expected a reference's leak at a gamma above 0 and widths above 0, received gamma {reference_gamma:g}, "
            f"widths {stds[0]:g} and {stds[1]:g}{'' if own is not None else ', and no leak'}"
        )
    start, reached = np.square(stds)
    at = np.array(gammas)
    rows: dict[Key, np.ndarray] = {}
    for level, weights, reference in (
        (LEVELS[0], at, reference_gamma),
        (LEVELS[1], adam_effective_weight(at, GAMMA_X), adam_effective_weight(reference_gamma, GAMMA_X)),
    ):
        for gamma, ratio in zip(gammas, weights / reference, strict=True):
            width = start + (reached - start) * ratio
            rows[noise, level, gamma, "leak"] = 0.5 * np.log1p(np.expm1(2 * own) * reached / width)
    return rows

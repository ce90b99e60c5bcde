"""The mean-leakage model: what a posterior that sees the answer does to a prior that must reproduce it.

For one query x with answers y ~ p(y|x) and a latent z in R^d (the k slots flattened), diagonal Gaussians

    posterior   q(z|x,y) = N(m* + delta_y, Sigma_q)
    prior       p(z|x)   = N(m* + c,       Sigma_p)

meet an answer loss that is quadratic near the leak-free reference mean m* (linear response):

    L_NTP(z; y) = -g_y^T (z - m*) + 1/2 (z - m*)^T H (z - m*)
    E_q L_NTP   = -g_y^T delta_y + 1/2 delta_y^T H delta_y + 1/2 tr(H Sigma_q)

and the objective that `amvl_model` trains with (sg = stop-gradient), plus an anchor on the prior:

    L = E_y[ E_q L_NTP + beta KL(sg[q_y] || p) + gamma KL(sg[p] || q_y) ] + 1/2 c^T A c

whose gradient flow, with rates eta_q and eta_p, is

    d delta_y/dt = -eta_q [ H delta_y - g_y + gamma Lambda_q (delta_y - c) ]
    d c/dt       = -eta_p [ beta Lambda_p (c - E_y delta_y) + A c ]

Split into channels: delta_y = dbar + eps_y with dbar = E_y delta_y. (dbar, c) is the mean channel, eps_y the spread.

| symbol    | name here             | shape      | unit           | meaning                                                     |
| --------- | --------------------- | ---------- | -------------- | ----------------------------------------------------------- |
| H         | `curvature`           | (d, d)     | nats/latent^2  | curvature of the answer loss, positive definite             |
| gbar      | `force_mean`          | (d,)       | nats/latent    | E_y g_y, the answer force that x determines                 |
| G         | `force_cov`           | (d, d)     | nats^2/latent^2| Cov_y(g_y), the answer force that x does not determine      |
| Lambda_q  | `posterior_precision` | (d, d)     | 1/latent^2     | inverse posterior covariance, the same for all answers      |
| Lambda_p  | `prior_precision`     | (d, d)     | 1/latent^2     | inverse prior covariance                                    |
| A         | `anchor`              | (d, d)     | nats/latent^2  | what keeps the prior from following: weight decay, capacity |
| beta      | `beta`                | ()         | 1              | weight of the forward KL, KL(sg[q]||p), which trains p      |
| gamma     | `gamma`               | ()         | 1              | weight of the reverse KL, KL(sg[p]||q), which trains q      |
| delta_y   | posterior shift       | (d,)       | latent         | answer leakage                                              |
| c         | contamination         | (d,)       | latent         | prior contamination                                         |
| S         | absorption            | (d, d)     | 1              | c = S dbar; S = (I + (beta Lambda_p)^-1 A)^-1               |

Source: derived for this project (README.md of this package); the setting (Gaussian, linear response, leakage in the mean)
is that of arXiv 2607.00461, whose own proofs are not public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, common_size, is_definite, is_diagonal, symmetric_matrix, vector, weight


@dataclass(frozen=True, eq=False)
class MeanLeakageModel:
    """One query's answer forces, curvature, precisions and anchor: the module's equations with numbers in them.

    Every argument may be a number (times the identity, or broadcast), a vector (d,) (a diagonal, or the force) or a full
    symmetric matrix (d, d); they are stored as float64 arrays of full shape and are read-only.

    Args:
        curvature: H, positive definite [nats/latent^2].
        force_mean: gbar (d,) [nats/latent].
        force_cov: G, positive semidefinite [nats^2/latent^2].
        posterior_precision: Lambda_q, positive definite [1/latent^2].
        prior_precision: Lambda_p, positive definite [1/latent^2].
        anchor: A, positive semidefinite [nats/latent^2].

    Raises:
        ValueError: naming the argument, what was expected and what came (shapes that disagree, a matrix that is not
            symmetric or not definite, NaN or infinity).
    """

    curvature: ArrayLike
    force_mean: ArrayLike
    force_cov: ArrayLike = 0.0
    posterior_precision: ArrayLike = 1.0
    prior_precision: ArrayLike = 1.0
    anchor: ArrayLike = 0.0

    def __post_init__(self) -> None:
        size = common_size(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        for name in ("curvature", "posterior_precision", "prior_precision"):
            self._store(name, symmetric_matrix(name, getattr(self, name), size, definite=True))
        for name in ("force_cov", "anchor"):
            self._store(name, symmetric_matrix(name, getattr(self, name), size, definite=False))
        self._store("force_mean", vector("force_mean", self.force_mean, size))

    def _store(self, name: str, array: Array) -> None:
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    # The fields as arrays, for type checkers; H, g and so on as in the equations above.

    @property
    def H(self) -> Array:
        """Curvature (d, d)."""
        return np.asarray(self.curvature)

    @property
    def g(self) -> Array:
        """Mean answer force (d,)."""
        return np.asarray(self.force_mean)

    @property
    def G(self) -> Array:
        """Covariance of the answer force (d, d)."""
        return np.asarray(self.force_cov)

    @property
    def Lambda_q(self) -> Array:
        """Posterior precision (d, d)."""
        return np.asarray(self.posterior_precision)

    @property
    def Lambda_p(self) -> Array:
        """Prior precision (d, d)."""
        return np.asarray(self.prior_precision)

    @property
    def A(self) -> Array:
        """Anchor (d, d)."""
        return np.asarray(self.anchor)

    @property
    def size(self) -> int:
        """d, the number of latent modes."""
        return int(self.g.shape[0])

    @property
    def diagonal(self) -> bool:
        """Whether all matrices are diagonal, so that every mode stands alone."""
        return all(is_diagonal(matrix) for matrix in (self.H, self.G, self.Lambda_q, self.Lambda_p, self.A))

    def absorption(self, beta: float) -> Array:
        """S (d, d) with c = S dbar at the prior's equilibrium, (beta Lambda_p + A)^-1 beta Lambda_p.

        0 where the anchor holds the prior, 1 (the identity) without an anchor. beta = 0 is taken as the limit from above,
        where an unanchored prior still follows in full; an anchored one does not.

        Raises:
            ValueError: if beta is negative or not finite, or 0 with an anchor that is singular but not 0, where the
                limit is not a matrix that the arguments determine.
        """
        beta = weight("beta", beta)
        if beta == 0:
            if not self.A.any():
                return np.eye(self.size)
            if not is_definite(self.A):
                raise ValueError("beta: expected a number above 0 where the anchor is singular, received 0")
            return np.zeros((self.size, self.size))
        pull = beta * self.Lambda_p
        return np.linalg.solve(pull + self.A, pull)

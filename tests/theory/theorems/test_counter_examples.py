"""The counter-examples of the proofs, recomputed in fractions without sympy."""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest

from amvl_theory.theorems import Theorem, prove_all

Matrix = list[list[F]]


@pytest.fixture(scope="module")
def proven() -> list[Theorem]:
    return prove_all(["T2", "T3", "T7"])


def _solve(matrix: Matrix, right: list[F]) -> list[F]:
    """Gauss elimination in fractions."""
    rows = [[*map(F, row), F(value)] for row, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next(k for k in range(i, len(rows)) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(len(rows)):
            if k != i:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def _equilibrium(H: Matrix, A: Matrix, lam_q: list[F], g: list[F], gamma: F) -> tuple[list[F], list[F]]:
    """(dbar, c) of two modes with beta = 1 and Lambda_p = I, from both stationarity equations."""
    q = [gamma * x for x in lam_q]
    system = [
        [H[0][0] + q[0], H[0][1], -q[0], 0],
        [H[1][0], H[1][1] + q[1], 0, -q[1]],
        [-1, 0, 1 + A[0][0], A[0][1]],
        [0, -1, A[1][0], 1 + A[1][1]],
    ]
    both = _solve(system, [*g, F(0), F(0)])
    return both[:2], both[2:]


def _check(proven: list[Theorem], name: str, part: str) -> str:
    """The detail of the one passed check of a statement whose name contains ``part``."""
    result = [c for item in proven if item.name == name for c in item.checks if part in c.name]
    assert len(result) == 1 and result[0].passed, (name, part, result)
    return result[0].detail


def test_t2_the_norm_grows_from_10_to_12_16(proven: list[Theorem]) -> None:
    start = _solve([[2, 1], [1, 1]], [5, 4])
    end = _solve([[3, 1], [1, F(101, 100)]], [5, 4])
    squares = [sum(x * x for x in shift) for shift in (start, end)]
    assert squares == [10, F(10225, 841)]
    assert "10 at gamma 0 and 10225/841" in _check(proven, "T2", "the norm grows where")


def test_t3_a_fully_absorbed_mode_goes_from_0_to_1(proven: list[Theorem]) -> None:
    for gamma in (F(0), F(1), F(10**6)):
        _, c = _equilibrium([[1, 1], [1, 2]], [[0, 0], [0, 10]], [1, 1], [1, 2], gamma)
        assert c[0] == 10 * gamma / (10 * gamma + 11)
    assert "from 0 to 1" in _check(proven, "T3", "fully absorbed mode moves")


def test_t3_contamination_grows_in_norm_with_dense_curvature(proven: list[Theorem]) -> None:
    sizes = [
        sum(x * x for x in _equilibrium([[1, 1], [1, 2]], [[1, 0], [0, 9]], [1, 1], [1, 2], F(k))[1]) for k in (0, 1)
    ]
    assert sizes == [F(1, 100), F(97, 4489)] and sizes[1] > sizes[0]
    assert "from 1/100 to 97/4489" in _check(proven, "T3", "|c| grows although")


def test_t3_energy_grows_when_the_anchor_is_not_diagonal(proven: list[Theorem]) -> None:
    energies = []
    for gamma in (F(0), F(1), F(3)):
        shift, _ = _equilibrium([[1, 0], [0, 1]], [[1, 1], [1, 1]], [1, 5], [3, -1], gamma)
        energies.append(3 * shift[0] - shift[1])
        assert energies[-1] == 10 + 4 * gamma / (3 + 6 * gamma)
    assert energies == sorted(energies) and energies[0] == 10 and energies[1] == F(94, 9)
    assert "up to 32/3" in _check(proven, "T3", "the energy grows")


def test_t3_has_no_equilibrium_at_the_singular_precision() -> None:
    with pytest.raises(StopIteration):  # no pivot left
        _equilibrium([[1, 2], [2, 5]], [[1, 1], [1, F(11, 10)]], [1, F(67, 7)], [1, 0], F(1))


def test_t5_transient_in_which_dual_kl_is_worse() -> None:
    rates = np.array([[-3.0, 2.0], [1.0, -1.2]])
    values, vectors = np.linalg.eig(rates)
    state = vectors @ (np.exp(3 * values) * np.linalg.solve(vectors, [0.0, 1.0]))
    assert state[1] == pytest.approx(0.2156, abs=1e-4)
    assert state[1] > 7 * math.exp(-3.6)


def test_t6_neither_objective_dominates() -> None:
    for weight, elbo, dual in ((F(1, 2), F(1), F(1, 2)), (F(8, 9), F(1, 8), F(1, 4))):
        root = {F(4): F(2), F(9, 4): F(3, 2)}[2 / weight]  # sqrt(gamma_c / weight), gamma_c = 2
        assert 1 / weight - 1 == elbo and (root - 1) / 2 == dual


@pytest.mark.parametrize(("shift", "spread", "prior"), [(F(5, 2), F(5, 4), F(15, 2)), (F(5, 4), F(15, 16), F(5, 2))])
def test_t6_the_dense_elbo_is_active_above_its_threshold(shift: F, spread: F, prior: F) -> None:
    beta, curvature = F(3, 2), 1 - F(4, 5)
    assert curvature * shift - 1 + beta * shift / prior == 0
    assert 1 + beta * (1 / prior - 1 / spread) == 0
    assert prior == spread + shift**2


def test_t6_rare_answers_keep_the_dual_kl_active_above_gamma_c() -> None:
    p, force_squared, prior = F(1, 27), F(189, 16), F(3, 4)
    leak = force_squared * 4 / 9  # s = 2, h = gamma = 1
    assert F(1, 4) + F(1, 2) == prior and prior + leak == 4 + 2
    assert (1 - p) * F(1, 2) + p * (2 + leak) == prior
    assert 2 * p * force_squared == F(7, 8) < 1


def test_t7_the_dense_game_has_a_growing_mode(proven: list[Theorem]) -> None:
    jacobian = np.array([[-2, -2, 1, 0], [-2, -15, 0, 10], [1, 0, -2, -1], [0, 1, -1, -2.1]])
    values = np.linalg.eigvals(jacobian)
    assert values.real.max() == pytest.approx(0.00288, abs=1e-5) and np.abs(values.imag).max() > 0.1
    polynomial = [F(1), F(211, 10), F(879, 10), F(1039, 10), F(-3, 10)]
    np.testing.assert_allclose(np.poly(jacobian), [float(x) for x in polynomial], rtol=1e-9)
    low, high = (sum(a * x ** (4 - k) for k, a in enumerate(polynomial)) for x in (F(28, 10000), F(29, 10000)))
    assert low < 0 < high
    assert "1 positive root" in _check(proven, "T7", "unstable")


def test_t8_the_optimal_gamma_is_1_at_noise_2_and_0_without_noise() -> None:
    def error(gamma: int, noise: int) -> F:
        share = F(1, 1 + 1 + gamma)  # k / (k + rho_eff)
        return (1 - share) ** 2 + noise * share**2

    assert [error(g, 2) for g in (0, 1, 2)] == [F(3, 4), F(2, 3), F(11, 16)]
    assert error(0, 0) < error(1, 0)

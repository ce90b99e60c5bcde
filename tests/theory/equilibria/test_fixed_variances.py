"""T2 to T5 at fixed variances: closed forms against the rest point of the full linear system, conditions and their failures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import amvl_theory as theory
from amvl_theory.equilibria.counter_examples import COUNTER_EXAMPLES
from amvl_theory.equilibria.sweep import sweep_contamination
from amvl_theory.model import MeanLeakageModel

GAMMAS = (0.0, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0)


def random_spd(rng, size, floor=0.3):
    root = rng.normal(size=(size, size))
    return root @ root.T + floor * np.eye(size)


def dense_model(seed, size=4, *, diagonal_anchor=False, diagonal=False):
    rng = np.random.default_rng(seed)

    def vec():
        return rng.uniform(0.2, 3.0, size)

    return MeanLeakageModel(
        vec() if diagonal else random_spd(rng, size),
        rng.normal(size=size),
        random_spd(rng, size),
        vec() if diagonal or diagonal_anchor else random_spd(rng, size),
        vec() if diagonal or diagonal_anchor else random_spd(rng, size),
        vec() if diagonal or diagonal_anchor else random_spd(rng, size),
    )


def rest_point(model, beta, pull):
    """(dbar, c) from the 2d x 2d linear system of the flow, which the closed forms eliminate."""
    follow = beta * model.Lambda_p
    system = np.block([[model.H + pull, -pull], [-follow, follow + model.A]])
    solution = np.linalg.solve(system, np.concatenate([model.g, np.zeros(model.size)]))
    return solution[: model.size], solution[model.size :]


@pytest.mark.parametrize("seed", range(8))
def test_closed_form_is_the_rest_point_of_the_full_dense_system(seed):
    model = dense_model(seed)
    for beta, gamma in ((0.3, 0.0), (1.0, 0.7), (2.0, 30.0)):
        shift, contamination = rest_point(model, beta, gamma * model.Lambda_q)
        result = theory.equilibrium(model, beta, gamma)
        np.testing.assert_allclose(result.posterior_shift, shift, rtol=1e-10)
        np.testing.assert_allclose(result.contamination, contamination, rtol=1e-10)
        np.testing.assert_allclose(result.absorption @ shift, contamination, rtol=1e-10)
        assert result.response_energy == pytest.approx(model.g @ shift, rel=1e-10)
        # T3 as it is written: c = [H + (H + gamma Lq)(beta Lp)^-1 A]^-1 g
        R = np.linalg.solve(beta * model.Lambda_p, model.A)
        direct = np.linalg.solve(model.H + (model.H + gamma * model.Lambda_q) @ R, model.g)
        np.testing.assert_allclose(result.contamination, direct, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_frozen_prior_and_spread_are_linear_solves_of_every_answer(seed):
    model = dense_model(seed)
    stiffness = model.H + 0.7 * model.Lambda_q
    np.testing.assert_allclose(stiffness @ theory.frozen_prior_response(model, 0.7), model.g, rtol=1e-10)
    forces = np.linalg.cholesky(model.G)  # columns as answers
    shifts = np.linalg.solve(stiffness, forces)
    np.testing.assert_allclose(theory.spread(model, 0.7), shifts @ shifts.T, rtol=1e-10)
    np.testing.assert_allclose(theory.equilibrium(model, 1.0, 0.7).spread_cov, shifts @ shifts.T, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_elbo_is_the_stop_gradient_game_where_the_pulls_agree_even_when_all_matrices_are_dense(seed):
    model = dense_model(seed)
    shift, contamination = rest_point(model, 0.6, 0.6 * model.Lambda_p)
    result = theory.elbo_equilibrium(model, 0.6)
    np.testing.assert_allclose(result.posterior_shift, shift, rtol=1e-10)
    np.testing.assert_allclose(result.contamination, contamination, rtol=1e-10)
    same = MeanLeakageModel(model.H, model.g, model.G, model.Lambda_p / 2, model.Lambda_p, model.A)
    np.testing.assert_allclose(theory.equilibrium(same, 0.6, 1.2).contamination, contamination, rtol=1e-10)


def test_one_mode_formulas_are_the_diagonal_of_the_matrix_solution():
    model = dense_model(5, diagonal=True)
    h, lq, lp, a = (np.diagonal(m) for m in (model.H, model.Lambda_q, model.Lambda_p, model.A))
    result = theory.equilibrium(model, 0.8, 1.7)
    s = theory.mode_absorption(0.8, lp, a)
    np.testing.assert_allclose(theory.mode_contamination(model.g, h, lq, s, 1.7), result.contamination, rtol=1e-12)
    stronger = theory.mode_absorption(0.8, lp, theory.effective_anchor(a, 1.7, lq, h))
    np.testing.assert_allclose(model.g / h * stronger, result.contamination, rtol=1e-12)
    ratio = result.contamination / theory.equilibrium(model, 0.8, 0.0).contamination
    np.testing.assert_allclose(theory.relative_contamination(s, 1.7, lq, h), ratio, rtol=1e-12)
    np.testing.assert_allclose(
        theory.mode_contamination(model.g, h, lq, s, theory.equivalent_gamma(0.8, lp, lq)),
        theory.elbo_equilibrium(model, 0.8).contamination,
        rtol=1e-12,
    )


def test_forward_only_is_at_least_as_contaminated_as_either_and_equal_at_both_ends():
    s, h = np.linspace(0, 1, 11), 1.3
    forward = theory.mode_contamination(1.0, h, 1.0, s, 0.0)
    dual = theory.mode_contamination(1.0, h, 1.0, s, 0.7)
    assert (dual[1:-1] < forward[1:-1]).all()
    assert dual[0] == forward[0] == 0
    assert dual[-1] == forward[-1] == 1 / h


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 10_000))
def test_energy_and_information_never_rise_with_gamma_under_a_diagonal_anchor(seed):
    model = dense_model(seed, size=3, diagonal_anchor=True)
    energy = [theory.equilibrium(model, 0.7, gamma).response_energy for gamma in GAMMAS]
    frozen = [model.g @ theory.frozen_prior_response(model, gamma) for gamma in GAMMAS]
    size = [x @ model.Lambda_q @ x for x in (theory.frozen_prior_response(model, gamma) for gamma in GAMMAS)]
    trace = [np.trace(model.Lambda_q @ theory.spread(model, gamma)) for gamma in GAMMAS]
    nats = [theory.leaked_information(model, gamma) for gamma in GAMMAS]
    for values in (energy, frozen, size, trace, nats):
        assert (np.diff(values) <= 1e-12 * abs(values[0])).all()


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 10_000))
def test_every_mode_and_every_entry_of_the_spread_shrink_when_all_is_diagonal(seed):
    model = dense_model(seed, size=3, diagonal=True)
    contamination = np.abs([theory.equilibrium(model, 0.7, gamma).contamination for gamma in GAMMAS])
    entries = np.abs([theory.spread(model, gamma) for gamma in GAMMAS])
    assert (np.diff(contamination, axis=0) < 0).all()
    assert (np.diff(entries, axis=0) < 0).all()


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 10_000), st.permutations(range(3)), st.floats(0.1, 10))
def test_names_of_modes_and_unit_of_z_do_not_matter(seed, order, unit):
    model, order = dense_model(seed, size=3), list(order)
    grid = np.ix_(order, order)
    other = MeanLeakageModel(
        model.H[grid] / unit**2,
        model.g[order] / unit,
        model.G[grid] / unit**2,
        model.Lambda_q[grid] / unit**2,
        model.Lambda_p[grid] / unit**2,
        model.A[grid] / unit**2,
    )
    a, b = theory.equilibrium(model, 0.7, 1.3), theory.equilibrium(other, 0.7, 1.3)
    np.testing.assert_allclose(b.contamination, unit * a.contamination[order], rtol=1e-8, atol=1e-12)
    assert b.response_energy == pytest.approx(a.response_energy, rel=1e-8)
    assert theory.leaked_information(other, 1.3) == pytest.approx(theory.leaked_information(model, 1.3), rel=1e-8)


def test_limits_of_gamma_anchor_and_beta():
    model = dense_model(1, diagonal_anchor=True)
    free = np.linalg.solve(model.H, model.g)
    np.testing.assert_allclose(theory.equilibrium(model, 0.7, 0.0).posterior_shift, free, rtol=1e-10)
    assert np.abs(theory.equilibrium(model, 0.7, 1e12).contamination).max() < 1e-10

    def with_anchor(anchor):
        return MeanLeakageModel(model.H, model.g, model.G, model.Lambda_q, model.Lambda_p, anchor)

    for gamma in (0.0, 5.0, 1e6):  # no anchor: full contamination at any gamma
        np.testing.assert_allclose(theory.equilibrium(with_anchor(0.0), 0.7, gamma).contamination, free, rtol=1e-9)
    np.testing.assert_allclose(theory.equilibrium(with_anchor(1e-13), 0.7, 5.0).contamination, free, rtol=1e-9)
    held = theory.equilibrium(with_anchor(1e13), 0.7, 5.0)
    assert np.abs(held.contamination).max() < 1e-10
    np.testing.assert_allclose(held.posterior_shift, theory.frozen_prior_response(model, 5.0), rtol=1e-9)
    np.testing.assert_allclose(
        theory.equilibrium(model, 1e-13, 5.0).posterior_shift, theory.frozen_prior_response(model, 5.0), rtol=1e-9
    )
    np.testing.assert_allclose(
        theory.equilibrium(model, 0.0, 5.0).posterior_shift, theory.frozen_prior_response(model, 5.0), rtol=1e-12
    )


def _rows(value, size):
    if isinstance(value, Fraction):
        return [[value if i == j else Fraction(0) for j in range(size)] for i in range(size)]
    if isinstance(value[0], Fraction):
        return [[value[i] if i == j else Fraction(0) for j in range(size)] for i in range(size)]
    return [list(row) for row in value]


def _solve2(m, v):
    det = m[0][0] * m[1][1] - m[0][1] * m[1][0]
    return [(m[1][1] * v[0] - m[0][1] * v[1]) / det, (m[0][0] * v[1] - m[1][0] * v[0]) / det]


def _times(a, b):
    return [[sum(a[i][k] * b[k][j] for k in range(2)) for j in range(2)] for i in range(2)]


def _exact(example, gamma):
    """The quantity of a counter-example in fractions, from T2 to T4 as written (beta Lambda_p = beta in all of them)."""
    given = {
        name: example.arguments.get(name, default)
        for name, default in (
            ("curvature", None),
            ("posterior_precision", Fraction(1)),
            ("anchor", Fraction(0)),
            ("force_cov", Fraction(0)),
        )
    }
    H, L, A, G = (_rows(value, 2) for value in given.values())
    force = example.arguments["force_mean"]
    force = [force] * 2 if isinstance(force, Fraction) else list(force)
    pulled = [[H[i][j] + gamma * L[i][j] for j in range(2)] for i in range(2)]
    if example.quantity == "shift_norm2":
        return sum(x * x for x in _solve2(pulled, force))
    if example.quantity == "spread_trace":
        half = [_solve2(pulled, [G[0][j], G[1][j]]) for j in range(2)]  # columns of M^-1 G
        return _solve2(pulled, [half[0][0], half[1][0]])[0] + _solve2(pulled, [half[0][1], half[1][1]])[1]
    bent = _times(pulled, A)
    c = _solve2([[H[i][j] + bent[i][j] / example.beta for j in range(2)] for i in range(2)], force)
    if example.quantity == "contamination_norm2":
        return sum(x * x for x in c)
    if example.quantity == "contamination_0":
        return c[0]
    shift = [c[i] + sum(A[i][j] * c[j] for j in range(2)) / example.beta for i in range(2)]
    return sum(f * x for f, x in zip(force, shift, strict=True))


def _in_floats(example, gamma):
    model = MeanLeakageModel(**{name: np.array(value, dtype=float) for name, value in example.arguments.items()})
    result = theory.equilibrium(model, float(example.beta), float(gamma))
    return {
        "shift_norm2": lambda: float(np.sum(theory.frozen_prior_response(model, float(gamma)) ** 2)),
        "contamination_norm2": lambda: float(np.sum(result.contamination**2)),
        "contamination_0": lambda: float(result.contamination[0]),
        "response_energy": lambda: result.response_energy,
        "spread_trace": lambda: float(np.trace(result.spread_cov)),
    }[example.quantity]()


@pytest.mark.parametrize("example", COUNTER_EXAMPLES, ids=lambda e: e.claim)
def test_counter_examples_grow_in_exact_fractions_and_in_floats(example):
    before, after = example.values
    assert after > before
    for gamma, value in zip(example.gammas, example.values, strict=True):
        assert _exact(example, gamma) == value
        assert _in_floats(example, gamma) == pytest.approx(float(value), rel=1e-12, abs=1e-14)


def test_fully_absorbed_mode_goes_from_0_to_1_as_gamma_grows():
    model = MeanLeakageModel([[1, 1], [1, 2]], [1, 2], anchor=[0, 10])
    assert theory.equilibrium(model, 1.0, 0.0).contamination[0] == pytest.approx(0, abs=1e-14)
    assert theory.equilibrium(model, 1.0, 1e9).contamination[0] == pytest.approx(1, rel=1e-8)


def test_sweep_is_the_one_mode_formula_for_any_shape_chunk_and_number_of_threads():
    rng = np.random.default_rng(0)
    beta, gamma, s = rng.uniform(0.1, 2, (30, 40)), rng.uniform(0, 5, (30, 40)), rng.uniform(0, 1, (30, 40))
    expected = theory.mode_contamination(0.7, 1.3, 2.0, theory.mode_absorption(beta, s, 1 - s + 1e-300), gamma)
    numbers = {"force": 0.7, "curvature": 1.3, "posterior_precision": 2.0}
    for chunk, workers in ((7, 1), (100, 2), (10**6, 1)):
        result = sweep_contamination(beta, gamma, s, chunk=chunk, workers=workers, **numbers)
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    out = np.empty((30, 40))
    assert sweep_contamination(beta[:, :1], gamma[:1], 0.5, out=out, chunk=64, **numbers) is out
    grid = theory.mode_contamination(0.7, 1.3, 2.0, theory.mode_absorption(beta[:, :1], 1.0, 1.0), gamma[:1])
    np.testing.assert_allclose(out, grid, rtol=1e-12)
    assert sweep_contamination(1.0, 0.0, 1.0).shape == ()
    unit = theory.mode_contamination(1.0, 1.0, 1.0, theory.mode_absorption(beta, s, 1 - s + 1e-300), gamma)
    np.testing.assert_allclose(sweep_contamination(beta, gamma, s), unit, rtol=1e-12)
    assert sweep_contamination([1.0, 2.0], 3.0, [0.0, 1.0]).tolist() == [0.0, 1.0]


def test_a_sweep_over_a_grid_is_the_sweep_over_its_points():
    rng = np.random.default_rng(1)
    numbers = {"force": 0.7, "curvature": 1.3, "posterior_precision": 2.0}
    shapes = (
        ((5, 1, 1), (1, 6, 1), (1, 1, 80)),
        ((5, 1, 80), (6, 1), (80,)),
        ((5, 6, 80), (6, 1), ()),
        ((), (6, 1), (80,)),
        ((5, 1, 1), (1, 6, 1), (1, 1, 7)),
        ((1,), (5, 80), (5, 1)),
        ((1, 80), (5, 1), (5, 80)),
    )
    for beta_shape, gamma_shape, s_shape in shapes:
        beta, gamma, s = rng.uniform(0.1, 2, beta_shape), rng.uniform(0, 5, gamma_shape), rng.uniform(0, 1, s_shape)
        points = [np.ascontiguousarray(array) for array in np.broadcast_arrays(beta, gamma, s)]
        for options in ({}, numbers):
            expected = sweep_contamination(*points, **options)
            for chunk, workers in ((10**6, 1), (100, 2), (7, 1)):
                result = sweep_contamination(beta, gamma, s, chunk=chunk, workers=workers, **options)
                np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_a_sweep_may_write_over_an_input():
    rng = np.random.default_rng(2)
    beta, gamma, s = rng.uniform(0.1, 2, (3, 100)), rng.uniform(0, 5, 100), rng.uniform(0, 1, (3, 100))
    for arguments in ((beta, gamma, s), (beta, gamma, 0.5)):
        expected = sweep_contamination(*arguments)
        copy = beta.copy()
        np.testing.assert_array_equal(sweep_contamination(copy, *arguments[1:], out=copy), expected)


def test_a_sweep_takes_the_ends_of_every_range_and_numbers_that_overflow():
    tiny, huge = np.nextafter(0.0, 1.0), np.finfo(np.float64).max
    assert sweep_contamination([tiny, 1.0, 1.0], [0.0, -0.0, huge], [1.0, -0.0, 0.5]).tolist() == [
        1.0,
        0.0,
        pytest.approx(1 / huge, abs=1e-300),
    ]
    with pytest.warns(RuntimeWarning, match="invalid|overflow"):
        assert np.isnan(sweep_contamination([1.0, 1.0], [huge, 1.0], [1.0, 1.0], posterior_precision=1e10)[0])


@pytest.mark.parametrize("where", [0, 63, 64, 999])
@pytest.mark.parametrize(
    ("column", "bad"),
    [
        *((0, bad) for bad in (0.0, -0.0, -1.0, np.inf, np.nan)),
        *((1, bad) for bad in (-1e-300, np.inf, -np.inf, np.nan, -np.nan)),
        *((2, bad) for bad in (-1e-300, 1.0000000000000002, np.inf, np.nan)),
    ],
)
def test_one_bad_point_anywhere_is_refused_by_name(where, column, bad):
    name = ("beta", "gamma", "absorption")[column]
    for other in (0.0, 0.5, 1.0):
        points = [np.ones(1000), np.ones(1000), np.full(1000, other)]
        points[column][where] = bad
        for arrays, workers in ((points, 1), ([array.reshape(10, 100) for array in points], 3)):
            with pytest.raises(ValueError, match=f"^{name}: expected .* received values from"):
                sweep_contamination(*arrays, chunk=64, workers=workers)
    axis = np.full((1000, 1), 0.5)
    axis[where] = bad
    grid = [np.full(100, 0.5) for _ in range(3)]
    grid[column] = axis
    with pytest.raises(ValueError, match=f"^{name}: expected .* received values from"):
        sweep_contamination(*grid)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: theory.equilibrium(dense_model(0), -1.0, 0.0), "beta"),
        (lambda: theory.equilibrium(dense_model(0), 1.0, np.nan), "gamma"),
        (lambda: theory.frozen_prior_response(dense_model(0), -0.1), "gamma"),
        (lambda: theory.mode_contamination(1.0, 0.0, 1.0, 0.5, 1.0), "curvature"),
        (lambda: theory.mode_contamination(1.0, 1.0, 1.0, 1.5, 1.0), "absorption"),
        (lambda: theory.mode_absorption(1.0, 1.0, -1.0), "anchor"),
        (lambda: sweep_contamination([1.0, 0.0], 1.0, 0.5), "beta"),
        (lambda: sweep_contamination([1.0, 1.0], [1.0, np.nan], 0.5), "gamma"),
        (lambda: sweep_contamination(1.0, np.inf, 0.5), "gamma"),
        (lambda: sweep_contamination(1.0, 1.0, [0.5, 1.1]), "absorption"),
        (lambda: sweep_contamination([1.0] * 2, [1.0] * 3, 0.5), "beta"),
        (lambda: sweep_contamination([1.0] * 2, 1.0, 0.5, out=np.empty(3)), "out"),
        (lambda: sweep_contamination(1.0, 1.0, 0.5, chunk=0), "chunk"),
        (lambda: sweep_contamination(1.0, 1.0, 0.5, curvature=-1.0), "curvature"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .* received"):
        call()


def test_a_game_without_a_single_rest_point_is_refused():
    # H and A dense: I - S = A/4, gamma Lambda_q (I - S) = [[3, 3], [18, 18]], and H + that = [[4, 5], [20, 25]]
    H, A = np.array([[1.0, 2.0], [2.0, 7.0]]), np.full((2, 2), 1.5)
    model, singular = MeanLeakageModel(H, [1, 0], 0.0, [1.0, 6.0], 1.0, A), [8.0]
    with pytest.raises(ValueError, match="^model: expected a game with one rest point"):
        theory.equilibrium(model, 1.0, min(singular))

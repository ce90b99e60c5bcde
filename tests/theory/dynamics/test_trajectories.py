"""T7: trajectories, stability, noise."""

import dataclasses
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from amvl_theory.dynamics.schedules import Schedule, piecewise_constant
from amvl_theory.dynamics.stability import (
    UNSTABLE_EXAMPLE,
    alternating_iteration,
    game_matrix,
    stability,
    stationary_covariance,
    symmetriser,
)
from amvl_theory.dynamics.trajectories import (
    compare_orders,
    scheduled_trajectory,
    spread_trajectory,
    trajectory,
    trajectory_per_answer,
)
from amvl_theory.model import MeanLeakageModel


def dense(rng, size, low=0.3):
    factor = rng.normal(size=(size, size))
    return factor @ factor.T / size + low * np.eye(size)


def random_model(seed, size=3, *, curvature="dense", anchor="diagonal"):
    rng = np.random.default_rng(seed)
    positive = rng.uniform(0.2, 3.0, size=(4, size))
    return MeanLeakageModel(
        curvature=dense(rng, size) if curvature == "dense" else positive[0],
        force_mean=rng.normal(size=size),
        force_cov=dense(rng, size),
        posterior_precision=positive[1],
        prior_precision=positive[2],
        anchor=dense(rng, size, 0.0) if anchor == "dense" else positive[3],
    )


def integrate(model, weights, times, start, eta_q=1.0, eta_p=1.0):
    def velocity(time, state):
        beta, gamma = weights(time)
        shift, prior = state[: model.size], state[model.size :]
        of_q = -eta_q * (model.H @ shift - model.g + gamma * model.Lambda_q @ (shift - prior))
        of_p = -eta_p * (beta * model.Lambda_p @ (prior - shift) + model.A @ prior)
        return np.concatenate([of_q, of_p])

    found = solve_ivp(
        velocity, (0, times[-1]), start, t_eval=times, rtol=1e-12, atol=1e-13, method="DOP853", max_step=0.1
    )
    return found.y.T


def joined(path):
    return np.hstack([path.posterior_shift, path.contamination])


@pytest.mark.parametrize(("curvature", "anchor"), [("dense", "diagonal"), ("diagonal", "dense"), ("dense", "dense")])
def test_trajectory_equals_a_tight_integration_of_the_flow(curvature, anchor):
    model = random_model(3, curvature=curvature, anchor=anchor)
    times, start = np.linspace(0.0, 6.0, 13), np.array([0.3, -1.0, 0.0, 2.0, 0.1, -0.4])
    path = trajectory(model, 0.7, 1.9, times, 0.5, 1.3, initial=(start[:3], start[3:]))
    np.testing.assert_allclose(joined(path), integrate(model, lambda t: (0.7, 1.9), times, start, 0.5, 1.3), atol=2e-10)


@pytest.mark.parametrize("weights", [(0.7, 1.9), (0.7, 0.0), (0.0, 1.9), (0.7, 1e-9)])
def test_trajectory_equals_the_matrix_exponential_about_the_equilibrium(weights):
    model = random_model(4)
    matrix, source = game_matrix(model, *weights)
    rest = np.linalg.solve(matrix, -source)
    path = trajectory(model, *weights, [0.0, 0.4, 7.0])
    for time, state in zip(path.times, joined(path), strict=True):
        np.testing.assert_allclose(state, rest - expm(matrix * time) @ rest, atol=1e-12)


def test_trajectory_ends_at_the_coupled_equilibrium_of_T3():
    model = random_model(5)
    beta, gamma = 0.8, 1.5
    absorbed = model.absorption(beta)
    shift = np.linalg.solve(model.H + gamma * model.Lambda_q @ (np.eye(3) - absorbed), model.g)
    path = trajectory(model, beta, gamma, [400.0])
    np.testing.assert_allclose(path.posterior_shift[0], shift, rtol=1e-10)
    np.testing.assert_allclose(path.contamination[0], absorbed @ shift, rtol=1e-10)


def test_a_prior_that_nothing_moves_stays():
    model = MeanLeakageModel([1.0, 2.0], [1.0, 1.0], anchor=0.0)
    path = trajectory(model, 0.0, 1.0, [0.0, 3.0], initial=(0.0, [0.5, -0.5]))
    np.testing.assert_allclose(path.contamination, [[0.5, -0.5], [0.5, -0.5]], atol=1e-13)
    assert stability(model, 0.0, 1.0).slowest_rate == 0
    np.testing.assert_allclose(stability(model, 0.0, 1.0).max_stable_step, 2 / 3)
    np.testing.assert_allclose(stability(model, 0.0, 1.0).max_stable_step_alternating, 2 / 3, rtol=1e-6)


def test_the_transient_can_be_worse_with_a_reverse_kl_than_without():
    model = MeanLeakageModel(1.0, 0.0, anchor=0.2)
    dual, forward = (trajectory(model, 1.0, gamma, [3.0], initial=(0.0, 1.0)).contamination[0, 0] for gamma in (2, 0))
    assert round(dual, 3) == 0.216
    assert round(forward, 3) == 0.027


@pytest.mark.parametrize("order", ["forward-first", "reverse-first", "simultaneous"])
@pytest.mark.parametrize("anchor", ["diagonal", "dense"])
def test_scheduled_trajectory_equals_a_tight_integration_and_states_its_error(order, anchor):
    model = random_model(6, anchor=anchor)
    schedule, times = Schedule(1.1, 2.3, order, 10.0), np.linspace(0.0, 14.0, 29)
    path = scheduled_trajectory(model, schedule, times)
    truth = integrate(model, lambda t: [float(w) for w in schedule.weights(t)], times, np.zeros(6))
    assert np.abs(joined(path) - truth).max() < 5e-10
    assert 0 < path.error < 1e-9


def test_the_stated_error_of_a_ramp_bounds_the_true_one():
    model, schedule = random_model(7), Schedule(1.1, 2.3, "forward-first", 10.0)
    times = np.linspace(0.0, 10.0, 21)
    truth = scheduled_trajectory(model, schedule, times, tolerance=1e-13)
    for tolerance in (1e-4, 1e-7):
        path = scheduled_trajectory(model, schedule, times, tolerance=tolerance)
        assert np.abs(joined(path) - joined(truth)).max() <= path.error


def test_a_stiff_ramp_reaches_its_tolerance():
    model = MeanLeakageModel([1.0, 50.0], [1.0, 1.0], posterior_precision=100.0, prior_precision=100.0, anchor=0.1)
    schedule = Schedule(1.0, 3.0, "simultaneous", 20.0, beta_warmup=0.5)
    path = scheduled_trajectory(model, schedule, [5.0, 10.0], tolerance=1e-8)
    finer = scheduled_trajectory(model, schedule, [5.0, 10.0], tolerance=1e-11)
    np.testing.assert_allclose(joined(path), joined(finer), atol=1e-8)


def test_piecewise_constant_schedules_are_exact_and_join_trajectories():
    model = random_model(8)
    segments = piecewise_constant([0.0, 2.0], 0.9, [0.0, 1.7])
    path = scheduled_trajectory(model, segments, [1.0, 2.0, 2.0, 5.0])
    first = trajectory(model, 0.9, 0.0, [1.0, 2.0])
    second = trajectory(model, 0.9, 1.7, [3.0], initial=(first.posterior_shift[1], first.contamination[1]))
    expected = np.vstack([joined(first), joined(first)[1:], joined(second)])
    np.testing.assert_allclose(joined(path), expected, rtol=1e-12)
    assert path.error == 0.0


def test_all_orders_share_their_equilibrium_and_only_forward_first_overshoots_it():
    model = MeanLeakageModel(1.0, 1.0, anchor=0.2)
    outcomes = compare_orders(model, 1.0, 2.0, 200.0)
    absorbed = 1.0 / 1.2
    rest = absorbed / (1.0 + 2.0 * (1.0 - absorbed))
    for outcome in outcomes.values():
        np.testing.assert_allclose(outcome.final, rest, rtol=1e-8)
    assert outcomes["forward-first"].peak > 1.2 * rest
    assert outcomes["simultaneous"].peak < 1.01 * rest
    assert outcomes["reverse-first"].peak < 1.01 * rest
    areas = [outcomes[order].area for order in ("reverse-first", "simultaneous", "forward-first")]
    assert areas == sorted(areas)


def test_the_spread_channel_equals_a_tight_integration_and_decays_after_a_late_reverse_kl():
    model, gamma = random_model(9), 1.4
    first = np.linalg.inv(model.H)
    path = spread_trajectory(model, gamma, [0.0, 0.5, 3.0], 0.7, initial_response=first)
    curvature = model.H + gamma * model.Lambda_q
    found = solve_ivp(
        lambda t, f: (-0.7 * (curvature @ f.reshape(3, 3) - np.eye(3))).ravel(),
        (0, 3),
        first.ravel(),
        t_eval=path.times,
        rtol=1e-11,
        atol=1e-12,
    )
    np.testing.assert_allclose(path.response, found.y.T.reshape(3, 3, 3), atol=1e-9)
    late = spread_trajectory(model, gamma, [300.0], 0.7, initial_response=first).spread_cov[0]
    inverse = np.linalg.inv(curvature)
    np.testing.assert_allclose(late, inverse @ model.G @ inverse, rtol=1e-10)
    precise = np.trace(model.Lambda_q @ path.spread_cov, axis1=1, axis2=2)
    assert precise[0] > precise[1] > precise[2]


def test_answers_trained_at_equal_rates_have_the_mean_channel_of_T7():
    model = random_model(10, size=2)
    forces = model.g + np.array([[1.0, 0.5], [-0.5, -0.25]])
    times = [0.3, 2.0]
    each = trajectory_per_answer(model, forces, [1 / 3, 2 / 3], 0.8, 1.2, times, 0.9, 1.1, rates="equal")
    path = trajectory(model, 0.8, 1.2, times, 0.9, 1.1)
    np.testing.assert_allclose(each.mean_shift, path.posterior_shift, atol=1e-12)
    np.testing.assert_allclose(each.contamination, path.contamination, atol=1e-12)
    spread = each.posterior_shift - each.mean_shift[:, None]
    response = spread_trajectory(model, 1.2, times, 0.9).response
    np.testing.assert_allclose(spread[:, 0], response @ np.array([1.0, 0.5]), atol=1e-12)


def test_equally_probable_answers_only_slow_the_posterior_down():
    model = random_model(10, size=2)
    forces = model.g + np.array([[1.0, 0.5], [-1.0, -0.5]])
    each = trajectory_per_answer(model, forces, [0.5, 0.5], 0.8, 1.2, [0.3, 2.0])
    path = trajectory(model, 0.8, 1.2, [0.3, 2.0], eta_q=0.5)
    np.testing.assert_allclose(each.contamination, path.contamination, atol=1e-12)


def test_unequal_answer_probabilities_contaminate_in_transit_without_a_mean_force():
    model = MeanLeakageModel(1.0, 0.0, force_cov=0.25, anchor=0.2)
    times = np.linspace(0.0, 60.0, 121)
    each = trajectory_per_answer(model, [[2.0], [-0.5]], [0.2, 0.8], 1.0, 0.5, times)
    size = np.abs(each.contamination[:, 0])
    assert size.max() > 0.05
    assert size[-1] < 1e-4
    np.testing.assert_array_equal(trajectory(model, 1.0, 0.5, times).contamination, 0.0)
    balanced = trajectory_per_answer(model, [[1.0], [-1.0]], [0.5, 0.5], 1.0, 0.5, times)
    np.testing.assert_allclose(balanced.contamination, 0.0, atol=1e-14)


positive = st.floats(0.05, 20.0)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from(["H", "A"]), positive, positive, positive, positive)
def test_eigenvalues_are_real_and_negative_when_curvature_or_anchor_is_diagonal(seed, which, beta, gamma, eta_q, eta_p):
    model = random_model(
        seed, curvature="diagonal" if which == "H" else "dense", anchor="dense" if which == "H" else "diagonal"
    )
    matrix, _ = game_matrix(model, beta, gamma, eta_q, eta_p)
    plain = np.linalg.eigvals(matrix)
    scale = np.abs(plain).max()
    assert np.abs(plain.imag).max() <= 1e-7 * scale
    assert plain.real.max() < 0
    found = stability(model, beta, gamma, eta_q, eta_p)
    assert found.stable
    np.testing.assert_allclose(found.eigenvalues.real, np.sort(plain.real)[::-1], atol=1e-7 * scale)
    assert found.curl_symmetrised is not None
    assert found.curl_symmetrised < 1e-12


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from(["H", "A"]), positive, positive)
def test_the_symmetriser_is_positive_and_makes_the_game_a_potential_game(seed, which, beta, gamma):
    model = random_model(
        seed, curvature="diagonal" if which == "H" else "dense", anchor="dense" if which == "H" else "diagonal"
    )
    weighting = symmetriser(model, beta, gamma, 0.7, 1.9)
    assert weighting is not None
    assert np.linalg.eigvalsh(weighting)[0] > 0
    product = weighting @ game_matrix(model, beta, gamma, 0.7, 1.9)[0]
    np.testing.assert_allclose(product, product.T, atol=1e-12 * np.abs(product).max())
    assert np.linalg.eigvalsh(product)[-1] < 0


def test_the_potential_falls_along_the_trajectory_although_the_game_has_curl():
    model = random_model(11)
    matrix, source = game_matrix(model, 0.6, 2.0)
    weighting = symmetriser(model, 0.6, 2.0)
    states = joined(trajectory(model, 0.6, 2.0, np.linspace(0, 5, 60)))
    potential = [-0.5 * u @ weighting @ matrix @ u - u @ weighting @ source for u in states]
    assert (np.diff(potential) < 0).all()
    assert stability(model, 0.6, 2.0).curl > 0.05


def test_full_precisions_have_a_symmetriser_where_they_commute_with_the_anchor():
    rng = np.random.default_rng(0)
    shared = dense(rng, 3)
    model = MeanLeakageModel(dense(rng, 3), 1.0, posterior_precision=shared, prior_precision=2 * shared, anchor=0.3)
    found = stability(model, 0.5, 1.5)
    assert found.curl_symmetrised is not None
    assert found.curl_symmetrised < 1e-12
    other = MeanLeakageModel(dense(rng, 3), 1.0, posterior_precision=shared, prior_precision=dense(rng, 3), anchor=0.3)
    assert symmetriser(other, 0.5, 1.5) is None


def test_dense_curvature_and_anchor_can_be_unstable_with_a_complex_pair():
    found = stability(UNSTABLE_EXAMPLE, 1.0, 1.0)
    assert round(found.eigenvalues[0].real, 4) == 0.0029
    assert np.abs(found.eigenvalues.imag).max() > 0.1
    assert not found.stable
    assert (found.max_stable_step, found.max_stable_step_alternating) == (0.0, 0.0)
    assert found.curl_symmetrised is None
    path = trajectory(UNSTABLE_EXAMPLE, 1.0, 1.0, [0.0, 2000.0, 3000.0], initial=(0.1, 0.0))
    size = np.linalg.norm(path.contamination, axis=1)
    np.testing.assert_allclose(size[2] / size[1], np.exp(1000 * found.eigenvalues[0].real), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_simultaneous_steps_converge_below_the_bound_and_diverge_above(seed):
    model = random_model(seed, anchor="dense")
    matrix, _ = game_matrix(model, 0.9, 1.3)
    bound = stability(model, 0.9, 1.3).max_stable_step
    radius = [np.abs(np.linalg.eigvals(np.eye(6) + bound * share * matrix)).max() for share in (0.999, 1.001)]
    assert radius[0] < 1 < radius[1]


@pytest.mark.parametrize("anchor", ["diagonal", "dense"])
@pytest.mark.parametrize("seed", range(4))
def test_alternating_steps_converge_below_the_bound_and_diverge_above(seed, anchor):
    model = random_model(seed, anchor=anchor)
    found = stability(model, 0.9, 1.3, 0.8, 1.1)
    for share, stable in ((0.1, True), (0.5, True), (0.999, True), (1.001, False)):
        iteration = alternating_iteration(model, 0.9, 1.3, share * found.max_stable_step_alternating, 0.8, 1.1)
        assert (np.abs(np.linalg.eigvals(iteration)).max() < 1) == stable


@settings(deadline=None, derandomize=True, max_examples=50)
@given(positive, positive, positive, positive, positive)
def test_alternating_bound_of_one_mode_equals_its_closed_form(h, alpha, beta, gamma, eta_p):
    model = MeanLeakageModel(h, 1.0, anchor=alpha)
    p, d, coupling = h + gamma, eta_p * (beta + alpha), eta_p * gamma * beta
    # Eigenvalue -1: (2 - eta p)(2 - eta d) + eta^2 coupling = 0. Complex pair of modulus 1: (1 - eta p)(1 - eta d) = 1.
    gap = (p - d) ** 2 - 4 * coupling
    expected = 4 / (p + d + np.sqrt(gap)) if gap >= 0 else (p + d) / (p * d)
    found = stability(model, beta, gamma, 1.0, eta_p).max_stable_step_alternating
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found >= 2 / max(p, d) * (1 - 1e-8)


def test_stationary_covariance_solves_the_lyapunov_equation_and_is_the_limit_of_small_steps():
    model = random_model(12)
    matrix, _ = game_matrix(model, 0.9, 1.3, 0.6, 1.4)
    noise = dense(np.random.default_rng(1), 3)
    joint = stationary_covariance(model, 0.9, 1.3, noise, 0.5, 0.6, 1.4).joint
    diffusion = np.zeros((6, 6))
    diffusion[:3, :3], diffusion[3:, 3:] = 0.36 * noise, 1.96 * 0.5 * np.eye(3)
    np.testing.assert_allclose(matrix @ joint + joint @ matrix.T, -diffusion, atol=1e-12)
    small = stationary_covariance(model, 0.9, 1.3, noise, 0.5, 0.6, 1.4, step=1e-4).joint / 1e-4
    np.testing.assert_allclose(small, joint, atol=2e-3 * np.abs(joint).max())


def test_stationary_covariance_of_descent_equals_a_seeded_simulation_within_4_standard_errors():
    model = MeanLeakageModel([[1.0, 0.4], [0.4, 2.0]], 0.0, posterior_precision=[1.0, 2.0], anchor=[0.3, 0.6])
    beta, gamma, step = 1.0, 0.8, 0.2
    expected = stationary_covariance(model, beta, gamma, [0.5, 1.0], 0.2, step=step).joint
    matrix, _ = game_matrix(model, beta, gamma)
    rng, runs = np.random.default_rng(7), 20_000
    state, scale = np.zeros((runs, 4)), np.sqrt([0.5, 1.0, 0.2, 0.2])
    for _ in range(150):
        state = state + step * (state @ matrix.T + scale * rng.standard_normal((runs, 4)))
    products = state[:, :, None] * state[:, None, :]
    error = products.std(axis=0) / np.sqrt(runs)
    assert (np.abs(products.mean(axis=0) - expected) < 4 * error).all()


def test_a_step_beyond_the_stable_one_has_no_stationary_covariance():
    model = random_model(13)
    bound = stability(model, 1.0, 1.0).max_stable_step
    with pytest.raises(ValueError, match="^step: expected a number above 0 and below the stable step"):
        stationary_covariance(model, 1.0, 1.0, 1.0, 1.0, step=1.01 * bound)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: trajectory(m, -1.0, 1.0, [0.0]), "^beta: expected numbers of at least 0, received -1.0"),
        (lambda m: trajectory(m, 1.0, 1.0, [-1.0]), "^times: expected numbers of at least 0"),
        (lambda m: trajectory(m, 1.0, 1.0, [[1.0]]), r"^times: expected shape \(times,\), received shape \(1, 1\)"),
        (lambda m: trajectory(m, 1.0, 1.0, [1.0], eta_q=0.0), "^eta_q: expected numbers above 0"),
        (lambda m: trajectory(m, 1.0, 1.0, [1.0], initial=([1.0, 2.0], 0.0)), "^initial: expected a number or shape"),
        (lambda m: trajectory(m, 1.0, 1.0, [1.0], initial=(1.0,)), "^initial: expected .*, received 1 values"),
        (lambda m: scheduled_trajectory(m, Schedule(1.0, 1.0), [1.0, 0.5]), "^times: expected times that do not fall"),
        (lambda m: scheduled_trajectory(m, [], [1.0]), "^schedule: expected segments from time 0 on"),
        (lambda m: spread_trajectory(m, 1.0, [1.0], initial_response=np.ones((2, 2))), "^initial_response: expected"),
        (lambda m: compare_orders(m, 1.0, 1.0, 5.0, points=1), "^points: expected at least 2, received 1"),
        (lambda m: compare_orders(m, 1.0, 1.0, 5.0, gamma_delay=0.9), "^gamma_warmup: expected at most 0.1"),
        (lambda m: trajectory_per_answer(m, [[1.0] * 3], [0.5], 1.0, 1.0, [1.0]), "^answer_probabilities: expected"),
        (lambda m: trajectory_per_answer(m, [1.0], [1.0], 1.0, 1.0, [1.0]), r"^forces: expected shape \(answers, 3\)"),
        (lambda m: trajectory_per_answer(m, [[9.0] * 3], [1.0], 1.0, 1.0, [1.0]), "^forces: expected the model's"),
        (lambda m: stationary_covariance(m, 1.0, 1.0, -1.0, 1.0), "^noise_cov_q: expected a positive semidefinite"),
        (lambda m: stationary_covariance(UNSTABLE_EXAMPLE, 1.0, 1.0, 1.0, 1.0), "^model: expected a stable game"),
        (lambda m: alternating_iteration(m, 1.0, 1.0, 0.0), "^step: expected numbers above 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_model(0))


@pytest.mark.parametrize("name", ["beta_warmup", "gamma_delay", "gamma_warmup"])
def test_orders_are_compared_at_the_schedule_s_own_ramps(name: str) -> None:
    default = {field.name: field.default for field in dataclasses.fields(Schedule)}[name]
    assert inspect.signature(compare_orders).parameters[name].default == default

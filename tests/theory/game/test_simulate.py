"""Simulation against the statements' numbers, against direct linear solves, and against itself."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from amvl_theory.dynamics.schedules import Schedule
from amvl_theory.game import kernel as game_kernel
from amvl_theory.game import shared_kernel
from amvl_theory.game.game import (
    OBJECTIVES,
    GameState,
    GaussianGame,
    gradients,
    initial_state,
)
from amvl_theory.game.simulate import equilibrium_by_simulation, simulate

H = 1.3
BALANCED = np.array([[[1.0], [-1.0]]])


def definite(rng: np.random.Generator, count: int, size: int, floor: float = 0.3) -> np.ndarray:
    root = rng.normal(size=(count, size, size))
    return root @ root.transpose(0, 2, 1) / size + floor * np.eye(size)


def fixed_game(rng: np.random.Generator, count: int, size: int, answers: int, anchor, **options) -> GaussianGame:
    forces = rng.normal(size=(count, answers, size))
    options = {"train_posterior_variance": False, "train_prior_variance": False} | options
    return GaussianGame(
        forces, definite(rng, count, size), anchor, rng.dirichlet(np.full(answers, 4.0), count), **options
    )


def means(game: GaussianGame, values: np.ndarray) -> np.ndarray:
    return (game.p[:, :, None] * values).sum(1)


# The fast steps are the readable gradients.


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fast_steps_follow_the_readable_gradients(objective):
    rng = np.random.default_rng(0)
    count, answers, size = 5, 3, 2
    weights = {"objective": objective, "beta": rng.uniform(0.1, 2, count), "gamma": rng.uniform(0.1, 2, count)}
    for dense, shared, free_q, free_p, equal, update in product(
        ("diagonal", "each", "one"),
        (True, False),
        (True, False),
        (True, False),
        (True, False),
        ("simultaneous", "alternating"),
    ):
        rows = 1 if dense == "one" else count
        matrices = [
            rng.uniform(0.5, 2, (count, size)) if dense == "diagonal" else definite(rng, rows, size) for _ in "HA"
        ]
        game = GaussianGame(
            rng.normal(size=(count, answers, size)),
            *matrices,
            None if equal else rng.dirichlet(np.ones(answers) * 3, count),
            shared_variance=shared,
            train_posterior_variance=free_q,
            train_prior_variance=free_p,
        )
        state = start = initial_state(
            game,
            posterior_shift=rng.normal(size=(count, answers, size)),
            posterior_var=rng.uniform(0.5, 2, (count, 1 if shared else answers, size)),
            contamination=rng.normal(size=(count, size)),
            prior_var=rng.uniform(0.5, 2, (count, size)),
        )
        result = simulate(game, **weights, steps=2, initial=start, update=update, chunk=3, eta_q=0.03, eta_p=0.05).state
        for _ in range(2):
            slope = gradients(game, state, **weights)
            moved = [x - 0.03 * s for x, s in zip(state.parts[:2], slope.parts[:2], strict=True)]
            if update == "alternating":
                slope = gradients(game, GameState(*moved, *state.parts[2:]), **weights)
            state = GameState(*moved, *(x - 0.05 * s for x, s in zip(state.parts[2:], slope.parts[2:], strict=True)))
        for mine, expected in zip(result.parts, state.parts, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_buffer_is_read_before_it_is_written(monkeypatch, objective):
    def poisoned(shape):
        return np.full(shape, np.nan)

    for kernel in (game_kernel, shared_kernel):
        monkeypatch.setattr(kernel, "_aligned", poisoned)
    rng = np.random.default_rng(0)
    for options in ({}, {"train_posterior_variance": False}, {"shared_variance": False}):
        for step in ({}, {"step_rule": "scaled"}, {"update": "alternating"}):
            game = GaussianGame(rng.normal(size=(5, 3, 2)), 1.0, 0.5, **options)
            run = simulate(game, objective=objective, beta=0.5, gamma=0.3, steps=3, **step)
            assert not run.diverged.any(), (options, step)


# Answers that are not equally likely.


def test_unequal_answers_weight_the_path_but_not_the_equilibrium():
    rng = np.random.default_rng(6)
    game = fixed_game(rng, 5, 2, 3, 0.5)
    natural, even = (
        simulate(game, beta=1.0, gamma=0.5, steps=8000, eta_q=0.05, per_answer=per_answer, record=[20])
        for per_answer in (False, True)
    )
    np.testing.assert_allclose(natural.state.contamination, even.state.contamination, rtol=1e-6)
    assert np.abs(natural.recorded.contamination - even.recorded.contamination).max() > 1e-3


def test_with_unequal_answers_and_true_gradients_the_spread_feeds_a_transient_in_the_mean():
    forces = np.array([[[0.5], [-2.0]]])  # mean force 0
    game = GaussianGame(forces, 1.0, 0.5, [0.8, 0.2], True, False, False)
    natural, even = (
        simulate(game, beta=1.0, gamma=0.5, steps=20, per_answer=per_answer) for per_answer in (False, True)
    )
    assert abs(natural.mean_shift[0, 0]) > 0.01
    assert abs(even.mean_shift[0, 0]) < 1e-12


# Noise.


def test_noise_in_one_mode_has_the_stationary_variance_of_its_linear_recursion():
    count, eta, noise = 20000, 0.2, 0.3
    game = GaussianGame(np.zeros((1, 1, 1)), 1.5, 0.0, None, True, False, False, count)
    rng = np.random.default_rng(7)
    run = simulate(game, objective="ntp", steps=60, eta_q=eta, noise_q=noise, rng=rng)
    expected = (eta * noise) ** 2 / (1 - (1 - eta * 1.5) ** 2)
    measured = run.state.posterior_shift[:, 0, 0].var()
    assert abs(measured - expected) < 4 * expected * np.sqrt(2 / count)


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_noise_of_the_coupled_mode_has_the_stationary_covariance_of_the_lyapunov_equation(update):
    count, eta, h, alpha, gamma, noises = 20000, 0.2, 1.3, 0.6, 0.8, (0.3, 0.5)
    game = GaussianGame(np.zeros((1, 1, 1)), h, alpha, None, True, False, False, count)
    rng = np.random.default_rng(8)
    run = simulate(
        game, beta=1.0, gamma=gamma, steps=150, eta_q=eta, eta_p=eta, noise_q=0.3, noise_p=0.5, rng=rng, update=update
    )
    first = np.array([[1 - eta * (h + gamma), eta * gamma], [0, 1]])
    second = np.array([[1, 0], [eta, 1 - eta * (1 + alpha)]])
    kick = np.diag(eta * np.array(noises))
    if update == "alternating":
        step, kick = second @ first, second @ kick @ np.diag([1.0, 0.0]) + kick @ np.diag([0.0, 1.0])
    else:
        step = first + second - np.eye(2)
    expected = solve_discrete_lyapunov(step, kick @ kick.T)
    measured = np.cov(run.state.posterior_shift[:, 0, 0], run.state.contamination[:, 0])
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / count)
    assert (np.abs(measured - expected) < 4 * error).all()


def test_noise_depends_on_seed_and_instance_only():
    rng = np.random.default_rng(9)
    game = GaussianGame(rng.normal(size=(200, 3, 2)), 1.0, 0.5)
    options = {"beta": 1.0, "gamma": 0.4, "steps": 30, "noise_q": 0.1, "noise_p": 0.2}

    def final(game: GaussianGame, generator: np.random.Generator, **more) -> np.ndarray:
        parts = simulate(game, **options, rng=generator, **more).state.parts
        return np.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)

    whole = final(game, np.random.default_rng(1))
    np.testing.assert_array_equal(final(game, np.random.default_rng(1), chunk=64, threads=2), whole)
    shared = np.random.default_rng(1)
    halves = [final(GaussianGame(game.g[part], 1.0, 0.5), shared) for part in (slice(0, 128), slice(128, 200))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    assert (final(game, np.random.default_rng(2)) != whole).all()


def test_noise_is_independent_between_instances_and_entries():
    game = GaussianGame(np.zeros((1, 2, 2)), 1.0, 0.5, None, True, False, False, 64 * 300)
    run = simulate(
        game, objective="amvl", beta=0.0, gamma=0.0, steps=1, noise_q=1.0, noise_p=1.0, rng=np.random.default_rng(3)
    )
    draws = np.concatenate([run.state.posterior_shift.reshape(-1, 4), run.state.contamination], axis=1)
    between = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(between).max() < 4.5 / np.sqrt(len(draws))
    blocks = draws.reshape(300, 64, 6)
    assert np.abs((blocks[:-1] * blocks[1:]).mean() / draws.var()) < 4 / np.sqrt(draws.size)


# Weights over time, records, honesty.


def test_a_schedule_function_an_array_over_steps_and_a_named_order_agree():
    game = GaussianGame(0.8 + BALANCED, H, 0.6)
    plan = Schedule(0.7, 0.5, "forward-first", horizon=5.0)
    by_function = simulate(game, schedule=lambda step: plan.weights(step * 0.05), steps=100)
    beta, gamma = plan.weights(np.arange(100) * 0.05)
    by_array = simulate(game, beta=beta[:, None], gamma=gamma[:, None], steps=100)
    constant = simulate(game, beta=0.7, gamma=0.5, steps=100)
    np.testing.assert_array_equal(by_function.state.contamination, by_array.state.contamination)
    assert abs(by_array.state.contamination - constant.state.contamination) > 1e-3


def test_recorded_states_are_those_of_shorter_runs():
    rng = np.random.default_rng(10)
    game = GaussianGame(rng.normal(size=(70, 2, 2)), 1.0, 0.5)
    run = simulate(game, beta=1.0, gamma=0.3, steps=20, record=[20, 0, 7], chunk=32)
    assert run.recorded_steps.tolist() == [0, 7, 20]
    short = simulate(game, beta=1.0, gamma=0.3, steps=7)
    for kept, first, seventh, last in zip(
        run.recorded.parts, initial_state(game).parts, short.state.parts, run.state.parts, strict=True
    ):
        for row, expected in zip(kept, (first, seventh, last), strict=True):
            np.testing.assert_array_equal(row, expected)


def test_a_chunk_that_reaches_the_tolerance_stops_and_says_when():
    game = GaussianGame(BALANCED * np.array([1.0, 0.0])[:, None, None], 1.0, 0.5, None, True, False, False)
    run = simulate(game, beta=1.0, gamma=0.3, steps=5000, eta_q=0.2, tolerance=1e-6, check_every=10, chunk=1)
    assert run.converged is not None and run.converged.all()
    assert run.steps[1] == 0 < run.steps[0] < 5000
    assert (run.gradient_norm <= 1e-6).all()


def test_a_run_that_diverges_says_so_per_instance():
    game = GaussianGame(BALANCED * np.ones((2, 1, 1)), np.array([[1.0], [100.0]]), 0.5, None, True, False, False)
    run = simulate(game, beta=1.0, gamma=0.3, steps=5000, eta_q=0.1, tolerance=1e-6)
    assert run.diverged.tolist() == [False, True]
    assert run.converged is not None and run.converged.tolist() == [True, False]


def test_near_the_critical_weight_slow_instances_are_named():
    gamma = np.array([0.5, 2 / H])
    run = equilibrium_by_simulation(GaussianGame(BALANCED, H, instances=2), beta=0.5, gamma=gamma, max_steps=2000)
    assert run.converged is not None and run.converged.tolist() == [True, False]


GOOD = {"beta": 1.0, "gamma": 1.0, "steps": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": None}, "beta: expected a weight"),
        ({"gamma": -1.0}, "gamma: expected numbers of at least 0"),
        ({"gamma": np.nan}, "gamma: expected finite"),
        ({"gamma": np.ones(3)}, "gamma: expected a number or shape"),
        ({"gamma": np.ones((4, 1))}, "gamma: expected shape"),
        ({"schedule": lambda step: (1.0, 1.0)}, "schedule: expected beta and gamma to be left out"),
        ({"beta": None, "gamma": None, "schedule": lambda step: (1.0, -1.0)}, "gamma: expected numbers of at least 0"),
        ({"steps": 0}, "steps: expected a whole number"),
        ({"threads": 0}, "threads: expected a whole number"),
        ({"chunk": 0}, "chunk: expected a whole number"),
        ({"eta_q": 0.0}, "eta_q: expected numbers above 0"),
        ({"update": "both"}, "update: expected one of"),
        ({"step_rule": "newton"}, "step_rule: expected one of"),
        ({"objective": "kl"}, "objective: expected one of"),
        ({"noise_q": 0.1}, "rng: expected a numpy.random.Generator"),
        ({"noise_q": -0.1}, "noise_q: expected numbers of at least 0"),
        ({"tolerance": 1e-6, "record": [1]}, "tolerance: expected None beside noise or record"),
        ({"record": [6]}, "record: expected steps from 0 to 5"),
        ({"initial": GameState(*(np.zeros(1) for _ in range(4)))}, "initial.posterior_shift: expected finite"),
    ],
)
def test_bad_runs_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(GaussianGame(BALANCED, 1.0, instances=2), **(GOOD | change))


def test_an_equilibrium_step_above_the_newton_step_is_refused():
    with pytest.raises(ValueError, match="eta: expected at most 1"):
        equilibrium_by_simulation(GaussianGame(BALANCED, 1.0), beta=1.0, gamma=1.0, eta=1.5)


@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_a_schedule_takes_no_weight_beside_it(name: str) -> None:
    with pytest.raises(ValueError, match="schedule: expected beta and gamma to be left out beside it"):
        simulate(GaussianGame(0.8 + BALANCED, H, 0.6), schedule=lambda step: (1.0, 1.0), steps=2, **{name: 1.0})

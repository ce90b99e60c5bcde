"""The kernel of shared variances makes the steps of the general one, in other coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from amvl_theory.game.game import OBJECTIVES, GameState, GaussianGame, initial_state, terms_of
from amvl_theory.game.kernel import Chunk, StepRule
from amvl_theory.game.shared_kernel import SharedChunk, suits
from amvl_theory.game.simulate import simulate

COUNT, SIZE = 9, 3
WHERE = slice(2, 9)


def matrices(rng: np.random.Generator, kind: str) -> np.ndarray:
    root = rng.normal(size=(COUNT, SIZE, SIZE))
    dense = root @ root.transpose(0, 2, 1) / SIZE + 0.3 * np.eye(SIZE)
    return {
        "dense": dense,
        "one dense": dense[:1],
        "diagonal": rng.uniform(0.3, 2, (COUNT, SIZE)),
        "none": np.zeros(()),
    }[kind]


def game_of(answers: int, curvature: str = "diagonal", anchor: str = "diagonal", **options) -> GaussianGame:
    rng = np.random.default_rng(answers)
    forces = rng.normal(size=(COUNT, answers, SIZE))
    return GaussianGame(forces, matrices(rng, curvature), matrices(rng, anchor), **options)


def start_of(game: GaussianGame) -> GameState:
    rng = np.random.default_rng(7)
    plain = initial_state(game)
    return GameState(*(part + rng.normal(scale=0.3, size=part.shape) for part in plain.parts))


def both(game: GaussianGame, objective: str, beta, gamma, *, per_answer: bool = False, steps: int = 30) -> None:
    rule = StepRule(terms_of(objective), 0.05, 0.03, per_answer, False)
    assert suits(game, rule)
    start = start_of(game)
    fast, plain = SharedChunk(game, start, WHERE, rule), Chunk(game, start, WHERE, rule)
    for _ in range(steps):
        fast.step(beta, gamma)
        plain.refresh()
        plain.posterior_field(beta, gamma)
        plain.prior_field(beta, gamma)
        plain.move_posterior()
        plain.move_prior()
    for name in ("delta", "rho", "c", "r"):
        np.testing.assert_allclose(
            getattr(fast, name), getattr(plain, name), rtol=1e-12, atol=1e-13, err_msg=f"{objective}: {name}"
        )


@pytest.mark.parametrize("objective", [name for name, terms in OBJECTIVES.items() if terms.ntp])
@pytest.mark.parametrize("answers", [1, 2, 3, 5])
def test_every_objective_walks_the_same_path(objective: str, answers: int) -> None:
    both(game_of(answers), objective, 0.8, 0.3)


@pytest.mark.parametrize("curvature", ["diagonal", "dense", "one dense"])
@pytest.mark.parametrize("anchor", ["none", "diagonal", "dense", "one dense"])
def test_every_kind_of_curvature_and_anchor_walks_the_same_path(curvature: str, anchor: str) -> None:
    for objective in ("amvl", "ntp", "jeffreys"):
        both(game_of(3, curvature, anchor), objective, 0.8, 0.3)


@pytest.mark.parametrize("posterior", [True, False])
@pytest.mark.parametrize("prior", [True, False])
def test_variances_that_are_held_stay(posterior: bool, prior: bool) -> None:
    game = game_of(2, train_posterior_variance=posterior, train_prior_variance=prior)
    for objective in ("amvl", "jeffreys"):
        both(game, objective, 0.8, 0.3)


def test_weights_per_instance_and_unequal_answers_with_a_common_step() -> None:
    rng = np.random.default_rng(0)
    count = WHERE.stop - WHERE.start
    both(game_of(3), "amvl", rng.uniform(0.1, 2, count), 0.3)
    both(game_of(3), "amvl", 0.5, rng.uniform(0.1, 2, count))
    game = game_of(4, "dense", probabilities=[0.1, 0.2, 0.3, 0.4])
    both(game, "amvl", rng.uniform(0.1, 2, count), rng.uniform(0.1, 2, count), per_answer=True)


def test_games_with_other_steps_or_variances_are_left_to_the_general_kernel() -> None:
    amvl = terms_of("amvl")
    plain, item, scaled = (StepRule(amvl, 0.1, 0.1, *flags) for flags in ((False, False), (True, False), (True, True)))
    unequal = {"probabilities": [0.5, 0.3, 0.2]}
    assert suits(game_of(3), plain) and suits(game_of(3, **unequal), item)
    assert not suits(game_of(3, **unequal), plain)
    assert not suits(game_of(3), scaled)
    assert not suits(game_of(3, shared_variance=False), plain)
    assert not suits(game_of(3), StepRule(terms_of("fwd"), 0.1, 0.1, False, False))
    assert not suits(game_of(2, probabilities=np.tile([[0.5, 0.5], [0.4, 0.6], [0.1, 0.9]], (3, 1))), item)


def test_results_do_not_depend_on_chunks_or_threads_and_the_start_is_kept_to_the_bit() -> None:
    for curvature in ("diagonal", "dense"):
        game = game_of(3, curvature)
        start = start_of(game)
        runs = [
            simulate(game, beta=0.8, gamma=0.3, steps=12, initial=start, record=[0, 5], chunk=chunk, threads=threads)
            for chunk, threads in ((None, 1), (2, 2), (1, 1))
        ]
        for run in runs:
            for recorded, part in zip(run.recorded.parts, start.parts, strict=True):
                np.testing.assert_array_equal(recorded[0], part)
        for run in runs[1:]:
            for part, whole in zip(run.state.parts, runs[0].state.parts, strict=True):
                np.testing.assert_allclose(part, whole, rtol=1e-14, atol=1e-15)


def test_a_diverging_instance_does_not_disturb_the_others() -> None:
    game = GaussianGame(np.ones((2, 2, 1)), np.array([[1.0], [1e6]]), 0.5)
    run = simulate(game, beta=1.0, gamma=0.3, steps=200)
    assert run.diverged.tolist() == [False, True]
    alone = simulate(GaussianGame(np.ones((1, 2, 1)), 1.0, 0.5), beta=1.0, gamma=0.3, steps=200)
    np.testing.assert_allclose(run.state.contamination[0], alone.state.contamination[0], rtol=1e-13)

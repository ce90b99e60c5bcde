"""The game's losses and gradients: real KLs, stop-gradients in the right places, units, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amvl_theory.game.game import OBJECTIVES, GameState, GaussianGame, fixed_state, gradients, initial_state, losses
from amvl_theory.model import MeanLeakageModel

PARTS = ("posterior_shift", "posterior_log_var", "contamination", "prior_log_var")
INSTANCES, ANSWERS, MODES = 3, 4, 2


def random_game(seed: int, *, shared: bool = True, dense: bool = True) -> tuple[GaussianGame, GameState]:
    """A random game with unequal answer probabilities, and a random state of it."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(2, INSTANCES, MODES, MODES))
    matrices = root @ root.transpose(0, 1, 3, 2) + 0.3 * np.eye(MODES)
    diagonals = rng.uniform(0.3, 2.0, (2, INSTANCES, MODES))
    curvature, anchor = matrices if dense else diagonals
    forces = rng.normal(size=(INSTANCES, ANSWERS, MODES))
    probabilities = rng.dirichlet(np.full(ANSWERS, 3.0), INSTANCES)
    game = GaussianGame(forces, curvature, anchor, probabilities, shared_variance=shared)
    state = initial_state(
        game,
        posterior_shift=rng.normal(size=(INSTANCES, ANSWERS, MODES)),
        posterior_var=rng.uniform(0.4, 2.0, (INSTANCES, 1 if shared else ANSWERS, MODES)),
        contamination=rng.normal(size=(INSTANCES, MODES)),
        prior_var=rng.uniform(0.4, 2.0, (INSTANCES, MODES)),
    )
    return game, state


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_are_the_differences_of_the_loss_with_the_stopped_side_held_still(objective, shared, dense):
    game, state = random_game(1, shared=shared, dense=dense)
    weights = {"objective": objective, "beta": [0.7, 0.2, 1.4], "gamma": [0.3, 1.1, 0.6]}
    result, width = gradients(game, state, **weights), 1e-5
    for name in PARTS:
        values = getattr(state, name)
        for place in np.ndindex(values.shape[1:]):
            sides = []
            for sign in (1, -1):
                moved = values.copy()
                moved[(slice(None), *place)] += sign * width
                terms = losses(game, replace(state, **{name: moved}), **weights, prior_of=state, posterior_of=state)
                sides.append(sum(terms))
            expected = (sides[0] - sides[1]) / (2 * width)
            np.testing.assert_allclose(getattr(result, name)[(slice(None), *place)], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_equal_torch_autograd_with_detach_and_torchs_own_kl(objective, shared):
    torch = pytest.importorskip("torch")
    from torch.distributions import Normal, kl_divergence

    game, state = random_game(2, shared=shared)
    beta, gamma = 0.7, 0.3
    delta, rho, c, r = (torch.tensor(part, requires_grad=True) for part in state.parts)
    force, H, A, p = (torch.tensor(array.copy()) for array in (game.g, game.H, game.A, game.p))

    def gaussian(mean, log_var, *, stop):
        return Normal(mean.detach(), (0.5 * log_var.detach()).exp()) if stop else Normal(mean, (0.5 * log_var).exp())

    stop = objective not in ("elbo", "jeffreys")
    prior_mean, prior_log_var = c[:, None, :], r[:, None, :]
    rows = rho.expand(delta.shape)
    forward = kl_divergence(gaussian(delta, rows, stop=stop), gaussian(prior_mean, prior_log_var, stop=False))
    reverse = kl_divergence(gaussian(prior_mean, prior_log_var, stop=stop), gaussian(delta, rows, stop=False))
    trace = 0.5 * (torch.diagonal(H, dim1=1, dim2=2)[:, None, :] * rows.exp()).sum(2)
    ntp = 0.5 * torch.einsum("nki,nij,nkj->nk", delta, H, delta) - (force * delta).sum(2) + trace
    loss = 0.5 * torch.einsum("ni,nij,nj->", c, A, c)
    if objective not in ("fwd", "rev"):
        loss = loss + (p * ntp).sum()
    if objective not in ("ntp", "rev", "ntp+rev"):
        loss = loss + beta * (p * forward.sum(2)).sum()
    if objective in ("rev", "ntp+rev", "amvl", "jeffreys"):
        loss = loss + gamma * (p * reverse.sum(2)).sum()
    expected = torch.autograd.grad(loss, (delta, rho, c, r), allow_unused=True)
    result = gradients(game, state, objective=objective, beta=beta, gamma=gamma)
    for mine, theirs in zip(result.parts, expected, strict=True):
        np.testing.assert_allclose(mine, 0.0 if theirs is None else theirs.numpy(), rtol=1e-12, atol=1e-14)
    value = sum(term.sum() for term in losses(game, state, objective=objective, beta=beta, gamma=gamma))
    np.testing.assert_allclose(value, float(loss.detach()), rtol=1e-12)


def test_both_kl_terms_vanish_where_posterior_and_prior_agree():
    game, _ = random_game(3)
    state = initial_state(game, posterior_shift=0.4, contamination=0.4, posterior_var=0.3, prior_var=0.3)
    _, forward, reverse, _ = losses(game, state, objective="jeffreys", beta=1.0, gamma=1.0)
    assert not forward.any() and not reverse.any()


def test_kl_of_nearly_equal_gaussians_keeps_its_digits():
    game = GaussianGame(np.zeros((1, 1, 1)), 1.0)
    state = initial_state(game, prior_var=np.exp(1e-6))
    _, forward, _, _ = losses(game, state, objective="amvl", beta=1.0, gamma=1.0)
    x = 1e-6
    np.testing.assert_allclose(forward, 0.5 * (x**2 / 2 - x**3 / 6), rtol=1e-9)


@given(scale=st.floats(0.05, 20.0), seed=st.integers(0, 1000), objective=st.sampled_from(sorted(OBJECTIVES)))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_another_unit_of_the_latent_leaves_every_term_in_nats_unchanged(scale, seed, objective):
    game, state = random_game(seed, shared=bool(seed % 2))
    other = GaussianGame(game.g / scale, game.H / scale**2, game.A / scale**2, game.p, game.shared_variance)
    shift, rho, c, r = state.parts
    grown = GameState(shift * scale, rho + 2 * np.log(scale), c * scale, r + 2 * np.log(scale))
    weights = {"objective": objective, "beta": 0.7, "gamma": 0.4}
    for before, after in zip(losses(game, state, **weights), losses(other, grown, **weights), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-11)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_no_kl_term_is_negative(seed):
    game, state = random_game(seed, shared=bool(seed % 2))
    _, forward, reverse, _ = losses(game, state, objective="jeffreys", beta=1.0, gamma=1.0)
    assert (forward >= 0).all() and (reverse >= 0).all()


def test_variances_that_the_game_fixes_have_no_gradient():
    game, state = random_game(4)
    fixed = GaussianGame(game.g, game.H, game.A, game.p, train_posterior_variance=False, train_prior_variance=False)
    result = gradients(fixed, state, objective="jeffreys", beta=1.0, gamma=1.0)
    free = gradients(game, state, objective="jeffreys", beta=1.0, gamma=1.0)
    assert not result.posterior_log_var.any() and not result.prior_log_var.any()
    np.testing.assert_array_equal(result.posterior_shift, free.posterior_shift)


def test_a_models_game_has_its_force_mean_and_covariance_and_its_precisions():
    spread = [[2.0, 0.5], [0.5, 1.0]]
    model = MeanLeakageModel([[2.0, 1.0], [1.0, 1.0]], [5.0, 4.0], spread, [4.0, 2.0], 0.5, 0.1)
    game = GaussianGame.from_model(model, instances=3)
    mean = (game.p[0, :, None] * game.g[0]).sum(0)
    np.testing.assert_allclose(mean, model.g, rtol=1e-14)
    np.testing.assert_allclose(np.cov(game.g[0].T, bias=True), spread, rtol=1e-14)
    state = fixed_state(game, model)
    np.testing.assert_allclose(np.exp(state.posterior_log_var[2, 0]), [0.25, 0.5], rtol=1e-14)
    np.testing.assert_allclose(np.exp(state.prior_log_var), np.full((3, 2), 2.0), rtol=1e-14)
    assert game.shape == (3, 4, 2)


FORCES = np.ones((3, 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forces": np.ones((2, 2))}, "forces: expected shape"),
        ({"forces": np.full((3, 2, 2), np.nan)}, "forces: expected finite numbers"),
        ({"curvature": 0.0}, "curvature: expected positive definite"),
        ({"curvature": np.array([[[1.0, 2.0], [2.0, 1.0]]])}, "curvature: expected positive definite.*-1"),
        ({"curvature": np.array([[[1.0, 2.0], [0.0, 1.0]]])}, "curvature: expected symmetric"),
        ({"curvature": np.ones((3, 5))}, "curvature: expected a number, diagonals"),
        ({"curvature": np.ones((2, 2))}, "curvature: expected a first axis of 1 or 3"),
        ({"anchor": -1.0}, "anchor: expected positive semidefinite"),
        ({"probabilities": [0.5, 0.6]}, "probabilities: expected rows that sum to 1"),
        ({"probabilities": [1.0, 0.0]}, "probabilities: expected numbers above 0"),
        ({"probabilities": [0.2, 0.3, 0.5]}, "probabilities: expected shape"),
        ({"instances": 4}, "forces: expected a first axis of 1 or 4"),
        ({"instances": 0}, "instances: expected at least 1"),
    ],
)
def test_bad_games_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        GaussianGame(**({"forces": FORCES, "curvature": 1.0} | change))


def test_bad_states_weights_and_objectives_are_refused_by_name():
    game = GaussianGame(FORCES, 1.0)
    with pytest.raises(ValueError, match="posterior_var: expected numbers above 0"):
        initial_state(game, posterior_var=0.0)
    with pytest.raises(ValueError, match="contamination: expected something that broadcasts"):
        initial_state(game, contamination=np.zeros(5))
    with pytest.raises(ValueError, match="objective: expected one of"):
        gradients(game, initial_state(game), objective="dual", beta=1.0, gamma=1.0)
    with pytest.raises(ValueError, match="beta: expected numbers of at least 0"):
        losses(game, initial_state(game), objective="amvl", beta=-1.0, gamma=1.0)
    model = MeanLeakageModel(1.0, [1.0, 1.0], posterior_precision=[[2.0, 1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="posterior_precision: expected a diagonal one"):
        fixed_state(GaussianGame.from_model(model), model)

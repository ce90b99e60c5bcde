"""Free posteriors: exact where the decoder is quadratic, nothing where it is blind, and the real decoder's own NLL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amvl_model.diagnostics.common.gradients import differentiable
from amvl_model.diagnostics.response.free_posterior import Search, decoder_nll, free_posteriors, softmax_nll
from amvl_model.evaluation.scorers import batches, latent_scorer
from amvl_theory import held_prior_posteriors
from tests import helpers
from tests.model.evaluation.test_evaluation import choice_question

SEARCH = Search(steps=80, rounds=6, pairs=2)


def quadratic(forces: np.ndarray, curvature: np.ndarray):  # type: ignore[no-untyped-def]
    g, h = torch.from_numpy(forces).float(), torch.from_numpy(curvature).float()

    def nll(w: torch.Tensor) -> torch.Tensor:
        return -(w * g[:, None]).sum(-1) + 0.5 * ((w @ h) * w).sum(-1)

    return nll


def exact_objective(
    forces: np.ndarray, curvature: np.ndarray, gamma: float, u: np.ndarray, s: np.ndarray
) -> np.ndarray:
    nll = -(u * forces).sum(1) + 0.5 * ((u @ curvature) * u).sum(1) + 0.5 * (s**2 * np.diag(curvature)).sum(1)
    return nll + gamma * (np.log(s) + 0.5 * (1 + u**2) / s**2 - 0.5).sum(1)


@pytest.mark.parametrize("dense", [False, True])
def test_a_quadratic_decoder_gives_the_theorys_posteriors(dense: bool) -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5)) if dense else np.diag(rng.uniform(0.3, 1.2, 5))
    curvature = 0.3 * root @ root.T
    forces = rng.normal(size=(4, 5)) * 0.25
    gammas = (0.1, 3.0)
    for result in free_posteriors(quadratic(forces, curvature), 4, 5, gammas, SEARCH):
        exact = held_prior_posteriors(forces, curvature, result.gamma)
        assert result.converged
        best = exact_objective(forces, curvature, result.gamma, exact.shifts, exact.widths)
        reached = exact_objective(forces, curvature, result.gamma, result.shifts, result.widths)
        assert (reached >= best - 1e-6).all()
        np.testing.assert_allclose(reached, best, atol=0.06)  # of up to 5 nats; the search's tolerance is on a mean
        np.testing.assert_allclose(result.shifts, exact.shifts, atol=0.2 * np.abs(exact.shifts).max())


def test_a_decoder_that_does_not_read_the_latents_leaves_the_posterior_on_the_prior() -> None:
    for result in free_posteriors(lambda w: 0.0 * w.sum(-1) + 1.3, 3, 4, (0.001, 1.0), Search(steps=40, rounds=1)):
        np.testing.assert_allclose(result.shifts, 0.0, atol=1e-6)
        np.testing.assert_allclose(result.widths, 1.0, atol=1e-6)
        np.testing.assert_allclose(result.objective, 1.3, atol=1e-6)


def test_more_gamma_gives_less_shift_and_the_order_of_the_gammas_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    nll = quadratic(rng.normal(size=(3, 4)), 0.5 * np.eye(4))
    search = Search(steps=60, rounds=1)
    one = free_posteriors(nll, 3, 4, (0.1, 10.0, 1.0), search)
    other = free_posteriors(nll, 3, 4, (10.0, 0.1, 1.0), search)
    sizes = [np.linalg.norm(item.shifts) for item in one]
    assert sizes[0] > sizes[2] > sizes[1]
    np.testing.assert_array_equal(one[0].shifts, other[1].shifts)


def test_the_log_linear_decoder_has_the_measured_forces_and_the_gauss_newton_curvature() -> None:
    rng = np.random.default_rng(2)
    readout, bias = rng.normal(size=(4, 6)), rng.normal(size=4)
    probs = np.exp(bias) / np.exp(bias).sum()  # three options and everything else
    forces = (readout - probs @ readout)[None, :3]
    nll = softmax_nll(forces, probs[None, :3], [1])
    at = torch.zeros(6, requires_grad=True)
    slope = torch.autograd.grad(nll(at[None, None]).sum(), at)[0]
    np.testing.assert_allclose(-slope.numpy(), forces[0, 1], atol=1e-5)
    hessian = torch.autograd.functional.hessian(lambda w: nll(w[None, None]).sum(), torch.zeros(6)).numpy()
    exact = readout.T @ (np.diag(probs) - np.outer(probs, probs)) @ readout
    np.testing.assert_allclose(hessian, exact, atol=1e-4)
    away = torch.from_numpy(rng.normal(size=(1, 1, 6))).float()
    scores = readout @ away[0, 0].numpy() + bias
    assert float(nll(away)) == pytest.approx(np.log(np.exp(scores).sum()) - scores[1], abs=1e-4)


def test_the_real_decoders_nll_is_that_of_the_scorer_for_every_option() -> None:
    model = helpers.tiny_model()
    scorer = latent_scorer(model, helpers.processor())
    questions = [choice_question(seed, 3) for seed in (2, 5)]
    with differentiable(model), torch.no_grad():
        for batch in batches(questions, helpers.processor(), 2, description="", progress=False):
            query = scorer.encode_batch(batch)
            of, pairs = decoder_nll(scorer, query, batch)
            assert query.prior is not None
            w = torch.randn(1, 2, 24, generator=torch.Generator().manual_seed(0)).expand(len(pairs), 2, 24)
            result = of(2)(w)
            for draw in range(2):
                z = query.prior.mean + query.prior.std * w[0, draw].view(1, 3, 8)
                expected = -scorer.option_log_probs(query, z, batch.options)
                for row, (question, option) in enumerate(pairs):
                    torch.testing.assert_close(result[row, draw], expected[question, option], atol=1e-4, rtol=1e-4)


def test_questions_with_different_numbers_of_options_are_refused() -> None:
    model = helpers.tiny_model()
    scorer = latent_scorer(model, helpers.processor())
    with torch.no_grad():
        for batch in batches(
            [choice_question(0, 2), choice_question(1, 3)], helpers.processor(), 2, description="", progress=False
        ):
            with pytest.raises(ValueError, match="equally many options"):
                decoder_nll(scorer, scorer.encode_batch(batch), batch)


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_gamma_must_hold_the_posterior(gamma: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        free_posteriors(lambda w: w.sum(-1), 1, 2, [gamma], SEARCH)


def test_impossible_searches_are_refused() -> None:
    with pytest.raises(ValueError, match="quarter to average"):
        Search(steps=4)
    with pytest.raises(ValueError, match="tolerance must be above 0"):
        Search(tolerance=0)
    with pytest.raises(ValueError, match="at least one pair"):
        free_posteriors(lambda w: w.sum(-1), 0, 2, [1.0], SEARCH)

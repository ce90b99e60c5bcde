"""T8: the shift of the prior along the answer's direction on the questions that it was trained on."""

import numpy as np
import pytest

from amvl_theory.learnt_prior.amortised import (
    amortised_equilibrium,
    effective_ridge,
)
from amvl_theory.learnt_prior.answer_direction import leverage, predicted_answer_direction_shift
from tests.theory.learnt_prior.test_amortised import BETA, GAMMA, options, random_model


def test_the_shift_equals_its_definition_with_the_posteriors_of_all_options():
    model, rng = random_model(31, 9, 14), np.random.default_rng(32)
    forces = options(33, 9) + rng.normal(size=(9, 1, 6))
    answers = rng.integers(0, 4, 9)
    metric = rng.uniform(0.5, 2, 6)
    result = predicted_answer_direction_shift(model, forces, answers, BETA, GAMMA, metric=metric)
    prior = amortised_equilibrium(model, forces[np.arange(9), answers], BETA, GAMMA)
    pull = GAMMA * model.posterior_precision
    shifts = (forces + pull * prior.contamination[:, None]) / (model.curvature + pull)
    np.testing.assert_allclose(shifts[np.arange(9), answers], prior.posterior_shift, rtol=1e-10)
    middle = shifts.mean(axis=1)
    direction = shifts - middle[:, None]
    expected = np.einsum("nd,nad,d->na", prior.contamination - middle, direction, metric)
    np.testing.assert_allclose(result.training, expected / (direction**2 @ metric), rtol=1e-9)
    np.testing.assert_allclose(result.training_answer, result.training[np.arange(9), answers])


@pytest.mark.parametrize("uniform", [True, False])
def test_training_questions_show_their_leverage_and_held_out_ones_nothing_within_4_standard_errors(uniform):
    model, rng = random_model(34, 8, 20), np.random.default_rng(35)
    forces, fresh, other = options(36, 8), rng.normal(size=(3, 20)), options(37, 3)
    probs = np.full((8, 4), 0.25) if uniform else rng.dirichlet(np.ones(4), size=8)
    contrasts, held_out = [], []
    for _ in range(2000):
        answers = np.array([rng.choice(4, p=row) for row in probs])
        result = predicted_answer_direction_shift(
            model,
            forces,
            answers,
            BETA,
            GAMMA,
            answer_probs=probs,
            held_out_features=fresh,
            held_out_forces=other,
        )
        contrasts.append(result.training_answer - result.training_others)
        held_out.append(result.held_out)
    contrasts, held_out = np.array(contrasts), np.array(held_out)
    determined = np.einsum("na,nad->nd", probs, forces)
    # What label noise of the question itself does not explain is the fitted determined part, of all questions.
    fitted = amortised_equilibrium(model, determined, BETA, GAMMA)
    size = (forces**2).sum(axis=2)
    along = np.einsum("nd,nad->na", model.curvature * fitted.contamination, forces) / size
    inferred = (probs * (along - (along.sum(axis=1, keepdims=True) - along) / 3)).sum(axis=1)
    expected = result.memorised_contrast + inferred
    error = contrasts.std(axis=0) / np.sqrt(len(contrasts))
    assert (np.abs(contrasts.mean(axis=0) - expected) < 4 * error).all()
    fresh_fit = np.einsum("md,mad->ma", model.curvature * fresh @ fitted.weights, other) / (other**2).sum(axis=2)
    error = held_out.std(axis=0) / np.sqrt(len(held_out))
    assert (np.abs(held_out.mean(axis=0) - fresh_fit) < 4 * error).all()
    if uniform:
        np.testing.assert_allclose(fresh_fit, 0, atol=1e-12)
        np.testing.assert_allclose(inferred, 0, atol=1e-12)


def test_equal_norm_directions_give_the_contrast_leverage_times_o_over_o_minus_1():
    model = random_model(38, 8, 20)
    simplex = np.eye(4) - 0.25
    result = predicted_answer_direction_shift(model, np.stack([simplex] * 8), np.zeros(8, int), BETA, GAMMA)
    np.testing.assert_allclose(result.memorised_contrast, result.leverage * 4 / 3, rtol=1e-12)
    own = effective_ridge(model, BETA, GAMMA)
    np.testing.assert_allclose(result.mean_leverage, (model.spectrum / (model.spectrum + own)).sum() / 8, rtol=1e-12)
    assert (leverage(model, BETA, 10.0) < leverage(model, BETA, 0.0)).all()


def test_a_memorising_prior_lies_on_the_training_answers_posterior_whatever_gamma():
    model, answers = random_model(39, 6, 20, ridge=0.0), np.array([0, 1, 2, 3, 0, 1])
    forces = options(40, 6)
    for gamma in (0.0, 5.0):
        result = predicted_answer_direction_shift(model, forces, answers, BETA, gamma)
        np.testing.assert_allclose(result.training_answer, 1.0, rtol=1e-10)
        np.testing.assert_allclose(result.leverage, 1.0, rtol=1e-10)

"""The sampled gradients against expectations by quadrature, and what an ensemble keeps."""

from __future__ import annotations

import numpy as np
import pytest

from amvl_theory import Ensemble, Start, XRoute, run_answers, run_ensemble
from amvl_theory.dynamics.in_training.decoders import answer_drive, logistic_loss
from amvl_theory.dynamics.in_training.ensembles import NAMES, _gradients


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_mean_minibatch_gradients_are_the_expectations(decoder) -> None:
    w, a, q, p, u, gamma, beta, decay = 0.7, 0.9, 0.4, 0.9, 0.5, 0.3, 0.8, 0.1
    route = XRoute(1.2, 0.8, 0.01)
    setting = Ensemble(4000, 64, decoder=decoder, beta=beta, weight_decay=decay, route=route)
    state = np.repeat(np.array([w, a, 0.5 * np.log(q), 0.5 * np.log(p), u])[:, None], setting.seeds, axis=1)
    found = _gradients(setting, state, gamma, np.random.default_rng(0))
    constants = {"gain": 1.0, "curvature": 1.0} if decoder == "linear" else {}
    e0, e1 = answer_drive(decoder, u * 1.2 + w * a, (u * 0.8) ** 2 + w**2 * q, **constants)
    expected = -np.array(
        [
            a * e0 - w * q * e1 - decay * w,
            w * e0 - gamma * a / q,
            gamma * ((p + a**2) / q - 1) - w**2 * q * e1,
            beta * ((q + a**2) / p - 1),
            1.2 * e0 - u * 0.64 * e1,
        ]
    )
    error = found.std(axis=1) / np.sqrt(setting.seeds) + 1e-12
    away = np.abs(found.mean(axis=1) - expected) / error
    assert (away < 4).all(), dict(zip(NAMES, away, strict=True))


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    setting = Ensemble(5, 4)
    runs = [run_ensemble(setting, 0.1, steps=20, record=[0, 20], seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0].leak, runs[1].leak)
    assert (runs[0].leak != runs[2].leak).all() and runs[0].leak.shape == (2, 5)


def test_adam_moves_every_parameter_by_its_rate_on_the_first_step() -> None:
    start = Start(0.3, 0.4, 0.5, 1.5)
    setting = Ensemble(3, 8, optimizer="adam", noise=0.1, start=start, decoder_std=0.0, leak_std=0.0)
    run = run_ensemble(setting, 0.1, steps=1, record=[1])
    for found, first in ((run.decoder_gain, 0.3), (run.leak, 0.4), (0.5 * np.log(run.prior_var), np.log(1.5))):
        np.testing.assert_allclose(np.abs(found - first), 0.02, rtol=1e-4)


def test_a_seed_that_collapsed_counts_for_ever() -> None:
    run = run_ensemble(Ensemble(50, 8, start=Start(0.0, 0.0, 0.5, 0.5)), 0.0, steps=600, record=[0, 300, 600])
    assert run.collapsed()[0] == 0 and (np.diff(run.collapsed()) >= 0).all() and (np.diff(run.reached(0.1)) >= 0).all()
    expected = np.log(2.0) - logistic_loss(run.decoder_gain * run.leak, run.decoder_gain**2 * run.posterior_var)
    np.testing.assert_array_equal(run.benefit, expected)


def test_softmax_answers_stay_unread_above_the_threshold() -> None:
    _, M = run_answers([0.6, 0.4], gamma=3.0, variance=0.5, rate=0.05, seeds=50, batch=32, steps=400, start_std=0.1)
    assert np.abs(M[..., 0] - M[..., 1]).mean() < 0.03  # what tells the answers apart
    with pytest.raises(ValueError, match="answer_probabilities: expected shape"):
        run_answers([1.0], gamma=0.1, variance=1.0)

"""T1 to T7 and T10 to T12 at sizes beyond floating point, and for what is no number: one clear error, never a silent result."""

from __future__ import annotations

import numpy as np
import pytest

import amvl_theory as theory
from amvl_theory.dynamics.stability import curl, game_matrix, symmetrised_game

READING = theory.ReadingModel()
RATES = theory.HeadRates()
QUERY = theory.MeanLeakageModel(curvature=[1.0, 2.0], force_mean=1.0, anchor=0.5)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: theory.ReadingModel().damping(1e-300, 1e300), "variance, gamma"),
        (lambda: theory.reading_rate(theory.ReadingModel(gain=1e160), 1.0, 0.1), "model.gain"),
        (lambda: theory.reading_rate(READING, 1e-300, 1e300), "variance, gamma"),
        (lambda: theory.reading_threshold(theory.ReadingModel(gain=1e300)), "model.gain"),
        (lambda: theory.threshold_variance(theory.ReadingModel(gain=1e300, weight_decay=1.0), 0.1), "model.gain"),
        (lambda: theory.reading_exponent(READING, [1.0], 1e-300, 1e300, exact=True), "variance, gamma"),
        (lambda: theory.critical_ratio(0.1, 1e3), "probability, exponent"),
        (lambda: theory.critical_ratio(0.1, 1e300), "exponent"),
        (lambda: theory.amplitude_at_product(READING, 1.0, 1e300, 0.1), "gamma"),
        (
            lambda: theory.holding_weight(
                9.0, probability=0.1, critical=9.0, model=theory.ReadingModel(gain=1e300), variance=1.0
            ),
            "model.gain",
        ),
        (lambda: theory.widening([1.0], gap=1e300, gamma=0.1, beta=1.0, rates=RATES), "times"),
        (lambda: theory.widening_limit(1e160, rates=RATES), "gap"),
        (
            lambda: theory.widening_at_fixed_gap(
                [1.0], fixed_gap_var=1.0, posterior_rate=0.1, prior_rate=0.1, prior_std=1e300
            ),
            "prior_std",
        ),
        (lambda: theory.widening_rate(0.1, 1e300, 1e300), "posterior_rate, prior_rate"),
        (lambda: theory.adam_crossover(1e300, 1e-300), "second_moment, kl_gradient_rms"),
        (lambda: theory.least_spread(start_var=1e300, rest_var=1e-300, curvature=1.0, rate=1.0), "start_var, rest_var"),
        (
            lambda: theory.coadapted_trajectory(
                [1.0], model=READING, gamma=0.1, objective="elbo", start=theory.Start(prior_std=1e160)
            ),
            "start.prior_std",
        ),
        (
            lambda: theory.coadapted_asymptotics(theory.ReadingModel(1.0, 1e-300), 1e-300),
            "model.curvature, gamma",
        ),
        (
            lambda: theory.coadapted_asymptotics(theory.ReadingModel(posterior_rate=1.7e308), 0.1),
            "model.posterior_rate",
        ),
        (lambda: theory.edge_of_stability(theory.ReadingModel(1.0, 1e-300), 1e-300), "model.curvature, gamma"),
        (lambda: theory.protecting_weight(READING, 1e300), "x_snr"),
        (lambda: theory.rest_gain(theory.XRoute(1.0, 1e-300), decoder="logistic"), "route.noise"),
        (lambda: theory.stability(QUERY, 1e300, 1.0), "beta"),
        (lambda: theory.stability(QUERY, 1.0, 1.0, eta_q=1e300), "eta_q"),
        (lambda: theory.symmetriser(QUERY, 1e-300, 1e300), "beta, gamma"),
    ],
)
def test_a_result_beyond_floating_point_is_refused_by_the_name_of_what_causes_it(call, named: str) -> None:
    with pytest.raises(ValueError, match=r"^([\w.]+(, )?)+: expected") as error:
        call()
    assert str(error.value).startswith(f"{named}: expected")


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_extreme_sizes_whose_result_is_a_number_give_that_number(size: float) -> None:
    assert theory.collapse_probability(size, 3.0) == pytest.approx(
        float(theory.collapse_probability(min(size, 800), 3.0))
    )
    assert theory.adam_effective_weight(size, 1.0) == pytest.approx(min(size, 1.0))
    assert theory.reading_threshold(READING, size) == 1.0
    assert theory.prior_latent_accuracy(1.0, size) == pytest.approx(0.5 if size > 1 else 0.8413447460685429)


def test_a_weight_is_not_searched_for_ever_where_the_threshold_has_vanished() -> None:
    common = {"probability": 0.1, "critical": 1e-300, "variance": 1.0}
    with pytest.raises(ValueError, match=r"shape: expected a schedule with which some weight holds"):
        theory.holding_weight_on_path([500.0], model=theory.ReadingModel(gain=1e-300), **common)


@pytest.mark.parametrize("name", ["beta", "gamma", "eta_q", "eta_p"])
@pytest.mark.parametrize("value", [None, "x", "1.0", np.nan, np.inf, -1.0, [], [1.0, 2.0], np.eye(2), 1j, {}, object()])
@pytest.mark.parametrize("function", [theory.stability, theory.symmetriser, theory.stationary_covariance])
def test_the_stability_functions_name_a_weight_or_rate_that_is_no_number(function, name: str, value) -> None:
    noise = {"noise_cov_q": 1.0, "noise_cov_p": 1.0} if function is theory.stationary_covariance else {}
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        function(QUERY, **{"beta": 1.0, "gamma": 1.0, **noise, name: value})


@pytest.mark.parametrize("model", [None, "x", np.nan, [], np.eye(2)])
@pytest.mark.parametrize(
    "function",
    [
        lambda model: theory.stability(model, 1.0, 1.0),
        lambda model: theory.symmetriser(model, 1.0, 1.0),
        lambda model: theory.stationary_covariance(model, 1.0, 1.0, 1.0, 1.0),
        lambda model: game_matrix(model, 1.0, 1.0),
        lambda model: theory.trajectory(model, 1.0, 1.0, [1.0]),
        lambda model: theory.spread_trajectory(model, 1.0, [1.0]),
        lambda model: theory.trajectory_per_answer(model, [[1.0]], [1.0], 1.0, 1.0, [1.0]),
        lambda model: theory.compare_orders(model, 1.0, 1.0, 10.0),
        lambda model: theory.equilibrium(model, 1.0, 1.0),
        lambda model: theory.elbo_equilibrium(model, 1.0),
        lambda model: theory.frozen_prior_response(model, 1.0),
        lambda model: theory.leaked_information(model, 1.0),
        lambda model: theory.free_spread(model, 1.0),
        lambda model: theory.free_contamination(model, 1.0),
    ],
)
def test_a_model_that_is_none_is_named(function, model) -> None:
    with pytest.raises(TypeError, match="^model: expected an instance of MeanLeakageModel, received"):
        function(model)


@pytest.mark.parametrize("noise", [None, "1.0", np.nan, -1.0, [], [1.0, 2.0, 3.0], np.eye(3), [[1.0, 2.0], [3.0, 4.0]]])
def test_noise_that_is_no_covariance_is_named(noise) -> None:
    with pytest.raises(ValueError, match="^noise_cov_p: expected"):
        theory.stationary_covariance(QUERY, 1.0, 1.0, 1.0, noise)


@pytest.mark.parametrize("step", ["0.1", np.nan, 0.0, -0.1, 10.0, [0.1]])
def test_a_step_that_is_none_is_named(step) -> None:
    with pytest.raises(ValueError, match="^step: expected"):
        theory.stationary_covariance(QUERY, 1.0, 1.0, 1.0, 1.0, step=step)


@pytest.mark.parametrize("step", [None, 0.01])
@pytest.mark.parametrize("rate", ["eta_q", "eta_p"])
def test_no_covariance_is_made_of_rounding(rate: str, step: float | None) -> None:
    with pytest.raises(ValueError, match=f"{rate}: expected (rates close enough together|numbers for which)"):
        theory.stationary_covariance(QUERY, 1.0, 1.0, 1.0, 1.0, **{rate: 1e-300}, step=step)


@pytest.mark.parametrize("matrix", [None, "x", 1.0, [], [[1.0, 2.0]], [[np.nan]]])
def test_what_is_no_square_matrix_is_named(matrix) -> None:
    for call in (lambda: curl(matrix), lambda: symmetrised_game(matrix, np.eye(1))):
        with pytest.raises(ValueError, match="^matrix: expected"):
            call()
    with pytest.raises(ValueError, match="^weighting: expected a positive definite matrix"):
        symmetrised_game(np.eye(2), np.diag([1.0, -1.0]))

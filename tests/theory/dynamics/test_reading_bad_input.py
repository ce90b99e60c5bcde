"""What T11 and the ensembles refuse: every message names the argument, what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest

import amvl_theory as theory


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.ReadingModel(gain=0.0), r"gain: expected numbers above 0, received 0"),
        (lambda: theory.ReadingModel(weight_decay=-1.0), r"weight_decay: expected numbers of at least 0"),
        (lambda: theory.reading_rate(theory.ReadingModel(), 1.0, -0.1), r"gamma: expected numbers of at least 0"),
        (lambda: theory.reading_threshold(theory.ReadingModel(), 0.0), r"variance: expected numbers above 0"),
        (lambda: theory.threshold_variance(theory.ReadingModel(), 0.5), r"gamma, weight_decay: expected both above 0"),
        (
            lambda: theory.threshold_variance(theory.ReadingModel(weight_decay=0.1), 1.0),
            r"gamma: expected less than kappa\^2/k = 1",
        ),
        (
            lambda: theory.fastest_reading(theory.ReadingModel(), 1.5),
            r"gamma: expected less than the threshold kappa\^2/k = 1",
        ),
        (
            lambda: theory.fastest_reading(theory.ReadingModel(weight_decay=0.1), 0.5),
            r"model: expected no weight decay, received 0.1",
        ),
        (lambda: theory.answer_modes([1.0]), r"answer_probabilities: expected shape \(answers,\), at least 2"),
        (lambda: theory.collapse_probability(1.0, 0.0), r"critical_ratio: expected numbers above 0"),
        (lambda: theory.critical_ratio(1.0), r"probability: expected numbers between 0 and 1"),
        (
            lambda: theory.holding_weight(
                0.0, probability=0.1, critical=9.0, model=theory.ReadingModel(), variance=1.0
            ),
            r"budget: expected numbers above 0, received 0",
        ),
        (
            lambda: theory.holding_weight(
                10.0, probability=0.01, critical=0.1, model=theory.ReadingModel(), variance=0.1
            ),
            r"critical: expected a start that some weight holds",
        ),
        (lambda: theory.reading_exponent(theory.ReadingModel(), [2.0, 1.0], 1.0, 0.0), r"times: expected shape"),
        (
            lambda: theory.initial_amplitude(theory.ReadingModel(), 1.0, 2.0, (1.0, 1.0), noise_stds=(0.1, 0.1)),
            r"gamma: expected a weight at which the leak grows",
        ),
        (
            lambda: theory.critical_product(theory.ReadingModel(), 0.1, 0.0, 1.0),
            r"benefit: expected a number of nats between",
        ),
        (
            lambda: theory.holding_weight_on_path(
                [0.0], probability=0.1, critical=9.0, model=theory.ReadingModel(), variance=1.0
            ),
            r"times: expected a budget above 0 as the last time, received 0",
        ),
        (
            lambda: theory.holding_weight_on_path(
                [0.0, 9.0], probability=0.1, critical=[1.0, 2.0], model=theory.ReadingModel(), variance=1.0
            ),
            r"critical: expected one number, received an array of shape \(2,\)",
        ),
        (lambda: theory.ReadingModel(decoder_rate=-0.1), r"decoder_rate: expected numbers above 0, received -0.1"),
        (
            lambda: theory.reading_rate(theory.ReadingModel(), 1.0, -0.1),
            r"gamma: expected numbers of at least 0, received -0.1",
        ),
        (
            lambda: theory.threshold_variance(theory.ReadingModel(), 0.1),
            r"gamma, weight_decay: expected both above 0.*received 0.1 and 0",
        ),
        (
            lambda: theory.initial_amplitude(theory.ReadingModel(), 1.0, 0.1, (1.0,)),
            r"start_stds: expected two numbers, received shape \(1,\)",
        ),
        (
            lambda: theory.initial_amplitude(
                theory.ReadingModel(), 1.0, 0.1, (1.0, 1.0), noise_stds=(0.1, 0.1), times=-1.0
            ),
            r"times: expected numbers of at least 0, received -1.0",
        ),
        (
            lambda: theory.critical_product(theory.ReadingModel(), 0.1, 0.0, 1e-12),
            r"benefit: expected .* received 1e-12",
        ),
        (lambda: theory.momentum_rate(-3.0, 0.5), r"rate: expected a decay slow enough .* received -3"),
        (
            lambda: theory.run_ensemble(theory.Ensemble(), 0.1, steps=0, record=[0]),
            r"steps: expected a whole number of at least 1, received 0",
        ),
        (lambda: theory.momentum_rate(0.1, 1.0), r"momentum: expected less than 1, received 1"),
        (lambda: theory.Ensemble(optimizer="lion"), r"optimizer: expected one of sgd, adam, received 'lion'"),
        (lambda: theory.Ensemble(seeds=0), r"seeds: expected a whole number of at least 1, received 0"),
        (lambda: theory.Ensemble(batch=2.5), r"batch: expected a whole number of at least 1, received 2.5"),
        (lambda: theory.Ensemble(seeds=np.nan), r"seeds: expected finite numbers, received nan"),
        (
            lambda: theory.run_ensemble(theory.Ensemble(), 0.1, steps=5, record=[6]),
            r"record: expected rising whole numbers from 0 to 5",
        ),
        (
            lambda: theory.run_ensemble(theory.Ensemble(), 0.1, steps=5, record=[2.5]),
            r"record: expected rising whole numbers from 0 to 5, received \[2.5\]",
        ),
        (
            lambda: theory.run_ensemble(theory.Ensemble(5, 4), 1e300, steps=5, record=[5]),
            r"gamma: expected weights and rates at which no seed diverges",
        ),
        (
            lambda: theory.run_answers([0.5, 0.5], gamma=0.1, variance=1.0, rate=-0.1),
            r"rate: expected numbers of at least 0, received -0.1",
        ),
        (
            lambda: theory.run_answers([0.5, 0.5], gamma=0.1, variance=1.0, batch=0),
            r"batch: expected a whole number of at least 1, received 0",
        ),
        (
            lambda: theory.ReadingModel.of_variance(0.6),
            r"answer_variance: expected at most 1/2, .* received 0.6",
        ),
        (
            lambda: theory.reading_rate(theory.ReadingModel(), [1.0, 2.0], [0.1, 0.2, 0.3]),
            r"variance, gamma: expected shapes that broadcast, received \(2,\), \(3,\)",
        ),
        (
            lambda: theory.critical_product(theory.ReadingModel(), [0.1, 0.2], 0.0, 0.05),
            r"variance: expected one number, received an array of shape \(2,\)",
        ),
        (
            lambda: theory.run_ensemble(theory.Ensemble(), [0.1, 0.2], steps=5, record=[5]),
            r"gamma: expected a number or shape \(5,\)",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.reading_threshold(0.1),
        lambda: theory.reading_rate(0.1, 1.0, 0.1),
        lambda: theory.holding_weight(10.0, probability=0.1, critical=9.0, model=0.1, variance=1.0),
        lambda: theory.coadapted_asymptotics(0.1, 0.1),
        lambda: theory.coadapted_trajectory([1.0], model=0.1, gamma=0.1),
    ],
)
def test_a_model_that_is_none_is_named(call) -> None:
    with pytest.raises(TypeError, match="model: expected an instance of ReadingModel, received float"):
        call()

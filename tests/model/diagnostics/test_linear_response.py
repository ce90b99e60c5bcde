"""Forces and Hessians equal differences of the NLL; arrays are what the theory's model takes, in any units."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.diagnostics.response.linear_response import (
    LinearResponseReport,
    absorption,
    measure_linear_response,
    project,
    span_of_forces,
)
from amvl_model.diagnostics.response.response_arrays import LinearResponse
from amvl_model.evaluation.scorers import latent_scorer
from amvl_theory import MeanLeakageModel, equilibrium, frozen_prior_response, leaked_information
from tests import helpers
from tests.model.evaluation.test_evaluation import OPTIONS, questions


def rms_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)


@lru_cache(maxsize=1)
def precise() -> Any:
    """The tiny model in float64, its RMS norms too (transformers computes them in float32): differences are sharp."""
    model = helpers.tiny_model().double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(rms_norm, module)
    return model


@lru_cache(maxsize=1)
def report() -> LinearResponseReport:
    return measure_linear_response(precise(), helpers.processor(), questions(), step=1e-4, batch_size=3, progress=False)


def log_probs(index: int) -> Callable[[np.ndarray], np.ndarray]:
    """z (D,) -> log p(a|x,z) (O,) of one question, from an encoding of its own."""
    scorer = latent_scorer(precise(), helpers.processor())
    question = questions()[index]
    with torch.no_grad():
        query = scorer.encode(helpers.processor()([question], answers=False))

    def at(z: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            latents = torch.from_numpy(z).view(1, 3, 8)
            return scorer.option_log_probs(query, latents, [len(question.choices)])[0].numpy()

    return at


def prior_std(index: int) -> np.ndarray:
    with torch.no_grad():
        _, prior = precise().encode_query(helpers.processor()([questions()[index]], answers=False))
    return prior.std.numpy().ravel()


@pytest.mark.parametrize("index", [0, 1, 5])
def test_forces_are_minus_the_slope_of_the_answer_nll(index: int) -> None:
    result, at, step = report().responses[index], log_probs(index), 1e-5
    assert result.modes >= 1
    for mode, direction in enumerate(result.directions):
        ends = [at(result.prior_mean + sign * step * direction) for sign in (1, -1)]
        np.testing.assert_allclose(result.forces[:, mode], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)
    outside = np.random.default_rng(0).normal(size=result.prior_mean.size)
    outside -= (result.projector @ outside) @ result.directions
    outside /= np.sqrt(np.sum((outside / prior_std(index)) ** 2))
    slope = (at(result.prior_mean + step * outside) - at(result.prior_mean - step * outside)) / (2 * step)
    assert np.abs(slope).max() < 2e-3 * np.abs(result.forces).max() * np.linalg.norm(
        outside
    )  # nothing of the forces is lost


@pytest.mark.parametrize("index", [0, 1])
def test_hessians_are_second_differences_of_the_answer_nll(index: int) -> None:
    result, at, step = report().responses[index], log_probs(index), 1e-3
    assert result.hessians is not None
    middle = at(result.prior_mean)
    for mode, direction in enumerate(result.directions):
        ends = [at(result.prior_mean + sign * step * direction) for sign in (1, -1)]
        second = -(ends[0] + ends[1] - 2 * middle) / step**2
        scale = np.abs(result.hessians).max()
        np.testing.assert_allclose(result.hessians[:, mode, mode], second, rtol=5e-3, atol=1e-3 * scale)


def softmax_forces(seed: int, options: int = 4, size: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A readout log p = log_softmax(W z): W, p and the forces at z = 0, of options with some other answer beside them."""
    rng = np.random.default_rng(seed)
    readout = rng.normal(size=(options + 1, size))
    bias = rng.normal(size=options + 1)
    probs = np.exp(bias) / np.exp(bias).sum()
    return readout, probs, readout[:-1] - probs @ readout


def test_the_gauss_newton_curvature_is_the_hessian_of_a_softmax_readout() -> None:
    readout, probs, forces = softmax_forces(0)
    std = np.random.default_rng(1).uniform(0.2, 3.0, 12)
    result = built(forces, probs[:-1], std)
    exact = readout.T @ (np.diag(probs) - np.outer(probs, probs)) @ readout
    np.testing.assert_allclose(result.curvature, result.directions @ exact @ result.directions.T, rtol=1e-9)


def test_with_the_models_own_probabilities_force_covariance_and_curvature_are_the_same() -> None:
    rng = np.random.default_rng(7)
    readout, bias = rng.normal(size=(4, 12)), rng.normal(size=4)
    probs = np.exp(bias) / np.exp(bias).sum()
    result = built(readout - probs @ readout, probs, np.ones(12), weights=probs)
    np.testing.assert_allclose(result.force_cov, result.curvature, atol=1e-12)
    assert result.force_variance_over_curvature == pytest.approx(1.0)


def built(
    forces: np.ndarray,
    probs: np.ndarray,
    std: np.ndarray,
    *,
    mean: np.ndarray | None = None,
    posteriors: tuple[np.ndarray, np.ndarray] | None = None,
    weights: np.ndarray | None = None,
) -> LinearResponse:
    options, size = forces.shape
    rng = np.random.default_rng(5)
    drawn = (rng.normal(size=(options, size)), np.exp(0.3 * rng.normal(size=(options, size))) * std)
    return project(
        question_id="built",
        task="",
        forces=forces,
        answer_probs=probs,
        prior=(np.zeros(size) if mean is None else mean, std),
        posteriors=drawn if posteriors is None else posteriors,
        weights=np.full(options, 1 / options) if weights is None else weights,
    )


def test_the_basis_is_orthonormal_in_its_units_and_projects_its_own_directions_to_themselves() -> None:
    for result in report().responses:
        for units in ("prior", "posterior", "latent"):
            item = result.in_units(units)
            metric = {
                "prior": item.prior_precision,
                "posterior": item.posterior_precision,
                "latent": item.directions @ item.directions.T,
            }[units]
            np.testing.assert_allclose(metric, np.eye(item.modes), atol=1e-9)
            np.testing.assert_allclose(item.projector @ item.directions.T, np.eye(item.modes), atol=1e-9)


def test_predictions_are_the_same_in_all_units() -> None:
    result = report()
    for index in (0, 1, 2):
        shifts, nats = [], []
        for units in ("prior", "posterior", "latent"):
            model = MeanLeakageModel(**result.arrays(index, units=units))
            response = frozen_prior_response(model, gamma=0.3)
            shifts.append(response @ result.responses[index].in_units(units).directions)
            nats.append(leaked_information(model, gamma=0.3))
        np.testing.assert_allclose(shifts[1:], [shifts[0]] * 2, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(nats[1:], [nats[0]] * 2, rtol=1e-7)


def test_rescaled_latents_give_the_same_arrays_in_prior_units() -> None:
    _, probs, forces = softmax_forces(2)
    rng = np.random.default_rng(3)
    std, scale = rng.uniform(0.2, 3.0, 12), rng.uniform(0.1, 10.0, 12)
    means, stds = rng.normal(size=(4, 12)), rng.uniform(0.5, 1.0, (4, 12))
    plain = built(forces, probs[:-1], std, posteriors=(means, stds)).arrays()
    scaled = built(forces / scale, probs[:-1], std * scale, posteriors=(means * scale, stds * scale)).arrays()
    model, other = MeanLeakageModel(**plain), MeanLeakageModel(**scaled)
    assert leaked_information(model, 0.1) == pytest.approx(leaked_information(other, 0.1), rel=1e-9)
    assert np.linalg.eigvalsh(model.H) == pytest.approx(np.linalg.eigvalsh(other.H), rel=1e-9)
    assert np.linalg.norm(model.g) == pytest.approx(np.linalg.norm(other.g), rel=1e-9)


def game(seed: int, alpha: float, beta: float, gamma: float) -> tuple[LinearResponse, np.ndarray]:
    """What a checkpoint at the theory's equilibrium (reference 0, unit prior) would show, and the contamination c."""
    _, probs, forces = softmax_forces(seed)
    size = forces.shape[1]
    curvature = built(forces, probs[:-1], np.ones(size)).curvature
    basis = span_of_forces(forces, np.ones(size))
    local = forces @ basis.T
    weights = np.full(4, 0.25)
    model = MeanLeakageModel(curvature, weights @ local, 0.0, 2.0, 1.0, alpha * np.eye(len(basis)))
    c = equilibrium(model, beta, gamma).contamination
    shifts = np.array(
        [np.linalg.solve(model.H + gamma * model.Lambda_q, g + gamma * model.Lambda_q @ c) for g in local]
    )
    measured = built(
        (local - curvature @ c) @ basis,
        probs[:-1],
        np.ones(size),
        mean=c @ basis,
        posteriors=(shifts @ basis, np.full((4, size), 0.5**0.5)),
    )
    assert measured.modes == len(basis)
    return replace(
        measured, curvature=measured.projector @ basis.T @ curvature @ basis @ measured.projector.T
    ), c @ basis


def test_the_theory_predicts_the_contamination_of_a_checkpoint_at_its_equilibrium() -> None:
    alpha, beta, gamma = 0.5, 0.7, 0.2
    for seed in range(3):
        measured, expected = game(seed, alpha, beta, gamma)
        model = MeanLeakageModel(**measured.arrays(reference=np.zeros(12), anchor=alpha))
        np.testing.assert_allclose(
            equilibrium(model, beta, gamma).contamination @ measured.directions, expected, atol=1e-9
        )
        frozen = frozen_prior_response(MeanLeakageModel(**measured.arrays()), gamma)
        np.testing.assert_allclose(frozen, measured.weights @ measured.posterior_shifts, atol=1e-9)


def test_split_half_absorption_finds_the_anchor() -> None:
    alpha, beta = 0.5, 0.7
    measured = [game(seed, alpha, beta, 0.2)[0] for seed in range(10)]
    result = absorption(measured, seed=1)
    assert sorted(result.half.tolist()) == [0] * 5 + [1] * 5
    # the reference of the game is 0, here it is the mean prior mean: taken as it is, s would be beta / (beta + alpha)
    pairs = [(m.prior_offset(np.zeros(12)), m.weights @ m.posterior_shifts) for m in measured]
    share = sum(c @ (c + d) for c, d in pairs) / sum((c + d) @ (c + d) for c, d in pairs)
    assert share == pytest.approx(beta / (beta + alpha))
    centred = [replace(m, prior_mean=m.prior_mean * sign) for m in measured for sign in (1, -1)]
    mirrored = [
        item if i % 2 == 0 else replace(item, posterior_shifts=-item.posterior_shifts) for i, item in enumerate(centred)
    ]
    both = absorption(mirrored * 40, seed=0)
    for part in (0, 1):
        assert both.share[part] == pytest.approx(beta / (beta + alpha), abs=0.02)
        assert both.for_question(0, beta)[1] == pytest.approx(alpha, rel=0.1)


def test_arrays_of_a_checkpoint_are_taken_by_the_theory() -> None:
    result = report()
    for index in range(len(OPTIONS)):
        model = MeanLeakageModel(**result.arrays(index))
        assert model.size == result.responses[index].modes <= OPTIONS[index]
        anchored = result.responses[index].arrays(reference=np.zeros(24), anchor=0.3)
        assert np.isfinite(equilibrium(MeanLeakageModel(**anchored), 0.1, 0.1).contamination).all()


def test_answer_probabilities_weigh_the_forces() -> None:
    asked = questions()
    sure = [replace(q, answer_probs=tuple(float(a == 0) for a in range(len(q.choices)))) for q in asked]
    run = {"progress": False, "hessian": False}
    known = measure_linear_response(precise(), helpers.processor(), sure, weights="known", **run)
    own = measure_linear_response(precise(), helpers.processor(), asked, weights="model", **run)
    for index in range(len(asked)):
        np.testing.assert_allclose(known.responses[index].force_cov, 0, atol=1e-12)
        np.testing.assert_allclose(known.responses[index].force_mean, report().responses[index].forces[0], atol=1e-9)
        probs = own.responses[index].answer_probs
        np.testing.assert_allclose(own.responses[index].weights, probs / probs.sum())
    assert known.responses[0].hessians is None
    assert known.measures["negative_mass"] is None


def test_the_report_has_every_measure_and_is_json() -> None:
    data = json.loads(json.dumps(report().to_dict(arrays=True), allow_nan=False))
    for name, value in data["measures"].items():
        assert value is not None, name
        assert value["low"] <= value["mean"] <= value["high"]
    assert len(data["responses"]) == len(data["ids"]) == len(OPTIONS)
    assert 0 <= data["measures"]["negative_mass"]["mean"] <= 1
    assert "absorption" in report().table()


def test_latents_that_are_not_read_have_no_modes() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.injector.weight.zero_()
    result = measure_linear_response(model, helpers.processor(), questions(), progress=False)
    assert all(item.modes == 0 for item in result.responses)
    assert result.measures["force_variance_over_curvature"] is None
    assert result.measures["negative_mass"] is None
    with pytest.raises(ValueError, match="no direction to predict in"):
        result.arrays(0)
    json.dumps(result.to_dict(arrays=True), allow_nan=False)


def test_measuring_changes_nothing_in_the_model() -> None:
    model = helpers.tiny_model().train()
    model.freeze_vision()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    measure_linear_response(model, helpers.processor(), questions()[:2], hessian=False, progress=False)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_cannot_be_measured_is_refused() -> None:
    model, processor, asked = helpers.tiny_model(), helpers.processor(), questions()
    one_option = replace(asked[0], choices=("only",), answer=0)
    for arguments, settings, message in (
        ((model.backbone, processor, asked), {}, "model with latents"),
        ((model, processor, []), {}, "empty set"),
        ((model, processor, [one_option]), {}, "at least 2 options"),
        ((model, processor, asked), {"weights": "even"}, "weights must be one of"),
        ((model, processor, asked), {"weights": "known"}, "known answer probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_linear_response(*arguments, progress=False, **settings)
    with pytest.raises(ValueError, match="units must be one of"):
        report().responses[0].in_units("metres")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least four questions"):
        absorption(report().responses[:3])

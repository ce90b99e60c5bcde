"""The probe's numbers against the slow way to them, and what Adam makes of gradients against a step of Adam."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.diagnostics.common.posteriors import OptionPosteriors, option_posteriors
from amvl_model.diagnostics.leakage.information import leaked_information
from amvl_model.diagnostics.reading.probe import ProbeReport, ReadingProbe, _Adam
from amvl_model.evaluation.scorers import LatentScorer, inference
from amvl_model.objectives import amvl_objective
from tests.helpers import processor, tiny_model

QUESTIONS = SyntheticBlink(tasks=("Counting", "Relative_Depth"), split="train", seed=0, size=3, label_noise=0.3)[:]


@pytest.fixture(scope="module")
def report() -> ProbeReport:
    return ReadingProbe(tiny_model(), processor(), QUESTIONS).measure()


@pytest.fixture(scope="module")
def entries() -> list[OptionPosteriors]:
    return option_posteriors(tiny_model(), processor(), QUESTIONS, progress=False)


def leak(entry: OptionPosteriors) -> np.ndarray:
    return entry.posterior_means - entry.posterior_means.mean(axis=0)


def root_mean_square(arrays: list[np.ndarray]) -> float:
    return math.sqrt(np.mean([np.mean(array**2) for array in arrays]))


def test_the_questions_have_different_numbers_of_options() -> None:
    assert {len(question.choices) for question in QUESTIONS} == {2, 4}


def test_widths_gap_and_spread_are_those_of_the_posteriors_of_every_option(
    report: ProbeReport, entries: list[OptionPosteriors]
) -> None:
    assert report.prior_std == pytest.approx(np.mean([e.prior_std.mean() for e in entries]), rel=1e-4)
    assert report.posterior_std == pytest.approx(np.mean([e.posterior_stds.mean() for e in entries]), rel=1e-4)
    gaps = [e.posterior_means - e.prior_mean for e in entries]
    assert report.gap == pytest.approx(root_mean_square(gaps), rel=1e-4)
    assert report.answer_spread == pytest.approx(root_mean_square([leak(e) for e in entries]), rel=1e-3)


def test_leaked_nats_are_the_leaked_information(report: ProbeReport, entries: list[OptionPosteriors]) -> None:
    flat = [[a.reshape(len(a), -1) for a in (e.posterior_means, e.posterior_stds)] for e in entries]
    item = [leaked_information(means, stds, n_samples=4_000) for means, stds in flat]
    assert report.leaked_nats == pytest.approx(np.mean([nats for nats, _ in item]), abs=0.06)
    assert 0.02 < report.leaked_nats < 1.3


def test_reading_is_what_the_posterior_means_gain_to_first_order(
    report: ProbeReport, entries: list[OptionPosteriors]
) -> None:
    model, step, gains = tiny_model(), 0.02, []
    scorer = LatentScorer(model, processor())
    with inference(model):
        for entry in entries:
            query = scorer.encode(processor()([entry.question], answers=False))
            assert query.prior is not None
            count = len(entry.question.choices)
            sides = []
            for sign in (step, -step):
                shifts = torch.tensor(sign * leak(entry), dtype=torch.float32)
                points = [query.prior.mean + shift for shift in shifts]
                sides.append([float(scorer.option_log_probs(query, z, [count])[0, a]) for a, z in enumerate(points)])
            gains.append(np.mean(np.subtract(*sides)) / (2 * step))
    assert report.reading_nats == pytest.approx(np.mean(gains), rel=0.02, abs=1e-3)
    assert report.reading_error == pytest.approx(np.std(gains, ddof=1) / math.sqrt(len(gains)), rel=0.02, abs=1e-3)
    assert abs(report.reading_nats) > 0.01


def test_without_an_optimizer_there_are_no_rates(report: ProbeReport) -> None:
    assert report.decoder_rate is report.posterior_rate is report.gamma_x is None


def adam_after_a_step(model: Any) -> torch.optim.Optimizer:
    """AdamW over all weights, with the moments of one step on the questions."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = processor().collate([processor().encode(question) for question in QUESTIONS])
    out = model(**batch, generator=torch.Generator().manual_seed(0))
    loss = amvl_objective(out.prior, out.posterior, out.answer_nll, 0.1, 0.1, objective="amvl")
    loss.total.mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def test_rates_scale_with_learning_rate_and_clip_factor_and_gamma_x_with_its_inverse() -> None:
    model = tiny_model()
    optimizer = adam_after_a_step(model)
    probe = ReadingProbe(model, processor(), QUESTIONS)
    one, half = probe.measure(optimizer), probe.measure(optimizer, clip_factor=0.5)
    for group in optimizer.param_groups:
        group["lr"] *= 3
    fast = probe.measure(optimizer)
    for name in ("decoder_rate", "posterior_rate"):
        rate = getattr(one, name)
        assert rate and getattr(half, name) == pytest.approx(0.5 * rate, rel=1e-4)
        assert getattr(fast, name) == pytest.approx(3 * rate, rel=1e-4)
    assert one.gamma_x and half.gamma_x == pytest.approx(2 * one.gamma_x, rel=1e-4)
    assert probe.measure(optimizer, gamma=1e3).gamma_x is None  # the KL makes up all of the moment


def test_measuring_changes_no_weight_gradient_mode_or_random_number() -> None:
    model = tiny_model().train()
    optimizer = adam_after_a_step(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ReadingProbe(model, processor(), QUESTIONS).measure(optimizer)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_rate_is_what_a_step_on_one_half_of_the_questions_does_to_the_other() -> None:
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    inputs = torch.tensor([[1.0, 2.0, 0.0], [0.5, 1.0, 3.0]])
    optimizer = torch.optim.Adam([weights], lr=1e-3, betas=(0.0, 1 - 1e-9), eps=1e-8)
    moment = torch.tensor([4.0, 0.25, 1.0])
    step = 1e6
    optimizer.state[weights] = {
        "step": torch.tensor(step),
        "exp_avg": torch.zeros(3),
        "exp_avg_sq": moment * (1 - (1 - 1e-9) ** step),
    }
    rate = _Adam(optimizer, 0.1).rate(lambda half: (inputs[half] * weights).sum())
    first = float((inputs[1] * weights).detach().sum())
    (-0.1 * (inputs[0] * weights).sum()).backward()  # clipped to a tenth
    optimizer.step()
    assert rate == pytest.approx(float((inputs[1] * weights).detach().sum()) - first, rel=1e-2)
    assert rate == pytest.approx(1e-3 * 0.1 * (0.5 / 2 + 2.0 / 0.5), rel=1e-6)


def test_one_question_is_too_few_and_an_open_one_does_not_do() -> None:
    with pytest.raises(ValueError, match="questions: expected at least 2, received 1"):
        ReadingProbe(tiny_model(), processor(), QUESTIONS[:1])
    with pytest.raises(ValueError, match="expected one with latents, received Linear"):
        ReadingProbe(torch.nn.Linear(1, 1), processor(), QUESTIONS)

"""Heads trained on a frozen checkpoint: nothing else changes, side by side as each alone, from the run's own first weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.evaluation.scorers import latent_scorer
from amvl_model.models.amvl import AMVLForConditionalGeneration
from experiments.theory_vs_model.levels.encoded import encode_set
from experiments.theory_vs_model.levels.heads import (
    Case,
    HeadTraining,
    head_training,
    installed,
    posteriors_from,
    priors_from,
    train_side_by_side,
)
from experiments.theory_vs_model.reference import checkpoint_posteriors
from tests import helpers

NOISE = helpers.NOISE


def test_only_the_posterior_is_trained_and_it_is_put_back() -> None:
    model = helpers.tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = SyntheticBlink(tasks=("Counting",), split="train", seed=0, size=8, label_noise=NOISE)
    data = encode_set(model, helpers.processor(), training, progress=False)
    (trained,) = train_side_by_side(model, [Case(1.0, data)], HeadTraining(steps=3, batch_size=8, fresh=False))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with installed(model, trained):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(("posterior_queries", "posterior_head")) for name in changed)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="at least a batch"):
        train_side_by_side(model, [Case(1.0, data)], HeadTraining())
    with pytest.raises(ValueError, match="same encoded questions"):
        train_side_by_side(model, [Case(1.0, data), Case(1.0, replace(data, keys=(*data.keys,)[:1]))], how_short())
    with pytest.raises(ValueError, match="at least one case"):
        train_side_by_side(model, [], how_short())


def how_short() -> HeadTraining:
    return HeadTraining(steps=3, batch_size=8)


def test_heads_side_by_side_come_out_as_each_by_itself() -> None:
    model, processor = helpers.tiny_model(), helpers.processor()
    drawn = {
        noise: SyntheticBlink(tasks=("Counting",), split="train", seed=0, size=16, label_noise=noise)[:]
        for noise in (NOISE, 1.0)
    }
    data = encode_set(model, processor, drawn[NOISE], progress=False)
    cases = [Case(0.01, data), Case(1.0, data), Case(0.01, data.with_answers(processor, drawn[1.0]))]
    how = replace(head_training("both heads 4", 3), batch_size=8)
    together = train_side_by_side(model, cases, how)
    for case, mine in zip(cases, together, strict=True):
        (alone,) = train_side_by_side(model, [case], how)
        np.testing.assert_allclose(mine.losses, alone.losses, rtol=1e-4)
        for name, state in alone.states.items():
            for key, value in state.items():
                torch.testing.assert_close(mine.states[name][key], value, atol=2e-4, rtol=1e-3)
    assert abs(together[0].losses[-1] - together[1].losses[-1]) > 1e-3


def test_encoded_questions_give_the_posteriors_and_kls_of_the_model_itself() -> None:
    model, processor = helpers.tiny_model(), helpers.processor()
    questions = helpers.noisy_questions()
    data = encode_set(model, processor, questions, batch_size=2, progress=False)
    state, prior, ids, mask = data.rows(torch.arange(len(questions)))
    scorer = latent_scorer(model, processor)
    with torch.no_grad():
        result = model.posterior_from(state, ids, mask)
        batch = processor(questions, answers=False)
        expected_prior = model.encode_query(batch)[1]
        expected = scorer.posterior(scorer.encode(batch), [q.answer for q in questions])
    torch.testing.assert_close(prior.mean, expected_prior.mean, atol=1e-4, rtol=1e-4)
    own = {
        name: getattr(model, name) for name in ("prior_queries", "prior_head", "posterior_queries", "posterior_head")
    }
    with torch.no_grad():
        (again,) = priors_from(model, state, [own])
        (twice,) = posteriors_from(model, state, [own], ids, mask)
    torch.testing.assert_close(twice.mean, expected.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.mean, expected.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.mean, expected_prior.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.log_std, expected_prior.log_std, atol=1e-4, rtol=1e-4)


def test_another_label_noise_has_the_same_images_and_other_answers() -> None:
    model, processor = helpers.tiny_model(), helpers.processor()
    drawn = {
        noise: SyntheticBlink(tasks=("Counting",), split="train", seed=0, size=12, label_noise=noise)[:]
        for noise in (0.0, 1.0)
    }
    data = encode_set(model, processor, drawn[0.0], progress=False)
    other = data.with_answers(processor, drawn[1.0])
    own = encode_set(model, processor, drawn[1.0], progress=False)
    assert torch.equal(other.answer_ids, own.answer_ids) and torch.equal(other.answer_mask, own.answer_mask)
    torch.testing.assert_close(other.keys[0], own.keys[0])
    assert (other.answer_ids != data.answer_ids).any(1).all()
    with pytest.raises(ValueError, match="expected the 12 questions"):
        data.with_answers(processor, drawn[1.0][:5])


def test_a_fresh_head_starts_from_the_weights_that_the_runs_seed_drew() -> None:
    backbone = helpers.tiny_model().backbone
    drawn = AMVLForConditionalGeneration.from_backbone(backbone, 3, 8, seed=5)
    expected = {name: value.clone() for name, value in drawn.posterior_head.state_dict().items()}
    with torch.no_grad():
        for parameter in drawn.posterior_head.parameters():
            parameter.add_(1.0)
    training = SyntheticBlink(tasks=("Counting",), split="train", seed=0, size=4, label_noise=NOISE)
    data = encode_set(drawn, helpers.processor(), training, progress=False)
    still = HeadTraining(steps=1, batch_size=4, learning_rate=1e-12, seed=5)
    with installed(drawn, train_side_by_side(drawn, [Case(1.0, data)], still)[0]):
        for name, value in drawn.posterior_head.state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)


def test_both_heads_learn_together_and_the_prior_follows_by_its_forward_kl_only() -> None:
    model = helpers.tiny_model()
    training = SyntheticBlink(tasks=("Counting", "Relative_Depth"), split="train", seed=0, size=8, label_noise=NOISE)
    data = encode_set(model, helpers.processor(), training, progress=False)
    how = replace(head_training("both heads 20", 0), batch_size=8, learning_rate=0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with installed(model, train_side_by_side(model, [Case(0.01, data)], replace(how, steps=0))[0]):
        start = {name: value.clone() for name, value in model.state_dict().items()}
    with installed(model, train_side_by_side(model, [Case(0.01, data)], how)[0]):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert {name.split(".")[0] for name in changed} == {
        "prior_queries",
        "prior_head",
        "posterior_queries",
        "posterior_head",
    }
    with installed(model, train_side_by_side(model, [Case(0.01, data)], replace(how, beta=0.0))[0]):
        still = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert {name.split(".")[0] for name in still} == {"posterior_queries", "posterior_head"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_kl_alone_draws_the_posterior_to_the_prior() -> None:
    model = helpers.tiny_model()
    training = SyntheticBlink(tasks=("Counting", "Relative_Depth"), split="train", seed=0, size=8, label_noise=NOISE)
    data = encode_set(model, helpers.processor(), training, progress=False)
    how = replace(head_training("head KL only", 0), steps=30, batch_size=8, learning_rate=0.03, fresh=False)
    before = checkpoint_posteriors(model, helpers.processor(), helpers.noisy_questions())
    (trained,) = train_side_by_side(model, [Case(1.0, data)], how)
    losses = trained.losses
    with installed(model, trained):
        after = checkpoint_posteriors(model, helpers.processor(), helpers.noisy_questions())
    assert losses[-1] < 0.5 * losses[0]
    far, near = (np.mean([np.square(item.shifts).sum() for item in result if item]) for result in (before, after))
    assert near < 0.5 * far


@pytest.mark.parametrize("name", ["head", "head 0", "posterior 300", "head +x", "both heads +3"])
def test_unknown_heads_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match='expected "head KL only"'):
        head_training(name, 0)

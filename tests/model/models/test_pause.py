"""The baselines: sft is transformers' own forward pass, pause tokens are read, are the same for all questions, and are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amvl_model.config import ObjectiveConfig
from amvl_model.data.synthetic import synthetic_question
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.evaluation.scorers import PauseScorer, scorer_for
from amvl_model.models.checkpoints import inspect_checkpoint
from amvl_model.models.loading import load_base, load_checkpoint, save_checkpoint
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.studies.measurement import measure
from amvl_model.training.run import train
from tests.helpers import collate, examples, gradients, processor, tiny_model, without_answers
from tests.model.training.test_trainer import config


def paused(k: int) -> Any:
    return PauseForConditionalGeneration.from_backbone(tiny_model().backbone, k, seed=1).eval()


def transformers_model(model: Any) -> Any:
    """The backbone as transformers builds it, with nothing of ours installed."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    plain = Qwen2_5_VLForConditionalGeneration(model.config.vlm_config)
    plain.load_state_dict(model.backbone.state_dict())
    return plain.eval()


def plain_logits(plain: Any, example: dict[str, Tensor]) -> Tensor:
    """(M, V) logits of the answer from one unpadded pass over [x | y]."""
    batch = collate([example])
    ids = torch.cat([batch["input_ids"], batch["answer_ids"]], dim=1)
    types = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(batch["answer_ids"])], dim=1)
    vision = {name: batch[name] for name in ("pixel_values", "image_grid_thw")}
    out = plain(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **vision)
    return out.logits[0, batch["input_ids"].shape[1] - 1 : -1]


def test_sft_is_a_plain_forward_pass_of_transformers_padding_or_not() -> None:
    model, encoded = paused(0), examples()
    out = model(**collate(encoded))
    plain = transformers_model(model)
    for row, example in enumerate(encoded):
        expected = plain_logits(plain, example)
        torch.testing.assert_close(out.logits[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)
        nll = torch.nn.functional.cross_entropy(expected, example["answer_ids"], reduction="sum")
        torch.testing.assert_close(out.answer_nll[row], nll, rtol=1e-4, atol=1e-4)


def test_sft_has_the_gradients_of_a_plain_forward_pass() -> None:
    model, encoded = paused(0), examples()
    model(**collate(encoded)).answer_nll.sum().backward()
    plain = transformers_model(model)
    for example in encoded:
        logits = plain_logits(plain, example)
        torch.nn.functional.cross_entropy(logits, example["answer_ids"], reduction="sum").backward()
    ours, theirs = gradients(model.backbone), gradients(plain)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= 1e-4 * (1 + expected.norm()), name


def test_pause_tokens_are_read_and_trained() -> None:
    model, batch = paused(3), collate(examples())
    before = model(**batch)
    before.answer_nll.sum().backward()
    assert all(row.norm() > 0 for row in model.pause_tokens.weight.grad)
    for slot in range(3):
        with torch.no_grad():
            model.pause_tokens.weight[slot] += 1.0
        after = model(**batch).logits
        assert not torch.allclose(after, before.logits, atol=1e-3), slot
        with torch.no_grad():
            model.pause_tokens.weight[slot] -= 1.0


def test_pause_tokens_are_the_same_for_every_question_and_nothing_is_drawn() -> None:
    model, batch = paused(2), collate(examples())
    tokens = model.pauses(4)
    assert all(torch.equal(tokens[0], row) for row in tokens[1:])
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    alone = model(**collate(examples()[2:3])).logits
    torch.testing.assert_close(model(**batch).logits[2, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)


def test_pause_tokens_stand_where_latents_would() -> None:
    """The same embeddings injected into an AMVL model give the same answer logits."""
    amvl = tiny_model(num_latents=3, latent_dim=64)
    model = PauseForConditionalGeneration.from_backbone(tiny_model().backbone, 3, seed=1).eval()
    batch = collate(examples())
    with torch.no_grad():
        amvl.injector.weight.copy_(torch.eye(64))
        expected = amvl(**batch, latents=model.pauses(4)).logits
        torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [0, 3])
def test_scores_behind_the_recorded_question_are_those_of_the_whole_pass(k: int) -> None:
    model, encoded = paused(k), examples()
    batch = collate(encoded)
    scorer = scorer_for(model, processor())
    assert isinstance(scorer, PauseScorer)
    with torch.no_grad():
        query = scorer.encode(without_answers(batch))
        behind = scorer.answer_logits(query, None, batch["answer_ids"])
        torch.testing.assert_close(behind, model(**batch).logits, rtol=1e-4, atol=1e-4)
        log_probs = scorer.option_log_probs(query, None, [2, 4, 3, 2])
        ids = scorer.option_ids(1).expand(4, -1)
        whole = model(**{**batch, "answer_ids": ids, "answer_mask": torch.ones_like(ids)}).answer_nll
    torch.testing.assert_close(log_probs[:, 1], -whole, rtol=1e-4, atol=1e-4)
    assert log_probs[0, 2] == -torch.inf and scorer.greedy(query, None, 2)


QUESTIONS = [synthetic_question(task, index=i) for i in range(3) for task in ("Counting", "Object_Localization")]


@pytest.mark.parametrize("name", ["sft", "pause"])
def test_a_baseline_is_trained_stored_loaded_and_measured_like_any_model(name: str, tmp_path: Path) -> None:
    settings = config(**{"objective.name": name, "train.steps": 2, "train.batch_size": 4, "train.log_every": 1})
    model, made = train(settings, tmp_path / "run", questions=QUESTIONS, quiet=True)
    assert model.config.num_pauses == (2 if name == "pause" else 0)
    loaded, again = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    options: dict[str, Any] = {"progress": False, "n_bootstrap": 50}
    result = [evaluate(item, p, QUESTIONS, **options) for item, p in ((model, made), (loaded, again))]
    assert [r.log_probs for r in result[0].records] == [r.log_probs for r in result[1].records]
    assert result[0].latents is None
    measured = measure(loaded, again, settings, QUESTIONS, QUESTIONS, progress=False).to_dict()
    assert measured["contamination"] is None
    assert (measured["interventions"] is None) == (name == "sft")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "ntp" in lines[0] and not {"forward_kl", "prior_std", "beta"} & lines[0].keys()
    assert lines[0]["loss"] == pytest.approx(lines[0]["ntp"], rel=1e-3)


def test_zeroed_pause_tokens_are_measured_against_the_trained_ones() -> None:
    from amvl_model.diagnostics.causal.interventions import pause_report
    from amvl_model.studies.summary import figures

    base, made = load_base(config())
    model = PauseForConditionalGeneration.from_backbone(base, 2).eval()
    report = pause_report(model, made, QUESTIONS, n_bootstrap=50, progress=False).to_dict()
    same = evaluate(model, made, QUESTIONS, scoring=("likelihood",), n_bootstrap=50, progress=False)
    assert report["conditions"]["as_trained"]["answer_nll"]["mean"] == pytest.approx(same.answer_nll.mean, rel=1e-5)  # type: ignore[union-attr]
    model.pause_tokens.weight.data.zero_()  # type: ignore[union-attr]
    zero = evaluate(model, made, QUESTIONS, scoring=("likelihood",), n_bootstrap=50, progress=False)
    assert report["conditions"]["zeroed"]["answer_nll"]["mean"] == pytest.approx(zero.answer_nll.mean, rel=1e-5)  # type: ignore[union-attr]
    assert {"zeroed.accuracy_difference", "as_trained.accuracy"} <= figures({"interventions": report}).keys()


def test_weights_of_the_kl_terms_have_no_effect_on_baselines() -> None:
    for name in ("sft", "pause"):
        assert ObjectiveConfig(name=name, beta=1.0, gamma=1.0).weights(0.9) == (0.0, 0.0)
    with pytest.raises(ValueError, match="did you mean 'pause'"):
        ObjectiveConfig(name="pauses")


def test_what_needs_a_distribution_refuses_a_baseline_in_plain_words(tmp_path: Path) -> None:
    from amvl_model.diagnostics.report.suite import Plan, diagnose

    save_checkpoint(paused(2), processor(), tmp_path / "pause")
    with pytest.raises(ValueError, match="baseline pause tokens"):
        inspect_checkpoint(tmp_path / "pause", expected_type="amvl")
    with pytest.raises(ValueError, match="baseline pause tokens"):
        inspect_checkpoint(tmp_path / "pause", expected_type=None)
    with pytest.raises(ValueError, match="no prior or posterior"):
        diagnose(str(tmp_path / "pause"), ["contamination"], Plan(questions=QUESTIONS))


def test_a_call_without_an_answer_says_what_to_call_instead() -> None:
    with pytest.raises(ValueError, match="call generate"):
        paused(1)(**without_answers(collate(examples())))


def test_lora_checkpoints_hold_adapters_and_pause_tokens_and_load_again(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = tmp_path / "base"
    tiny_model().backbone.save_pretrained(base, save_original_format=False)
    model = PauseForConditionalGeneration.from_backbone(base, 2)
    model.add_lora(2)
    model.save_pretrained(tmp_path / "lora")
    loaded = PauseForConditionalGeneration.from_pretrained(tmp_path / "lora")
    batch = collate(examples())
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model.eval()(**batch).logits)
    assert (tmp_path / "lora" / "model.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size / 3


def test_gradient_checkpointing_changes_no_gradient() -> None:
    batch, result = collate(examples()), []
    for again in (False, True):
        model = paused(2).train()
        if again:
            model.gradient_checkpointing_enable()
        model(**batch).answer_nll.sum().backward()
        result.append(gradients(model))
    for name, expected in result[0].items():
        torch.testing.assert_close(result[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)

"""AMVLTrainer: the loss is a mean over examples however they are batched, and a resumed run is the uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amvl_model.config import RunConfig, load_preset
from amvl_model.data.synthetic import synthetic_question
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.tiny import build_base
from amvl_model.training.arguments import training_arguments
from amvl_model.training.batches import AMVLCollator, FilledRandomSampler, QuestionDataset
from amvl_model.training.run import train
from amvl_model.training.trainer import AMVLTrainer
from tests.helpers import SCRATCH

QUESTIONS = [synthetic_question("Counting", split="train", index=i, label_noise=0.3) for i in range(10)]


def small_model() -> tuple[AMVLForConditionalGeneration, Any]:
    base, processor = build_base(hidden_size=96, num_layers=2, vision_size=32)
    return AMVLForConditionalGeneration.from_backbone(base, 2, 3), processor


def config(**overrides: Any) -> RunConfig:
    return load_preset(
        "tiny",
        {
            **SCRATCH,
            "train.report_to": (),
            "train.warmup": 0.0,
            "objective.beta": 0.1,
            "objective.gamma": 0.1,
            "objective.order": "simultaneous",
            "objective.beta_warmup": 0.0,
            **overrides,
        },
    )


def trainer_for(model: Any, processor: Any, settings: RunConfig, folder: Path, **overrides: Any) -> AMVLTrainer:
    return AMVLTrainer(
        model=model,
        processing_class=processor,
        args=training_arguments(settings, folder, disable_tqdm=True, **overrides),
        train_dataset=QuestionDataset(QUESTIONS, processor, cache=True),
    )


def gradients(batch_size: int, accumulation: int, folder: Path) -> dict[str, torch.Tensor]:
    """Gradients of one optimiser step over all ten questions, with posterior means for latents (no noise)."""
    model, processor = small_model()
    original = model.forward
    model.forward = lambda *a, **k: original(*a, **{**k, "latents": "posterior_mean"})  # type: ignore[method-assign]
    settings = config(**{"train.batch_size": batch_size, "train.grad_accumulation": accumulation, "train.steps": 1})
    trainer = trainer_for(model, processor, settings, folder, max_grad_norm=0.0)
    result: dict[str, torch.Tensor] = {}

    def keep(*_: Any, **__: Any) -> None:
        result.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    trainer.create_optimizer().register_step_pre_hook(keep)
    trainer.train()
    return result


def test_ragged_gradient_accumulation_equals_one_big_batch(tmp_path: Path) -> None:
    whole = gradients(10, 1, tmp_path / "a")
    ragged = gradients(4, 3, tmp_path / "b")  # 4 + 4 + 2
    assert whole.keys() == ragged.keys()
    for name, reference in whole.items():
        difference = (ragged[name] - reference).norm()
        assert difference <= 1e-4 * reference.norm() + 1e-6, name


def test_examples_of_weight_zero_do_not_count(tmp_path: Path) -> None:
    model, processor = small_model()
    dataset = QuestionDataset(QUESTIONS, processor)
    collate = AMVLCollator(processor)
    settings = config()
    trainer = trainer_for(model, processor, settings, tmp_path, save_strategy="no")
    model.eval()
    original = model.forward
    model.forward = lambda *a, **k: original(*a, **{**k, "latents": "posterior_mean"})  # type: ignore[method-assign]
    plain = trainer.compute_loss(model, collate([dataset[0], dataset[1]]))
    filled = trainer.compute_loss(model, collate([dataset[0], dataset[1], dataset[~5]]))
    torch.testing.assert_close(plain, filled, rtol=1e-5, atol=1e-6)


def test_sampler_fills_the_epoch_with_weightless_items_and_repeats_by_seed_and_epoch() -> None:
    sampler = FilledRandomSampler(10, seed=3, multiple=8)
    first = list(sampler)
    assert len(first) == 16 and sorted(i for i in first if i >= 0) == list(range(10))
    assert sum(i < 0 for i in first) == 6
    assert first == list(FilledRandomSampler(10, seed=3, multiple=8))
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_groups_of_similar_length_hold_every_item_once_and_repeat_by_seed_and_epoch() -> None:
    lengths = torch.randint(10, 500, (203,), generator=torch.Generator().manual_seed(0)).tolist()

    def sampler(seed: int = 3) -> FilledRandomSampler:
        return FilledRandomSampler(203, seed=seed, multiple=8, length_of=lengths.__getitem__, group=8)

    order = list(sampler())
    assert len(order) == 208 and sorted(i for i in order if i >= 0) == list(range(203))
    assert all(i < 0 for i in order[203:])
    assert order == list(sampler()) and order != list(sampler(4))
    later = sampler()
    later.set_epoch(1)
    assert list(later) != order

    def padded(items: list[int]) -> int:
        return sum(8 * max(lengths[i] for i in items[j : j + 8]) for j in range(0, 200, 8))

    assert padded(order) < 1.06 * sum(lengths) < padded(list(FilledRandomSampler(203, seed=3)))
    means = [sum(lengths[i] for i in order[j : j + 8]) for j in range(0, 200, 8)]
    assert means != sorted(means)  # short ones are not all seen first


def test_the_length_of_a_question_is_that_of_its_encoding() -> None:
    _, processor = small_model()
    mixed = [*QUESTIONS[:2], synthetic_question("Jigsaw", index=0), synthetic_question("Visual_Similarity", index=1)]
    dataset = QuestionDataset(mixed, processor)
    assert [dataset.length(i) for i in range(4)] == [len(dataset[i]["input_ids"]) for i in range(4)]


@pytest.mark.parametrize("grouped", [False, True])
def test_batches_made_by_workers_are_those_made_in_the_training_process(tmp_path: Path, grouped: bool) -> None:
    model, processor = small_model()
    batches = []
    for workers in (0, 2):
        settings = config(**{"train.workers": workers, "train.batch_size": 4, "train.group_by_length": grouped})
        loader = trainer_for(model, processor, settings, tmp_path / str(workers)).get_train_dataloader()
        batches.append(list(loader))
    for here, there in zip(*batches, strict=True):
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize("grouped", [False, True], ids=["random order", "grouped by length"])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path: Path, grouped: bool) -> None:
    settings = {"train.batch_size": 4, "train.steps": 6, "train.save_every": 3, "train.group_by_length": grouped}
    whole, _ = train(config(**settings), tmp_path / "whole", questions=QUESTIONS, quiet=True)
    interrupted = tmp_path / "interrupted"
    train_half(config(**settings), interrupted)
    resumed, _ = train(config(**settings), interrupted, questions=QUESTIONS, resume=True, quiet=True)
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def train_half(settings: RunConfig, folder: Path) -> None:
    """Run until step 3 of 6 and stop as if the process had been killed after the checkpoint."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = True
            return control

    folder.mkdir()
    torch.manual_seed(settings.train.seed)
    from amvl_model.models.loading import build_model

    model, processor = build_model(settings)
    trainer = trainer_for(model, processor, settings, folder)
    trainer.add_callback(Stop())
    trainer.train()
    assert trainer.state.global_step == 3


WARM = {
    "objective.prior_steps": 4,
    "train.steps": 6,
    "train.batch_size": 5,
    "train.log_every": 1,
    "train.save_every": 3,
}


def logged(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if name in line]


def test_the_warm_up_trains_no_posterior_then_copies_the_prior_and_the_schedule_begins(tmp_path: Path) -> None:
    settings = config(**WARM, **{"objective.beta_warmup": 1.0})
    train(settings, tmp_path / "run", questions=QUESTIONS, quiet=True)
    lines = logged(tmp_path / "run", "loss")
    assert ["forward_kl" in line for line in lines] == [False] * 4 + [True] * 2
    assert [line["beta"] for line in lines] == pytest.approx([0, 0, 0, 0, 0, 0.05])  # half of the two steps left
    assert lines[4]["forward_kl"] < 1.0  # a copy: what the posterior's sight of the answer makes of it
    interrupted = tmp_path / "interrupted"
    train_half(settings, interrupted)
    train(settings, interrupted, questions=QUESTIONS, resume=True, quiet=True)
    assert logged(interrupted, "loss")[-1]["loss"] == lines[-1]["loss"]


def test_a_log_line_does_not_mix_the_warm_up_s_terms_with_the_objective_s(tmp_path: Path) -> None:
    rows = {}
    for every in (1, 2):
        settings = config(**{**WARM, "objective.prior_steps": 3, "train.steps": 4, "train.log_every": every})
        train(settings, tmp_path / str(every), questions=QUESTIONS, save=False, quiet=True)
        rows[every] = logged(tmp_path / str(every), "forward_kl")[-1]
    for name in ("ntp", "forward_kl", "posterior_std", "kl_per_dimension"):
        assert rows[2][name] == rows[1][name], name


def test_an_evaluation_ends_the_warm_up_and_a_resumed_run_remembers_it(tmp_path: Path) -> None:
    until = {"objective.prior_until": 1e9, "train.eval_every": 1, "data.eval_size": 1, "objective.prior_steps": 5}
    settings = config(**{**WARM, **until})
    train(settings, tmp_path / "run", questions=QUESTIONS, quiet=True)
    assert ["forward_kl" in line for line in logged(tmp_path / "run", "loss")] == [False] + [True] * 5
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["PriorWarmUp"]["attributes"] == {"ended": 1}
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "whole")
    import shutil

    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    before = logged(tmp_path / "run", "loss")
    train(settings, tmp_path / "run", questions=QUESTIONS, resume=True, quiet=True)
    assert logged(tmp_path / "run", "loss")[-1]["loss"] == before[-1]["loss"]
    with pytest.raises(ValueError, match="prior_until=1e\\+09 is looked at in evaluations, and there are none"):
        train(config(**{**WARM, **until, "train.eval_every": 0}), tmp_path / "none", questions=QUESTIONS, quiet=True)


def test_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(FileExistsError, match="not overwritten"):
        train(config(), tmp_path, questions=QUESTIONS)


def test_log_holds_both_kls_weighted_and_unweighted_and_the_norm_ratio(tmp_path: Path) -> None:
    settings = config(**{"train.steps": 2, "train.log_every": 1, "train.batch_size": 5})
    train(settings, tmp_path, questions=QUESTIONS, save=False, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in lines if "loss" in line)
    assert step["weighted_forward"] == pytest.approx(0.1 * step["forward_kl"], rel=1e-4)
    assert step["weighted_reverse"] == pytest.approx(0.1 * step["reverse_kl"], rel=1e-4)
    assert step["loss"] == pytest.approx(step["ntp"] + step["weighted_forward"] + step["weighted_reverse"], rel=1e-3)
    assert 0.5 < step["latent_norm_ratio"] < 2.0


def test_latent_modules_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    model, processor = small_model()
    trainer = trainer_for(model, processor, config(), tmp_path)
    trainer.args.latent_learning_rate = 7e-3
    optimizer = trainer.create_optimizer()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.injector.weight)] == 7e-3
    assert rates[id(model.backbone.model.language_model.norm.weight)] == config().train.learning_rate

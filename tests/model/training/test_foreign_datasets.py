"""AMVLTrainer on other libraries' data sets: the same batches and losses as on questions, streams, evaluation, bad input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import Dataset, IterableDataset
from transformers import EarlyStoppingCallback, EvalPrediction

from amvl_model.data.rows import RowQuestions, question_of
from amvl_model.objectives import FORWARD, NTP, OBJECTIVES, Objective, register_objective
from amvl_model.training.arguments import AMVLTrainingArguments
from amvl_model.training.batches import EVALUATION, INDEX, WEIGHT, AMVLCollator, QuestionStream, sample_noise
from amvl_model.training.trainer import AMVLTrainer
from tests.helpers import FREE_BITS, processor, question, tiny_model

QUESTIONS = [question(1 + i % 2, seed=i, answer=f"({'AB'[i % 2]})") for i in range(6)]
MESSAGES = [
    {
        "messages": [{"role": "user", "content": q.prompt}, {"role": "assistant", "content": q.answer_text}],
        "images": list(q.images),
    }
    for q in QUESTIONS
]
PROMPTS = [{"prompt": q.prompt, "completion": q.answer_text, "images": list(q.images)} for q in QUESTIONS]


class TorchRows(Dataset[Any]):
    def __len__(self) -> int:
        return len(PROMPTS)

    def __getitem__(self, index: int) -> Any:
        return PROMPTS[index]


class TorchStream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(MESSAGES)


def hugging_face(rows: Any) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(rows)


FORMS = {
    "a list of prompts": lambda: PROMPTS,
    "torch": TorchRows,
    "datasets, messages": lambda: hugging_face(MESSAGES),
    "datasets, prompts": lambda: hugging_face(PROMPTS),
    "datasets, streaming": lambda: hugging_face(MESSAGES).to_iterable_dataset(),
    "torch, streaming": TorchStream,
}


def arguments(folder: Path, **settings: Any) -> AMVLTrainingArguments:
    return AMVLTrainingArguments(
        **{
            "output_dir": str(folder),
            "beta": 0.1,
            "gamma": 0.05,
            "beta_warmup": 0.0,
            "order": "simultaneous",
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 4,
            "logging_steps": 1,
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            **settings,
        }
    )


def trainer_on(dataset: Any, folder: Path, model: Any = None, **settings: Any) -> AMVLTrainer:
    others = {name: settings.pop(name) for name in ("eval_dataset", "compute_metrics", "callbacks") if name in settings}
    return AMVLTrainer(
        model=model or tiny_model(2, 4),
        args=arguments(folder, **settings),
        train_dataset=dataset,
        processing_class=processor(),
        **others,
    )


def log_of(dataset: Any, folder: Path) -> list[dict[str, float]]:
    trainer = trainer_on(dataset, folder)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def expected_log(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    return log_of(QUESTIONS, tmp_path_factory.mktemp("questions"))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_data_trains_what_the_questions_train(
    tmp_path: Path, form: str, expected_log: list[dict[str, float]]
) -> None:
    """Losses with their noise and the KLs of every step, so that the latent noise of each question is the same too."""
    found_log = log_of(FORMS[form](), tmp_path)
    assert len(expected_log) == 2
    for expected, found in zip(expected_log, found_log, strict=True):
        for term in ("loss", "ntp", "forward_kl", "reverse_kl"):
            assert found[term] == pytest.approx(expected[term], rel=1e-5), term


def test_a_stream_is_filled_up_with_weightless_rows_and_each_process_takes_its_share_of_every_batch() -> None:
    stream = QuestionStream(TorchStream(), "rows", multiple=4)
    items = list(stream)
    assert [item for item, _ in items] == [0, 1, 2, 3, 4, 5, ~5, ~5]
    shares = [list(IterableDatasetShard(stream, 2, num_processes=2, process_index=i)) for i in range(2)]
    assert [[item for item, _ in share] for share in shares] == [[0, 1, 4, 5], [2, 3, ~5, ~5]]
    batch = AMVLCollator(processor())(items[4:8])
    assert batch[WEIGHT].tolist() == [1, 1, 0, 0] and batch[INDEX].tolist() == [4, 5, ~5, ~5]
    assert list(QuestionStream([], "rows", multiple=4)) == []


def test_chat_messages_are_the_same_tokens_as_the_question(tmp_path: Path) -> None:
    for row, expected in zip(RowQuestions(MESSAGES, "rows"), QUESTIONS, strict=True):
        first, second = processor().encode(row), processor().encode(expected)
        assert all(torch.equal(first[name], second[name]) for name in second)


def test_messages_of_several_turns_with_images_of_their_own_and_text_alone() -> None:
    image = QUESTIONS[0].images[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Answer."}]},
        {"role": "user", "content": [{"type": "text", "text": "Which?"}, {"type": "image", "image": image}]},
        {"role": "assistant", "content": [{"type": "text", "text": "(B)"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "(A)"}]},
    ]
    row = question_of({"messages": turns, "image": {"bytes": file.getvalue(), "path": None}}, 0, "rows")
    assert row.answer_text == "(A)" and len(row.images) == 2
    encoded = processor().encode(row)
    text = processor().tokenizer.decode(encoded["input_ids"])
    places = [text.index(piece) for piece in ("Answer.", "Which?", "<|image_pad|>", "(B)", "And this?")]
    assert places == sorted(places) and text.endswith("<|im_start|>assistant\n")
    alone = question_of({"prompt": "Which?", "completion": "(A)"}, 1, "rows")
    batch = processor().collate([encoded, processor().encode(alone)])
    both = tiny_model(2, 4)(**batch, latents="posterior_mean").answer_nll
    single = tiny_model(2, 4)(**processor().collate([processor().encode(alone)]), latents="posterior_mean").answer_nll
    torch.testing.assert_close(both[1:], single, rtol=1e-4, atol=1e-4)
    marked = question_of({"prompt": "What does <image> show?", "completion": "(A)", "images": [image]}, 2, "rows")
    assert [part["type"] for part in marked.messages[0]["content"]] == ["text", "image", "text"]


BAD = {
    "no columns": (
        {"question": "Which?", "answer": "(A)"},
        "expected the columns messages, or prompt and completion.*got answer, question",
    ),
    "no completion": ({"prompt": "Which?"}, "got prompt; completion is missing"),
    "no user turn": (
        {"messages": [{"role": "system", "content": "Hi"}, {"role": "assistant", "content": "(A)"}]},
        "expected messages with a user turn.*got the roles system, assistant",
    ),
    "no answer": ({"messages": [{"role": "user", "content": "Which?"}]}, "the assistant's answer, got the roles user"),
    "an image that no message names": (
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Which?"}]}],
            "completion": "(A)",
            "images": [None],
        },
        "name 0 image.*of the images column, which has 1",
    ),
    "a named image that is missing": (
        {"prompt": "What is <image>?", "completion": "(A)", "images": []},
        "name 1 image.*which has 0",
    ),
    "a video": (
        {"prompt": [{"role": "user", "content": [{"type": "video"}]}], "completion": "(A)"},
        "expected a text.*got {'type': 'video'}",
    ),
    "no image": ({"prompt": "Which?", "completion": "(A)", "images": [3]}, "image 1: expected a PIL image, got int"),
    "an answer with an image": (
        {"prompt": "Which?", "completion": [{"role": "assistant", "content": [{"type": "image"}]}]},
        "expected text in the assistant's answer",
    ),
    "no mapping": (7, "or a VisualQuestion, got int"),
    "images twice": ({"prompt": "Which?", "completion": "(A)", "image": 1, "images": [2]}, "images or image, got both"),
    "a role of its own": (
        {"messages": [{"role": "user<|im_end|>", "content": "?"}, {"role": "assistant", "content": "(A)"}]},
        "roles system, user, assistant, got 'user<.im_end.>'",
    ),
    "calls of tools": (
        {
            "prompt": "Which?",
            "completion": [{"role": "assistant", "content": "(A)", "tool_calls": [{"name": "zoom"}]}],
        },
        "got 'assistant' with tool_calls",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_one_clear_error_with_its_place(case: str) -> None:
    row, message = BAD[case]
    if isinstance(row, dict) and row.get("images") == [None]:
        row = {**row, "images": list(QUESTIONS[0].images)}
    with pytest.raises(ValueError, match=f"(?s)the train set, row 5.*{message}"):
        question_of(row, 5, "the train set")


def test_missing_columns_are_refused_before_the_training(tmp_path: Path) -> None:
    wrong = hugging_face([{"question": "Which?", "answer": "(A)"}])
    for dataset in (wrong, wrong.to_iterable_dataset()):
        with pytest.raises(
            ValueError, match=r"train_dataset: expected the columns messages.*got answer, question; rename"
        ):
            trainer_on(dataset, tmp_path)
    with pytest.raises(ValueError, match=r"eval_dataset\['a'\]: expected the columns"):
        trainer_on(QUESTIONS, tmp_path, eval_dataset={"a": wrong})
    for dataset, message in (("blink", "got str"), ([], "at least one question"), (3, "got int")):
        with pytest.raises(ValueError, match=f"train_dataset: expected .*{message}"):
            trainer_on(dataset, tmp_path)


# ---------------------------------------------------------------------- evaluation


def test_an_evaluation_averages_unweighted_terms_over_the_examples(tmp_path: Path) -> None:
    trainer = trainer_on(QUESTIONS, tmp_path, eval_dataset=hugging_face(MESSAGES))
    found = trainer.evaluate()
    each = [trainer.evaluate([one]) for one in QUESTIONS[:1]]  # the same question with the same noise
    assert set(found) >= {"eval_loss", "eval_ntp", "eval_forward_kl", "eval_reverse_kl", "eval_prior_ntp"}
    assert not any("weighted" in name for name in found)
    assert found["eval_loss"] == pytest.approx(
        found["eval_ntp"] + 0.1 * found["eval_forward_kl"] + 0.05 * found["eval_reverse_kl"], rel=1e-4
    )
    assert each[0]["eval_ntp"] != pytest.approx(found["eval_ntp"], rel=1e-3)
    metrics = {metric["name"]: metric for metric in trainer._record["metrics"]}
    assert metrics["eval_ntp"]["value"] == pytest.approx(each[0]["eval_ntp"])  # those of the last evaluation
    trainer.evaluate()
    metrics = {metric["name"]: metric for metric in trainer._record["metrics"]}
    assert metrics["eval_ntp"]["low"] < metrics["eval_ntp"]["value"] < metrics["eval_ntp"]["high"]


def test_an_evaluation_draws_the_same_noise_at_every_step_and_seed(tmp_path: Path) -> None:
    trainer = trainer_on(QUESTIONS, tmp_path, eval_dataset=QUESTIONS)
    first = trainer.evaluate()
    trainer.state.global_step, trainer.state.max_steps, trainer.args.seed = 3, 4, 7
    again = trainer.evaluate()
    for term in ("ntp", "prior_ntp", "forward_kl"):
        assert again[f"eval_{term}"] == first[f"eval_{term}"]
    noise = [
        sample_noise(torch.tensor([0]), (2, 3), seed=seed, step=step)
        for seed, step in ((0, 0), (0, EVALUATION), (7, 3))
    ]
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])


def test_the_weights_schedule_moves_the_loss_of_an_evaluation_and_not_its_terms(tmp_path: Path) -> None:
    trainer = trainer_on(QUESTIONS, tmp_path, eval_dataset=QUESTIONS, beta_warmup=1.0, max_steps=4)
    trainer.state.max_steps, results = 4, []
    for objective in (trainer.objective, trainer.objective.model_copy(update={"beta_warmup": 0.0})):  # beta 0, then 0.1
        trainer.objective = objective
        results.append(trainer.evaluate())
    for term in ("ntp", "forward_kl", "reverse_kl", "prior_ntp"):
        assert results[0][f"eval_{term}"] == results[1][f"eval_{term}"]
    assert results[0]["eval_loss"] != results[1]["eval_loss"]


def test_compute_metrics_gets_logits_and_answers_and_can_choose_the_best_model(tmp_path: Path) -> None:
    seen = []

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        real = prediction.label_ids != -100
        hits = (prediction.predictions.argmax(-1) == prediction.label_ids)[real]
        seen.append((prediction.predictions.shape, real.sum(1)))
        return {"token_accuracy": float(hits.mean())}

    trainer = trainer_on(
        QUESTIONS,
        tmp_path,
        eval_dataset=PROMPTS,
        compute_metrics=metrics,
        callbacks=[EarlyStoppingCallback(1)],
        max_steps=4,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        load_best_model_at_end=True,
        metric_for_best_model="eval_ntp",
        greater_is_better=False,
    )
    trainer.train()
    tokens = [len(processor().encode_answer(q.answer_text)) for q in QUESTIONS]
    assert seen[0][0][:2] == (6, max(tokens)) and np.array_equal(seen[0][1], tokens)
    evaluations = [entry for entry in trainer.state.log_history if "eval_ntp" in entry]
    assert all(0 <= entry["eval_token_accuracy"] <= 1 for entry in evaluations)
    best = min(entry["eval_ntp"] for entry in evaluations)
    assert trainer.state.best_metric == pytest.approx(best)
    assert (
        f"checkpoint-{min(evaluations, key=lambda entry: entry['eval_ntp'])['step']}"
        in trainer.state.best_model_checkpoint
    )


# ---------------------------------------------------------------------- models, objectives, arguments


def test_an_objective_of_ones_own_is_one_entry_and_its_term_is_logged(tmp_path: Path) -> None:
    """Free bits: the reverse KL is trained only above one nat."""
    register_objective(Objective("amvl-free-bits", (NTP, FORWARD, FREE_BITS)))
    try:
        trainer = trainer_on(MESSAGES, tmp_path, eval_dataset=MESSAGES, objective="amvl-free-bits", max_steps=1)
        trainer.train()
        line = next(entry for entry in trainer.state.log_history if "loss" in entry)
        assert line["free_bits"] >= max(1.0, line["reverse_kl"]) - 1e-5
        assert line["loss"] == pytest.approx(
            line["ntp"] + 0.1 * line["forward_kl"] + 0.05 * line["free_bits"], rel=1e-4
        )
        assert trainer.evaluate()["eval_free_bits"] >= 1.0
    finally:
        del OBJECTIVES["amvl-free-bits"]


@pytest.mark.parametrize(("objective", "kind"), [("amvl", "amvl"), ("pause", "amvl_pause"), ("sft", "amvl_pause")])
def test_a_plain_backbone_gets_what_the_objective_needs(tmp_path: Path, objective: str, kind: str) -> None:
    sizes = {"num_latents": 3, "latent_dim": 5, "lora_rank": 2 if objective == "sft" else 0}
    args = arguments(tmp_path, objective=objective, posterior_std="shared", answer_bias=-2.0, **sizes)
    trainer = AMVLTrainer(model=tiny_model().backbone, args=args, train_dataset=QUESTIONS, processing_class=processor())
    if objective == "amvl":
        assert (trainer.model.config.posterior_std, trainer.model.config.answer_bias) == ("shared", -2.0)
    assert trainer.model.config.model_type == kind and bool(trainer.model.config.lora) == (objective == "sft")
    assert not any(p.requires_grad for p in trainer.model.backbone.model.visual.parameters())
    assert getattr(trainer.model.config, "num_latents", getattr(trainer.model.config, "num_pauses", None)) == (
        0 if objective == "sft" else 3
    )
    with (
        pytest.raises(ValueError, match="objective 'prior' reads the passes prior")
        if kind != "amvl"
        else pytest.raises(
            ValueError, match="objective 'sft' reads the passes plain, but the model computes prior, posterior"
        )
    ):
        trainer_on(QUESTIONS, tmp_path, trainer.model, objective="prior" if kind != "amvl" else "sft")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "objective.beta: expected a finite number of at least 0"),
        ({"order": "backwards"}, "objective.order: expected one of forward-first"),
        ({"objective": "amvll"}, "did you mean 'amvl'"),
        ({"num_latents": 0}, "model.num_latents: expected"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be False"),
        ({"train_sampling_strategy": "batch_rebalance"}, "must be random, group_by_length or sequential"),
    ],
)
def test_bad_arguments_are_refused_when_they_are_made(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **settings)


def test_what_the_trainer_cannot_use_is_refused(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    with pytest.raises(ValueError, match="args: expected AMVLTrainingArguments.*got TrainingArguments"):
        AMVLTrainer(model=tiny_model(), args=TrainingArguments(str(tmp_path), use_cpu=True), train_dataset=QUESTIONS)
    with pytest.raises(ValueError, match="processing_class: expected an AMVLProcessor, got"):
        AMVLTrainer(model=tiny_model(), args=arguments(tmp_path), processing_class=processor().tokenizer)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        AMVLTrainer(model=str(tmp_path / "nowhere"), args=arguments(tmp_path), processing_class=processor())
    with pytest.raises(ConnectionError, match="'org/model' was not found locally or on the Hub"):
        AMVLTrainer(model="org/model", args=arguments(tmp_path), train_dataset=QUESTIONS)


def test_a_lora_run_resumes_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """Adapters and heads lie in two files, which the Trainer itself would not put together."""
    pytest.importorskip("peft")
    base = tmp_path / "base"
    tiny_model().backbone.save_pretrained(base)
    settings = {
        "lora_rank": 2,
        "num_latents": 2,
        "latent_dim": 4,
        "max_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    settings |= {"learning_rate": 1e-2, "save_only_model": False}

    def trained(checkpoint: str | None) -> Any:
        trainer = trainer_on(QUESTIONS, tmp_path / "run", str(base), **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.model

    whole = trained(None)
    resumed = trained(str(tmp_path / "run" / "checkpoint-1"))
    fresh = trainer_on(QUESTIONS, tmp_path / "run", str(base), **settings).model.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    moved = [name for name, value in whole.state_dict().items() if not torch.equal(value, fresh[name])]
    assert any("lora_B" in name for name in moved) and any("injector" in name for name in moved)
    assert all(whole.owns(name) for name in moved)
    other = tiny_model(seed=1).backbone
    other.save_pretrained(base)
    with pytest.raises(ValueError, match="not trained on the weights of"):
        trained(str(tmp_path / "run" / "checkpoint-1"))

"""The lmms-eval plug-in without lmms-eval: requests, decoding, local task files, logs (with it: test_lmms_eval_plugin)."""

from __future__ import annotations

import base64
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.readers.blink import blink_answers, export_blink_parquet, load_blink
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import synthetic_blink, synthetic_question
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.evaluation.lmms_eval_plugin import local_tasks, samples
from amvl_model.evaluation.lmms_eval_plugin.decoding import Answerer, LatentSettings
from amvl_model.evaluation.lmms_eval_plugin.requests import (
    DecodingSettings,
    decoding_settings,
    question_from_context,
    question_from_messages,
)
from amvl_model.models.loading import load_checkpoint
from tests import helpers

RED, BLUE = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
SHORT = DecodingSettings(max_new_tokens=6)


def user(*content: Any) -> list[dict[str, Any]]:
    entries = [{"type": "text", "text": c} if isinstance(c, str) else {"type": "image", "url": c} for c in content]
    return [{"role": "user", "content": entries}]


def colours(question: VisualQuestion) -> list[Any]:
    return [image.getpixel((0, 0)) for image in question.images]


def test_images_stand_where_the_messages_put_them() -> None:
    between = question_from_messages(user("First", RED, "then", BLUE, "?"), "q")
    assert between.prompt == "First<image>then<image>?"
    assert colours(between) == [(255, 0, 0), (0, 0, 255)]
    assert question_from_messages(user(RED, BLUE, "Which?"), "q").prompt == "Which?"
    assert question_from_messages([{"role": "user", "content": "Which?"}], "q").images == ()


def test_marks_in_a_text_place_the_images_if_there_is_one_for_each() -> None:
    assert question_from_context("A <image> and a <image>?", [RED, BLUE], "q").prompt == "A <image> and a <image>?"
    assert question_from_context("A <image>?", [RED, BLUE], "q").prompt == "A ?"
    assert question_from_context("See <image 1>.", [RED], "q").prompt == "See <image 1>."
    assert question_from_messages(user("<image>", RED, "?"), "q").prompt == "<image>?"
    encoded = helpers.processor().encode(question_from_messages(user("is", RED, "a", BLUE, "?"), "q"), answers=False)
    assert len(encoded["image_grid_thw"]) == 2


def test_every_form_of_image_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    BLUE.save(buffer, format="PNG")
    BLUE.save(tmp_path / "x.png")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    forms = [BLUE, BLUE.convert("RGBA"), str(tmp_path / "x.png"), address, {"bytes": buffer.getvalue(), "path": None}]
    question = question_from_context("?", [forms[:2], *forms[2:]], "q")
    assert colours(question) == [(0, 0, 255)] * 5


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "system", "content": "x"}, *user(RED, "?")], "one user turn, got \\['system', 'user'\\]"),
        ([{"role": "user", "content": [{"type": "video", "url": "x.mp4"}]}], "got a video"),
        ([{"role": "user", "content": [{"type": "image", "url": {"video": 1}}]}], "'q': expected an image"),
        ([{"role": "user", "content": [{"type": "image", "url": "http://x/y.png"}]}], "expected an image"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        question_from_messages(messages, "q")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"until": ["\n\n"]}, DecodingSettings(max_new_tokens=1024)),
        ({"until": "END", "max_new_tokens": 8}, DecodingSettings(max_new_tokens=8, until=("END",))),
        ({"max_gen_toks": 7, "top_p": None}, DecodingSettings(max_new_tokens=7)),
        ({"temperature": 0, "do_sample": False, "top_p": 1.0, "num_beams": 1}, DecodingSettings(max_new_tokens=1024)),
        ({"temperature": 0.7}, DecodingSettings(max_new_tokens=1024, sample=True, temperature=0.7)),
        ({"temperature": 0.7, "do_sample": False}, DecodingSettings(max_new_tokens=1024)),
        ({"temperature": 0, "do_sample": True}, DecodingSettings(max_new_tokens=1024)),
        ({"do_sample": True, "top_k": 5}, DecodingSettings(max_new_tokens=1024, sample=True, temperature=1.0, top_k=5)),
        (
            {"num_beams": 3, "repetition_penalty": 1.1},
            DecodingSettings(max_new_tokens=1024, num_beams=3, repetition_penalty=1.1),
        ),
    ],
)
def test_generation_settings_mean_what_they_mean_in_lmms_eval(
    given: dict[str, Any], expected: DecodingSettings
) -> None:
    assert decoding_settings(given) == (expected, ())


def test_settings_without_meaning_are_named_and_bad_ones_refused() -> None:
    assert decoding_settings({"image_aspect_ratio": "pad", "modalities": ["image"]})[1] == (
        "image_aspect_ratio",
        "modalities",
    )
    with pytest.raises(ValueError, match="max_new_tokens must be a whole number of at least 1, got 0"):
        decoding_settings({"max_new_tokens": 0})
    with pytest.raises(ValueError, match="until must be a text"):
        decoding_settings({"until": [3]})
    assert DecodingSettings(max_new_tokens=1, until=("x", "b")).cut("abxb") == "a"


@lru_cache(maxsize=1)
def shipped() -> tuple[Any, AMVLProcessor]:
    return load_checkpoint("tiny-amvl")


def asked() -> list[VisualQuestion]:
    tasks = ("Counting", "Jigsaw", "Art_Style", "Spatial_Relation")
    return [drawn_question(task, i) for i in range(2) for task in tasks]


def drawn_question(task: str, index: int) -> VisualQuestion:
    return synthetic_question(task, split="val", index=index, difficulty=0.25)


def replies(
    settings: LatentSettings, *, batch: int = 8, decoding: DecodingSettings = SHORT, model: str = "tiny-amvl"
) -> list[str]:
    answerer = Answerer(*(shipped() if model == "tiny-amvl" else load_checkpoint(model)), settings)
    questions = asked()
    keys = [question.id for question in questions]
    result: list[str] = []
    for start in range(0, len(questions), batch):
        part = slice(start, start + batch)
        result += [reply.text for reply in answerer.replies(questions[part], keys[part], decoding)]
    return result


def test_replies_at_the_prior_mean_are_those_of_our_own_evaluation() -> None:
    model, processor = shipped()
    ours = evaluate(model, processor, asked(), scoring=("generation",), max_new_tokens=6, n_bootstrap=5, progress=False)
    assert replies(LatentSettings()) == [record.reply for record in ours.records]


def test_a_plain_backbone_replies_as_in_our_own_evaluation_whatever_the_padding() -> None:
    model, processor = load_checkpoint("tiny")
    ours = evaluate(model, processor, asked(), scoring=("generation",), max_new_tokens=6, n_bootstrap=5, progress=False)
    for batch in (8, 1):
        assert replies(LatentSettings(), batch=batch, model="tiny") == [record.reply for record in ours.records]


def test_samples_depend_on_seed_and_question_and_not_on_the_batch() -> None:
    hot = {"latents": "prior", "temperature": 20.0}
    first = replies(LatentSettings(seed=0, **hot))
    assert first == replies(LatentSettings(seed=0, **hot), batch=3)
    assert any(first != replies(LatentSettings(seed=seed, **hot)) for seed in (1, 2, 3))
    cold = LatentSettings(latents="prior", temperature=0.0)
    assert replies(cold) == replies(LatentSettings())


def test_drawn_tokens_are_repeatable() -> None:
    drawn = DecodingSettings(max_new_tokens=6, sample=True, temperature=5.0)
    state = torch.random.get_rng_state()
    first = replies(LatentSettings(), decoding=drawn)
    assert first == replies(LatentSettings(), decoding=drawn)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first != replies(LatentSettings(seed=1), decoding=drawn)


def test_likelihoods_are_those_of_our_own_scorer() -> None:
    model, processor = shipped()
    questions = asked()
    answerer = Answerer(model, processor, LatentSettings())
    letters = [[f" ({letter})" for letter in "ABCD"[: len(q.choices)]] for q in questions]
    result = answerer.likelihoods(questions, [q.id for q in questions], letters)
    for question, values in zip(questions, result, strict=True):
        state, prior = model.encode_query(processor([question], answers=False))
        for index, (loss, greedy) in enumerate(values):
            ids = processor.encode_answer(f"({'ABCD'[index]})")[:-1]
            with torch.no_grad():
                log_probs = model.answer_logits(state, prior.mean, ids[None]).log_softmax(-1)[0]
            item = log_probs.gather(-1, ids[:, None])
            assert loss == pytest.approx(-float(item.mean()), abs=1e-4)
            assert greedy == bool((log_probs.argmax(-1) == ids).all())
    several = Answerer(model, processor, LatentSettings(latents="prior", samples=3, temperature=0.0))
    same = several.likelihoods(questions, [q.id for q in questions], letters)
    assert [v for v, _ in same[0]] == pytest.approx([v for v, _ in result[0]], abs=1e-5)


def test_latent_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="latents must be one of prior_mean, prior"):
        LatentSettings(latents="posterior")
    with pytest.raises(ValueError, match="all the same; add latents=prior"):
        LatentSettings(samples=2)
    with pytest.raises(ValueError, match="at least 0"):
        LatentSettings(temperature=-1.0)
    with pytest.raises(ValueError, match="plain backbone, which has none"):
        Answerer(*load_checkpoint("tiny"), LatentSettings(latents="prior"))


@pytest.fixture(scope="module")
def blink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blink")
    records = [synthetic_blink(task, "val", 0, i) for task in ("Counting", "Multi-view_Reasoning") for i in range(2)]
    export_blink_parquet(records, folder)
    return folder


def test_local_tasks_replace_only_where_the_questions_are(blink: Path, tmp_path: Path) -> None:
    local_tasks.main([str(blink), str(tmp_path / "tasks")])
    written = yaml.safe_load((tmp_path / "tasks" / "blink_local.yaml").read_text())
    assert written["group"] == "blink_local"
    assert [task["task"] for task in written["task"]] == ["blink_counting", "blink_multi_view_reasoning"]
    assert set(written["task"][0]) == {"task", "dataset_path", "dataset_name", "test_split", "dataset_kwargs"}
    assert Path(written["task"][0]["dataset_kwargs"]["data_files"]["val"][0]).is_file()
    bare = yaml.safe_load(local_tasks.write_local_blink_tasks(blink, tmp_path, prompt="blink").read_text())
    assert bare["task"][1]["lmms_eval_specific_kwargs"]["default"]["pre_prompt"] == ""
    with pytest.raises(FileNotFoundError, match="expected files <Task>/test"):
        local_tasks.write_local_blink_tasks(blink, tmp_path, split="test")
    with pytest.raises(FileNotFoundError, match="correct the path"):
        local_tasks.write_local_blink_tasks(tmp_path / "nowhere", tmp_path)


def log(folder: Path, replies: dict[str, tuple[str, str, bool]], stamp: str = "20260101_000000") -> Path:
    """A log as lmms-eval writes it: (reply, letter it read, whether that is right) by question id."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"blink_acc": {"id": i, "pred": r, "pred_parsed": p, "is_correct": c}} for i, (r, p, c) in replies.items()]
    (folder / f"{stamp}_samples_blink_counting.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {"blink_counting": {"blink_acc,none": 0.5, "alias": "x"}, "other": {"alias": "y"}}
    (folder / f"{stamp}_results.json").write_text(json.dumps({"results": scores}))
    return folder


def test_a_log_is_scored_by_both_readers_and_every_difference_has_its_name(blink: Path, tmp_path: Path) -> None:
    answers = blink_answers(load_blink(blink))
    right = {i: "ABCD"[a] for i, (task, _, a) in answers.items() if task == "Counting" and a is not None}
    (first, letter), (second, other) = right.items()
    wrong = next(x for x in "ABCD" if x != other)
    replies = {first: (f"({letter})", letter, True), second: (f"{wrong}nd so on", wrong, False)}
    log(tmp_path, {first: ("?", "", False)}, "20250101_000000")  # an older run beside it
    read = samples.read_samples(log(tmp_path, replies), answers)
    comparison = samples.compare(read, samples.read_scores(tmp_path), n_bootstrap=5)
    assert comparison.lmms_eval == {"blink_counting": 0.5}
    assert [score.value.mean for score in comparison.theirs if score.value] == [0.5, 0.5]
    (difference,) = comparison.differences
    assert (difference.rule, difference.ours, difference.changes_score) == ("first letter of the reply", None, False)
    assert "lmms-eval " + wrong + " (first letter of the reply)" in comparison.table()
    json.dumps(comparison.to_dict())


def test_a_log_that_the_described_rules_do_not_give_is_an_error(blink: Path, tmp_path: Path) -> None:
    answers = blink_answers(load_blink(blink))
    identifier = next(iter(answers))
    read = samples.read_samples(log(tmp_path, {identifier: ("The answer is A", "T", False)}), answers)
    with pytest.raises(ValueError, match="this log is of another version"):
        samples.compare(read, {})
    with pytest.raises(ValueError, match="pass the BLINK folder of that run"):
        samples.read_samples(log(tmp_path / "b", {"val_Other_1": ("A", "A", True)}), answers)
    with pytest.raises(FileNotFoundError, match="a run that fails ends with status 0"):
        samples.read_scores(tmp_path / "empty")

"""The four training sets on miniatures in their real file formats, and a user's own questions."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amvl_model.data.readers.benchmarks import load_vstar
from amvl_model.data.readers.question_files import QuestionFile, write_questions
from amvl_model.data.readers.training_sets import load_cogcom, load_refocus, load_visual_cot, load_zebra_cot
from amvl_model.data.readers.training_texts import (
    chain_of_manipulations,
    focus_reasoning,
    strip_box_request,
    zebra_question,
    zebra_reasoning,
)
from amvl_model.data.schema import VisualQuestion
from tests import miniatures

pytest.importorskip("pyarrow")


def texts(question: VisualQuestion) -> tuple[Any, ...]:
    return question.id, question.prompt, question.answer_text, question.task, question.source, len(question.images)


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_visual_cot_gives_question_and_last_answer_without_the_box(tmp_path: Path, form: str) -> None:
    questions = load_visual_cot(miniatures.visual_cot(tmp_path, form))
    by_task = {q.task: q for q in questions}
    assert set(by_task) == {"gqa", "docvqa", "textcap"}
    assert by_task["gqa"].prompt == "What is shown in picture 0?"
    assert by_task["gqa"].answer_text == "window"
    assert len(by_task["textcap"].images) == 1  # its images are TextVQA's
    assert (questions[0].choices, questions[0].answer, questions[0].source) == ((), None, "Visual-CoT")
    assert [q.task for q in load_visual_cot(tmp_path, tasks=["docvqa"])] == ["docvqa"]
    assert len(load_visual_cot(tmp_path, limit=2)) == 2


def test_visual_cot_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="hf download deepcs233/Visual-CoT .* unpack the archives"):
        load_visual_cot(None)
    with pytest.raises(FileNotFoundError, match="expected viscot_363k.json or metadata"):
        load_visual_cot(tmp_path)
    file = miniatures.visual_cot(tmp_path) / "viscot_363k.json"
    (tmp_path / "cot/gqa/0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="record 0 of .*viscot_363k.json: expected the image .*cot.gqa.0.jpg"):
        load_visual_cot(tmp_path)[0]
    records = json.loads(file.read_text())
    del records[1]["conversations"][1:]
    file.write_text(json.dumps(records))
    with pytest.raises(ValueError, match="record 1 of .*expected an image and turns of human and gpt"):
        load_visual_cot(tmp_path)[1]
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match="viscot_363k.json: not valid JSON.*truncated"):
        load_visual_cot(tmp_path)


def test_a_question_without_a_box_request_stays_as_it_is() -> None:
    assert strip_box_request("<image>\nIs it red?") == "Is it red?"
    advanced = "Why? Please think step by step and provide the bounding box coordinate of the region that can help you "
    assert strip_box_request(advanced + "answer the question better.") == "Why?"


def test_refocus_gives_answers_and_focus_reasoning(tmp_path: Path) -> None:
    questions = load_refocus(miniatures.refocus(tmp_path))
    assert texts(questions[0]) == ("refocus/train-0", "What is the value of bar 0?", "5", "chartqa_h_bar", "ReFocus", 1)
    assert questions[1].answer_text == "Yes, No"
    assert load_refocus(tmp_path, target="reasoning")[0].answer_text == (
        "I look at the bar of 2020. The areas to focus on in the image have bounding box coordinates: [[1, 2, 3, 4]]. "
        "Looking at these areas, the bar ends at 5.\nAnswer: 5"
    )
    assert focus_reasoning({"conversations": [{"response": "a"}], "focus_areas": []}) == "a"
    assert [q.id for q in load_refocus(tmp_path, tasks=["chartqa_v_bar"])] == ["refocus/train-1"]
    file = tmp_path / "chartqa_vcot" / "train.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0])
    with pytest.raises(ValueError, match="unique ids, got 'train-0'"):
        load_refocus(tmp_path)
    with pytest.raises(FileNotFoundError, match="chartqa_vcot.val.jsonl"):
        load_refocus(tmp_path, split="val")


@pytest.mark.parametrize(("form", "count"), [("parquet", 4), ("flat", 4), ("grouped", 2)])
def test_cogcom_reads_parquet_and_both_kinds_of_json_lines(tmp_path: Path, form: str, count: int) -> None:
    questions = load_cogcom(miniatures.cogcom(tmp_path, form))
    assert len(questions) == count
    assert texts(questions[1]) == ("cogcom/com/1", "What does sign 1 say?", "STOP", "com", "CogCoM", 1)
    assert len({q.id for q in questions}) == count
    reasoning = load_cogcom(tmp_path, target="reasoning")[0].answer_text
    assert reasoning == "Find the sign [1, 2, 3, 4]. In [1, 2, 3, 4] it says STOP.\nAnswer: STOP"
    assert len(load_cogcom(tmp_path, limit=1)) == 1


def test_chains_are_followed_to_the_answer_and_damaged_ones_named() -> None:
    tree = miniatures.manipulations()
    assert chain_of_manipulations(json.dumps(tree), "here").startswith("Find the sign")
    assert chain_of_manipulations({}, "here") == ""
    assert chain_of_manipulations({"-1,0--0,0": {"desc": "x", "found": False}}, "here") == ""
    every = {
        "-1,0--0,0": {"desc": "one", "found": False},
        "0,*--1,0": {"desc": "two `nothing_1`", "variables": {}, "found": True},
    }
    assert chain_of_manipulations(every, "here") == "one two `nothing_1`"
    assert chain_of_manipulations({"-1,0---1,0": {"desc": "loop", "found": False}}, "here") == ""
    for bad in ("{", "[1]", {"first": {}}, {"-1,0--0,0": 3}):
        with pytest.raises(ValueError, match="here: "):
            chain_of_manipulations(bad, "here")


def test_zebra_cot_shows_problem_images_where_the_question_refers_to_them(tmp_path: Path) -> None:
    questions = load_zebra_cot(miniatures.zebra_cot(tmp_path))
    search, geometry = miniatures.ZEBRA_SUBJECTS
    assert [q.task for q in questions] == [search] * 4 + [geometry] * 3  # a problem without an image is left out
    assert texts(questions[0])[:3] == (f"zebra-cot/{search}/0", "What is on the table?", "place 0")
    assert questions[1].prompt == "Where is thing 1? <image>"
    compared = questions[4]
    assert compared.prompt == "Compare <image> with <image>."
    assert [np.asarray(i).tolist() for i in compared.images] == [
        np.asarray(miniatures.random_image(s)).tolist() for s in (21, 1)
    ]
    assert questions[5].prompt == "<image>\nWhere is thing 2? <image>"
    reasoned = load_zebra_cot(tmp_path, target="reasoning", tasks=[search], limit=1)[0]
    assert reasoned.answer_text == "I look at the picture.\nThe hat is red.\nAnswer: place 0"


def test_zebra_cot_names_missing_subjects_shards_and_images(tmp_path: Path) -> None:
    miniatures.zebra_cot(tmp_path)
    with pytest.raises(FileNotFoundError, match="of 'Chess'"):
        load_zebra_cot(tmp_path, tasks=["Chess"])
    (tmp_path / miniatures.ZEBRA_SUBJECTS[1] / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="expected 2 shards of the split 'train', found 1"):
        load_zebra_cot(tmp_path)
    with pytest.raises(ValueError, match="here: expected the image problem_image_3"):
        zebra_question("<image_start>[problem_image_3]<image_end>", ["problem_image_1"], "here")
    with pytest.raises(ValueError, match="at least one image"):
        zebra_question("What?", [], "here")
    assert zebra_reasoning("THOUGHT_1: a\n\nTHOUGHT 2: b") == "a\nb"


@pytest.mark.parametrize(
    ("make", "load"),
    [
        (miniatures.visual_cot, load_visual_cot),
        (miniatures.refocus, load_refocus),
        (miniatures.cogcom, load_cogcom),
        (miniatures.zebra_cot, load_zebra_cot),
        (miniatures.vstar, load_vstar),
    ],
)
def test_every_set_survives_being_written_as_a_file_of_questions(
    tmp_path: Path, make: Callable[[Path], Path], load: Callable[[Path], Any]
) -> None:
    questions = list(load(make(tmp_path / "set")))
    copies = QuestionFile(write_questions(questions, tmp_path / "copy"))
    for copy, question in zip(copies, questions, strict=True):
        fields = ("id", "prompt", "answer_text", "question", "choices", "answer", "task", "source")
        assert [getattr(copy, f) for f in fields] == [getattr(question, f) for f in fields]
        assert [i.tobytes() for i in copy.images] == [i.tobytes() for i in question.images]
    with pytest.raises(FileExistsError, match="not overwritten"):
        write_questions(questions, tmp_path / "copy")


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'answer' or 'reasoning', got 'boxes'"):
        load_refocus(miniatures.refocus(tmp_path), target="boxes")  # type: ignore[arg-type]


def own(folder: Path, *records: dict[str, Any]) -> Path:
    miniatures.random_image(0).save(folder / "a.png")
    file = folder / "own.jsonl"
    file.write_text("\n\n".join(json.dumps({"images": ["a.png"], "question": "Which?"} | r) for r in records) + "\n")
    return file


def test_own_questions_take_letters_texts_and_open_answers(tmp_path: Path) -> None:
    file = own(
        tmp_path,
        {"choices": ["red", "blue"], "answer": "B"},
        {"choices": ["red", "blue"], "answer": "red", "id": "x", "task": "Colour"},
        {"answer": "a cup", "images": "a.png"},
        {"choices": ["red", "blue"]},
        {"choices": ["B", "A"], "answer": "(B)"},
    )
    questions = QuestionFile(file)
    assert [(q.id, q.answer, q.answer_text) for q in questions] == [
        ("1", 1, "(B)"),
        ("x", 0, "(A)"),
        ("5", None, "a cup"),
        ("7", None, ""),
        ("9", 1, "(B)"),
    ]
    assert questions[0].prompt == "Which?\nSelect from the following choices.\n(A) red\n(B) blue"
    assert (questions[0].task, questions[1].task) == ("own", "Colour")
    assert [q.id for q in questions[1:3]] == ["x", "5"]
    assert questions[-1].choices == ("B", "A")
    assert len(QuestionFile(file, limit=2)) == 2
    assert pickle.loads(pickle.dumps(questions))[1].id == "x"  # what a worker process gets


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": "C", "choices": ["red", "blue"]}, "expected the answer to be one of"),
        ({"answer": "B", "choices": ["B", "A"]}, "is the letter of option 1 and the text of option 0"),
        ({"images": []}, "line 1: expected an object with images and question"),
        ({"imagse": ["a.png"]}, "unknown: \\['imagse'\\]"),
        ({"images": ["b.png"], "answer": "x"}, "line 1: expected the image"),
    ],
)
def test_a_bad_line_of_own_questions_is_named(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        QuestionFile(own(tmp_path, record))[0]


def test_a_bad_file_of_own_questions_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="JSON lines"):
        QuestionFile(tmp_path / "none.jsonl")
    file = own(tmp_path, {"id": "a", "answer": "x"}, {"id": "a", "answer": "y"})
    with pytest.raises(ValueError, match="unique ids, got 'a'"):
        QuestionFile(file)
    file.write_text(file.read_text()[:-5])
    with pytest.raises(ValueError, match="line 3: not valid JSON"):
        QuestionFile(file)[1]
    file.write_text("\n")
    with pytest.raises(ValueError, match="at least one question"):
        QuestionFile(file)


@pytest.mark.network
def test_the_real_zebra_cot_is_read_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # set for all other tests
    subject = miniatures.ZEBRA_SUBJECTS[0]
    question = load_zebra_cot(tasks=[subject], limit=1, stream=True)[0]
    assert question.images
    assert question.answer_text

"""One strict schema for questions of one's own: refused with file, line and field, and skipped and counted in training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amvl_model.config import DataConfig
from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.readers.question_files import QuestionFile
from amvl_model.data.schema import VisualQuestion, question_from_blink
from amvl_model.data.sources import evaluation_questions, training_questions
from amvl_model.training.batches import QuestionDataset
from tests import helpers

GOOD: dict[str, Any] = {"images": ["a.png"], "question": "Which?", "choices": ["red", "blue"], "answer": "B"}


def written(folder: Path, *records: dict[str, Any]) -> Path:
    Image.new("RGB", (40, 40), "red").save(folder / "a.png")
    Image.new("RGB", (900, 4), "red").save(folder / "thin.png")
    file = folder / "q.jsonl"
    file.write_text("\n".join(json.dumps(GOOD | record) for record in records))
    return file


WRONG: list[tuple[str, Any]] = [
    ("choices", "yes"),
    ("choices", ["red", None]),
    ("choices", [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}]),
    ("choices", {"A": "red", "C": "blue"}),
    ("choices", {"text": ["red", "blue"], "label": ["A", "B"]}),
    ("choices", {"A": "red", "B": None}),
    ("choices", [["red"], ["blue"]]),
    ("choices", [True, False]),
    ("choices", 2),
    ("answer", 1),
    ("answer", True),
    ("answer", ["B"]),
    ("answer", {"A": 1}),
    ("question", 3),
    ("question", {"text": "Which?"}),
    ("images", [{"path": "a.png"}]),
    ("images", {"a.png": 1}),
    ("images", [""]),
    ("id", True),
    ("id", ["a"]),
    ("task", 4),
    ("prompt", ["Which?"]),
    ("answer_text", False),
    ("question", "half a pair \ud800"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_type_is_refused_with_file_line_and_field(tmp_path: Path, name: str, value: Any) -> None:
    questions = QuestionFile(written(tmp_path, {}, {name: value}))
    assert questions[0].choices == ("red", "blue")
    with pytest.raises(ValueError, match=f"q.jsonl, line 2, field {name}.*: expected") as caught:
        _ = questions[1]
    assert "Traceback" not in str(caught.value)


def test_options_as_an_object_and_numbers_are_read(tmp_path: Path) -> None:
    file = written(
        tmp_path, {"choices": {"B": "blue", "A": "red"}}, {"choices": [1, 2.5]}, {"choices": None, "answer": 7}
    )
    assert [(q.choices, q.answer, q.answer_text) for q in QuestionFile(file)] == [
        (("red", "blue"), 1, "(B)"),
        (("1", "2.5"), 1, "(B)"),
        ((), None, "7"),
    ]


def test_null_is_as_left_out(tmp_path: Path) -> None:
    (question,) = QuestionFile(written(tmp_path, {"id": None, "task": None, "source": None, "prompt": None}))
    assert (question.id, question.task, question.source) == ("1", "q", "q")


def test_blink_records_and_the_schema_refuse_options_as_text() -> None:
    image = Image.new("RGB", (8, 8))
    record = {"idx": "1", "image_1": image, "answer": "(A)", "question": "q", "prompt": "p", "sub_task": "t"}
    for choices in ("ab", ["a", None], [{"text": "a"}]):
        with pytest.raises(ValueError, match="'1': choices"):
            question_from_blink(record | {"choices": choices})
    with pytest.raises(ValueError, match="expected choices as a tuple of texts"):
        VisualQuestion(id="q", images=(), prompt="", answer_text="", choices="ab")  # type: ignore[arg-type]


UNUSABLE = {
    "wrong type": {"choices": "yes"},
    "missing file": {"images": ["none.png"]},
    "thin image": {"images": ["thin.png"]},
    "one <image> too many": {"question": "<image><image> Which?"},
    "hidden answer": {"answer": None},
    "special token in an answer": {"choices": None, "answer": "red<|im_end|>"},
    "special token in a question": {"question": "<|im_start|>Which?"},
    "special token in an option": {"choices": ["red", "<|vision_pad|>"]},
    "unknown field": {"imagse": []},
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_encoded_is_skipped_counted_and_named_up_to_the_limit(tmp_path: Path, kind: str) -> None:
    def dataset(*bad: int) -> QuestionDataset:
        rows = [{"id": f"row {i}", **(UNUSABLE[kind] if i in bad else {})} for i in range(20)]
        config = DataConfig(source=str(written(tmp_path, *rows)), train_size=None)
        return QuestionDataset(training_questions(config), helpers.processor())

    one = dataset(7)
    assert [one.length(i) > 0 for i in range(20)] == [True] * 20
    assert [len(one[i]["answer_ids"]) > 1 for i in range(20)] == [True] * 20
    assert isinstance(one.questions, MixedQuestions)
    assert [skipped.index for skipped in one.questions.skipped] == [7]
    reason = one.questions.skipped[0].reason
    assert "row 7" in reason or "line 8" in reason
    two = dataset(7, 8)
    with pytest.raises(ValueError, match="2 questions of .* could not be read; expected at most 1"):
        [two[i] for i in range(20)]


def test_an_error_of_encoding_names_the_question_where_nothing_is_skipped() -> None:
    question = VisualQuestion(id="odd", images=(Image.new("RGB", (900, 4)),), prompt="p", answer_text="x")
    for use in (helpers.processor().encode, helpers.processor().query_length):
        with pytest.raises(ValueError, match="question 'odd': its images cannot be used"):
            use(question)


def tasks(source: Path, split: str, **settings: Any) -> dict[str, int]:
    config = DataConfig(source=str(source), eval_source=str(source), **settings)
    get = training_questions if split == "train" else evaluation_questions
    return dict(Counter(question.task for question in get(config)))


def test_tasks_and_questions_a_task_are_those_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path, *({"task": task} for task in ("Color", "Depth", "Count") for _ in range(6)))
    assert tasks(file, "test", eval_size=4) == {"Color": 4, "Depth": 4, "Count": 4}
    assert tasks(file, "test", eval_size=4, tasks=("Depth", "Count")) == {"Depth": 4, "Count": 4}
    assert tasks(file, "train", tasks=("Depth",), train_size=5) == {"Depth": 5}
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="got 'Dpeth'; did you mean 'Depth'"):
            tasks(file, split, tasks=("Depth", "Dpeth"))


def test_a_line_whose_task_cannot_be_read_is_not_dropped_in_silence(tmp_path: Path) -> None:
    file = written(tmp_path, {"task": "Color"}, {"task": "Depth", "choices": "yes"}, {"task": "Depth"})
    questions = QuestionFile(file, tasks=("Color",))
    assert questions[0].task == "Color"
    with pytest.raises(ValueError, match="line 2, field choices"):
        _ = questions[1]


def test_special_tokens_of_the_tokenizer_are_refused_in_answers() -> None:
    processor = helpers.processor()
    for token in ("<|im_end|>", "<|endoftext|>", "<|vision_pad|>"):
        with pytest.raises(ValueError, match=r"the answer contains the special token <\|"):
            processor.encode_answer(f"(A){token}")
    with pytest.raises(ValueError, match="expected an answer"):
        processor.encode_answer("  ")


def test_a_key_that_occurs_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, {})
    file.write_text(file.read_text()[:-1] + ', "answer": "A"}')
    with pytest.raises(ValueError, match="line 1: not valid JSON .the key 'answer' occurs twice"):
        _ = QuestionFile(file)[0]


def test_a_reply_that_names_another_option_than_the_answer_is_refused(tmp_path: Path) -> None:
    replies = ("(B)", "blue", "Because it is blue: (B)", "(A)", "A.", "red")
    questions = QuestionFile(written(tmp_path, *({"answer_text": reply} for reply in replies)))
    assert [questions[i].answer_text for i in range(3)] == list(replies[:3])
    for index in range(3, 6):
        with pytest.raises(ValueError, match="field answer_text: expected a reply that chooses option .B."):
            _ = questions[index]


@pytest.mark.parametrize("kind", ["above", "absolute", "by a detour"])
def test_a_path_that_leads_out_of_the_file_s_folder_is_refused_unless_allowed(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    outside = tmp_path / "b.png"
    Image.new("RGB", (40, 40), "blue").save(outside)
    name = {"above": "../b.png", "absolute": str(outside), "by a detour": "c/../../b.png"}[kind]
    (folder / "c").mkdir()
    file = written(folder, {"images": [name]})
    with pytest.raises(ValueError, match=r"q\.jsonl, line 1: expected a path inside .*/data, got .*b\.png"):
        evaluation_questions(DataConfig(eval_source=str(file)))[0]
    (question,) = evaluation_questions(DataConfig(eval_source=str(file), outside=True))
    assert question.images[0].getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"choices": ["", "b"], "answer": "B"}, "choices, option 1"),
        ({"choices": ["a", " \n"], "answer": "A"}, "choices, option 2"),
        ({"question": "  "}, "question"),
    ],
)
def test_a_blank_text_is_refused_with_its_field(tmp_path: Path, fields: dict[str, Any], field: str) -> None:
    line = {"images": ["a.png"], "question": "Which?", "choices": ["red", "blue"], "answer": "B", **fields}
    (tmp_path / "own.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=rf"own\.jsonl, line 1, field {field}: expected a text, got a blank one"):
        QuestionFile(tmp_path / "own.jsonl")[0]

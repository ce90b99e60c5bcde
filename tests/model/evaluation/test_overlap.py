"""An evaluation on training questions says so, whatever their labels and ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from amvl_model.config.schema import DataConfig
from amvl_model.data.readers.question_files import write_questions
from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.evaluation.overlap import training_overlap

TASKS = ("Counting", "Jigsaw")
DRAWN = DataConfig(source="synthetic-blink", tasks=TASKS, train_size=12, seed=3, label_noise=0.3)


def questions(split: str, seed: int = 3, size: int = 8) -> list:  # type: ignore[type-arg]
    return SyntheticBlink(tasks=TASKS, split=split, seed=seed, size=size)[:]


def test_held_out_questions_are_not_in_the_training_set_and_nothing_is_said() -> None:
    result = training_overlap(questions("test"), DRAWN)
    assert (result.shared, result.read, result.sentence()) == (0, 0, "")


def test_training_questions_are_recognised_under_other_labels() -> None:
    result = training_overlap(questions("train") + questions("test", size=2), DRAWN)
    assert (result.shared, result.n) == (8, 10)
    assert result.sentence().startswith("8 of these 10 questions stand in this checkpoint's training set: ")


def test_the_same_id_of_another_seed_is_another_question() -> None:
    assert training_overlap(questions("train", seed=4), DRAWN).shared == 0


def test_a_file_is_compared_by_content_and_not_by_id(tmp_path: Path) -> None:
    write_questions(questions("val", size=6), tmp_path, "train")
    file = tmp_path / "train.jsonl"
    renamed = [replace(question, id=f"new_{i}") for i, question in enumerate(questions("val", size=8))]
    data = DataConfig(source=str(file), eval_source="synthetic-blink")
    assert training_overlap(renamed, data).shared == 6
    part = training_overlap(renamed, data, limit=4)
    assert (part.shared, part.read, part.size) == (4, 4, 6)
    assert "(first 4 of 6 training questions compared)" in part.sentence()
    none = training_overlap(renamed[6:], data, limit=4)
    assert none.sentence().startswith("None of these 2 questions stands in the training set (first 4 of 6")


@pytest.mark.parametrize("source", ["visual-cot", "refocus+cogcom"])
def test_a_set_that_is_not_on_this_machine_is_not_fetched_and_said_to_be_unknown(source: str) -> None:
    result = training_overlap(questions("test"), DataConfig(source=source, eval_source="blink"))
    assert result.shared is None
    assert f"is not known: {source} is not on this machine" in result.sentence()

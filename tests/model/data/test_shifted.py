"""Synthetic BLINK out of distribution: the same questions and answers, other pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from amvl_model.config import load_preset
from amvl_model.data.sources import evaluation_questions
from amvl_model.data.synthetic import SHIFTED_DIFFICULTY, TASKS, Photometry, ShiftedBlink, SyntheticBlink


def test_questions_and_answers_are_those_of_the_plain_set_and_only_the_pixels_differ() -> None:
    size = 2 * len(TASKS)
    shifted, plain = ShiftedBlink(size=size), SyntheticBlink(split="test", size=size, difficulty=SHIFTED_DIFFICULTY)
    assert [q.task for q in shifted] == [*TASKS, *TASKS]
    for a, b in zip(shifted, plain, strict=True):
        assert (a.id, a.prompt, a.answer, a.choices) == (b.id, b.prompt, b.answer, b.choices)
        assert a.source == "synthetic-blink-shifted" != b.source
        for changed, before in zip(a.images, b.images, strict=True):
            assert changed.size == before.size and changed.mode == "RGB"
            assert not np.array_equal(changed, before)


def test_a_question_looks_the_same_whenever_it_is_asked_and_in_whatever_set() -> None:
    size = 2 * len(TASKS) + 2  # the last item is the third question of the second task
    first, again = ShiftedBlink(size=size)[size - 1], ShiftedBlink((TASKS[1],), size=3)[2]
    assert ShiftedBlink(size=size)[-1] == first and ShiftedBlink(size=size)[size - 1 :][0] == first
    assert first.id == again.id
    assert all(np.array_equal(a, b) for a, b in zip(first.images, again.images, strict=True))


def test_images_of_one_question_change_alike_and_the_order_of_brightness_stays() -> None:
    ramp = Image.fromarray(np.repeat(np.arange(0, 256, 5, dtype=np.uint8), 40 * 3).reshape(-1, 40, 3))
    for seed in range(20):
        change = Photometry.draw(np.random.default_rng(seed))
        rows = np.asarray(change(ramp)).astype(int).mean(axis=1)
        assert (np.diff(rows, axis=0) >= 0).all() and (rows[-1] - rows[0] > 100).all()
        assert rows.mean() < 0.97 * np.asarray(ramp).mean() or change.table[128] > 128


def test_the_set_is_an_evaluation_source() -> None:
    config = load_preset("tiny", {"data.eval_source": "synthetic-blink-shifted", "data.tasks": "Counting,Jigsaw"})
    questions = evaluation_questions(config.data)
    assert isinstance(questions, ShiftedBlink) and len(questions) == 100 and questions[1].task == "Jigsaw"
    with pytest.raises(ValueError, match="difficulty"):
        ShiftedBlink(difficulty=2)

"""Synthetic BLINK: BLINK's schema, random access, honest label noise, and answers that only the images tell."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amvl_model.data.schema import VisualQuestion, answer_index, format_prompt
from amvl_model.data.synthetic import DEFAULT_DIFFICULTY, IMAGE_SIZE, SPLITS, TASKS, SyntheticBlink
from amvl_model.data.synthetic.generator import answer_distribution, clean_answer, synthetic_blink, synthetic_question

IMAGES = {
    "Art_Style": 3,
    "Counting": 1,
    "Forensic_Detection": 4,
    "Functional_Correspondence": 2,
    "IQ_Test": 1,
    "Jigsaw": 3,
    "Multi-view_Reasoning": 2,
    "Object_Localization": 1,
    "Relative_Depth": 1,
    "Relative_Reflectance": 1,
    "Semantic_Correspondence": 2,
    "Spatial_Relation": 1,
    "Visual_Correspondence": 2,
    "Visual_Similarity": 3,
}
SECOND_OR_THIRD = ["the second image", "the third image"]
CHOICES = {
    "Art_Style": SECOND_OR_THIRD,
    "Forensic_Detection": ["the first image", "the second image", "the third image", "the fourth image"],
    "Functional_Correspondence": ["A", "B", "C", "D"],
    "IQ_Test": ["A", "B", "C", "D"],
    "Jigsaw": SECOND_OR_THIRD,
    "Multi-view_Reasoning": ["left", "right"],
    "Object_Localization": ["Box A", "Box B"],
    "Relative_Depth": ["A is closer", "B is closer"],
    "Relative_Reflectance": ["A is darker", "B is darker", "about the same"],
    "Semantic_Correspondence": ["A", "B", "C", "D"],
    "Spatial_Relation": ["yes", "no"],
    "Visual_Correspondence": ["A", "B", "C", "D"],
    "Visual_Similarity": SECOND_OR_THIRD,
}


def images(record: dict[str, Any]) -> list[np.ndarray]:
    return [np.asarray(record[f"image_{i}"]) for i in range(1, 5) if record[f"image_{i}"] is not None]


def same_images(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(images(one), images(other), strict=True))


def chi_square(counts: list[int]) -> float:
    """Pearson's statistic against the uniform distribution; its mean is len - 1, its variance 2 (len - 1)."""
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


def assert_uniform(counts: list[int], what: str) -> None:
    """The statistic stays within 5 standard deviations of its mean (plus 5: it is skewed for few options)."""
    freedom = len(counts) - 1
    assert chi_square(counts) < freedom + 5 * (2 * freedom) ** 0.5 + 5, (what, counts)


def test_the_fourteen_tasks_of_blink() -> None:
    assert tuple(IMAGES) == TASKS
    assert SPLITS == ("train", "val", "test")


@pytest.mark.parametrize("task", TASKS)
def test_records_have_exactly_blinks_schema(task: str) -> None:
    for difficulty in (0.0, DEFAULT_DIFFICULTY, 1.0):
        for index in range(20):
            record = synthetic_blink(task, "val", 1, index, difficulty)
            assert list(record) == [
                "idx",
                "question",
                "sub_task",
                "image_1",
                "image_2",
                "image_3",
                "image_4",
                "choices",
                "answer",
                "prompt",
                "explanation",
            ]
            assert record["idx"] == f"val_{task}_{index}"
            assert record["sub_task"] == task
            assert record["prompt"] == format_prompt(record["question"], record["choices"])
            assert len(record["question"].split()) <= 20
            present = [record[f"image_{i}"] is not None for i in range(1, 5)]
            assert present == [i < IMAGES[task] for i in range(4)]
            for image in (record[f"image_{i + 1}"] for i in range(IMAGES[task])):
                assert (image.mode, image.size, image.info) == ("RGB", (IMAGE_SIZE, IMAGE_SIZE), {})
            if task == "Counting":
                first = int(record["choices"][0])
                assert record["choices"] == [str(first + i) for i in range(4)]
            else:
                assert record["choices"] == CHOICES[task]
            assert answer_index(record["answer"], record["choices"]) == clean_answer(task, "val", 1, index)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_the_same_in_any_order(task: str) -> None:
    forward = [synthetic_blink(task, "train", 5, i) for i in range(4)]
    backward = [synthetic_blink(task, "train", 5, i) for i in reversed(range(4))][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert same_images(one, other)
        assert [one[k] for k in ("question", "choices", "answer")] == [
            other[k] for k in ("question", "choices", "answer")
        ]


@pytest.mark.parametrize("task", TASKS)
def test_splits_seeds_indices_and_difficulties_give_different_images(task: str) -> None:
    base = synthetic_blink(task, "val", 0, 0, 0.3)
    others = [("train", 0, 0, 0.3), ("test", 0, 0, 0.3), ("val", 1, 0, 0.3), ("val", 0, 1, 0.3), ("val", 0, 0, 0.9)]
    for split, seed, index, difficulty in others:
        other = synthetic_blink(task, split, seed, index, difficulty)
        assert not any(np.array_equal(a, b) for a, b in zip(images(base), images(other), strict=True))


def test_train_and_val_share_no_image_at_difficulty_zero() -> None:
    for task in TASKS:
        train = {images(synthetic_blink(task, "train", 0, i, 0.0))[0].tobytes() for i in range(40)}
        val = {images(synthetic_blink(task, "val", 0, i, 0.0))[0].tobytes() for i in range(40)}
        assert not train & val, task


@pytest.mark.parametrize("task", TASKS)
def test_label_noise_changes_labels_only(task: str) -> None:
    for index in range(10):
        clean, noisy = (synthetic_blink(task, "train", 2, index, label_noise=eps) for eps in (0.0, 1.0))
        assert same_images(clean, noisy)
        assert clean["prompt"] == noisy["prompt"]
        assert clean["answer"] != noisy["answer"]


@pytest.mark.parametrize("task", ["Jigsaw", "Relative_Reflectance", "Counting"])
def test_label_noise_has_the_stated_rate_and_spreads_evenly(task: str) -> None:
    count, noise = 600, 0.3
    options = len(synthetic_blink(task)["choices"])
    shifts: Counter[int] = Counter()
    for index in range(count):
        record = synthetic_blink(task, "train", 3, index, 0.0, noise)
        given = answer_index(record["answer"], record["choices"])
        shifts[(given - clean_answer(task, "train", 3, index)) % options] += 1
    error = (noise * (1 - noise) / count) ** 0.5
    assert abs(1 - shifts[0] / count - noise) < 4 * error
    assert_uniform([shifts[i] for i in range(1, options)], task) if options > 2 else None


def test_answer_probs_are_those_of_the_label_noise() -> None:
    for task in TASKS:
        question = synthetic_question(task, "train", 4, 7, label_noise=0.3)
        probs = question.answer_probs
        assert probs is not None
        assert sum(probs) == pytest.approx(1.0)
        right = clean_answer(task, "train", 4, 7)
        assert probs[right] == pytest.approx(0.7)
        assert {round(p, 12) for i, p in enumerate(probs) if i != right} == {round(0.3 / (len(probs) - 1), 12)}
        assert question.source == "synthetic-blink"
        assert question.task == task
    assert answer_distribution("Counting", 2, 0.0) == (0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_uniform_given_the_text(task: str) -> None:
    """Given the question's words and the options, every letter is as likely: pooled over texts, and for each word."""
    count = 600
    by_text: dict[str, Counter[int]] = defaultdict(Counter)
    options = len(synthetic_blink(task)["choices"])
    for index in range(count):
        record = synthetic_blink(task, "train", 6, index)
        right = answer_index(record["answer"], record["choices"])
        for key in {"all", *record["question"].split(), "|".join(record["choices"])}:
            by_text[key][right] += 1
    for key, answers in by_text.items():
        if sum(answers.values()) >= 60:
            assert_uniform([answers[i] for i in range(options)], f"{task}: {key}")


def test_the_rank_of_a_count_is_uniform_for_each_set_of_options() -> None:
    for difficulty in (0.25, 1.0):
        ranks: dict[str, Counter[int]] = defaultdict(Counter)
        for index in range(1500):
            record = synthetic_blink("Counting", "test", 0, index, difficulty)
            ranks["|".join(record["choices"])][answer_index(record["answer"], record["choices"])] += 1
        for key, counts in ranks.items():
            assert_uniform([counts[i] for i in range(4)], key)


def _coloured_like(record: dict[str, Any], colour: tuple[int, int, int]) -> int:
    image = images(record)[0].astype(int)
    return int((np.abs(image - np.array(colour)).sum(-1) < 30).sum())


def test_counts_are_what_is_drawn() -> None:
    """At difficulty 0 nothing but the counted objects is drawn, so their area is proportional to the answer."""
    from amvl_model.data.synthetic.canvas import COLOURS

    areas: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for index in range(120):
        record = synthetic_blink("Counting", "val", 0, index, 0.0)
        _, _, colour, shape, *_ = record["question"].split()
        number = int(record["choices"][answer_index(record["answer"], record["choices"])])
        areas[shape][number].add(_coloured_like(record, COLOURS[colour]))
    for by_number in areas.values():
        unit = min(next(iter(sizes)) / number for number, sizes in by_number.items())
        for number, sizes in by_number.items():
            assert all(size == pytest.approx(unit * number, rel=0.02) for size in sizes)


def test_relations_are_what_is_drawn() -> None:
    """At difficulty 0 the centres of mass of the two colours stand in the relation exactly if the answer is yes."""
    from amvl_model.data.synthetic.canvas import COLOURS

    for index in range(60):
        record = synthetic_blink("Spatial_Relation", "val", 0, index, 0.0)
        words = record["question"].rstrip("?").split()
        image = images(record)[0].astype(int)
        centres = []
        for colour in (words[2], words[-2]):
            rows, columns = np.nonzero(np.abs(image - np.array(COLOURS[colour])).sum(-1) < 30)
            centres.append((columns.mean(), rows.mean()))
        dx, dy = centres[0][0] - centres[1][0], centres[0][1] - centres[1][1]
        holds = {"left": dx < -20, "right": dx > 20, "above": dy < -20, "below": dy > 20}[words[4]]
        assert holds == (record["answer"] == "(A)"), record["question"]


def test_the_missing_jigsaw_piece_is_the_enlarged_continuation() -> None:
    """The right piece has the colours of the image, the wrong one none of them (mild difficulty)."""
    for index in range(40):
        record = synthetic_blink("Jigsaw", "val", 0, index, 0.0)
        whole, *pieces = images(record)
        colours = {tuple(c) for c in whole[:50].reshape(-1, 3)}
        shared = [bool(colours & {tuple(c) for c in piece.reshape(-1, 3)}) for piece in pieces]
        assert shared == [record["answer"] == "(A)", record["answer"] == "(B)"]
        assert not whole[60:, 60:].any()


def test_data_set_cycles_through_tasks_with_random_access() -> None:
    tasks = ("Jigsaw", "Counting", "IQ_Test")
    data = SyntheticBlink(tasks, split="val", seed=9, size=7, difficulty=0.5, label_noise=0.2)
    assert len(data) == 7
    assert [q.id for q in data] == [f"val_{tasks[i % 3]}_{i // 3}" for i in range(7)]
    expected = synthetic_question("Counting", "val", 9, 1, 0.5, 0.2)
    assert isinstance(data[4], VisualQuestion)
    assert data[4] == expected
    assert data[-3] == expected
    assert [q.id for q in data[4:6]] == ["val_Counting_1", "val_IQ_Test_1"]
    assert data.record(4)["answer"] == expected.answer_text
    for call in (lambda: data[7], lambda: data[-8], lambda: data.record(7)):
        with pytest.raises(IndexError, match="item must be in"):
            call()


def test_errors_say_what_was_expected_and_the_fix() -> None:
    with pytest.raises(ValueError, match="task must be one of Art_Style.*got 'jigsaws'; did you mean 'Jigsaw'"):
        synthetic_blink("jigsaws")
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'valid'; did you mean 'val'"):
        synthetic_blink("Jigsaw", "valid")
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"difficulty must be a number in \[0, 1\], got"):
            synthetic_blink("Jigsaw", difficulty=value)
        with pytest.raises(ValueError, match=r"label_noise must be a number in \[0, 1\], got"):
            synthetic_blink("Jigsaw", label_noise=value)
    with pytest.raises(ValueError, match="index must be an integer of at least 0, got -1"):
        synthetic_question("Jigsaw", index=-1)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -2"):
        clean_answer("Jigsaw", seed=-2)
    with pytest.raises(ValueError, match="size must be an integer of at least 0"):
        SyntheticBlink(size=-1)
    with pytest.raises(ValueError, match="tasks must name at least one of"):
        SyntheticBlink(())
    with pytest.raises(ValueError, match="got the string 'Jigsaw'"):
        SyntheticBlink("Jigsaw")
    with pytest.raises(ValueError, match="index of one of 2 options of Jigsaw, got 2"):
        answer_distribution("Jigsaw", 2, 0.1)


def test_example_sheet_shows_every_task(tmp_path: Path) -> None:
    from experiments.draw_tasks import example_sheet

    pytest.importorskip("matplotlib")
    figure = example_sheet(seed=1)
    assert len(figure.axes) == sum(IMAGES.values())
    texts = {text.get_text() for text in figure.texts}
    assert set(TASKS) <= texts
    for name in ("one.png", "two.png"):
        example_sheet(seed=1).savefig(tmp_path / name, dpi=20, metadata={"Software": None})
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()

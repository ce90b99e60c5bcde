"""Multi-hop questions: no shortcut by letters, words or places; splits share no solution."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from amvl_model.data.schema import LETTERS
from amvl_model.data.synthetic.multihop import (
    DEFAULT_HOPS,
    MULTIHOP_TASKS,
    MultihopQuestions,
    ShiftedMultihop,
    hop_weights,
    multihop_record,
)
from amvl_model.data.synthetic.multihop.spec import COLOUR_NAMES, single_cycle
from tests.model.data.test_multihop import POINTERS, cell_maps, pixels
from tests.model.data.test_synthetic import assert_uniform


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_letters_colours_and_hops_are_balanced(task: str) -> None:
    count, item = 2400, 8 if task == "Dots_And_Arrows" else 4
    letters: dict[int, Counter[int]] = defaultdict(Counter)
    colours: dict[int, Counter[str]] = defaultdict(Counter)
    for index in range(count):
        record = multihop_record(task, "train", 7, index, questions_per_scene=item)
        letters[record["hops"]][LETTERS.index(record["answer"][1])] += 1
        colours[record["hops"]][record["chain"][-1]] += 1
    for hops, weight in hop_weights(DEFAULT_HOPS).items():
        expected = weight * count
        assert abs(letters[hops].total() - expected) < 4 * expected**0.5
        assert_uniform([letters[hops][i] for i in range(8)], f"{task}, letters at {hops} hops")
        # questions share a scene's eight colours, so counts of colours vary a little more than independent ones
        assert_uniform([colours[hops][name] for name in COLOUR_NAMES], f"{task}, colours at {hops} hops")


def test_a_linear_classifier_of_the_text_is_at_chance() -> None:
    """Which option is right, from the words at their places and the order of the options (least squares on one-hots)."""
    for task in ("Coloured_Cells", "Changing_Cells", "Grid_Walk", "Nested_Comparison"):  # dots have the text of cells
        settings: dict[str, Any] = {"hops": 3, "colours": 8, "questions_per_scene": 1}
        records = [multihop_record(task, "train", 9, i, **settings) for i in range(2000)]
        words = sorted({word for r in records for word in r["prompt"].split()})
        length = max(len(r["prompt"].split()) for r in records)
        features = np.zeros((len(records), length * len(words)), dtype=np.float32)
        for row, record in zip(features, records, strict=True):
            for place, word in enumerate(record["prompt"].split()):
                row[place * len(words) + words.index(word)] = 1.0
        features = features[:, features.std(0) > 0]
        letters = np.array([LETTERS.index(r["answer"][1]) for r in records])
        targets, half = np.eye(8)[letters] - 1 / 8, 1200
        fit = np.linalg.solve(
            features[:half].T @ features[:half] + 30 * np.eye(features.shape[1]), features[:half].T @ targets[:half]
        )
        accuracy = float(((features[half:] @ fit).argmax(1) == letters[half:]).mean())
        assert accuracy < 1 / 7 + 4 * (1 / 7 * 6 / 7 / 800) ** 0.5, task


@pytest.mark.parametrize("task", ["Coloured_Cells", "Grid_Walk"])
def test_every_option_but_the_start_is_right_equally_often(task: str) -> None:
    """The place of the right option after the start's, in the palette's order, is uniform for each number of hops."""
    for hops in (1, 2, 3, 4):
        shifts: Counter[int] = Counter()
        for index in range(700):
            record = multihop_record(task, "train", 11, index, hops=hops, colours=8, questions_per_scene=1)
            start, end = (COLOUR_NAMES.index(record["chain"][i]) for i in (0, -1))
            shifts[(end - start) % 8] += 1
        assert shifts[0] == 0
        assert_uniform([shifts[i] for i in range(1, 8)], f"{task}, {hops} hops")


def test_places_in_the_strip_say_nothing() -> None:
    """Neither the place of the start's cell nor that of the answer's cell tells the other, nor the answer's letter."""
    gaps: Counter[int] = Counter()
    letters: Counter[int] = Counter()
    for index in range(1400):
        record = multihop_record("Coloured_Cells", "train", 13, index, questions_per_scene=1)
        keys = list(cell_maps(pixels(record))[0])
        gaps[(keys.index(record["chain"][-1]) - keys.index(record["chain"][0])) % 8] += 1
        letters[(keys.index(record["chain"][-1]) - LETTERS.index(record["answer"][1])) % 8] += 1
    assert_uniform([gaps[i] for i in range(1, 8)], "place of the answer after the start")
    assert_uniform([letters[i] for i in range(8)], "place of the answer's cell against its letter")


def test_each_named_colour_is_left_equally_often_whatever_the_words() -> None:
    for hops in (1, 2, 3):
        winners: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
        for index in range(1500):
            record = multihop_record("Nested_Comparison", "train", 15, index, hops=hops)
            words = re.findall(r"the (taller|shorter) of (\w+) and (\w+)", record["question"])
            named = [words[0][1], *(word[2] for word in words)]
            winners[tuple(word[0] for word in words)][named.index(record["chain"][-1])] += 1
        assert len(winners) == 2**hops
        for pattern, counts in winners.items():
            assert_uniform([counts[i] for i in range(hops + 1)], str(pattern))


def test_maps_are_single_cycles() -> None:
    for index in range(0, 80, 8):
        for task in (*POINTERS, "Changing_Cells"):
            record = multihop_record(task, "train", 1, index)
            for row in record["explanation"].split(". "):
                pairs = dict(pair.split() for pair in row.split(", "))
                state, visited = next(iter(pairs)), []
                for _ in range(8):
                    visited.append(state)
                    state = pairs[state]
                assert state == visited[0]
                assert len(set(visited)) == 8
    cycles = Counter(tuple(single_cycle(np.random.default_rng(i), 4).tolist()) for i in range(1200))
    assert len(cycles) == 6
    assert_uniform(list(cycles.values()), "single cycles of 4")


def test_rows_of_changing_cells_differ() -> None:
    for index in range(0, 80, 8):
        maps = cell_maps(pixels(multihop_record("Changing_Cells", "train", 1, index)))
        assert len(maps) == 4
        assert len({tuple(sorted(m.items())) for m in maps}) > 1


def solution(record: dict[str, Any]) -> str:
    """What two scenes have in common if the same questions have the same answers."""
    if record["sub_task"] == "Grid_Walk":
        return str(record["explanation"])
    if record["sub_task"] == "Nested_Comparison":
        ranks = [fact.split() for fact in record["explanation"].split(", ")]
        return ">".join(name for name, _ in sorted(ranks, key=lambda pair: -int(pair[1])))
    return ". ".join(", ".join(sorted(row.split(", "))) for row in record["explanation"].split(". "))


def test_splits_share_no_solution_even_where_there_are_few() -> None:
    """Five objects of five colours: 24 cycles, 120 orders; they are shared out among the splits once and for all."""
    for task, total in (("Coloured_Cells", 24), ("Nested_Comparison", 120)):
        solutions = {
            split: {
                solution(multihop_record(task, split, seed, i, hops=2, objects=5, colours=5, questions_per_scene=1))
                for seed in (0, 1)
                for i in range(400)
            }
            for split in ("train", "val", "test")
        }
        assert not solutions["train"] & solutions["val"]
        assert not solutions["train"] & solutions["test"]
        assert not solutions["val"] & solutions["test"]
        assert len(set.union(*solutions.values())) >= 0.9 * total
        assert len(solutions["train"]) > 0.6 * total


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_splits_and_seeds_give_different_scenes(task: str) -> None:
    scenes = [
        {solution(multihop_record(task, split, seed, 8 * i)) for i in range(30)}
        for split, seed in (("train", 0), ("val", 0), ("test", 0), ("train", 1))
    ]
    assert len(set.union(*scenes)) == 120


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_the_set_out_of_distribution_has_more_of_everything_and_looks_different(task: str) -> None:
    shifted, plain = ShiftedMultihop((task,), size=40), MultihopQuestions((task,), "test", 0, 40)
    assert {q.hops for q in shifted} == {5, 6}
    assert {q.hops for q in plain} <= {1, 2, 3, 4}
    assert {len(q.choices) for q in shifted} == {12}
    assert all(q.source == "multihop-shifted" for q in shifted)
    same = multihop_record(task, "test", 0, 0), multihop_record(task, "test", 0, 0, shifted=True)
    assert same[0]["prompt"] == same[1]["prompt"] or task == "Dots_And_Arrows"
    assert pixels(same[0]).shape != pixels(same[1]).shape or not np.array_equal(pixels(same[0]), pixels(same[1]))
    background = {tuple(pixels(record)[2, 0]) for record in same}
    assert len(background) == 2
    assert ShiftedMultihop((task,), size=40)[17] == shifted[17]

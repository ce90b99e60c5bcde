"""Multi-hop questions: the images, and only the images, tell the answer; scenes are shared; splits are disjoint."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amvl_model.config import load_preset
from amvl_model.data.schema import LETTERS, answer_index, format_prompt
from amvl_model.data.sources import evaluation_questions, training_questions
from amvl_model.data.synthetic.canvas import CELL
from amvl_model.data.synthetic.multihop import (
    MULTIHOP_TASKS,
    MultihopQuestions,
    ShiftedMultihop,
    multihop_question,
    multihop_record,
    multihop_task,
)
from amvl_model.data.synthetic.multihop.dots import count_crossings, distance_to_arrows, layout
from amvl_model.data.synthetic.multihop.grid import MOVES, grid_shape
from amvl_model.data.synthetic.multihop.spec import COLOUR_NAMES, PALETTE, single_cycle
from experiments.draw_tasks import multihop_sheet

POINTERS = ("Coloured_Cells", "Dots_And_Arrows")
ARROWS = re.compile(r"Follow (\d+) arrows?(?:, one in each row from the top,)? from (\w+)\.")


def pixels(record: dict[str, Any]) -> np.ndarray:
    assert record["image_2"] is None
    return np.asarray(record["image_1"]).astype(int)


def colour_at(image: np.ndarray, x: int, y: int) -> str:
    """Name of the palette's colour nearest to a pixel."""
    return min(PALETTE, key=lambda name: int(np.abs(image[y, x] - PALETTE[name]).sum()))


def cell_maps(image: np.ndarray) -> list[dict[str, str]]:
    """One mapping from key to value for each row of cells."""
    rows, columns = image.shape[0] // CELL, image.shape[1] // CELL
    return [
        {
            colour_at(image, CELL * c + 5, CELL * r + 5): colour_at(image, CELL * c + 22, CELL * r + 5)
            for c in range(columns)
        }
        for r in range(rows)
    ]


def solve_cells(record: dict[str, Any]) -> list[str]:
    maps = cell_maps(pixels(record))
    hops, start = ARROWS.match(record["question"]).groups()  # type: ignore[union-attr]
    chain = [start]
    for hop in range(int(hops)):
        chain.append(maps[hop % len(maps)][chain[-1]])
    return chain


def solve_grid(record: dict[str, Any]) -> list[str]:
    image = pixels(record)
    columns = image.shape[1] // CELL
    names = [
        colour_at(image, CELL * c + 14, CELL * r + 14) for r in range(image.shape[0] // CELL) for c in range(columns)
    ]
    start, moves = re.match(r"Start at (\w+) and go ([\w, ]+); a wall", record["question"]).groups()  # type: ignore[union-attr]
    place, chain = names.index(start), [start]
    for move in moves.split(", "):
        down, right = MOVES[move]
        x, y = CELL * (place % columns) + 14 + 13 * right, CELL * (place // columns) + 14 + 13 * down
        if image[y, x].sum() > 400:  # light: a door
            place += down * columns + right
        chain.append(names[place])
    return chain


def solve_bars(record: dict[str, Any]) -> list[str]:
    image = pixels(record)
    base = image.shape[0] - 7
    tops = {}
    for column in range(image.shape[1] // CELL):
        strip = image[:, CELL * column + 14]
        top = min(y for y in range(base + 1) if np.abs(strip[y] - (238, 232, 218)).sum() > 60)
        tops[colour_at(image, CELL * column + 14, base)] = top
    words = re.findall(r"the (taller|shorter) of (\w+) and (\w+)", record["question"])
    chain = [words[0][1]]
    for word, _, other in words:
        pair = (chain[-1], other)
        chain.append(min(pair, key=tops.__getitem__) if word == "taller" else max(pair, key=tops.__getitem__))
    return chain


def solve_facts(record: dict[str, Any]) -> list[str]:
    """The answer from the dense caption: for dots, whose pixels are not as easily read."""
    pairs = dict(pair.split() for pair in record["explanation"].split(", "))
    hops, start = ARROWS.match(record["question"]).groups()  # type: ignore[union-attr]
    chain = [start]
    for _ in range(int(hops)):
        chain.append(pairs[chain[-1]])
    return chain


SOLVERS = {
    "Coloured_Cells": solve_cells,
    "Changing_Cells": solve_cells,
    "Dots_And_Arrows": solve_facts,
    "Grid_Walk": solve_grid,
    "Nested_Comparison": solve_bars,
}


def test_there_are_five_tasks() -> None:
    assert tuple(SOLVERS) == MULTIHOP_TASKS


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_images_and_text_suffice_to_find_the_whole_chain(task: str) -> None:
    for split in ("train", "val", "test"):
        for index in range(0, 240, 3):
            record = multihop_record(task, split, 3, index)
            assert record["chain"] == SOLVERS[task](record)
            assert record["choices"][answer_index(record["answer"], record["choices"])] == record["chain"][-1]
            assert len(record["chain"]) == record["hops"] + 1


def test_the_single_moves_of_a_grid_are_those_of_its_image() -> None:
    for index in range(0, 80, 8):
        record = multihop_record("Grid_Walk", "val", 3, index)
        groups = multihop_task("Grid_Walk").steps(record["explanation"])
        assert [len(group) for group in groups] == [8] * len(MOVES)
        for start, _, _, move, end in (step.split() for group in groups for step in group):
            question = f"Start at {start} and go {move}; a wall stops a move."
            assert solve_grid({**record, "question": question}) == [start, end]


def test_the_ranks_of_bars_decide_every_comparison() -> None:
    for index in range(0, 80, 8):
        record = multihop_record("Nested_Comparison", "val", 3, index, hops=1)
        (read,) = multihop_task("Nested_Comparison").steps(record["explanation"])
        rank = {
            name: multihop_task("Nested_Comparison").words.index(word) for name, word in (step.split() for step in read)
        }
        assert sorted(rank.values()) == list(range(8))
        word, *pair = re.match(r"Take the (\w+) of (\w+) and (\w+)\.", record["question"]).groups()  # type: ignore[union-attr]
        assert record["chain"] == [pair[0], (max if word == "taller" else min)(pair, key=rank.__getitem__)]


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_the_image_is_necessary(task: str) -> None:
    """Answers read from the image of another scene with the same colours are right about as often as guesses."""
    hits, count = 0, 100 if task == "Dots_And_Arrows" else 600
    settings: dict[str, Any] = {"colours": 8, "hops": 3, "questions_per_scene": 1}
    for index in range(count):
        record = multihop_record(task, "train", 0, index, **settings)
        other = multihop_record(task, "train", 0, index + count, **settings)
        other["question"] = record["question"]
        hits += SOLVERS[task](other)[-1] == record["chain"][-1]
    chance = multihop_task(task).guess(3, 8)
    assert hits / count < chance + 4 * (chance * (1 - chance) / count) ** 0.5


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_records_have_blinks_schema_and_the_chain(task: str) -> None:
    record = multihop_record(task, "val", 1, 17)
    images = [f"image_{i}" for i in range(1, 5)]
    extra = ["hops", "objects", "chain", "scene", "clean_answer"]
    assert list(record) == [
        *("idx", "question", "sub_task", *images, "choices", "answer", "prompt", "explanation"),
        *extra,
    ]
    assert (record["idx"], record["sub_task"], record["scene"]) == (f"val_{task}_17", task, f"val_{task}_2")
    assert record["prompt"] == format_prompt(record["question"], record["choices"])
    assert record["image_1"].mode == "RGB"
    assert all(side % CELL == 0 for side in record["image_1"].size)
    assert len(record["choices"]) == record["objects"] == 8
    question = multihop_question(task, "val", 1, 17)
    assert question.chain == tuple(record["chain"])
    assert (question.hops, question.task, question.source) == (record["hops"], task, "multihop")
    assert question.choices[question.answer or 0] == question.chain[-1]


def test_cells_take_one_token_each() -> None:
    assert multihop_record("Coloured_Cells", objects=9)["image_1"].size == (9 * CELL, CELL)
    assert multihop_record("Changing_Cells", objects=5, hops=3)["image_1"].size == (5 * CELL, 3 * CELL)


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_questions_are_the_same_in_any_order(task: str) -> None:
    forward = [multihop_record(task, "train", 5, i) for i in range(20)]
    questions = MultihopQuestions((task,), "train", 5, 20)
    for i in reversed(range(20)):
        again = questions.record(i)
        assert np.array_equal(pixels(forward[i]), pixels(again))
        assert {k: v for k, v in forward[i].items() if k != "image_1"} == {
            k: v for k, v in again.items() if k != "image_1"
        }


@pytest.mark.parametrize("task", MULTIHOP_TASKS)
def test_questions_of_a_scene_share_their_image(task: str) -> None:
    for item in (8, 3):
        records = [multihop_record(task, "train", 2, i, questions_per_scene=item) for i in range(4 * item)]
        images: dict[str, set[bytes]] = defaultdict(set)
        for record in records:
            images[record["scene"]].add(pixels(record).tobytes())
        assert [len(result) for result in images.values()] == [1, 1, 1, 1]
        assert len(set.union(*images.values())) == 4
        assert len({record["prompt"] for record in records}) > 3 * item


def test_drawing_on_a_record_leaves_the_scene_as_it_was() -> None:
    record = multihop_record("Coloured_Cells", index=0)
    record["image_1"].paste((0, 0, 0), (0, 0, 50, 20))
    assert not np.array_equal(pixels(record), pixels(multihop_record("Coloured_Cells", index=1)))


def test_a_set_cycles_through_tasks_scene_by_scene() -> None:
    questions = MultihopQuestions(("Grid_Walk", "Coloured_Cells"), "val", 0, 40)
    assert [q.task for q in questions] == (["Grid_Walk"] * 8 + ["Coloured_Cells"] * 8) * 2 + ["Grid_Walk"] * 8
    assert len({q.id for q in questions}) == 40
    assert questions[-1] == questions[39] == questions[32:][7]
    assert questions[16].id == "val_Grid_Walk_8"


def test_dots_keep_clear_of_arrows() -> None:
    for seed, n, side in ((0, 8, 168), (1, 8, 168), (2, 12, 252)):
        rng = np.random.default_rng(seed)
        successor = single_cycle(rng, n)
        points = layout(rng, successor, side)
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(n, 1)]
        assert distances.min() >= 36
        assert distance_to_arrows(points, successor).min() >= 14
        assert count_crossings(points, successor) <= n
        assert points.min() > 9
        assert points.max() < side - 9
    cross = np.array([[0.0, 0.0], [10.0, 10.0], [10.0, 0.0], [0.0, 10.0]])
    assert count_crossings(cross, np.array([1, 2, 3, 0])) == 1
    assert count_crossings(cross, np.array([2, 3, 1, 0])) == 0
    with pytest.raises(ValueError, match="no clear layout of 12 dots on 84 x 84 pixels"):
        layout(np.random.default_rng(0), single_cycle(np.random.default_rng(0), 12), 84)


def test_letters_stand_for_colours_without_shuffling() -> None:
    for index in range(20):
        record = multihop_record("Coloured_Cells", "train", 0, index, colours=8, shuffled=False)
        assert record["choices"] == list(COLOUR_NAMES[:8])
        assert record["answer"] == f"({LETTERS[COLOUR_NAMES.index(record['chain'][-1])]})"


def test_prompts_without_options_need_fixed_letters() -> None:
    fixed: dict[str, Any] = {"colours": 8, "shuffled": False, "listed": False}
    record = multihop_record("Coloured_Cells", "train", 0, 3, **fixed)
    assert record["prompt"] == record["question"]
    for name, value in (("shuffled", True), ("colours", 9)):
        with pytest.raises(ValueError, match="must have fixed letters"):
            multihop_record("Coloured_Cells", "train", 0, 3, **{**fixed, name: value})


def test_label_noise_changes_labels_only() -> None:
    for task in MULTIHOP_TASKS:
        clean, noisy = (multihop_question(task, "train", 2, 5, label_noise=eps) for eps in (0.0, 1.0))
        assert clean.prompt == noisy.prompt
        assert clean.chain == noisy.chain
        assert clean.answer != noisy.answer
    probs = multihop_question("Coloured_Cells", "train", 2, 5, label_noise=0.3).answer_probs
    assert probs is not None
    assert sorted(probs) == pytest.approx([0.3 / 7] * 7 + [0.7])
    wrong = sum(
        (r := multihop_record("Coloured_Cells", "train", 2, i, label_noise=0.3))["answer"] != r["clean_answer"]
        for i in range(600)
    )
    assert abs(wrong / 600 - 0.3) < 4 * (0.21 / 600) ** 0.5


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'Coloured_Cells'"):
        multihop_record("Colored_Cells")
    with pytest.raises(ValueError, match=r"objects of Coloured_Cells must be in 10\.\.12 for up to 5 hops, got 8"):
        multihop_record("Coloured_Cells", hops=5)
    with pytest.raises(ValueError, match="hops must be a number of at least 1"):
        multihop_record("Coloured_Cells", hops={0: 1.0})
    with pytest.raises(ValueError, match="hops must be"):
        multihop_record("Coloured_Cells", hops={})
    with pytest.raises(ValueError, match="questions_per_scene must be at least 1"):
        multihop_record("Coloured_Cells", questions_per_scene=0)
    with pytest.raises(ValueError, match="colours must be in objects"):
        multihop_record("Coloured_Cells", colours=7)
    with pytest.raises(ValueError, match="too few different scenes"):
        for split in ("train", "val", "test"):  # there are two cycles of three objects, too few for three splits
            multihop_record("Coloured_Cells", split, hops=1, objects=3, colours=3)
    with pytest.raises(ValueError, match="at least two rows, got 7"):
        multihop_record("Grid_Walk", objects=7)
    with pytest.raises(ValueError, match="pass \\('Grid_Walk',\\)"):
        MultihopQuestions("Grid_Walk")
    with pytest.raises(ValueError, match="at least one"):
        MultihopQuestions(())
    with pytest.raises(IndexError, match="item must be in -3..2, got 3"):
        MultihopQuestions(size=3)[3]
    assert [grid_shape(n) for n in (6, 8, 9, 12)] == [(2, 3), (2, 4), (3, 3), (3, 4)]


def test_the_sets_are_data_sources() -> None:
    names = {"data.source": "multihop", "data.tasks": "Coloured_Cells,Grid_Walk", "data.train_size": 32}
    config = load_preset("tiny", names)
    training, held_out = training_questions(config.data), evaluation_questions(config.data)
    assert isinstance(training, MultihopQuestions)
    assert (training.split, len(training), training[8].task) == ("train", 32, "Grid_Walk")
    assert training[0].answer_probs != held_out[0].answer_probs
    assert isinstance(held_out, MultihopQuestions)
    assert (held_out.split, len(held_out)) == ("test", 100)
    shifted = evaluation_questions(load_preset("tiny", {"data.eval_source": "multihop-shifted"}).data)
    assert isinstance(shifted, ShiftedMultihop)
    assert len(shifted) == 50 * len(MULTIHOP_TASKS)
    with pytest.raises(ValueError, match="data.train_size"):
        load_preset("tiny", {"data.source": "multihop", "data.train_size": None})


def test_the_sheet_shows_every_task(tmp_path: Path) -> None:
    figure = multihop_sheet(hops=2, examples=1)
    texts = [text.get_text() for text in figure.texts]
    assert [text for text in texts if text in MULTIHOP_TASKS] == list(MULTIHOP_TASKS)
    assert sum("[right]" in text.replace("\u00a0", " ") for text in texts) == len(figure.axes) == len(MULTIHOP_TASKS)
    assert sum("chain:" in text for text in texts) == len(MULTIHOP_TASKS)
    figure.savefig(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000

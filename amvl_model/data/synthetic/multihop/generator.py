"""Multi-hop questions: random access to questions whose answer takes h serial steps, in BLINK's record schema.

Questions come in scenes: ``scene = index // questions_per_scene``, and all questions of a scene show the same images, so
that their encoding can be shared. Each scene (task, split, seed, scene) and each question (..., index) has random streams
of its own. The order of the options is drawn for each question, so that

    p(letter of y* | question text, options' order) is uniform over the options that the text leaves open

(the start of the chain is never the answer; except in Nested_Comparison, where each of the h + 1 named colours is equally
likely, and in Changing_Cells, where no option is likelier than 1 / (n - 1)). Splits share no scene's solution: the hash of
a solution decides to which split it belongs (8 : 1 : 1).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from amvl_model.data.schema import VisualQuestion, option_letter, question_from_blink
from amvl_model.data.synthetic.canvas import Drawing
from amvl_model.data.synthetic.generator import (
    SPLITS,
    TaskCycle,
    blink_record,
    check_count,
    check_name,
    check_unit,
    noisy_answer,
)
from amvl_model.data.synthetic.multihop import bars, cells, dots, grid
from amvl_model.data.synthetic.multihop.spec import (
    COLOUR_NAMES,
    PLAIN,
    SHIFTED,
    MultihopTask,
    Scene,
    plan_cycle,
    plan_cycles,
)

MULTIHOP_SOURCE: Final = "multihop"
SHIFTED_MULTIHOP_SOURCE: Final = "multihop-shifted"
DEFAULT_HOPS: Final[Mapping[int, float]] = {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}
DEFAULT_OBJECTS: Final = 8
SHIFTED_HOPS: Final[Mapping[int, float]] = {5: 1.0, 6: 1.0}
SHIFTED_OBJECTS: Final = 12
QUESTIONS_PER_SCENE: Final = 8
_SCENE, _QUESTION, _NOISE = 0, 1, 2  # random streams
_ATTEMPTS: Final = 500

_TASKS: Final[dict[str, MultihopTask]] = {
    task.name: task
    for task in (
        MultihopTask(
            name="Coloured_Cells",
            caption="Each cell is an arrow from the colour on its left to the colour on its right.",
            plan=plan_cycle,
            draw=cells.draw_cells,
            ask=cells.ask_strip,
            fewest_objects=lambda hops: max(3, 2 * hops),  # the way back round the cycle is never shorter
        ),
        MultihopTask(
            name="Changing_Cells",
            caption="Row 1 is for the first hop, row 2 for the second, ...; a cell is an arrow from left to right.",
            plan=plan_cycles,
            draw=cells.draw_cells,
            ask=cells.ask_stack,
            fewest_objects=lambda hops: 3,
        ),
        MultihopTask(
            name="Dots_And_Arrows",
            caption="One arrow leads from each dot to the next.",
            plan=plan_cycle,
            draw=dots.draw_dots,
            ask=cells.ask_strip,
            fewest_objects=lambda hops: max(3, 2 * hops),
        ),
        MultihopTask(
            name="Grid_Walk",
            caption="Dark lines are walls, which stop a move.",
            plan=grid.plan_grid,
            draw=grid.draw_grid,
            ask=grid.ask_grid,
            fewest_objects=lambda hops: 6,
            steps=grid.single_moves,
        ),
        MultihopTask(
            name="Nested_Comparison",
            caption="Each bar has a height of its own.",
            plan=bars.plan_bars,
            draw=bars.draw_bars,
            ask=bars.ask_bars,
            fewest_objects=lambda hops: hops + 1,
            ranked=True,
            steps=bars.ranks,
            words=bars.RANKS,
        ),
    )
}
MULTIHOP_TASKS: Final = tuple(_TASKS)


Hops = int | Mapping[int, float]


def hop_weights(hops: Hops) -> dict[int, float]:
    """Probability of each number of hops: a number stands for itself, a mapping gives weights.

    Raises:
        ValueError: for fewer than one hop, no hops, or weights that are negative or all zero.
    """
    weights = {hops: 1.0} if isinstance(hops, int) else dict(hops)
    total = sum(weights.values())
    if not weights or min(weights) < 1 or min(weights.values()) < 0 or not total > 0:
        raise ValueError(f"hops must be a number of at least 1 or weights such as {{1: 1, 2: 2}}, got {hops!r}")
    return {number: weight / total for number, weight in sorted(weights.items()) if weight > 0}


def multihop_task(name: str) -> MultihopTask:
    """The task of this name, one of `MULTIHOP_TASKS`."""
    return _TASKS[name]


def _check(task: str, split: str, seed: int, index: int, hops: Hops, objects: int, per_scene: int) -> dict[int, float]:
    """Probabilities of the hops; raises a ValueError if an argument is out of range."""
    check_name("task", task, MULTIHOP_TASKS)
    check_name("split", split, SPLITS)
    check_count("seed", seed)
    check_count("index", index)
    weights = hop_weights(hops)
    fewest = _TASKS[task].fewest_objects(max(weights))
    if not fewest <= objects <= len(COLOUR_NAMES):
        raise ValueError(
            f"objects of {task} must be in {fewest}..{len(COLOUR_NAMES)} for up to {max(weights)} hops, got {objects}"
        )
    if per_scene < 1:
        raise ValueError(f"questions_per_scene must be at least 1, got {per_scene}")
    return weights


def _check_letters(objects: int, colours: int, shuffled: bool, listed: bool) -> None:
    """Raise a ValueError if there are too few colours, or if the letters' meaning is neither listed nor fixed."""
    if not objects <= colours <= len(COLOUR_NAMES):
        raise ValueError(f"colours must be in objects..{len(COLOUR_NAMES)} = {objects}..12, got {colours}")
    if not listed and (shuffled or objects != colours):
        raise ValueError(
            "options that are not listed must have fixed letters, "
            f"got shuffled={shuffled}, objects={objects}, colours={colours}; pass shuffled=False and colours={objects}"
        )


def _stream(task: str, split: str, seed: int, index: int, stream: int) -> np.random.Generator:
    key = (len(MULTIHOP_TASKS) + MULTIHOP_TASKS.index(task), SPLITS.index(split), index, stream)
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


def split_of(solution: str) -> str:
    """The split to which scenes with this solution belong: 8 of 10 to train, 1 to val, 1 to test."""
    bucket = zlib.crc32(solution.encode()) % 10
    return {8: "val", 9: "test"}.get(bucket, "train")


@lru_cache(maxsize=32)
def _scene(task: str, split: str, seed: int, scene: int, objects: int, rows: int, colours: int, shifted: bool) -> Scene:
    """One scene whose solution belongs to the split; the images are cached, so never draw on them."""
    rng = _stream(task, split, seed, scene, _SCENE)
    for _ in range(_ATTEMPTS):
        names = tuple(COLOUR_NAMES[i] for i in rng.permutation(colours)[:objects])
        table = _TASKS[task].plan(rng, objects, rows)
        if split_of(_TASKS[task].solution(names, table)) == split:
            return _TASKS[task].draw(rng, names, table, SHIFTED if shifted else PLAIN)
    raise ValueError(
        f"{task} with {objects} objects of {colours} colours has too few different scenes to share out among the splits; "
        "use more objects or colours"
    )


def multihop_record(
    task: str,
    split: str = "val",
    seed: int = 0,
    index: int = 0,
    *,
    hops: Hops = DEFAULT_HOPS,
    objects: int = DEFAULT_OBJECTS,
    colours: int = len(COLOUR_NAMES),
    questions_per_scene: int = QUESTIONS_PER_SCENE,
    label_noise: float = 0.0,
    shuffled: bool = True,
    listed: bool = True,
    repeats: int = 1,
    shifted: bool = False,
) -> dict[str, Any]:
    """Draw one multi-hop question as a record of BLINK's schema.

    Args:
        task: one of `MULTIHOP_TASKS`.
        split: "train", "val" or "test".
        seed: names an independent data set.
        index: number of the question within (task, split, seed); any order, any subset.
        hops: number of hops, or the weight of each number of hops.
        objects: n, number of objects in a scene and of options.
        colours: scenes take their objects from the first ``colours`` names of the palette.
        questions_per_scene: consecutive questions with the same images.
        label_noise: probability with which the answer is replaced by another option, drawn uniformly.
        shuffled: options in random order for each question; otherwise in the palette's order, which gives each colour
            one letter for good where ``objects == colours``.
        listed: whether the prompt lists the options; without the list, a letter has to stand for a colour for good.
        repeats: how often the prompt states the question.
        shifted: other shades, marks and sizes.

    Returns:
        BLINK's fields and explanation as `synthetic_blink`, and: hops (int), objects (int), chain (names of the states
        from the start to the right answer, hops + 1), scene (text, equal for questions that share images), clean_answer
        (the right letter, before label noise).

    Raises:
        ValueError: for an unknown task or split, or a number out of range.
    """
    weights = _check(task, split, seed, index, hops, objects, questions_per_scene)
    check_unit("label_noise", label_noise)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    _check_letters(objects, colours, shuffled, listed)
    number = index // questions_per_scene
    scene = _scene(task, split, seed, number, objects, max(weights), colours, shifted)
    rng = _stream(task, split, seed, index, _QUESTION)
    count = int(rng.choice(list(weights), p=list(weights.values())))
    walk = _TASKS[task].ask(rng, scene, count)
    chain = [scene.names[i] for i in walk.chain]
    in_order = sorted(scene.names, key=COLOUR_NAMES.index)
    choices = [in_order[i] for i in rng.permutation(objects)] if shuffled else in_order
    clean = choices.index(chain[-1])
    given = (
        noisy_answer(clean, objects, label_noise, _stream(task, split, seed, index, _NOISE)) if label_noise else clean
    )
    images = tuple(image.copy() for image in scene.images)
    drawing = Drawing(images=images, question=walk.question, choices=tuple(choices), explanation=scene.facts)
    record = blink_record(f"{split}_{task}_{index}", task, drawing, given)
    return record | {
        "prompt": " ".join([record["prompt"] if listed else walk.question] * repeats),
        "hops": count,
        "objects": objects,
        "chain": chain,
        "scene": f"{split}_{task}_{number}",
        "clean_answer": option_letter(clean),
    }


def multihop_question(
    task: str, split: str = "val", seed: int = 0, index: int = 0, *, label_noise: float = 0.0, **settings: Any
) -> VisualQuestion:
    """`multihop_record` as a `VisualQuestion` with ``chain``, and with ``answer_probs`` = p(y|x) of the label noise.

    Raises:
        ValueError: as `multihop_record`.
    """
    record = multihop_record(task, split, seed, index, label_noise=label_noise, **settings)
    wrong = label_noise / (record["objects"] - 1)
    clean = record["choices"].index(record["chain"][-1])
    probs = tuple(1.0 - label_noise if i == clean else wrong for i in range(record["objects"]))
    source = SHIFTED_MULTIHOP_SOURCE if settings.get("shifted") else MULTIHOP_SOURCE
    return replace(question_from_blink(record, source=source), answer_probs=probs, chain=tuple(record["chain"]))


class MultihopQuestions(TaskCycle):
    """A fixed-size, lazily drawn data set that cycles through tasks, one scene at a time.

    Item i belongs to block b = i // q (q questions per scene): question i % q of scene b // T of task b % T, for T tasks.

    Args:
        tasks: the T tasks to cycle through.
        split: "train", "val" or "test".
        seed: names an independent data set.
        size: number of questions in all.
        questions_per_scene: q.
        **settings: hops, objects, colours, label_noise, shuffled, listed, repeats and shifted, as for `multihop_record`.

    Raises:
        ValueError: for no tasks, an unknown task or split, a number out of range, or a negative size.
    """

    def __init__(
        self,
        tasks: Sequence[str] = MULTIHOP_TASKS,
        split: str = "train",
        seed: int = 0,
        size: int = 1400,
        questions_per_scene: int = QUESTIONS_PER_SCENE,
        **settings: Any,
    ) -> None:
        super().__init__(tasks, split, seed, size, names=MULTIHOP_TASKS, together=questions_per_scene)
        self.settings = {"questions_per_scene": questions_per_scene, **settings}
        for task in self.tasks:
            multihop_record(task, split, seed, 0, **self.settings)

    def question(self, index: int) -> VisualQuestion:
        """Draw question ``index`` (0 to size - 1)."""
        task, index = self.place(index)
        return multihop_question(task, self.split, self.seed, index, **self.settings)

    def record(self, item: int) -> dict[str, Any]:
        """Item ``item`` as a record of BLINK's schema with the fields of `multihop_record`."""
        task, index = self.place(item)
        return multihop_record(task, self.split, self.seed, index, **self.settings)


class ShiftedMultihop(MultihopQuestions):
    """`MultihopQuestions` out of distribution: more objects, more hops, other shades, marks and sizes.

    Args:
        tasks, split, seed, size: as for `MultihopQuestions`.
        **settings: as for `MultihopQuestions`; ``hops`` and ``objects`` default to `SHIFTED_HOPS` and `SHIFTED_OBJECTS`.
    """

    def __init__(
        self,
        tasks: Sequence[str] = MULTIHOP_TASKS,
        split: str = "test",
        seed: int = 0,
        size: int = 1400,
        **settings: Any,
    ) -> None:
        outside = {"hops": SHIFTED_HOPS, "objects": SHIFTED_OBJECTS, "shifted": True}
        super().__init__(tasks, split, seed, size, **{**outside, **settings})

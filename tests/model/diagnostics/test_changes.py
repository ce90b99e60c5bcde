"""Perturbations change what they say, keep the answer true, and depend on seed and place alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import synthetic_question
from amvl_model.diagnostics.common.changes import (
    IMAGE_PERTURBATIONS,
    PERTURBATIONS,
    TEXT_PERTURBATIONS,
    Perturbed,
    blank_image,
    perturbed,
)
from tests import helpers
from tests.model.evaluation.test_evaluation import choice_question


def change(question: VisualQuestion, name: str, seed: int = 0, index: int = 0) -> Perturbed:
    result = perturbed(question, name, seed=seed, index=index)
    assert result is not None
    return result


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=float)


@pytest.mark.parametrize("name", IMAGE_PERTURBATIONS)
def test_a_changed_image_keeps_its_size_and_text(name: str) -> None:
    question = choice_question(1, 3)
    new = change(question, name)
    assert new.order == (0, 1, 2)
    assert (new.question.prompt, new.question.answer) == (question.prompt, question.answer)
    for before, after in zip(question.images, new.question.images, strict=True):
        assert after.size == before.size
        assert (pixels(after) != pixels(before)).any()


def test_images_change_by_the_stated_amounts() -> None:
    grey = VisualQuestion(id="g", images=(Image.new("RGB", (100, 80), (100, 100, 100)),), prompt="?", answer_text="(A)")
    assert pixels(change(grey, "noise").question.images[0]).std() == pytest.approx(20, rel=0.05)
    assert pixels(change(grey, "darker").question.images[0]).mean() == pytest.approx(70, abs=1)
    assert pixels(change(grey, "brighter").question.images[0]).mean() == pytest.approx(130, abs=1)
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (80, 1, 3)))
    cropped = pixels(
        change(VisualQuestion(id="r", images=(ramp,), prompt="?", answer_text="(A)"), "crop").question.images[0]
    )
    assert cropped.min() == pytest.approx(5, abs=1)
    assert cropped.max() == pytest.approx(94, abs=1)


def test_shuffled_patches_are_the_same_patches_elsewhere() -> None:
    question = choice_question(0, 2, images=1)  # 112 x 112
    before, after = (pixels(q.images[0]) for q in (question, change(question, "patch_shuffle").question))
    cells = [
        sorted(x[r : r + 28, c : c + 28].tobytes() for r in range(0, 112, 28) for c in range(0, 112, 28))
        for x in (before, after)
    ]
    assert cells[0] == cells[1]
    assert (before != after).any()


@pytest.mark.parametrize("options", [2, 3, 4])
def test_moved_options_keep_the_right_one_right(options: int) -> None:
    for seed in range(8):
        question = choice_question(seed, options)
        question = VisualQuestion(**{**vars(question), "answer_probs": tuple(np.arange(options) / sum(range(options)))})
        new = change(question, "option_order", seed=seed)
        assert new.question.choices != question.choices
        assert new.question.choices == tuple(question.choices[i] for i in new.order)
        assert question.answer is not None and new.question.answer is not None
        assert new.question.choices[new.question.answer] == question.choices[question.answer]
        assert new.question.answer_text == f"({'ABCD'[new.question.answer]})"
        assert f"{new.question.answer_text} {question.choices[question.answer]}" in new.question.prompt
        assert question.answer_probs is not None
        assert new.question.answer_probs == tuple(question.answer_probs[i] for i in new.order)


@pytest.mark.parametrize("name", TEXT_PERTURBATIONS)
def test_changed_text_leaves_the_images_and_holds_every_option(name: str) -> None:
    question = synthetic_question("Counting", index=3)
    new = change(question, name).question
    assert new.images == question.images
    assert new.prompt != question.prompt
    assert all(choice in new.prompt for choice in question.choices)
    words = question.question.split()
    assert all(word in new.prompt for word in words)
    if name == "word_shuffle":
        assert sorted(new.prompt.split("\n")[0].split()) == sorted(words)


def test_the_same_seed_and_place_give_the_same_and_others_do_not() -> None:
    question = choice_question(3, 4, images=1)
    for name in ("noise", "patch_shuffle"):
        first, again, other, third = (
            pixels(change(question, name, *where).question.images[0]) for where in ((0, 1), (0, 1), (1, 1), (0, 2))
        )
        assert (first == again).all()
        assert (first != other).any()
        assert (first != third).any()


def test_a_prompt_of_another_form_has_no_text_perturbation() -> None:
    question = helpers.question(1, 0)  # no list of options
    for name in PERTURBATIONS:
        assert (perturbed(question, name) is None) == (name in TEXT_PERTURBATIONS)


def test_a_blank_image_has_the_mean_colour_and_the_size() -> None:
    image = helpers.random_image(61, 90, 4)
    blank = blank_image(image)
    assert blank.size == image.size
    assert np.unique(pixels(blank).reshape(-1, 3), axis=0).shape == (1, 3)
    np.testing.assert_allclose(pixels(blank).mean((0, 1)), pixels(image).mean((0, 1)), atol=0.51)


def test_an_unknown_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match="perturbation must be one of"):
        perturbed(choice_question(0, 2), "rotate")

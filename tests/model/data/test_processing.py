"""AMVLProcessor: the prompt's layout, images of every shape, padding, positions, and what it refuses."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amvl_model.data.images import to_rgb
from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import TASKS, synthetic_blink, synthetic_question
from amvl_model.training.pretraining.tiny_base import PAD_TO, collate_fast, patchify
from amvl_model.two_pass.layout import short_positions
from tests.helpers import collate, examples, processor, question, random_image, tiny_model

IMAGE, START, END, HEADER = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>assistant\n"


def text_of(ids: torch.Tensor) -> str:
    """The prompt with each image's run of tokens written as one."""
    text = processor().tokenizer.decode(ids)
    while IMAGE * 2 in text:
        text = text.replace(IMAGE * 2, IMAGE)
    return text


# ---------------------------------------------------------------------- layout


def test_the_query_is_the_chat_template_and_ends_with_the_assistants_header() -> None:
    asked = question(2, prompt="Which is larger?")
    encoded = processor().encode(asked)
    one = f"{START}{IMAGE}{END}"
    assert text_of(encoded["input_ids"]) == f"<|im_start|>user\n{one}{one}Which is larger?<|im_end|>\n{HEADER}"
    header = processor().tokenizer(HEADER, add_special_tokens=False)["input_ids"]
    assert encoded["input_ids"][-len(header) :].tolist() == header


def test_images_stand_where_the_prompt_names_them() -> None:
    asked = question(2, prompt="First <image>, then <image>: which?")
    one = f"{START}{IMAGE}{END}"
    text = text_of(processor().encode(asked)["input_ids"])
    assert text == f"<|im_start|>user\nFirst {one}, then {one}: which?<|im_end|>\n{HEADER}"


def test_the_answer_ends_its_turn_and_is_nowhere_in_the_query() -> None:
    asked = question(1, answer="(B)")
    first = processor().encode(asked)
    second = processor().encode(replace(asked, answer_text="(D)"))
    assert processor().tokenizer.decode(first["answer_ids"]) == "(B)<|im_end|>"
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert "answer_ids" not in processor().encode(asked, answers=False)


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_every_image_gets_as_many_tokens_as_its_grid_has_cells(images: int) -> None:
    encoded = processor().encode(question(images, seed=1))
    grids = encoded["image_grid_thw"]
    assert grids.shape == (images, 3) and (images == 1 or len(grids.unique(dim=0)) > 1)
    is_image = encoded["input_ids"] == processor().image_token_id
    assert torch.equal(encoded["mm_token_type_ids"], is_image.int())
    runs = "".join("i" if image else " " for image in is_image.tolist()).split()
    assert [len(run) for run in runs] == (grids.prod(1) // 4).tolist()
    assert len(encoded["pixel_values"]) == grids.prod(1).sum()


@pytest.mark.parametrize(("size", "grid"), [((112, 56), [1, 4, 8]), ((56, 112), [1, 8, 4]), ((112, 112), [1, 8, 8])])
def test_a_non_square_image_keeps_its_shape(size: tuple[int, int], grid: list[int]) -> None:
    asked = replace(question(1), images=(random_image(*size, seed=0),))  # PIL: width, height; grid: time, height, width
    assert processor().encode(asked)["image_grid_thw"].tolist() == [grid]


def test_large_and_small_images_are_brought_into_the_limits() -> None:
    huge = replace(question(1), images=(random_image(1000, 300, seed=0),))
    dot = replace(question(1), images=(random_image(2, 2, seed=0),))
    assert processor().encode(huge)["image_grid_thw"].prod() * 14 * 14 <= 112 * 112
    assert processor().encode(dot)["image_grid_thw"].tolist() == [[1, 4, 4]]


@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_an_image_of_a_few_rows_is_not_mistaken_for_colour_channels(height: int) -> None:
    strip = random_image(40, height, seed=0)
    got = processor().encode(replace(question(1), images=(strip,)))
    expected = processor().image_processor(images=[strip], return_tensors="pt")
    assert torch.equal(got["image_grid_thw"], expected["image_grid_thw"])
    assert got["image_grid_thw"][0, 2] > got["image_grid_thw"][0, 1]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    base = random_image(56, 56, seed=3)
    converted = base.convert(mode)
    got = processor().encode(replace(question(1), images=(converted,)))["pixel_values"]
    expected = processor().encode(replace(question(1), images=(to_rgb(converted),)))["pixel_values"]
    assert torch.equal(got, expected)


# ---------------------------------------------------------------------- batches


def test_a_batch_pads_queries_and_answers_on_the_right() -> None:
    questions = [
        question(n, seed=i, answer=a) for i, (n, a) in enumerate([(1, "(A)"), (3, "a long answer it is"), (2, "B")])
    ]
    batch, single = processor()(questions), [processor().encode(q) for q in questions]
    for ids, mask in (("input_ids", "attention_mask"), ("answer_ids", "answer_mask")):
        lengths = [len(e[ids]) for e in single]
        assert batch[ids].shape == batch[mask].shape == (3, max(lengths))
        assert batch[mask].sum(1).tolist() == lengths
        for row, real, e in zip(batch[ids], batch[mask], single, strict=True):
            assert torch.equal(row[: len(e[ids])], e[ids]) and real[: len(e[ids])].all()
            assert (row[len(e[ids]) :] == processor().pad_token_id).all()
    assert torch.equal(batch["pixel_values"], torch.cat([e["pixel_values"] for e in single]))
    assert batch["image_grid_thw"].shape == (6, 3)
    assert "answer_ids" not in processor()(questions, answers=False)


def test_padding_is_not_counted_where_the_pad_token_is_a_real_one() -> None:
    rows, mask = pad_right([torch.tensor([0, 0, 5]), torch.tensor([0])], 0)
    assert rows.tolist() == [[0, 0, 5], [0, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_decode_leaves_special_tokens_out() -> None:
    ids, _ = pad_right([processor().encode_answer("(A)"), processor().encode_answer("it is (B)")], 0)
    assert processor().decode(ids) == ["(A)", "it is (B)"]


def test_latents_and_answer_continue_at_the_largest_position_plus_one() -> None:
    model, encoded = tiny_model(), examples()
    batch = collate(encoded)
    with torch.no_grad():
        state, _ = model.encode_query(batch)
    for i, example in enumerate(encoded):
        positions, _ = model.backbone.model.get_rope_index(
            example["input_ids"][None], example["mm_token_type_ids"][None], image_grid_thw=example["image_grid_thw"]
        )
        assert state.next_position[i] == positions.max() + 1
        assert positions.max() + 1 < len(example["input_ids"])  # an image advances by its longer side only
        # the backbone itself goes on there: a text token behind the query gets this position on all three axes
        longer = torch.nn.functional.pad(example["input_ids"], (0, 1), value=50)[None]
        types = torch.nn.functional.pad(example["mm_token_type_ids"], (0, 1))[None]
        after, _ = model.backbone.model.get_rope_index(longer, types, image_grid_thw=example["image_grid_thw"])
        assert after[:, 0, -1].tolist() == [state.next_position[i].item()] * 3
    offsets = short_positions(state.next_position, torch.arange(3), 3 + torch.arange(2))
    assert offsets.shape == (3, 4, 5)
    assert torch.equal(offsets[0], state.next_position[:, None] + torch.arange(5))


# ---------------------------------------------------------------------- the fast path of pre-training


@pytest.mark.parametrize("task", TASKS)
def test_the_fast_path_gives_what_the_processor_gives(task: str) -> None:
    questions = [synthetic_question(task, split="train", seed=0, index=i) for i in range(2)]
    fast, slow = collate_fast(processor(), questions), processor()(questions)
    pixels, grid = patchify(fast["images"], processor())
    assert torch.equal(grid, slow["image_grid_thw"])
    torch.testing.assert_close(pixels, slow["pixel_values"], rtol=0, atol=1e-6)
    width = slow["input_ids"].shape[1]
    assert fast["input_ids"].shape[1] == -(-width // PAD_TO) * PAD_TO
    assert torch.equal(fast["input_ids"][:, :width], slow["input_ids"])
    assert (fast["input_ids"][:, width:] == processor().pad_token_id).all()
    assert torch.equal(fast["attention_mask"][:, :width], slow["attention_mask"])
    assert not fast["attention_mask"][:, width:].any()
    assert torch.equal(fast["answer_ids"], slow["answer_ids"])
    assert torch.equal(fast["answer_mask"], slow["answer_mask"].float())


def test_captions_follow_the_answer_and_count_with_their_weight() -> None:
    records = [synthetic_blink("Counting", split="train", seed=0, index=i) for i in range(3)]
    questions = [synthetic_question("Counting", split="train", seed=0, index=i) for i in range(3)]
    batch = collate_fast(processor(), questions, [r["explanation"] for r in records], 0.25)
    for row, mask, asked, record in zip(batch["answer_ids"], batch["answer_mask"], questions, records, strict=True):
        written = processor().tokenizer.decode(row[mask > 0])
        assert written == f"{asked.answer_text}<|im_end|>\n{record['explanation']}<|endoftext|>"
        answer = len(processor().encode_answer(asked.answer_text))
        assert (mask[:answer] == 1).all() and set(mask[answer:].tolist()) <= {0.25, 0.0}


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("images", "named"), [(1, 2), (3, 2), (4, 1)])
def test_another_number_of_images_than_the_prompt_names_is_refused(images: int, named: int) -> None:
    asked = question(images, prompt="Compare " + "<image>" * named)
    with pytest.raises(ValueError, match=rf"'q0': its prompt names {named} image\(s\) .*, but {images} came with it"):
        processor()([asked])


def test_a_question_without_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="'q0': expected at least one image, got none"):
        processor()([replace(question(1), images=())])


def encoded_image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_is_refused_with_its_number(kind: str) -> None:
    data = encoded_image(kind)
    broken = Image.open(io.BytesIO(data[: len(data) // 2]))  # PIL reads the header only; pixels come later
    asked = replace(question(1), images=(random_image(56, 56, seed=0), broken))
    with pytest.raises(ValueError, match="'q0': image 2 cannot be read .*; replace the file"):
        processor()([asked])


def test_an_image_whose_file_is_closed_is_refused() -> None:
    closed = Image.open(io.BytesIO(encoded_image("JPEG")))
    closed.close()
    with pytest.raises(ValueError, match="image 1 cannot be read"):
        processor()([replace(question(1), images=(closed,))])


def test_an_image_far_too_long_for_its_width_is_refused_with_its_question() -> None:
    with pytest.raises(ValueError, match="'q0': its images cannot be used .*aspect ratio"):
        processor()([replace(question(1), images=(random_image(2000, 4, seed=0),))])


def test_a_special_token_in_the_text_of_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'q0': its text contains the special token <\|image_pad\|>"):
        processor()([question(1, prompt=f"What is {IMAGE}?")])


def test_an_empty_answer_is_refused_for_training_and_fine_for_answering() -> None:
    hidden = question(1, answer="")
    with pytest.raises(ValueError, match="got an empty text; questions with hidden answers can be answered"):
        processor()([hidden])
    assert "answer_ids" not in processor()([hidden], answers=False)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        processor()([])


def test_a_tokenizer_without_image_tokens_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match="expected a Qwen-VL tokenizer"):
        AMVLProcessor(other, processor().image_processor)


def test_files_that_chat_messages_name_are_opened_by_our_rules(tmp_path: Path) -> None:
    logo = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    logo.save(tmp_path / "logo.png")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\nshowpage\n")

    def encoded(name: str) -> Any:
        content = [{"type": "image", "path": str(tmp_path / name)}, {"type": "text", "text": "Which?"}]
        return processor().apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, return_dict=True, add_generation_prompt=True
        )

    white = Image.new("RGB", (64, 64), "white")
    wanted = processor().encode(VisualQuestion(id="q", images=(white,), prompt="Which?", answer_text="(A)"))
    assert bool((encoded("logo.png")["pixel_values"] == wanted["pixel_values"]).all())
    with pytest.raises(ValueError, match="expected one of PNG"):
        encoded("a.eps")


def test_half_a_surrogate_pair_is_refused_like_other_bad_texts() -> None:
    with pytest.raises(ValueError, match="question 'q': the answer: expected valid Unicode"):
        processor().encode_answer("\ud800", "q")
    image = Image.new("RGB", (60, 60))
    with pytest.raises(ValueError, match="question 'q': its text: expected valid Unicode"):
        processor().encode(VisualQuestion(id="q", images=(image,), prompt="a \udfff", answer_text="x"))

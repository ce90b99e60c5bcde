"""What users of transformers expect of a model: left-padded batches, resized vocabularies, whole bases, no remote code."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from amvl_model.config import load_preset
from amvl_model.data.processing import AMVLProcessor
from amvl_model.evaluation.scorers import scorer_for
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.loading import SHIPPED, load_base, load_checkpoint
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.two_pass.layout import right_padded
from tests import helpers
from tests.helpers import collate, examples, question, tiny_model, without_answers


def left_padded(batch: dict[str, Tensor], *, answers: bool = True) -> dict[str, Tensor]:
    """The batch as Hugging Face processors pad it for generation."""
    left = dict(batch)
    groups = [("attention_mask", ("input_ids", "mm_token_type_ids"))]
    if answers:
        groups.append(("answer_mask", ("answer_ids",)))
    for mask, names in groups:
        lengths = batch[mask].sum(1).tolist()
        for name in (mask, *names):
            left[name] = torch.stack([row.roll(len(row) - n) for row, n in zip(batch[name], lengths, strict=True)])
    assert not torch.equal(left["attention_mask"], batch["attention_mask"])
    return left


def batch() -> dict[str, Tensor]:
    return collate(examples((1, 2, 1), (3, 5, 2)))


def baseline(pauses: int) -> Any:
    return PauseForConditionalGeneration.from_backbone(copy.deepcopy(tiny_model().backbone), pauses).eval()


@torch.no_grad()
def test_left_padding_gives_what_right_padding_gives() -> None:
    model, right = tiny_model(), batch()
    for left in (left_padded(right), left_padded(right, answers=False)):
        one, other = (model(**item, latents="posterior_mean") for item in (right, left))
        for name in ("logits", "answer_nll", "prior_mean", "posterior_mean", "posterior_log_std", "latent_norm_ratio"):
            assert torch.equal(one[name], other[name]), name
        for one, other in zip(model.latent_distributions(right), model.latent_distributions(left), strict=True):
            assert torch.equal(one.mean, other.mean)
        state, prior = model.encode_query(left)
        assert torch.equal(prior.mean, model.encode_query(right)[1].mean)
        posteriors = [
            model.posterior_from(state, item["answer_ids"], item["answer_mask"]).mean for item in (right, left)
        ]
        assert torch.equal(*posteriors)


@pytest.mark.parametrize("options", [{}, {"num_return_sequences": 2}, {"num_beams": 2}])
def test_left_padded_queries_are_answered_as_right_padded_ones(options: dict[str, int]) -> None:
    right = without_answers(batch())
    one, other = (
        tiny_model().generate(**item, seed=0, do_sample=False, max_new_tokens=4, **options)
        for item in (right, left_padded(right, answers=False))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("pauses", [0, 2])
@torch.no_grad()
def test_the_baselines_take_left_padding(pauses: int) -> None:
    model, right = baseline(pauses), batch()
    left = left_padded(right)
    assert torch.equal(model(**right).logits, model(**left).logits)
    scorer = scorer_for(model, helpers.processor())
    one, other = (scorer.greedy(scorer.encode(without_answers(item)), None, 3) for item in (right, left))
    assert one == other


def test_right_padding_is_passed_on_as_it_is_and_other_shapes_are_refused() -> None:
    right = batch()
    assert all(right_padded(right)[name] is right[name] for name in right)
    with pytest.raises(ValueError, match="expected a mask of the shape of its tokens"):
        tiny_model()(**right | {"attention_mask": right["attention_mask"][:, 1:]})


# ---------------------------------------------------------------------- vocabulary


@pytest.mark.parametrize("latents", [{"latents": "posterior_mean"}, {}])
def test_a_resized_vocabulary_computes_trains_and_is_saved(latents: dict[str, str], tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_model()) if latents else baseline(2)
    before = model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        logits = model(**batch(), **latents).logits
    model.resize_token_embeddings(before + 8, mean_resizing=False)
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == before + 8
    assert model.config.get_text_config().vocab_size == before + 8
    torch.testing.assert_close(model(**batch(), **latents).logits[..., :before], logits)
    right = batch()
    right["answer_ids"][:, 0] = before + 3
    model(**right, **latents).answer_nll.sum().backward()
    assert model.get_input_embeddings().weight.grad[before + 3].abs().sum() > 0
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(model(**right, **latents).logits, again(**right, **latents).logits)


def test_a_vocabulary_that_cannot_be_resized_is_refused_before_anything_changes() -> None:
    model = copy.deepcopy(tiny_model())
    before = model.get_input_embeddings().weight
    with pytest.raises(ValueError, match="images' token ids must remain, got 3"):
        model.resize_token_embeddings(3)
    pytest.importorskip("peft")
    model.add_lora(2)
    with pytest.raises(ValueError, match="resize and save the backbone first"):
        model.resize_token_embeddings(len(before) + 8)
    assert model.get_input_embeddings().weight is before


# ---------------------------------------------------------------------- settings and weights of a base


def base(folder: Path, **preprocessor: Any) -> Path:
    """A copy of the tiny base with other image settings."""
    shutil.copytree(SHIPPED["tiny"], folder / "base")
    file = folder / "base" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | preprocessor))
    return folder / "base"


def test_a_size_in_pixels_is_translated_and_saved(tmp_path: Path) -> None:
    path = base(tmp_path, size={"min_pixels": 3136, "max_pixels": 6272})
    edges = AMVLProcessor.from_pretrained(base(tmp_path / "edges", size={"shortest_edge": 3136, "longest_edge": 6272}))
    result = AMVLProcessor.from_pretrained(path)
    asked = question(1, seed=1)
    for name, value in edges.encode(asked).items():
        assert torch.equal(result.encode(asked)[name], value)
    assert result.query_length(asked) == edges.query_length(asked)
    result.save_pretrained(tmp_path / "again")
    assert dict(AMVLProcessor.from_pretrained(tmp_path / "again").image_processor.size) == dict(
        edges.image_processor.size
    )
    smaller = AMVLProcessor.from_pretrained(path, max_pixels=3136)
    assert dict(smaller.image_processor.size) == {"shortest_edge": 3136, "longest_edge": 3136}


@pytest.mark.parametrize(
    "size",
    [
        {"height": 224, "width": 224},
        {"shortest_edge": 56},
        {"min_pixels": 9, "max_pixels": 4},
        224,
    ],
)
def test_an_unusable_size_is_refused_on_loading(tmp_path: Path, size: Any) -> None:
    path = base(tmp_path, size=size)
    with pytest.raises(
        ValueError, match=r"preprocessor_config.json, size: expected (areas .pixels.|an object of areas)"
    ):
        AMVLProcessor.from_pretrained(path)
    AMVLProcessor.from_pretrained(path, min_pixels=3136, max_pixels=6272)


@pytest.mark.parametrize(
    ("change", "message"), [("missing", "lacks 1 weights of"), ("extra", "has superfluous 1 weights")]
)
def test_a_base_of_other_weights_is_refused_by_every_door(tmp_path: Path, change: str, message: str) -> None:
    path = base(tmp_path)
    weights = load_file(path / "model.safetensors")
    if change == "missing":
        weights.pop(next(name for name in weights if "q_proj.weight" in name))
    else:
        weights["model.another.weight"] = torch.zeros(2)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    for load in (
        lambda: load_base(load_preset("tiny", {"model.base": str(path)})),
        lambda: load_checkpoint(path),
        lambda: AMVLForConditionalGeneration.from_backbone(path, 2, 8),
    ):
        with pytest.raises(ValueError, match=message):
            load()


def test_code_from_checkpoints_is_never_run(tmp_path: Path) -> None:
    path = base(tmp_path)
    for load in (AMVLProcessor.from_pretrained, AMVLForConditionalGeneration.from_backbone):
        with pytest.raises(ValueError, match="trust_remote_code: expected False"):
            load(path, trust_remote_code=True)
    config = json.loads((path / "config.json").read_text())
    (path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForImageTextToText": "evil.Evil"}}))
    load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


UNFIT: dict[str, tuple[str, Any]] = {
    "a row of zeros": ("attention_mask", lambda mask: mask * torch.tensor([[1], [0]])),
    "negative numbers": ("attention_mask", lambda mask: (1.0 - mask) * -1e9),
    "an answer of no token": ("answer_mask", lambda mask: mask * torch.tensor([[1], [0]])),
    "the answer of one row": ("answer_ids", lambda ids: ids[:1]),
    "token types of zeros": ("mm_token_type_ids", torch.zeros_like),
    "one image's size too few": ("image_grid_thw", lambda grid: grid[:-1]),
    "half of the patches": ("pixel_values", lambda pixels: pixels[: len(pixels) // 2]),
}


@pytest.mark.parametrize("name", UNFIT)
def test_parts_of_a_batch_that_do_not_fit_are_refused(name: str) -> None:
    key, spoil = UNFIT[name]
    batch = collate(examples()[:2])
    batch |= {key: spoil(batch[key])} | ({"answer_mask": batch["answer_mask"][:1]} if key == "answer_ids" else {})
    pause = PauseForConditionalGeneration.from_backbone(SHIPPED["tiny"], 2)
    for model in (tiny_model(), pause):
        with pytest.raises(ValueError, match="expected .*, got"):
            model(**batch)
    if not key.startswith("answer"):
        with pytest.raises(ValueError, match="expected .*, got"):
            tiny_model().generate(**without_answers(batch), max_new_tokens=1)

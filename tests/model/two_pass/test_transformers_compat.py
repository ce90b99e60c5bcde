"""Every supported version of transformers gives the same numbers, and a pass without its prefix ends in an error."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationMixin, PreTrainedModel, Trainer

from amvl_model.data.synthetic import synthetic_question
from amvl_model.evaluation.scorers import BackboneScorer
from amvl_model.models.backbone import AroundBackbone
from amvl_model.models.generation import PrefixGenerationMixin, SampleCache
from amvl_model.models.loading import load_checkpoint
from amvl_model.profiling import doctor
from amvl_model.training.trainer import AMVLTrainer
from amvl_model.two_pass import passes, transformers_compat
from amvl_model.two_pass.attention import install_attention
from amvl_model.two_pass.transformers_compat import CACHE, OLDEST, UNSUPPORTED, call_backbone, check_version
from tests.helpers import collate, examples, processor, tiny_model, without_answers

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_shipped_checkpoint_gives_the_recorded_numbers() -> None:
    # recorded with transformers 5.17, 5.23 and 5.24, equal to 1e-6 in float32 and float64; a pass without its prefix is 10 % off
    model, questions = load_checkpoint("tiny-amvl")
    batch = questions([synthetic_question("Counting", split="test", index=0)])
    with torch.no_grad():
        prior, posterior = (model(**batch, latents=f"{name}_mean") for name in ("prior", "posterior"))
    numbers = [prior.answer_nll, posterior.answer_nll, prior.prior_mean.sum(), prior.posterior_mean.sum()]
    assert [float(number) for number in numbers] == pytest.approx([0.38275, 0.37987, 56.8955, 57.8540], rel=1e-3)
    reply = model.generate(**without_answers(batch), latent_temperature=0.0, do_sample=False, max_new_tokens=8)
    assert questions.decode(reply) == ["(A)"]


def drop_cache(model: Any, layer: int, when: Callable[[int], bool]) -> None:
    """Let the attention of one layer ignore its cache where it gets a number of tokens for which ``when`` is true."""
    attention = model.backbone.model.language_model.layers[layer].self_attn
    plain = attention.forward

    def forward(*, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        if when(hidden_states.shape[1]):
            kwargs[CACHE] = None
        return plain(hidden_states=hidden_states, **kwargs)

    attention.forward = forward


@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("layer", [0, -1], ids=["first layer", "last layer"])
@pytest.mark.parametrize("broken", ["first pass", "second pass"])
def test_a_training_pass_whose_layer_ignores_the_cache_is_an_error(broken: str, layer: int, checkpointed: bool) -> None:
    model, batch = tiny_model().train(), collate(examples((1,), (90,)))
    if checkpointed:
        model.gradient_checkpointing_enable()
    k, answer = model.config.num_latents, batch["answer_ids"].shape[1]
    second = k + answer - 1
    assert second not in (batch["input_ids"].shape[1] + answer, 2 * k)
    drop_cache(model, layer, lambda tokens: (tokens == second) == (broken == "second pass"))
    message = "one cache update per layer and pass" if broken == "first pass" else "decoder layer ignored its cache"
    with pytest.raises(RuntimeError, match=f"{message}.*Supported is transformers >="):
        model(**batch)


@pytest.mark.parametrize("options", [{}, {"num_return_sequences": 2}, {"num_beams": 2}], ids=str)
def test_a_decoding_step_whose_layer_ignores_the_cache_is_an_error(options: dict[str, int]) -> None:
    model, batch = tiny_model(), without_answers(collate(examples((1,), (1,))))
    drop_cache(model, 0, lambda tokens: tokens < batch["input_ids"].shape[1])
    with pytest.raises(RuntimeError, match="decoder layer ignored its cache"):
        model.generate(**batch, max_new_tokens=2, **options)


def test_a_plain_backbone_whose_layer_ignores_the_cache_is_an_error() -> None:
    model, batch = tiny_model(), without_answers(collate(examples((1,), (1,))))
    install_attention(model.backbone)
    drop_cache(model, 0, lambda _: True)
    with pytest.raises(RuntimeError, match=r"one cache update per layer and pass, got \[0, 1\]"):
        BackboneScorer(model.backbone, processor()).encode(batch)


def test_a_last_layer_that_does_not_find_the_cache_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(
        passes, "_narrowed_forward", lambda layer, hidden, **kwargs: layer._amvl_plain_forward(hidden, **kwargs)
    )
    with pytest.raises(RuntimeError, match="expected the last hidden states of 6 tokens, got"):
        model(**collate(examples((1,), (1,))))


def test_an_argument_that_the_backbone_would_ignore_is_refused() -> None:
    inner = tiny_model().backbone.model
    with pytest.raises(RuntimeError, match=r"TextModel.forward has no parameter renamed\."):
        call_backbone(inner.language_model, inputs_embeds=torch.zeros(1, 2, 64), renamed=None)
    with pytest.raises(RuntimeError, match=r"get_rope_index has no parameter grid, mask\."):
        call_backbone(inner.get_rope_index, input_ids=torch.zeros(1, 2), mask=None, grid=None)


@pytest.mark.parametrize(
    ("own", "base", "added"),
    [
        (PrefixGenerationMixin, GenerationMixin, {"_decode", "_decode_step", "_decoding_cache"}),
        (AroundBackbone, PreTrainedModel, {"add_lora", "freeze_vision", "from_whole_checkpoint", "merge_lora", "owns"}),
        (AMVLTrainer, Trainer, {"_load_adapters", "_questions", "_remember", "_replayed_with", "_warm_up"}),
        (SampleCache, DynamicCache, {"_room", "apart", "mask", "side_by_side"}),
    ],
)
def test_every_method_that_overrides_one_of_transformers_has_one_to_override(
    own: type, base: type, added: set[str]
) -> None:
    methods = {name for name, value in vars(own).items() if isinstance(value, FunctionType | classmethod)}
    assert {name for name in methods if not hasattr(base, name)} == added


@pytest.mark.parametrize("version", ["5.16.2", "5.25.0", "none"])
def test_an_unsupported_version_is_refused_with_the_command_that_installs_another(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_version()
    monkeypatch.setattr(transformers_compat, "installed_version", lambda: version)
    with pytest.raises(ImportError, match=f"got {version}; run pip install 'transformers>=5.17,<5.25'"):
        check_version()


def test_doctor_reports_a_version_that_is_too_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda _: "999.0")
    assert "transformers 999.0 is too new: pip install 'transformers<5.25'." in doctor.package_lines()[1]


def test_the_package_states_the_supported_versions() -> None:
    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"transformers>={OLDEST},<{UNSUPPORTED}" in dependencies
    pinned = re.search(r"^transformers==(.*)$", (REPOSITORY / "constraints-cpu.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert transformers_compat.release(OLDEST) <= transformers_compat.release(pinned[1])
    assert transformers_compat.release(pinned[1]) < transformers_compat.release(UNSUPPORTED)

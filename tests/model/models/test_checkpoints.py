"""Writing and reading checkpoints: bit for bit, through the Auto classes, with LoRA; and what is wrong with a bad one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from amvl_model.models.amvl import LATENT_MODULES, AMVLForConditionalGeneration
from amvl_model.models.checkpoints import inspect_checkpoint
from amvl_model.models.configuration import AMVLConfig
from amvl_model.models.loading import merge_checkpoint
from tests.helpers import collate, examples, processor, question, tiny_model

HEADS = ("prior_head.", "posterior_head.", "injector.")


def assert_same_weights(first: Any, second: Any) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


def outputs(model: Any) -> dict[str, Tensor]:
    """Everything the model says about one batch, with fixed noise."""
    batch = collate(examples((1, 2), (3, 5)), dtype=model.get_input_embeddings().weight.dtype)
    with torch.no_grad():
        out = model(**batch, generator=torch.Generator().manual_seed(0))
    return {name: out[name] for name in ("logits", "answer_nll", "prior_mean", "prior_log_std", "posterior_mean")}


def assert_same_outputs(first: Any, second: Any) -> None:
    a, b = outputs(first), outputs(second)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of the tiny model; copied by tests that damage it."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Qwen2.5-VL checkpoint, as a user has it."""
    folder = tmp_path_factory.mktemp("backbone")
    tiny_model().backbone.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


# ---------------------------------------------------------------------- round trips


def test_a_checkpoint_reads_back_bit_for_bit(saved: Path) -> None:
    assert (saved / "model.safetensors").is_file()
    model = AMVLForConditionalGeneration.from_pretrained(saved)
    assert_same_weights(model, tiny_model())
    assert_same_outputs(model, tiny_model())
    assert not model.training


def test_a_second_round_trip_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    AMVLForConditionalGeneration.from_pretrained(saved).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_a_checkpoint_in_shards_reads_back_bit_for_bit(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_weights(AMVLForConditionalGeneration.from_pretrained(tmp_path), tiny_model())


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageTextToText], ids=lambda c: c.__name__)
def test_the_auto_classes_load_it(saved: Path, auto: Any) -> None:
    assert isinstance(AutoConfig.from_pretrained(saved), AMVLConfig)
    model = auto.from_pretrained(saved)
    assert type(model) is AMVLForConditionalGeneration
    assert_same_weights(model, tiny_model())


def test_a_bfloat16_model_keeps_its_heads_in_float32(saved: Path, tmp_path: Path) -> None:
    model = AMVLForConditionalGeneration.from_pretrained(saved, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith(HEADS) else torch.bfloat16), name
    full = tiny_model().state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, full[name].to(value.dtype)), name
    model.save_pretrained(tmp_path)
    again = AMVLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert_same_weights(again, model)
    assert_same_outputs(again, model)
    assert outputs(again)["prior_mean"].dtype == torch.float32


def test_a_bfloat16_checkpoint_loads_in_the_precision_it_was_written_in(saved: Path, tmp_path: Path) -> None:
    model = AMVLForConditionalGeneration.from_pretrained(saved, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert_same_weights(AMVLForConditionalGeneration.from_pretrained(tmp_path), model)


def test_generation_goes_on_as_before_after_a_reload(saved: Path) -> None:
    batch = processor()([question(1, 0), question(3, 1)], answers=False)
    options = {"max_new_tokens": 8, "seed": 3}
    reloaded = AMVLForConditionalGeneration.from_pretrained(saved)
    assert torch.equal(reloaded.generate(**batch, **options), tiny_model().generate(**batch, **options))


def test_the_asked_number_of_latents_may_be_repeated(saved: Path) -> None:
    model = AMVLForConditionalGeneration.from_pretrained(saved, num_latents=3, latent_dim=8)
    assert (model.config.num_latents, model.config.latent_dim) == (3, 8)


def test_the_processor_comes_back_with_its_image_settings(tmp_path: Path) -> None:
    processor().save_pretrained(tmp_path)
    again = type(processor()).from_pretrained(tmp_path)
    asked = question(2, 3)
    first, second = processor().encode(asked), again.encode(asked)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    smaller = type(processor()).from_pretrained(tmp_path, max_pixels=56 * 56)
    assert smaller.encode(asked)["image_grid_thw"].prod(1).max() <= 16 < first["image_grid_thw"].prod(1).max()


# ---------------------------------------------------------------------- from a backbone


def test_from_backbone_keeps_the_backbones_weights_bit_for_bit(backbone_folder: Path) -> None:
    model = AMVLForConditionalGeneration.from_backbone(backbone_folder, num_latents=2, latent_dim=4)
    assert_same_weights(model.backbone, tiny_model().backbone)
    assert model.config.backbone_path == str(backbone_folder)
    assert model.prior_queries.weight.shape == (2, 64) and model.injector.weight.shape == (64, 4)
    embeddings: Any = model.get_input_embeddings()
    assert model.get_output_embeddings().weight is embeddings.weight  # still tied


def test_from_backbone_in_bfloat16_keeps_fresh_heads_in_float32(backbone_folder: Path) -> None:
    model = AMVLForConditionalGeneration.from_backbone(backbone_folder, 2, 4, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith(HEADS) else torch.bfloat16), name
    assert outputs(model)["logits"].dtype == torch.bfloat16


def test_a_loaded_backbone_is_used_and_not_copied() -> None:
    backbone = tiny_model().backbone
    assert AMVLForConditionalGeneration.from_backbone(backbone, 2, 4).backbone is backbone


def test_a_model_made_from_a_backbone_reads_back_without_it(backbone_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(backbone_folder, base)
    model = AMVLForConditionalGeneration.from_backbone(base, 2, 4).eval()
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(base)
    assert_same_outputs(AMVLForConditionalGeneration.from_pretrained(tmp_path / "model"), model)


# ---------------------------------------------------------------------- LoRA


def lora_model(backbone_folder: Path, **kwargs: Any) -> AMVLForConditionalGeneration:
    """A model with adapters that do something (fresh ones multiply by zero)."""
    pytest.importorskip("peft")
    model = AMVLForConditionalGeneration.from_backbone(backbone_folder, 3, 8, **kwargs)
    model.add_lora(rank=4, alpha=16, dropout=0.1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_lora_checkpoint_reloads_with_one_from_pretrained_to_the_same_bits(
    backbone_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = lora_model(backbone_folder, dtype=dtype)
    model.save_pretrained(tmp_path)
    again = AMVLForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert_same_weights(again, model)
    assert_same_outputs(again, model)
    assert not again.training
    plain = AMVLForConditionalGeneration.from_backbone(backbone_folder, 3, 8, dtype=dtype).eval()
    assert not torch.equal(outputs(plain)["logits"], outputs(model)["logits"])


def test_a_lora_checkpoint_holds_adapters_and_latent_modules_only(backbone_folder: Path, tmp_path: Path) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    names = {}
    for part in ("model.safetensors", "adapter/adapter_model.safetensors"):
        with safe_open(tmp_path / part, framework="pt") as file:
            names[part] = set(file.keys())
    heads, adapter = names.values()
    assert {name.split(".")[0] for name in heads} == set(LATENT_MODULES) and not any("lora_" in name for name in heads)
    assert len(adapter) == 2 * 7 * 2  # A and B of seven linear layers in two decoder layers
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in adapter)


def lora_free(backbone_folder: Path) -> Any:
    return AMVLForConditionalGeneration.from_backbone(backbone_folder, 3, 8).eval().backbone


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21 reads it
def test_peft_itself_reads_the_adapter_onto_the_plain_backbone(backbone_folder: Path, tmp_path: Path) -> None:
    model = lora_model(backbone_folder)
    model.save_pretrained(tmp_path)
    from peft import PeftConfig, PeftModel

    settings = PeftConfig.from_pretrained(str(tmp_path), subfolder="adapter")
    assert settings.base_model_name_or_path == str(backbone_folder) and settings.r == 4 and settings.inference_mode
    plain = AutoModelForImageTextToText.from_pretrained(settings.base_model_name_or_path)
    adapted = PeftModel.from_pretrained(plain, str(tmp_path), subfolder="adapter").eval()
    batch = {n: v for n, v in collate(examples((1, 2), (3, 5))).items() if not n.startswith("answer_")}
    with torch.no_grad():
        expected, found = model.backbone(**batch).logits, adapted(**batch).logits
        unadapted = lora_free(backbone_folder)(**batch).logits
    assert (found - expected).norm() < 1e-2 * (unadapted - expected).norm()


def test_a_lora_checkpoint_of_earlier_versions_is_read(backbone_folder: Path, tmp_path: Path) -> None:
    """Adapters and heads in one model.safetensors, a config without the fields that came later."""
    from safetensors.torch import save_file

    model = lora_model(backbone_folder)
    stored = {name: value for name, value in model.config.to_dict().items() if name not in ("training", "how_to_load")}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    save_file(
        {name: value for name, value in model.state_dict().items() if model.owns(name)},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert_same_weights(AMVLForConditionalGeneration.from_pretrained(tmp_path), model)


def test_a_lora_checkpoint_without_its_adapter_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:100])
    assert_refused(tmp_path, ValueError, "adapter_model.safetensors is half written or damaged")
    adapter.unlink()
    assert_refused(tmp_path, FileNotFoundError, "adapter_model.safetensors is missing")


def test_a_merged_checkpoint_is_whole_and_answers_as_the_adapters_did(backbone_folder: Path, tmp_path: Path) -> None:
    model = lora_model(backbone_folder)
    model.save_pretrained(tmp_path / "lora")
    processor().save_pretrained(tmp_path / "lora")
    merge_checkpoint(tmp_path / "lora", tmp_path / "whole")
    shutil.rmtree(tmp_path / "lora")
    whole = AMVLForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert not whole.config.lora and not any("lora" in name for name in whole.state_dict())
    assert not (tmp_path / "whole" / "adapter").exists()
    expected, found = outputs(model), outputs(whole)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    whole.save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match="no LoRA adapters to merge"):
        whole.merge_lora()
    with pytest.raises(FileExistsError, match="not overwritten"):
        merge_checkpoint(tmp_path / "whole", tmp_path / "again")


def test_adapters_trained_on_a_quantised_backbone_are_merged_into_the_stored_one(
    backbone_folder: Path, tmp_path: Path
) -> None:
    """bitsandbytes is not needed: the backbone is read as it is stored."""
    model = lora_model(backbone_folder)
    model.save_pretrained(tmp_path / "lora")
    processor().save_pretrained(tmp_path / "lora")
    stored = json.loads((tmp_path / "lora" / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "lora" / "config.json").write_text(json.dumps(stored))
    merge_checkpoint(tmp_path / "lora", tmp_path / "whole")
    whole = AMVLForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert "quantization_config" not in json.loads((tmp_path / "whole" / "config.json").read_text())
    expected, found = outputs(model), outputs(whole)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def test_a_model_that_is_merged_in_place_leaves_no_adapter_behind(backbone_folder: Path, tmp_path: Path) -> None:
    model = lora_model(backbone_folder)
    model.save_pretrained(tmp_path)
    model.merge_lora()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter").exists()
    assert_same_outputs(AMVLForConditionalGeneration.from_pretrained(tmp_path), model)


def test_a_reloaded_lora_model_trains_what_it_trained_before(backbone_folder: Path, tmp_path: Path) -> None:
    model = lora_model(backbone_folder)
    model.save_pretrained(tmp_path)
    again = AMVLForConditionalGeneration.from_pretrained(tmp_path)
    trained = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (model, again)]
    assert trained[0] == trained[1]
    assert all("lora_" in name or name.split(".")[0] in LATENT_MODULES for name in trained[0])


def test_adapters_get_the_same_gradients_under_checkpointing(backbone_folder: Path) -> None:
    model, batch = lora_model(backbone_folder), collate(examples((1, 2), (3, 5)))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    results = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(**batch, latents="posterior_mean").answer_nll.sum().backward()
        results.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys() and any("lora_A" in name for name in results[0])
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient)


def test_a_lora_checkpoint_whose_backbone_is_gone_says_so_and_takes_another_path(
    backbone_folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(backbone_folder, base)
    model = lora_model(base)
    model.save_pretrained(tmp_path / "lora")
    base.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="belongs to the backbone .*base.*pass backbone_path="):
        AMVLForConditionalGeneration.from_pretrained(tmp_path / "lora")
    again = AMVLForConditionalGeneration.from_pretrained(tmp_path / "lora", backbone_path=tmp_path / "moved")
    assert_same_outputs(again, model)


def test_a_lora_checkpoint_without_a_backbones_path_asks_for_it(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = AMVLForConditionalGeneration.from_backbone(tiny_model().backbone, 3, 8)
    model.add_lora(rank=2)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert not stored["backbone_path"]
    with pytest.raises(ValueError, match="pass backbone_path=FOLDER_OR_HUB_ID"):
        AMVLForConditionalGeneration.from_pretrained(tmp_path)


def test_a_lora_checkpoint_on_another_backbone_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("num_latents", 5), ("lora", {**settings["lora"], "rank": 8})):
        (tmp_path / "config.json").write_text(json.dumps({**settings, name: value}))
        assert_refused(tmp_path, ValueError, "(?s)does not fit the backbone .*size mismatch")
    deeper = tiny_model().backbone.config
    deeper.text_config.num_hidden_layers = 3
    deeper.text_config.layer_types = ["full_attention"] * 3
    Qwen2_5_VLForConditionalGeneration(deeper).save_pretrained(tmp_path / "deeper")
    (tmp_path / "config.json").write_text(json.dumps({**settings, "backbone_path": str(tmp_path / "deeper")}))
    assert_refused(tmp_path, ValueError, "does not fit the backbone .*deeper: missing .*layers.2")


def test_lora_refuses_a_rank_of_zero_and_a_second_set_of_adapters() -> None:
    pytest.importorskip("peft")
    model = tiny_model()
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        model.add_lora(rank=0)
    model.add_lora(rank=2)
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        model.add_lora(rank=2)


# ---------------------------------------------------------------------- what is wrong with a checkpoint


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy of the whole checkpoint, for a test to damage."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    return folder


def assert_refused(folder: Path, kind: type[Exception], message: str, **kwargs: Any) -> None:
    """Loading raises, says why, and leaves the folder as it was."""
    before = contents(folder) if folder.exists() else None
    with pytest.raises(kind, match=message):
        AMVLForConditionalGeneration.from_pretrained(folder, **kwargs)
    assert (contents(folder) if folder.exists() else None) == before


@pytest.mark.parametrize(("name", "value", "stored"), [("num_latents", 4, 3), ("latent_dim", 16, 8)])
def test_other_latents_than_the_checkpoints_are_refused(damaged: Path, name: str, value: int, stored: int) -> None:
    message = f"{name}={value} was asked for, but the checkpoint .* was trained with {name}={stored}"
    assert_refused(damaged, ValueError, message, **{name: value})


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", FileNotFoundError, "checkpoint folder .*nothing does not exist")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        AMVLForConditionalGeneration.from_backbone(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("path", ["nothing", "./nothing", "runs/nothing", "runs/a/b/nothing", "runs/nothing/"])
def test_a_missing_folder_is_recognised_by_a_relative_path_too(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        inspect_checkpoint(path, expected_type="amvl")


def test_a_hub_id_is_left_to_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inspect_checkpoint("Qwen/Qwen2.5-VL-7B-Instruct", expected_type=None) is None


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to load")
    assert_refused(tmp_path, FileNotFoundError, "is no checkpoint: it has no config.json")
    assert_refused(tmp_path / "notes.txt", FileNotFoundError, "is a file")


def test_half_written_weights_are_refused(damaged: Path) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert_refused(damaged, ValueError, "model.safetensors is half written or damaged")


@pytest.mark.parametrize("size", [0, 4, 100])
def test_weights_cut_in_their_header_are_refused(damaged: Path, size: int) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert_refused(damaged, ValueError, "model.safetensors is half written or damaged")


def test_missing_weights_are_refused(damaged: Path) -> None:
    (damaged / "model.safetensors").unlink()
    assert_refused(damaged, FileNotFoundError, "is no complete checkpoint: model.safetensors is missing")


def test_a_half_written_configuration_is_refused(damaged: Path) -> None:
    file = damaged / "config.json"
    file.write_text(file.read_text()[:200])
    assert_refused(damaged, ValueError, "config.json is not valid JSON.*half written")


def test_a_missing_and_a_half_written_shard_are_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="200KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    assert_refused(tmp_path, ValueError, f"{shard.name} is half written or damaged")
    shard.unlink()
    assert_refused(tmp_path, FileNotFoundError, f"{shard.name} is missing")
    shard.write_bytes(whole)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text()[:100])
    assert_refused(tmp_path, ValueError, "model.safetensors.index.json is not valid JSON.*half written")


def test_a_plain_backbone_is_no_amvl_checkpoint(backbone_folder: Path) -> None:
    assert_refused(backbone_folder, ValueError, "type 'qwen2_5_vl', expected 'amvl'; .*from_backbone")


def test_an_amvl_checkpoint_is_no_backbone(saved: Path) -> None:
    with pytest.raises(ValueError, match="has latent modules already.*from_pretrained"):
        AMVLForConditionalGeneration.from_backbone(saved)


def test_a_checkpoint_that_lacks_a_weight_is_refused(damaged: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(damaged / "model.safetensors")
    del state["prior_head.linear.weight"]
    save_file(state, damaged / "model.safetensors", metadata={"format": "pt"})
    assert_refused(damaged, ValueError, "lacks 1 weights .* among them prior_head.linear.weight")


def test_a_backbone_that_lacks_a_weight_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(backbone_folder, tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    dropped = next(name for name in state if "merger.mlp.0.weight" in name)
    del state[dropped]
    save_file(state, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights .*merger.mlp.0.weight"):
        AMVLForConditionalGeneration.from_backbone(tmp_path / "base")


def test_the_loading_report_of_transformers_can_be_had(saved: Path) -> None:
    model, report = AMVLForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert type(model) is AMVLForConditionalGeneration and not report["missing_keys"] and not report["unexpected_keys"]


def test_weights_are_written_under_the_modules_own_names(saved: Path) -> None:
    with safe_open(saved / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    state = tiny_model().state_dict()
    assert names == {name for name in state if name != "backbone.lm_head.weight"}  # tied to the embeddings


def test_a_half_written_lora_checkpoint_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert_refused(tmp_path, ValueError, "model.safetensors is half written or damaged")


@pytest.mark.parametrize("lora", [False, True])
def test_checkpoints_remember_a_shared_posterior_std_and_those_of_before_are_per_answer(
    lora: bool, backbone_folder: Path, tmp_path: Path
) -> None:
    model = AMVLForConditionalGeneration.from_backbone(str(backbone_folder), 3, 8, posterior_std="shared")
    if lora:
        model.add_lora(rank=4, alpha=16, dropout=0.0)
    model.save_pretrained(tmp_path)
    assert AMVLForConditionalGeneration.from_pretrained(tmp_path).config.posterior_std == "shared"
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["posterior_std"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert AMVLForConditionalGeneration.from_pretrained(tmp_path).config.posterior_std == "per-answer"


def test_an_unknown_posterior_std_is_refused(backbone_folder: Path) -> None:
    with pytest.raises(ValueError, match="posterior_std must be one of per-answer, shared, got 'tied'"):
        AMVLForConditionalGeneration.from_backbone(str(backbone_folder), 3, 8, posterior_std="tied")

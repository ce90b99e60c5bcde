"""LoRA: checkpoints of adapters and latent modules, read back bit for bit, merged, read by peft."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from amvl_model.models.amvl import LATENT_MODULES, AMVLForConditionalGeneration
from amvl_model.models.loading import merge_checkpoint
from tests.helpers import collate, examples, processor, tiny_model
from tests.model.models.test_checkpoints import assert_same_outputs, assert_same_weights, outputs
from tests.model.models.test_damaged_checkpoints import assert_refused


def lora_model(backbone_folder: Path, **kwargs: Any) -> AMVLForConditionalGeneration:
    """A model with adapters that do something (fresh ones multiply by zero)."""
    pytest.importorskip("peft")
    model = AMVLForConditionalGeneration.from_backbone(backbone_folder, 3, 8, **kwargs)
    torch.manual_seed(0)  # peft draws its A from the global generator
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
        expected, result = model.backbone(**batch).logits, adapted(**batch).logits
        unadapted = lora_free(backbone_folder)(**batch).logits
    assert (result - expected).norm() < 1e-2 * (unadapted - expected).norm()


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
    expected, result = outputs(model), outputs(whole)
    for name, value in expected.items():
        torch.testing.assert_close(
            result[name], value, rtol=1e-4, atol=1e-3
        )  # logits of size 20; rounding alone makes 5e-5
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
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-3
        )  # logits of size 20; rounding alone makes 5e-5


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


def test_a_lora_checkpoint_on_other_weights_of_the_same_shape_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    """A base that was fine-tuned in one matrix since, however it is loaded; the base itself in either precision is taken."""
    lora_model(backbone_folder).save_pretrained(tmp_path / "lora")
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(backbone_folder)
    with torch.no_grad():
        base.model.language_model.layers[1].self_attn.q_proj.weight.mul_(1.1)
    base.save_pretrained(tmp_path / "tuned")
    for dtype in (torch.float32, torch.bfloat16):
        AMVLForConditionalGeneration.from_pretrained(tmp_path / "lora", dtype=dtype)
        with pytest.raises(ValueError, match=r"1 of \d+ differ, such as .*layers\.1\.self_attn\.q_proj.*--backbone"):
            AMVLForConditionalGeneration.from_pretrained(
                tmp_path / "lora", dtype=dtype, backbone_path=str(tmp_path / "tuned")
            )


def test_lora_refuses_a_rank_of_zero_and_a_second_set_of_adapters() -> None:
    pytest.importorskip("peft")
    model = tiny_model()
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        model.add_lora(rank=0)
    model.add_lora(rank=2)
    with pytest.raises(ValueError, match="already has LoRA adapters"):
        model.add_lora(rank=2)


@pytest.mark.parametrize(
    "changed", ["the last number of a matrix", "two numbers that were swapped", "rows that were added"]
)
def test_a_base_that_differs_at_any_place_is_refused(backbone_folder: Path, tmp_path: Path, changed: str) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path / "lora")
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(backbone_folder)
    if changed == "rows that were added":
        base.resize_token_embeddings(base.get_input_embeddings().weight.shape[0] + 8)
    elif changed == "two numbers that were swapped":
        row = base.model.language_model.layers[0].mlp.down_proj.weight.data[-1]
        row[-2:] = row[-2:].flip(0)
    else:
        base.model.language_model.layers[0].mlp.down_proj.weight.data[-1, -1] += 1.0
    base.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"was not trained on the weights of .*[12] of \d+ differ"):
        AMVLForConditionalGeneration.from_pretrained(tmp_path / "lora", backbone_path=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ([2], "lora: expected an object of rank, alpha and dropout"),
        ({"rank": 2}, "lora: expected an object of rank, alpha and dropout"),
        ({"rank": 2, "alpha": 4, "dropout": 0, "rslora": True}, "lora: expected an object"),
        ({"rank": "2", "alpha": 4, "dropout": 0}, "rank must be at least 1, got '2'"),
        ({"rank": 2, "alpha": float("nan"), "dropout": 0}, "alpha must be a number"),
        ({"rank": 2, "alpha": 4, "dropout": 1}, "dropout must be a number"),
    ],
)
def test_wrong_settings_of_adapters_are_refused(backbone_folder: Path, tmp_path: Path, lora: Any, message: str) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"lora": lora}))
    assert_refused(tmp_path, ValueError, message)


def test_digests_of_an_earlier_version_are_compared(backbone_folder: Path, tmp_path: Path) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    name, value = "lm_head.weight", Qwen2_5_VLForConditionalGeneration.from_pretrained(backbone_folder).lm_head.weight
    numbers = value.detach().bfloat16().view(torch.int16).flatten()
    summary = f"{tuple(value.shape)} {int(numbers.sum(dtype=torch.int64))} {numbers[:256].tolist()}"
    (tmp_path / "manifest.json").unlink(missing_ok=True)
    for text, fits in ((summary, True), (summary + " ", False)):
        digests = json.dumps({f"backbone.{name}": sha256(text.encode()).hexdigest()[:8]})
        save_file(load_file(file), file, metadata={"format": "pt", "amvl_base_weights": digests})
        if fits:
            AMVLForConditionalGeneration.from_pretrained(tmp_path)
        else:
            assert_refused(tmp_path, ValueError, "1 of 1 differ, such as lm_head.weight")


@pytest.mark.parametrize("text", ["{", "[1]", "3", '{"backbone.lm_head.weight": 3}'])
def test_damaged_fingerprints_are_refused(backbone_folder: Path, tmp_path: Path, text: str) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "amvl_base_weights": text})
    assert_refused(tmp_path, ValueError, "adapter_model.safetensors: its metadata amvl_base_weights is damaged")


def test_a_half_written_lora_checkpoint_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    lora_model(backbone_folder).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert_refused(tmp_path, ValueError, "model.safetensors is half written or damaged")

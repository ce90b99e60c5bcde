"""Checkpoints from elsewhere: nothing outside their folder is read, nothing in them is run, no file is altered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.backbone import load_backbone
from amvl_model.models.checkpoints import backbone_at, write_manifest
from amvl_model.models.checkpoints.pickles import foreign_code
from amvl_model.models.loading import ASSETS, load_checkpoint, save_checkpoint
from tests import helpers


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ASSETS / "tiny-base", tmp_path / "base"))


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "../other/model.safetensors"},
        {"a": "/tmp/x.safetensors"},
        {"a": "pytorch_model.bin"},
        {"a": 3},
        {},
        [],
        None,
    ],
)
def test_an_index_may_name_safetensors_of_its_own_folder_only(base: Path, weight_map: Any) -> None:
    other = Path(shutil.copytree(base, base.parent / "other"))
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with pytest.raises(ValueError, match="index.json: expected"):
        load_backbone(base)
    assert (other / "model.safetensors").is_file()


def test_an_index_of_shards_in_its_folder_is_read(base: Path) -> None:
    whole, _ = load_backbone(base)
    whole.save_pretrained(base.parent / "shards", max_shard_size="200KB")
    assert len(list((base.parent / "shards").glob("*.safetensors"))) > 1
    again, _ = load_backbone(base.parent / "shards")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("entry", ["adapter_config.json", "transformers_weights"])
def test_settings_that_lead_to_other_weights_are_refused(base: Path, entry: str) -> None:
    if entry.endswith(".json"):
        (base / entry).write_text("{}")
    else:
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, entry: "other.safetensors"}))
    with pytest.raises(ValueError, match=entry):
        load_backbone(base)


def test_an_index_of_a_sharded_checkpoint_may_name_pytorchs_own_classes_only(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    state = {"weights": torch.ones(3, dtype=torch.bfloat16), "groups": {"betas": (0.9, 0.95), "lr": 1e-3}}
    with pytest.warns(UserWarning):
        dcp.save(state, checkpoint_id=tmp_path / "optimizer_0")
    assert foreign_code(tmp_path) == ""
    index = tmp_path / "optimizer_0" / ".metadata"
    whole = index.read_bytes()
    for content, named in (
        (b"cposix\nsystem\n(S'true'\ntR.", "posix.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
    ):
        index.write_bytes(content)
        assert named in foreign_code(tmp_path)
    index.write_bytes(whole[: len(whole) // 2])
    assert ".metadata is not an index" in foreign_code(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_a_file_that_is_not_that_of_the_manifest_is_refused(tmp_path: Path, name: str) -> None:
    save_checkpoint(helpers.tiny_model(), helpers.processor(), tmp_path)
    load_checkpoint(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} was altered.*copy the checkpoint again"):
        load_checkpoint(tmp_path)
    write_manifest(tmp_path)
    if name == "model.safetensors":  # the change is meant
        load_checkpoint(tmp_path)


def adapters(base: str) -> AMVLForConditionalGeneration:
    pytest.importorskip("peft")
    model = AMVLForConditionalGeneration.from_backbone(base, num_latents=2, latent_dim=3)
    model.add_lora(2)
    return model


def test_adapters_load_from_another_working_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    save_checkpoint(adapters("base"), helpers.processor(), base.parent / "adapters")
    monkeypatch.chdir("/")
    load_checkpoint(base.parent / "adapters")


def test_adapters_with_a_relative_path_of_an_earlier_version_find_their_base_beside_them(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base.parent / "runs" / "adapters"
    save_checkpoint(adapters(str(base)), helpers.processor(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "backbone_path": "base"}))
    (folder / "manifest.json").unlink()
    monkeypatch.chdir("/")
    load_checkpoint(folder)


def test_the_base_of_adapters_can_be_named(base: Path) -> None:
    save_checkpoint(adapters(str(base)), helpers.processor(), base.parent / "adapters")
    base.rename(base.parent / "moved")
    with pytest.raises(FileNotFoundError, match=r"backbone_path=FOLDER_OR_HUB_ID \(--backbone\)"):
        load_checkpoint(base.parent / "adapters")
    load_checkpoint(base.parent / "adapters", backbone_path=base.parent / "moved")
    with backbone_at(base.parent / "moved", base.parent / "adapters"):
        load_checkpoint(base.parent / "adapters")
    with pytest.raises(ValueError, match="not LoRA adapters; leave out the backbone"):
        load_checkpoint("tiny-amvl", backbone_path=base.parent / "moved")


def test_commands_take_the_base_of_adapters(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments import diagnose, evaluate_benchmark
    from tests import miniatures

    save_checkpoint(adapters(str(base)), helpers.processor(), base.parent / "adapters")
    base.rename(base.parent / "moved")
    miniatures.vstar(base.parent / "vstar")
    asked = ["--model", str(base.parent / "adapters"), "--benchmark", "vstar", "--path", str(base.parent / "vstar")]
    asked += ["--scoring", "likelihood", "--device", "cpu"]
    with pytest.raises(SystemExit):
        evaluate_benchmark.main(asked)
    assert "--backbone" in capsys.readouterr().err
    evaluate_benchmark.main([*asked, "--backbone", str(base.parent / "moved")])
    options = ["--checkpoint", str(base.parent / "adapters"), "--only", "contamination", "--questions", "4"]
    options += ["--n-samples", "16", "--samples", "1", "--bootstrap", "10", "--no-progress"]
    with pytest.raises(SystemExit):
        diagnose.main([*options, "--out", str(base.parent / "a")])
    assert diagnose.main([*options, "--out", str(base.parent / "b"), "--backbone", str(base.parent / "moved")]) == 0

"""What is wrong with a bad checkpoint is one clear error."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.checkpoints import inspect_checkpoint
from tests.helpers import tiny_model
from tests.model.models.test_checkpoints import contents


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
    message = f"{name}={value} was requested, but the checkpoint .* was trained with {name}={stored}"
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
    assert_refused(tmp_path, FileNotFoundError, "is not a checkpoint: it has no config.json")
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
    assert_refused(damaged, FileNotFoundError, "is not a complete checkpoint: model.safetensors is missing")


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

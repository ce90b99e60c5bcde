"""Model cards, uploads without a network, checkpoints from the Hub's cache, and what a reader without the package sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from transformers import AutoModelForImageTextToText

from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.checkpoints import backbone_at
from amvl_model.models.checkpoints.sharing import MARK
from amvl_model.models.loading import save_checkpoint
from amvl_model.models.pause import PauseForConditionalGeneration
from tests.helpers import collate, examples, processor, tiny_model

RECORD: dict[str, Any] = {
    "base_model": "org/base",
    "objective": {"name": "amvl", "equation": "NTP + beta KL(sg[q] || p)", "beta": 0.01, "gamma": 0.002},
    "data": "org/questions",
    "steps": 12,
    "metrics": [
        {"name": "accuracy", "value": 0.5, "low": 0.42, "high": 0.58, "data": "BLINK"},
        {"name": "ntp", "value": 1.25},
    ],
    "provenance": {"commit": "abc123", "dirty": True, "versions": {"torch": "2.13", "datasets": None}},
}


def shared_model() -> AMVLForConditionalGeneration:
    model: AMVLForConditionalGeneration = tiny_model()
    model.config.training, model.config.backbone_path = RECORD, "org/base"
    return model


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be uploaded: huggingface_hub's two calls, without a network."""
    result: list[dict[str, Any]] = []

    def create_repo(self: Any, repo_id: str, **options: Any) -> Any:
        result.append({"created": repo_id, **options})
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self: Any, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        files = {str(f.relative_to(folder_path)): f.read_bytes() for f in Path(folder_path).rglob("*") if f.is_file()}
        result.append({"uploaded": repo_id, "files": files, **options})
        return "commit"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return result


def test_a_checkpoint_has_a_model_card_with_the_hubs_metadata(tmp_path: Path) -> None:
    shared_model().save_pretrained(tmp_path, tags=["mine"])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "org/base" and card.data.datasets == "org/questions"
    assert {"amvl", "arxiv:2607.00461", "mine"} <= set(card.data.tags)
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-text-to-text"
    (accuracy, ntp) = card.data.eval_results
    assert (accuracy.metric_value, accuracy.metric_args) == (0.5, {"low": 0.42, "high": 0.58, "level": 0.95})
    assert ntp.metric_value == 1.25
    for text in (
        "https://arxiv.org/abs/2607.00461",
        r"| equation | NTP + beta KL(sg[q] \|\| p) |",
        "| beta | 0.01 |",
        "| gamma | 0.002 |",
        "| data | org/questions |",
        "| accuracy (BLINK) | 0.5 [0.42, 0.58] |",
        "| commit of amvl_model | abc123 (with changes) |",
        'pip install "git+URL"',
        "import amvl_model",
        "AutoModelForImageTextToText.from_pretrained",
    ):
        assert text in card.content, text
    assert "pip install amvl" not in card.content


def test_the_code_on_a_model_card_answers_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    Image.new("RGB", (56, 56)).save(tmp_path / "photo.png")
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"this folder, or its name on the Hub"', repr(str(tmp_path))), {})
    assert capsys.readouterr().out.strip().startswith("[")


def test_the_record_of_the_training_survives_loading_and_saving_again(tmp_path: Path) -> None:
    shared_model().save_pretrained(tmp_path / "first")
    again = AMVLForConditionalGeneration.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    assert again.config.training == RECORD
    text = (tmp_path / "second" / "README.md").read_text()
    assert "| accuracy (BLINK) | 0.5 [0.42, 0.58] |" in text and "base_model: org/base" in text


def test_a_card_of_ones_own_is_kept(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    assert "not recorded" not in card.read_text() and "## Training" not in card.read_text()
    card.write_text(card.read_text().replace(MARK, "") + "\nMine.\n")
    model.save_pretrained(tmp_path)
    assert card.read_text().endswith("Mine.\n")


def test_push_to_hub_uploads_one_folder_with_the_card(uploads: list[dict[str, Any]]) -> None:
    assert (
        shared_model().push_to_hub("me/model", processor=processor(), private=True, commit_message="First") == "commit"
    )
    created, uploaded = uploads
    assert created["created"] == uploaded["uploaded"] == "me/model" and created["private"]
    assert uploaded["commit_message"] == "First"
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json", "preprocessor_config.json"} <= set(
        uploaded["files"]
    )
    assert b"base_model: org/base" in uploaded["files"]["README.md"]


def test_adapters_are_uploaded_beside_the_heads_if_readers_have_their_backbone(
    uploads: list[dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    model = shared_model()
    model.add_lora(rank=2)
    model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="me/adapters")
    files = uploads[1]["files"]
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= set(files)
    assert json.loads(files["adapter/adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert b"base_model_relation: adapter" in files["README.md"]
    model.config.backbone_path = str(tmp_path)
    with pytest.raises(ValueError, match="(?s)expected a name on the Hub.*merge_lora"):
        model.push_to_hub("me/adapters")
    assert len(uploads) == 2


def test_a_hub_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> None:
        def create_repo(self: Any, *_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(HfApi, "create_repo", create_repo)

    for error in (huggingface_hub.errors.OfflineModeIsEnabled("offline"), TimeoutError("timed out")):
        failing(error)
        with pytest.raises(
            ConnectionError, match=f"upload to me/model: the Hub did not answer .{error}.*HF_HUB_OFFLINE"
        ):
            shared_model().push_to_hub("me/model")
    refusal = huggingface_hub.errors.HfHubHTTPError.__new__(huggingface_hub.errors.HfHubHTTPError)
    failing(refusal)  # 401, 403: the Hub did answer
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
        shared_model().push_to_hub("me/model")


@pytest.mark.parametrize(
    "cls", [AMVLForConditionalGeneration, AutoModelForImageTextToText, PauseForConditionalGeneration]
)
def test_a_lora_checkpoint_loads_from_the_hub(tmp_path: Path, cls: Any) -> None:
    """From the Hub's cache, in the layout of huggingface_hub, offline; by the Auto class too, and not as the plain base."""
    pytest.importorskip("peft")
    base = tmp_path / "base"
    tiny_model().backbone.save_pretrained(base)
    kind: Any = PauseForConditionalGeneration if cls is PauseForConditionalGeneration else AMVLForConditionalGeneration
    model = kind.from_backbone(base, *([0] if kind is PauseForConditionalGeneration else [3, 8]))
    model.add_lora(rank=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    cached = tmp_path / "cache" / "models--org--adapters"
    model.eval().save_pretrained(cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    again = cls.from_pretrained("org/adapters", cache_dir=str(tmp_path / "cache"))
    assert type(again) is kind and again.config.lora
    batch = collate(examples((1, 2), (3, 5)))
    options = {} if kind is PauseForConditionalGeneration else {"latents": "prior_mean"}
    with torch.no_grad():
        assert torch.equal(again(**batch, **options).logits, model(**batch, **options).logits)


def test_adapters_on_the_hub_need_neither_the_manifest_nor_the_base_that_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest lists files of the processor, which are not downloaded for the model."""
    pytest.importorskip("peft")
    base, remote, cached = tmp_path / "base", tmp_path / "remote", tmp_path / "cache" / "models--org--adapters"
    tiny_model().backbone.save_pretrained(base)
    model = AMVLForConditionalGeneration.from_backbone(base, 3, 8)
    model.add_lora(rank=2)
    model.config.backbone_path = None
    save_checkpoint(model, processor(), remote)
    assert "chat_template.jinja" in json.loads((remote / "manifest.json").read_text())
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(remote / "config.json", snapshot)

    def download(repo_id: str, *, allow_patterns: Any = None, ignore_patterns: Any = None, **_: Any) -> str:
        files = [file.relative_to(remote).as_posix() for file in remote.rglob("*") if file.is_file()]
        for name in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (snapshot / name).parent.mkdir(exist_ok=True)
            shutil.copy(remote / name, snapshot / name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with backbone_at(base, "org/adapters"):
        again = AMVLForConditionalGeneration.from_pretrained("org/adapters", cache_dir=str(tmp_path / "cache"))
    assert again.config.lora and again.config.backbone_path == str(base)


def test_without_the_package_transformers_refuses_the_type_and_the_folder_says_what_to_install(
    tmp_path: Path, python: Callable[..., Any]
) -> None:
    shared_model().save_pretrained(tmp_path / "model")
    code = f"""
from transformers import AutoConfig
try:
    AutoConfig.from_pretrained({str(tmp_path / "model")!r})
except ValueError as error:
    assert "model type `amvl`" in str(error), error
else:
    raise SystemExit("loaded")
"""
    result = python("-c", code, timeout=110)
    assert result.returncode == 0, result.stderr
    hint = json.loads((tmp_path / "model" / "config.json").read_text())["how_to_load"]
    assert "import amvl_model" in hint and 'pip install "git+URL"' in hint
    shutil.rmtree(tmp_path / "model")

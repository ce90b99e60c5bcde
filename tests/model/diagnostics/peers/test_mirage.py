"""A checkpoint that Mirage's own code trained and wrote gives the numbers that this code computes from it.

The folder mirage was made by tests/mirage_fixture.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amvl_model.data.processing import AMVLProcessor
from amvl_model.diagnostics.peers import diagnose_peer, load_peer
from amvl_model.diagnostics.peers.mirage import MirageModel
from experiments import diagnose
from tests import helpers
from tests.mirage_fixture import LATENTS, questions

FOLDER = Path(__file__).parent / "mirage"
CHECKPOINT = FOLDER / "checkpoint"


@torch.inference_mode()
def test_latents_and_reply_scores_are_those_of_mirages_own_code() -> None:
    peer = MirageModel.from_pretrained(CHECKPOINT)
    assert peer.num_latents == LATENTS  # of config.json
    expected = json.loads((FOLDER / "reference.json").read_text())["questions"]
    query = peer.encode(questions())  # questions of several lengths in one batch; the reference took one at a time
    z = peer.latents(query)
    thoughts = torch.tensor([item["thoughts"] for item in expected])
    torch.testing.assert_close(z, thoughts, atol=1e-3, rtol=1e-3)
    scores = peer.option_log_probs(query, z)
    torch.testing.assert_close(scores, torch.tensor([item["log_probs"] for item in expected]), atol=1e-2, rtol=1e-3)
    other = peer.option_log_probs(query, z.roll(1, 0))
    assert float((other - scores).abs().max()) > 0.05


def test_one_call_and_the_script_say_whether_the_latents_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"samples": 2, "n_bootstrap": 100, "progress": False}
    result = diagnose_peer(CHECKPOINT, "mirage", questions(), **settings)
    report = result.reports["interventions"]
    rows = [item["log_probs"] for item in json.loads((FOLDER / "reference.json").read_text())["questions"]]
    nll = sum(-row[q.answer] for row, q in zip(rows, questions(), strict=True)) / len(rows)
    assert report.conditions["prior_mean"].answer_nll.mean == pytest.approx(nll, abs=1e-2)
    assert result.refused["contamination"].startswith("not applicable")
    arguments = (
        f"--model-class mirage --checkpoint {CHECKPOINT} --questions 4 --tasks Counting --bootstrap 100 --no-progress"
    )
    assert diagnose.main([*arguments.split(), "--out", str(tmp_path / "out")]) == 0
    assert "atents" in capsys.readouterr().out
    data = json.loads((tmp_path / "out" / "diagnostics.json").read_text())["checkpoints"][str(CHECKPOINT)]
    assert data["diagnostics"]["interventions"]["n"] == 4


def test_image_settings_that_mirage_does_not_save_come_from_the_base(tmp_path: Path) -> None:
    copied = tmp_path / "saved"
    copied.mkdir()
    for file in CHECKPOINT.iterdir():
        if file.name != "preprocessor_config.json":
            (copied / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="give the Qwen2.5-VL that was trained as base"):
        load_peer(copied, "mirage")
    helpers.processor().save_pretrained(tmp_path / "base")
    peer = load_peer(copied, "mirage", base=str(tmp_path / "base"))
    marks = peer.scorer.processor.tokenizer.convert_tokens_to_ids(["<|latent_start|>", "<|latent_end|>"])
    assert peer.scorer.marks.tolist() == marks  # the tokenizer is the checkpoint's own


def test_a_folder_without_mirages_settings_is_refused(tmp_path: Path) -> None:
    processor: Any = AMVLProcessor.from_pretrained(CHECKPOINT)
    peer = MirageModel.from_pretrained(CHECKPOINT, num_latents=1)
    assert peer.num_latents == 1
    with pytest.raises(ValueError, match="with {letter} in the option's place".replace("{", r"\{").replace("}", r"\}")):
        MirageModel(peer.module, processor, reply="A")
    del peer.module.config.latent_start_id
    with pytest.raises(
        ValueError, match="expected a Mirage checkpoint with latent_start_id, latent_end_id and latent_size"
    ):
        MirageModel(peer.module, processor)
    with pytest.raises(FileNotFoundError):
        load_peer(tmp_path / "none", "mirage")

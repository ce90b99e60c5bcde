"""A checkpoint that Coconut's own code trained and wrote gives the numbers that this code computes from it.

The folder coconut was made by tests/coconut_fixture.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.peers import diagnose_peer, load_peer
from amvl_model.diagnostics.peers.coconut import CoconutModel, read_questions
from experiments import diagnose

FOLDER = Path(__file__).parent / "coconut"
CHECKPOINT, BASE, QUESTIONS = FOLDER / "checkpoint_1", FOLDER / "base", FOLDER / "questions.json"
LATENTS = 3


def model() -> CoconutModel:
    return CoconutModel.from_pretrained(CHECKPOINT, base=str(BASE), num_latents=LATENTS)


def reference() -> list[dict[str, Any]]:
    return json.loads((FOLDER / "reference.json").read_text())["questions"]


@torch.inference_mode()
def test_thoughts_and_option_scores_are_those_of_coconuts_own_code() -> None:
    peer, questions, expected = model(), read_questions(QUESTIONS), reference()
    query = peer.encode(questions)  # questions of two lengths in one padded batch; the reference took one at a time
    assert len({int(row.sum()) for row in query.mask}) > 1
    z = peer.latents(query)
    thoughts = torch.tensor([item["thoughts"] for item in expected])
    torch.testing.assert_close(z, thoughts, atol=1e-4, rtol=1e-4)
    scores = peer.option_log_probs(query, z)
    torch.testing.assert_close(scores, torch.tensor([item["log_probs"] for item in expected]), atol=1e-3, rtol=1e-4)
    again = peer.option_log_probs(query, z)  # a pass leaves the encoded question as it was
    assert torch.equal(scores, again)


@torch.inference_mode()
def test_given_latents_take_the_thoughts_place() -> None:
    peer, questions = model(), read_questions(QUESTIONS)[:2]
    query = peer.encode(questions)
    z = peer.latents(query)
    other = peer.option_log_probs(query, z.flip(0))
    assert not torch.allclose(other, peer.option_log_probs(query, z), atol=1e-3)
    alone = [peer.encode([question]) for question in questions]
    swapped = [peer.option_log_probs(alone[0], z[1:]), peer.option_log_probs(alone[1], z[:1])]
    torch.testing.assert_close(other, torch.cat(swapped), atol=1e-4, rtol=1e-4)


def test_prosqa_options_are_the_two_that_the_question_names(tmp_path: Path) -> None:
    first = read_questions(QUESTIONS)[0]
    assert first.choices == ("Tom is a lempus.", "Tom is a yimpus.")
    assert first.choices[first.answer or 0] == json.loads(QUESTIONS.read_text())[0]["answer"]
    sums = [{"question": f"What is {i} + 1?", "answer": f"{i + 1}"} for i in range(5)]
    (tmp_path / "gsm.json").write_text(json.dumps(sums))
    drawn = read_questions(tmp_path / "gsm.json")
    assert all(len(set(q.choices)) == 4 and q.choices[q.answer or 0] == sums[i]["answer"] for i, q in enumerate(drawn))
    assert drawn == read_questions(tmp_path / "gsm.json")
    (tmp_path / "few.json").write_text(json.dumps(sums[:2]))
    with pytest.raises(ValueError, match="at least 4 different answers in the file, got 2"):
        read_questions(tmp_path / "few.json")
    (tmp_path / "few.json").write_text("{}[")
    with pytest.raises(ValueError, match="expected a JSON list"):
        read_questions(tmp_path / "few.json")


def test_one_call_says_whether_the_latents_matter() -> None:
    settings = {"samples": 2, "batch_size": 5, "n_bootstrap": 100, "progress": False}
    result = diagnose_peer(
        CHECKPOINT, "coconut", read_questions(QUESTIONS), base=str(BASE), num_latents=LATENTS, **settings
    )
    report = result.reports["interventions"]
    assert set(report.conditions) == {"prior_mean", "zeroed", "shuffled", "noise"}  # thoughts are computed, not drawn
    rows = [(item["log_probs"], q.answer) for item, q in zip(reference(), read_questions(QUESTIONS), strict=True)]
    nll = sum(-scores[answer or 0] for scores, answer in rows) / len(rows)
    assert report.conditions["prior_mean"].answer_nll.mean == pytest.approx(nll, abs=1e-3)
    assert "latents" in report.verdict
    assert result.refused["contamination"].startswith("not applicable: it needs an answer-dependent posterior")
    assert result.refused["relevance"].startswith("not applicable")


def test_the_script_writes_a_report_of_a_coconut_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"--model-class coconut --checkpoint {CHECKPOINT} --base {BASE} --latents {LATENTS} --path {QUESTIONS}"
    settings = ["--bootstrap", "100", "--no-progress", "--out", str(tmp_path / "out")]
    assert diagnose.main([*arguments.split(), *settings]) == 0
    shown = capsys.readouterr().out
    assert "atents" in shown
    assert "stability was not measured: not applicable" in shown
    data = json.loads((tmp_path / "out" / "diagnostics.json").read_text())["checkpoints"][str(CHECKPOINT)]
    assert data["diagnostics"]["interventions"]["n"] == 12
    assert data["diagnostics"]["contamination"] is None
    assert "Do the latents matter?" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SystemExit) as ended:
        diagnose.main([*arguments.split()[:-2], "--out", str(tmp_path / "other")])
    assert ended.value.code == 2
    assert "needs --path" in capsys.readouterr().err


def test_what_is_no_coconut_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoint_N"):
        load_peer(tmp_path / "none", "coconut")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(ValueError, match=r"expected a state dictionary by torch\.save"):
        load_peer(tmp_path / "text", "coconut", base=str(BASE))
    torch.save({"transformer.wte.weight": torch.zeros(2, 2)}, tmp_path / "plain")
    with pytest.raises(ValueError, match=r"expected weights named base_causallm\."):
        load_peer(tmp_path / "plain", "coconut", base=str(BASE))
    with pytest.raises(ValueError, match="give the folder or hub id that the run's model_id names"):
        load_peer(CHECKPOINT, "coconut")
    stored = torch.load(CHECKPOINT, weights_only=True)
    name = next(n for n in stored if n.endswith("h.0.mlp.c_fc.weight"))
    torch.save({n: v for n, v in stored.items() if n != name}, tmp_path / "cut")
    with pytest.raises(ValueError, match=r"missing or unknown: transformer\.h\.0\.mlp\.c_fc\.weight"):
        load_peer(tmp_path / "cut", "coconut", base=str(BASE))
    with pytest.raises(ValueError, match="expected one of the layouts coconut, mirage, got 'coconot'"):
        load_peer(CHECKPOINT, "coconot")
    image = VisualQuestion(id="p", images=(Image.new("RGB", (8, 8)),), prompt="?", question="?", answer_text="")
    with pytest.raises(ValueError, match="question 'p': expected a text, got images"):
        model().encode([image])

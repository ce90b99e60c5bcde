"""VLMEvalKit drives an AMVL checkpoint; both scores of the same replies are explained.

The first half runs the class against the part of VLMEvalKit's base class that it uses; the second half runs VLMEvalKit itself:

    PYTHONPATH=CLONE python -m pytest -m vlmevalkit tests/model/evaluation/test_vlmevalkit_plugin.py
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from amvl_model.data.schema import LETTERS
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.evaluation.vlmevalkit_plugin.samples import compare, exact_choice, main, read_table
from amvl_model.models.loading import load_checkpoint
from tests.vlmevalkit_run import questions

REPOSITORY = Path(__file__).resolve().parents[3]
CHOICES = ("red", "blue", "green")


class Base:
    """What the class uses of vlmeval.vlm.base.BaseModel."""

    def __init__(self) -> None:
        self.dump_image_func: Any = None

    def set_dump_image(self, function: Any) -> None:
        self.dump_image_func = function

    def dump_image(self, line: Any, dataset: str | None) -> Any:
        return self.dump_image_func(line)


@pytest.fixture
def amvl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class, on stand-ins of VLMEvalKit's modules."""
    base, vlm, data = (types.ModuleType(name) for name in ("vlmeval.vlm.base", "vlmeval.vlm", "vlmeval.dataset"))
    base.BaseModel = Base  # type: ignore[attr-defined]
    data.DATASET_MODALITY = lambda name: "VIDEO" if name == "Video-MME" else "IMAGE"  # type: ignore[attr-defined]
    data.DATASET_TYPE = lambda name: "VQA" if name == "DocVQA" else "MCQ"  # type: ignore[attr-defined]
    package = types.ModuleType("vlmeval")
    package.vlm = vlm  # type: ignore[attr-defined]
    for module in (package, vlm, base, data):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    name = "amvl_model.evaluation.vlmevalkit_plugin.model"
    yield importlib.import_module(name).AMVL
    sys.modules.pop(name)


def test_replies_are_those_of_our_own_evaluation(amvl: Any, tmp_path: Path) -> None:
    model = amvl(pretrained="tiny-amvl", prompt="blink", max_new_tokens=12, device="cpu")
    asked = [q for q in questions() if q.task in ("Counting", "Jigsaw", "Visual_Similarity")]
    files: list[str] = []
    model.set_dump_image(lambda line: files)
    assert model.use_custom_prompt("BLINK")
    assert not model.use_custom_prompt("DocVQA")
    assert not model.use_custom_prompt("Video-MME")
    replies = []
    for number, question in enumerate(asked):
        files[:] = [str(tmp_path / f"{number}_{i}.png") for i in range(len(question.images))]
        for file, image in zip(files, question.images, strict=True):
            image.save(file)
        line = {"question": question.question} | {letter: float("nan") for letter in "ABCD"}
        line |= dict(zip(LETTERS, question.choices, strict=False))
        message = model.build_prompt(line, "BLINK")
        assert message[-1]["value"] == question.prompt
        replies.append(model.generate_inner(message, "BLINK"))
    ours, processor = load_checkpoint("tiny-amvl")
    result = evaluate(ours, processor, asked, scoring=("generation",), max_new_tokens=12, progress=False)
    assert replies == [record.reply for record in result.records]


def test_a_sample_belongs_to_the_question_wherever_its_images_are_kept(
    amvl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = questions()[0]
    model = amvl(pretrained="tiny-amvl", latents="prior", max_new_tokens=12, device="cpu")
    keys: list[str] = []
    replies = model.answerer.replies

    def recorded(asked: Any, given: Any, settings: Any) -> Any:
        keys.extend(given)
        return replies(asked, given, settings)

    monkeypatch.setattr(model.answerer, "replies", recorded)
    for folder, prompt in (("one", question.prompt), ("two", question.prompt), ("one", "Which?")):
        (tmp_path / folder).mkdir(exist_ok=True)
        question.images[0].save(tmp_path / folder / "0.png")
        image = {"type": "image", "value": str(tmp_path / folder / "0.png")}
        model.generate_inner([image, {"type": "text", "value": prompt}], "BLINK")
    assert keys[0] == keys[1] != keys[2]
    assert not model.use_custom_prompt("BLINK")


def test_bad_arguments_are_refused_with_the_way_out(amvl: Any) -> None:
    with pytest.raises(ValueError, match="expected pretrained=DIR, the folder"):
        amvl()
    with pytest.raises(ValueError, match="unknown argument latent=3; did you mean latents"):
        amvl(pretrained="tiny", latent=3)
    with pytest.raises(ValueError, match="prompt must be one of vlmevalkit, blink, got 'own'"):
        amvl(pretrained="tiny", prompt="own")
    with pytest.raises(ValueError, match="dtype must be one of"):
        amvl(pretrained="tiny", dtype="int8")


def test_the_class_is_registered_under_the_name_that_a_configuration_gives(amvl: Any) -> None:
    from amvl_model.evaluation.vlmevalkit_plugin.__main__ import main as start
    from amvl_model.evaluation.vlmevalkit_plugin.__main__ import register

    register()
    assert sys.modules["vlmeval"].vlm.AMVL is amvl
    with pytest.raises(SystemExit, match="PATH is a clone of VLMEvalKit"):
        start(["nowhere/run.py"])


def test_exact_matching_reads_what_vlmevalkit_reads() -> None:
    expected = {
        "B": 1,
        "(C)": 2,
        "The answer is (B).": 1,
        "it is blue": 1,
        "red or blue": None,
        "Z": None,
        "Cannot determine the answer, maybe B": None,
        "<answer>B</answer>": None,
    }
    assert {reply: exact_choice(reply, CHOICES) for reply in expected} == expected


def table(replies: list[str], hits: list[int] | None = None) -> pd.DataFrame:
    rows = [
        {"index": str(i), "prediction": r, "answer": "B", **dict(zip("ABC", CHOICES, strict=True))}
        | {"category": "x" if i else "y"}
        for i, r in enumerate(replies)
    ]
    return pd.DataFrame(rows) if hits is None else pd.DataFrame(rows).assign(hit=[str(h) for h in hits])


def test_every_difference_of_the_two_scores_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = ["(B)", "<answer>B</answer>", "(A)", "nothing of that"]
    result = compare(table(replies), table(replies, [1, 0, 0, 0]))
    assert result.vlmevalkit == {"questions": 0.25, "tasks": 0.5}
    assert result.ours == {"questions": 0.5, "tasks": pytest.approx(2 / 3)}
    assert [(d.index, d.vlmevalkit, d.ours, d.changes_score) for d in result.differences] == [("1", None, 1, True)]
    with pytest.raises(ValueError, match="question 2: VLMEvalKit scored '\\(A\\)' with 1, its rules as described"):
        compare(table(replies), table(replies, [1, 0, 1, 0]))
    for suffix, write in ((".tsv", lambda t, f: t.to_csv(f, sep="\t", index=False)), (".json", pd.DataFrame.to_json)):
        write(table(replies), tmp_path / f"amvl_BLINK{suffix}")
        main([str(tmp_path / f"amvl_BLINK{suffix}")])
        assert "1: VLMEvalKit nothing, parse_choice B: '<answer>B</answer>'" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"expected a table \.xlsx, \.csv, \.json, \.tsv"):
        read_table(tmp_path / "scores.pkl")
    (tmp_path / "other.tsv").write_text("index\tprediction\n1\tyes\n")
    with pytest.raises(ValueError, match="got no column answer, A, B"):
        read_table(tmp_path / "other.tsv")


@pytest.mark.vlmevalkit
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("prompt", ["blink", "vlmevalkit"])
def test_vlmevalkit_itself_runs_to_its_end_and_its_score_is_ours_or_explained(tmp_path: Path, prompt: str) -> None:
    if importlib.util.find_spec("vlmeval") is None:
        pytest.skip("VLMEvalKit is not on the path")
    paths = os.pathsep.join([str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "tests" / "vlmevalkit_run.py"), str(tmp_path), prompt]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])
    predictions = read_table(result["predictions"])
    both = compare(
        predictions, read_table(result["results"])
    )  # raises if its hits are not those of the described rules
    assert both.vlmevalkit["questions"] == pytest.approx(result["overall"])
    model, processor = load_checkpoint("tiny-amvl")
    ours = evaluate(model, processor, questions(), scoring=("generation",), max_new_tokens=12, progress=False)
    replies = {row["index"]: row["prediction"] for row in predictions.to_dict("records")}
    same = [replies[str(i)] == record.reply for i, record in enumerate(ours.records)]
    if prompt == "blink":
        assert all(same)
        right = [r.predicted["generation"] == q.answer for r, q in zip(ours.records, questions(), strict=True)]
        assert both.ours["questions"] == pytest.approx(sum(right) / len(right))
    # no question beyond the named differences is scored differently
    changing = sum(difference.changes_score for difference in both.differences)
    gap = (both.ours["questions"] - both.vlmevalkit["questions"]) * both.n
    assert abs(gap) <= changing + 1e-6
    print(both.table(), "\nsame replies as with BLINK's prompt:", sum(same), "\nabsent packages:", result["absent"])

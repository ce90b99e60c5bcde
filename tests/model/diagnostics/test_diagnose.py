"""The diagnostics report: every figure of the reports is in it, it stands alone, and checkpoints are only read."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amvl_model.commands import diagnose
from amvl_model.data.readers.blink import export_blink_parquet
from amvl_model.data.synthetic import synthetic_blink
from amvl_model.diagnostics import measure_answer_direction, measure_slots
from amvl_model.diagnostics.report.figures import (
    Panel,
    at,
    cell,
    draw_intervals,
    draw_similarity,
    intervals,
    label,
    panels_figure,
    rows,
)
from amvl_model.diagnostics.report.html import report_html, sentences
from amvl_model.diagnostics.report.sections import ABOUT, PANELS, TITLES
from amvl_model.diagnostics.report.suite import DIAGNOSTICS, Plan, run_config
from amvl_model.diagnostics.report.suite import diagnose as run_diagnostics
from tests import helpers
from tests.model.evaluation.test_evaluation import choice_question


def interval(mean: float, unit: str | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 5}
    return result | ({"unit": unit} if unit else {})


def test_every_diagnostic_has_a_title_a_paragraph_and_panels() -> None:
    assert set(DIAGNOSTICS) == set(TITLES) == set(ABOUT) == set(PANELS)


def test_intervals_are_found_wherever_they_stand() -> None:
    data = {"a": {"b": [interval(1.0), None, interval(2.0)]}, "c": 3.0, "d": interval(0.5, "nats")}
    assert [(path, value["mean"]) for path, value in intervals(data)] == [
        (("a", "b", 0), 1.0),
        (("a", "b", 2), 2.0),
        (("d",), 0.5),
    ]
    assert at(data, ("a", "b", 2)) == interval(2.0)
    assert at(data, ("a", "x", 2)) is at(data, ("c", "b")) is at(data, ("a", "b", 9)) is None
    assert label(("forward_kl", 1)) == "forward KL, 2"


def test_what_is_missing_is_a_dash_and_never_a_zero() -> None:
    assert cell(None) == cell({"mean": None, "low": None, "high": None}) == "-"
    assert cell({"mean": 0.25, "low": None, "high": None}) == "0.25"
    assert cell(interval(0.5, "nats")) == "0.5 [0.4, 0.6] nats"
    table = rows({"one": {"x": interval(1.0)}, "two": None, "three": {"y": interval(2.0)}})
    assert [cells for _, cells in table] == [["1 [0.9, 1.1]", "-", "-"], ["-", "-", "2 [1.9, 2.1]"]]


def test_panels_draw_only_what_there_is() -> None:
    panel = Panel("title", "nats", (("one", ("m", "x")), ("gone", ("m", "z")), ("slot", ("list",))))
    data = {"a": {"m": {"x": interval(1.0)}, "list": [interval(1.0), None, interval(3.0)]}, "b": None}
    page = panels_figure(data, [panel, Panel("empty", "nats", (("gone", ("z",)),))])
    assert page is not None
    assert len(page.axes) == 1
    assert [text.get_text() for text in page.axes[0].get_yticklabels()] == ["one", "slot 1", "slot 3"]
    assert page.axes[0].get_xlabel() == "nats"
    assert panels_figure({"a": None}, [panel]) is None


def test_a_point_stands_at_its_mean_in_the_panels_unit() -> None:
    axes = draw_intervals({"a": [interval(0.5)]}, ["row"], Panel("accuracy", "%", (), scale=100))
    assert axes.lines[0].get_xdata()[0] == pytest.approx(50)
    assert draw_similarity([[1.0, 0.2], [0.2, 1.0]], "slots").get_xlabel() == "slot"


def record() -> dict[str, Any]:
    one = {
        "checkpoint": "mine<1>",
        "objective": {"name": "amvl", "beta": 0.003, "gamma": 0.001},
        "diagnostics": {
            "interventions": {"verdict": "They matter.", "conditions": {"zeroed": {"nll_difference": interval(0.7)}}}
        },
        "refused": {},
        "seconds": {"interventions": 1.0},
    }
    other = {
        **one,
        "checkpoint": "b",
        "diagnostics": {"interventions": None},
        "refused": {"interventions": "too few questions"},
    }
    return {
        "config": {"questions_are": "Five questions."},
        "environment": {},
        "checkpoints": {"mine<1>": one, "b": other},
    }


def test_the_page_holds_sentences_figures_and_reasons_and_needs_no_other_file() -> None:
    page = report_html(record())
    assert "They matter." in page
    assert "too few questions" in page
    assert "0.7 [0.6, 0.8]" in page
    assert "mine&lt;1&gt;" in page
    assert "mine<1>" not in page
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert sentences(record()["checkpoints"]) == [("mine<1>", "They matter.")]


def save(folder: Path) -> Path:
    helpers.tiny_model().save_pretrained(folder)
    helpers.processor().save_pretrained(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_checkpoint_is_diagnosed_from_the_command_line_and_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = save(tmp_path / "model"), tmp_path / "out"
    before = digests(checkpoint)
    command = ["--checkpoint", str(checkpoint), "--questions", "4", "--tasks", "Counting", "--bootstrap", "20"]
    command += [
        "--only",
        "contamination",
        "relevance",
        "linear-response",
        "--relevance-questions",
        "1",
        "--n-samples",
        "50",
    ]
    assert diagnose.main([*command, "--out", str(out), "--no-progress"]) == 0
    assert digests(checkpoint) == before
    data = json.loads((out / "diagnostics.json").read_text())
    result = data["checkpoints"][str(checkpoint)]["diagnostics"]
    assert list(result) == ["contamination", "linear-response", "relevance"]
    assert result["contamination"]["measures"]["leaked_information"]["unit"] == "nats"
    assert {"commit", "versions"} <= set(data["environment"])
    assert data["config"]["questions"] == 4
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5  # three pages of panels, one relevance map and its slots
    assert "The posterior reveals" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        diagnose.main([*command, "--out", str(out), "--no-progress"])
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "no/such/folder"], "does not exist"),
        (["--checkpoint", "tiny"], "expected 'amvl'"),
        (["--checkpoint", "tiny-amvl", "tiny-amvl"], "twice"),
        (["--checkpoint", "tiny-amvl", "--questions", "0"], "at least 1"),
        (["--checkpoint", "tiny-amvl", "--tasks", "Countin"], "did you mean 'Counting'"),
        (
            ["--checkpoint", "tiny-amvl", "--source", "blink", "--label-noise", "0.3"],
            "got --source blink; leave them out",
        ),
        (
            ["--checkpoint", "tiny-amvl", "--source", "multihop", "--split", "train"],
            "change the questions of synthetic-blink",
        ),
        (["--checkpoint", "tiny-amvl", "--path", "."], "--path: expected none with synthetic-blink"),
    ],
)
def test_what_cannot_be_diagnosed_is_a_clear_error_and_exit_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        diagnose.main([*arguments, "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_questions_from_a_folder_are_spread_over_its_tasks(tmp_path: Path) -> None:
    records = [synthetic_blink(task, index=i) for task in ("Counting", "Spatial_Relation") for i in range(6)]
    export_blink_parquet(records, tmp_path)
    result = diagnose.held_out(diagnose.Options(checkpoint=("x",), source=str(tmp_path), questions=4))
    assert len(result) == 4
    assert {question.task for question in result} == {"Counting", "Spatial_Relation"}


def test_what_one_diagnostic_refuses_is_noted_and_what_all_refuse_is_an_error(tmp_path: Path) -> None:
    checkpoint = str(save(tmp_path))
    one = [choice_question(1, 3)]
    plan = Plan(questions=one, n_bootstrap=10, n_samples=20, progress=False)
    result = run_diagnostics(checkpoint, ["contamination", "interventions"], plan)
    assert list(result.reports) == ["contamination"]
    assert "at least two questions" in result.refused["interventions"]
    assert result.to_dict()["diagnostics"]["interventions"] is None
    with pytest.raises(ValueError, match="without choices"):
        run_diagnostics(
            checkpoint, ["contamination"], replace(plan, questions=[replace(one[0], choices=(), answer=None)])
        )
    with pytest.raises(ValueError, match="diagnostics must be some of"):
        run_diagnostics(checkpoint, ["leakage"], plan)


def test_shared_posteriors_are_those_of_the_model_at_hand() -> None:
    asked = [choice_question(i, 3) for i in range(2)]
    plan = Plan(questions=asked, training=asked, n_bootstrap=10, n_samples=20, progress=False)
    for seed in (0, 1):
        model = helpers.tiny_model(seed=seed)
        expected = measure_slots(model, helpers.processor(), asked, n_samples=20, **plan.common())
        assert DIAGNOSTICS["slots"](model, helpers.processor(), plan).to_dict() == expected.to_dict()
        shift = measure_answer_direction(model, helpers.processor(), asked, training=asked, **plan.common())
        assert DIAGNOSTICS["answer-direction"](model, helpers.processor(), plan).to_dict() == shift.to_dict()


def test_a_run_is_known_from_its_configuration_beside_the_checkpoint(tmp_path: Path) -> None:
    from amvl_model.models.loading import SHIPPED

    result = run_config(SHIPPED["tiny-amvl"])
    assert result is not None
    assert result.objective.name == "amvl"
    assert run_config(tmp_path) is None


def test_a_weight_that_the_objective_does_not_use_is_a_dash() -> None:
    from amvl_model.diagnostics.report.html import _objective_cells

    weights = {"beta": 0.003, "gamma": 0.001}
    assert _objective_cells({"name": "amvl", **weights}) == ("amvl", "0.003", "0.001")
    assert _objective_cells({"name": "ntp+fwd", **weights}) == ("ntp+fwd", "0.003", "-")
    assert _objective_cells({"name": "ntp+rev", **weights}) == ("ntp+rev", "-", "0.001")
    assert _objective_cells(None) == ("-", "-", "-")

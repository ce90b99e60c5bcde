"""Results as tables: a row per figure, or a row per run; missing values are NaN; earlier files are still read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import amvl_model
from amvl_model.results.files import Metric, ResultError, read_study, result_path, write_result
from amvl_model.results.frame import COLUMNS, tidy, wide
from amvl_model.results.provenance import PROJECT_ROOT
from amvl_model.results.text import RULE, text_table


def _write(root: Path, study: str, gamma: float, seed: int, **metrics: Metric) -> Path:
    cell = f"gamma={gamma:g}"
    config = {"objective": {"name": "amvl", "gamma": gamma}, "data": {"tasks": ["Counting"]}, "steps": 300}
    return write_result(
        result_path(root, study, cell, seed),
        study=study, cell=cell, seed=seed, config=config, metrics=metrics, wall_seconds=None, device="cpu",
    )  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for gamma in (0.1, 0.01):
        for seed in (0, 10, 2):
            leak = Metric(gamma + seed, "nats", low=gamma, high=gamma + 20, n=70)
            _write(tmp_path, "leakage", gamma, seed, leak=leak, accuracy=Metric(None, "fraction"))
    return tmp_path / "leakage"


def test_a_study_is_one_row_per_cell_seed_and_metric_with_the_settings_that_differ(study: Path) -> None:
    table = amvl_model.load_results(study)
    assert [*table] == [*COLUMNS, "objective.gamma"]
    assert table[["cell", "seed"]].drop_duplicates().to_numpy().tolist() == [
        [cell, seed] for cell in ("gamma=0.01", "gamma=0.1") for seed in (0, 2, 10)
    ]
    row = table[(table.cell == "gamma=0.1") & (table.seed == 2) & (table.metric == "leak")].iloc[0]
    assert row.to_dict() == {
        "study": "leakage", "cell": "gamma=0.1", "seed": 2, "metric": "leak", "value": 2.1, "unit": "nats", "low": 0.1,
        "high": 20.1, "n": 70, "objective.gamma": 0.1,
    }  # fmt: skip
    absent = table[table.metric == "accuracy"]
    assert absent[["value", "low", "high", "n"]].isna().all(axis=None) and (absent.unit == "fraction").all()


def test_settings_can_be_chosen_and_one_that_a_run_lacks_is_empty(study: Path) -> None:
    table = amvl_model.load_results(study, settings=["objective.name", "data.tasks", "no.such"])
    assert [*table][len(COLUMNS) :] == ["objective.name", "data.tasks", "no.such"]
    assert set(table["objective.name"]) == {"amvl"} and table["data.tasks"][0] == ["Counting"]
    assert table["no.such"].isna().all()


def test_the_wide_table_has_a_row_per_run(study: Path) -> None:
    runs = wide(amvl_model.load_results(study))
    assert [*runs] == ["study", "cell", "seed", "objective.gamma", "accuracy", "leak"]
    assert runs.leak.tolist() == [0.01, 2.01, 10.01, 0.1, 2.1, 10.1] and runs.accuracy.isna().all()
    assert len(wide(amvl_model.load_results(study, settings=[]))) == 6
    assert wide(tidy([])).empty and [*tidy([])] == [*COLUMNS]


def test_a_folder_of_studies_is_read_whole(study: Path) -> None:
    _write(study.parent, "size", 0.1, 0, leak=Metric(1.0, "nats"))
    (study.parent / "notes").mkdir()
    assert amvl_model.load_results(study.parent).groupby("study").size().to_dict() == {"leakage": 12, "size": 1}


def test_a_name_is_a_study_of_the_project_and_its_files_of_earlier_commits_are_read() -> None:
    table = amvl_model.load_results("pareto")
    results = read_study(PROJECT_ROOT / "results" / "pareto")
    assert {"objective.name", "objective.beta", "objective.gamma"} <= {*table}
    assert len(table) == sum(len(result.metrics) for result in results)
    first = table.iloc[0]
    assert first.value == results[0].metrics[first.metric].value
    pd.testing.assert_frame_equal(table, tidy(results))


def test_missing_folders_and_damaged_files_are_named(study: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no study folder at .*nowhere"):
        amvl_model.load_results(study / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"results/nosuchstudy"):
        amvl_model.load_results("nosuchstudy")
    with pytest.raises(FileNotFoundError, match="contains no result"):
        amvl_model.load_results(study / "gamma=0.1")
    (study / "gamma=0.1" / "seed2.json").write_text("{")
    with pytest.raises(ResultError, match=r"seed2\.json is not complete JSON"):
        amvl_model.load_results(study)


def test_importing_the_package_does_not_import_pandas() -> None:
    code = "import sys, amvl_model, amvl_model.results.files, amvl_model.evaluation; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True)


def test_a_text_table_keeps_numbers_as_written_and_indentation() -> None:
    text = text_table([["a", "1.10"], ["  b", "+2"], RULE, ["mean", "-"]], ["", "x [nats]"])
    assert text.splitlines() == [
        "        x [nats]",
        "----  ----------",
        "a           1.10",
        "  b           +2",
        "----  ----------",
        "mean           -",
    ]

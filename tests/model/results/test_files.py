"""The one result schema: complete, atomic, without machine paths, and clear when a file is none."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amvl_model.results import files as results
from amvl_model.results import provenance as provenance_module
from amvl_model.results.files import (
    SCHEMA_VERSION,
    Metric,
    ResultError,
    read_result,
    read_study,
    result_path,
    write_result,
)


def _write(root: Path, cell: str = "fwd", seed: int = 0, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "study": "pareto",
        "cell": cell,
        "seed": seed,
        "config": {"beta": 0.003, "objective": "amvl"},
        "metrics": {"leaked_information": Metric(0.9, "nats", low=0.8, high=1.0, n=700)},
        "wall_seconds": 12.5,
        "device": "cpu",
        "extra": None,
    }
    return write_result(result_path(root, "pareto", cell, seed), **(settings | changes))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path, extra={"note": "first"})
    assert path == tmp_path / "pareto" / "fwd" / "seed0.json"
    result = read_result(path)
    assert (result.study, result.cell, result.seed) == ("pareto", "fwd", 0)
    assert result.config == {"beta": 0.003, "objective": "amvl"}
    assert result.metrics == {"leaked_information": Metric(0.9, "nats", low=0.8, high=1.0, n=700)}
    assert result.value("leaked_information") == 0.9
    assert result.wall_seconds == 12.5
    assert result.device == "cpu"
    assert result.extra == {"note": "first"}
    assert datetime.datetime.fromisoformat(result.created).tzinfo is not None


def test_file_holds_every_field_of_the_schema(tmp_path: Path) -> None:
    record = json.loads(_write(tmp_path).read_text())
    assert record["schema_version"] == SCHEMA_VERSION
    assert {"config", "seed", "commit", "dirty", "versions", "device", "wall_seconds", "metrics"} <= record.keys()
    assert record["metrics"]["leaked_information"].keys() == {"value", "unit", "low", "high", "n"}
    assert {"python", "numpy", "torch", "transformers"} <= record["versions"].keys()


def test_missing_figures_are_null(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        metrics={"nll": Metric(math.nan, "nats", low=-math.inf), "kl": Metric(None, "nats")},
        wall_seconds=None,
        extra={"curve": [1.0, math.nan, math.inf]},
    )
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    result = read_result(path)
    assert result.value("nll") is None
    assert result.metrics["nll"].low is None
    assert result.value("kl") is None
    assert result.wall_seconds is None
    assert result.extra["curve"] == [1.0, None, None]


def test_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = _write(tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        _write(tmp_path, wall_seconds=1.0)
    assert path.read_bytes() == before
    _write(tmp_path, wall_seconds=1.0, overwrite=True)
    assert read_result(path).wall_seconds == 1.0


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(results.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        _write(tmp_path, overwrite=True)
    with pytest.raises(TypeError, match=r"extra.*object"):
        _write(tmp_path, overwrite=True, extra={"thing": object()})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_file_holds_no_machine_paths(tmp_path: Path) -> None:
    root = provenance_module.PROJECT_ROOT
    path = _write(
        tmp_path,
        config={
            "out": tmp_path / "run7",
            "text": str(root / "runs" / "a" / "model.safetensors"),
            "hub": "Qwen/Qwen2.5-VL-7B-Instruct",
            "home": "~/models/base",
            "relative": Path("runs/b"),
            "windows": r"C:\Users\me\base",
            "fraction": "1/2 and/or 3/4",
            "url": "https://arxiv.org/abs/2607.00461",
        },
        extra={
            "command": f"python {root}/experiments/full_blink.py --out {tmp_path}/x --base={Path.home()}/base",
            str(root / "runs" / "key"): 1,
        },
        device="cpu",
    )
    text = path.read_text()
    for machine in (str(tmp_path), str(root), str(Path.home()), "Users"):
        assert machine == "/" or machine not in text
    result = read_result(path)
    assert result.config == {
        "out": "run7",
        "text": "runs/a/model.safetensors",
        "hub": "Qwen/Qwen2.5-VL-7B-Instruct",
        "home": "base",
        "relative": "runs/b",
        "windows": "base",
        "fraction": "1/2 and/or 3/4",
        "url": "https://arxiv.org/abs/2607.00461",
    }
    assert result.extra == {"command": "python experiments/full_blink.py --out x --base=base", "runs/key": 1}


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no result file at .*seed3\.json"):
        read_result(tmp_path / "seed3.json")


def test_half_written_file_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ResultError, match="not complete JSON"):
        read_result(path)
    path.write_text("")
    with pytest.raises(ResultError, match="not complete JSON"):
        read_result(path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"schema_version": 99}))
    with pytest.raises(ResultError, match="schema version 99, this code reads 1 and 2"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": None}, "schema version None"),
        ({"config": ...}, "lacks config"),
        ({"metrics": {"a": 0.5}}, "invalid metric"),
        ({"metrics": {"a": {"value": 0.5}}}, "invalid metric"),
        ({"metrics": [1]}, "invalid metric"),
    ],
)
def test_json_that_is_no_result_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = _write(tmp_path)
    record = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: item for name, item in record.items() if item is not ...}))
    with pytest.raises(ResultError, match=message):
        read_result(path)
    path.write_text("[1, 2]")
    with pytest.raises(ResultError, match="no schema_version"):
        read_result(path)


def test_nan_in_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path)
    path.write_text(path.read_text().replace("0.9", "NaN"))
    with pytest.raises(ResultError, match="NaN"):
        read_result(path)


def _edited(path: Path, version: int = SCHEMA_VERSION, **changes: Any) -> Path:
    """A file with other entries under its old digests, or, as version 1, without any."""
    record = json.loads(path.read_text()) | {"schema_version": version} | changes
    if version == 1:
        del record["config_sha256"], record["metrics_sha256"]
    path.write_text(json.dumps(record))
    return path


def _stored(value: object, unit: str = "fraction", **rest: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "low": None, "high": None, "n": None} | rest


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("accuracy", _stored(7.5), "value from 0 to 1 fraction, got 7.5"),
        ("accuracy.Counting", _stored(-0.1), "from 0 to 1"),
        ("shuffled.accuracy", _stored(0.5, high=1.2), "high from 0 to 1"),
        ("accuracy", _stored(95.0, "%"), "expected the unit 'fraction', got '%'"),
        ("zeroed.accuracy_difference", _stored(-12.0), "from -1 to 1"),
        ("answer_nll", _stored(-0.2, "nats"), "from 0 to inf"),
        ("answer_nll", _stored(0.2, "bits"), "expected the unit 'nats'"),
        ("held_out.leaked_information", _stored(-0.4, "nats"), "from -0.05"),
        ("median_seconds", _stored(-1.0, "s"), "from 0 to inf s"),
        ("a", _stored("0.5"), "number or None, got '0.5'"),
        ("a", _stored(True), "number or None, got True"),
        ("a", _stored(0.5, n=1.5), "integer of at least 0"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_files_of_both_versions_and_on_writing(
    tmp_path: Path, name: str, metric: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        _write(tmp_path, metrics={name: Metric(**metric)})
    assert not [*tmp_path.rglob("*.json")]
    for version in (1, 2):
        path = _edited(_write(tmp_path, overwrite=True), version, metrics={name: metric})
        with pytest.raises(ResultError, match=message):
            read_result(path)


def test_differences_and_gaps_may_be_negative(tmp_path: Path) -> None:
    signed = {"zeroed.accuracy_difference": Metric(-0.4, "fraction"), "shuffled.nll_difference": Metric(-3.0, "nats")}
    assert read_result(_write(tmp_path, metrics=signed)).metrics == signed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"leaked_information": _stored(0.1, "nats")}}, "metrics_sha256 does not fit"),
        ({"config": {"beta": 0.01}}, "config_sha256 does not fit its config"),
        ({"seed": 1}, "metrics_sha256 does not fit"),
        ({"cell": "amvl"}, "metrics_sha256 does not fit"),
    ],
)
def test_a_file_changed_after_it_was_written_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        read_result(_edited(_write(tmp_path), **change))


def test_a_file_without_digests_is_read_if_its_version_has_none(tmp_path: Path) -> None:
    assert read_result(_edited(_write(tmp_path), 1)).value("leaked_information") == 0.9
    path = _edited(_write(tmp_path, seed=1), 1)
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ResultError, match="lacks config_sha256, metrics_sha256"):
        read_result(path)


@pytest.mark.parametrize("place", ["pareto/fwd/seed1.json", "pareto/amvl/seed0.json", "leakage/fwd/seed0.json"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_under_the_path_of_another_run_is_refused(tmp_path: Path, place: str, version: int) -> None:
    path = _edited(_write(tmp_path), version)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(ResultError, match="contains the run pareto/fwd/seed0; move it to pareto/fwd/seed0.json"):
        read_result(path.rename(tmp_path / place))
    assert read_result((tmp_path / place).rename(tmp_path / "copy.json")).seed == 0  # a name that says nothing


def test_a_config_that_trains_with_another_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="of seed 0, but its config trains with seed 3"):
        read_result(_write(tmp_path, config={"train": {"seed": 3}}))


def test_study_is_read_by_cell_and_then_by_seed_as_a_number(tmp_path: Path) -> None:
    for cell, seed in [("fwd", 10), ("fwd", 2), ("amvl", 0)]:
        _write(tmp_path, cell=cell, seed=seed)
    (tmp_path / "pareto" / "fwd" / "seed2.csv").write_text("step,loss\n")
    (tmp_path / "pareto" / "summary.json").write_text("{}")
    study = read_study(tmp_path / "pareto")
    assert [(result.cell, result.seed) for result in study] == [("amvl", 0), ("fwd", 2), ("fwd", 10)]


def test_missing_or_empty_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no study folder"):
        read_study(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="contains no result"):
        read_study(tmp_path)


def test_missing_metric_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="leaked_information"):
        read_result(_write(tmp_path)).value("accuracy")


def test_metrics_need_a_unit_and_an_ordered_interval(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unit"):
        Metric(1.0, "")
    with pytest.raises(ValueError, match="low <= high"):
        Metric(1.0, "nats", low=2.0, high=1.0)
    with pytest.raises(ValueError, match="integer of at least 0"):
        Metric(1.0, "nats", n=-1)
    with pytest.raises(TypeError, match="Metric with a unit"):
        _write(tmp_path, metrics={"accuracy": 0.5})
    assert not (tmp_path / "pareto").exists()


@pytest.mark.parametrize(("study", "cell", "seed"), [("a/b", "c", 0), ("a", "..", 0), ("a", "", 0), ("a", "c", -1)])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, study: str, cell: str, seed: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        result_path(tmp_path, study, cell, seed)


def test_results_and_evaluation_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, amvl_model.results.files, amvl_model.evaluation;"
        "sys.exit(str([m for m in ('torch', 'transformers') if m in sys.modules] or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=provenance_module.PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "", done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("wall_seconds", "fast"), ("wall_seconds", -5), ("wall_seconds", True), ("commit", 5), ("dirty", "no")],
)
def test_what_stands_beside_the_metrics_has_its_type(tmp_path: Path, name: str, value: Any) -> None:
    path = write_result(
        result_path(tmp_path, "study", "cell", 0),
        study="study",
        cell="cell",
        seed=0,
        config={},
        wall_seconds=1.0,
        device="cpu",
        metrics={"accuracy": Metric(0.5, "fraction")},
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ResultError, match=f"expected {name} as a .* or null, got {value!r}"):
        read_result(path)
    path.write_text(path.read_text().replace("0.5", "1e999"))
    with pytest.raises(ResultError, match="1e999 is no finite number"):
        read_result(path)

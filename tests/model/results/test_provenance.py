"""Settings of all kinds become plain data, and every result names the commit of its code."""

from __future__ import annotations

import datetime
import enum
import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from amvl_model.results import provenance as provenance_module
from amvl_model.results.provenance import provenance, to_jsonable


def test_values_of_all_kinds_become_plain() -> None:
    @dataclass
    class Setting:
        rate: float
        sizes: tuple[int, ...]

    class Mode(enum.Enum):
        FAST = "fast"

    value = {
        "setting": Setting(rate=0.1, sizes=(1, 2)),
        "mode": Mode.FAST,
        3: np.float32(0.5),
        "array": np.array([[1.0, np.nan]]),
        "integer": np.int64(7),
        "flag": np.bool_(True),
        "path": Path("a") / "b",
        "set": {"b", "a"},
        "day": datetime.date(2026, 1, 2),
        "range": range(2),
        "none": None,
    }
    expected = {
        "setting": {"rate": 0.1, "sizes": [1, 2]},
        "mode": "fast",
        "3": 0.5,
        "array": [[1.0, None]],
        "integer": 7,
        "flag": True,
        "path": "a/b",
        "set": ["a", "b"],
        "day": "2026-01-02",
        "range": [0, 1],
        "none": None,
    }
    plain = to_jsonable(value)
    assert plain == expected
    assert json.loads(json.dumps(plain, allow_nan=False)) == expected


def test_values_that_mean_nothing_in_json_are_refused_with_their_place() -> None:
    with pytest.raises(TypeError, match=r"value\['a'\]\[1\].*builtins\.object"):
        to_jsonable({"a": [1, object()]})
    with pytest.raises(TypeError, match="keys"):
        to_jsonable({None: 1})


def test_tensors_and_dtypes_become_plain() -> None:
    torch = pytest.importorskip("torch")
    value = {"t": torch.tensor([1.0, math.inf]), "dtype": torch.bfloat16, "device": torch.device("cpu")}
    assert to_jsonable(value) == {"t": [1.0, None], "dtype": "torch.bfloat16", "device": "cpu"}


def _repository(folder: Path) -> None:
    for arguments in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first", "--no-verify"],
    ):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def test_provenance_names_the_commit_and_notices_changed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code.py").write_text("a = 1\n")
    _repository(tmp_path)
    monkeypatch.setattr(provenance_module, "PROJECT_ROOT", tmp_path.resolve())
    clean = provenance()
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "seed0.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    assert provenance()["dirty"] is False
    (tmp_path / "new.py").write_text("b = 1\n")
    assert provenance()["dirty"] is True
    (tmp_path / "new.py").unlink()
    (tmp_path / ".git" / "info" / "exclude").write_text("local*\n__pycache__/\n")
    (tmp_path / "amvl_model" / "__pycache__").mkdir(parents=True)
    (tmp_path / "amvl_model" / "__pycache__" / "a.pyc").write_text("")
    (tmp_path / "local.py").write_text("")  # ignored, and outside the packages
    assert provenance()["dirty"] is False
    (tmp_path / "amvl_model" / "local.py").write_text("")
    assert provenance()["dirty"] is True
    (tmp_path / "amvl_model" / "local.py").unlink()
    (tmp_path / "code.py").write_text("a = 2\n")
    assert provenance()["dirty"] is True


def test_provenance_outside_git_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance_module, "PROJECT_ROOT", tmp_path.resolve())
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    result = provenance()
    assert (result["commit"], result["dirty"]) == (None, None)
    assert result["versions"]["numpy"] == np.__version__


def test_provenance_inside_another_repository_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("")
    _repository(tmp_path)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance_module, "PROJECT_ROOT", (tmp_path / "site-packages").resolve())
    assert provenance()["commit"] is None


def test_provenance_without_git_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance()["commit"] is None

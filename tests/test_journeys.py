"""What journeys.py counts: calls from file to file, seen through libraries, whatever the number of calls within a file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import journeys
from tests.journeys import JOURNEYS, count_moves, modules_behind_loading, walked

CALLEE = """
def plain():
    return helper()

def helper():
    return 1

def numbers():
    yield 1
    yield 2

class Thing:
    @property
    def size(self):
        return 3
"""
CALLER = """
import functools
import callee

def twice():
    return callee.plain() + callee.plain()

def resumed():
    return list(callee.numbers())

def property_of():
    return callee.Thing().size

def through_a_library():
    return functools.reduce(lambda a, b: callee.plain(), [0, 1, 2])

def within():
    return inner()

def inner():
    return 0
"""


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "callee.py").write_text(CALLEE)
    (tmp_path / "caller.py").write_text(CALLER)
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.spec_from_file_location("caller", tmp_path / "caller.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("callee", None)


@pytest.mark.parametrize(
    ("name", "moves"), [("twice", 2), ("resumed", 3), ("property_of", 1), ("through_a_library", 2), ("within", 0)]
)
def test_a_move_is_a_call_from_one_file_into_another(caller: Any, tmp_path: Path, name: str, moves: int) -> None:
    result = count_moves(getattr(caller, name), (tmp_path,))
    assert result.moves.total() == result.direct.total() == moves
    assert len(result.files) == (2 if moves else 1)
    assert result.to_dict()["files"].keys() == set(result.files)


def test_a_call_that_comes_back_through_a_library_is_a_move_of_the_project_but_not_a_direct_one(
    caller: Any, tmp_path: Path
) -> None:
    library = "def apply(function):\n    return function()\n"
    space: dict[str, Any] = {}
    exec(compile(library, "library.py", "exec"), space)
    caller.apply, plain = space["apply"], sys.modules["callee"].plain
    exec(compile("def back():\n    return apply(plain)\n", str(tmp_path / "caller.py"), "exec"), caller.__dict__)
    caller.plain = plain
    result = count_moves(caller.back, (tmp_path,))
    assert (result.moves.total(), result.direct.total()) == (1, 0)


def test_the_trace_function_is_put_back_even_after_an_error() -> None:
    before = sys.gettrace()
    with pytest.raises(ZeroDivisionError):
        count_moves(lambda: 1 / 0)
    assert sys.gettrace() is before


@pytest.mark.parametrize("name", [name for name in JOURNEYS if name != "training run"])
def test_a_journey_is_walked_and_its_count_is_the_same_again(name: str) -> None:
    result = walked(name)
    assert result.moves.total() >= result.direct.total() > 0
    assert len(result.files) > 3 and not any(Path(file).is_absolute() for file in result.files)
    assert result.moves == walked(name).moves


@pytest.mark.parametrize(
    ("name", "moves", "files"), [("batch", 90, 12), ("training step", 200, None), ("diagnostics", 300, None)]
)
def test_a_journey_stays_within_its_moves(name: str, moves: int, files: int | None) -> None:
    result = walked(name)
    assert result.moves.total() <= moves
    assert files is None or len(result.files) <= files


def test_loading_a_checkpoint_imports_no_trainer_and_no_parquet_reader() -> None:
    modules = modules_behind_loading()
    assert "amvl_model" in modules
    assert not [name for name in modules if "trainer" in name or "training" in name or "parquet" in name]


def test_the_table_names_every_journey(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(journeys, "walked", lambda name: journeys.Count())
    monkeypatch.setattr(journeys, "modules_behind_loading", lambda: ["amvl_model"])
    assert journeys.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in JOURNEYS) and "1 modules" in printed

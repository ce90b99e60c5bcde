"""The pages of docs/: every Python block runs, and every shell command names options that its program has."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {str(path.relative_to(ROOT / "docs")): path for path in sorted((ROOT / "docs").rglob("*.md"))}
BLOCK = re.compile(r"^```(python|sh|json)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = ("cd", "pip")


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(PAGES[page].read_text()) if kind == language]


def with_blocks(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def registry() -> Any:
    from amvl_model.objectives import OBJECTIVES

    before = dict(OBJECTIVES)
    yield
    OBJECTIVES.clear()
    OBJECTIVES.update(before)


@pytest.mark.parametrize("page", with_blocks("python"))
def test_every_python_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": f"docs_{page}"}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page}, block {number}", "exec"), space)


@pytest.mark.parametrize("page", with_blocks("sh"))
def test_every_command_has_its_program_and_options(page: str) -> None:
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert problem(words) is None, f"{page}: {line}: {problem(words)}"


def test_the_check_of_commands_finds_wrong_ones() -> None:
    assert problem(shlex.split("amvl gamma --run RUN --until 3")) is None
    for wrong in (
        "amvl gamma --ruin RUN",
        "amvl grow",
        "make dinner",
        "python experiments/none.py",
        "pythom x",
        "ls -l",
    ):
        assert problem(shlex.split(wrong)), wrong


def test_json_lines_of_the_tutorial_are_questions(tmp_path: Path) -> None:
    from PIL import Image

    from amvl_model import load_questions

    (line,) = blocks("tutorial.md", "json")
    Image.new("RGB", (56, 56)).save(tmp_path / "cup-0.png")
    (tmp_path / "q.jsonl").write_text(line)
    (question,) = load_questions(str(tmp_path / "q.jsonl"))
    assert question.answer_text == "(A)"


def problem(words: list[str]) -> str | None:
    """What is wrong with a command line; None if nothing."""
    if words[0] in SHELL:
        return None
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return None if words[1] in targets else f"no target {words[1]}"
    if words[0] == "torchrun":
        first = next(i for i, word in enumerate(words) if word == "-m" or word.endswith(".py"))
        words = ["python", *words[first:]]
    if words[:3] == ["python", "-m", "amvl_model.cli"]:
        words = ["amvl", *words[3:]]
    if words[0] == "amvl":
        program, rest = ("-m", "amvl_model.cli", words[1]), words[2:]
    elif words[0] == "python" and words[1] == "-m":
        program, rest = ("-m", words[2]), words[3:]
    elif words[0] == "python":
        program, rest = (words[1],), words[2:]
    else:
        return f"unknown program {words[0]}"
    status, text = help_of(*program)
    if status:
        return text.strip()[-200:]
    options = [word.split("=")[0] for word in rest if word.startswith("--")]
    missing = [option for option in options if not re.search(rf"{re.escape(option)}(?![\w.-])", text)]
    return f"no option {', '.join(missing)}" if missing else None


@cache
def help_of(*program: str) -> tuple[int, str]:
    """Exit status and text of --help."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *program, "--help"], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=100
    )
    return done.returncode, done.stdout + done.stderr

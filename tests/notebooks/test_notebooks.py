"""The notebooks: stored with outputs of one clean run, thin, and (marked slow) executed from an empty kernel."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from notebooks.execute import (NOTEBOOKS, chosen, execute, machine_paths, main)
from notebooks.views import (studies)

nbformat = pytest.importorskip("nbformat", reason="nbformat reads the notebooks: pip install -e .[notebooks]")

NAMES = (
    "01_theory_by_hand",
    "02_leakage_simulation",
    "03_train_a_tiny_amvl",
    "04_contamination",
    "05_stability",
    "06_theory_meets_model",
)
LIMITS = {name: 300 if name.startswith("03") else 120 for name in NAMES}
"""Seconds on two idle cores; tests allow four times as much, because they share theirs."""
SLACK = 4


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def images(cells: list[Any]) -> list[bytes]:
    """All PNG images of some cells."""
    found = [
        output["data"]["image/png"]
        for cell in cells
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    return [base64.b64decode(each) for each in found]


def test_these_are_all_notebooks() -> None:
    assert [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_valid_and_holds_the_outputs_of_one_clean_run(name: str) -> None:
    book = read(name)
    nbformat.validate(book)
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    for cell in code(book):
        assert cell.source.strip()
        kinds = [output.get("name", output.output_type) for output in cell.outputs]
        assert not {"error", "stderr"} & set(kinds), f"{name}: {cell.source!r} wrote to stderr or failed"
        assert "execution" not in cell.metadata
    assert all(cell.outputs for cell in code(book)[1:]), f"{name}: a cell after the first shows nothing"
    assert len(images(code(book))) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_names_no_machine(name: str) -> None:
    book = read(name)
    assert machine_paths(book) == []
    assert set(book.metadata) <= {"kernelspec", "language_info", "widgets"}
    assert book.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_with_what_is_learnt_and_closes_with_what_to_try(name: str) -> None:
    book = read(name)
    assert book.cells[0].cell_type == book.cells[-1].cell_type == "markdown"
    assert book.cells[0].source.startswith(f"# {name[:2]} ") and "**At the end you will know**" in book.cells[0].source
    assert book.cells[-1].source.startswith("## What to try next\n")
    assert 'sys.path.insert(0, "..")' in code(book)[0].source


@pytest.mark.parametrize("name", NAMES[1:5])
def test_a_notebook_tells_what_was_seen_in_numbers_that_it_computed(name: str) -> None:
    last = code(read(name))[-1]
    (told,) = [output["data"]["text/markdown"] for output in last.outputs if "text/markdown" in output.get("data", {})]
    numbers = re.findall(r"\d+\.\d+", told)
    assert len(numbers) >= 4
    assert sum(number in last.source for number in numbers) <= 1, "typed, not computed"


@pytest.mark.parametrize("name", NAMES[1:5])
def test_equations_are_typeset(name: str) -> None:
    prose = "".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    assert not re.search(r"KL\([pq] \|\| [pq]\)|(?<!\\)\b(beta|gamma) = |\n    L = ", prose)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_prose_and_calls_but_no_logic(name: str) -> None:
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.Try, ast.With)
    for cell in code(read(name)):
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, forbidden)]
        assert not found, f"{name}: {ast.unparse(found[0])} belongs in a tested module"
        assert len(cell.source.splitlines()) <= 15


@pytest.mark.parametrize("name", NAMES[3:])
def test_the_reader_names_the_checkpoints_in_the_first_code_cell(name: str) -> None:
    assert "CHECKPOINTS = checkpoints.chosen()" in code(read(name))[0].source


SHOWN = {
    "pareto_figure": ("pareto",),
    "pareto_verdict": ("pareto",),
    "main_job_table": ("main_job",),
    "against_gamma": ("leakage", "objectives"),
    "noise_figure": ("leakage",),
    "objectives_figure": ("leakage",),
    "prediction_summary": ("prediction",),
}
"""Results that a function of `studies` shows."""
TEXTS = {
    "pareto_verdict": lambda: [studies.pareto_verdict()],
    "main_job_table": lambda: [studies.main_job_table()],
    "prediction_summary": lambda: [each for each in studies.prediction_summary() if isinstance(each, str)],
}
"""What those that return texts return."""


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_show_the_results_that_are_shipped(name: str) -> None:
    """Every cell that shows results prints their source line, whose digest covers every value, and the texts made of them; a
    sentence of the closing page, which quotes them, may rely on a cell before it."""
    cells = code(read(name))
    before = ""
    for cell in cells:
        own = "".join(output.get("text", "") for output in cell.outputs)
        before += own
        printed = before if "Markdown(" in cell.source else own
        calls = {node.attr for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Attribute)} & set(SHOWN)
        for call in calls:
            for study in SHOWN[call]:
                assert studies.source(study) in printed, f"{name} is stale: run python notebooks/execute.py {name[:2]}"
            for text in TEXTS.get(call, list)():
                assert text in printed, f"{name}: the stored output of {call} is not that of results/"


def test_every_view_of_results_is_checked_and_used() -> None:
    used = {
        node.attr
        for name in NAMES
        for cell in code(read(name))
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "studies"
    }
    assert used - {"source", "STABILITY_PANELS", "root"} == set(SHOWN)


def test_the_notebooks_are_small() -> None:
    assert sum((NOTEBOOKS / f"{name}.ipynb").stat().st_size for name in NAMES) < 4_500_000


def test_paths_of_a_machine_are_found_in_outputs_and_not_in_images() -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x")])
    book.cells[0].outputs = [
        nbformat.v4.new_output("stream", text="read /home/me/amvl/x.json\n"),
        nbformat.v4.new_output("display_data", data={"image/png": "/tmp/in/base64"}),
    ]
    assert machine_paths(book) == ["/home/me/amvl/x.json"]


def test_a_name_that_fits_no_notebook_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert [path.stem for path in chosen(["04", "01"])] == [NAMES[0], NAMES[3]]
    assert main(["07"]) == 2
    assert "04_contamination.ipynb" in capsys.readouterr().err


def run(name: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Any:
    """Execute a stored notebook from an empty kernel with some environment variables."""
    pytest.importorskip("nbclient", reason="needs pip install -e .[notebooks]")
    for key in ("AMVL_CHECKPOINTS", "AMVL_QUESTIONS", "AMVL_RESULTS"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return execute(NOTEBOOKS / f"{name}.ipynb", timeout=SLACK * LIMITS[name])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_an_empty_kernel_within_its_time(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    began = time.perf_counter()
    book = run(name, monkeypatch)
    took = time.perf_counter() - began
    assert took < SLACK * LIMITS[name]
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    assert machine_paths(book) == []
    assert len(images(code(book))) == len(images(code(read(name))))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_another_checkpoint_and_other_results_change_the_figures_of_04(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = {"AMVL_QUESTIONS": "14"}
    pair = run("04_contamination", monkeypatch, **few)
    one = run("04_contamination", monkeypatch, **few, AMVL_CHECKPOINTS="tiny-amvl", AMVL_RESULTS=str(tmp_path))
    again = run("04_contamination", monkeypatch, **few)
    digests = [[hashlib.sha256(each).hexdigest() for each in images(code(book))] for book in (pair, one, again)]
    assert digests[0] == digests[2], "the same data must give the same images"
    assert not set(digests[0][:5]) & set(digests[1][:5])
    said = "".join(output.get("text", "") for cell in code(one) for output in cell.outputs)
    assert "results/main_job is not there; make it with: python experiments/full_blink.py" in said
    assert "Traceback" not in said and str(tmp_path) not in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_checkpoint_that_is_not_there_stops_the_notebook_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="nowhere") as caught:
        run(
            "06_theory_meets_model",
            monkeypatch,
            AMVL_CHECKPOINTS="nowhere" + os.pathsep + "tiny-amvl",
            AMVL_QUESTIONS="14",
        )
    assert "FileNotFoundError" in str(caught.value)

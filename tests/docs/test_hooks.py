"""What docs/hooks.py makes from the code."""

from __future__ import annotations

import html
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amvl_theory.theorems import prove_all
from amvl_theory.theorems.proving.core import latex_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_statement_has_all_equations_that_its_words_quote_and_all_conditions(hooks: Any) -> None:
    (theorem,) = prove_all(["T2"])
    text = hooks.statement(theorem)
    assert text.startswith(f"## T2 {theorem.title}")
    assert all(
        f"${latex_of(theorem.equations[label])}$" in text
        for label in theorem.equations
        if f"{{{label}}}" in theorem.words
    )
    assert all(f"${item.latex}$" in text for item in theorem.assumptions)


def test_a_statement_that_failed_or_lacks_an_equation_is_not_published(hooks: Any) -> None:
    (theorem,) = prove_all(["T2"])
    with pytest.raises(ValueError, match="no check was run"):
        hooks.statement(replace(theorem, checks=()))
    with pytest.raises(ValueError, match="was not proven"):
        hooks.statement(replace(theorem, equations={}))


def test_words_of_a_statement_become_formulas_and_plain_text(hooks: Any) -> None:
    assert hooks.formulas("KL(q_y||p) falls with gamma") == r"KL($q_{y}$\|\|p) falls with $\gamma$"
    assert hooks.formulas("s < 1 and d_p*x") == r"s &lt; 1 and $d_{p}$\*x"


def test_links_lead_to_pages_or_become_paths_and_code_stays(hooks: Any) -> None:
    text = "[results](RESULTS.md#a), [`LOG.md`](LOG.md), [code](amvl_model/objectives.py) and `[x](y)`"
    expected = "[results](findings.md#a), `LOG.md`, code (`amvl_model/objectives.py`) and `[x](y)`"
    assert hooks.site_links(text, "changelog.md", ".") == expected
    assert hooks.site_links("[t](../theory.md)", "howto/lora.md", "docs/howto") == "[t](../theory.md)"
    with pytest.raises(FileNotFoundError, match="no_such_file"):
        hooks.site_links("[x](no_such_file.md)", "changelog.md", ".")


def test_a_page_that_includes_a_file_has_its_text_and_its_links_count_from_there(hooks: Any) -> None:
    text, page, folder = hooks.included("findings.md", "<!-- include RESULTS.md -->\n")
    assert text == (ROOT / "RESULTS.md").read_text() and (page, folder) == ("findings.md", ".")
    assert hooks.included("gamma.md", "text") == ("text", "gamma.md", "docs")
    assert "results/leakage_sim/reading.png" in hooks.images("gamma.md")


def test_every_public_name_has_one_place_in_the_reference(hooks: Any) -> None:
    pytest.importorskip("griffe", reason="needs the extra docs")
    import amvl_model
    import amvl_theory

    pages = hooks.api_pages()
    entries = [
        line.removeprefix("::: ") for page in pages.values() for line in page.splitlines() if line.startswith("::: ")
    ]
    assert len(entries) == len(set(entries))
    assert "amvl_model.training.run_folder.newest_checkpoint" in entries  # of a sub-package without __all__
    for package in (amvl_model, amvl_theory):
        for name in set(package.__all__) - {"__version__"}:
            assert any(entry.endswith(f".{name}") for entry in entries), name


def test_a_formula_becomes_mathml(hooks: Any) -> None:
    pytest.importorskip("latex2mathml", reason="needs the extra docs")
    page = '<p><span class="arithmatex">\\(\\gamma &lt; 1\\)</span></p>'
    found = html.unescape(hooks.on_page_content(page))
    assert "<mi>γ</mi><mo><</mo><mn>1</mn>" in found and "arithmatex" not in found

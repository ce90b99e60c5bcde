"""The proofs: every statement verified, failures reported; conditions decided on instances."""

from __future__ import annotations

import ast
import math
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
import sympy as sp
from sympy.core.cache import clear_cache

import amvl_theory.theorems
from amvl_theory import MeanLeakageModel
from amvl_theory.theorems import (
    THEOREMS,
    Assumption,
    Proof,
    Theorem,
    latex_document,
    prove_all,
    table,
    theorem,
    with_table,
)
from amvl_theory.theorems.__main__ import main
from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import KINDS, SYMBOLIC, escape_latex, is_zero, plain_text
from amvl_theory.theorems.proving.free_variances.per_answer import balanced_information, per_answer_spread
from amvl_theory.theorems.proving.free_variances.several_modes import coupled_modes
from amvl_theory.theorems.proving.gaussian import StopGradient, kl, one_mode_gradients
from amvl_theory.theorems.t9_beyond import linear_range, mixture_pull, saturating_response
from amvl_theory.titles import TITLES
from amvl_theory.verification.statements import STATEMENTS

_USED: list[float] = []  # processor seconds of the one run of all proofs


@pytest.fixture(scope="module")
def proven() -> list[Theorem]:
    start = time.thread_time()
    theorems = prove_all()
    _USED.append(time.thread_time() - start)
    return theorems


# All statements


@pytest.mark.parametrize("name", list(THEOREMS))
def test_the_statement_is_verified(proven: list[Theorem], name: str) -> None:
    item = next(item for item in proven if item.name == name)
    assert item.verified, item.failed
    assert item.statement and item.assumptions and item.steps
    assert all(check.name and check.kind in KINDS for check in item.checks)
    assert len({check.name for check in item.checks}) == len(item.checks)


def test_there_are_twelve_statements_in_order(proven: list[Theorem]) -> None:
    assert [item.name for item in proven] == [f"T{k}" for k in range(1, 13)]


def test_statements_quote_every_equation_that_was_proven_and_write_none_themselves(proven: list[Theorem]) -> None:
    for item in proven:
        quoted = [label for _, label, _, _ in Formatter().parse(item.words) if label]
        assert sorted(quoted) == sorted(item.equations) and quoted, item.name
        assert "not proven" not in item.statement and "{" not in item.statement
        for equation in item.equations.values():
            assert plain_text(equation) in item.statement and plain_text(equation) not in item.words
            assert any(check.name.endswith(plain_text(equation)) for check in item.checks)
        assert item.formula.count(" \\\\\n") == len(item.equations) - 1
        assert item.beyond


def test_no_check_compares_an_expression_with_itself() -> None:
    places = {"equal": slice(1, 3), "sign": slice(1, 3), "state": slice(2, 4)}
    files = sorted(Path(amvl_theory.theorems.__file__).parent.rglob("*.py"))
    calls = [(file.name, node) for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    compared = 0
    for name, node in calls:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in places:
            left, right = node.args[places[node.func.attr]]
            assert ast.dump(left) != ast.dump(right), f"{name}:{node.lineno} compares {ast.unparse(left)} with itself"
            compared += 1
    assert compared > 150


def test_the_readme_has_the_table_of_the_proven_statements(proven: list[Theorem]) -> None:
    readme = Path(amvl_theory.__file__).with_name("README.md")
    text = readme.read_text(encoding="utf-8")
    command = f"python -m amvl_theory.theorems --readme {readme.parent.name}/{readme.name}"
    assert with_table(text, proven) == text, f"run {command}"


def test_the_table_of_a_readme_is_rewritten_between_its_marks(proven, tmp_path, capsys) -> None:
    readme = tmp_path / "README.md"
    source = Path(amvl_theory.__file__).with_name("README.md").read_text(encoding="utf-8")
    begin, end = source.index("<!-- statements"), source.index("<!-- end of statements")
    head = source[begin : source.index("\n", begin) + 1]
    readme.write_text(f"before\n{head}old\n{source[end:]}", encoding="utf-8")
    assert main(["--only", "T1", "--readme", str(readme)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert (
        text.startswith("before\n")
        and "| **T1** Inheritance |" in text
        and "old\n" not in text
        and text.endswith(source[-40:])
    )
    with pytest.raises(ValueError, match="text: expected the marks .*received a text without them"):
        with_table("no marks", proven)


def test_proofs_and_verification_have_the_same_statements_and_titles(proven: list[Theorem]) -> None:
    assert list(THEOREMS) == list(STATEMENTS) == list(TITLES)
    assert [item.title for item in proven] == list(TITLES.values())


def test_an_equation_that_was_not_derived_is_named_in_the_statement() -> None:
    @theorem(name="T0", title="Quotes", statement="{found} but {lost}", assumptions=())
    def prove(proof: Proof) -> None:
        x = sp.Symbol("x")
        proof.state("found", sp.Symbol("y"), x + x, 2 * x)

    item = prove()
    assert item.statement == "y = 2 x but (lost was not proven)" and item.formula == "y = 2 x" and item.verified


def test_t2_to_t7_carry_exact_counter_examples(proven: list[Theorem]) -> None:
    for item in proven[1:7]:
        assert item.how_verified.get("exact counter-example", 0) >= 1, item.name


def test_t2_to_t5_and_t7_say_what_is_symbolic_two_by_two_and_what_is_numerical(proven: list[Theorem]) -> None:
    for item in (*proven[1:5], proven[6]):
        assert {"symbolic", "symbolic 2x2", "numerical dense"} <= set(item.how_verified), item.name


def test_all_proofs_together_take_little_time(proven: list[Theorem]) -> None:
    """Under 80 times a few of sympy's operations on the same processor; about 35 when this was written."""
    x, y, z = sp.symbols("x y z", positive=True)
    taken = []
    for _ in range(5):
        clear_cache()
        start = time.thread_time()
        sp.simplify(sp.sqrt((x + y) ** 2 + z) / (x + 1) + sp.diff(sp.log(x / (y + z)) * sp.exp(x * y), x))
        sp.factor(sp.expand((x + y + z + 1) ** 9))
        sp.solve(x**2 + y * x - z, x)
        taken.append(time.thread_time() - start)
    assert _USED[0] < 80 * statistics.median(taken)


def test_importing_the_theory_loads_neither_sympy_nor_torch() -> None:
    code = "import sys, amvl_theory; print(sorted({'sympy', 'torch', 'amvl_model'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_hands_out_the_proofs_on_first_use() -> None:
    import amvl_theory

    assert amvl_theory.prove_all is prove_all
    with pytest.raises(AttributeError, match="prove_nothing"):
        _ = amvl_theory.prove_nothing


def test_only_the_named_statements_are_proven() -> None:
    assert [item.name for item in prove_all(["T2"])] == ["T2"]
    with pytest.raises(ValueError, match=r"only: expected names among T1.*received T13"):
        prove_all(["T13"])


# A broken statement is reported


@theorem(name="T3", title="Broken", statement="c = g", assumptions=(given.CURVATURE,))
def _prove_broken(proof: Proof) -> None:
    proof.equal("c = g / h", sp.Symbol("g") / sp.Symbol("h"), sp.Symbol("g"))


@theorem(name="T3", title="Raises", statement="nothing", assumptions=())
def _prove_raises(proof: Proof) -> None:
    raise ZeroDivisionError("by hand")


@theorem(name="T3", title="Empty", statement="nothing", assumptions=())
def _prove_nothing(proof: Proof) -> None:
    proof.step("no check at all")


@pytest.mark.parametrize("prove", [_prove_broken, _prove_raises, _prove_nothing])
def test_a_broken_statement_gives_exit_status_1(
    prove, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(THEOREMS, "T3", prove)
    assert main(["--only", "T3"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed and "0 of 1 statements verified" in printed


def test_a_failed_check_gets_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(THEOREMS, "T3", _prove_broken)
    main(["--only", "T3"])
    assert re.search(r"FAIL  \[symbolic\] c = g / h: difference ", capsys.readouterr().out)
    monkeypatch.setitem(THEOREMS, "T3", _prove_raises)
    main(["--only", "T3"])
    assert "ZeroDivisionError: by hand" in capsys.readouterr().out


def test_a_wrong_constant_in_the_model_breaks_the_proofs_that_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import amvl_theory.theorems.proving.gaussian as gaussian

    monkeypatch.setattr(gaussian, "kl", lambda *arguments: 2 * kl(*arguments))
    assert not any(item.verified for item in prove_all(["T2", "T3"]))


def test_the_command_line_verifies_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "T2", "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "verified" in printed and "exact counter-example" in printed and "ok    [symbolic]" in printed
    assert "assumes H > 0" in printed


def test_the_module_runs_from_a_shell() -> None:
    command = [sys.executable, "-W", "error", "-m", "amvl_theory.theorems", "--only", "T1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 statements verified" in done.stdout


# What a check is


def test_sign_needs_the_same_expression_and_a_manifest_sign() -> None:
    x, y = sp.Symbol("x", positive=True), sp.Symbol("y", real=True)
    proof = Proof()
    proof.sign("good", x + y**2, x + y**2, "> 0")
    proof.sign("other expression", x, 2 * x, "> 0")
    proof.sign("sign unknown", x + y, x + y, "> 0")
    assert [check.passed for check in proof.checks] == [True, False, False]


def test_a_stated_equation_must_be_what_was_derived_and_matrices_are_written_out() -> None:
    x, H, g = sp.Symbol("x", positive=True), sp.MatrixSymbol("H", 2, 2), sp.MatrixSymbol("g", 2, 1)
    values = {H: sp.Matrix([[2, x], [x, 3]]), g: sp.Matrix([1, 2])}
    solved = values[H].LUsolve(values[g])
    proof = Proof()
    proof.state("right", sp.MatrixSymbol("c", 2, 1), solved, H.inv() * g, at=values)
    proof.state("twice", sp.MatrixSymbol("c", 2, 1), solved, 2 * H.inv() * g, at=values)
    proof.state("no_inverse", sp.MatrixSymbol("c", 2, 1), solved, H * g, at=values)
    proof.state("abbreviated", sp.Symbol("y"), x**2 + 1, x * sp.Symbol("b") + 1, at={sp.Symbol("b"): x})
    assert [check.passed for check in proof.checks] == [True, False, False, True]
    assert proof.checks[0].name == "right: c = H^-1 g"


def test_is_zero_tells_identities_from_near_misses() -> None:
    x = sp.Symbol("x", positive=True)
    assert is_zero((x**2 - 1) / (x - 1) - x - 1)
    assert is_zero(sp.Matrix([0, sp.sqrt(x) ** 2 - x]))
    assert not is_zero(sp.Matrix([0, x - sp.Rational(1, 10**9)]))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of symbolic, .*, received 'sampled'"):
        Proof().record("x", "sampled", True)


def test_the_stop_gradient_holds_the_stopped_copy() -> None:
    x = sp.Symbol("x", real=True)
    sg = StopGradient(x)
    assert sg.gradient(sg(x) ** 2 * x**3, x) == 3 * x**4
    assert sg.gradient(sg(x**2), x) == 0


def test_forward_kl_trains_only_the_prior_and_the_elbo_both() -> None:
    delta, c, s_q = sp.Symbol("delta", real=True), sp.Symbol("c", real=True), sp.Symbol("s_q", positive=True)
    assert not one_mode_gradients("ntp+fwd")[delta].has(c)
    assert one_mode_gradients("elbo")[delta].has(c)
    assert one_mode_gradients("amvl")[c] == one_mode_gradients("ntp+fwd")[c] == one_mode_gradients("elbo")[c]
    assert one_mode_gradients("ntp+fwd")[s_q] == sp.Symbol("h", positive=True) / 2


# LaTeX


def test_the_latex_document_is_balanced(proven: list[Theorem]) -> None:
    text = latex_document(proven)
    bare = text.replace(r"\{", "").replace(r"\}", "").replace(r"\$", "").replace("\\\\", "")
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0 and "$$" not in bare
    assert len(re.findall(r"\\left[^a-z]", text)) == len(re.findall(r"\\right[^a-z]", text)) > 0
    assert (
        text.count(r"\[")
        == text.count(r"\]")
        == sum(step.expression is not None for item in proven for step in item.steps)
    )
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([^}]*)\}", text):
        assert kind == "begin" or opened.pop() == name
        if kind == "begin":
            opened.append(name)
    assert not opened
    assert text.isascii()


def test_every_statement_has_its_section_formula_and_proof_in_latex(proven: list[Theorem]) -> None:
    for item in proven:
        assert item.latex.startswith(rf"\section*{{{item.name}.")
        assert item.formula in item.latex
        assert item.latex.count(r"\item") == len(item.assumptions) + len(item.steps) + len(item.checks)


def test_failed_checks_are_marked_in_latex() -> None:
    assert r"\textbf{failed}" in _prove_broken().latex


def test_words_become_formulas_in_latex() -> None:
    assert (
        escape_latex("dbar^T Lambda_q dbar >= 0 & 10 %")
        == r"$\bar\delta^{T}$ $\Lambda_{q}$ $\bar\delta$ $\ge$ 0 \& 10 \%"
    )


def test_the_latex_file_is_written(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "proofs.tex"
    assert main(["--only", "T2", "--latex", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    assert text.startswith(r"\documentclass") and text.rstrip().endswith(r"\end{document}")
    assert str(target) in capsys.readouterr().out


# Numerical helpers of the proofs


def test_the_balanced_pair_follows_the_shared_variance_formula_and_others_do_not() -> None:
    pair = per_answer_spread(np.array([1.0, -1.0]), np.array([0.5, 0.5]), 1.3, 0.2)
    assert pair == pytest.approx(((1 - math.sqrt(0.13)) / 1.3) ** 2, rel=1e-9)
    assert per_answer_spread(np.array([0.5, -2.0]), np.array([0.8, 0.2]), 1.3, 0.2) > 1.05 * pair
    assert per_answer_spread(np.array([1.0, -1.0]), np.array([0.5, 0.5]), 1.0, 2.5) == 0.0


def test_information_of_two_answers_goes_from_0_to_log_2() -> None:
    assert balanced_information(1e-4) == pytest.approx(0.5e-4, rel=1e-3)
    assert balanced_information(60.0) == pytest.approx(math.log(2), abs=1e-9)


def test_different_starts_of_the_coupled_modes_meet() -> None:
    forces = np.array([[1.0, 0.5], [-1.0, -0.5], [0.2, -1.0], [-0.2, 1.0]])
    curvature = np.array([[1.0, 0.4], [0.4, 2.0]])
    early = [coupled_modes(forces, curvature, 0.05, np.full(2, start), 2)[1] for start in (0.1, 3.0)]
    late = [coupled_modes(forces, curvature, 0.05, np.full(2, start), 300)[1] for start in (0.1, 3.0)]
    assert np.abs(early[0] - early[1]).max() > 1e-3
    np.testing.assert_allclose(late[0], late[1], rtol=1e-10)


def test_the_linear_range_of_tanh_without_reverse_kl() -> None:
    edge = linear_range(0.0)
    assert edge / math.tanh(edge) == pytest.approx(1.1, rel=1e-9)
    assert saturating_response(0.3, 0.0) == pytest.approx(math.tanh(0.3), rel=1e-12)
    assert linear_range(1.0) > 2 * edge


def test_the_pull_on_a_mixture_departs_at_fourth_order() -> None:
    for t in (0.02, 0.04):
        assert (mixture_pull(t) - 1) / t**4 == pytest.approx(2 / 3, rel=0.3)
    assert mixture_pull(0.3, 1e-3) == pytest.approx(mixture_pull(0.3), rel=1e-4)


# Assumptions


@pytest.mark.parametrize(
    ("condition", "meets", "fails"),
    [
        (given.DIAGONAL_CURVATURE, {"curvature": [1.0, 2.0]}, {"curvature": [[1.0, 0.1], [0.1, 2.0]]}),
        (given.DIAGONAL_ANCHOR, {"anchor": [1.0, 0.0]}, {"anchor": [[1.0, 0.1], [0.1, 2.0]]}),
        (given.NOT_ABSORBED, {"anchor": [1.0, 0.5]}, {"anchor": [1.0, 0.0]}),
        (given.FORCE, {"force_mean": [1.0, -1.0]}, {"force_mean": [1.0, 0.0]}),
        (
            given.COMMUTING,
            {"curvature": [[2.0, 1.0], [1.0, 1.0]]},
            {"curvature": [[2.0, 1.0], [1.0, 1.0]], "posterior_precision": [1.0, 2.0]},
        ),
        (
            given.NORM_SAFE,
            {"curvature": [[2.0, 1.0], [1.0, 1.0]], "posterior_precision": [1.0, 0.5]},
            {"curvature": [[2.0, 1.0], [1.0, 1.0]], "posterior_precision": [1.0, 0.01]},
        ),
        (given.PRECISIONS, {"prior_precision": 2.0}, {"prior_precision": [[1.0, 0.1], [0.1, 2.0]]}),
        (
            given.ONE_DIAGONAL,
            {"anchor": [[1.0, 0.1], [0.1, 2.0]]},
            {"anchor": [[1.0, 0.1], [0.1, 2.0]], "curvature": [[1.0, 0.1], [0.1, 2.0]]},
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Assumption) else "",
)
def test_a_condition_accepts_and_refuses_instances(condition: Assumption, meets: dict, fails: dict) -> None:
    base = {"curvature": [1.0, 2.0], "force_mean": [1.0, 1.0]}
    assert condition.holds(MeanLeakageModel(**{**base, **meets})) is True
    assert condition.holds(MeanLeakageModel(**{**base, **fails})) is False


def test_weights_modes_and_unique_roots_are_decided() -> None:
    one = MeanLeakageModel(curvature=1.0, force_mean=1.0, force_cov=1.0)
    assert given.WEIGHTS.holds(one, beta=1.0, gamma=0.5) and given.WEIGHTS.holds(one, beta=1.0, gamma=0.0) is False
    assert given.ONE_MODE.holds(one) and given.ONE_MODE.holds(MeanLeakageModel([1.0, 1.0], 1.0)) is False
    assert given.UNIQUE_ROOT.holds(one) and given.UNIQUE_ROOT.holds(MeanLeakageModel(1.0, 3.0, 0.01)) is False


def test_a_condition_that_numbers_cannot_decide_says_none() -> None:
    model = MeanLeakageModel(curvature=1.0, force_mean=1.0)
    assert given.FIXED_VARIANCES.holds(model) is None
    assert given.FIXED_VARIANCES.only_for("the ranking").text.endswith("(only for the ranking)")


def test_a_statement_lists_its_conditions_on_an_instance(proven: list[Theorem]) -> None:
    model = MeanLeakageModel(curvature=[[1.0, 0.5], [0.5, 2.0]], force_mean=[1.0, 2.0], anchor=[0.0, 1.0])
    result = proven[2].conditions(model, beta=1.0, gamma=1.0)
    assert result["A diagonal"] is True and result["H diagonal"] is False and result["s < 1"] is False
    assert result["fixed variances"] is None


def test_the_table_names_checks_and_seconds(proven: list[Theorem]) -> None:
    text = table(proven)
    assert "12 of 12 statements verified by" in text and SYMBOLIC in text

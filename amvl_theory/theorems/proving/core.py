"""What a proven statement is made of, and the recorder with which each `t*.py` file writes its proof down.

A `Theorem` holds its statement, its assumptions (objects, decidable on an instance where numbers can decide), the proof
steps and the checks that were run. Nothing here raises when a check fails: the failure is recorded and `verified` is False.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sympy as sp

from amvl_theory.model import MeanLeakageModel
from amvl_theory.titles import TITLES

SYMBOLIC = "symbolic"
SYMBOLIC_2X2 = "symbolic 2x2"
EXACT = "exact counter-example"
DENSE = "numerical dense"
QUADRATURE = "quadrature"
KINDS = (SYMBOLIC, SYMBOLIC_2X2, EXACT, DENSE, QUADRATURE)

Predicate = Callable[[MeanLeakageModel, float, float], bool]


@dataclass(frozen=True)
class Assumption:
    """A condition of a statement; ``predicate(model, beta, gamma)`` decides it where an instance's numbers can."""

    name: str
    text: str
    latex: str
    predicate: Predicate | None = None

    def holds(self, model: MeanLeakageModel, *, beta: float = 1.0, gamma: float = 1.0) -> bool | None:
        """Whether ``model`` at these weights meets the condition; None where its numbers cannot say."""
        return None if self.predicate is None else bool(self.predicate(model, beta, gamma))

    def only_for(self, part: str) -> Assumption:
        """The same condition, asked for by one part of a statement only."""
        return replace(self, text=f"{self.text} (only for {part})")


class Check(NamedTuple):
    """One verified (or failed) fact: ``kind`` is one of `KINDS`, ``detail`` says what was compared."""

    name: str
    kind: str
    passed: bool
    detail: str


class Step(NamedTuple):
    """One step of a proof: words, and the sympy expression (or None) that they lead to."""

    text: str
    expression: Any

    @property
    def latex(self) -> str:
        """The step as LaTeX: escaped words, then the expression on a line of its own."""
        words = escape_latex(self.text)
        return words if self.expression is None else f"{words}\n\\[ {sp.latex(self.expression)} \\]"


@dataclass(frozen=True)
class Theorem:
    """One statement about the mean-leakage model, with the proof that was run for it.

    Attributes:
        name: T1 to T12.
        title: what it is about, in a few words.
        words: the statement in plain words; {label} stands for an equation.
        equations: label -> what the derivation came to, the only place where an equation of the statement is written.
        assumptions: the conditions under which it holds.
        beyond: what fails without them.
        steps: the proof, in order.
        checks: everything that was verified, counter-examples to the statement without its conditions included.
        seconds: wall time that the proof took.
    """

    name: str
    title: str
    words: str
    equations: Mapping[str, Any] = field(compare=False)
    assumptions: tuple[Assumption, ...]
    beyond: str
    steps: tuple[Step, ...]
    checks: tuple[Check, ...]
    seconds: float = field(compare=False)

    @property
    def statement(self) -> str:
        """In words and formulas, as plain text."""
        return self.quoted("{}")

    def quoted(self, form: str) -> str:
        """The statement with every equation as plain text inside ``form``."""
        return self.words.format_map(_Quotes({k: form.format(plain_text(item)) for k, item in self.equations.items()}))

    @property
    def formula(self) -> str:
        """Its equations in LaTeX, one a line, without delimiters."""
        return " \\\\\n".join(latex_of(item) for item in self.equations.values())

    @property
    def verified(self) -> bool:
        """Whether at least one check was run and none failed."""
        return bool(self.checks) and not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def how_verified(self) -> dict[str, int]:
        """Number of checks of each kind, in the order of `KINDS`."""
        counts = {kind: sum(check.kind == kind for check in self.checks) for kind in KINDS}
        return {kind: count for kind, count in counts.items() if count}

    def conditions(self, model: MeanLeakageModel, *, beta: float, gamma: float) -> dict[str, bool | None]:
        """Assumption name -> whether ``model`` meets it (None where its numbers cannot say)."""
        return {item.name: item.holds(model, beta=beta, gamma=gamma) for item in self.assumptions}

    @property
    def latex(self) -> str:
        """A LaTeX section: statement, assumptions, proof steps, checks."""
        lines = [f"\\section*{{{self.name}. {escape_latex(self.title)}}}", escape_latex(self.statement)]
        lines += ["\\begin{gather*}", self.formula, "\\end{gather*}"]
        lines += [f"\\paragraph{{Beyond}} {escape_latex(self.beyond)}"] if self.beyond else []
        lines += ["\\paragraph{Assumptions}", "\\begin{itemize}"]
        lines += [f"\\item {escape_latex(item.text)}: ${item.latex}$" for item in self.assumptions]
        lines += ["\\end{itemize}", "\\paragraph{Proof}", "\\begin{enumerate}"]
        lines += [f"\\item {step.latex}" for step in self.steps] or ["\\item (no step was recorded)"]
        lines += ["\\end{enumerate}", "\\paragraph{Checks}", "\\begin{itemize}"]
        for check in self.checks:
            verdict = "" if check.passed else "\\textbf{failed} "
            lines.append(f"\\item {verdict}\\emph{{{escape_latex(check.kind)}}}: {escape_latex(check.name)}")
        return "\n".join([*lines, "\\end{itemize}"])


_LATEX_ESCAPES = {
    **{character: f"\\{character}" for character in "_&%#${}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
}
_LATEX_WORDS = {"gbar": "\\bar g", "dbar": "\\bar\\delta", "<=": "\\le", ">=": "\\ge", "+-": "\\pm", "->": "\\to"}
_GREEK = "alpha beta gamma delta eta kappa lambda mu phi rho sigma Lambda Phi Sigma".split()
_FORMULA = re.compile(
    rf"(?P<word>\b(?:gbar|dbar)\b|<=|>=|\+-|->)|\b(?P<name>{'|'.join(_GREEK)}|[A-Za-z])(?P<sub>_\w+|(?<=[vg])0\b)"
    rf"|\b(?P<greek>{'|'.join(_GREEK)})\b|\^(?P<power>-?\d+(?:/\d+)?|T\b|\+)|(?P<special>[_&%#${{}}\\~^<>|])"
)


def escape_latex(text: str) -> str:
    """``text`` as LaTeX: Greek names, subscripts, powers and relations become formulas, special characters are escaped."""

    def render(match: re.Match[str]) -> str:
        if match["word"]:
            return f"${_LATEX_WORDS[match['word']]}$"
        if match["power"]:
            return f"$^{{{match['power']}}}$"
        if match["special"]:
            return _LATEX_ESCAPES[match["special"]]
        name = match["name"] or match["greek"]
        subscript = (match["sub"] or "").lstrip("_").replace("_", "\\_")
        body = f"\\{name}" if name in _GREEK else name
        return f"${body}_{{{subscript}}}$" if subscript else f"${body}$"

    return _FORMULA.sub(render, text).replace("$$", "")


def plain_text(equation: Any) -> str:
    """A sympy equation as a line of text: powers as ^, products as spaces."""
    right = equation.rhs.tolist() if isinstance(equation.rhs, sp.MatrixBase) else equation.rhs
    text = f"{sp.sstr(equation.lhs)} = {sp.sstr(right)}".replace("deltabar", "dbar")
    return text.replace("**(-1)", "^-1").replace("**", "^").replace("*", " ").replace(".T", "^T")


def slope_symbol(name: str) -> Any:
    """The left side of an equation for d name / d gamma."""
    return sp.Symbol(f"d{name}/dgamma")


def latex_of(equation: Any) -> str:
    """A sympy equation in LaTeX, a `slope_symbol` as a fraction."""
    left = str(equation.lhs)
    names = {equation.lhs: rf"\frac{{d {sp.latex(sp.Symbol(left[1:-7]))}}}{{d \gamma}}"} if "/" in left else {}
    return str(sp.latex(equation, symbol_names=names))


def _leading_inverse(closed: Any) -> tuple[Any, Any]:
    """(X, R) with closed = X^-1 R, or (None, closed)."""
    first, *others = closed.args if isinstance(closed, sp.MatMul) else (closed,)
    if not isinstance(first, sp.matrices.expressions.inverse.Inverse):
        return None, closed
    return first.arg, sp.MatMul(*others) if others else sp.eye(first.shape[0])


class _Quotes(dict[str, str]):
    """What a statement quotes; an equation that the derivation did not come to is named as missing."""

    def __missing__(self, label: str) -> str:
        return f"({label} was not proven)"


def is_zero(expression: Any) -> bool:
    """Whether a sympy expression or matrix vanishes identically (rational normal form, else simplify)."""
    entries: Iterable[Any] = expression if isinstance(expression, sp.MatrixBase) else (sp.sympify(expression),)
    return all(_vanishes(entry) for entry in entries)


def _vanishes(expression: Any) -> bool:
    numerator = sp.expand(sp.fraction(sp.together(expression))[0])
    if numerator == 0:
        return True
    names = sorted(numerator.free_symbols, key=lambda symbol: str(symbol.name))
    point = {symbol: sp.Rational(2 * k + 3, k + 2) for k, symbol in enumerate(names)}
    value = numerator.subs(point).evalf(30)
    if value.is_number and abs(value) > 1e-12:  # a witness that it is not 0, before the slow simplification
        return False
    return bool(sp.simplify(numerator) == 0)


_SIGNS = {"< 0": "is_negative", "<= 0": "is_nonpositive", "> 0": "is_positive", ">= 0": "is_nonnegative"}


class Proof:
    """Collects the steps and checks of one statement; a check that fails is kept, never raised."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.checks: list[Check] = []
        self.stated: dict[str, Any] = {}

    def state(
        self,
        label: str,
        left: Any,
        derived: Any,
        closed: Any,
        kind: str = SYMBOLIC,
        at: Mapping[Any, Any] | None = None,
    ) -> None:
        """Check ``derived == closed``, and state ``left = closed``: the statement quotes it as {label}, the LaTeX lists it.

        ``at`` gives the symbols in ``closed`` that ``derived`` writes out: entries of matrices, an abbreviation.
        """
        equation = sp.Eq(left, closed, evaluate=False)
        name = f"{label.replace('_', ' ')}: {plain_text(equation)}"
        left_factor, rest = _leading_inverse(closed)
        if left_factor is not None:  # X^-1 R = derived as R = X derived, which is the smaller expression
            derived, closed = left_factor.subs(at).doit() * derived, rest
        written = closed.subs(at).doit() if at else closed
        if isinstance(written, sp.MatrixBase) and not isinstance(derived, sp.MatrixBase):
            derived = sp.Matrix([[derived]])
        self.equal(name, derived, written, kind)
        self.stated[label] = equation

    def step(self, text: str, expression: Any = None) -> None:
        """Write one step of the proof down."""
        self.steps.append(Step(text, expression))

    def record(self, name: str, kind: str, passed: Any, detail: str = "") -> None:
        """Record a check of any kind; raises ValueError for a kind that is not in `KINDS`."""
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, received {kind!r}")
        self.checks.append(Check(name, kind, bool(passed), detail))

    def equal(self, name: str, left: Any, right: Any, kind: str = SYMBOLIC) -> None:
        """Check that ``left - right`` vanishes identically."""
        difference = left - right
        passed = is_zero(difference)
        self.record(name, kind, passed, "difference is identically 0" if passed else f"difference {difference}")

    def sign(self, name: str, expression: Any, form: Any, relation: str, kind: str = SYMBOLIC) -> None:
        """Check ``expression == form`` identically and that the form's sign follows from its symbols' own signs.

        ``form`` is the expression rewritten so that the sign is manifest: a product of positive factors, a sum of squares.
        """
        same = is_zero(expression - form)
        manifest = bool(getattr(sp.sympify(form), _SIGNS[relation]))
        detail = f"{form} {relation}"
        if not same:
            detail = f"{expression} is not {form}"
        elif not manifest:
            detail = f"the sign {relation} of {form} does not follow from its symbols"
        self.record(name, kind, same and manifest, detail)

    def exact(self, name: str, passed: Any, detail: str) -> None:
        """Check of an exact rational instance."""
        self.record(name, EXACT, passed, detail)

    def close(self, name: str, error: float, tolerance: float, detail: str = "", kind: str = DENSE) -> None:
        """Check that a numerical discrepancy is within its tolerance."""
        self.record(
            name, kind, error <= tolerance, f"{detail}; largest discrepancy {error:.2g}, allowed {tolerance:.2g}"
        )


Prover = Callable[[], Theorem]


def theorem(
    *, name: str, statement: str, assumptions: tuple[Assumption, ...], beyond: str = "", title: str | None = None
) -> Callable[[Callable[[Proof], None]], Prover]:
    """Turn a function that writes into a `Proof` into one that returns the timed `Theorem`.

    The title is that of `TITLES` unless given. The statement's {label} quotes an equation that the derivation states
    (`Proof.state`); no equation is written twice.
    An exception inside the derivation becomes a failed check, so that one broken statement does not hide the others.
    """

    def wrap(derive: Callable[[Proof], None]) -> Prover:
        def prove() -> Theorem:
            proof, start = Proof(), time.perf_counter()
            try:
                derive(proof)
            except Exception as error:  # recorded as a failed check, which is what the caller reports
                proof.record("the derivation runs to its end", SYMBOLIC, False, f"{type(error).__name__}: {error}")
            seconds = time.perf_counter() - start
            steps, checks = tuple(proof.steps), tuple(proof.checks)
            named = TITLES[name] if title is None else title
            return Theorem(name, named, statement, dict(proof.stated), assumptions, beyond, steps, checks, seconds)

        prove.__name__ = prove.__qualname__ = derive.__name__
        prove.__doc__ = derive.__doc__
        prove.__module__ = derive.__module__
        prove.theorem_name = name  # type: ignore[attr-defined]
        return prove

    return wrap

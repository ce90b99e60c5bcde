"""Every equation that a proof stated, as a function of numbers, against the numpy function that users call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

from amvl_theory.theorems import THEOREMS, Theorem, prove_all
from tests.theory.theorems.closed_forms import CASES, Values

SMALL = {
    ("T5", "factor_dual"): "gamma",
    ("T6", "dual_variance"): "gamma",
    ("T6", "dual_snr"): "gamma",
    ("T6", "elbo_variance"): "beta",
    ("T6", "elbo_width"): "beta",
    ("T6", "elbo_snr"): "beta",
    ("T11", "largest_rate"): "gamma",
    ("T11", "holding_weight"): "rho",
    ("T12", "dual_snr"): "gamma",
    ("T12", "elbo_snr"): "beta",
}
"""Symbols that are a twentieth of the others, so that the equation's condition holds."""


def draw(name: str, label: str, rng: np.random.Generator, symbols: set[Any]) -> dict[str, Any]:
    """Random values by name: positive, matrices positive definite (precisions diagonal), inside the statement's conditions."""
    values: dict[str, Any] = {}
    for symbol in sorted(symbols, key=str):
        text = str(symbol)
        if text == "I":
            values[text] = np.eye(2)
        elif not isinstance(symbol, sp.MatrixSymbol):
            values[text] = rng.uniform(0.3, 1.0)
        elif symbol.shape == (2, 1):
            values[text] = rng.normal(size=(2, 1))
        elif text.startswith("Lambda") or text == "W":
            values[text] = np.diag(rng.uniform(0.3, 2.0, 2))
        else:
            root = rng.normal(size=(2, 2))
            values[text] = root @ root.T + 0.3 * np.eye(2)
    if (name, label) in SMALL:
        values[SMALL[name, label]] *= 0.05
    if (name, label) in (("T7", "slowest_rate"), ("T7", "noise")):
        values |= {"a": values["a"] + 1, "d": values["d"] + 1}
    if (name, label) == ("T8", "best_gamma"):
        values["v"] *= 20
    if (name, label) == ("T12", "fading_constant"):
        values["gamma"] = 0.75 * values["kappa"] ** 2 / values["k"]
    return values


def evaluate(right: Any, values: Values) -> Any:
    symbols = sorted(right.free_symbols, key=str)
    if right.has(sp.Trace):
        return np.asarray(float(right.subs({symbol: sp.Matrix(values[str(symbol)]) for symbol in symbols}).doit()))
    return np.asarray(sp.lambdify(symbols, right, "numpy")(*(values[str(symbol)] for symbol in symbols)), dtype=float)


@pytest.fixture(scope="module")
def proven() -> dict[str, Theorem]:
    return {item.name: item for item in prove_all()}


STATED = [(name, label) for name in CASES for label in CASES[name]]


@pytest.mark.parametrize(("name", "label"), STATED, ids=[f"{name}-{label}" for name, label in STATED])
def test_the_numpy_function_is_the_proven_expression(proven: dict[str, Theorem], name: str, label: str) -> None:
    right = proven[name].equations[label].rhs
    function, tolerance = CASES[name][label]
    for seed in range(5):
        rng = np.random.default_rng([seed, *label.encode()])
        values = draw(name, label, rng, right.free_symbols)
        result = function(values)
        if isinstance(result, tuple):
            result, follows = result
            values |= follows
        expected = evaluate(right, values)
        np.testing.assert_allclose(np.asarray(result).reshape(expected.shape), expected, rtol=tolerance, atol=1e-9)


def test_every_equation_of_every_statement_has_its_function(proven: dict[str, Theorem]) -> None:
    assert {name: set(item.equations) for name, item in proven.items()} == {name: set(CASES[name]) for name in THEOREMS}

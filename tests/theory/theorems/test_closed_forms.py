"""Every equation that a proof stated, as a function of numbers, against the numpy function that users call."""

from __future__ import annotations

import numpy as np
import pytest

from amvl_theory.theorems import THEOREMS, Theorem, prove_all
from tests.theory.theorems.closed_forms import CASES, draw, evaluate


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
        found = function(values)
        if isinstance(found, tuple):
            found, follows = found
            values |= follows
        expected = evaluate(right, values)
        np.testing.assert_allclose(np.asarray(found).reshape(expected.shape), expected, rtol=tolerance, atol=1e-9)


def test_every_equation_of_every_statement_has_its_function(proven: dict[str, Theorem]) -> None:
    assert {name: set(item.equations) for name, item in proven.items()} == {name: set(CASES[name]) for name in THEOREMS}

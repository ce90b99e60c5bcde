"""Exact instances of T2 to T4, T7 in which something that should fall with gamma grows.

Each is small enough to be recomputed by hand; `COUNTER_EXAMPLES` names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType


@dataclass(frozen=True)
class CounterExample:
    """An exact instance in which something that "should" fall with gamma grows; recompute it by hand.

    Attributes:
        claim: what fails. because: the condition that is missing.
        arguments: the model's arguments as fractions (numbers, diagonals or matrices).
        beta: forward weight. gammas: two reverse weights. values: the quantity at these two, exactly.
        quantity: its name: "shift_norm2" |dbar|^2 of a frozen prior, "contamination_norm2" |c|^2, "contamination_0" c_0,
            "response_energy", "spread_trace" tr C.
    """

    claim: str
    because: str
    arguments: MappingProxyType[str, object]
    beta: Fraction
    gammas: tuple[Fraction, Fraction]
    quantity: str
    values: tuple[Fraction, Fraction]


def _instance(**arguments: object) -> MappingProxyType[str, object]:
    return MappingProxyType(arguments)


_MIXED = ((Fraction(2), Fraction(1)), (Fraction(1), Fraction(1)))


_UNEVEN = (Fraction(1), Fraction(1, 100))


_ONE, _ZERO = Fraction(1), Fraction(0)


COUNTER_EXAMPLES: tuple[CounterExample, ...] = (
    CounterExample(
        "the size |dbar| of the mean leakage can grow with gamma, prior frozen (T2)",
        "H is dense and does not commute with Lambda_q",
        _instance(curvature=_MIXED, force_mean=(Fraction(5), Fraction(4)), posterior_precision=_UNEVEN),
        _ONE,
        (_ZERO, _ONE),
        "shift_norm2",
        (Fraction(10), Fraction(10225, 841)),
    ),
    CounterExample(
        "|c| can grow with gamma although every mode is half absorbed (T3)",
        "H is dense and does not commute with Lambda_q",
        _instance(curvature=_MIXED, force_mean=(Fraction(5), Fraction(4)), posterior_precision=_UNEVEN, anchor=_ONE),
        _ONE,
        (_ZERO, Fraction(2)),
        "contamination_norm2",
        (Fraction(5, 2), Fraction(10225, 3364)),
    ),
    CounterExample(
        "|c| can grow with gamma although all precisions are 1 (T3)",
        "H is dense and the modes differ in absorption",
        _instance(
            curvature=((_ONE, _ONE), (_ONE, Fraction(2))), force_mean=(_ONE, Fraction(2)), anchor=(_ZERO, Fraction(10))
        ),
        _ONE,
        (_ZERO, _ONE),
        "contamination_norm2",
        (Fraction(1, 121), Fraction(101, 441)),
    ),
    CounterExample(
        "a fully absorbed mode does not keep its contamination (T3)",
        "H is dense",
        _instance(
            curvature=((_ONE, _ONE), (_ONE, Fraction(2))), force_mean=(_ONE, Fraction(2)), anchor=(_ZERO, Fraction(10))
        ),
        _ONE,
        (_ZERO, _ONE),
        "contamination_0",
        (_ZERO, Fraction(10, 21)),
    ),
    CounterExample(
        "the response energy can grow with gamma although H = I (T3)",
        "A is not diagonal",
        _instance(
            curvature=_ONE,
            force_mean=(_ONE, Fraction(-2)),
            posterior_precision=(_ONE, Fraction(1, 4)),
            anchor=((_ONE, _ONE), (_ONE, _ONE)),
        ),
        _ONE,
        (_ZERO, Fraction(3)),
        "response_energy",
        (Fraction(5), Fraction(47, 9)),
    ),
    CounterExample(
        "the trace of the spread can grow with gamma (T4)",
        "H is dense and does not commute with Lambda_q",
        _instance(
            curvature=_MIXED,
            force_mean=_ZERO,
            force_cov=((Fraction(25), Fraction(20)), (Fraction(20), Fraction(16))),
            posterior_precision=_UNEVEN,
        ),
        _ONE,
        (_ZERO, _ONE),
        "spread_trace",
        (Fraction(10), Fraction(10225, 841)),
    ),
)
"""Exact instances outside the conditions of T2 to T4; tests recompute every value in fractions and in floats."""

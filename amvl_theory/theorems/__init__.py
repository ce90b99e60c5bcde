"""The twelve statements about the mean-leakage model, each derived with sympy from the loss, checked, and rendered to LaTeX.

    python -m amvl_theory.theorems                 table; exit status 1 if a statement fails
    python -m amvl_theory.theorems --latex FILE    all statements and proof steps as one LaTeX document
    python -m amvl_theory.theorems --readme FILE   the table of statements in amvl_theory/README.md

Every proof starts from the loss: Gaussian KLs from their densities, gradients with the stop-gradient (the stopped
distribution enters with symbols of its own, which are identified after differentiation), stationarity solved, and only then
compared with the stated closed form. What was done for a generic mode ("symbolic", any d, because modes decouple), for a
symbolic dense pair of modes ("symbolic 2x2"), on seeded random dense instances ("numerical dense"), by numerical integration
or root finding ("quadrature"), and in exact rationals ("exact counter-example"), every check says itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from amvl_theory.theorems.proving.core import KINDS, Assumption, Check, Proof, Prover, Step, Theorem, theorem
from amvl_theory.theorems.proving.report import latex_document, table, with_table
from amvl_theory.theorems.t1_inheritance import prove_t1
from amvl_theory.theorems.t2_frozen_prior import prove_t2
from amvl_theory.theorems.t3_coupled import prove_t3
from amvl_theory.theorems.t4_spread import prove_t4
from amvl_theory.theorems.t5_objectives import prove_t5
from amvl_theory.theorems.t6_transition import prove_t6
from amvl_theory.theorems.t7_stability import prove_t7
from amvl_theory.theorems.t8_amortised import prove_t8
from amvl_theory.theorems.t9_beyond import prove_t9
from amvl_theory.theorems.t10_widening import prove_t10
from amvl_theory.theorems.t11_reading import prove_t11
from amvl_theory.theorems.t12_coadaptation import prove_t12

THEOREMS: dict[str, Prover] = {
    "T1": prove_t1,
    "T2": prove_t2,
    "T3": prove_t3,
    "T4": prove_t4,
    "T5": prove_t5,
    "T6": prove_t6,
    "T7": prove_t7,
    "T8": prove_t8,
    "T9": prove_t9,
    "T10": prove_t10,
    "T11": prove_t11,
    "T12": prove_t12,
}
"""Name -> the function that proves the statement."""


def prove_all(only: Sequence[str] | None = None) -> list[Theorem]:
    """Run the proofs, T1 to T12 in order, or the named ones.

    Raises:
        ValueError: if ``only`` names a statement that does not exist.
    """
    names = list(THEOREMS) if only is None else list(only)
    unknown = [name for name in names if name not in THEOREMS]
    if unknown:
        raise ValueError(f"only: expected names among {', '.join(THEOREMS)}, received {', '.join(unknown)}")
    return [THEOREMS[name]() for name in names]


__all__ = [
    "KINDS",
    "THEOREMS",
    "Assumption",
    "Check",
    "Proof",
    "Step",
    "Theorem",
    "latex_document",
    "prove_all",
    "prove_t1",
    "prove_t2",
    "prove_t3",
    "prove_t4",
    "prove_t5",
    "prove_t6",
    "prove_t7",
    "prove_t8",
    "prove_t9",
    "prove_t10",
    "prove_t11",
    "prove_t12",
    "table",
    "theorem",
    "with_table",
]

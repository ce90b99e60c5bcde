"""The twelve statements: their numbers, and their proofs for a second process beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from amvl_theory.titles import TITLES
from amvl_theory.verification.core import Evidence, Proof, Verdict
from amvl_theory.verification.evidence.beyond import t9
from amvl_theory.verification.evidence.fixed import t1, t2, t3, t4
from amvl_theory.verification.evidence.free import t5
from amvl_theory.verification.evidence.in_motion import t10, t11, t12
from amvl_theory.verification.evidence.learnt import t8
from amvl_theory.verification.evidence.motion import t7
from amvl_theory.verification.evidence.transition import t6

Numbers = Callable[[np.random.Generator, int], Evidence]

STATEMENTS: dict[str, Numbers] = {
    "T1": t1,
    "T2": t2,
    "T3": t3,
    "T4": t4,
    "T5": t5,
    "T6": t6,
    "T7": t7,
    "T8": t8,
    "T9": t9,
    "T10": t10,
    "T11": t11,
    "T12": t12,
}
"""Name -> the function that compares its closed forms with direct solves and simulation."""


def prove(names: Sequence[str]) -> dict[str, Proof]:
    """Outcome of the symbolic proofs, as plain data that can cross a process boundary."""
    from amvl_theory.theorems import prove_all

    return {
        item.name: Proof(
            passed=len(item.checks) - len(item.failed),
            total=len(item.checks),
            how=item.how_verified,
            failed=tuple(f"{check.name}: {check.detail}" for check in item.failed),
            seconds=item.seconds,
        )
        for item in prove_all(names)
    }


def second_process() -> ProcessPoolExecutor:
    """One more process, for proofs and figures beside the numbers; it starts with the first task."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def numbers(name: str, seed: int, instances: int) -> tuple[Evidence, float]:
    """One statement's comparisons and the CPU seconds they took; the random instances depend on seed and name only."""
    began = time.process_time()
    evidence = STATEMENTS[name](np.random.default_rng([seed, int(name[1:])]), instances)
    return evidence, time.process_time() - began


def verdict(name: str, evidence: Evidence, seconds: float, proof: Proof | None) -> Verdict:
    """A statement's verdict from its numbers and its proof."""
    return Verdict(name, TITLES[name], proof, evidence, seconds)

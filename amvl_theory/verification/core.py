"""Comparisons, departures and verdicts, and the random instances that they are made on."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory import GameState, GaussianGame, MeanLeakageModel, initial_state
from amvl_theory.checks import Array

CLOSED_FORM, SIMULATION = "closed form", "simulation"
RELATIVE, ABSOLUTE, ERRORS = "relative", "absolute", "standard errors"
EXACT, DETERMINISTIC, SIGMAS = 1e-10, 1e-4, 4.0
"""Tolerances: of closed forms, relative; of deterministic simulations, relative; of noisy ones, in standard errors."""


THOROUGH = 100
"""From this many instances on the slow comparisons near the critical weight are made too."""


@dataclass(frozen=True)
class Comparison:
    """One number against another way to get it.

    Attributes:
        name: what was compared with what.
        kind: "closed form" (against a direct solve, a quadrature, an exact number) or "simulation".
        discrepancy: the largest over all instances.
        tolerance: up to which it agrees.
        unit: "relative", "absolute" or "standard errors".
        instances: how many cases stand behind it.
        reason: why the tolerance is not the usual one.
    """

    name: str
    kind: Literal["closed form", "simulation"]
    discrepancy: float
    tolerance: float
    unit: str
    instances: int
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the two agree; NaN does not."""
        return bool(self.discrepancy <= self.tolerance)

    @property
    def strain(self) -> float:
        """Discrepancy over tolerance; infinite where it is NaN."""
        if self.tolerance == 0:
            return 0.0 if self.discrepancy == 0 else np.inf
        ratio = self.discrepancy / self.tolerance
        return np.inf if np.isnan(ratio) else float(ratio)


@dataclass(frozen=True)
class Departure:
    """How far a statement is off where its conditions do not hold: measured, never counted as a failure."""

    name: str
    size: float
    unit: str
    where: str


@dataclass(frozen=True)
class Evidence:
    """What one statement's numbers came to."""

    comparisons: tuple[Comparison, ...]
    departures: tuple[Departure, ...]


@dataclass(frozen=True)
class Proof:
    """Outcome of a statement's symbolic proof, as plain data."""

    passed: int
    total: int
    how: dict[str, int]
    failed: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """A statement with its proof (None if it was not run) and its numbers."""

    name: str
    title: str
    proof: Proof | None
    evidence: Evidence
    seconds: float

    @property
    def passed(self) -> bool:
        """All symbolic checks and all comparisons passed, and there was at least one of each kind that was asked for."""
        proven = self.proof is None or (self.proof.total > 0 and self.proof.passed == self.proof.total)
        compared = self.evidence.comparisons
        return proven and bool(compared) and all(item.passed for item in compared)

    def worst(self, kind: str, unit: str) -> Comparison | None:
        """The comparison of this kind and unit that comes closest to its tolerance, or furthest beyond it."""
        result = [item for item in self.evidence.comparisons if item.kind == kind and item.unit == unit]
        return max(result, key=lambda item: item.strain) if result else None


@dataclass
class Ledger:
    """Collects what a statement's functions find."""

    comparisons: list[Comparison] = field(default_factory=list)
    departures: list[Departure] = field(default_factory=list)

    def closed(self, name: str, discrepancy: ArrayLike, count: int, tolerance: float = EXACT, reason: str = "") -> None:
        """A relative discrepancy between a closed form and a direct computation."""
        self.add(name, CLOSED_FORM, discrepancy, count, tolerance, RELATIVE, reason)

    def simulated(
        self, name: str, discrepancy: ArrayLike, count: int, tolerance: float = DETERMINISTIC, reason: str = ""
    ) -> None:
        """A relative discrepancy between a closed form and a deterministic simulation."""
        self.add(name, SIMULATION, discrepancy, count, tolerance, RELATIVE, reason)

    def sampled(self, name: str, measured: ArrayLike, expected: ArrayLike, error: ArrayLike, count: int) -> None:
        """A Monte Carlo mean against its expectation, in standard errors."""
        away = np.abs(np.asarray(measured) - np.asarray(expected)) / np.asarray(error)
        self.add(name, SIMULATION, away, count, SIGMAS, ERRORS)

    def add(
        self,
        name: str,
        kind: Any,
        discrepancy: ArrayLike,
        count: int,
        tolerance: float,
        unit: str,
        reason: str = "",
    ) -> None:
        """Any comparison; the largest entry of `discrepancy` counts, and NaN counts as the largest."""
        self.comparisons.append(
            Comparison(name, kind, float(np.max(np.asarray(discrepancy))), tolerance, unit, count, reason)
        )

    def departs(self, name: str, size: ArrayLike, unit: str, where: str) -> None:
        """A departure outside the statement's conditions."""
        self.departures.append(Departure(name, float(np.asarray(size)), unit, where))

    def evidence(self) -> Evidence:
        """All of it, read-only."""
        return Evidence(tuple(self.comparisons), tuple(self.departures))


def relative(found: ArrayLike, expected: ArrayLike) -> float:
    """Largest |found - expected| over the largest |expected| of the same instance (first axis); absolute where that is 0."""
    a, b = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"found: expected shape {b.shape}, received {a.shape}")
    a, b = (x.reshape(x.shape[0], -1) if x.ndim else x.reshape(1, 1) for x in (a, b))
    scale = np.abs(b).max(axis=1)
    return float((np.abs(a - b).max(axis=1) / np.where(scale > 0, scale, 1.0)).max())


def growth(values: ArrayLike) -> float:
    """Largest rise between neighbours along the last axis, over the largest value of the row; 0 where it never rises."""
    rows = np.asarray(values, dtype=float)
    rise = np.diff(rows, axis=-1).max(axis=-1) / np.abs(rows).max(axis=-1)
    return float(np.maximum(rise, 0.0).max())


def definite(rng: np.random.Generator, count: int, size: int, floor: float = 0.3) -> Array:
    """Random positive definite matrices (count, size, size), smallest eigenvalue at least `floor`."""
    root = rng.normal(size=(count, size, size))
    return np.asarray(root @ root.transpose(0, 2, 1) / size + floor * np.eye(size))


@dataclass(frozen=True, eq=False)
class Batch:
    """Random games at fixed variances: N instances, K answers, d modes, unequal answer probabilities.

    Attributes:
        H, A: curvature and anchor (N, d, d). q, p: posterior and prior precisions (N, d).
        forces: g_y (N, K, d). chance: p(y) (N, K). beta, gamma: (N,).
    """

    H: Array
    A: Array
    q: Array
    p: Array
    forces: Array
    chance: Array
    beta: Array
    gamma: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, K, d)."""
        count, answers, size = self.forces.shape
        return count, answers, size

    @property
    def mean_force(self) -> Array:
        """gbar (N, d)."""
        return np.einsum("nk,nkd->nd", self.chance, self.forces)

    @property
    def force_cov(self) -> Array:
        """G (N, d, d)."""
        away = self.forces - self.mean_force[:, None]
        return np.einsum("nk,nki,nkj->nij", self.chance, away, away)

    def model(self, n: int) -> MeanLeakageModel:
        """Instance n."""
        return MeanLeakageModel(self.H[n], self.mean_force[n], self.force_cov[n], self.q[n], self.p[n], self.A[n])

    def models(self) -> list[MeanLeakageModel]:
        """All instances."""
        return [self.model(n) for n in range(len(self.H))]

    def game(self) -> tuple[GaussianGame, GameState]:
        """The game for `simulate`, and its start: the batch's precisions, no shifts."""
        diagonal = not (self.H - np.einsum("nii->ni", self.H)[:, None] * np.eye(self.shape[2])).any()
        still = {"train_posterior_variance": False, "train_prior_variance": False}
        game = GaussianGame(
            self.forces,
            np.einsum("nii->ni", self.H).copy() if diagonal else self.H,
            self.A,
            self.chance,
            **still,  # type: ignore[arg-type]
        )
        return game, initial_state(game, posterior_var=1 / self.q[:, None], prior_var=1 / self.p)

    def rest(self, pull: Array | None = None) -> tuple[Array, Array]:
        """(delta_y (N, K, d), c (N, d)) by one linear solve of the whole stationarity system, answers and prior together.

        H delta_y + pull (delta_y - c) = g_y            pull = gamma Lambda_q unless given, (N, d)
        beta Lambda_p (c - E_y delta_y) + A c = 0
        """
        count, answers, size = self.shape
        toward = self.gamma[:, None] * self.q if pull is None else pull
        push = self.beta[:, None] * self.p
        eye, total = np.eye(size), (answers + 1) * size
        matrix, right = np.zeros((count, total, total)), np.zeros((count, total))
        last = slice(answers * size, total)
        for y in range(answers):
            rows = slice(y * size, (y + 1) * size)
            matrix[:, rows, rows] = self.H + toward[:, :, None] * eye
            matrix[:, rows, last] = -toward[:, :, None] * eye
            matrix[:, last, rows] = -(self.chance[:, y, None] * push)[:, :, None] * eye
            right[:, rows] = self.forces[:, y]
        matrix[:, last, last] = push[:, :, None] * eye + self.A
        result = np.linalg.solve(matrix, right[..., None])[..., 0].reshape(count, answers + 1, size)
        return result[:, :-1], result[:, -1]

    def covariance(self, delta: Array) -> Array:
        """Cov_y(delta_y) (N, d, d)."""
        away = delta - np.einsum("nk,nkd->nd", self.chance, delta)[:, None]
        return np.einsum("nk,nki,nkj->nij", self.chance, away, away)


def draw(rng: np.random.Generator, count: int, kind: str, answers: int = 4, size: int = 3) -> Batch:
    """Random games: "dense" (H and A full), "dense H" (A diagonal), "dense A" (H diagonal) or "diagonal"."""
    eye = np.eye(size)

    def matrix(full: bool, low: float, high: float) -> Array:
        return definite(rng, count, size, low) if full else rng.uniform(low, high, (count, size))[:, :, None] * eye

    return Batch(
        H=matrix(kind in ("dense", "dense H"), 0.3, 2.0),
        A=matrix(kind in ("dense", "dense A"), 0.05, 2.0),
        q=rng.uniform(0.4, 2.5, (count, size)),
        p=rng.uniform(0.4, 2.5, (count, size)),
        forces=rng.normal(size=(count, answers, size)) + rng.normal(size=(count, 1, size)),
        chance=rng.dirichlet(np.full(answers, 4.0), count),
        beta=rng.uniform(0.2, 2.0, count),
        gamma=rng.uniform(0.0, 4.0, count),
    )


def share(flags: Sequence[bool] | Array) -> float:
    """Fraction that is true."""
    return float(np.mean(np.asarray(flags, dtype=float)))


Table = Mapping[str, np.ndarray]
"""Columns of equal length."""


def write_csv(path: Path, table: Table) -> Path:
    """A table as CSV; an empty cell where a number does not exist."""
    columns = [[_cell(value) for value in np.asarray(column).tolist()] for column in table.values()]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*columns, strict=True))
    return path


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.10g}"
    return str(value)

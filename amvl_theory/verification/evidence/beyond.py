"""T9: saturating responses and mixture posteriors against root finding, quadrature and descent; where the linear theory ends."""

from __future__ import annotations

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

from amvl_theory import (
    MeanLeakageModel,
    MixtureGame,
    SaturatingGame,
    closed_form_error_map,
    free_contamination,
    mixture_equilibrium,
    mixture_valid_range,
    saturating_equilibrium,
    saturating_spread,
    valid_range,
)
from amvl_theory.checks import Array
from amvl_theory.nonlinear.free_variances import saturating_free_contamination
from amvl_theory.nonlinear.mixture import reverse_pull
from amvl_theory.nonlinear.saturation import GROWING_EXAMPLE, SPREADING_EXAMPLE
from amvl_theory.verification.core import ABSOLUTE, CLOSED_FORM, Evidence, Ledger, relative

FREE = {"ntp+fwd": (0.247, 0.398), "amvl": (0.302, 0.326), "elbo": (0.377, 0.398)}
"""Contamination of the saturating mode of `free_variances.py` and of the linear one."""


def t9(rng: np.random.Generator, instances: int) -> Evidence:
    """T9 Beyond the linear Gaussian case."""
    book = Ledger()
    _saturating(book, rng, instances)
    _free_variances(book, rng, instances)
    _mixtures(book, rng, instances)
    _ranges(book)
    return book.evidence()


def _saturating(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """Fixed variances: the solver against nested root finding and against descent; its linear limit."""
    games = [
        SaturatingGame(
            rng.normal(0.5, 1.0, 3), rng.dirichlet(np.full(3, 4.0)), *rng.uniform(0.5, 2.0, 3), rng.uniform(0.1, 0.95)
        )
        for _ in range(count)
    ]
    gammas = rng.uniform(0.0, 3.0, count)
    result = np.array([float(saturating_equilibrium(g, w).contamination) for g, w in zip(games, gammas, strict=True)])
    few = min(count, 30)
    direct = [_by_roots(g, w) for g, w in zip(games[:few], gammas[:few], strict=True)]
    book.closed("saturating mode: contamination against nested root finding", relative(result[:few], direct), few)
    ends = descend(
        forces=np.stack([g.forces for g in games]),
        chance=np.stack([g.answer_probabilities for g in games]),
        saturation=np.array([g.saturation for g in games]),
        curvature=np.array([g.curvature for g in games]),
        pull=gammas * np.array([g.posterior_precision for g in games]),
        absorbed=np.array([g.absorption for g in games]),
    )
    book.simulated("saturating mode: contamination against descent on the potential", relative(ends, result), count)
    linear = [
        saturating_equilibrium(
            SaturatingGame(g.forces, g.answer_probabilities, 1e5, g.curvature, g.posterior_precision, g.absorption), w
        )
        for g, w in zip(games[:few], gammas[:few], strict=True)
    ]
    error = [[abs(float(x.contamination_error)), abs(float(x.spread_error))] for x in linear]
    book.closed(
        "saturating mode: linear theory for g0 -> infinity (contamination, spread)",
        error,
        few,
        1e-8,
        "the saturating mode differs by the order of (g/g0)^2, g0 = 1e5",
    )
    book.closed(
        "range of the linear theory for one force: x/tanh x = 1.1",
        abs(valid_range([0.0], spread_ratio=0.0)[0] / brentq(lambda x: x / np.tanh(x) - 1.1, 0.1, 2.0, xtol=1e-14) - 1),
        1,
    )
    _saturating_examples(book)


def _saturating_examples(book: Ledger) -> None:
    """The two exact instances in which contamination and leaked information grow with gamma."""
    grown = saturating_equilibrium(GROWING_EXAMPLE, [0.0, 1e6]).contamination
    exact = [0.5 * (np.tanh(3) - np.tanh(1)), np.tanh(1)]
    book.closed("counter-example to T3: a fully absorbed saturating mode moves", relative(grown, exact), 2)
    book.departs(
        "contamination of a fully absorbed saturating mode",
        grown[1] - grown[0],
        "latent",
        "forces 3, -1, g0 = 1, gamma 0 to 1e6",
    )
    spread = saturating_equilibrium(SPREADING_EXAMPLE, [0.0, 1.0])
    book.closed(
        "counter-example to T4: spread at gamma = 0",
        abs(spread.spread[0] / (0.25 * (np.tanh(3) - np.tanh(2)) ** 2) - 1),
        1,
    )
    book.departs(
        "leaked information that grows with gamma",
        spread.leaked_nats[1] - spread.leaked_nats[0],
        "nats",
        "forces 3, 2, g0 = 1, gamma 0 to 1",
    )


def _by_roots(game: SaturatingGame, gamma: float) -> float:
    """c by a root search in c, with one in every delta_y inside it."""
    chi, pull = game.saturation / game.curvature, gamma * game.posterior_precision
    forces, chance = np.asarray(game.forces), np.asarray(game.answer_probabilities)

    def shift(force: float, c: float) -> float:
        if pull == 0:
            return float(chi * np.tanh(force / game.saturation))
        theta = brentq(
            lambda t: game.saturation * t - force + pull * (chi * np.tanh(t) - c), -60.0, 60.0, xtol=1e-15, rtol=1e-15
        )
        return float(chi * np.tanh(theta))

    return float(
        brentq(
            lambda c: c - game.absorption * sum(p * shift(f, c) for p, f in zip(chance, forces, strict=True)),
            -chi,
            chi,
            xtol=1e-15,
            rtol=1e-15,
        )
    )


def descend(
    *,
    forces: Array,
    chance: Array,
    saturation: Array,
    curvature: Array,
    pull: Array,
    absorbed: Array,
    steps: int = 4000,
) -> Array:
    """c (N,) after descent on the potential and the two stopped KLs, stepped in theta = atanh(delta/chi)."""
    chi = (saturation / curvature)[:, None]
    theta, c = np.zeros_like(forces), np.zeros(len(forces))
    stiff = 0.5 / (saturation[:, None] + pull[:, None] * chi)
    for _ in range(steps):
        delta = chi * np.tanh(theta)
        theta = theta - stiff * (saturation[:, None] * theta - forces + pull[:, None] * (delta - c[:, None]))
        c = c - 0.5 * (
            c - absorbed * (chance * delta).sum(axis=1)
        )  # beta lambda_p (c - E delta) + alpha c, over their sum
    return c


def _free_variances(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """Means and variances free: T6's response in front, T5's objectives, against descent on the losses."""
    count = min(count, 100)
    force, h, g0 = rng.uniform(0.6, 2.0, count), rng.uniform(0.6, 1.8, count), rng.uniform(0.6, 3.0, count)
    gamma = rng.uniform(0.05, 0.6, count) * 2 * force**2 / h
    closed = np.array(
        [float(saturating_spread(f, a, b, w).variance) for f, a, b, w in zip(force, h, g0, gamma, strict=True)]
    )
    forces = force[:, None] * np.array([1.0, -1.0])
    _, shift = descend_freely("amvl", forces, h, g0, np.zeros(count), 0.7 * np.ones(count), gamma)
    book.simulated(
        "saturating spread with free variances against descent", relative((shift**2).mean(axis=1), closed), count
    )
    game = SaturatingGame([1.8, -0.2], [0.5, 0.5], 1.0, 1.3)
    for objective, (published, linear) in FREE.items():
        root = saturating_free_contamination(game, 0.6, 0.7, 0.5, objective)
        ends, _ = descend_freely(
            objective, np.array([[1.8, -0.2]]), *(np.array([x]) for x in (1.3, 1.0, 0.6, 0.7, 0.5))
        )
        book.simulated(
            f"saturating contamination with free variances, {objective}, against descent", relative(ends, root[:1]), 1
        )
        book.add(
            f"published: saturating contamination, {objective}",
            CLOSED_FORM,
            abs(root[0] - published),
            1,
            6e-4,
            ABSOLUTE,
            "digits of the statement",
        )
        exact = free_contamination(MeanLeakageModel(1.3, 0.8, 1.0, anchor=0.6), 0.7, 0.5, objective).values[0]  # type: ignore[arg-type]
        book.departs(
            f"linear theory of T5 under saturation, {objective}",
            exact / root[0] - 1,
            "linear/exact - 1",
            f"g0 = 1, forces 1.8 and -0.2; linear {linear}: the ranking reverses",
        )


def descend_freely(
    objective: str, forces: Array, h: Array, g0: Array, alpha: Array, beta: Array, gamma: Array, steps: int = 12_000
) -> tuple[Array, Array]:
    """(c (N,), delta (N, 2)) of balanced answers after descent on the losses: theta, c and both log-variances move."""
    chi, eta = (g0 / h)[:, None], 0.1
    theta, c, held = np.zeros_like(forces), np.zeros(len(h)), alpha == 0
    rho, r = np.zeros(len(h)), np.zeros(len(h))
    for _ in range(steps):
        delta, v, u = chi * np.tanh(theta), np.exp(rho), np.exp(r)
        away = delta - c[:, None]
        square = (away**2).mean(axis=1)
        toward = {"ntp+fwd": 0 * h, "elbo": beta / u, "amvl": gamma / v}[objective]
        narrow = {"ntp+fwd": 0 * h, "elbo": beta * (v / u - 1), "amvl": gamma * (1 - (u + square) / v)}[objective]
        theta = theta - eta * (g0[:, None] * theta - forces + toward[:, None] * away) / (
            g0[:, None] + toward[:, None] * chi
        )
        rho = np.maximum(rho - eta * (h * v + narrow) / (h * v + toward * v + 2 * np.abs(narrow) + 1e-300), -60.0)
        c = np.where(held, 0.0, c - eta * (beta * -away.mean(axis=1) / u + alpha * c) / (beta / u + alpha))
        r = r - eta * np.clip(1 - (v + square) / u, -3.0, 3.0)
    return c, chi * np.tanh(theta)


def _mixtures(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """The reverse KL's pull against adaptive quadrature and samples; equilibria against descent."""
    few = min(count, 12)
    shapes = [(rng.uniform(0.2, 3.0), rng.uniform(0.2, 0.8), rng.normal()) for _ in range(few)]
    games = [MixtureGame([1.5, 0.5], [0.5, 0.5], gap, w) for gap, w, _ in shapes]
    result = np.array([float(reverse_pull(game, e)[0]) for game, (_, _, e) in zip(games, shapes, strict=True)])
    direct = [
        quad(_slope, -12, 12, args=(game, e), epsabs=1e-12, epsrel=1e-12, limit=200)[0]
        for game, (_, _, e) in zip(games, shapes, strict=True)
    ]
    book.closed(
        "mixture: slope of KL(p||q) against adaptive quadrature", np.abs(result - direct) / (1 + np.abs(result)), few
    )
    nodes = rng.normal(size=100_000)
    terms = np.stack([_score(nodes, game, e) for game, (_, _, e) in zip(games, shapes, strict=True)])
    book.sampled(
        "mixture: slope of KL(p||q) against samples",
        terms.mean(axis=1),
        result,
        terms.std(axis=1) / np.sqrt(len(nodes)),
        few,
    )
    plain = mixture_equilibrium(MixtureGame([1.5, 0.5], [0.5, 0.5], 0.0), [0.0, 1.0, 4.0])
    book.closed(
        "mixture: without separation the linear theory",
        [np.abs(plain.contamination_error).max(), np.abs(plain.spread_error).max()],
        3,
    )
    gammas = rng.uniform(0.1, 2.0, few)
    solved = [mixture_equilibrium(game, w) for game, w in zip(games, gammas, strict=True)]
    keep = [i for i, item in enumerate(solved) if item.unique]
    ends = [_mixture_descent(games[i], gammas[i]) for i in keep]
    book.simulated(
        "mixture: contamination against descent",
        relative([float(solved[i].contamination) for i in keep], ends),
        len(keep),
    )


def _score(nodes: Array, game: MixtureGame, e: float) -> Array:
    """d/de of -log q at z - m* - c = tau * node, for a posterior mean e above the prior's: from the two densities."""
    w, gap = float(np.asarray(game.component_weight)), float(np.asarray(game.separation))
    z = np.sqrt(float(game.variance)) * nodes - e
    low, high = z + w * gap, z - (1 - w) * gap
    ratio = np.clip(0.5 * low**2 - 0.5 * high**2, -700, 700)
    upper = w * np.exp(ratio) / (1 - w + w * np.exp(ratio))
    return -((1 - upper) * low + upper * high)


def _slope(x: float, game: MixtureGame, e: float) -> float:
    return float(np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi) * _score(np.array([x]), game, e)[0])


def _mixture_descent(game: MixtureGame, gamma: float, steps: int = 1500) -> float:
    """c after descent with the KL's slope from a trapezoid rule of our own."""
    nodes = np.linspace(-10.0, 10.0, 801)
    weights = np.exp(-0.5 * nodes**2) / np.exp(-0.5 * nodes**2).sum()
    forces, chance = np.asarray(game.forces), np.asarray(game.answer_probabilities)
    delta, c, s = np.zeros(len(forces)), 0.0, game.absorption
    for _ in range(steps):
        slope = np.array([weights @ _score(nodes, game, d - c) for d in delta])
        delta = delta - 0.15 * (game.curvature * delta - forces + gamma * slope)
        c = c - 0.5 * (c - s * float(chance @ delta))
    return c


def _ranges(book: Ledger) -> None:
    """Where the linear theory is within 10 %."""
    gammas = np.array([0.0, 1.0, 4.0])
    for quantity in ("contamination", "spread", "leaked_nats"):
        for gamma, reach in zip(gammas, valid_range(gammas, quantity=quantity), strict=True):
            book.departs(
                f"saturation: {quantity} within 10 % up to this mean force",
                reach,
                "g0",
                f"gamma lambda_q/h = {gamma:g}, spread half the mean, s = 0.5",
            )
    for weight in (0.5, 0.25):
        reach = min(mixture_valid_range([weight])[0], 6.0)
        book.departs(
            "mixture: contamination within 10 % up to this separation",
            reach,
            "component standard deviations",
            f"weight {weight:g}, gamma 1; searched up to 6",
        )
    errors = closed_form_error_map(np.array([0.05, 0.3, 0.8]), np.array([1.0, 2.0, 4.0])).relative_error
    book.departs(
        "per-answer variances: largest error of the closed form's V",
        np.abs(errors).max(),
        "relative",
        "two answers, gamma/gamma_c 0.05 to 0.8, kurtosis 1 to 4",
    )

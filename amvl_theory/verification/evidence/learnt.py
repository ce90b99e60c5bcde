"""T8: a prior learnt from n questions, against the whole linear system, descent on its weights, and random label noise."""

from __future__ import annotations

import numpy as np

from amvl_theory import (
    AmortisedModel,
    ForceStatistics,
    GaussianGame,
    amortised_equilibrium,
    amortised_trajectory,
    average_risk,
    compare_protections,
    equilibrium_by_simulation,
    excess_risk,
    initial_state,
    noise_contamination,
    optimal_gamma,
    predicted_answer_direction_shift,
    ridgeless_noise,
)
from amvl_theory.checks import Array
from amvl_theory.verification.core import ERRORS, SIGMAS, SIMULATION, Evidence, Ledger, relative

SHAPES = {"n < p": (6, 9), "n = p": (8, 8), "n > p": (12, 7)}


def t8(rng: np.random.Generator, instances: int) -> Evidence:
    """T8 Amortised prior, finite data."""
    book, count = Ledger(), max(6, instances // 8)
    for label, (n, p) in SHAPES.items():
        _equilibria(book, rng, count, label, n, p)
    _game(book, rng, count)
    _training(book, rng)
    _noise(book, rng)
    _risk(book, rng, count)
    _descent_averages(book, rng, 20 * instances)
    _answer_direction(book, rng)
    return book.evidence()


def _random(rng: np.random.Generator, n: int, p: int, reduction: str = "sum") -> tuple[AmortisedModel, float, float]:
    h, q, prior, ridge = rng.uniform(0.4, 2.0, 4)
    model = AmortisedModel(rng.normal(size=(n, p)), h, q, prior, ridge, reduction)
    return model, float(rng.uniform(0.3, 2.0)), float(rng.uniform(0.0, 4.0))


def _whole_system(model: AmortisedModel, forces: Array, beta: float, gamma: float) -> tuple[Array, Array]:
    """(delta, W) from the stationarity of the loss in both, one solve of size n + p."""
    n, p, pull, push = model.questions, model.size, gamma * model.posterior_precision, beta * model.prior_precision
    matrix = np.zeros((n + p, n + p))
    matrix[:n, :n], matrix[:n, n:] = (model.curvature + pull) * np.eye(n), -pull * model.Phi
    matrix[n:, :n] = -push * model.Phi.T
    matrix[n:, n:] = push * model.Phi.T @ model.Phi + model.total_ridge * np.eye(p)
    result = np.linalg.solve(matrix, np.concatenate([forces, np.zeros(p)]))
    return result[:n], result[n:]


def _equilibria(book: Ledger, rng: np.random.Generator, count: int, label: str, n: int, p: int) -> None:
    """Shifts, contamination, ridge multiplier and noise contamination against direct solves."""
    errors: dict[str, list[float]] = {"delta": [], "c": [], "ridge": [], "noise": []}
    for k in range(count):
        model, beta, gamma = _random(rng, n, p, ("sum", "mean")[k % 2])
        g = rng.normal(size=n)
        result, (delta, weights) = amortised_equilibrium(model, g, beta, gamma), _whole_system(model, g, beta, gamma)
        errors["delta"].append(relative(result.posterior_shift[None], delta[None]))
        errors["c"].append(relative(result.contamination[None], (model.Phi @ weights)[None]))
        rho = (
            model.total_ridge
            / (beta * model.prior_precision)
            * (1 + gamma * model.posterior_precision / model.curvature)
        )
        regression = np.linalg.solve(model.Phi.T @ model.Phi + rho * np.eye(p), model.Phi.T @ g / model.curvature)
        errors["ridge"].append(relative(weights[None], regression[None]))
        fresh = rng.normal(size=(3, p))
        columns = np.stack(
            [_whole_system(model, unit, beta, gamma)[1] for unit in np.eye(n)], axis=1
        )  # W of every label
        direct = 0.7 * ((fresh @ columns) ** 2).sum(axis=1)
        errors["noise"].append(relative(noise_contamination(model, fresh, 0.7, beta, gamma)[None], direct[None]))
    book.closed(f"posterior shifts against the solve in (delta, W), {label}", errors["delta"], count)
    book.closed(f"contamination against the solve in (delta, W), {label}", errors["c"], count)
    book.closed(f"W is the ridge regression with rho (1 + gamma lambda_q/h), {label}", errors["ridge"], count)
    book.closed(f"contamination of fresh questions by label noise, {label}", errors["noise"], count)


def _game(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """The real game: for n <= p a ridge on W is the dense anchor alpha (Phi Phi^T)^-1 on the n prior means."""
    errors = []
    for _ in range(count):
        model, beta, gamma = _random(rng, 5, 12)
        g = rng.normal(size=5)
        anchor = model.ridge * np.linalg.inv(model.Phi @ model.Phi.T)
        game = GaussianGame(g[None, None], model.curvature, 0.5 * (anchor + anchor.T)[None], None, True, False, False)
        start = initial_state(game, posterior_var=1 / model.posterior_precision, prior_var=1 / model.prior_precision)
        run = equilibrium_by_simulation(game, beta=beta, gamma=gamma, initial=start, tolerance=1e-11)
        errors.append(
            relative(run.state.contamination, amortised_equilibrium(model, g, beta, gamma).contamination[None])
        )
    book.simulated("contamination against the simulated game, n < p", errors, count)


def descend(
    model: AmortisedModel, forces: Array, beta: float, gamma: float, steps: int, eta: float
) -> tuple[Array, Array]:
    """(delta, W) after gradient steps on the loss of `amvl_theory.learnt_prior.amortised`, with its stop-gradients, from 0."""
    delta, weights = np.zeros_like(forces), np.zeros((model.size, *forces.shape[1:]))
    pull, push = gamma * model.posterior_precision, beta * model.prior_precision
    for _ in range(steps):
        prior = model.Phi @ weights
        to_delta = model.curvature * delta - forces + pull * (delta - prior)
        to_weights = push * model.Phi.T @ (prior - delta) + model.total_ridge * weights
        delta, weights = delta - eta * to_delta, weights - eta * to_weights
    return delta, weights


def _training(book: Ledger, rng: np.random.Generator) -> None:
    """The exact training path against descent, step halved and extrapolated; protection of a prior that memorises."""
    model, g = AmortisedModel(rng.normal(size=(10, 6)) / 2, 1.3, 0.8, 1.1, 0.3), rng.normal(size=10)
    coarse, fine = (descend(model, g, 0.7, 1.5, steps, 3.0 / steps)[1] for steps in (3000, 6000))
    path = amortised_trajectory(model, g, 0.7, 1.5, [3.0])
    book.simulated("weights at time 3 against descent", relative((2 * fine - coarse)[None], path.weights), 1)
    free = AmortisedModel(rng.normal(size=(5, 9)), 1.3, 1.0, 1.0, 0.0)
    g = rng.normal(size=5)
    ends = np.stack([amortised_equilibrium(free, g, 1.0, gamma).contamination for gamma in (0.0, 1.0, 100.0)])
    book.closed(
        "a prior that memorises (no ridge, n < p) keeps g/h at every gamma",
        relative(ends, np.broadcast_to(g / 1.3, ends.shape)),
        3,
    )
    statistics = ForceStatistics(1.0, 0.3)
    for name, item in compare_protections(free, statistics, 1.0, 1.0, 3.0).items():
        book.departs(
            f"prior that memorises, {name}: excess loss",
            item.risk,
            "nats",
            "n = 5, p = 9, no ridge, v = 1, tau^2 = 0.3, horizon 3",
        )


def _noise(book: Ledger, rng: np.random.Generator) -> None:
    """Descent on thousands of draws of label noise against the closed form's variance."""
    model, draws = AmortisedModel(rng.normal(size=(12, 7)) / 2, 1.3, 0.8, 1.1, 0.5), 1500
    xi = np.sqrt(0.7) * rng.normal(size=(12, draws))
    fresh = rng.normal(size=(4, 7))
    _, weights = descend(model, xi, 0.7, 1.5, 1500, 0.1)
    expected = noise_contamination(model, fresh, 0.7, 0.7, 1.5)
    measured = ((fresh @ weights) ** 2).mean(axis=1)
    book.sampled(
        "contamination by label noise: descent on random labels",
        measured,
        expected,
        expected * np.sqrt(2 / draws),
        draws,
    )


def _risk(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """The optimal gamma: no gamma on a fine grid does better; its closed form for random coefficients."""
    worse = []
    for k in range(count):
        model, beta, _ = _random(rng, 9, 6)
        given = {"signal_var": 0.2} if k % 2 else {"coefficients": 0.5 * rng.normal(size=6)}
        statistics = ForceStatistics(rng.uniform(0.5, 3.0), **given)  # type: ignore[arg-type]
        best = optimal_gamma(model, statistics, beta)
        if not np.isfinite(best):
            continue
        grid = np.concatenate([[0.0], np.geomspace(1e-3, 1e4, 400), best * np.linspace(0.9, 1.1, 41)])
        risk = excess_risk(model, statistics, beta, grid).total
        at = float(excess_risk(model, statistics, beta, best).total)
        worse.append(max(at / risk.min() - 1, 0.0))
    book.closed("no gamma on a grid has less excess loss than the optimal one", worse, len(worse))


def _descent_averages(book: Ledger, rng: np.random.Generator, draws: int) -> None:
    """Ridgeless noise by random features: double descent; the large-n formula with a ridge as a departure."""
    for n, p in ((30, 10), (10, 30), (14, 10)):
        phi = rng.normal(size=(draws, n, p))
        values = 0.5 * (np.linalg.pinv(phi) ** 2).sum(axis=(1, 2))
        error = values.std() / np.sqrt(draws)
        away = abs(values.mean() - float(ridgeless_noise(n, p, 1.0))) / error
        book.add(f"ridgeless noise, n = {n}, p = {p}: random features", SIMULATION, away, draws, SIGMAS, ERRORS)
    n = p = 20
    kappa = np.linalg.svd(rng.normal(size=(400, n, p)), compute_uv=False) ** 2
    for rho in (0.5, 5.0):
        exact = float((0.5 * kappa / (kappa + rho) ** 2).sum(axis=1).mean())
        limit = float(average_risk(n, p, rho, 1.0, 0.0).noise)
        book.departs(
            f"large-n formula of the noise at n = p = 20, rho = {rho:g}",
            limit / exact - 1,
            "formula/average of 400 - 1",
            "finite n",
        )


def _answer_direction(book: Ledger, rng: np.random.Generator) -> None:
    """The displacement that a checkpoint shows, from posteriors and prior means themselves."""
    model, options = AmortisedModel(rng.normal(size=(8, 5)), 1.3, 0.8, 1.1, 0.5), 4
    forces, answers = rng.normal(size=(8, options, 3)), rng.integers(options, size=8)
    result = predicted_answer_direction_shift(model, forces, answers, 0.7, 1.5)
    chosen = forces[np.arange(8), answers]
    c = np.stack([model.Phi @ _whole_system(model, chosen[:, i], 0.7, 1.5)[1] for i in range(3)], axis=1)
    pull = 1.5 * model.posterior_precision
    delta = (forces + pull * c[:, None]) / (model.curvature + pull)
    eps = delta - delta.mean(axis=1, keepdims=True)
    direct = ((c - delta.mean(axis=1))[:, None] * eps).sum(-1) / (eps**2).sum(-1)
    book.closed("answer-direction shift from posterior and prior means", relative(result.training, direct), 8)

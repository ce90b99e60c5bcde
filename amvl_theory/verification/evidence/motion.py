"""T7: exact trajectories, schedules, stability and noise against integration, linear algebra and simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from amvl_theory import (
    GaussianGame,
    MeanLeakageModel,
    Schedule,
    Simulation,
    compare_orders,
    fixed_state,
    scheduled_trajectory,
    simulate,
    spread_trajectory,
    stability,
    stationary_covariance,
    trajectory,
    trajectory_per_answer,
)
from amvl_theory.checks import Array
from amvl_theory.dynamics.stability import UNSTABLE_EXAMPLE, alternating_iteration, game_matrix
from amvl_theory.verification.core import CLOSED_FORM, SIMULATION, Evidence, Ledger, draw, relative, share

TIMES = np.array([0.1, 0.5, 1.0, 2.0, 4.0])
ORDERS = ("forward-first", "reverse-first", "simultaneous")
STANDARD = MeanLeakageModel([1.3, 0.6], [0.8, -0.5], [1.0, 0.7], [1.0, 2.0], [1.5, 0.8], [0.6, 0.2])
"""The model of the trajectory comparisons: two modes that differ in absorption."""


def t7(rng: np.random.Generator, instances: int) -> Evidence:
    """T7 Stability."""
    book = Ledger()
    _trajectories(book, rng, instances)
    _schedules(book)
    _spectra(book, rng, instances)
    _noise(book, rng, instances)
    _answers(book, rng)
    return book.evidence()


def _trajectories(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """Exact trajectories against the matrix exponential, tight integration, and gradient steps on the real losses."""
    for kind in ("dense H", "dense A", "diagonal"):
        batch, rates = draw(rng, count, kind), rng.uniform(0.5, 2.0, (count, 2))
        start = rng.normal(size=(count, 2, 3))
        errors = []
        for n, model in enumerate(batch.models()):
            at = (model, batch.beta[n], batch.gamma[n])
            path = trajectory(*at, TIMES, *rates[n], initial=(start[n, 0], start[n, 1]))
            result = np.hstack([path.posterior_shift, path.contamination])
            matrix, source = game_matrix(*at, *rates[n])
            block = np.zeros((len(source) + 1, len(source) + 1))
            block[:-1, :-1], block[:-1, -1] = matrix, source
            direct = np.stack([(expm(block * t) @ np.append(start[n].ravel(), 1.0))[:-1] for t in TIMES])
            errors.append(relative(result[None], direct[None]))
        book.closed(f"trajectory in the eigenbasis against the matrix exponential, {kind}", errors, count)
    for kind in ("dense", "diagonal"):
        batch, few = draw(rng, min(count, 5), kind), min(count, 5)
        errors = []
        for n, model in enumerate(batch.models()):
            matrix, source = game_matrix(model, batch.beta[n], batch.gamma[n])
            direct = _integrated(lambda t, u, m=matrix, s=source: m @ u + s, np.zeros(6), TIMES)
            path = trajectory(model, batch.beta[n], batch.gamma[n], TIMES)
            errors.append(relative(np.hstack([path.posterior_shift, path.contamination])[None], direct[None]))
        book.closed(f"trajectory against tight integration, {kind} instances", errors, few)
        batch = draw(rng, count, kind)
        result = [
            trajectory(m, b, g, [1.0, 3.0]) for m, b, g in zip(batch.models(), batch.beta, batch.gamma, strict=True)
        ]
        spread = [
            spread_trajectory(m, g, [1.0, 3.0]).spread_cov for m, g in zip(batch.models(), batch.gamma, strict=True)
        ]
        measured = _extrapolated(batch, [1.0, 3.0])
        expected = (
            np.stack([f.posterior_shift for f in result]),
            np.stack([f.contamination for f in result]),
            np.stack(spread),
        )
        for name, mine, closed in zip(("dbar", "contamination", "spread"), measured, expected, strict=True):
            book.simulated(
                f"{name} at times 1 and 3 against simulation, {kind} instances", relative(mine, closed), count
            )


def _integrated(flow, start: Array, times: Array) -> Array:
    result = solve_ivp(flow, (0.0, float(times[-1])), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13)
    return np.asarray(result.y.T)


def _extrapolated(batch, times: list[float]) -> tuple[Array, Array, Array]:
    """dbar, c (N, T, d) and the spread (N, T, d, d) of explicit simulation, steps of 1/800 and 1/1600 extrapolated to 0."""
    game, start = batch.game()
    values = []
    for pace in (800, 1600):
        record = [round(t * pace) for t in times]
        run = simulate(
            game,
            beta=batch.beta,
            gamma=batch.gamma,
            steps=record[-1],
            eta_q=1 / pace,
            eta_p=1 / pace,
            initial=start,
            per_answer=True,
            record=record,
        )
        delta = np.moveaxis(run.recorded.posterior_shift, 0, 1)
        mean = np.einsum("nk,ntkd->ntd", batch.chance, delta)
        away = delta - mean[:, :, None]
        cov = np.einsum("nk,ntki,ntkj->ntij", batch.chance, away, away)
        values.append((mean, np.moveaxis(run.recorded.contamination, 0, 1), cov))
    return tuple(2 * fine - coarse for coarse, fine in zip(*values, strict=True))  # type: ignore[return-value]


def simulated_order(model: MeanLeakageModel, schedule: Schedule, times: Array, pace: int) -> Simulation:
    """Gradient steps of 1/pace on the real losses under a schedule; records the given times."""
    game = GaussianGame.from_model(model)
    record = [round(t * pace) for t in times]
    beta, gamma = schedule.weights((np.arange(record[-1]) + 0.5) / pace)
    return simulate(
        game,
        beta=beta[:, None],
        gamma=gamma[:, None],
        steps=record[-1],
        eta_q=1 / pace,
        eta_p=1 / pace,
        initial=fixed_state(game, model),
        per_answer=True,
        record=record,
    )


def _schedules(book: Ledger) -> None:
    """The three orders: exact trajectory against integration and against simulation."""
    times, beta, gamma = np.array([1.0, 2.0, 3.0, 5.0, 10.0]), 0.7, 1.5
    for order in ORDERS:
        plan = Schedule(beta, gamma, order, 10.0)
        path = scheduled_trajectory(STANDARD, plan, times)
        result = np.hstack([path.posterior_shift, path.contamination])
        ends, state, direct = [0.0, 1.0, 2.0, 4.0, 10.0], np.zeros(4), []
        for low, high in pairwise(ends):  # between the knots of the ramps everything is smooth
            inside = np.append(times[(times > low) & (times < high)], high)

            def flow(t: float, u: Array, plan: Schedule = plan) -> Array:
                b, g = plan.weights(np.array(t))
                matrix, source = game_matrix(STANDARD, float(b), float(g))
                return matrix @ u + source

            part = solve_ivp(flow, (low, high), state, method="DOP853", t_eval=inside, rtol=1e-12, atol=1e-13).y.T
            state = part[-1]
            direct += [row for t, row in zip(inside, part, strict=True) if t in times]
        book.closed(f"{order}: schedule against tight integration", relative(result[None], np.array(direct)[None]), 1)
        coarse, fine = (simulated_order(STANDARD, plan, times, pace) for pace in (200, 400))
        measured = 2 * fine.recorded.contamination[:, 0] - coarse.recorded.contamination[:, 0]
        book.simulated(f"{order}: schedule against simulation", relative(measured[None], path.contamination[None]), 1)
    for name, outcome in compare_orders(STANDARD, beta, gamma, 10.0).items():
        book.departs(
            f"{name}: peak contamination over the final one",
            outcome.peak / outcome.final,
            "ratio",
            "beta 0.7, gamma 1.5, horizon 10",
        )


def _spectra(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """Real negative eigenvalues, the bounds on the step, and what happens when H and A are both dense."""
    for kind in ("dense H", "dense A", "diagonal"):
        batch, rates = draw(rng, count, kind), rng.uniform(0.3, 3.0, (count, 2))
        apart, imaginary, edge, alternating = [], [], [], []
        for n, model in enumerate(batch.models()):
            at = (model, batch.beta[n], batch.gamma[n] + 0.01)
            result, matrix = stability(*at, *rates[n]), game_matrix(*at, *rates[n])[0]
            direct = np.linalg.eigvals(matrix)
            size = np.abs(direct).max()
            apart.append(np.abs(np.sort(direct.real) - np.sort(result.eigenvalues.real)).max() / size)
            imaginary.append(np.abs(direct.imag).max() / size + max(result.eigenvalues.real.max(), 0) / size)
            edge.append(abs(np.abs(1 + result.max_stable_step * direct).max() - 1))
            step = alternating_iteration(*at, result.max_stable_step_alternating, *rates[n])
            alternating.append(abs(np.abs(np.linalg.eigvals(step)).max() - 1))
        book.closed(f"eigenvalues against those of J, {kind}", apart, count)
        book.closed(f"no complex and no positive eigenvalue, {kind}", imaginary, count)
        book.closed(f"spectral radius 1 at the largest stable step, {kind}", edge, count)
        book.closed(f"spectral radius 1 at the largest alternating step, {kind}", alternating, count)
    _steps(book)
    result = stability(UNSTABLE_EXAMPLE, 1.0, 1.0)
    book.add(
        "published: unstable eigenvalue of the dense instance",
        CLOSED_FORM,
        abs(result.eigenvalues.real.max() - 0.0029),
        1,
        5e-5,
        "absolute",
        "digits of the statement",
    )
    book.departs(
        "largest eigenvalue with H and A both dense",
        result.eigenvalues.real.max(),
        "1/time",
        "the published 2x2 instance, weights and rates 1",
    )
    book.departs(
        "its complex pair, imaginary part",
        np.abs(result.eigenvalues.imag).max(),
        "1/time",
        "the published 2x2 instance",
    )
    wild = draw(rng, 10 * count, "dense", size=2)
    loose = np.exp(rng.uniform(-2.0, 3.0, wild.q.shape))
    pairs = [
        MeanLeakageModel(h, 0.0, 0.0, q, 1.0, a - 0.04 * np.eye(2))
        for h, a, q in zip(wild.H, wild.A, loose, strict=True)
    ]
    unstable = [np.linalg.eigvals(game_matrix(m, 1.0, 1.0)[0]).real.max() > 0 for m in pairs]
    book.departs(
        "unstable games among random ones with H and A both dense",
        share(unstable),
        "share of instances",
        f"{len(pairs)} games, precisions 0.14 to 20",
    )


def _steps(book: Ledger) -> None:
    """Descent just inside and just outside of both bounds."""
    bounds = stability(STANDARD, 0.7, 1.5)
    game = GaussianGame.from_model(
        MeanLeakageModel(STANDARD.H, STANDARD.g, 0.0, STANDARD.Lambda_q, STANDARD.Lambda_p, STANDARD.A)
    )
    start = fixed_state(game, STANDARD)
    wrong = 0
    for update, bound in (
        ("simultaneous", bounds.max_stable_step),
        ("alternating", bounds.max_stable_step_alternating),
    ):
        sizes = []
        for factor in (0.98, 1.02):
            run = simulate(
                game,
                beta=0.7,
                gamma=1.5,
                steps=2000,
                eta_q=factor * bound,
                eta_p=factor * bound,
                initial=start,
                update=update,
            )
            sizes.append(float(run.gradient_norm[0]))
        wrong += int(not sizes[0] < 1e-3) + int(sizes[1] < 1e3)
    book.add(
        "descent settles 2 % below and diverges 2 % above the largest stable steps", SIMULATION, wrong, 4, 0.0, "cases"
    )


def _noise(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """Stationary covariance: the Lyapunov solution against a Kronecker solve and against noisy descent."""
    errors = []
    batch = draw(rng, count, "dense H", size=2)
    for n, model in enumerate(batch.models()):
        at = (model, batch.beta[n], batch.gamma[n])
        result = stationary_covariance(*at, 0.3, 0.5).joint
        matrix, _ = game_matrix(*at)
        eye = np.eye(len(matrix))
        drive = np.diag([0.3, 0.3, 0.5, 0.5])
        direct = np.linalg.solve(np.kron(matrix, eye) + np.kron(eye, matrix), -drive.ravel()).reshape(drive.shape)
        errors.append(relative(result[None], direct[None]))
    book.closed("stationary covariance against a Kronecker solve", errors, count)
    copies, step, model = (
        8000,
        0.1,
        MeanLeakageModel(STANDARD.H, 0.0, 0.0, STANDARD.Lambda_q, STANDARD.Lambda_p, STANDARD.A),
    )
    game = GaussianGame.from_model(model, instances=copies)
    run = simulate(
        game,
        beta=0.7,
        gamma=1.5,
        steps=300,
        eta_q=step,
        eta_p=step,
        noise_q=0.3,
        noise_p=0.5,
        rng=rng,
        initial=fixed_state(game, model),
    )
    states = np.hstack([run.mean_shift, run.state.contamination])
    measured = states.T @ states / copies
    expected = stationary_covariance(model, 0.7, 1.5, 0.3**2, 0.5**2, step=step).joint
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / copies)
    book.sampled("stationary covariance of noisy descent, all entries", measured, expected, error, copies)


def _answers(book: Ledger, rng: np.random.Generator) -> None:
    """Unequal answer probabilities: the real gradients carry p(y), and the spread feeds a transient in the mean channel."""
    chance, force = np.array([0.7, 0.2, 0.1]), rng.normal(size=(3, 2))
    mean = chance @ force
    model = MeanLeakageModel(STANDARD.H, mean, 0.0, STANDARD.Lambda_q, STANDARD.Lambda_p, STANDARD.A)
    times = np.array([0.5, 1.0, 2.0, 5.0])
    exact = trajectory_per_answer(model, force, chance, 0.7, 1.5, times)
    game = GaussianGame(
        force[None], np.diag(STANDARD.H)[None].copy(), np.diag(STANDARD.A)[None].copy(), chance, True, False, False
    )
    start = fixed_state(game, model)
    runs = []
    for pace in (800, 1600):
        record = [round(t * pace) for t in times]
        run = simulate(
            game, beta=0.7, gamma=1.5, steps=record[-1], eta_q=1 / pace, eta_p=1 / pace, initial=start, record=record
        )
        runs.append(run.recorded.contamination[:, 0])
    book.simulated(
        "unequal answers: contamination in time against simulation",
        relative((2 * runs[1] - runs[0])[None], exact.contamination[None]),
        1,
    )
    equal = trajectory_per_answer(model, force, chance, 0.7, 1.5, times, rates="equal")
    plain = trajectory(model, 0.7, 1.5, times)
    book.closed(
        "equal rates: the answers' mean is the mean channel",
        relative(equal.contamination[None], plain.contamination[None]),
        1,
    )
    size = np.abs(plain.contamination).max()
    book.departs(
        "contamination in the transient, gradients with p(y) against equal rates",
        np.abs(exact.contamination - plain.contamination).max() / size,
        "relative",
        "answers 70/20/10, times up to 5",
    )

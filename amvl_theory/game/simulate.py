"""Batched simulation of the Gaussian game: gradient descent on the real losses, thousands of instances at a time.

    delta_y <- delta_y - eta_q [ w_y dL/d delta_y + noise_q xi ]      rho_y <- rho_y - eta_q [ w_y dL/d rho_y + noise_q xi ]
    c       <- c       - eta_p [ dL/d c + noise_p xi ]                r     <- r     - eta_p [ dL/d r + noise_p xi ]

with the losses and gradients of `amvl_theory.game.game` (stop-gradients where the objective has them), log-variances rho and r,
xi standard normal, and w_y = 1 (the gradient itself, which carries p_y) or 1/p_y (`per_answer`, the flow of
`amvl_theory.model`; a variance that all answers share has no p_y to divide by). Time is eta times steps.

Two traps near and above the critical reverse weight (T6), where the posterior's variance v runs to 0:

1. It gets there slowly: above the critical weight v decays like 1/t, at it like t^(-1/2). `equilibrium_by_simulation`
   says which instances had not arrived.
2. Explicit descent may never get there. A step eta is stable for the posterior's mean only while
   eta (h + gamma / v) < 2; once v falls to about

       v_trap = eta gamma / (2 - eta h)

   the means jump back and forth around their rest at every step, the spread so made feeds the prior's variance, and v
   stays there: leakage that the game does not have. Log-variances keep v positive, but do not remove this trap; a
   smaller step lowers it. The scaled steps (below) have no such bound and no trap. `Simulation.trap_variance` is the
   bound of a run, to compare with.

Scaled steps divide every gradient entry by a bound of its own curvature at the current state (row sums of H and A; for
log-variances the Newton step of the balance between the two variances), so eta = 1 is stable for each block. They
have the same fixed points but follow another path, so use `step_rule="euler"` for anything that depends on time. They
keep log-variances above -100: an objective that nothing stops from shrinking the posterior (ntp, forward-only) gets there.

Source: derived for this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amvl_theory.checks import Array, one_of, positive_number, scalar, weight
from amvl_theory.game.game import GameState, GaussianGame, gradients, terms_of
from amvl_theory.game.kernel import Chunk, StepRule, diverging, scatter
from amvl_theory.game.setup import (
    NOISE_BLOCK,
    GradientNoise,
    WeightFunction,
    WeightSchedule,
    check_counts,
    checked_start,
    chunk_length,
    trap_variance,
    weight_function,
)
from amvl_theory.game.shared_kernel import SharedChunk, suits


@dataclass(frozen=True, eq=False)
class Simulation:
    """Where a batch of games went. N instances, K answers, d modes, T recorded steps.

    Attributes:
        game: the game.
        state: final state, arrays as in `GameState`.
        gradient_norm: largest absolute gradient entry of every instance at the end (N,), with the last step's weights and
            without noise; nan or infinite where the run diverged.
        steps: steps made (N,); fewer than asked for where a chunk reached the tolerance.
        converged: (N,) gradient_norm at most the tolerance; None where no tolerance was given.
        recorded_steps: (T,) step numbers; 0 is the initial state.
        recorded: states at these steps, each array with a leading axis T.
        trap_variance: (N,) eta_q gamma / (2 - eta_q h), the posterior variance at which explicit steps can lock in (this
            module's second trap), largest over modes; inf where the step is too large for any variance, 0 for scaled
            steps and objectives without a reverse term on the posterior.
    """

    game: GaussianGame
    state: GameState
    gradient_norm: Array
    steps: NDArray[np.int64]
    converged: NDArray[np.bool_] | None
    recorded_steps: NDArray[np.int64]
    recorded: GameState
    trap_variance: Array

    @cached_property
    def mean_shift(self) -> Array:
        """dbar = E_y delta_y at the end (N, d) [latent]."""
        return (self.game.p[:, :, None] * self.state.posterior_shift).sum(1)

    @cached_property
    def spread_cov(self) -> Array:
        """Cov_y(delta_y) at the end (N, d, d) [latent^2]."""
        spread = self.state.posterior_shift - self.mean_shift[:, None, :]
        return np.einsum("nki,nkj->nij", self.game.p[:, :, None] * spread, spread)

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """(N,) whether an instance's state or gradient is no longer finite."""
        return np.asarray(~np.isfinite(self.gradient_norm + self.state.largest()))


@dataclass(frozen=True)
class _Plan:
    """What all chunks of one run share."""

    game: GaussianGame
    start: GameState
    rule: StepRule
    weights: WeightFunction
    steps: int
    alternating: bool
    noise: tuple[float, float]
    tolerance: float | None
    check_every: int
    record: tuple[int, ...]
    shared: bool


def simulate(
    game: GaussianGame,
    *,
    objective: str = "amvl",
    beta: ArrayLike | None = None,
    gamma: ArrayLike | None = None,
    schedule: WeightSchedule | None = None,
    steps: int,
    eta_q: float = 0.05,
    eta_p: float = 0.05,
    initial: GameState | None = None,
    update: str = "simultaneous",
    step_rule: str = "euler",
    per_answer: bool = False,
    noise_q: float = 0.0,
    noise_p: float = 0.0,
    rng: np.random.Generator | None = None,
    tolerance: float | None = None,
    check_every: int = 50,
    record: Sequence[int] = (),
    chunk: int | None = None,
    threads: int = 1,
) -> Simulation:
    """Run gradient descent on an objective's real losses, for all instances of a game (the module's equations).

    Args:
        objective: a name of the table in `amvl_theory.game.game`.
        beta, gamma: weights of the forward and the reverse KL, at least 0: numbers, (N,), or (steps, N or 1) for weights
            that change with the step.
        schedule: instead of both, a function of the step number (0, 1, ...) that returns (beta, gamma), numbers or (N,);
            for a `Schedule`, whose argument is time: ``lambda step: plan.weights(step * eta_q)``.
        steps: number of steps, or the most of them where a tolerance is given.
        eta_q, eta_p: step sizes of posterior and prior.
        initial: start; default is `initial_state(game)`: all shifts 0, all variances 1.
        update: "simultaneous", or "alternating" (posterior first, then the prior against the new posterior).
        step_rule: "euler" (the gradient itself) or "scaled" (see the module; implies ``per_answer``).
        per_answer: divide each answer's gradients by p_y.
        noise_q, noise_p: standard deviation of the Gaussian noise that is added to every gradient entry of posterior and
            prior (after division by p_y or by a curvature bound), independent over entries, steps and instances.
        rng: source of the noise, needed with it. It spawns one child per block of 64 instances, so a result is a function
            of seed and instance number only, not of ``chunk`` and ``threads``; and two calls with one generator, one on the
            first 64 m instances and one on the rest, give what one call on all of them gives.
        tolerance: stop a chunk early once no gradient entry (divided by p_y) in it exceeds this; not with noise or record.
        check_every: steps between two looks at the gradient.
        record: step numbers at which to keep the state, from 0 (before the first step) to ``steps``.
        chunk: instances per chunk; default: as many as fit the second-level cache.
        threads: chunks that run side by side.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    terms = terms_of(objective)
    check_counts(steps=steps, check_every=check_every, threads=threads)
    one_of("update", update, ("simultaneous", "alternating"))
    one_of("step_rule", step_rule, ("euler", "scaled"))
    rates = [positive_number("eta_q", eta_q), positive_number("eta_p", eta_p)]
    noise = (weight("noise_q", noise_q), weight("noise_p", noise_p))
    noisy = any(noise)
    if noisy and rng is None:
        raise ValueError("rng: expected a numpy.random.Generator where there is noise, received None")
    if tolerance is not None:
        tolerance = positive_number("tolerance", tolerance)
        if noisy or len(record):
            raise ValueError(f"tolerance: expected None beside noise or record, received {tolerance}")
    record_steps = tuple(sorted({int(step) for step in record}))
    if record_steps and not 0 <= record_steps[0] <= record_steps[-1] <= steps:
        raise ValueError(f"record: expected steps from 0 to {steps}, received {record_steps[0]} to {record_steps[-1]}")
    start = checked_start(game, initial)
    count = game.shape[0]
    rule = StepRule(terms, rates[0], rates[1], per_answer, step_rule == "scaled")
    plan = _Plan(
        game=game,
        start=start,
        rule=rule,
        weights=weight_function(beta, gamma, schedule, steps, count, terms),
        steps=steps,
        alternating=update == "alternating",
        noise=noise,
        tolerance=tolerance,
        check_every=check_every,
        record=record_steps,
        shared=suits(game, rule) and update == "simultaneous" and not noisy and tolerance is None,
    )
    final = GameState(*(np.empty_like(part) for part in start.parts))
    recorded = GameState(*(np.empty((len(record_steps), *part.shape)) for part in start.parts))
    made = np.zeros(count, dtype=np.int64)
    length = chunk_length(game, chunk, noisy, plan.shared)
    pieces = [slice(first, min(first + length, count)) for first in range(0, count, length)]
    children = rng.spawn(-(-count // NOISE_BLOCK)) if noisy and rng is not None else []

    def run(where: slice) -> None:
        streams = children[where.start // NOISE_BLOCK : -(-where.stop // NOISE_BLOCK)]
        made[where] = _run_chunk(plan, where, final, recorded, streams)

    if threads == 1 or len(pieces) == 1:
        for where in pieces:
            run(where)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, pieces))

    last_beta, last_gamma = plan.weights(steps - 1)
    with diverging():
        norm = gradients(game, final, objective=objective, beta=last_beta, gamma=last_gamma).largest()
    return Simulation(
        game=game,
        state=final,
        gradient_norm=norm,
        steps=made,
        converged=None if tolerance is None else np.asarray(norm <= tolerance),
        recorded_steps=np.array(record_steps, dtype=np.int64),
        recorded=recorded,
        trap_variance=trap_variance(game, plan.rule, last_gamma),
    )


def equilibrium_by_simulation(
    game: GaussianGame,
    *,
    objective: str = "amvl",
    beta: ArrayLike,
    gamma: ArrayLike,
    tolerance: float = 1e-10,
    max_steps: int = 20_000,
    initial: GameState | None = None,
    eta: float = 0.7,
    chunk: int | None = None,
    threads: int = 1,
) -> Simulation:
    """Iterate scaled, alternating steps from ``initial`` until no gradient exceeds the tolerance.

    Nothing is hidden: `Simulation.converged` is False for an instance whose gradient is still larger after ``max_steps``
    (slow near the critical weight or beside a collapsed mode of a dense H, or a cycle), and `Simulation.diverged` is True
    for one that left the finite numbers. A converged instance is at a fixed point of the game, that of this start where
    there are several. Where a variance runs to 0 (objectives with ntp but no pull on the posterior, a collapsed dual KL)
    the gradient of its logarithm falls with the variance, so the tolerance then bounds variance times curvature.

    Args:
        objective, beta, gamma, initial, chunk, threads: as for `simulate`; beta and gamma constant in time.
        tolerance: on the largest gradient entry (nats/latent, or nats for log-variances).
        max_steps: the most steps.
        eta: fraction of the scaled step; 1 is the full Newton step of every block, below 1 damps.

    Raises:
        ValueError: as `simulate`; also if eta is above 1.
    """
    if scalar("eta", eta) > 1:
        raise ValueError(f"eta: expected at most 1, received {eta}")
    return simulate(
        game,
        objective=objective,
        beta=beta,
        gamma=gamma,
        steps=max_steps,
        eta_q=eta,
        eta_p=eta,
        initial=initial,
        update="alternating",
        step_rule="scaled",
        tolerance=tolerance,
        check_every=20,
        chunk=chunk,
        threads=threads,
    )


def _run_chunk(
    plan: _Plan, where: slice, final: GameState, recorded: GameState, streams: Sequence[np.random.Generator]
) -> int:
    """All steps of one chunk; writes its final and recorded states and returns the number of steps made."""
    if plan.shared:
        return _run_shared(plan, where, final, recorded)
    chunk = Chunk(plan.game, plan.start, where, plan.rule)
    noise = GradientNoise(chunk, plan.noise, streams) if streams else None
    rows = {step: row for row, step in enumerate(plan.record)}
    made = 0
    with diverging():
        for step in range(plan.steps):
            if step in rows:
                scatter(chunk, recorded, rows[step])
            beta, gamma = (value[where] if value.ndim else float(value) for value in plan.weights(step))
            watched = plan.tolerance is not None and step % plan.check_every == 0
            if watched and chunk.largest_gradient(beta, gamma) <= plan.tolerance:  # type: ignore[operator]
                break
            _step(chunk, beta, gamma, alternating=plan.alternating, noise=noise)
            made = step + 1
    if plan.steps in rows:
        scatter(chunk, recorded, rows[plan.steps])
    scatter(chunk, final)
    return made


def _run_shared(plan: _Plan, where: slice, final: GameState, recorded: GameState) -> int:
    """`_run_chunk` where the answers share their variance and step."""
    chunk = SharedChunk(plan.game, plan.start, where, plan.rule)
    rows = {step: row for row, step in enumerate(plan.record)}
    with diverging():
        for step in range(plan.steps):
            if step in rows:
                scatter(chunk, recorded, rows[step])
            beta, gamma = (value[where] if value.ndim else float(value) for value in plan.weights(step))
            chunk.step(beta, gamma)
        if plan.steps in rows:
            scatter(chunk, recorded, rows[plan.steps])
        scatter(chunk, final)
    return plan.steps


def _step(
    chunk: Chunk, beta: float | Array, gamma: float | Array, *, alternating: bool, noise: GradientNoise | None
) -> None:
    """One step of both players, the prior against the old posterior or, alternating, against the new one."""
    chunk.refresh()
    chunk.posterior_field(beta, gamma)
    if not alternating:
        chunk.prior_field(beta, gamma)
    chunk.move_posterior()
    if noise is not None:
        noise.add(0)
    if alternating:
        chunk.refresh()
        chunk.prior_field(beta, gamma)
    chunk.move_prior()
    if noise is not None:
        noise.add(1)

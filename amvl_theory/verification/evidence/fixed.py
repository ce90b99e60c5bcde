"""T1 to T4, fixed variances: closed forms against one linear solve of the whole game and against its simulation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from amvl_theory import (
    COUNTER_EXAMPLES,
    GaussianGame,
    MeanLeakageModel,
    effective_anchor,
    equilibrium,
    equilibrium_by_simulation,
    frozen_prior_response,
    initial_state,
    kl_diag,
    leaked_information,
    matched_variance,
    mode_absorption,
    mode_contamination,
    moment_match,
    relative_contamination,
    simulate,
    spread,
    sweep_contamination,
)
from amvl_theory.checks import Array
from amvl_theory.game.game import gradients
from amvl_theory.verification.core import Batch, Evidence, Ledger, definite, draw, growth, relative, share

GAMMAS = np.array([0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0])
KINDS = ("dense", "dense H", "dense A", "diagonal")


def t1(rng: np.random.Generator, instances: int) -> Evidence:
    """T1 Inheritance: moment matching is the best prior."""
    book, count, answers, size = Ledger(), instances, 4, 3
    mu, var = rng.normal(size=(count, answers, size)), rng.uniform(0.2, 2.0, (count, answers, size))
    chance = rng.dirichlet(np.full(answers, 4.0), count)
    matched = [moment_match(m, v, p) for m, v, p in zip(mu, var, chance, strict=True)]
    mean, variance = (np.stack([getattr(item, name) for item in matched]) for name in ("mean", "variance"))

    def forward(m: Array, v: Array) -> Array:
        """E_y KL(q_y || N(m, v)) (N,)."""
        return np.einsum("nk,nk->n", chance, kl_diag(mu, var, m[:, None], v[:, None]))

    other, wide = mean + rng.normal(size=(count, size)), variance * rng.uniform(0.3, 3.0, (count, size))
    gain = forward(mean, variance) + kl_diag(mean, variance, other, wide)
    book.closed(
        "E KL(q||p') = E KL(q||p*) + KL(p*||p') at moment matching p*", relative(forward(other, wide), gain), count
    )
    quadrature = _kl_by_quadrature(mu[:, 0, 0], var[:, 0, 0], mean[:, 0], variance[:, 0])
    closed = kl_diag(mu[:, 0, :1], var[:, 0, :1], mean[:, :1], variance[:, :1])
    book.closed("KL of one mode against quadrature", np.abs(closed - quadrature) / (1 + quadrature), count)

    game = GaussianGame(np.zeros((count, answers, size)), 1.0, 0.0, chance, shared_variance=False)
    start = initial_state(game, posterior_shift=mu, posterior_var=var)
    there = initial_state(game, posterior_shift=mu, posterior_var=var, contamination=mean, prior_var=variance)
    slope = gradients(game, there, objective="fwd", beta=1.0, gamma=0.0)
    book.closed(
        "gradient of the forward KL at moment matching", np.abs([slope.contamination, slope.prior_log_var]), count
    )
    run = equilibrium_by_simulation(game, objective="fwd", beta=0.7, gamma=0.0, initial=start)
    book.simulated("descent of the forward KL: prior mean", relative(run.state.contamination, mean), count)
    book.simulated(
        "descent of the forward KL: prior variance", relative(np.exp(run.state.prior_log_var), variance), count
    )
    _t1_sampled(book, rng, mu[:, 0], var[:, 0], mean, variance)
    _t1_anchored(book, rng, mu, var, chance)
    return book.evidence()


def _kl_by_quadrature(m: Array, v: Array, mean: Array, variance: Array) -> Array:
    """KL(N(m, v) || N(mean, variance)) by the trapezoid rule, which converges geometrically for these integrands."""
    nodes = np.linspace(-12.0, 12.0, 601)
    weights = np.exp(-0.5 * nodes**2) / np.exp(-0.5 * nodes**2).sum()
    z = m[:, None] + np.sqrt(v)[:, None] * nodes
    log_p = -0.5 * (z - mean[:, None]) ** 2 / variance[:, None] - 0.5 * np.log(variance)[:, None]
    log_q = -0.5 * nodes**2 - 0.5 * np.log(v)[:, None]
    return np.asarray((log_q - log_p) @ weights)


def _t1_sampled(book: Ledger, rng: np.random.Generator, m: Array, v: Array, mean: Array, variance: Array) -> None:
    """KL as a mean over samples of log q - log p."""
    few, draws = min(len(m), 20), 20_000
    z = m[:few, None] + np.sqrt(v[:few, None]) * rng.normal(size=(few, draws, m.shape[1]))

    def density(centre: Array, width: Array) -> Array:
        return (-0.5 * (z - centre[:few, None]) ** 2 / width[:few, None] - 0.5 * np.log(width[:few, None])).sum(-1)

    terms = density(m, v) - density(mean, variance)
    error = terms.std(axis=1) / np.sqrt(draws)
    book.sampled(
        "KL against samples", terms.mean(axis=1), kl_diag(m[:few], v[:few], mean[:few], variance[:few]), error, few
    )


def _t1_anchored(book: Ledger, rng: np.random.Generator, mu: Array, var: Array, chance: Array) -> None:
    """An anchored prior cannot follow, and its variance gains (dbar - c)^2."""
    count, answers, size = mu.shape
    game = GaussianGame(
        np.zeros((count, answers, size)), 1.0, rng.uniform(0.1, 2.0, (count, size)), chance, shared_variance=False
    )
    start = initial_state(game, posterior_shift=mu, posterior_var=var)
    run = equilibrium_by_simulation(game, objective="fwd", beta=0.7, gamma=0.0, initial=start)
    held = run.state.contamination
    expected = np.stack([matched_variance(m, v, c, p) for m, v, c, p in zip(mu, var, held, chance, strict=True)])
    book.simulated(
        "anchored descent: prior variance gains (dbar - c)^2",
        relative(np.exp(run.state.prior_log_var), expected),
        count,
    )
    free = np.stack([moment_match(m, v, p).variance for m, v, p in zip(mu, var, chance, strict=True)])
    book.departs(
        "prior variance above moment matching when an anchor holds the mean",
        float((expected / free - 1).max()),
        "relative",
        f"largest of {count} instances, anchors 0.1 to 2",
    )


def t2(rng: np.random.Generator, instances: int) -> Evidence:
    """T2 Frozen-prior response."""
    book = Ledger()
    for kind in ("dense", "diagonal"):
        batch = draw(rng, instances, kind)
        far = 1e14 * np.eye(batch.shape[2])[None]  # an anchor that holds the prior: c below 1e-13
        frozen = Batch(batch.H, np.broadcast_to(far, batch.H.shape), *_rest(batch))
        delta, _ = frozen.rest()
        direct = np.einsum("nk,nkd->nd", batch.chance, delta)
        result = np.stack([frozen_prior_response(m, g) for m, g in zip(batch.models(), batch.gamma, strict=True)])
        book.closed(f"dbar against the linear solve of all answers, {kind} H", relative(result, direct), instances)
        game, start = batch.game()
        run = equilibrium_by_simulation(
            game, objective="ntp+rev", beta=0.0, gamma=batch.gamma, initial=start, tolerance=1e-11
        )
        book.simulated(
            f"dbar against descent with the prior frozen, {kind} H", relative(run.mean_shift, result), instances
        )
        explicit = simulate(
            game, objective="ntp+rev", gamma=batch.gamma, steps=4000, eta_q=0.05, per_answer=True, initial=start
        )
        book.simulated(
            f"dbar against explicit gradient steps, {kind} H", relative(explicit.mean_shift, result), instances
        )
        path = np.stack([[frozen_prior_response(m, g) for g in GAMMAS] for m in batch.models()])
        energy = np.einsum("nd,ngd->ng", batch.mean_force, path)
        book.closed(f"response energy never grows with gamma, {kind} H", growth(energy), instances)
        size = np.einsum("ngd,nd,ngd->ng", path, batch.q, path)
        book.closed(f"precision-weighted size never grows with gamma, {kind} H", growth(size), instances)
        if kind == "diagonal":
            h = np.einsum("nii->ni", batch.H)[:, None]
            factor = h / (h + GAMMAS[:, None] * batch.q[:, None])
            book.closed("modes shrink by h/(h + gamma lambda_q)", relative(path, path[:, :1] * factor), instances)
    _grown_share(book, rng, instances, frozen=True)
    _counter_examples(book, "T2")
    return book.evidence()


def _grown_share(book: Ledger, rng: np.random.Generator, instances: int, *, frozen: bool) -> None:
    """How often the mean shift or the contamination of dense 4-dimensional games grows in length along gamma."""
    count, size, gammas = 10 * instances, 4, np.array([0.0, 0.5, 1.0, 2.0, 5.0])
    curvature, q = definite(rng, count, size, 0.05), np.exp(rng.uniform(-3.0, 1.0, (count, size)))
    gbar, eye = rng.normal(size=(count, size)), np.eye(size)
    s = np.zeros((count, size)) if frozen else rng.uniform(0.0, 1.0, (count, size))
    pull = gammas[:, None, None, None] * (q * (1 - s))[:, :, None] * eye
    shift = np.linalg.solve(curvature + pull, np.broadcast_to(gbar[..., None], (len(gammas), count, size, 1)))[..., 0]
    length = np.linalg.norm(shift if frozen else s * shift, axis=-1).T
    grew = (np.diff(length, axis=1) > 0).any(axis=1)
    name, what = ("|dbar|", "prior frozen") if frozen else ("|c|", "anchors diagonal")
    where = f"{count} random 4-dimensional games, H dense, precisions 0.05 to 2.7, gamma 0 to 5, {what}"
    book.departs(f"{name} grows somewhere along gamma", share(grew), "share of instances", where)
    book.departs(f"largest growth of {name}", growth(length), "relative", where)


def t3(rng: np.random.Generator, instances: int) -> Evidence:
    """T3 Coupled equilibrium."""
    book = Ledger()
    for kind in KINDS:
        batch = draw(rng, instances, kind)
        delta, c = batch.rest()
        result = [equilibrium(m, b, g) for m, b, g in zip(batch.models(), batch.beta, batch.gamma, strict=True)]
        mine = np.stack([item.contamination for item in result])
        label = f"{kind} instances" if kind in ("dense", "diagonal") else kind
        book.closed(f"contamination against the linear solve of all answers, {label}", relative(mine, c), instances)
        shift = np.stack([item.posterior_shift for item in result])
        direct = np.einsum("nk,nkd->nd", batch.chance, delta)
        book.closed(f"dbar against the linear solve of all answers, {label}", relative(shift, direct), instances)
        game, start = batch.game()
        run = equilibrium_by_simulation(game, beta=batch.beta, gamma=batch.gamma, initial=start, tolerance=1e-11)
        book.simulated(f"contamination against simulation, {label}", relative(run.state.contamination, mine), instances)
        path = [[equilibrium(m, b, g) for g in GAMMAS] for m, b in zip(batch.models(), batch.beta, strict=True)]
        energy = np.array([[item.response_energy for item in row] for row in path])
        length = np.array([[np.linalg.norm(item.contamination) for item in row] for row in path])
        rises = share((np.diff(energy, axis=1) > 1e-12 * energy[:, :1]).any(axis=1))
        if kind in ("dense H", "diagonal"):
            book.closed(f"response energy never grows with gamma, diagonal A, {label}", growth(energy), instances)
        else:
            book.departs(f"response energy grows somewhere, {label}", rises, "share of instances", "A not diagonal")
            book.departs(f"largest growth of the energy, {label}", growth(energy), "relative", "A not diagonal")
        if kind == "diagonal":
            book.closed("|c| never grows with gamma, diagonal instances", growth(length), instances)
        else:
            grew = share((np.diff(length, axis=1) > 0).any(axis=1))
            book.departs(f"|c| grows somewhere along gamma, {label}", grew, "share of instances", "gamma 0 to 20")
            book.departs(f"largest growth of |c|, {label}", growth(length), "relative", "gamma 0 to 20")
    _t3_modes(book, rng, instances)
    _grown_share(book, rng, instances, frozen=False)
    _counter_examples(book, "T3")
    return book.evidence()


def _t3_modes(book: Ledger, rng: np.random.Generator, count: int) -> None:
    """The one-mode formulas against the matrix form, and the sweep against both."""
    h, q, p, alpha, beta = rng.uniform(0.3, 3.0, (5, count))
    gamma, g = rng.uniform(0.0, 5.0, count), rng.normal(size=count)
    matrix = np.array(
        [
            equilibrium(MeanLeakageModel(a, b, 0.0, c, d, e), f, k).contamination[0]
            for a, b, c, d, e, f, k in zip(h, g, q, p, alpha, beta, gamma, strict=True)
        ]
    )
    s = mode_absorption(beta, p, alpha)
    book.closed(
        "s g/(h + gamma lambda_q (1 - s)) against the matrix form",
        relative(mode_contamination(g, h, q, s, gamma), matrix),
        count,
    )
    anchor = effective_anchor(alpha, gamma, q, h)
    book.closed(
        "the anchor alpha (1 + gamma lambda_q/h) without a reverse KL",
        relative(g / h * mode_absorption(beta, p, anchor), matrix),
        count,
    )
    closed_form = relative_contamination(s, gamma, q, h) * mode_contamination(g, h, q, s, 0.0)
    book.closed("c(gamma)/c(0) of a mode", relative(closed_form, matrix), count)
    swept = sweep_contamination(beta, gamma, p / (p + alpha)) * g / h
    unit = mode_contamination(g, h, h, s, gamma)
    book.closed("the sweep over (beta, gamma, absorption)", relative(swept, unit), count)
    full = mode_contamination(g, h, q, np.ones(count), gamma)
    book.closed("a fully absorbed mode keeps g/h at every gamma", relative(full, g / h), count)


def t4(rng: np.random.Generator, instances: int) -> Evidence:
    """T4 Spread."""
    book = Ledger()
    for kind in ("dense", "diagonal"):
        batch = draw(rng, instances, kind)
        delta, _ = batch.rest()
        direct = batch.covariance(delta)
        result = np.stack([spread(m, g) for m, g in zip(batch.models(), batch.gamma, strict=True)])
        book.closed(
            f"spread against the linear solve of all answers, {kind} instances", relative(result, direct), instances
        )
        nats = np.array([leaked_information(m, g) for m, g in zip(batch.models(), batch.gamma, strict=True)])
        determinant = 0.5 * np.linalg.slogdet(np.eye(batch.shape[2]) + batch.q[:, :, None] * direct)[1]
        book.closed(f"leaked information against log det, {kind} instances", relative(nats, determinant), instances)
        game, start = batch.game()
        run = equilibrium_by_simulation(game, beta=batch.beta, gamma=batch.gamma, initial=start, tolerance=1e-11)
        book.simulated(f"spread against simulation, {kind} instances", relative(run.spread_cov, result), instances)
        path = np.stack([[spread(m, g) for g in GAMMAS] for m in batch.models()])
        information = np.array([[leaked_information(m, g) for g in GAMMAS] for m in batch.models()])
        book.closed(f"leaked information never grows with gamma, {kind} instances", growth(information), instances)
        weighted = np.einsum("ngii,ni->ng", path, batch.q)
        book.closed(f"tr(Lambda_q C) never grows with gamma, {kind} instances", growth(weighted), instances)
        if kind == "diagonal":
            entries = np.abs(path).transpose(0, 2, 3, 1).reshape(-1, len(GAMMAS))
            book.closed("no |C_ij| grows with gamma, diagonal instances", growth(entries), instances)
        else:
            trace = np.einsum("ngii->ng", path)
            grew = share((np.diff(trace, axis=1) > 0).any(axis=1))
            book.departs("tr C grows somewhere along gamma, dense H", grew, "share of instances", "gamma 0 to 20")
            book.departs("largest growth of tr C, dense H", growth(trace), "relative", "gamma 0 to 20")
    _counter_examples(book, "T4")
    return book.evidence()


def _rest(batch: Batch) -> tuple[Array, ...]:
    return batch.q, batch.p, batch.forces, batch.chance, batch.beta, batch.gamma


def _counter_examples(book: Ledger, statement: str) -> None:
    """The exact instances outside the conditions, recomputed in floating point."""
    for case in COUNTER_EXAMPLES:
        if f"({statement})" not in case.claim:
            continue
        model = MeanLeakageModel(**{name: _floats(value) for name, value in case.arguments.items()})  # type: ignore[arg-type]
        result = [_quantity(model, case.quantity, float(case.beta), float(gamma)) for gamma in case.gammas]
        exact = [float(value) for value in case.values]
        book.closed(f"counter-example: {case.claim}", relative(result, exact), 1)
        book.departs(
            case.claim,
            exact[1] - exact[0],
            case.quantity,
            f"gamma {case.gammas[0]} to {case.gammas[1]}: {case.because}",
        )


def _quantity(model: MeanLeakageModel, name: str, beta: float, gamma: float) -> float:
    if name == "shift_norm2":
        return float(np.sum(frozen_prior_response(model, gamma) ** 2))
    if name == "spread_trace":
        return float(np.trace(spread(model, gamma)))
    result = equilibrium(model, beta, gamma)
    values = {
        "contamination_norm2": float(np.sum(result.contamination**2)),
        "contamination_0": float(result.contamination[0]),
        "response_energy": result.response_energy,
    }
    return values[name]


def _floats(value: object) -> object:
    if isinstance(value, tuple):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, Fraction) else value

"""T10: the KL terms widen posterior and prior before the means meet, and for ever where the means cannot meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from amvl_theory.dynamics.in_training.widening import HeadRates, widening, widening_at_fixed_gap, widening_limit
from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import Proof, theorem
from amvl_theory.theorems.proving.dense import SEED
from amvl_theory.theorems.proving.gaussian import StopGradient, expectation, kl
from amvl_theory.theorems.proving.symbols import beta, gamma

Q, P, V, a, b, a_m, b_m, t = sp.symbols("Q P V a b a_m b_m t", positive=True)
Delta = sp.Symbol("Delta", real=True)
D = Delta**2 + V


@theorem(
    name="T10",
    statement=(
        "KL gradients alone move the widths by {posterior_width} and {prior_width}, and the mean gap by {mean_gap}, with "
        "Q = sigma_q^2, P = sigma_p^2 and V the part of the mean square gap that no head can close, so that J = b Q + a P "
        "grows: {joint_growth}. At a constant gap V both variances grow for ever: {lasting_rate}; for a << b the leak I "
        "that the means carry then falls like 1/t: {leak_times_t}. Where the means close the gap, with a = b and equal "
        "widths at the start, the widths end at {final_variance}; with other rates and widths b ln Q + a ln P + "
        "a b Delta^2/max(a_m, b_m) never falls, which bounds the final width from below. Under Adam the weight that acts "
        "is {adam_weight}, linear in gamma only below gamma_x = sqrt(v_s)/(c k_s)."
    ),
    beyond=(
        "closed gaps: the exponent 2 a b Delta^2/((a + b)(a_m + b_m)) is exact only for a = b and equal widths; a "
        "bound holds always"
    ),
    assumptions=(
        given.ONE_MODE,
        given.WEIGHTS,
        given.KL_ONLY,
        given.GRADIENT_FLOW,
        given.SHARED_GAP,
    ),
)
def prove_t10(proof: Proof) -> None:
    """The flow from the two KLs, its linear form, the invariant, the bound, Adam, and instances."""
    _flow(proof)
    _fixed_gap(proof)
    _closing_gap(proof)
    _adam(proof)
    _instances(proof)


def _flow(proof: Proof) -> None:
    """dQ/dt and dP/dt from the losses, averaged over answers whose gap is Delta + e, E e = 0, E e^2 = V."""
    mean_q, mean_p, e = sp.symbols("mu_q mu_p e", real=True)
    sg = StopGradient(mean_q, mean_p, Q, P)
    loss = beta * kl(sg(mean_q), sg(Q), mean_p, P) + gamma * kl(sg(mean_p), sg(P), mean_q, Q)

    def pull(parameter: Any) -> Any:
        gradient = sp.expand(sg.gradient(loss, parameter)).subs(mean_q, mean_p + Delta + e)
        return expectation(gradient, e, [1, 0, V])

    width_q = 2 * Q * (-a / gamma * 2 * Q * pull(Q))  # kappa_q = a / gamma; d log sigma = dQ / 2 Q on both sides
    width_p = 2 * P * (-b / beta * 2 * P * pull(P))
    gap = -a_m / gamma * pull(mean_q) + b_m / beta * pull(mean_p)
    dot_q, dot_p, dot_joint = sp.symbols("Qdot Pdot Jdot")
    proof.state("posterior_width", dot_q, width_q, 2 * a * (P - Q + D))
    proof.state("prior_width", dot_p, width_p, 2 * b * (Q - P + D))
    proof.state("mean_gap", sp.Symbol("Deltadot"), gap, -(a_m / Q + b_m / P) * Delta)
    proof.state("joint_growth", dot_joint, b * width_q + a * width_p, 4 * a * b * D)
    proof.step("The flow is linear in the variances; with J = b Q + a P", sp.Eq(dot_joint, 4 * a * b * D))


def _fixed_gap(proof: Proof) -> None:
    q0, p0, k, eps = sp.symbols("Q_0 P_0 kappa_q epsilon", positive=True)
    rest = (b - a) * V / (a + b)
    apart = rest + (p0 - q0 - rest) * sp.exp(-2 * (a + b) * t)
    mixed = (b * q0 + a * p0 + 4 * a * b * V * t) / (a + b)
    q, p = mixed - a / (a + b) * apart, mixed + b / (a + b) * apart
    proof.equal("constant gap: Q(t) solves the flow", sp.diff(q, t), 2 * a * (p - q + V))
    proof.equal("constant gap: P(t) solves the flow", sp.diff(p, t), 2 * b * (q - p + V))
    proof.equal("constant gap: from Q_0 and P_0", sp.Matrix([q.subs(t, 0), p.subs(t, 0)]), sp.Matrix([q0, p0]))
    proof.step("Constant gap: Q(t)", q)
    late = sp.limit(sp.diff(q, t), t, sp.oo)
    proof.state("lasting_rate", sp.Symbol("Qdot_inf"), late, 4 * a * b * V / (a + b))
    proof.equal("for a << b: 4 a V", sp.limit(4 * a * b * V / (a + b), b, sp.oo), 4 * a * V)
    proof.equal("for a >> b: 4 b V, set by beta", sp.limit(4 * a * b * V / (a + b), a, sp.oo), 4 * b * V)
    width = 1 + 4 * k * gamma * eps**2 * t  # any start: it is of lower order
    leak = sp.limit(t * sp.log(1 + eps**2 / width) / 2, t, sp.oo)
    proof.state("leak_times_t", sp.Symbol("t I"), leak, 1 / (8 * k * gamma))


def _closing_gap(proof: Proof) -> None:
    dot_delta = -(a_m / Q + b_m / P) * Delta
    no_rest = {V: 0}
    flow_q, flow_p = (2 * a * (P - Q + D)).subs(no_rest), (2 * b * (Q - P + D)).subs(no_rest)
    equal = {P: Q, b: a}
    drift = (2 * Delta * dot_delta + (a_m + b_m) / a * flow_q / Q).subs(equal)
    proof.equal("equal rates and widths: Delta^2 + ((a_m + b_m)/a) ln Q is invariant", drift, sp.Integer(0))
    q0, end, start = sp.symbols("Q_0 Q_inf Delta_0", positive=True)
    ratio = sp.Symbol("ln_ratio", real=True)  # ln(Q_inf/Q_0), where Delta^2 has become 0
    solved = sp.solve((a_m + b_m) / a * ratio - start**2, ratio)[0]
    proof.state("final_variance", end, q0 * sp.exp(solved), q0 * sp.exp(a * start**2 / (a_m + b_m)))
    x, y = sp.symbols("x y", nonnegative=True)  # m - a_m, m - b_m
    m = sp.Symbol("m", positive=True)
    lyapunov = b * flow_q / Q + a * flow_p / P + 2 * a * b / m * Delta * dot_delta
    form = 2 * a * b * (P - Q) ** 2 / (P * Q) + 2 * a * b * Delta**2 / m * (x / Q + y / P)
    proof.equal("any rates: slope of b ln Q + a ln P + a b Delta^2/m", lyapunov.subs({a_m: m - x, b_m: m - y}), form)
    rising = lyapunov.subs({a_m: m - x, b_m: m - y})
    proof.sign("which never falls, m = max(a_m, b_m)", rising, form, ">= 0")
    u = sp.Symbol("u", real=True)  # r - s; with no gap left it goes to 0
    closing = sp.expand((flow_p / (2 * P) - flow_q / (2 * Q)).subs({Delta: 0, P: Q * sp.exp(2 * u)}))
    proof.equal(
        "widths meet once the gap is closed: the log ratio's flow",
        closing,
        sp.expand((sp.exp(-u) - sp.exp(u)) * (b * sp.exp(-u) + a * sp.exp(u))),
    )
    first = sp.integrate(start**2 * sp.exp(-2 * (a_m + b_m) * t / q0), (t, 0, sp.oo)) * 4 * a * b / (a + b) / q0
    proof.equal(
        "small gap, equal widths: ln(Q_inf/Q_0) to first order",
        first,
        2 * a * b * start**2 / ((a + b) * (a_m + b_m)),
    )


def _adam(proof: Proof) -> None:
    v, c, k = sp.symbols("v_s c k_s", positive=True)
    w = sp.Symbol("gamma_eff", positive=True)
    step = gamma * c * k / sp.sqrt(v + (gamma * c * k) ** 2)
    cross = sp.sqrt(v) / (c * k)
    proof.state("adam_weight", w, step * cross, gamma / sp.sqrt(1 + gamma**2 * c**2 * k**2 / v))
    proof.equal("Adam: linear at small gamma", sp.limit(step * cross / gamma, gamma, 0), sp.Integer(1))
    proof.equal("Adam: at most gamma_x", sp.limit(step * cross, gamma, sp.oo), cross)
    proof.equal(
        "Adam: at gamma_x the linear law is off by sqrt 2", (step * cross).subs(gamma, cross), cross / sp.sqrt(2)
    )


def _instances(proof: Proof) -> None:
    rng = np.random.default_rng(SEED)
    short, fixed, exact, first = 0.0, 0.0, 0.0, 0.0
    times = np.array([0.0, 3.0, 30.0, 3000.0])
    for _ in range(10):
        kappa, widths = rng.uniform(0.3, 2.0, 4), rng.uniform(0.5, 1.5, 2)
        common = {"gamma": 1.0, "beta": 1.0, "posterior_std": widths[0], "prior_std": widths[1]}
        gap, rates = float(rng.uniform(0.2, 1.5)), HeadRates(*kappa)
        path = widening(times, gap=gap, rates=rates, **common)
        bound = widening_limit(gap, rates=rates, posterior_std=widths[0], prior_std=widths[1]).at_least
        short = max(short, float(bound / path.posterior_var[-1] - 1))
        path = widening(times, gap=0.0, rates=rates, fixed_gap_var=0.4, **common)
        closed = widening_at_fixed_gap(
            times, fixed_gap_var=0.4, posterior_rate=kappa[0], prior_rate=kappa[1],
            posterior_std=widths[0], prior_std=widths[1],
        )  # fmt: skip
        fixed = max(fixed, float(np.abs(path.posterior_var / closed.posterior_var - 1).max()))
        same = HeadRates(kappa[0], kappa[0], *kappa[2:])
        path = widening(times, gap=gap, rates=same, gamma=1.0, beta=1.0)
        exact = max(exact, float(np.abs(path.posterior_var[-1] / widening_limit(gap, rates=same).small_gap - 1)))
        path = widening(times, gap=0.03, rates=rates, gamma=1.0, beta=1.0)
        rise = np.log(widening_limit(0.03, rates=rates).small_gap)
        first = max(first, float(np.abs(np.log(path.posterior_var[-1]) / rise - 1)))
    proof.close("the flow against Q(t) at a constant gap", fixed, 1e-6, "10 random instances")
    proof.close("the flow against the final variance, equal rates", exact, 1e-6, "10 random instances")
    proof.close("the final variance is never below the bound", short, 1e-7, "10 random instances, any rates and widths")
    proof.close("small gap: the flow against the first order", first, 0.01, "Delta_0 = 0.03 sigma, 10 random instances")
    rates = HeadRates(1.0, 0.1, 1.0, 0.1)
    far = widening(times, gap=2.0, rates=rates, gamma=1.0, beta=1.0).posterior_var[-1]
    limit = widening_limit(2.0, rates=rates)
    proof.close(
        "beyond its conditions the first order is off by more than a fifth (gap of 2 sigma, rates 1, 0.1, 1, 0.1)",
        0.2 - float(np.abs(np.log(limit.small_gap) / np.log(far) - 1)),
        0.0,
        f"ln(Q_inf/Q_0) = {np.log(far):.3f}, first order {np.log(limit.small_gap):.3f}, bound {np.log(limit.at_least):.3f}",
    )

"""T9: saturating responses and mixture posteriors: what survives, and where the linear theory is within 10 %."""

from __future__ import annotations

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from amvl_theory.checks import Array
from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import QUADRATURE, SYMBOLIC, Assumption, Proof, slope_symbol, theorem
from amvl_theory.theorems.proving.gaussian import expectation, normal_log_density
from amvl_theory.theorems.proving.symbols import R, gamma, h, lambda_q

SATURATING = Assumption(
    "tanh response",
    "the mean answers the total force f with chi tanh(f / g0), chi = g0 / h",
    "\\delta = \\chi \\tanh(f / g_0)",
)
MIXTURE = Assumption(
    "two components",
    "the posterior is an equal mixture of N(delta +- a, s)",
    "q = \\tfrac12 \\sum_\\pm N(\\delta \\pm a, s)",
)


@theorem(
    name="T9",
    statement=(
        "Saturating response delta = chi tanh(f / g0), chi = g0 / h, f the answer force plus the reverse pull: the "
        "relative departure from T2 is to leading order {departure}, so the linear theory is within 10 % up to "
        "{range_edge}: the reverse KL widens that range. The sign statements of T2 and T3 (the shift falls with "
        "gamma; contamination falls if and only if s < 1) hold exactly, with R_1 the slope of any increasing "
        "restoring force and u = 1 - s: {shift_slope}. Moment matching (T1) holds for any posterior with two moments. "
        "For an equal mixture of N(delta +- a, s), t = a^2 / s, the reverse pull of the matched prior is that of the "
        "Gaussian with the same two moments up to a relative error of order t^4."
    ),
    beyond=(
        "T3, T4 and T5 each have an instance that goes the other way; mixtures with components more than "
        "about two deviations apart are outside"
    ),
    assumptions=(
        given.CURVATURE,
        given.FIXED_VARIANCES,
        given.ONE_MODE,
        SATURATING.only_for("the first part"),
        MIXTURE.only_for("the last part"),
    ),
)
def prove_t9(proof: Proof) -> None:
    """Order of the departure, what holds exactly, and the ranges by quadrature."""
    _tanh_series(proof)
    _signs(proof)
    _tanh_range(proof)
    _any_posterior(proof)
    _mixture_series(proof)
    _mixture_range(proof)


def _tanh_series(proof: Proof) -> None:
    x, g0 = sp.Symbol("x", real=True), sp.Symbol("g_0", positive=True)
    g, a3 = sp.symbols("g a_3", real=True)
    inverse = sp.series(sp.atanh(x), x, 0, 5).removeO()
    proof.equal("artanh x = x + x^3 / 3 + ...", inverse, x + x**3 / 3)
    linear = g / (h + gamma * lambda_q)
    trial = linear + a3 * g**3
    force = g0 * inverse.subs(x, trial * h / g0) + gamma * lambda_q * trial - g  # the force balance in T2, c = 0
    cubic = sp.expand(force).coeff(g, 3)
    result = sp.solve(cubic, a3)[0]
    departure = sp.factor(result * g**3 / linear)
    stated = -R(1, 3) * (g / g0) ** 2 * (h / (h + gamma * lambda_q)) ** 3
    proof.state("departure", sp.Symbol("epsilon"), departure, stated)
    proof.equal("no departure at first order", sp.expand(force).coeff(g, 1), sp.Integer(0))
    proof.step("relative departure of the response from T2", stated)
    widened = sp.solve(-stated - R(1, 10), g)
    edge = next(root for root in widened if not root.is_negative)
    ratio = sp.simplify(edge / edge.subs(gamma, 0))
    proof.state("range_edge", sp.Symbol("g_10"), edge, g0 * sp.sqrt(R(3, 10)) * ((h + gamma * lambda_q) / h) ** R(3, 2))
    proof.equal(
        "the 10 % range of the force grows by ((h + gamma lambda_q) / h)^(3/2)",
        ratio**2,
        ((h + gamma * lambda_q) / h) ** 3,
    )


def _signs(proof: Proof) -> None:
    """Implicit differentiation of the force balance, for any increasing restoring force r(delta)."""
    shift, slope, s = sp.symbols("delta R_1 s", positive=True)  # R_1 = r'(delta) > 0
    rest = sp.Symbol("u", nonnegative=True)  # 1 - s
    restoring, position = sp.Function("r"), sp.Function("delta")(gamma)
    balance = restoring(position) + gamma * lambda_q * rest * position  # = g, with c = s delta
    solved = sp.solve(sp.diff(balance, gamma), sp.diff(position, gamma))[0]
    solved = solved.subs(sp.diff(restoring(position), position), slope).subs(position, shift)
    form = -lambda_q * rest * shift / (slope + gamma * lambda_q * rest)
    proof.state("shift_slope", slope_symbol("delta"), solved, form)
    proof.sign("any increasing restoring force: d delta / d gamma (delta > 0)", solved, form, "<= 0")
    strict = sp.Symbol("u", positive=True)
    contamination = s * form
    proof.sign(
        "contamination falls if s < 1",
        contamination.subs(rest, strict),
        -s * lambda_q * strict * shift / (slope + gamma * lambda_q * strict),
        "< 0",
    )
    proof.equal("and not if s = 1", contamination.subs(rest, 0), sp.Integer(0))
    x = sp.Symbol("x", real=True)
    proof.equal("artanh rises: its slope is 1 / (1 - x^2)", sp.diff(sp.atanh(x), x), 1 / (1 - x**2))
    proof.step("d delta / d gamma for any increasing restoring force r, slope R_1, u = 1 - s", form)


def saturating_response(force: float, ratio: float) -> float:
    """delta h / g0 with c = 0: artanh(x) + ratio x = force / g0, ratio = gamma lambda_q / h; force in units of g0."""
    return float(brentq(lambda x: np.arctanh(x) + ratio * x - force, 0.0, 1 - 1e-15, xtol=1e-15))


def linear_range(ratio: float, tolerance: float = 0.1) -> float:
    """Largest force, in units of g0, at which the linear response is within ``tolerance`` of the saturating one."""

    def excess(force: float) -> float:
        return force / (1 + ratio) / saturating_response(force, ratio) - (1 + tolerance)

    return float(brentq(excess, 1e-3, 10.0))


def _tanh_range(proof: Proof) -> None:
    ranges = [linear_range(ratio) for ratio in (0.0, 1.0, 4.0)]
    shown = ", ".join(
        f"{value:.4f} at gamma lambda_q / h = {ratio}" for value, ratio in zip(ranges, (0, 1, 4), strict=True)
    )
    proof.record(
        "linear response within 10 % of tanh up to |g| / g0",
        QUADRATURE,
        ranges[0] < ranges[1] < ranges[2],
        f"root of the exact balance: {shown}",
    )
    small, worst = 1e-2, 0.0
    for ratio in (0.0, 1.0, 4.0):
        departure = saturating_response(small, ratio) * (1 + ratio) / small - 1
        worst = max(worst, abs(departure / (-(small**2) / 3 / (1 + ratio) ** 3) - 1))
    proof.close("the exact balance departs as the series says", worst, 1e-3, "g = g0 / 100", QUADRATURE)


def _any_posterior(proof: Proof) -> None:
    z, mean, centre = sp.symbols("z c m", real=True)
    var, spread = sp.symbols("s_p V", positive=True)
    cross = -expectation(normal_log_density(z, mean, var), z, [1, centre, spread + centre**2])
    proof.equal(
        "any posterior: E_q[-log p] needs two moments only",
        sp.expand_log(sp.expand(cross)),
        sp.expand(sp.log(2 * sp.pi) / 2 + sp.log(var) / 2 + (spread + (centre - mean) ** 2) / (2 * var)),
    )
    proof.equal("so moment matching (T1) holds: the mean", sp.solve(sp.diff(cross, mean), mean)[0], centre)
    proof.equal("and the variance", sp.solve(sp.diff(cross, var).subs(mean, centre), var)[0], spread)
    nodes, weights = _hermite()
    a, s = 1.5, 0.4
    grid = np.array([sign * a + np.sqrt(s) * nodes for sign in (-1, 1)])
    measure = np.array([weights, weights]) / 2

    def loss(centre_p: float, var_p: float) -> float:
        return float(np.sum(measure * (0.5 * np.log(var_p) + (grid - centre_p) ** 2 / (2 * var_p))))

    matched = loss(0.0, s + a * a)
    others = [loss(x, (s + a * a) * y) for x in (-0.2, 0.0, 0.2) for y in (0.8, 1.0, 1.25) if (x, y) != (0.0, 1.0)]
    proof.record(
        "a mixture's forward KL is least at the matched moments",
        QUADRATURE,
        min(others) > matched,
        "a = 1.5, s = 0.4, eight neighbours",
    )


def _mixture_series(proof: Proof) -> None:
    """Curvature of KL(p || q) in the mixture's centre at delta = 0, p = N(0, s + a^2); scaled so that s = 1, t = a^2."""
    z, a, t = sp.Symbol("z", real=True), sp.Symbol("a", positive=True), sp.Symbol("t", positive=True)
    log_q = -(z**2 + a**2) / 2 + sp.log(sp.cosh(a * z))
    bend = -sp.diff(log_q, z, 2)
    proof.equal(
        "-(log q)'' of the mixture, s = 1",
        sp.simplify(bend.rewrite(sp.exp)),
        sp.simplify((1 - a**2 / sp.cosh(a * z) ** 2).rewrite(sp.exp)),
    )
    y = sp.Symbol("y", real=True)
    sech2 = sp.series(1 / sp.cosh(y) ** 2, y, 0, 10).removeO()
    moments = [sp.Integer(1)]
    for order in range(1, 9):
        moments.append(
            sp.Integer(0) if order % 2 else moments[order - 2] * (order - 1) * t * (1 + t)
        )  # y = a z, Var = t (1 + t)
    curvature = sp.expand((1 - t * expectation(sech2, y, moments)) * (1 + t))
    orders = [curvature.coeff(t, order) for order in range(5)]
    proof.equal("reverse pull times (s + a^2): orders 0 to 3 in t", sp.Matrix(orders[:4]), sp.Matrix([1, 0, 0, 0]))
    proof.record("order t^4 does not vanish", SYMBOLIC, orders[4] != 0, f"coefficient {orders[4]}")
    proof.step(
        "pull of the matched prior on a mixture, over that of the Gaussian with its moments, to order t^4",
        1 + orders[4] * t**4,
    )


def _hermite() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(160)
    return nodes, weights / weights.sum()


def mixture_pull(t: float, offset: float = 0.0) -> float:
    """Pull of N(0, 1 + t) on the centre of an equal mixture of N(delta +- a, 1), t = a^2, over that on its matched Gaussian.

    offset: delta in units of the prior's standard deviation sqrt(1 + t); 0 takes the limit of a small shift.
    """
    nodes, weights = _hermite()
    a, scale = np.sqrt(t), np.sqrt(1 + t)
    z = scale * nodes
    if offset == 0:
        return float(weights @ (1 - t / np.cosh(a * z) ** 2)) * (1 + t)
    shift = offset * scale
    slope = weights @ ((shift - z) + a * np.tanh(a * (z - shift)))  # d/d delta of -E_p log q
    return float(slope) / shift * (1 + t)


def _mixture_range(proof: Proof) -> None:
    small = 0.05
    edge = float(brentq(lambda t: abs(mixture_pull(t) - 1) - 0.1, 0.05, 5.0))
    far = float(brentq(lambda t: abs(mixture_pull(t, 0.5) - 1) - 0.1, 0.05, 5.0))
    detail = f"a^2/s up to {edge:.4f} for a small shift, {far:.4f} for a shift of half a prior standard deviation"
    proof.record("mixture: the Gaussian pull is within 10 %", QUADRATURE, edge > 0.2 and far > 0.2, detail)
    proof.close(
        "mixture at t = 0.05: departure of order t^4",
        abs(mixture_pull(small) - 1),
        10 * small**4,
        "Gauss-Hermite, 160 nodes",
        QUADRATURE,
    )
    component = abs(1 / mixture_pull(1.0) * 2 - 1)
    proof.record(
        "the precision of one component would be wrong there",
        QUADRATURE,
        component > 0.1,
        f"at t = 1 it is off by {component:.0%}",
    )

"""T7: the game between prior and posterior means converges without oscillation, and where it does not."""

from __future__ import annotations

import numpy as np
import sympy as sp
from scipy.linalg import expm, solve_continuous_lyapunov

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import SYMBOLIC_2X2, Proof, theorem
from amvl_theory.theorems.proving.dense import Instance, instances
from amvl_theory.theorems.proving.gaussian import matrix_gradients, one_mode_gradients, positive_matrix
from amvl_theory.theorems.proving.symbols import R, alpha, beta, c, delta, g, gamma, h, lambda_p, lambda_q, s_p, s_q

eta_q, eta_p = sp.symbols("eta_q eta_p", positive=True)


@theorem(
    name="T7",
    statement=(
        "At fixed variances the gradient flow of (delta, c) is linear, of one mode with the Jacobian {jacobian}. If H "
        "> 0, A >= 0 and either of them is diagonal (and Lambda_q, Lambda_p are), all eigenvalues are real and "
        "negative for all positive weights and rates: W J = -Q with W diagonal and positive and Q positive definite, "
        "so the game is a weighted potential game and its curl, per mode {curl}, an artefact of the coordinates. With "
        "a and d the entries of -J and b their coupling the slowest rate of a mode is {slowest_rate}. Simultaneous "
        "steps are stable if and only if {simultaneous_edge} is positive with a, d < 2; alternating steps, "
        "{alternating_edge}, for all a, d < 2. Gradient noise of variances N_q, N_p leaves {noise}, with J = [[-a, "
        "u], [v, -d]]."
    ),
    beyond=(
        "H and A both dense: an unstable 2+2 dimensional instance is given; unequal answer probabilities feed the "
        "spread into the mean"
    ),
    assumptions=(
        *given.MEAN_GAME,
        given.FIXED_VARIANCES,
        given.PRECISIONS,
        given.ONE_DIAGONAL,
    ),
)
def prove_t7(proof: Proof) -> None:
    """Potential, exact trajectory, step bounds, noise, the unstable instance, unequal probabilities."""
    _potential(proof, "A")
    _potential(proof, "H")
    _one_mode(proof)
    _steps(proof)
    _noise(proof)
    _unequal_probabilities(proof)
    _unstable(proof)
    _dense(proof)


def _jacobian(curvature: sp.Matrix, anchor: sp.Matrix, lam_q: sp.Matrix, lam_p: sp.Matrix) -> sp.Matrix:
    """J of two modes from the gradients of the loss, rates included."""
    values_q, values_p = [lam_q[i, i] for i in range(2)], [lam_p[i, i] for i in range(2)]
    force = sp.Matrix(sp.symbols("g_1:3", real=True))
    mean_q, mean_p, in_delta, in_c = matrix_gradients(curvature, force, anchor, values_q, values_p)
    flow = sp.Matrix([*(-eta_q * in_delta), *(-eta_p * in_c)])
    return flow.jacobian([*mean_q, *mean_p])


def _potential(proof: Proof, diagonal: str) -> None:
    """W J = -Q with Q > 0, for a diagonal anchor or a diagonal curvature."""
    lam_q, lam_p = sp.diag(*sp.symbols("lambda_1:3", positive=True)), sp.diag(*sp.symbols("kappa_1:3", positive=True))
    curvature, anchor = positive_matrix("H"), positive_matrix("A")
    shift, prior = sp.Matrix(sp.symbols("delta_1:3", real=True)), sp.Matrix(sp.symbols("c_1:3", real=True))
    if diagonal == "A":
        anchor = sp.diag(*sp.symbols("alpha_1:3", nonnegative=True))
        w_q = sp.eye(2) / eta_q
        w_p = gamma * lam_q * (beta * lam_p).inv() / eta_p
        rest = (shift.T * curvature * shift)[0] + (prior.T * (gamma * lam_q * (beta * lam_p).inv() * anchor) * prior)[0]
        pull = gamma * lam_q
    else:
        curvature = sp.diag(*sp.symbols("h_1:3", positive=True))
        w_q = beta * lam_p * (gamma * lam_q).inv() / eta_q
        w_p = sp.eye(2) / eta_p
        rest = (shift.T * (beta * lam_p * (gamma * lam_q).inv() * curvature) * shift)[0] + (prior.T * anchor * prior)[0]
        pull = beta * lam_p
    jacobian = _jacobian(curvature, anchor, lam_q, lam_p)
    potential = (-sp.diag(w_q, w_p) * jacobian).applyfunc(sp.cancel)
    proof.equal(f"{diagonal} diagonal: W J is symmetric", potential, potential.T, SYMBOLIC_2X2)
    state = sp.Matrix([*shift, *prior])
    form = (state.T * potential * state)[0]
    coupling = ((shift - prior).T * pull * (shift - prior))[0]
    proof.equal(
        f"{diagonal} diagonal: x^T Q x is a sum of three nonnegative forms",
        sp.expand(form),
        sp.expand(rest + coupling),
        SYMBOLIC_2X2,
    )
    minors = [sp.factor(potential[:k, :k].det(method="berkowitz")) for k in range(1, 5)]
    for k, minor in enumerate(minors, 1):
        proof.sign(
            f"{diagonal} diagonal: leading minor {k} of Q",
            minor,
            sp.factor_terms(sp.expand(minor)),
            "> 0",
            SYMBOLIC_2X2,
        )
    scaled = "Lambda_q / Lambda_p"
    proof.step(
        f"{diagonal} diagonal, any d: with W = "
        + (
            f"diag(1/eta_q, gamma {scaled} / (beta eta_p))"
            if diagonal == "A"
            else "diag(beta Lambda_p / (gamma Lambda_q eta_q), 1/eta_p)"
        )
        + ", -x^T W J x is the sum below (written for d = 2), which vanishes only at x = 0. J is similar to the symmetric matrix "
        "-W^-1/2 Q W^-1/2, so its eigenvalues are real and negative, and in the coordinates W^1/2 x its curl is 0",
        rest + coupling,
    )


def _one_mode(proof: Proof) -> None:
    a, d = eta_q * (h + gamma * lambda_q), eta_p * (beta * lambda_p + alpha)
    gradients = one_mode_gradients("amvl")
    fixed = {s_q: 1 / lambda_q, s_p: 1 / lambda_p}
    flow = sp.Matrix([-eta_q * gradients[delta], -eta_p * gradients[c]]).subs(fixed)
    stated = sp.Matrix([[-a, eta_q * gamma * lambda_q], [eta_p * beta * lambda_p, -d]])
    proof.state("jacobian", sp.Symbol("J"), flow.jacobian([delta, c]), stated)
    positive = eta_q * eta_p * (h * (beta * lambda_p + alpha) + gamma * lambda_q * alpha)
    proof.sign("one mode: determinant of J", stated.det(), positive, "> 0")
    proof.sign("one mode: trace of J", stated.trace(), -(a + d), "< 0")
    square = sp.Symbol("m", real=True)
    coupling = sp.Symbol("b", positive=True)
    x, y = sp.symbols("a d", positive=True)
    form = square**2 + 4 * coupling
    proof.equal(
        "one mode: discriminant (a - d)^2 + 4 b", (x + y) ** 2 - 4 * (x * y - coupling), form.subs(square, x - y)
    )
    squared = ((x + y) ** 2 - 4 * (x * y - coupling)).subs(x, y + square)
    proof.sign("is positive, so both rates are real", squared, form, "> 0")
    root = sp.sqrt((x - y) ** 2 + 4 * coupling)
    eigenvalues = sp.Matrix([[x, coupling], [1, y]]).eigenvals()
    slowest = min(eigenvalues, key=lambda value: value.subs({x: 2, y: 2, coupling: 1}))
    proof.state("slowest_rate", sp.Symbol("r"), slowest, (x + y - root) / 2)
    proof.step("one mode: slowest rate, with a, d, b the entries of -J and their coupling", (x + y - root) / 2)
    curl = eta_q * gamma * lambda_q - eta_p * beta * lambda_p
    across = flow.jacobian([delta, c])
    proof.state("curl", sp.Symbol("J_12") - sp.Symbol("J_21"), across[0, 1] - across[1, 0], curl)
    proof.step("one mode: curl (antisymmetric part of J) in the original coordinates", curl)
    u, v = sp.symbols("u v", positive=True)
    jacobian = sp.Matrix([[-x, u], [v, -y]])
    scale = sp.diag(1, sp.sqrt(u / v))
    moved = (scale * jacobian * scale.inv()).applyfunc(sp.simplify)
    proof.equal("one mode: rescaled coordinates have no curl", moved, moved.T)


def _steps(proof: Proof) -> None:
    """Explicit steps: a = eta_q (h + gamma lambda_q), d likewise, b the product of the couplings, a d > b."""
    a, d, b, mu = sp.symbols("a d b mu", positive=True)
    together = sp.Matrix([[1 - a, b], [1, 1 - d]])  # coupling scaled into one entry
    first = sp.Matrix([[1 - a, b], [0, 1]])
    second = sp.Matrix([[1, 0], [1, 1 - d]])
    in_turn = second * first
    for name, matrix, edge in (
        ("simultaneous", together, (2 - a) * (2 - d) - b),
        ("alternating", in_turn, (2 - a) * (2 - d) + b),
    ):
        polynomial = (matrix - mu * sp.eye(2)).det()
        proof.equal(f"{name} steps: p(1) = a d - b > 0", sp.expand(polynomial.subs(mu, 1)), a * d - b)
        proof.state(f"{name}_edge", sp.Symbol("p_edge"), polynomial.subs(mu, -1), edge)
        proof.step(f"{name} steps are stable for a, d < 2 if and only if this is positive (Jury criterion)", edge)
    x, y = sp.symbols("x y", positive=True)  # 2 - a, 2 - d
    proof.equal("alternating: the product of the multipliers", in_turn.det(), (1 - a) * (1 - d))
    edge = (in_turn + sp.eye(2)).det().subs({a: 2 - x, d: 2 - y})
    proof.sign("alternating: p(-1) > 0 for all a, d < 2", edge, x * y + b, "> 0")
    swapped = first * second
    proof.equal(
        "forward-first and reverse-first have the same multipliers",
        swapped.charpoly(mu).as_expr(),
        in_turn.charpoly(mu).as_expr(),
    )
    values = {a: R(3, 2), d: R(3, 2), b: R(1, 2)}
    proof.exact(
        "alternating steps are stable where simultaneous ones are not (a = d = 3/2, b = 1/2)",
        together.subs(values).eigenvals().keys() == {-R(1, 2) - sp.sqrt(2) / 2, -R(1, 2) + sp.sqrt(2) / 2}
        and in_turn.subs(values).det() == R(1, 4)
        and in_turn.subs(values).trace() == -R(1, 2),
        "multipliers -1/2 -+ 1/sqrt 2 (one below -1) against modulus 1/2",
    )


def _noise(proof: Proof) -> None:
    a, d, u, v = sp.symbols("a d u v", positive=True)
    n_q, n_p = sp.symbols("N_q N_p", positive=True)
    jacobian = sp.Matrix([[-a, u], [v, -d]])
    entries = sp.symbols("C_qq C_qp C_pp")
    covariance = sp.Matrix([[entries[0], entries[1]], [entries[1], entries[2]]])
    balance = jacobian * covariance + covariance * jacobian.T + sp.diag(n_q, n_p)
    solved = sp.solve([balance[0, 0], balance[0, 1], balance[1, 1]], entries, dict=True)[0]
    det = a * d - u * v
    closed = (n_p * (a * (a + d) - u * v) + n_q * v**2) / (2 * (a + d) * det)
    proof.state("noise", sp.Symbol("C_c"), solved[entries[2]], closed)  # Lyapunov equation
    proof.step("stationary variance of c, with J = [[-a, u], [v, -d]]", closed)
    proof.equal("noise N = 2 T W^-1 gives the covariance T Q^-1", _equilibrium_noise(), sp.zeros(2, 2))


def _equilibrium_noise() -> sp.Matrix:
    a, d, u, v, temperature = sp.symbols("a d u v T", positive=True)
    weight = sp.diag(1, u / v)
    jacobian = sp.Matrix([[-a, u], [v, -d]])
    covariance = temperature * (-weight * jacobian).inv()
    return (jacobian * covariance + covariance * jacobian.T + 2 * temperature * weight.inv()).applyfunc(sp.cancel)


def _unequal_probabilities(proof: Proof) -> None:
    """True gradients carry p(y): d delta_y/dt = -eta p_y [...]; two answers, c held."""
    p = sp.Symbol("p", positive=True)
    e, mean = sp.symbols("e m", real=True)
    c_sym = sp.Symbol("c", real=True)
    weights = (p, 1 - p)
    shifts = (mean + (1 - p) * e, mean - p * e)  # deviations with mean 0; e is the difference between the answers
    rate = sum(w**2 * (h * s - g + gamma * lambda_q * (s - c_sym)) for w, s in zip(weights, shifts, strict=True))
    coupling = sp.factor(sp.expand(rate).coeff(e, 1))
    proof.equal(
        "unequal probabilities: the spread drives the mean",
        coupling,
        p * (1 - p) * (2 * p - 1) * (h + gamma * lambda_q),
    )
    proof.equal("and not at equal probabilities", coupling.subs(p, R(1, 2)), sp.Integer(0))
    proof.step(
        "coefficient of the answers' difference in -d dbar / dt, over eta_q, for probabilities p and 1 - p", coupling
    )


def _unstable(proof: Proof) -> None:
    curvature, anchor = sp.Matrix([[1, 2], [2, 5]]), sp.Matrix([[1, 1], [1, R(11, 10)]])
    jacobian = _jacobian(curvature, anchor, sp.diag(1, 10), sp.eye(2)).subs({beta: 1, gamma: 1, eta_q: 1, eta_p: 1})
    x = sp.Symbol("x")
    polynomial = sp.Poly(jacobian.charpoly(x).as_expr(), x)
    expected = sp.Poly(x**4 + R(211, 10) * x**3 + R(879, 10) * x**2 + R(1039, 10) * x - R(3, 10), x)
    positive, real = polynomial.count_roots(0, sp.oo), polynomial.count_roots()
    proof.exact(
        "H and A dense: unstable (H = [[1,2],[2,5]], A = [[1,1],[1,11/10]], Lambda_q = diag(1,10), the rest 1)",
        polynomial == expected and curvature.det() == 1 and anchor.det() == R(1, 10) and positive == 1,
        f"characteristic polynomial {polynomial.as_expr()}: {positive} positive root (Sturm count; its constant term "
        "is negative)",
    )
    proof.exact("the same instance has a complex pair", real == 2, f"{real} of 4 roots are real (Sturm count)")
    low, high = R(28, 10000), R(29, 10000)
    proof.exact(
        "its growth rate is between 0.0028 and 0.0029",
        polynomial.count_roots(low, high) == 1,
        "one root in that interval",
    )
    proof.step("characteristic polynomial of the unstable instance", polynomial.as_expr())


def _numeric(item: Instance, rates: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(J, constant term) of the flow of an instance."""
    pull_q, pull_p = item.gamma * np.diag(item.lam_q), item.beta * np.diag(item.lam_p)
    top = rates[0] * np.hstack([-(item.H + pull_q), pull_q])
    bottom = rates[1] * np.hstack([pull_p, -(pull_p + item.A)])
    return np.vstack([top, bottom]), np.concatenate([rates[0] * item.g, 0 * item.g])


def _dense(proof: Proof) -> None:
    imaginary, highest, flow, lyapunov = 0.0, -np.inf, 0.0, 0.0
    for dense in (False, True):
        for item in instances(30, dense_anchor=dense):
            if dense:  # the other case: dense anchor, diagonal curvature
                item = Instance(
                    np.diag(np.diagonal(item.H)), item.A, item.lam_q, item.lam_p, item.g, item.G, item.beta, item.gamma
                )
            J, force = _numeric(item, (0.7, 1.9))
            eigenvalues = np.linalg.eigvals(J)
            imaginary = max(imaginary, float(np.abs(eigenvalues.imag).max() / np.abs(eigenvalues).max()))
            highest = max(highest, float(eigenvalues.real.max() / np.abs(eigenvalues).max()))
            rest = np.concatenate(item.equilibrium())
            state = [rest - expm(time * J) @ rest for time in (0.3, 0.3 + 1e-4, 0.3 - 1e-4)]
            slope = (state[1] - state[2]) / 2e-4
            flow = max(flow, float(np.abs(slope - (J @ state[0] + force)).max() / np.abs(force).max()))
            noise = np.eye(len(J))
            covariance = solve_continuous_lyapunov(J, -noise)
            lyapunov = max(lyapunov, -float(np.linalg.eigvalsh(0.5 * (covariance + covariance.T)).min()))
    proof.close("all eigenvalues are real", imaginary, 1e-7, "d = 2 to 8; A diagonal and H dense, then the reverse")
    proof.close("and negative", highest, 0.0, "the same instances")
    proof.close(
        "x(t) = x* + exp(J t)(x(0) - x*) solves the flow", flow, 1e-5, "central difference at t = 0.3, step 1e-4"
    )
    proof.close("a stationary covariance exists (Lyapunov)", lyapunov, 0.0, "smallest eigenvalue above 0")

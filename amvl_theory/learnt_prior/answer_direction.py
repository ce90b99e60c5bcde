"""T8 on a checkpoint: where the prior mean lies among the posteriors of a question's options.

A checkpoint shows the posterior mean m* + delta_a of every option a and the prior mean m* + c, but not m*. What can be
measured is the displacement of the prior mean from the option average (uniform over the O options) along an option:

    e_a = g_a - g_o                 g_o = mean over options of the forces g_a
    shift_a = <c - dbar, eps_a> / <eps_a, eps_a>,      eps_a = delta_a - dbar

in any metric, for example Lambda_q. What the theory predicts, mode by mode with fixed variances:

1.  The posterior of every option, also of one that was never the training answer, is taken to answer its own force and
    the prior it stands before: (h + gamma lambda_q) delta_a = g_a + gamma lambda_q c. So
        eps_a = e_a / (h + gamma lambda_q)                     c - dbar = (h c - g_o) / (h + gamma lambda_q)
    and, the common factor cancelling,
        shift_a = <h c - g_o, e_a> / <e_a, e_a>
    m* is gone, and gamma is left only inside c.
2.  The prior is the ridge regression of the training answers' forces (`amortised.py`), h c = t^T g with the weights
    t = Phi (K + rho_eff)^-1 phi of the n training questions, whose own forces are g_j = g_o,j + e_j. So at any question
        h c - g_o = (t^T g_o - g_o) + sum_j t_j e_j
3.  Let answers be drawn from p(a|x), d(x) = sum_a p(a|x) e_a the determined part of the deviation, n_j = e_j - d(x_j)
    label noise, independent between questions. Then
        held out    E (h c - g_o) = (t^T g_o - g_o) + t^T d                        no label noise: inference only
        training    the question itself is among the n, with the weight of its own label, the leverage
                    l_i = phi_i^T (K + rho_eff)^-1 phi_i = T_ii:
                    E [ h c_i - g_o,i | answer y_i ] = (t^T g_o - g_o)_i + t^T d + l_i n_i
    The term l_i n_i is what the prior has memorised of this question's answer. With uniform answers d = 0, n_i = e_{y_i}:
        shift of the training answer   l_i                         + noise of the other questions, mean 0
        shift of another option a      l_i <e_y, e_a> / <e_a, e_a>, on average - l_i / (O - 1) at equal norms
        held-out questions             0
    The contrast, training answer minus mean of the others, is l_i O / (O - 1); the mean of l_i over the training questions
    is df(rho_eff) / n = 1/n sum_j kappa_j / (kappa_j + rho_eff). It is 1 for a prior that memorises whatever gamma is, and
    falls with gamma through rho_eff = rho (1 + gamma lambda_q / h) otherwise.
4.  The term t^T g_o - g_o is what the prior fails to learn of the option average. It does not depend on the labels and so
    cancels in E over them only if the directions e_a are unrelated to it; the expected contrast below leaves it out.

One query by itself (T3: the answers' distribution, no finite data) gives c - dbar = S dbar_p - dbar, dbar_p the mean with
p(a|x): there is nothing to memorise, and the shift is the determined part alone, shrunk.

Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, not_negative, positive, real_array, weight
from amvl_theory.learnt_prior.amortised import AmortisedModel, amortised_equilibrium, effective_ridge


@dataclass(frozen=True, eq=False)
class AnswerDirectionShift:
    """Predicted displacement of the prior mean from the option average, in units of the option's own displacement.

    Attributes:
        training: shift_a (n, O) of the training questions, given their answers' forces.
        training_answer: of the training answer (n,).
        training_others: mean over the other options (n,).
        held_out: shift_a (m, O) of the held-out questions; None if none were given.
        leverage: l_i (n,), the weight of a training question's own label.
        memorised_contrast: training answer minus mean of the others (n,) that the question's own label noise alone causes,
            in expectation over labels drawn from p(a|x).
        mean_leverage: df(rho_eff) / n.
    """

    training: Array
    training_answer: Array
    training_others: Array
    held_out: Array | None
    leverage: Array
    memorised_contrast: Array
    mean_leverage: float


def leverage(model: AmortisedModel, beta: float, gamma: float) -> Array:
    """l_i = phi_i^T (K + rho_eff)^-1 phi_i (n,), 0 to 1: the weight of a question's own label in its prior mean."""
    left, sizes, _ = model.svd
    ridge = float(effective_ridge(model, beta, weight("gamma", gamma)))
    return np.asarray(left**2 @ (sizes**2 / (sizes**2 + ridge)))


def predicted_answer_direction_shift(
    model: AmortisedModel,
    option_forces: ArrayLike,
    answers: ArrayLike,
    beta: float,
    gamma: float,
    *,
    answer_probs: ArrayLike | None = None,
    held_out_features: ArrayLike | None = None,
    held_out_forces: ArrayLike | None = None,
    metric: ArrayLike = 1.0,
) -> AnswerDirectionShift:
    """shift_a = <h c - g_o, e_a> / <e_a, e_a> of training and held-out questions at convergence (T8; the module's steps).

    Assumes: fixed variances, one h and lambda_q for all modes and questions, a posterior that generalises over options, a
    prior linear in the features.

    Args:
        model: features of the n training questions, and constants.
        option_forces: g_a (n, O, d) of every option of the training questions [nats/latent].
        answers: index of each question's training answer (n,).
        beta: weight of the forward KL, above 0.
        gamma: weight of the reverse KL.
        answer_probs: p(a|x) (n, O) from which the labels were drawn, rows summing to 1; uniform if left out.
        held_out_features: (m, p).
        held_out_forces: (m, O', d), together with held_out_features.
        metric: weight of each mode in the products, a number or (d,), for example the posterior precision.

    Raises:
        ValueError: for shapes that disagree, answers that are no options, rows that do not sum to 1, or options that all
            have the same force, whose direction is not defined.
    """
    forces = _option_forces("option_forces", option_forces, model.questions)
    count, options, size = forces.shape
    chosen = np.asarray(answers)
    if chosen.shape != (count,) or chosen.dtype.kind not in "iu" or not ((chosen >= 0) & (chosen < options)).all():
        raise ValueError(f"answers: expected {count} indices from 0 to {options - 1}, received {chosen.tolist()}")
    scale = positive("metric", metric)
    if scale.ndim > 1 or (scale.ndim == 1 and scale.shape != (size,)):
        raise ValueError(f"metric: expected a number or shape ({size},), received shape {scale.shape}")
    rows = np.arange(count)
    fit = amortised_equilibrium(model, forces[rows, chosen], beta, gamma)
    training = _shift("option_forces", forces, model.curvature * fit.contamination, scale)
    answer = training[rows, chosen]
    own = leverage(model, beta, gamma)
    return AnswerDirectionShift(
        training=training,
        training_answer=answer,
        training_others=(training.sum(axis=1) - answer) / (options - 1),
        held_out=_held_out(model, fit.weights, held_out_features, held_out_forces, size, scale),
        leverage=own,
        memorised_contrast=own * _own_contrast(forces, answer_probs, scale),
        mean_leverage=float(own.mean()),
    )


def _own_contrast(forces: Array, answer_probs: ArrayLike | None, metric: Array) -> Array:
    """E over labels a of <n_a, e_a> / |e_a|^2 - mean over b != a of <n_a, e_b> / |e_b|^2, n_a = e_a - d (n,)."""
    count, options, _ = forces.shape
    chance = np.full((count, options), 1.0 / options)
    if answer_probs is not None:
        chance = not_negative("answer_probs", answer_probs)
        if chance.shape != (count, options) or (np.abs(chance.sum(axis=1) - 1.0) > 1e-9).any():
            raise ValueError(
                f"answer_probs: expected shape ({count}, {options}) with rows that sum to 1, received shape {chance.shape}"
            )
    deviation = forces - forces.mean(axis=1, keepdims=True)
    noise = deviation - np.einsum("na,nad->nd", chance, deviation)[:, None]
    along = np.einsum("nad,nbd,d->nab", noise, deviation, np.broadcast_to(metric, forces.shape[2:]))
    along /= np.einsum("nbd,nbd,d->nb", deviation, deviation, np.broadcast_to(metric, forces.shape[2:]))[:, None]
    own = np.einsum("naa->na", along)
    contrast = own - (along.sum(axis=2) - own) / (options - 1)
    return np.asarray((chance * contrast).sum(axis=1))


def _shift(name: str, forces: Array, prior: Array, metric: Array) -> Array:
    """<h c - g_o, e_a> / <e_a, e_a> (n, O), from h c (n, d)."""
    middle = forces.mean(axis=1, keepdims=True)
    deviation = forces - middle
    size = (metric * deviation**2).sum(axis=2)
    if (size <= 1e-24 * (metric * forces**2).sum(axis=2).max(initial=0.0)).any():
        raise ValueError(f"{name}: expected options with different forces, received one at the option average")
    return np.asarray((metric * (prior[:, None] - middle) * deviation).sum(axis=2) / size)


def _held_out(
    model: AmortisedModel,
    weights: Array,
    features: ArrayLike | None,
    forces: ArrayLike | None,
    size: int,
    metric: Array,
) -> Array | None:
    if features is None or forces is None:
        if features is not None or forces is not None:
            missing = "held_out_forces" if forces is None else "held_out_features"
            raise ValueError(f"{missing}: expected both held_out_features and held_out_forces, received one of them")
        return None
    phi = real_array("held_out_features", features)
    if phi.ndim != 2 or phi.shape[1] != model.size:
        raise ValueError(f"held_out_features: expected shape (m, {model.size}), received {phi.shape}")
    fresh = _option_forces("held_out_forces", forces, len(phi))
    if fresh.shape[2] != size:
        raise ValueError(f"held_out_forces: expected {size} modes, received shape {fresh.shape}")
    return _shift("held_out_forces", fresh, model.curvature * phi @ weights, metric)


def _option_forces(name: str, forces: ArrayLike, count: int) -> Array:
    array = real_array(name, forces)
    if array.ndim != 3 or array.shape[0] != count or array.shape[1] < 2:
        raise ValueError(
            f"{name}: expected shape ({count}, options, modes) with 2 options or more, received {array.shape}"
        )
    return array

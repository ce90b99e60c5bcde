"""What a user would write without `amvl_theory`: torch autograd on the stop-gradient losses, batched in one tensor.

The benchmark's opponent, so written to be fast within its means: the fewest tensor operations that still are the real
losses, gradients through `torch.autograd.grad`, updates in place, converged points dropped, step sizes from the exact
eigenvalues of the game (which a user would first have to derive).

One mode, fixed variances, forces and curvature 1 (T3), beta b, gamma y, anchor a = (1 - s)/s:

    loss = -delta + 1/2 delta^2 + b/2 (sg[delta] - c)^2 + y/2 (sg[c] - delta)^2 + a/2 c^2
    J    = [[1 + y, -y], [-b, b + a]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

METHODS = ("gradient descent", "heavy ball", "alternating blocks")


@dataclass(frozen=True)
class Iterated:
    """Contaminations by iteration (N,), iterations of the slowest point, and point-iterations in all."""

    contamination: np.ndarray
    iterations: int
    point_iterations: int


def mode_loss(delta: Tensor, c: Tensor, beta: Tensor, gamma: Tensor, anchor: Tensor) -> Tensor:
    """The stop-gradient loss of every point, summed."""
    forward = (delta.detach() - c).square()
    reverse = (c.detach() - delta).square()
    halves = delta.square() + beta * forward + gamma * reverse + anchor * c.square()
    return (0.5 * halves - delta).sum()


def autograd_equilibria(
    beta: np.ndarray,
    gamma: np.ndarray,
    absorption: np.ndarray,
    *,
    method: str,
    tolerance: float,
    max_steps: int = 100_000,
) -> Iterated:
    """Iterate every point to gradients of at most ``tolerance``.

    "gradient descent": delta and c at once, with each point's optimal step 2 / (l_min + l_max) of J.
    "heavy ball": the same with each point's optimal step and momentum for the spectrum of J, which is real (T7).
    "alternating blocks": delta, then c, each with step 1 / its own curvature, which solves the block exactly.

    Raises:
        RuntimeError: if a point has not arrived after ``max_steps``.
    """
    b, y, s = (torch.from_numpy(np.ascontiguousarray(array)) for array in (beta, gamma, absorption))
    rates = _rates(b, y, (1 - s) / s, method)
    constants = torch.stack([b, y, (1 - s) / s, *rates])
    state = torch.zeros(2, b.numel(), dtype=torch.float64)
    speed = torch.zeros_like(state)
    where, result = torch.arange(b.numel()), torch.empty(b.numel(), dtype=torch.float64)
    point_iterations = 0
    for iteration in range(1, max_steps + 1):
        point_iterations += where.numel()
        slope = _iterate(state, speed, constants, method)
        if iteration % 16:
            continue
        left = slope.abs().amax(0) > tolerance
        result[where[~left]] = state[1, ~left]
        if not left.any():
            return Iterated(result.numpy(), iteration, point_iterations)
        if left.float().mean() < 0.8:  # dropping costs a copy: do it when it pays
            where, state, speed, constants = where[left], state[:, left], speed[:, left], constants[:, left]
    raise RuntimeError(f"{method}: {where.numel()} points have not converged after {max_steps} iterations")


def _iterate(state: Tensor, speed: Tensor, constants: Tensor, method: str) -> Tensor:
    """One iteration in place; returns the gradients (2, n) that it followed."""
    b, y, a, first, second = constants
    delta, c = state[0].requires_grad_(), state[1].requires_grad_()
    if method == "alternating blocks":
        (to_delta,) = torch.autograd.grad(mode_loss(delta, c, b, y, a), (delta,))
        with torch.no_grad():
            state[0].sub_(first * to_delta)
        delta = state[0].detach()
        (to_c,) = torch.autograd.grad(mode_loss(delta, c, b, y, a), (c,))
        with torch.no_grad():
            state[1].sub_(second * to_c)
        return torch.stack([to_delta, to_c])
    slope = torch.stack(torch.autograd.grad(mode_loss(delta, c, b, y, a), (delta, c)))
    with torch.no_grad():
        if method == "heavy ball":
            speed.mul_(second).sub_(first * slope)
            state.add_(speed)
        else:
            state.sub_(first * slope)
    return slope


def _rates(b: Tensor, y: Tensor, a: Tensor, method: str) -> tuple[Tensor, Tensor]:
    if method == "alternating blocks":
        return 1 / (1 + y), 1 / (b + a)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, received {method!r}")
    half = 0.5 * (1 + y + b + a)
    low_times_high = (1 + y) * (b + a) - y * b
    high = half + (half.square() - low_times_high).clamp(min=0).sqrt()
    low = low_times_high / high
    if method == "gradient descent":
        return 2 / (low + high), torch.zeros_like(b)
    roots = low.sqrt() + high.sqrt()
    return 4 / roots.square(), ((high.sqrt() - low.sqrt()) / roots).square()


def autograd_game_steps(game: Any, *, beta: float, gamma: float, steps: int, eta: float) -> tuple[Tensor, ...]:
    """Gradient descent on the full game (means and shared log-variances free), all instances in one tensor.

    ``game`` is an `amvl_theory.game.game.GaussianGame` with equally likely answers; starts at rest with unit variances.
    Returns (delta (N, K, d), log v (N, 1, d), c (N, d), log u (N, d)).
    """
    force, H, anchor = (torch.from_numpy(array.copy()) for array in (game.g, game.H, game.A))
    count, answers, size = game.shape
    dense = H.ndim == 3
    diagonal = (torch.diagonal(H, dim1=1, dim2=2) if dense else H).contiguous()
    shapes = ((count, answers, size), (count, 1, size), (count, size), (count, size))
    parts = tuple(torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    delta, rho, c, r = parts
    for _ in range(steps):
        v, u = rho.exp(), r.exp()[:, None]
        pull = torch.bmm(delta, H) if dense else H[:, None] * delta
        # Means over answers; everything that all answers share is computed once per instance.
        answer = (delta * (0.5 * pull - force)).sum() / answers + 0.5 * (diagonal[:, None] * v).sum()
        forward = _kl(delta.detach(), rho.detach(), v.detach(), c[:, None], r[:, None], u) / answers
        reverse = _kl(c[:, None].detach(), r[:, None].detach(), u.detach(), delta, rho, v) / answers
        loss = answer + beta * forward + gamma * reverse + 0.5 * (anchor * c.square()).sum()
        slopes = torch.autograd.grad(loss, parts)
        with torch.no_grad():
            for part, slope in zip(parts, slopes, strict=True):
                part.sub_(slope, alpha=eta)
    return tuple(part.detach() for part in parts)


def _kl(mean_a: Tensor, log_a: Tensor, var_a: Tensor, mean_b: Tensor, log_b: Tensor, var_b: Tensor) -> Tensor:
    """Sum over instances, answers and modes of KL(a || b) of diagonal Gaussians."""
    square = (mean_a - mean_b).square()
    answers = square.shape[1]
    shared = answers * (log_b - log_a + var_a / var_b - 1).sum()
    return 0.5 * (shared + (square / var_b).sum())

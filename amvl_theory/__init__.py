"""The Gaussian mean-leakage model of Asymmetric Mutual Variational Learning, proven, in closed form and simulated.

Read README.md in this folder first: the equations, the nine statements in words, and what they mean for beta and gamma.
Needs numpy, scipy and sympy only; nothing here imports torch or `amvl_model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amvl_theory.amortised import (
    AmortisedModel,
    ForceStatistics,
    amortised_equilibrium,
    excess_risk,
    noise_contamination,
    optimal_gamma,
    optimal_ridge,
    protection,
)
from amvl_theory.answer_direction import predicted_answer_direction_shift
from amvl_theory.dynamics import (
    compare_orders,
    scheduled_trajectory,
    spread_trajectory,
    trajectory,
    trajectory_per_answer,
)
from amvl_theory.finite_sample import average_risk, ridgeless_noise
from amvl_theory.game import GameState, GaussianGame, fixed_state, initial_state
from amvl_theory.leakage import MeanLeakageModel
from amvl_theory.nonlinear import (
    SaturatingGame,
    saturating_equilibrium,
    saturating_error_map,
    saturating_spread,
    valid_range,
)
from amvl_theory.nonlinear_mixture import MixtureGame, mixture_equilibrium, mixture_error_map, mixture_valid_range
from amvl_theory.prior_training import amortised_trajectory, compare_protections, early_stopping, training_risk
from amvl_theory.schedules import Schedule, piecewise_constant
from amvl_theory.simulate import Simulation, equilibrium_by_simulation, simulate
from amvl_theory.stability import stability, stationary_covariance, symmetriser

if TYPE_CHECKING:
    from amvl_theory.theorems import prove_all

__all__ = [
    "AmortisedModel",
    "ForceStatistics",
    "GameState",
    "GaussianGame",
    "MeanLeakageModel",
    "MixtureGame",
    "SaturatingGame",
    "Schedule",
    "Simulation",
    "amortised_equilibrium",
    "amortised_trajectory",
    "average_risk",
    "compare_orders",
    "compare_protections",
    "early_stopping",
    "equilibrium_by_simulation",
    "excess_risk",
    "fixed_state",
    "initial_state",
    "mixture_equilibrium",
    "mixture_error_map",
    "mixture_valid_range",
    "noise_contamination",
    "optimal_gamma",
    "optimal_ridge",
    "piecewise_constant",
    "predicted_answer_direction_shift",
    "protection",
    "prove_all",
    "ridgeless_noise",
    "saturating_equilibrium",
    "saturating_error_map",
    "saturating_spread",
    "scheduled_trajectory",
    "simulate",
    "spread_trajectory",
    "stability",
    "stationary_covariance",
    "symmetriser",
    "training_risk",
    "trajectory",
    "trajectory_per_answer",
    "valid_range",
]


def __getattr__(name: str) -> Any:
    """`prove_all` on first use: the proofs need sympy, which takes longer to import than everything else here."""
    if name == "prove_all":
        from amvl_theory.theorems import prove_all

        return prove_all
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

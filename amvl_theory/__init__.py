"""The Gaussian mean-leakage model of Asymmetric Mutual Variational Learning, proven, in closed form and simulated.

Read README.md in this folder first: the equations, the twelve statements in words, and what they mean for beta and gamma.
Needs numpy, scipy and sympy only; nothing here imports torch or `amvl_model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amvl_theory.dynamics.in_training.coadaptation import (
    CoadaptedAsymptotics,
    CoadaptedTrajectory,
    Start,
    XRoute,
    coadapted_asymptotics,
    coadapted_rest,
    coadapted_trajectory,
    edge_of_stability,
    fading_leak,
    scale_charge,
)
from amvl_theory.dynamics.in_training.ensembles import (
    Ensemble,
    EnsembleRun,
    run_answers,
    run_ensemble,
    run_softmax,
    run_widening,
)
from amvl_theory.dynamics.in_training.random_start import LeastSpread, least_spread, random_start_spread
from amvl_theory.dynamics.in_training.reading import (
    ReadingModel,
    amplitude_at_product,
    answer_loss_bound,
    answer_modes,
    collapse_probability,
    critical_product,
    critical_ratio,
    fastest_reading,
    holding_weight,
    holding_weight_on_path,
    initial_amplitude,
    momentum_rate,
    reading_exponent,
    reading_rate,
    reading_threshold,
    threshold_variance,
)
from amvl_theory.dynamics.in_training.starving import (
    StarvingOutcome,
    accuracy_with_prior_latents,
    fall_time,
    late_leak,
    prior_latent_accuracy,
    protecting_weight,
    rest_gain,
    starved_share,
    starving_outcome,
    tolerated_leak,
)
from amvl_theory.dynamics.in_training.widening import (
    HeadRates,
    Widening,
    WideningLimit,
    adam_crossover,
    adam_effective_weight,
    widening,
    widening_at_fixed_gap,
    widening_limit,
    widening_rate,
)
from amvl_theory.dynamics.schedules import Schedule, piecewise_constant
from amvl_theory.dynamics.stability import stability, stationary_covariance, symmetriser
from amvl_theory.dynamics.trajectories import (
    compare_orders,
    scheduled_trajectory,
    spread_trajectory,
    trajectory,
    trajectory_per_answer,
)
from amvl_theory.equilibria.counter_examples import COUNTER_EXAMPLES, CounterExample
from amvl_theory.equilibria.fixed_variances import (
    Equilibrium,
    effective_anchor,
    elbo_equilibrium,
    equilibrium,
    equivalent_gamma,
    frozen_prior_response,
    leaked_information,
    mode_absorption,
    mode_contamination,
    relative_contamination,
    spread,
)
from amvl_theory.equilibria.free_contamination import (
    Roots,
    anchor_factor,
    free_contamination,
    self_consistent_contamination,
)
from amvl_theory.equilibria.free_spread import (
    EQUAL_WEIGHT_CROSSOVER,
    Spread,
    critical_weight,
    equal_weight_crossover,
    exact_leaked_information,
    free_spread,
    self_consistent_spread,
)
from amvl_theory.equilibria.measured_response import (
    AnswerPosteriors,
    NoRestPointError,
    fixed_precision_posteriors,
    held_prior_posteriors,
    moving_prior_posteriors,
)
from amvl_theory.equilibria.per_answer import (
    ErrorMap,
    PerAnswer,
    closed_form_error_map,
    per_answer_equilibrium,
    three_answers,
    two_answers,
)
from amvl_theory.equilibria.several_modes import (
    SparseSpread,
    collapse_threshold,
    elbo_spread,
    local_elbo_threshold,
    sparse_spread,
)
from amvl_theory.equilibria.sweep import sweep_contamination
from amvl_theory.game.game import GameState, GaussianGame, fixed_state, initial_state
from amvl_theory.game.simulate import Simulation, equilibrium_by_simulation, simulate
from amvl_theory.gaussian import (
    InformationBounds,
    Moments,
    entropy,
    gaussian_channel_information,
    jeffreys_diag,
    kl_diag,
    kl_full,
    matched_variance,
    mixture_information,
    moment_match,
    pairwise_information_bounds,
)
from amvl_theory.learnt_prior.amortised import (
    AmortisedModel,
    ForceStatistics,
    amortised_equilibrium,
    excess_risk,
    noise_contamination,
    optimal_gamma,
    optimal_ridge,
    protection,
)
from amvl_theory.learnt_prior.answer_direction import predicted_answer_direction_shift
from amvl_theory.learnt_prior.finite_sample import average_risk, ridgeless_noise
from amvl_theory.learnt_prior.training import amortised_trajectory, compare_protections, early_stopping, training_risk
from amvl_theory.model import MeanLeakageModel
from amvl_theory.nonlinear.mixture import MixtureGame, mixture_equilibrium, mixture_error_map, mixture_valid_range
from amvl_theory.nonlinear.saturation import (
    SaturatingGame,
    saturating_equilibrium,
    saturating_error_map,
    saturating_spread,
    valid_range,
)

if TYPE_CHECKING:
    from amvl_theory.theorems import prove_all

__all__ = [
    "COUNTER_EXAMPLES",
    "EQUAL_WEIGHT_CROSSOVER",
    "AmortisedModel",
    "AnswerPosteriors",
    "CoadaptedAsymptotics",
    "CoadaptedTrajectory",
    "CounterExample",
    "Ensemble",
    "EnsembleRun",
    "Equilibrium",
    "ErrorMap",
    "ForceStatistics",
    "GameState",
    "GaussianGame",
    "HeadRates",
    "InformationBounds",
    "LeastSpread",
    "MeanLeakageModel",
    "MixtureGame",
    "Moments",
    "NoRestPointError",
    "PerAnswer",
    "ReadingModel",
    "Roots",
    "SaturatingGame",
    "Schedule",
    "Simulation",
    "SparseSpread",
    "Spread",
    "Start",
    "StarvingOutcome",
    "Widening",
    "WideningLimit",
    "XRoute",
    "accuracy_with_prior_latents",
    "adam_crossover",
    "adam_effective_weight",
    "amortised_equilibrium",
    "amortised_trajectory",
    "amplitude_at_product",
    "anchor_factor",
    "answer_loss_bound",
    "answer_modes",
    "average_risk",
    "closed_form_error_map",
    "coadapted_asymptotics",
    "coadapted_rest",
    "coadapted_trajectory",
    "collapse_probability",
    "collapse_threshold",
    "compare_orders",
    "compare_protections",
    "critical_product",
    "critical_ratio",
    "critical_weight",
    "early_stopping",
    "edge_of_stability",
    "effective_anchor",
    "elbo_equilibrium",
    "elbo_spread",
    "entropy",
    "equal_weight_crossover",
    "equilibrium",
    "equilibrium_by_simulation",
    "equivalent_gamma",
    "exact_leaked_information",
    "excess_risk",
    "fading_leak",
    "fall_time",
    "fastest_reading",
    "fixed_precision_posteriors",
    "fixed_state",
    "free_contamination",
    "free_spread",
    "frozen_prior_response",
    "gaussian_channel_information",
    "held_prior_posteriors",
    "holding_weight",
    "holding_weight_on_path",
    "initial_amplitude",
    "initial_state",
    "jeffreys_diag",
    "kl_diag",
    "kl_full",
    "late_leak",
    "leaked_information",
    "least_spread",
    "local_elbo_threshold",
    "matched_variance",
    "mixture_equilibrium",
    "mixture_error_map",
    "mixture_information",
    "mixture_valid_range",
    "mode_absorption",
    "mode_contamination",
    "moment_match",
    "momentum_rate",
    "moving_prior_posteriors",
    "noise_contamination",
    "optimal_gamma",
    "optimal_ridge",
    "pairwise_information_bounds",
    "per_answer_equilibrium",
    "piecewise_constant",
    "predicted_answer_direction_shift",
    "prior_latent_accuracy",
    "protecting_weight",
    "protection",
    "prove_all",
    "random_start_spread",
    "reading_exponent",
    "reading_rate",
    "reading_threshold",
    "relative_contamination",
    "rest_gain",
    "ridgeless_noise",
    "run_answers",
    "run_ensemble",
    "run_softmax",
    "run_widening",
    "saturating_equilibrium",
    "saturating_error_map",
    "saturating_spread",
    "scale_charge",
    "scheduled_trajectory",
    "self_consistent_contamination",
    "self_consistent_spread",
    "simulate",
    "sparse_spread",
    "spread",
    "spread_trajectory",
    "stability",
    "starved_share",
    "starving_outcome",
    "stationary_covariance",
    "sweep_contamination",
    "symmetriser",
    "three_answers",
    "threshold_variance",
    "tolerated_leak",
    "training_risk",
    "trajectory",
    "trajectory_per_answer",
    "two_answers",
    "valid_range",
    "widening",
    "widening_at_fixed_gap",
    "widening_limit",
    "widening_rate",
]


def __getattr__(name: str) -> Any:
    """`prove_all` on first use: the proofs need sympy, which takes longer to import than everything else here."""
    if name == "prove_all":
        from amvl_theory.theorems import prove_all

        return prove_all
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

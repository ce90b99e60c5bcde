"""What a checkpoint's latents carry: leaked answer information, prior contamination, and their causal effect.

    leakage          leaked information and answer sensitivity of given posteriors (numpy)
    contamination    both on a checkpoint, with KLs, train-inference gap and spreads
    interventions    answers with latents zeroed, shuffled, noised

Diagnostics read a model; they never change it.
"""

from amvl_model.diagnostics.contamination import (
    ContaminationReport,
    OptionPosteriors,
    contamination_report,
    option_posteriors,
)
from amvl_model.diagnostics.interventions import InterventionReport, derangement, intervention_report
from amvl_model.diagnostics.leakage import answer_sensitivity, leaked_information, leaked_information_batch

__all__ = [
    "ContaminationReport",
    "InterventionReport",
    "OptionPosteriors",
    "answer_sensitivity",
    "contamination_report",
    "derangement",
    "intervention_report",
    "leaked_information",
    "leaked_information_batch",
    "option_posteriors",
]

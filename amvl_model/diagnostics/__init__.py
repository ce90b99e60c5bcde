"""What a checkpoint's latents carry: leaked answer information, prior contamination, and their causal effect.

    leakage          leaked information and answer sensitivity of given posteriors (numpy)
    contamination    both on a checkpoint, with KLs, train-inference gap and spreads
    answer_direction where the prior mean lies among the options' posteriors, training against held-out questions
    slots            leakage, KLs and spreads slot by slot and task by task
    cross_modal      how much of each figure goes through the image and how much through the text
    stability        answers and latents over samples, changed pictures and text, and between slots
    interventions    answers with latents zeroed, shuffled, noised
    mediation        answers with another option's posterior, and with single slots knocked out
    linear_response  answer forces, curvature, precisions and anchor, as the arrays that the theory's model takes
    relevance        relevance maps of latents and answer over picture tokens and words (drawn by relevance_figures)

Diagnostics read a model; they never change it.
"""

from amvl_model.diagnostics.answer_direction import (
    AnswerDirectionReport,
    answer_direction_report,
    answer_direction_shift,
    measure_answer_direction,
)
from amvl_model.diagnostics.contamination import (
    ContaminationReport,
    OptionPosteriors,
    contamination_report,
    option_posteriors,
)
from amvl_model.diagnostics.cross_modal import CrossModalReport, measure_cross_modal
from amvl_model.diagnostics.interventions import InterventionReport, derangement, intervention_report
from amvl_model.diagnostics.leakage import answer_sensitivity, leaked_information, leaked_information_batch
from amvl_model.diagnostics.linear_response import LinearResponse, LinearResponseReport, measure_linear_response
from amvl_model.diagnostics.mediation import MediationReport, measure_mediation
from amvl_model.diagnostics.relevance import RelevanceMap, RelevanceReport, measure_relevance
from amvl_model.diagnostics.slots import SlotReport, measure_slots, slot_report
from amvl_model.diagnostics.stability import StabilityReport, measure_stability

__all__ = [
    "AnswerDirectionReport",
    "ContaminationReport",
    "CrossModalReport",
    "InterventionReport",
    "LinearResponse",
    "LinearResponseReport",
    "MediationReport",
    "OptionPosteriors",
    "RelevanceMap",
    "RelevanceReport",
    "SlotReport",
    "StabilityReport",
    "answer_direction_report",
    "answer_direction_shift",
    "answer_sensitivity",
    "contamination_report",
    "derangement",
    "intervention_report",
    "leaked_information",
    "leaked_information_batch",
    "measure_answer_direction",
    "measure_cross_modal",
    "measure_linear_response",
    "measure_mediation",
    "measure_relevance",
    "measure_slots",
    "measure_stability",
    "option_posteriors",
    "slot_report",
]

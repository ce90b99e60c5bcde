"""Scoring: which option a reply chooses, and accuracies with their intervals (imports neither torch nor pandas)."""

from amvl_model.evaluation.parsing import parse_choice
from amvl_model.results.statistics import (
    AccuracyReport,
    Interval,
    TaskAccuracy,
    accuracy_report,
    bootstrap_mean,
    paired_difference,
)

__all__ = [
    "AccuracyReport",
    "Interval",
    "TaskAccuracy",
    "accuracy_report",
    "bootstrap_mean",
    "paired_difference",
    "parse_choice",
]

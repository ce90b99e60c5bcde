"""Synthetic BLINK: the 14 tasks of BLINK, drawn procedurally at 112 x 112 pixels in BLINK's own record schema."""

from amvl_model.data.synthetic.canvas import IMAGE_SIZE
from amvl_model.data.synthetic.generator import (
    DEFAULT_DIFFICULTY,
    SOURCE,
    SPLITS,
    TASKS,
    SyntheticBlink,
    answer_distribution,
    clean_answer,
    synthetic_blink,
    synthetic_question,
)
from amvl_model.data.synthetic.shifted import SHIFTED_DIFFICULTY, SHIFTED_SOURCE, Photometry, ShiftedBlink

__all__ = [
    "DEFAULT_DIFFICULTY",
    "IMAGE_SIZE",
    "SHIFTED_DIFFICULTY",
    "SHIFTED_SOURCE",
    "SOURCE",
    "SPLITS",
    "TASKS",
    "Photometry",
    "ShiftedBlink",
    "SyntheticBlink",
    "answer_distribution",
    "clean_answer",
    "synthetic_blink",
    "synthetic_question",
]

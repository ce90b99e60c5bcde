"""Synthetic BLINK: the 14 tasks of BLINK, drawn procedurally at 112 x 112 pixels in BLINK's own record schema.

`amvl_model.data.synthetic.multihop` adds tasks that take several serial steps.
"""

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
from amvl_model.data.synthetic.multihop import (
    MULTIHOP_SOURCE,
    MULTIHOP_TASKS,
    SHIFTED_MULTIHOP_SOURCE,
    MultihopQuestions,
    ShiftedMultihop,
    multihop_question,
    multihop_record,
)
from amvl_model.data.synthetic.shifted import SHIFTED_DIFFICULTY, SHIFTED_SOURCE, Photometry, ShiftedBlink

__all__ = [
    "DEFAULT_DIFFICULTY",
    "IMAGE_SIZE",
    "MULTIHOP_SOURCE",
    "MULTIHOP_TASKS",
    "SHIFTED_DIFFICULTY",
    "SHIFTED_MULTIHOP_SOURCE",
    "SHIFTED_SOURCE",
    "SOURCE",
    "SPLITS",
    "TASKS",
    "MultihopQuestions",
    "Photometry",
    "ShiftedBlink",
    "ShiftedMultihop",
    "SyntheticBlink",
    "answer_distribution",
    "clean_answer",
    "multihop_question",
    "multihop_record",
    "synthetic_blink",
    "synthetic_question",
]

"""Multi-hop questions: tasks whose answer takes more serial steps than a small model has layers.

spec         what a task is: scene, transition table, walk, style
cells, dots  pointer chasing: a strip of coloured cells, one row of cells per hop, dots with arrows
grid, bars   other serial steps: a walk between walls, nested comparison
generator    records and data sets by (task, split, seed, index); the set out of distribution
"""

from amvl_model.data.synthetic.multihop.generator import (
    DEFAULT_HOPS,
    DEFAULT_OBJECTS,
    MULTIHOP_SOURCE,
    MULTIHOP_TASKS,
    QUESTIONS_PER_SCENE,
    SHIFTED_HOPS,
    SHIFTED_MULTIHOP_SOURCE,
    SHIFTED_OBJECTS,
    MultihopQuestions,
    ShiftedMultihop,
    hop_weights,
    multihop_question,
    multihop_record,
    multihop_task,
)

__all__ = [
    "DEFAULT_HOPS",
    "DEFAULT_OBJECTS",
    "MULTIHOP_SOURCE",
    "MULTIHOP_TASKS",
    "QUESTIONS_PER_SCENE",
    "SHIFTED_HOPS",
    "SHIFTED_MULTIHOP_SOURCE",
    "SHIFTED_OBJECTS",
    "MultihopQuestions",
    "ShiftedMultihop",
    "hop_weights",
    "multihop_question",
    "multihop_record",
    "multihop_task",
]

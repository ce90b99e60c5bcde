"""The declared studies: which settings differ between cells. No torch here.

study         what a study is
laboratory    multi-hop questions, whose answers need latents
noisy_labels  wrong labels on easy questions
"""

from amvl_model.studies.declared.laboratory import LABORATORY, MULTIHOP_BASES
from amvl_model.studies.declared.noisy_labels import EASY_TASKS, GAMMA_GRID, LONG, NOISY_LABELS
from amvl_model.studies.declared.study import Study

STUDIES = {study.name: study for study in (*LABORATORY, *NOISY_LABELS)}

__all__ = ["EASY_TASKS", "GAMMA_GRID", "LONG", "MULTIHOP_BASES", "STUDIES", "Study"]

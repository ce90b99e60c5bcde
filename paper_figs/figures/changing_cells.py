"""Another task without a warm-up, one map for each hop: what each objective comes to, step by step."""

from __future__ import annotations

from paper_figs.build import Drawn
from paper_figs.figures.cold_start import draw_training
from paper_figs.sources import Sources

TITLE = "one map a hop, no warm-up: accuracy with prior and posterior latents, and leaked information, in training"
STUDY = "laboratory-tasks"
CELLS = tuple(f"{name},Changing_Cells" for name in ("sft", "prior", "ntp", "ntp+fwd", "elbo", "amvl"))
"""Those shown."""


def draw(sources: Sources) -> Drawn:
    """A column per objective, a line per seed."""
    return draw_training(sources, STUDY, CELLS)

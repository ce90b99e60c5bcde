"""Leaked information against held-out answer NLL, and against what the latents are worth, over beta and gamma."""

from __future__ import annotations

from amvl_model.studies import pareto
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import PARETO
from paper_figs.sources import Sources
from paper_figs.style import PAGE

TITLE = "leaked information against answer NLL and against the worth of the latents, over beta and gamma"


def draw(sources: Sources) -> Drawn:
    """The figure of the study pareto at the size of the page."""
    results = sources.study("pareto", PARETO)
    if not results:
        raise NothingToDrawError
    return Drawn(pareto.draw(results, width=PAGE, scale=1.0))
